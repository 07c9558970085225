//! Names for Intel's VTune Profiler.
//!
//! The profiler puts the path of its collector, a shared library, into the environment of the
//! program it starts. The crate `ittapi-sys` (Intel's own C code) loads that library, once, and
//! passes calls on to it. Neither the loading nor the numbers of functions are safe for several
//! threads, and nothing says that the collector is, so one lock covers all of it.
//!
//! (Not the crate `ittapi` over it: it leaks three strings for each function, and knows no
//! retirement.)

use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_void};
use std::fmt;
use std::ptr;

use ittapi_sys as itt;

use super::name;
use crate::sys::generation;
use crate::sys::process_lock::ProcessLock;
use crate::{BlockInfo, Observer, Published};

/// Tells Intel's VTune Profiler of functions, by its JIT Profiling interface.
///
/// The profiler has to start the program (`vtune -collect hotspots ./program`), or set
/// `INTEL_JIT_PROFILER64` (`INTEL_JIT_PROFILER32` on x86) to its collector for it. Without a
/// collector nothing is told, and a publication costs one comparison more.
///
/// ```
/// use std::sync::Arc;
/// use gaia_jit::{Code, CodeArena, observe::VTune};
///
/// let arena = CodeArena::builder().capacity(1 << 20).observer(Arc::new(VTune::new())).build()?;
/// let block = arena.publish(Code::new(&[0xc3]).name("nothing"))?;
/// # Ok::<(), gaia_jit::Error>(())
/// ```
///
/// Functions appear by their names in the module `gaia_jit`. One of 4 GiB or more, which the
/// interface cannot express, is not told of.
///
/// Tested with a collector that writes down what it is told. VTune itself was never run.
///
/// # Fork
///
/// A forked child tells the collector nothing, because the collector belongs to its parent. One
/// made in a child starts as any other.
pub struct VTune {
    /// The process that asked for a collector, if there was one.
    collected: Option<u64>,
}

/// What the collector knows each function as, by address.
static NUMBERS: ProcessLock<BTreeMap<usize, u32>> = ProcessLock::new(BTreeMap::new());

const MODULE: &[u8] = b"gaia_jit\0";

impl VTune {
    /// Asks whether there is a collector, and loads it. An absent one is no error: see
    /// [`VTune::is_active`].
    #[must_use]
    pub fn new() -> Self {
        let active = NUMBERS.lock().is_some_and(|_alone| {
            // SAFETY: has no requirements but that no other thread is loading it, and the lock is
            // held.
            let running = unsafe { itt::iJIT_IsProfilingActive() };
            running != itt::_iJIT_IsProfilingActiveFlags_iJIT_NOTHING_RUNNING
        });
        Self { collected: active.then(generation) }
    }

    /// Whether a collector hears of functions: in this process, and not in a child of the one that
    /// made this.
    pub fn is_active(&self) -> bool {
        self.collected.is_some_and(|process| process == generation())
    }
}

impl Default for VTune {
    fn default() -> Self {
        Self::new()
    }
}

impl Observer for VTune {
    fn published(&self, functions: &[Published<'_>]) {
        if !self.is_active() {
            return;
        }
        for function in functions {
            let mut text = Vec::new();
            name::push(&mut text, function);
            // Names have no zeros: those were replaced.
            let (Ok(text), Ok(len)) = (CString::new(text), u32::try_from(function.block.len)) else { continue };
            let Some(mut numbers) = NUMBERS.lock() else { return };
            // SAFETY: has no requirements but that no other thread is in it, and the lock is held.
            let number = unsafe { itt::iJIT_GetNewMethodID() };
            // Zero when there are no more.
            if number != 0 {
                numbers.insert(function.block.start.addr(), number);
                tell(
                    itt::iJIT_jvm_event_iJVM_EVENT_TYPE_METHOD_LOAD_FINISHED_V2,
                    &mut itt::iJIT_Method_Load_V2 {
                        method_id: number,
                        method_name: text.as_ptr().cast_mut(),
                        method_load_address: function.block.start.cast::<c_void>().cast_mut(),
                        method_size: len,
                        line_number_size: 0,
                        line_number_table: ptr::null_mut(),
                        class_file_name: ptr::null_mut(),
                        source_file_name: ptr::null_mut(),
                        module_name: MODULE.as_ptr().cast::<c_char>().cast_mut(),
                    },
                );
            }
        }
    }

    fn retired(&self, block: &BlockInfo) {
        if !self.is_active() {
            return;
        }
        let Some(mut numbers) = NUMBERS.lock() else { return };
        let Some(number) = numbers.remove(&block.start.addr()) else { return };
        tell(
            itt::iJIT_jvm_event_iJVM_EVENT_TYPE_METHOD_UNLOAD_START,
            &mut itt::iJIT_Method_Load {
                method_id: number,
                method_name: ptr::null_mut(),
                method_load_address: block.start.cast::<c_void>().cast_mut(),
                // It fitted when it was told of.
                method_size: block.len as u32,
                line_number_size: 0,
                line_number_table: ptr::null_mut(),
                class_id: 0,
                class_file_name: ptr::null_mut(),
                source_file_name: ptr::null_mut(),
            },
        );
    }
}

/// One event. The lock is held.
fn tell<T>(event: itt::iJIT_jvm_event, data: &mut T) {
    // SAFETY: each kind of event has the data that Intel's header names for it, with strings that
    // outlive the call; the collector copies what it keeps.
    unsafe { itt::iJIT_NotifyEvent(event, ptr::from_mut(data).cast()) };
}

impl fmt::Debug for VTune {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VTune").field("is_active", &self.is_active()).finish()
    }
}
