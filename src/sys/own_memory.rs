//! `/proc/self/mem`, through which the kernel writes to pages of this process that the process
//! itself may not write to. Linux and Android.
//!
//! There is one descriptor for the process, from the first arena that wants it to the last: a
//! descriptor for each arena would meet the limit of descriptors at a thousand arenas. A forked
//! child opens one of its own, because the inherited one leads to its parent.
//!
//! Other code may close the descriptor, and use its number. Then it is opened anew.

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
    /// Whether it is among the [`Users`].
    counted: bool,
}

/// How many of a process there are.
struct Users {
    owner: u64,
    count: usize,
}

/// Held while the descriptor is opened or closed, so that it is not closed under a new user.
static USERS: ProcessLock<Users> = ProcessLock::new(Users { owner: 0, count: 0 });

/// A descriptor and what it leads to. It is never freed, because others may be about to use it: 40
/// bytes for a process, and as many each time that other code closed the descriptor.
struct Open {
    /// [`CLOSED`] once it is closed, and [`OPENING`] while it gets another.
    number: AtomicI32,
    device: AtomicU64,
    inode: AtomicU64,
    owner: u64,
    /// The one before, so that leak checkers see it.
    _before: *const Open,
}

const CLOSED: RawFd = -1;
const OPENING: RawFd = -2;

impl Open {
    fn number(&self) -> RawFd {
        // Acquire: what it leads to was written before.
        self.number.load(Ordering::Acquire)
    }

    fn leads_to(&self) -> Identity {
        Identity { device: self.device.load(Ordering::Relaxed), inode: self.inode.load(Ordering::Relaxed) }
    }

    /// Whether the number still leads there.
    fn is_right(&self) -> bool {
        self.leads_to().is_at(self.number())
    }
}

/// The last one that was opened.
static CURRENT: AtomicPtr<Open> = AtomicPtr::new(ptr::null_mut());

impl KernelWriter {
    pub(super) fn open() -> Result<Self> {
        let owner = generation();
        // A child that was forked in the midst of this goes without, and leaves the descriptor
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

    /// Writes all of `bytes` to an address of this process, and looks whether they are there.
    ///
    /// # Safety
    /// - The address and the bytes behind it are readable and the caller's, and nobody else uses
    ///   them meanwhile.
    pub(super) unsafe fn write(&self, at: NonNull<u8>, bytes: &[u8]) -> Result<()> {
        const CALL: &str = "pwrite to /proc/self/mem";
        let address = at.addr().get() as u64;
        for _ in 0..2 {
            self.use_it(CALL, |file| file.write_all_at(bytes, address))?;
            // SAFETY: readable by the caller, who has it to itself.
            let seen = unsafe { std::slice::from_raw_parts(at.as_ptr(), bytes.len()) };
            if seen == bytes {
                return Ok(());
            }
            // Into a file of somebody's that can be written to at any offset.
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

    /// Whether the descriptor led elsewhere, and one that does not could be had.
    fn recover(&self) -> Result<bool> {
        match current(self.owner) {
            Some(open) if open.is_right() => Ok(false),
            wrong => renew(self.owner, wrong).map(|_| true),
        }
    }

    /// Calls with the descriptor, and once more with a new one if it led elsewhere.
    fn use_it(&self, call: &'static str, mut with: impl FnMut(&File) -> io::Result<()>) -> Result<()> {
        // What a child inherited is its parent's.
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

/// The descriptor of a process.
fn current(owner: u64) -> Option<&'static Open> {
    // SAFETY: what is there is never freed. Acquire: it was written before it was put there.
    let open = unsafe { CURRENT.load(Ordering::Acquire).as_ref() };
    open.filter(|open| open.owner == owner && open.number() >= 0)
}

/// Opens another in the place of the one that was found wrong, if there was one, unless another
/// thread just did.
fn renew(owner: u64, wrong: Option<&'static Open>) -> Result<&'static Open> {
    let file = File::options().read(true).write(true).open("/proc/self/mem");
    let file = with_high_number(file.map_err(|e| Refused::new("open of /proc/self/mem", e))?);
    let Identity { device, inode } = Identity::of(&file)?;
    let before = CURRENT.load(Ordering::Acquire);
    // SAFETY: null, or never freed.
    if let Some(last) = unsafe { before.as_ref() }.filter(|open| open.owner == owner) {
        // Its descriptor would never be closed if it were replaced.
        if !wrong.is_some_and(|wrong| ptr::eq(wrong, last)) && last.is_right() {
            return Ok(last);
        }
        // Nobody uses what is closed, so the record serves again.
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
            // SAFETY: made just now, and given to nobody.
            let open = unsafe { Box::from_raw(new) };
            open.leads_to().close(open.number());
            // SAFETY: what is there is never freed.
            Ok(unsafe { &*other })
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::tests::common::child;

    /// Two threads found the descriptor closed. The second that opens another takes the first's,
    /// which would else stay open for good.
    #[test]
    fn who_comes_second_takes_what_the_first_opened() {
        child::run("sys::own_memory::tests::who_comes_second_takes_what_the_first_opened", || {
            let count = || std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
            let before = count();
            let Ok(writer) = KernelWriter::open() else { return };
            let wrong = current(writer.owner);
            // SAFETY: takes a number only; nobody else uses the descriptor.
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
