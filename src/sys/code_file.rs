//! An anonymous file that contains code. It is mapped for reading and executing, and written
//! through its descriptor only. Linux and Android.
//!
//! ```text
//! memfd --- descriptor for writing ---> pwrite, fallocate (holes)
//!    `----- opened for reading -------> mmap r-x; `mprotect` cannot make it writable
//! ```
//!
//! The executable view is made from a second description of the file, which was opened for reading.
//! `mprotect` cannot make that view writable; a view from the first description could become
//! writable. `F_SEAL_FUTURE_WRITE` would have the same effect, but refuses `pwrite` too.
//!
//! `perf record` takes a mapping called `/memfd:…` for a file that it cannot find, and does not
//! use a perf map for it. It sees the names of mappings when they are made or become executable,
//! and does not see a move by `mremap`. So the view is made elsewhere, and is moved to a place
//! where `perf` saw anonymous memory. (A `perf` that is attached later reads `/proc/PID/maps`,
//! and sees the file.)

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::fs::FileExt;

use super::descriptor::{Identity, elsewhere, with_high_number};
use super::limits::{check_file_size, grow, ignores_limit_signal};
use super::process_lock::ProcessLock;
use super::{Access, PREFAULTED, Place, Refused, Result, Span, unix};
use crate::sync::{Arc, AtomicBool, Ordering};

/// The file. Its descriptor is the right to write.
#[derive(Debug)]
pub(crate) struct CodeFile {
    /// The descriptor. It is closed only if it still leads to the file.
    file: ManuallyDrop<File>,
    leads_to: Identity,
    /// Whether the number leads elsewhere. Then nothing is written any more.
    lost: Arc<AtomicBool>,
    /// Whether the process ignores `SIGXFSZ`. Then a write past `RLIMIT_FSIZE` is an ordinary
    /// error.
    ignores_limit_signal: bool,
}

impl CodeFile {
    pub(super) fn new(len: usize, name: Option<&CStr>) -> Result<Self> {
        let name = name.unwrap_or(c"gaia-jit");
        let file = memory_file(name, libc::MFD_ALLOW_SEALING)?;
        grow(&file, len)?;
        // Without these seals, anybody who has the descriptor could truncate the file, which would
        // be SIGBUS in every thread that runs code.
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: it takes numbers only.
        if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } != 0 {
            return Err(Refused::last("fcntl(F_ADD_SEALS)"));
        }
        let file = with_high_number(file);
        Ok(Self {
            leads_to: Identity::of(&file)?,
            lost: claim(file.as_raw_fd()),
            file: ManuallyDrop::new(file),
            ignores_limit_signal: ignores_limit_signal(),
        })
    }

    /// Reserves address space and maps all of the file where the code is to lie.
    pub(super) fn map(&self, place: &Place, access: Access) -> Result<Span> {
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let readable = File::open(path).map_err(|e| match e.kind() {
            // There is no `/proc`.
            io::ErrorKind::NotFound => Refused::new("open of /proc/self/fd", io::ErrorKind::Unsupported.into()),
            _ => Refused::new("open of /proc/self/fd", e),
        })?;
        let reservation = unix::reserve(place)?;
        let code = reservation.code(place);
        // SAFETY: pages of the reservation, made just now, and nobody else has it.
        match unsafe { map_unseen(&readable, code, access) } {
            Ok(()) => Ok(reservation),
            Err(Unmapped::Whole(refused)) => {
                // SAFETY: as above.
                let _ = unsafe { unix::release(reservation) };
                Err(refused)
            }
            // The rest of the reservation stays mapped, because the mapping in the gap may be
            // another thread's.
            Err(Unmapped::WithGap(refused)) => Err(refused),
        }
    }

    /// Stops all writing, because the last write went elsewhere.
    pub(crate) fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    /// Writes all of `bytes` at an offset.
    pub(super) fn write(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        if self.lost.load(Ordering::Relaxed) {
            return Err(elsewhere("pwrite"));
        }
        // The system writes only a part of more than this.
        const MOST: usize = 1 << 30;
        bytes.chunks(MOST).enumerate().try_for_each(|(n, piece)| self.write_piece(offset + n * MOST, piece))
    }

    /// Writes one piece. A short write is not continued, because past `RLIMIT_FSIZE` the second
    /// call would raise a signal.
    fn write_piece(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        if !self.ignores_limit_signal {
            check_file_size(offset + bytes.len())?;
        }
        match self.file.write_at(bytes, offset as u64) {
            Ok(written) if written == bytes.len() => Ok(()),
            Ok(_) => Err(Refused::new("pwrite (came back short)", io::ErrorKind::WriteZero.into()).of(bytes.len())),
            Err(e) => Err(Refused::new("pwrite", e)),
        }
    }

    /// Writes zeros to whole pages that have no memory, so that they have memory. The bytes are not
    /// compared afterwards, so the descriptor is checked before.
    pub(super) fn prefault(&self, offset: usize, len: usize) -> Result<()> {
        static ZEROS: [u8; PREFAULTED] = [0; PREFAULTED];
        debug_assert!(len <= PREFAULTED);
        if self.lost.load(Ordering::Relaxed) || !self.is_ours() {
            return Err(elsewhere("pwrite"));
        }
        self.write_piece(offset, &ZEROS[..len.min(PREFAULTED)])
    }

    /// Gives the memory of whole pages back to the system.
    pub(super) fn give_back(&self, offset: usize, len: usize) -> Result<()> {
        if !self.is_ours() {
            return Err(elsewhere("fallocate"));
        }
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: it takes numbers only. The caller promises that nobody needs the content.
        match unsafe { libc::fallocate64(self.file.as_raw_fd(), mode, offset as i64, len as i64) } {
            0 => Ok(()),
            _ => Err(Refused::last("fallocate")),
        }
    }

    /// Returns whether the descriptor still leads to the file.
    fn is_ours(&self) -> bool {
        self.leads_to.is_at(self.file.as_raw_fd())
    }
}

impl Drop for CodeFile {
    fn drop(&mut self) {
        let mut claimed = CLAIMED.lock();
        if let Some(claimed) = &mut claimed {
            claimed.retain(|(_, lost)| !Arc::ptr_eq(lost, &self.lost));
        }
        if self.is_ours() {
            // SAFETY: dropped once, here.
            unsafe { ManuallyDrop::drop(&mut self.file) };
        }
    }
}

/// The numbers of the files of this process, as far as their arenas know.
static CLAIMED: ProcessLock<Vec<(RawFd, Arc<AtomicBool>)>> = ProcessLock::new(Vec::new());

/// Notes that a number belongs to a new file. An arena that had the number before has lost it to
/// other code, and would write to the new file.
fn claim(number: RawFd) -> Arc<AtomicBool> {
    let lost = Arc::new(AtomicBool::new(false));
    // A child that was forked in the middle of this does without the list. Its arenas compare the
    // files that the numbers lead to.
    let Some(mut claimed) = CLAIMED.lock() else { return lost };
    claimed.iter().filter(|(other, _)| *other == number).for_each(|(_, lost)| lost.store(true, Ordering::Relaxed));
    claimed.push((number, Arc::clone(&lost)));
    lost
}

/// Maps all of the file in place of reserved pages, in such a way that `perf record` takes it for
/// anonymous memory.
///
/// # Safety
/// - `at` is whole pages of a reservation that the caller owns, and nobody uses them.
unsafe fn map_unseen(file: &File, at: Span, access: Access) -> std::result::Result<(), Unmapped> {
    // SAFETY: passed on to the caller. It does not matter if a policy refuses it.
    let seen = unsafe { unix::protect(at, access) };
    let Ok(made) = unix::map_shared(file, at.len, access) else {
        // There may be address space for one view but not for two.
        // SAFETY: passed on to the caller.
        return unsafe { unix::map_shared_at(file, at, access) }.map_err(Unmapped::Whole);
    };
    if seen.is_ok() {
        let (from, to) = (made.start.as_ptr(), at.start.as_ptr());
        // `MREMAP_MAYMOVE | MREMAP_FIXED`, from the kernel's `linux/mman.h`. The `libc` crate has
        // neither these nor the call for Android.
        const MOVE_TO: libc::c_long = 1 | 2;
        // SAFETY: a mapping made just now, moved to pages that the caller owns and nobody uses.
        let moved = unsafe { libc::syscall(libc::SYS_mremap, from, made.len, at.len, MOVE_TO, to) };
        if moved as usize == at.address() {
            return Ok(());
        }
        let refused = Refused::last("mremap");
        // SAFETY: mapped just now, and nobody else has it.
        let _ = unsafe { unix::release(made) };
        // The call unmaps the target before it moves.
        return Err(Unmapped::WithGap(refused));
    }
    // SAFETY: mapped just now, and nobody else has it.
    unsafe { unix::release(made) }.map_err(Unmapped::Whole)?;
    // SAFETY: passed on to the caller.
    unsafe { unix::map_shared_at(file, at, access) }.map_err(Unmapped::Whole)
}

/// The rest of a reservation that could not be mapped.
enum Unmapped {
    Whole(Refused),
    WithGap(Refused),
}

/// Makes a new anonymous file. It is no program for `execve`, whatever it is mapped for, if the
/// kernel supports that (since 6.3).
pub(super) fn memory_file(name: &CStr, flags: libc::c_uint) -> Result<File> {
    let create = |flags| {
        // SAFETY: the name is a C string. The call has no other requirement.
        match unsafe { libc::memfd_create(name.as_ptr(), flags | libc::MFD_CLOEXEC) } {
            -1 => Err(Refused::last("memfd_create")),
            // SAFETY: a new descriptor that nobody else owns.
            fd => Ok(unsafe { File::from_raw_fd(fd) }),
        }
    };
    create(flags | libc::MFD_NOEXEC_SEAL).or_else(|_| create(flags))
}
