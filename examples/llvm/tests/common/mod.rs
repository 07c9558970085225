//! What the tests share.
#![allow(dead_code, reason = "no test uses all of it")]

use std::error::Error;
use std::ops::Range;

use gaia_jit::CodeArena;

pub type TestResult = Result<(), Box<dyn Error>>;

pub fn arena() -> CodeArena {
    CodeArena::builder().capacity(32 << 20).build().expect("an arena")
}

/// An arena that short absolute addresses reach.
pub fn low_arena() -> Option<CodeArena> {
    CodeArena::builder().capacity(32 << 20).near(std::ptr::null()).build().ok()
}

/// What `/proc/self/maps` says of an address: `r-x`.
pub fn protection(address: usize) -> Result<String, Box<dyn Error>> {
    let all = all_mappings()?;
    let found = all.iter().find(|(range, _)| range.contains(&address));
    Ok(found.ok_or_else(|| format!("nothing is mapped at {address:#x}"))?.1.clone())
}

/// How many mappings an arena has, but for what nobody may access.
pub fn mappings(arena: &CodeArena) -> Result<usize, Box<dyn Error>> {
    let inside = |range: &Range<usize>| arena.contains(std::ptr::without_provenance(range.start));
    Ok(all_mappings()?.iter().filter(|(range, rights)| inside(range) && rights != "---").count())
}

/// A range of addresses, and what is allowed there.
type Mapping = (Range<usize>, String);

/// The mappings of this process.
fn all_mappings() -> Result<Vec<Mapping>, Box<dyn Error>> {
    let mut all = Vec::new();
    for line in std::fs::read_to_string("/proc/self/maps")?.lines() {
        let mut words = line.split(' ');
        let (start, end) = words.next().and_then(|range| range.split_once('-')).ok_or("a line without a range")?;
        let range = usize::from_str_radix(start, 16)?..usize::from_str_radix(end, 16)?;
        all.push((range, words.next().unwrap_or_default().chars().take(3).collect()));
    }
    Ok(all)
}

/// Address space of the program's own, without memory.
pub struct Far(*mut libc::c_void, usize);

impl Far {
    pub fn new(len: usize) -> Self {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping, wherever there is room.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        Self(at, len)
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and used by nobody.
        unsafe { libc::munmap(self.0, self.1) };
    }
}
