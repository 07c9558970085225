//! The calls of the process's unwinder.

use super::eh_frame::Frames;

// Of whichever unwinder the standard library is linked with.
unsafe extern "C" {
    fn __register_frame(begin: *const usize);
    fn __deregister_frame(begin: *const usize);
}

/// Frames that the unwinder knows, each FDE by itself.
pub(super) struct Registered(Frames);

impl Registered {
    pub(super) fn new(frames: Frames) -> Self {
        for entry in frames.entries() {
            // SAFETY: an FDE whose CIE stands before it, with a zero behind it: what libgcc takes
            // for a list of one and LLVM's libunwind for an FDE. `relocate` has checked both, and
            // they stay where they are until deregistered.
            unsafe { __register_frame(entry) };
        }
        Self(frames)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        for entry in self.0.entries() {
            // SAFETY: registered by `new`, and deregistered once. No thread is on its way through
            // the function, so none is reading the entry: this comes when no guard is left, and
            // without guards whoever drops a block knows that nobody runs it.
            unsafe { __deregister_frame(entry) };
        }
    }
}

/// `__register_frame_table` of a libgcc that keeps lists.
#[derive(Clone, Copy)]
pub(super) struct RegisterTable(Register);

type Register = unsafe extern "C" fn(*const usize);

/// A table of frames, registered as one.
pub(super) struct Table(Vec<usize>);

impl Table {
    /// Registers the frames together; `None` if there are none.
    ///
    /// # Safety
    /// - The frames outlive what is returned.
    pub(super) unsafe fn new<'f>(register: RegisterTable, frames: impl Iterator<Item = &'f Frames>) -> Option<Self> {
        let mut table: Vec<usize> = frames.flat_map(Frames::entries).map(<*const usize>::expose_provenance).collect();
        if table.is_empty() {
            return None;
        }
        table.push(0);
        // SAFETY: addresses of FDEs as in `Registered::new`, ended by a null; they stay where they
        // are until deregistered.
        unsafe { (register.0)(table.as_ptr()) };
        Some(Self(table))
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: registered by `new`, and deregistered once. The table itself is read under the
        // unwinder's lock alone; what a thread on its way through a function reads are the frames,
        // which stay.
        unsafe { __deregister_frame(self.0.as_ptr()) };
    }
}

/// How to register tables, if the unwinder is a libgcc that keeps what is registered in lists: all
/// before 13.
///
/// There is no version to ask for. But to those a caller can give the memory that the list is made
/// of (`__register_frame_info`), and in that the address of what was registered before appears as
/// what comes next. A newer libgcc, which has a tree elsewhere, does not write it; other unwinders
/// do not have the call. Should another thread register or unwind just now, nothing is found: then
/// functions are registered each by itself, slower but as right.
pub(super) fn list_of_tables() -> Option<RegisterTable> {
    // Deregistration looks at the first four bytes of a table, which is the low half of an address
    // here only.
    if cfg!(target_endian = "big") {
        return None;
    }
    (0..3).find_map(|_| probe())
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn probe() -> Option<RegisterTable> {
    None
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn probe() -> Option<RegisterTable> {
    use super::eh_frame;
    use std::ffi::CStr;

    type RegisterInfo = unsafe extern "C" fn(*const usize, *mut usize);
    type DeregisterInfo = unsafe extern "C" fn(*const usize) -> *mut usize;
    /// Words of libgcc's `struct object`, of which there are eight at the most, and more.
    const OBJECT: usize = 64;
    /// A CIE without instructions, and an FDE for one byte.
    fn frame() -> Vec<u8> {
        let cie = [0_u32.to_ne_bytes().as_slice(), &[1, 0, 1, 0x78, 0]].concat();
        let distance = 4 + cie.len() as u32 + 4;
        let fde = [distance.to_ne_bytes().as_slice(), &0_usize.to_ne_bytes(), &1_usize.to_ne_bytes()].concat();
        let entry = |body: Vec<u8>| [(body.len() as u32).to_ne_bytes().to_vec(), body].concat();
        [entry(cie), entry(fde)].concat()
    }
    // A process may have two unwinders, another one that it uses beside a libgcc that some library
    // brought along.
    let used = used_unwinder()?;
    let find = |name: &CStr| {
        // SAFETY: a C string; the symbol is looked for in what is loaded.
        let at = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
        (!at.is_null() && home(at).is_some_and(|(base, _)| base == used)).then_some(at)
    };
    let (register, deregister, table) =
        (find(c"__register_frame_info")?, find(c"__deregister_frame_info")?, find(c"__register_frame_table")?);
    // SAFETY: libgcc's function of this name, whose type never changed.
    let register = unsafe { std::mem::transmute::<*mut libc::c_void, RegisterInfo>(register) };
    // SAFETY: as above.
    let deregister = unsafe { std::mem::transmute::<*mut libc::c_void, DeregisterInfo>(deregister) };
    // SAFETY: as above.
    let table = RegisterTable(unsafe { std::mem::transmute::<*mut libc::c_void, Register>(table) });

    let mut objects = vec![0_usize; 2 * OBJECT];
    let (first, second) = (objects.as_mut_ptr(), objects.as_mut_ptr().wrapping_add(OBJECT));
    // For bytes of no code.
    let frames = [first, second].map(|at| eh_frame::relocate(&frame(), at.addr(), 1).ok());
    let [Some(before), Some(after)] = frames else { return None };
    let (before, after) = (before.entries().next()?, after.entries().next()?);
    // SAFETY: an FDE as in `Registered::new`, and memory for an object, both until deregistered
    // below.
    unsafe { register(before, first) };
    // SAFETY: as above.
    unsafe { register(after, second) };
    // SAFETY: the object registered above; libgcc writes to it under its lock, or not any more.
    let linked = (0..OBJECT).any(|word| unsafe { second.wrapping_add(word).read_volatile() } == first.addr());
    // SAFETY: registered above.
    unsafe { deregister(after) };
    // SAFETY: as above.
    unsafe { deregister(before) };
    linked.then_some(table)
}

/// Has the unwinder do now what it would do in its next search.
///
/// A libgcc that keeps lists sorts what is new in the first search after its registration, and
/// allocates for that. If that search is a profiler's, in a signal handler that interrupted
/// `malloc`, it never ends. Nothing has the address that is looked for, so all that is new is gone
/// through.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) fn search() {
    unsafe extern "C" {
        fn _Unwind_Find_FDE(pc: *const u8, bases: *mut [usize; 3]) -> *const u8;
    }
    let mut bases = [0; 3];
    // SAFETY: it writes the three addresses of its `struct dwarf_eh_bases`, if it finds anything.
    unsafe { _Unwind_Find_FDE(std::ptr::without_provenance(1), &raw mut bases) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn search() {}

/// This thread takes no signals until it is dropped, but those that a fault of its own raises.
///
/// The unwinder holds locks while it registers and deregisters. A signal handler that walks the
/// stack of the thread that holds them would wait for them for ever.
pub(super) struct NoSignals(Option<libc::sigset_t>);

impl NoSignals {
    pub(super) fn new() -> Self {
        let (mut all, mut old) = (std::mem::MaybeUninit::uninit(), std::mem::MaybeUninit::uninit());
        // SAFETY: the set is valid for the call to write to.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        for fault in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGABRT] {
            // SAFETY: a set that was filled.
            unsafe { libc::sigdelset(all.as_mut_ptr(), fault) };
        }
        // SAFETY: a set that was filled, and one to write to.
        let blocked = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), old.as_mut_ptr()) } == 0;
        // SAFETY: the call has written it.
        Self(blocked.then(|| unsafe { old.assume_init() }))
    }
}

impl Drop for NoSignals {
    fn drop(&mut self) {
        if let Some(old) = &self.0 {
            // SAFETY: the set that this thread had before; nothing is asked for back.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, old, std::ptr::null_mut()) };
        }
    }
}

/// Where the object lies in memory whose `__register_frame` this program calls.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn used_unwinder() -> Option<usize> {
    let (base, defined) = home(__register_frame as *const libc::c_void)?;
    if defined {
        return Some(base);
    }
    // The address is that of a jump into it, in a program that is loaded at a fixed place: what
    // comes behind the program in the order of lookup is where that leads.
    // SAFETY: a C string; the symbol is looked for in what is loaded.
    let at = unsafe { libc::dlsym(libc::RTLD_NEXT, c"__register_frame".as_ptr()) };
    home(at).map(|(base, _)| base)
}

/// Where the object lies in memory that an address belongs to, and whether the nearest symbol is
/// defined there.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn home(at: *const libc::c_void) -> Option<(usize, bool)> {
    #[cfg(target_pointer_width = "32")]
    use libc::Elf32_Sym as Symbol;
    #[cfg(target_pointer_width = "64")]
    use libc::Elf64_Sym as Symbol;
    // Of glibc since 2.3.3; the `libc` crate does not have it.
    unsafe extern "C" {
        fn dladdr1(
            address: *const libc::c_void,
            info: *mut libc::Dl_info,
            symbol: *mut *const Symbol,
            kind: libc::c_int,
        ) -> libc::c_int;
    }
    const RTLD_DL_SYMENT: libc::c_int = 1;
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    let mut symbol = std::ptr::null();
    // SAFETY: both are valid for the call to write to, the second of the kind that is asked for.
    if unsafe { dladdr1(at, info.as_mut_ptr(), &raw mut symbol, RTLD_DL_SYMENT) } == 0 {
        return None;
    }
    // SAFETY: zeros are valid, and so is what the call wrote.
    let base = unsafe { info.assume_init() }.dli_fbase;
    // SAFETY: null, or a symbol of an object that is loaded, and stays so: this program or an
    // unwinder that it is linked with.
    let symbol = unsafe { symbol.as_ref() };
    // `SHN_UNDEF`.
    Some((base.addr(), symbol.is_none_or(|symbol| symbol.st_shndx != 0)))
}
