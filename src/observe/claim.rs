//! Which file has a name, who else writes it, and whether it can be taken.
//!
//! In a directory that everyone can write to, somebody could have put a link there, for this
//! process to overwrite a file of its own. So no link is followed, and nothing is written to but a
//! file with one name that belongs to this user. What is there and cannot be written to is removed,
//! which does not follow a link; where the directory is sticky, what belongs to others cannot be
//! removed, and that is an error.
//!
//! # Who else writes it
//!
//! The name has the number of the process in it. So a file that is there already was written by an
//! earlier process of that number; by other code of this process; or by a process of the same
//! number in another container, which shares the directory. Each writer of this crate holds a
//! shared lock on its file (`flock`), and the kernel says which files are open in this process.
//!
//! | open in this process | locked | written to in this process's lifetime | then |
//! |---|---|---|---|
//! | yes | | | lines are appended; a file of its own is an error |
//! | no | yes | | an error: another process is writing it |
//! | no | no | yes | lines are appended, because who wrote it may come back; a file of its own is replaced |
//! | no | no | no, or not known | it is left over, and is replaced |

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::Error;

/// Device and number: a file may have several paths.
pub(super) type Id = (u64, u64);

/// Who writes a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One writer alone.
    Alone,
    /// Any number, each of which appends whole lines.
    Lines,
}

fn id_of(meta: &Metadata) -> Id {
    (meta.dev(), meta.ino())
}

pub(super) fn id(file: &File) -> io::Result<Id> {
    Ok(id_of(&file.metadata()?))
}

/// What the name leads to; a link is itself.
pub(super) fn id_at(path: &Path) -> Option<Id> {
    fs::symlink_metadata(path).ok().map(|meta| id_of(&meta))
}

/// Makes a file, or takes the one that is there; and whether it is new.
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
                return Err(Error::unsupported(what, format!("{who} is writing {}", path.display())));
            }
            // Another process may have replaced it meanwhile: then what is there now is not what
            // was locked.
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

/// For lines that have to come where others find them now: the file that is there, or a new one;
/// and whether it is new.
pub(super) fn join(path: &Path) -> io::Result<(File, bool)> {
    match create(path, Kind::Lines) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => return Ok((made?, true)),
    }
    let file = open(path, Kind::Lines)?;
    if !is_ours(&file.metadata()?) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "somebody else's file has its name"));
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

/// A new file that only its owner can read, as code and names may tell much. `O_CREAT | O_EXCL`
/// does not follow a link; the standard library adds `O_CLOEXEC`.
fn create(path: &Path, kind: Kind) -> io::Result<File> {
    let file = options(kind).create_new(true).mode(0o600).open(path)?;
    lock(&file, libc::LOCK_SH);
    Ok(file)
}

fn open(path: &Path, kind: Kind) -> io::Result<File> {
    // Should it be a pipe, nobody waits for its other end.
    options(kind).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

/// Locks the file, or changes its lock; `false` if others hold it. It is held as long as the file
/// is open. A file system without such locks says nothing of others.
fn lock(file: &File, how: libc::c_int) -> bool {
    // SAFETY: takes numbers only.
    let refused = unsafe { libc::flock(file.as_raw_fd(), how | libc::LOCK_NB) } != 0;
    !refused || io::Error::last_os_error().kind() != io::ErrorKind::WouldBlock
}

/// A plain file of this user, with one name.
fn is_ours(meta: &Metadata) -> bool {
    // SAFETY: has no requirements.
    meta.is_file() && meta.nlink() == 1 && meta.uid() == unsafe { libc::geteuid() }
}

/// Whether this process has the file open. Without a list of descriptors it is not known to.
fn is_open_here(id: Id) -> bool {
    let list = if cfg!(target_os = "linux") { "/proc/self/fd" } else { "/dev/fd" };
    let Ok(list) = fs::read_dir(list) else { return false };
    list.flatten().any(|entry| fs::metadata(entry.path()).is_ok_and(|meta| id_of(&meta) == id))
}

/// Whether a file was written to since this process came to be, a forked child with its fork.
fn is_of_this_lifetime(meta: &Metadata) -> bool {
    // Both clocks tick coarsely.
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
    // The 22nd field; the third is the first behind the name.
    let ticks: u64 = fields.split_whitespace().nth(19)?.parse().ok()?;
    // SAFETY: takes a number.
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

/// Not known.
#[cfg(not(target_os = "linux"))]
fn started() -> Option<SystemTime> {
    None
}

/// The same file under a high number: programs close descriptors by number, and get the lowest that
/// is free for the next file.
pub(super) fn out_of_the_way(file: File) -> File {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for the call to write to.
    let got = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    // The table of descriptors is as long as the highest, so not a very high one.
    let most = if got { limit.rlim_cur.min(1024) as libc::c_int } else { 1024 };
    // SAFETY: takes numbers only.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, most / 4 * 3) } {
        -1 => file,
        // SAFETY: a new descriptor that nobody else owns.
        high => unsafe { File::from_raw_fd(high) },
    }
}

/// Closes a descriptor if it still leads to the file with this `id`. If others closed it, its
/// number is theirs.
pub(super) fn close_if(file: ManuallyDrop<File>, wanted: Id) {
    if id(&file).is_ok_and(|id| id == wanted) {
        drop(ManuallyDrop::into_inner(file));
    }
}
