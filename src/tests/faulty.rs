//! A system that counts what it is asked, refuses what it is told to, and knows what was not given
//! back.
//!
//! It stands before the real system: a call that is not refused is made. An arena under test is
//! built with `ArenaBuilder::os`, and never knows.
//!
//! | to refuse | call |
//! |---|---|
//! | the n-th call from now on | `fail_nth` |
//! | one call of so many, by a seed | `fail_randomly` |
//! | every call of some kinds | `refuse` |
//! | kernel writes to pages that are not writable, as hardened kernels do | `refuse(&["forced write"])` |
//! | every call of one kind from the n-th call on, as a policy that comes late | `forbid` |
//! | nothing any more | `heal` |
//!
//! `take_log` returns the calls by name, and `mapped` the bytes that are still reserved, so that a
//! test sees what was lost.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::io;
use std::ptr::NonNull;

use crate::sync::Mutex;
use crate::sys::{Access, CodeFile, KernelWriter, Native, Os, Place, Refused, Result, SharedMemory, Span, WriteWindow};

/// Something to be done in the midst of a call.
#[derive(Default)]
struct Hook(Option<Box<dyn FnOnce() + Send>>);

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hook")
    }
}

#[derive(Debug, Default)]
pub(crate) struct Faulty {
    /// Called once, within the next call that gives private memory back.
    in_decommit: Mutex<Hook>,
    /// Bytes in a page, if not what they really are.
    page: Option<usize>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    log: Vec<&'static str>,
    /// Calls until one fails; `None` lets all pass.
    countdown: Option<usize>,
    /// Fails one call in so many, as the dice fall.
    dice: Option<(fastrand::Rng, u32)>,
    /// Calls that always fail, by name.
    refused: Vec<&'static str>,
    /// A call that a policy forbids, by name, from so many calls on.
    forbidden: Option<(&'static str, usize)>,
    /// Mapped and not released.
    mapped: BTreeMap<usize, usize>,
}

impl Faulty {
    /// Does something in the midst of the next call that gives private memory back.
    #[cfg(test)]
    pub(crate) fn in_decommit(&self, hook: impl FnOnce() + Send + 'static) {
        self.in_decommit.lock().0 = Some(Box::new(hook));
    }

    pub(crate) fn leaked() -> &'static Self {
        Self::default().leak()
    }

    /// A system whose pages are larger than the real one's: it checks that nobody asks for parts of
    /// them.
    #[cfg(test)]
    pub(crate) fn leaked_with_pages(page: usize) -> &'static Self {
        Self { page: Some(page.max(Native.page_size())), ..Self::default() }.leak()
    }

    /// Kept in sight, so that leak checkers look for other leaks.
    fn leak(self) -> &'static Self {
        static ALL: Mutex<Vec<&'static Faulty>> = Mutex::new(Vec::new());
        let system: &'static Self = Box::leak(Box::new(self));
        ALL.lock().push(system);
        system
    }

    fn check_pages(&self, span: Span) {
        assert_eq!(span.len % self.page_size(), 0, "part of a page");
        // A single mapping begins where the real system puts it.
        let mapped = self.state.lock().mapped.contains_key(&span.address());
        assert!(mapped || span.len == 0 || self.page.is_none_or(|page| (span.address() % page) == 0), "amid a page");
    }

    /// The `n`-th call from now, from 0, fails; the others pass.
    pub(crate) fn fail_nth(&self, n: usize) {
        self.state.lock().countdown = Some(n);
    }

    /// One call in `one_in` fails, from a seed.
    #[cfg(test)]
    pub(crate) fn fail_randomly(&self, seed: u64, one_in: u32) {
        self.state.lock().dice = Some((fastrand::Rng::with_seed(seed), one_in));
    }

    /// Whether the call that was to fail has been made.
    pub(crate) fn has_failed(&self) -> bool {
        self.state.lock().countdown.is_none()
    }

    pub(crate) fn refuse(&self, calls: &[&'static str]) {
        self.state.lock().refused = calls.to_vec();
    }

    /// A policy forbids `call` once `n` more calls, of whatever kind, were made. It does nothing
    /// then.
    #[cfg(test)]
    pub(crate) fn forbid(&self, call: &'static str, n: usize) {
        self.state.lock().forbidden = Some((call, n));
    }

    pub(crate) fn heal(&self) {
        let mut state = self.state.lock();
        state.countdown = None;
        state.forbidden = None;
        state.dice = None;
        state.refused.clear();
    }

    /// The calls since the last look.
    pub(crate) fn take_log(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.state.lock().log)
    }

    pub(crate) fn mapped(&self) -> usize {
        self.state.lock().mapped.len()
    }

    fn enter(&self, call: &'static str) -> Result<()> {
        let mut state = self.state.lock();
        state.log.push(call);
        let nth = match &mut state.countdown {
            Some(0) => {
                state.countdown = None;
                true
            }
            Some(n) => {
                *n -= 1;
                false
            }
            None => false,
        };
        if let Some((forbidden, left)) = &mut state.forbidden {
            if *left == 0 && *forbidden == call {
                return Err(Refused::new(call, io::ErrorKind::PermissionDenied.into()));
            }
            *left = left.saturating_sub(1);
        }
        let unlucky = state.dice.as_mut().is_some_and(|(dice, one_in)| dice.u32(..*one_in) == 0);
        if nth || unlucky || state.refused.contains(&call) {
            return Err(Refused::new(call, io::ErrorKind::OutOfMemory.into()));
        }
        Ok(())
    }

    fn note(&self, span: Result<Span>) -> Result<Span> {
        span.inspect(|span| {
            self.state.lock().mapped.insert(span.address(), span.len);
        })
    }
}

impl Os for Faulty {
    fn page_size(&self) -> usize {
        self.page.unwrap_or_else(|| Native.page_size())
    }

    fn commits(&self) -> bool {
        Native.commits()
    }

    fn returns_shared(&self) -> bool {
        Native.returns_shared()
    }

    fn leaves_executable(&self) -> bool {
        Native.leaves_executable()
    }

    fn map(&self, len: usize) -> Result<Span> {
        self.enter("map")?;
        self.note(Native.map(len))
    }

    fn reserve(&self, place: &Place) -> Result<Span> {
        self.enter("reserve")?;
        self.note(Native.reserve(place))
    }

    unsafe fn protect(&self, span: Span, access: Access) -> Result<()> {
        self.check_pages(span);
        let call = match access {
            Access::ReadWrite => "open",
            Access::Read => "bar",
            Access::ReadExecute | Access::ReadExecuteLanding => "seal",
        };
        if let Err(refused) = self.enter(call) {
            if refused.source.kind() == io::ErrorKind::PermissionDenied {
                return Err(refused);
            }
            // The worst refusal: the system changes one mapping after another, and half of them
            // were.
            let half = Span { len: (span.len / 2) & !(self.page_size() - 1), ..span };
            if half.len > 0 {
                // SAFETY: a part of what is passed on to the caller.
                unsafe { Native.protect(half, access)? };
            }
            return Err(refused);
        }
        // SAFETY: passed on to the caller.
        unsafe { Native.protect(span, access) }
    }

    unsafe fn decommit(&self, span: Span) -> Result<()> {
        self.check_pages(span);
        self.enter("decommit")?;
        let hook = self.in_decommit.lock().0.take();
        hook.into_iter().for_each(|hook| hook());
        // SAFETY: passed on to the caller.
        unsafe { Native.decommit(span) }
    }

    fn is_executable(&self, span: Span) -> bool {
        Native.is_executable(span)
    }

    unsafe fn replace(&self, span: Span, access: Access) -> Result<()> {
        self.check_pages(span);
        self.enter("replace")?;
        // SAFETY: passed on to the caller.
        unsafe { Native.replace(span, access) }
    }

    unsafe fn release(&self, span: Span) -> Result<()> {
        self.enter("release")?;
        // SAFETY: passed on to the caller.
        unsafe { Native.release(span) }?;
        assert_eq!(self.state.lock().mapped.remove(&span.address()), Some(span.len), "released what was not mapped");
        Ok(())
    }

    unsafe fn name(&self, span: Span, name: &CStr) -> Result<()> {
        self.check_pages(span);
        self.enter("name")?;
        // SAFETY: passed on to the caller.
        unsafe { Native.name(span, name) }
    }

    unsafe fn set_dumped(&self, span: Span, yes: bool) -> Result<()> {
        self.check_pages(span);
        self.enter("dump")?;
        // SAFETY: passed on to the caller.
        unsafe { Native.set_dumped(span, yes) }
    }

    unsafe fn advise_huge(&self, span: Span) -> Result<()> {
        self.enter("huge")?;
        // SAFETY: passed on to the caller.
        unsafe { Native.advise_huge(span) }
    }

    unsafe fn collapse(&self, span: Span) -> Result<()> {
        self.check_pages(span);
        self.enter("collapse")?;
        // SAFETY: passed on to the caller.
        unsafe { Native.collapse(span) }
    }

    unsafe fn populate(&self, span: Span) -> Result<()> {
        self.enter("populate")?;
        // SAFETY: passed on to the caller.
        unsafe { Native.populate(span) }
    }

    fn open_kernel_writer(&self) -> Result<KernelWriter> {
        self.enter("writer")?;
        Native.open_kernel_writer()
    }

    unsafe fn kernel_write(&self, writer: &KernelWriter, at: NonNull<u8>, bytes: &[u8]) -> Result<()> {
        if let Err(refused) = self.enter("write") {
            if refused.source.kind() == io::ErrorKind::PermissionDenied {
                return Err(refused);
            }
            // The worst refusal: half of it was written.
            // SAFETY: a part of what is passed on to the caller.
            unsafe { Native.kernel_write(writer, at, &bytes[..bytes.len() / 2])? };
            return Err(refused);
        }
        if self.state.lock().refused.contains(&"forced write") && !is_writable(at) {
            return Err(Refused::new("pwrite to /proc/self/mem", io::Error::from_raw_os_error(5)));
        }
        // SAFETY: passed on to the caller.
        unsafe { Native.kernel_write(writer, at, bytes) }
    }

    fn kernel_read(&self, writer: &KernelWriter, at: NonNull<u8>, bytes: &mut [u8]) -> Result<()> {
        self.enter("read")?;
        Native.kernel_read(writer, at, bytes)
    }

    unsafe fn freeze(&self, span: Span) -> Result<()> {
        self.enter("freeze")?;
        // SAFETY: passed on to the caller.
        unsafe { Native.freeze(span) }
    }

    fn reserve_window(&self, place: &Place) -> Result<Span> {
        self.enter("reserve")?;
        self.note(Native.reserve_window(place))
    }

    unsafe fn make_window(&self, span: Span) -> Result<WriteWindow> {
        self.enter("make window")?;
        // SAFETY: passed on to the caller.
        unsafe { Native.make_window(span) }
    }

    unsafe fn window_write(&self, window: &WriteWindow, at: NonNull<u8>, bytes: &[u8]) -> Result<()> {
        self.enter("window write")?;
        // SAFETY: passed on to the caller.
        unsafe { Native.window_write(window, at, bytes) }
    }

    unsafe fn protect_window(&self, window: &WriteWindow, span: Span, executable: bool) -> Result<()> {
        self.check_pages(span);
        self.enter(if executable { "seal" } else { "bar" })?;
        // SAFETY: passed on to the caller.
        unsafe { Native.protect_window(window, span, executable) }
    }

    unsafe fn decommit_window(&self, span: Span) -> Result<()> {
        self.check_pages(span);
        self.enter("decommit")?;
        let hook = self.in_decommit.lock().0.take();
        hook.into_iter().for_each(|hook| hook());
        // SAFETY: passed on to the caller.
        unsafe { Native.decommit_window(span) }
    }

    fn share(&self, len: usize) -> Result<SharedMemory> {
        self.enter("share")?;
        Native.share(len)
    }

    fn map_executable(&self, memory: &SharedMemory, place: &Place, access: Access) -> Result<Span> {
        self.enter("map executable")?;
        self.note(Native.map_executable(memory, place, access))
    }

    fn map_writable(&self, memory: &SharedMemory, len: usize) -> Result<Span> {
        self.enter("map writable")?;
        self.note(Native.map_writable(memory, len))
    }

    unsafe fn commit_shared(&self, executable: Span, writable: Span) -> Result<()> {
        if self.commits() {
            self.enter("commit shared")?;
        }
        // SAFETY: passed on to the caller.
        unsafe { Native.commit_shared(executable, writable) }
    }

    unsafe fn decommit_shared(&self, span: Span) -> Result<()> {
        self.enter("decommit shared")?;
        // SAFETY: passed on to the caller.
        unsafe { Native.decommit_shared(span) }
    }

    unsafe fn unlock_shared(&self, view: Span) -> Result<()> {
        self.enter("unlock")?;
        // SAFETY: passed on to the caller.
        unsafe { Native.unlock_shared(view) }
    }

    fn create_code_file(&self, len: usize, name: Option<&CStr>) -> Result<CodeFile> {
        self.enter("create file")?;
        Native.create_code_file(len, name)
    }

    fn map_code_file(&self, file: &CodeFile, place: &Place, access: Access) -> Result<Span> {
        self.enter("map file")?;
        self.note(Native.map_code_file(file, place, access))
    }

    unsafe fn write_code_file(&self, file: &CodeFile, offset: usize, bytes: &[u8]) -> Result<()> {
        if let Err(refused) = self.enter("write") {
            // The worst refusal: half of it was written.
            // SAFETY: a part of what is passed on to the caller.
            unsafe { Native.write_code_file(file, offset, &bytes[..bytes.len() / 2])? };
            return Err(refused);
        }
        // SAFETY: passed on to the caller.
        unsafe { Native.write_code_file(file, offset, bytes) }
    }

    unsafe fn prefault_code_file(&self, file: &CodeFile, offset: usize, len: usize) -> Result<()> {
        assert_eq!((offset % self.page_size(), len % self.page_size()), (0, 0), "part of a page");
        if let Err(refused) = self.enter("prefault") {
            // The worst refusal: half of it was written.
            // SAFETY: a part of what is passed on to the caller.
            unsafe { Native.prefault_code_file(file, offset, len / 2)? };
            return Err(refused);
        }
        // SAFETY: passed on to the caller.
        unsafe { Native.prefault_code_file(file, offset, len) }
    }

    unsafe fn decommit_code_file(&self, file: &CodeFile, offset: usize, len: usize) -> Result<()> {
        assert_eq!((offset % self.page_size(), len % self.page_size()), (0, 0), "part of a page");
        self.enter("decommit")?;
        let hook = self.in_decommit.lock().0.take();
        hook.into_iter().for_each(|hook| hook());
        // SAFETY: passed on to the caller.
        unsafe { Native.decommit_code_file(file, offset, len) }
    }
}

/// Returns whether this process may store to an address.
fn is_writable(at: NonNull<u8>) -> bool {
    #[cfg(target_os = "linux")]
    return super::common::maps::mappings(at.as_ptr().addr(), 1).iter().any(|rights| rights.contains('w'));
    #[cfg(not(target_os = "linux"))]
    unreachable!("a kernel write to {at:?}")
}
