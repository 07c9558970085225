//! An observer for Intel's VTune Profiler.
//!
//! ```text
//! published, retired --> lock --> ittapi-sys (Intel's C code) --> collector (a shared library)
//! ```
//!
//! The profiler puts the path of its collector into the environment of the program that it starts.
//! The crate `ittapi-sys` loads that library once, and passes calls on to it. Neither the loading
//! nor the numbers of functions are safe for several threads, and nothing says that the collector
//! is. So one lock covers all of it.
//!
//! The crate `ittapi`, which wraps `ittapi-sys`, is not used, because it leaks three strings for
//! each function, and cannot report a retirement.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_void};
use std::fmt;
use std::ptr;

use ittapi_sys as itt;

use super::name;
use crate::sys::generation;
use crate::sys::process_lock::ProcessLock;
use crate::{BlockInfo, Observer, Published};

/// An observer that reports functions to Intel's VTune Profiler, by its JIT Profiling interface.
///
/// The profiler has to start the program (`vtune -collect hotspots ./program`). Alternatively, set
/// `INTEL_JIT_PROFILER64` (`INTEL_JIT_PROFILER32` on x86) to the path of its collector. Without a
/// collector nothing is reported, and a publication costs one comparison more.
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
/// Functions appear by their names in the module `gaia_jit`. A function of 4 GiB or more is not
/// reported, because the interface cannot express its size.
///
/// It was tested with a collector that writes the reports to a file. VTune itself was never run.
///
/// # Signal safety
///
/// No call is safe in a signal handler, because each takes a lock.
///
/// # Fork
///
/// A forked child reports nothing by an inherited value, because the collector belongs to the
/// parent. A value that is made in the child looks for a collector as any other.
pub struct VTune {
    /// The process that loaded a collector. `None` if there was no collector.
    collected: Option<u64>,
}

/// The collector's number of each function, by address.
static NUMBERS: ProcessLock<BTreeMap<usize, u32>> = ProcessLock::new(BTreeMap::new());

const MODULE: &[u8] = b"gaia_jit\0";

impl VTune {
    /// Loads the collector if there is one. [`VTune::is_active`] says whether there is; its absence
    /// is no error.
    #[must_use]
    pub fn new() -> Self {
        let active = NUMBERS.lock().is_some_and(|_alone| {
            // SAFETY: the call requires that no other thread loads the collector, and the lock is
            // held.
            let running = unsafe { itt::iJIT_IsProfilingActive() };
            running != itt::_iJIT_IsProfilingActiveFlags_iJIT_NOTHING_RUNNING
        });
        Self { collected: active.then(generation) }
    }

    /// Returns whether functions are reported to a collector. False without a collector, and in a
    /// forked child of the process that made this value.
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
            // Names have no zeros, because `push` replaced them.
            let (Ok(text), Ok(len)) = (CString::new(text), u32::try_from(function.block.len)) else { continue };
            let Some(mut numbers) = NUMBERS.lock() else { return };
            // SAFETY: the call requires that no other thread is in it, and the lock is held.
            let number = unsafe { itt::iJIT_GetNewMethodID() };
            // Zero means that there are no more numbers.
            if number != 0 {
                numbers.insert(function.block.start.addr(), number);
                notify(
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
        notify(
            itt::iJIT_jvm_event_iJVM_EVENT_TYPE_METHOD_UNLOAD_START,
            &mut itt::iJIT_Method_Load {
                method_id: number,
                method_name: ptr::null_mut(),
                method_load_address: block.start.cast::<c_void>().cast_mut(),
                // The length fitted when the function was reported.
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

/// Reports one event. The caller holds the lock.
fn notify<T>(event: itt::iJIT_jvm_event, data: &mut T) {
    // SAFETY: `data` is of the type that Intel's header names for this kind of event. Its strings
    // outlive the call, and the collector copies what it keeps.
    unsafe { itt::iJIT_NotifyEvent(event, ptr::from_mut(data).cast()) };
}

impl fmt::Debug for VTune {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VTune").field("is_active", &self.is_active()).finish()
    }
}
