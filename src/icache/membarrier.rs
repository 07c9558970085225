//! Linux `membarrier`: an instruction-synchronising barrier on every core that runs a thread of this process.
//!
//! The private expedited form has to be registered; before kernel 4.16, and in some sandboxes, it is not there. A
//! process then goes without: a thread that receives an address by synchronising means, and branches to it, has taken
//! an interrupt, a system call or a context synchronisation of its own on nearly every path, but not on all.

use crate::sync::OnceLock;

const QUERY: libc::c_long = 0;
const SYNC_CORE: libc::c_long = 1 << 5;
const REGISTER_SYNC_CORE: libc::c_long = 1 << 6;

fn membarrier(command: libc::c_long) -> libc::c_long {
    // SAFETY: touches no memory of the process.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) }
}

pub(super) fn sync_cores() {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    let registered = REGISTERED.get_or_init(|| {
        let known = membarrier(QUERY);
        known > 0 && known & SYNC_CORE != 0 && membarrier(REGISTER_SYNC_CORE) == 0
    });
    if *registered {
        membarrier(SYNC_CORE);
    }
}
