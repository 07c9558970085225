//! The writing of records to a file, and the treatment of records that cannot be written.
//!
//! Before each write the state of the file is checked, because other code can change it between two
//! writes:
//!
//! | event | a file with one writer (jitdump) | a file of lines (perf map) |
//! |---|---|---|
//! | other code closed the descriptor, and its number leads to another file | it is opened again by its path if that leads to the same file; otherwise the records are lost | the same, or a new file is created; the lines written before are lost |
//! | the file was removed | the records are lost, because nobody can find them | it is created again with all its content |
//! | another file has its name | the records are lost | the old content is appended to that file, if it belongs to this user |
//! | the file was truncated | the record is written at its own place | the lines written before are lost, the rest follows |
//! | other code appended to it | the appended bytes are overwritten | they stay |
//! | the disk is full, or a limit is reached | the written part of a record is truncated | the written part of a line is overwritten with line ends |
//!
//! Lost records are counted. The next write is tried in any case, because the disk may have room
//! again.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::mem::{self, ManuallyDrop};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use super::claim::{self, Id, Kind, id};

/// The number of bytes that one call writes, from at most [`PIECES`] buffers.
///
/// For each line, a file system takes a third of the time if it gets a megabyte at once instead of
/// 16 KiB, because it allocates memory in larger pieces (ext4 of Linux 6.18: 12 ns instead of 36
/// for a line of a perf map).
pub(super) const TOGETHER: usize = 1 << 20;
pub(super) const PIECES: usize = 256;

/// A file that records are written to.
pub(super) struct Output {
    /// Closed only if its number still leads to this file.
    file: ManuallyDrop<File>,
    id: Id,
    path: PathBuf,
    kind: Kind,
    /// The offset of the end of the last record that was written here.
    end: u64,
    /// The number of lines in the file that were written here.
    lines: u64,
    /// The bytes of several buffers that are written together. It never grows beyond the memory
    /// that it got at the beginning.
    staged: Vec<u8>,
    /// The length and the number of records of each of these buffers.
    pieces: Vec<(usize, u64)>,
    /// The number of records that could not be written and were not reported yet.
    lost: u64,
}

impl Output {
    pub(super) fn new(file: File, id: Id, path: PathBuf, kind: Kind) -> Self {
        let mut staged = Vec::new();
        // Without this memory buffers are written one by one.
        let _ = staged.try_reserve_exact(TOGETHER);
        let file = ManuallyDrop::new(claim::out_of_the_way(file));
        Self { file, id, path, kind, end: 0, lines: 0, staged, pieces: Vec::with_capacity(PIECES), lost: 0 }
    }

    /// Writes the beginning of the file. In a file of lines, others may have written before.
    pub(super) fn begin(&mut self, head: &[u8]) -> io::Result<()> {
        if self.kind == Kind::Lines {
            self.end = self.file.metadata()?.len();
        }
        self.append(head, 0)
    }

    /// Returns the number of records that could not be written since the last call.
    pub(super) fn take_lost(&mut self) -> u64 {
        mem::take(&mut self.lost)
    }

    /// Returns the content of the file up to the last record that was written here.
    pub(super) fn written(&self) -> io::Result<Vec<u8>> {
        if self.is_at_descriptor() {
            return self.read(self.end);
        }
        // Other code closed the descriptor; the name may still lead to it.
        let mut all = std::fs::read(&self.path)?;
        all.truncate(usize::try_from(self.end).unwrap_or(usize::MAX));
        Ok(all)
    }

    fn read(&self, len: u64) -> io::Result<Vec<u8>> {
        let mut all = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        let mut at = 0;
        // A file that was truncated ends early.
        while at < all.len() {
            match self.file.read_at(&mut all[at..], at as u64)? {
                0 => break,
                read => at += read,
            }
        }
        all.truncate(at);
        Ok(all)
    }

    /// Returns whether a buffer can be staged with others. Large buffers cannot.
    pub(super) fn has_room(&self, bytes: &[u8]) -> bool {
        bytes.len() <= self.staged.capacity() - self.staged.len() && self.pieces.len() < self.pieces.capacity()
    }

    pub(super) fn stage(&mut self, bytes: &[u8], records: u64) {
        self.staged.extend_from_slice(bytes);
        self.pieces.push((bytes.len(), records));
    }

    /// Writes the staged bytes at once. If that fails, writes as many of the buffers as possible.
    pub(super) fn write_staged(&mut self) -> io::Result<()> {
        if self.staged.is_empty() {
            return Ok(());
        }
        let (mut staged, mut pieces) = (mem::take(&mut self.staged), mem::take(&mut self.pieces));
        let mut result = Ok(());
        match self.kind {
            Kind::Lines => result = self.append(&staged, pieces.iter().map(|piece| piece.1).sum()),
            Kind::Alone => {
                if self.append(&staged, 0).is_err() {
                    let mut rest = &staged[..];
                    for &(len, records) in &pieces {
                        let (piece, behind) = rest.split_at(len);
                        self.append(piece, records).unwrap_or_else(|error| result = Err(error));
                        rest = behind;
                    }
                }
            }
        }
        staged.clear();
        pieces.clear();
        (self.staged, self.pieces) = (staged, pieces);
        result
    }

    /// Appends records, and counts those that are lost.
    pub(super) fn append(&mut self, bytes: &[u8], records: u64) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        match self.kind {
            Kind::Alone => self.append_record(bytes).inspect_err(|_| self.lost += records),
            Kind::Lines => match self.check_lines() {
                Ok(()) => self.append_lines(bytes),
                Err(error) => {
                    self.lost += records;
                    Err(error)
                }
            },
        }
    }

    /// Appends all bytes or none.
    fn append_record(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.check_alone()?;
        let end = self.end + bytes.len() as u64;
        if end > file_size_limit() {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        match self.file.write_all_at(bytes, self.end) {
            Ok(()) => self.end = end,
            Err(error) => {
                let _ = self.file.set_len(self.end);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Checks that the descriptor leads to the file, and that the file has a name. Opens it again
    /// if necessary.
    fn check_alone(&mut self) -> io::Result<()> {
        if !self.is_at_descriptor() {
            let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(&self.path)?;
            if id(&file)? != self.id || file.metadata()?.len() < self.end {
                return Err(io::Error::other("other code closed its descriptor, and another file has its name"));
            }
            self.change(file);
        }
        match self.is_removed()? {
            false => Ok(()),
            true => Err(io::Error::new(io::ErrorKind::NotFound, "the file was removed")),
        }
    }

    /// Returns whether the file has no name any more. The path is not used, because in a sandbox or
    /// another root it may lead nowhere although others find the file.
    fn is_removed(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.nlink() == 0)
    }

    fn is_at_descriptor(&self) -> bool {
        id(&self.file).is_ok_and(|id| id == self.id)
    }

    /// Continues in `file`. The old descriptor's number may belong to other code by now.
    fn change(&mut self, file: File) {
        let old = mem::replace(&mut self.file, ManuallyDrop::new(claim::out_of_the_way(file)));
        claim::close_if(old, self.id);
    }

    /// Checks that others find the lines that are written next. Joins or creates a file if
    /// necessary.
    fn check_lines(&mut self) -> io::Result<()> {
        let here = self.is_at_descriptor();
        if here && !self.is_removed()? {
            return self.check_length();
        }
        let (file, is_new) = claim::join(&self.path)?;
        let new = id(&file)?;
        // If no descriptor is left, a new file may get the inode number of a removed one.
        if new == self.id && !is_new {
            self.change(file);
            return self.check_length();
        }
        let before = if here { self.read(self.file.metadata()?.len()) } else { Err(io::ErrorKind::NotFound.into()) };
        self.change(file);
        self.id = new;
        self.end = self.file.metadata()?.len();
        let lines = self.lines;
        match before {
            Ok(before) => {
                // The lines are counted again when they are written, and are lost otherwise.
                self.lines = 0;
                let foreign = (count_lines(&before) as u64).saturating_sub(lines);
                let result = self.append_lines(&before);
                self.lines = self.lines.saturating_sub(foreign);
                result
            }
            Err(_) => {
                self.lose_written();
                Ok(())
            }
        }
    }

    /// Counts the written lines as lost if the file was truncated.
    fn check_length(&mut self) -> io::Result<()> {
        if self.file.metadata()?.len() < self.end {
            self.lose_written();
        }
        Ok(())
    }

    fn lose_written(&mut self) {
        self.lost += mem::take(&mut self.lines);
        self.end = 0;
    }

    /// Appends whole lines at the end of the file, as many as there is room for. The rest is lost.
    fn append_lines(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.append_some(rest) {
                Ok(written) => {
                    let (done, behind) = rest.split_at(written);
                    self.lines += count_lines(done) as u64;
                    rest = behind;
                }
                Err(error) => {
                    self.lost += count_lines(rest) as u64;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Appends as many lines as one call writes, and returns their length in bytes.
    fn append_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.file.metadata()?.len();
        let mut last = [b'\n'];
        // If another writer ended in the middle of a line, one more line end keeps these lines
        // whole.
        if len > 0 && self.file.read_at(&mut last, len - 1)? == 1 && last != [b'\n'] {
            if len >= file_size_limit() {
                return Err(io::Error::from_raw_os_error(libc::EFBIG));
            }
            (&*self.file).write_all(b"\n")?;
        }
        let room = file_size_limit().saturating_sub(len + 1);
        let most = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
        let whole = whole_lines(&bytes[..most]);
        if whole == 0 {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        let written = match (&*self.file).write(&bytes[..whole]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        // The end of this write, even if others have appended since.
        self.end = (&*self.file).stream_position()?;
        let done = whole_lines(&bytes[..written]);
        self.blank(self.end - (written - done) as u64, written - done);
        if done == 0 && written > 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(done)
    }

    /// Overwrites the written part of a line with line ends, which readers skip.
    fn blank(&self, from: u64, len: usize) {
        if len == 0 {
            return;
        }
        let flags = |flags: libc::c_int| {
            // SAFETY: the call only sets flags of the description, which only this value uses.
            unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_SETFL, flags) }
        };
        // With `O_APPEND`, a write appends whatever its offset.
        flags(0);
        let _ = self.file.write_all_at(&vec![b'\n'; len], from);
        flags(libc::O_APPEND);
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // SAFETY: the file is taken once, because this is the drop of the value.
        let file = unsafe { ManuallyDrop::take(&mut self.file) };
        claim::close_if(ManuallyDrop::new(file), self.id);
    }
}

fn count_lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

/// Returns the number of bytes up to the last line end.
fn whole_lines(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)
}

fn file_size_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for the call to write to.
    let got = unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) };
    if got == 0 && limit.rlim_cur != libc::RLIM_INFINITY {
        // The limit's type is signed on some targets, and as wide as a pointer on others.
        #[allow(clippy::useless_conversion, clippy::unnecessary_fallible_conversions)]
        u64::try_from(limit.rlim_cur).unwrap_or(u64::MAX)
    } else {
        u64::MAX
    }
}
