//! `/proc/self/mem`, through which the kernel writes to pages of this process that the process itself may not write to. Linux and
//! Android.
//!
//! There is one descriptor for the process, from the first arena that wants it on: a descriptor for each arena would meet the
//! limit of descriptors at a thousand arenas. A forked child opens one of its own, because the inherited one leads to its parent.
//!
//! Other code may close the descriptor, and use its number. Then it is opened anew.

use std::fs::File;
use std::io;
use std::os::fd::{IntoRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::ptr;
use std::ptr::NonNull;

use super::descriptor::{Identity, borrow, elsewhere, out_of_the_way};
use super::{Refused, Result, generation};
use crate::sync::{AtomicPtr, Ordering};

/// The right to write.
#[derive(Debug)]
pub(crate) struct KernelWriter {
    /// The process that may write.
    owner: u64,
}

/// A descriptor and what it leads to. It is never freed, because others may be about to use it.
struct Open {
    number: RawFd,
    leads_to: Identity,
    owner: u64,
    /// The one before, so that leak checkers see it.
    _before: *const Open,
}

/// The last one that was opened.
static CURRENT: AtomicPtr<Open> = AtomicPtr::new(ptr::null_mut());

impl KernelWriter {
    pub(super) fn open() -> Result<Self> {
        let owner = generation();
        match current(owner).filter(|open| open.leads_to.is_at(open.number)) {
            Some(_) => {}
            None => renew(owner).map(|_| ())?,
        }
        Ok(Self { owner })
    }

    /// Writes all of `bytes` to an address of this process, and looks whether they are there.
    ///
    /// # Safety
    /// - The address and the bytes behind it are readable and the caller's, and nobody else uses them meanwhile.
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
            Some(open) if open.leads_to.is_at(open.number) => Ok(false),
            _ => renew(self.owner).map(|_| true),
        }
    }

    /// Calls with the descriptor, and once more with a new one if it led elsewhere.
    fn use_it(&self, call: &'static str, mut with: impl FnMut(&File) -> io::Result<()>) -> Result<()> {
        // A child that writes would write to itself; but what it inherited is its parent's.
        let open = current(self.owner).ok_or_else(|| elsewhere(call))?;
        let refused = match with(&borrow(open.number)) {
            Ok(()) => return Ok(()),
            Err(refused) => refused,
        };
        if open.leads_to.is_at(open.number) {
            return Err(Refused::new(call, refused));
        }
        let open = renew(self.owner)?;
        with(&borrow(open.number)).map_err(|e| Refused::new(call, e))
    }
}

/// The descriptor of a process.
fn current(owner: u64) -> Option<&'static Open> {
    // SAFETY: what is there is never freed. Acquire: it was written before it was put there.
    let open = unsafe { CURRENT.load(Ordering::Acquire).as_ref() };
    open.filter(|open| open.owner == owner)
}

/// Opens another, unless another thread just did.
fn renew(owner: u64) -> Result<&'static Open> {
    let file = File::options().read(true).write(true).open("/proc/self/mem");
    let file = out_of_the_way(file.map_err(|e| Refused::new("open of /proc/self/mem", e))?);
    let before = CURRENT.load(Ordering::Acquire);
    let leads_to = Identity::of(&file)?;
    let open = Box::new(Open { number: file.into_raw_fd(), leads_to, owner, _before: before });
    let new = Box::into_raw(open);
    match CURRENT.compare_exchange(before, new, Ordering::AcqRel, Ordering::Acquire) {
        // SAFETY: made just now, and never freed from here on.
        Ok(_) => Ok(unsafe { &*new }),
        Err(other) => {
            // SAFETY: made just now, and given to nobody.
            let open = unsafe { Box::from_raw(new) };
            // SAFETY: opened just now, and owned by nobody else.
            drop(unsafe { <File as std::os::fd::FromRawFd>::from_raw_fd(open.number) });
            // SAFETY: what is there is never freed.
            Ok(unsafe { &*other })
        }
    }
}
