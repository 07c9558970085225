//! `/proc/self/mem`, on Linux and Android: through it the kernel writes to pages of this process to
//! which the process itself may not write.
//!
//! There is one descriptor for the process, from the first arena that uses it to the last, because
//! a descriptor for each arena would reach the limit of descriptors at a thousand arenas. A forked
//! child opens one of its own, because the inherited one leads to its parent.
//!
//! Other code may close the descriptor and use its number. So after each write the bytes are read
//! back. If they are not there, the descriptor is opened anew.
//!
//! ```text
//! write --> bytes there? -- yes --> done
//!                        `- no ---> does the number still lead to the file? -- no --> open anew, write again
//! ```

use std::fs::File;
use std::io;
use std::os::fd::{IntoRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::ptr;
use std::ptr::NonNull;

use super::descriptor::{Identity, borrow, elsewhere, with_high_number};
use super::process_lock::ProcessLock;
use super::{Refused, Result, generation};
use crate::sync::{AtomicI32, AtomicPtr, AtomicU64, Ordering};

/// The right to write. The descriptor is closed with the last one.
#[derive(Debug)]
pub(crate) struct KernelWriter {
    /// The process that may write.
    owner: u64,
    /// Whether this value is counted in [`Users`].
    counted: bool,
}

/// The number of such values in a process.
struct Users {
    owner: u64,
    count: usize,
}

/// The count. It is locked while the descriptor is opened or closed, so that a new user does not
/// lose it.
static USERS: ProcessLock<Users> = ProcessLock::new(Users { owner: 0, count: 0 });

/// A descriptor, and the file that it leads to. It is never freed, because other threads may be
/// about to use it: 40 bytes for a process, and the same each time that other code closed the
/// descriptor.
struct Open {
    /// The number: [`CLOSED`] after it was closed, and [`OPENING`] while it gets another.
    number: AtomicI32,
    device: AtomicU64,
    inode: AtomicU64,
    owner: u64,
    /// The one before it, so that leak checkers find it.
    _before: *const Open,
}

const CLOSED: RawFd = -1;
const OPENING: RawFd = -2;

impl Open {
    fn number(&self) -> RawFd {
        // Acquire, because the file that it leads to was written before.
        self.number.load(Ordering::Acquire)
    }

    fn leads_to(&self) -> Identity {
        Identity { device: self.device.load(Ordering::Relaxed), inode: self.inode.load(Ordering::Relaxed) }
    }

    /// Returns whether the number still leads to that file.
    fn is_right(&self) -> bool {
        self.leads_to().is_at(self.number())
    }
}

/// The last one that was opened.
static CURRENT: AtomicPtr<Open> = AtomicPtr::new(ptr::null_mut());

impl KernelWriter {
    pub(super) fn open() -> Result<Self> {
        let owner = generation();
        // A child that was forked in the middle of this does not count, and leaves the descriptor
        // open.
        let mut users = USERS.lock();
        let open = current(owner);
        if open.is_none_or(|open| !open.is_right()) {
            renew(owner, open)?;
        }
        let counted = users.is_some();
        if let Some(users) = &mut users {
            if users.owner != owner {
                **users = Users { owner, count: 0 };
            }
            users.count += 1;
        }
        Ok(Self { owner, counted })
    }

    /// Writes all of `bytes` to an address of this process, and checks that they are there.
    ///
    /// # Safety
    /// - The address and the bytes behind it are readable. The caller owns them, and nobody else
    ///   uses them meanwhile.
    pub(super) unsafe fn write(&self, at: NonNull<u8>, bytes: &[u8]) -> Result<()> {
        const CALL: &str = "pwrite to /proc/self/mem";
        let address = at.addr().get() as u64;
        for _ in 0..2 {
            self.use_it(CALL, |file| file.write_all_at(bytes, address))?;
            // SAFETY: readable. The caller promises that nobody else uses it.
            let seen = unsafe { std::slice::from_raw_parts(at.as_ptr(), bytes.len()) };
            if seen == bytes {
                return Ok(());
            }
            // They were written to some other file that can be written at any offset.
            if !self.recover()? {
                break;
            }
        }
        Err(elsewhere(CALL))
    }

    pub(super) fn read(&self, at: NonNull<u8>, bytes: &mut [u8]) -> Result<()> {
        let address = at.addr().get() as u64;
        self.use_it("pread of /proc/self/mem", |file| file.read_exact_at(bytes, address))
    }

    /// Returns whether the descriptor led elsewhere, and a right one could be opened.
    fn recover(&self) -> Result<bool> {
        match current(self.owner) {
            Some(open) if open.is_right() => Ok(false),
            wrong => renew(self.owner, wrong).map(|_| true),
        }
    }

    /// Makes a call with the descriptor, and once more with a new one if it led elsewhere.
    fn use_it(&self, call: &'static str, mut with: impl FnMut(&File) -> io::Result<()>) -> Result<()> {
        // An inherited descriptor leads to the parent.
        if generation() != self.owner {
            return Err(elsewhere(call));
        }
        let open = match current(self.owner) {
            Some(open) => open,
            None => renew(self.owner, None)?,
        };
        let refused = match with(&borrow(open.number())) {
            Ok(()) => return Ok(()),
            Err(refused) => refused,
        };
        if open.is_right() {
            return Err(Refused::new(call, refused));
        }
        let open = renew(self.owner, Some(open))?;
        with(&borrow(open.number())).map_err(|e| Refused::new(call, e))
    }
}

impl Drop for KernelWriter {
    fn drop(&mut self) {
        if !self.counted || generation() != self.owner {
            return;
        }
        let Some(mut users) = USERS.lock() else { return };
        users.count -= 1;
        if users.count > 0 {
            return;
        }
        if let Some(open) = current(self.owner) {
            open.leads_to().close(open.number.swap(CLOSED, Ordering::AcqRel));
        }
    }
}

/// Returns the descriptor of a process.
fn current(owner: u64) -> Option<&'static Open> {
    // SAFETY: it is never freed. Acquire, because it was written before the pointer was stored.
    let open = unsafe { CURRENT.load(Ordering::Acquire).as_ref() };
    open.filter(|open| open.owner == owner && open.number() >= 0)
}

/// Opens another descriptor in place of the one that was found wrong, if there was one, unless
/// another thread just did.
fn renew(owner: u64, wrong: Option<&'static Open>) -> Result<&'static Open> {
    let file = File::options().read(true).write(true).open("/proc/self/mem");
    let file = with_high_number(file.map_err(|e| Refused::new("open of /proc/self/mem", e))?);
    let Identity { device, inode } = Identity::of(&file)?;
    let before = CURRENT.load(Ordering::Acquire);
    // SAFETY: null, or never freed.
    if let Some(last) = unsafe { before.as_ref() }.filter(|open| open.owner == owner) {
        // If it were replaced, its descriptor would never be closed.
        if !wrong.is_some_and(|wrong| ptr::eq(wrong, last)) && last.is_right() {
            return Ok(last);
        }
        // Nobody uses a closed one, so its record is used again.
        if last.number.compare_exchange(CLOSED, OPENING, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            last.device.store(device, Ordering::Relaxed);
            last.inode.store(inode, Ordering::Relaxed);
            last.number.store(file.into_raw_fd(), Ordering::Release);
            return Ok(last);
        }
    }
    let number = AtomicI32::new(file.into_raw_fd());
    let (device, inode) = (AtomicU64::new(device), AtomicU64::new(inode));
    let open = Box::new(Open { number, device, inode, owner, _before: before });
    let new = Box::into_raw(open);
    match CURRENT.compare_exchange(before, new, Ordering::AcqRel, Ordering::Acquire) {
        // SAFETY: made just now, and never freed from here on.
        Ok(_) => Ok(unsafe { &*new }),
        Err(other) => {
            // SAFETY: made just now, and nobody else has it.
            let open = unsafe { Box::from_raw(new) };
            open.leads_to().close(open.number());
            // SAFETY: it is never freed.
            Ok(unsafe { &*other })
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::tests::common::child;

    /// Two threads find the descriptor closed. The second one that opens another takes the first
    /// one's, which would otherwise stay open for ever.
    #[test]
    fn who_comes_second_takes_what_the_first_opened() {
        child::run("who_comes_second_takes_what_the_first_opened", || {
            let count = || std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
            let before = count();
            let Ok(writer) = KernelWriter::open() else { return };
            let wrong = current(writer.owner);
            // SAFETY: it takes a number only. Nobody else uses the descriptor.
            assert_eq!(wrong.map(|open| unsafe { libc::close(open.number()) }), Some(0));
            let first = renew(writer.owner, wrong).unwrap();
            let second = renew(writer.owner, wrong).unwrap();
            assert!(ptr::eq(first, second));
            assert_eq!(count(), before + 1);
            drop(writer);
            assert_eq!(count(), before);
        });
    }
}
