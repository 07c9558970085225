//! The creation of a file that profilers read: what to do if a file of that name exists.
//!
//! # Links
//!
//! In a directory that everyone can write to, another user could place a link under the name, so
//! that this process overwrites a file of its own. So no link is followed. Only a plain file with
//! one name that belongs to this user is written to. Everything else under the name is removed,
//! which does not follow a link. In a sticky directory the files of other users cannot be removed,
//! and that is an error.
//!
//! # Other writers
//!
//! The name contains the number of the process. A file that exists already was written by one of
//! these:
//!
//! - an earlier process of that number,
//! - other code of this process,
//! - a process of the same number in another container that shares the directory.
//!
//! Each writer of this crate holds a shared lock on its file (`flock`), and the kernel lists the
//! files that are open in this process. These facts decide:
//!
//! | open in this process | locked | written to in this process's lifetime | then |
//! |---|---|---|---|
//! | yes | | | lines are appended; with one writer it is an error |
//! | no | yes | | an error: another process is writing it |
//! | no | no | yes | lines are appended, because the writer may come back; with one writer the file is replaced |
//! | no | no | no, or not known | it is left over, and is replaced |

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::Error;

/// The device and inode number of a file. A file may have several paths.
pub(super) type Id = (u64, u64);

/// The kind of a file: how many writers it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One writer.
    Alone,
    /// Any number of writers, and each of them appends whole lines.
    Lines,
}

fn id_of(meta: &Metadata) -> Id {
    (meta.dev(), meta.ino())
}

pub(super) fn id(file: &File) -> io::Result<Id> {
    Ok(id_of(&file.metadata()?))
}

/// Returns the id of the file with this name. A link is not followed.
pub(super) fn id_at(path: &Path) -> Option<Id> {
    fs::symlink_metadata(path).ok().map(|meta| id_of(&meta))
}

/// Creates a file, or takes the existing one. Returns whether it is new.
pub(super) fn claim(what: &'static str, path: &Path, kind: Kind) -> Result<(File, bool), Error> {
    let failed = |source| Error::of_file("open", path, source);
    for _ in 0..8 {
        match create(path, kind) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return Ok((made.map_err(failed)?, true)),
        }
        let Ok(meta) = fs::symlink_metadata(path) else { continue };
        let mut held = None;
        if is_ours(&meta) {
            let here = is_open_here(id_of(&meta));
            let Ok(file) = open(path, kind) else { continue };
            let locked = !lock(&file, libc::LOCK_EX);
            if kind == Kind::Lines && (here || !locked && is_of_this_lifetime(&meta)) && id(&file).ok() == id_at(path) {
                lock(&file, libc::LOCK_SH);
                return Ok((file, false));
            }
            if here || locked {
                let who = if here { "other code of this process" } else { "another process of the same number" };
                return Err(Error::unsupported(
                    what,
                    format!("{who} writes {}; use another directory", path.display()),
                ));
            }
            // Another process may have replaced the file meanwhile. Then the file that was locked
            // is not the one with the name.
            if id(&file).ok() != id_at(path) {
                continue;
            }
            held = Some(file);
        }
        fs::remove_file(path).map_err(failed)?;
        drop(held);
    }
    Err(failed(io::ErrorKind::AlreadyExists.into()))
}

/// Opens the file of lines that has the name now, or creates one. Returns whether it is new.
pub(super) fn join(path: &Path) -> io::Result<(File, bool)> {
    match create(path, Kind::Lines) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => return Ok((made?, true)),
    }
    let file = open(path, Kind::Lines)?;
    if !is_ours(&file.metadata()?) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "a file of another user has its name"));
    }
    lock(&file, libc::LOCK_SH);
    Ok((file, false))
}

fn options(kind: Kind) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NOFOLLOW);
    match kind {
        Kind::Alone => options.write(true),
        Kind::Lines => options.append(true),
    };
    options
}

/// Creates a file that only its owner can read, because code and names may reveal much. `O_CREAT |
/// O_EXCL` does not follow a link. The standard library adds `O_CLOEXEC`.
fn create(path: &Path, kind: Kind) -> io::Result<File> {
    let file = options(kind).create_new(true).mode(0o600).open(path)?;
    lock(&file, libc::LOCK_SH);
    Ok(file)
}

fn open(path: &Path, kind: Kind) -> io::Result<File> {
    // If it is a pipe, the open does not wait for the other end.
    options(kind).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

/// Locks the file, or changes its lock. Returns `false` if others hold it. The lock is held while
/// the file is open. On a file system without such locks this always returns `true`.
fn lock(file: &File, how: libc::c_int) -> bool {
    // SAFETY: the call takes numbers only.
    let refused = unsafe { libc::flock(file.as_raw_fd(), how | libc::LOCK_NB) } != 0;
    !refused || io::Error::last_os_error().kind() != io::ErrorKind::WouldBlock
}

/// Returns whether this is a plain file of this user, with one name.
fn is_ours(meta: &Metadata) -> bool {
    // SAFETY: the call has no requirements.
    meta.is_file() && meta.nlink() == 1 && meta.uid() == unsafe { libc::geteuid() }
}

/// Returns whether this process has the file open. Without a list of descriptors returns `false`.
fn is_open_here(id: Id) -> bool {
    let list = if cfg!(target_os = "linux") { "/proc/self/fd" } else { "/dev/fd" };
    let Ok(list) = fs::read_dir(list) else { return false };
    list.flatten().any(|entry| fs::metadata(entry.path()).is_ok_and(|meta| id_of(&meta) == id))
}

/// Returns whether a file was written to since this process began. A forked child begins with its
/// fork.
fn is_of_this_lifetime(meta: &Metadata) -> bool {
    // Both clocks are coarse.
    const COARSE: Duration = Duration::from_millis(100);
    let modified = meta.modified().ok();
    modified.zip(started()).is_some_and(|(modified, started)| modified + COARSE >= started)
}

#[cfg(target_os = "linux")]
fn started() -> Option<SystemTime> {
    let stat = fs::read("/proc/self/stat").ok()?;
    // The name of the program, in parentheses, may contain anything.
    let behind = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = std::str::from_utf8(&stat[behind + 1..]).ok()?;
    // The 22nd field. The first field behind the name is the third.
    let ticks: u64 = fields.split_whitespace().nth(19)?.parse().ok()?;
    // SAFETY: the call takes a number only.
    let per_second = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).ok().filter(|ticks| *ticks > 0)?;
    let mut up = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `up` is valid for the call to write to.
    if unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut up) } != 0 {
        return None;
    }
    let up = Duration::new(up.tv_sec as u64, up.tv_nsec as u32);
    let began = Duration::from_nanos(ticks * (1_000_000_000 / per_second));
    SystemTime::now().checked_sub(up.checked_sub(began)?)
}

/// Returns `None`, because the time is not known.
#[cfg(not(target_os = "linux"))]
fn started() -> Option<SystemTime> {
    None
}

/// Returns the same file under a high number. Programs close descriptors by number, and the next
/// file gets the lowest free number.
pub(super) fn out_of_the_way(file: File) -> File {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for the call to write to.
    let got = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    // Not a very high number, because the table of descriptors is as long as the highest one.
    let most = if got { limit.rlim_cur.min(1024) as libc::c_int } else { 1024 };
    // SAFETY: the call takes numbers only.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, most / 4 * 3) } {
        -1 => file,
        // SAFETY: `fcntl` returned a new descriptor, which nobody else owns.
        high => unsafe { File::from_raw_fd(high) },
    }
}

/// Closes a descriptor if it still leads to the file with this `id`. Otherwise other code closed
/// it, and the number belongs to that code.
pub(super) fn close_if(file: ManuallyDrop<File>, wanted: Id) {
    if id(&file).is_ok_and(|id| id == wanted) {
        drop(ManuallyDrop::into_inner(file));
    }
}
