//! The way out of every function: errors and panics become a status, and a message of this thread.

use std::borrow::Cow;
use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use jit::Error;

use crate::status::Status;

/// Why a call was not carried out.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The crate says why.
    Crate(Error),
    /// The parameter of this name is NULL.
    Null(&'static str),
    /// Something that C can say and the crate could not be told.
    Invalid(Cow<'static, str>),
    /// A function of the caller's that was to write code wrote none.
    Callback,
    /// A batch has `slots` slots, or data, and this is none of them.
    NoSlot { slot: usize, slots: usize },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Crate(error)
    }
}

impl Failure {
    fn status(&self) -> Status {
        match self {
            Self::Crate(error) => Status::from(error),
            Self::Null(_) => Status::NullPointer,
            Self::Invalid(_) => Status::InvalidArgument,
            Self::Callback => Status::Callback,
            Self::NoSlot { .. } => Status::OtherBatch,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crate(error) => {
                write!(f, "{error}")?;
                // What the system said.
                let source = std::error::Error::source(error);
                source.map_or(Ok(()), |source| write!(f, ": {source}"))
            }
            Self::Null(what) => write!(f, "{what} is NULL"),
            Self::Invalid(why) => f.write_str(why),
            Self::Callback => f.write_str("the function that was to write code returned 0"),
            Self::NoSlot { slot, slots } => write!(f, "slot {slot} is none of the {slots} of this batch"),
        }
    }
}

thread_local! {
    /// What went wrong last on this thread.
    static LAST: RefCell<Option<CString>> = const { RefCell::new(None) };
}

/// Carries a call out. No panic leaves it: to unwind into C is undefined.
pub(crate) fn status(body: impl FnOnce() -> Result<(), Failure>) -> Status {
    // What a panic leaves half done is reached through handles, and `Status::Panic` says what may
    // be done with these.
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => Status::Ok,
        Ok(Err(failure)) => {
            remember(&failure);
            failure.status()
        }
        Err(payload) => {
            let text = payload.downcast_ref::<&str>().copied();
            let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
            remember(&format_args!("a bug in gaia-jit: {}", text.unwrap_or("a panic without a message")));
            // Whatever it is, its drop may panic too.
            std::mem::forget(payload);
            Status::Panic
        }
    }
}

/// As [`status`], for functions that return a value: `none` if there is none.
pub(crate) fn value<T>(none: T, body: impl FnOnce() -> Result<T, Failure>) -> T {
    let mut result = none;
    status(|| {
        result = body()?;
        Ok(())
    });
    result
}

fn remember(what: &dyn fmt::Display) {
    // A message with a zero in it ends there for C in any case.
    let text: Vec<u8> = what.to_string().into_bytes().into_iter().take_while(|byte| *byte != 0).collect();
    // A thread at its very end has no place for it any more.
    let _ = LAST.try_with(|last| last.replace(CString::new(text).ok()));
}

/// What went wrong in the last call on this thread that did not succeed, as a sentence in English;
/// empty if nothing ever did. Never NULL. The string lives until the next call of this thread that
/// does not succeed, or until the thread ends.
#[unsafe(no_mangle)]
pub extern "C" fn gaia_jit_last_error_message() -> *const c_char {
    let last = LAST.try_with(|last| last.borrow().as_ref().map(|message| message.as_ptr()));
    last.ok().flatten().unwrap_or(c"".as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> String {
        // SAFETY: a C string, and no call of this thread fails meanwhile.
        let message = unsafe { std::ffi::CStr::from_ptr(gaia_jit_last_error_message()) };
        message.to_string_lossy().into_owned()
    }

    #[test]
    fn a_panic_is_a_status() {
        assert_eq!(message(), "");
        assert_eq!(status(|| panic!("out of {}", "order")), Status::Panic);
        assert_eq!(message(), "a bug in gaia-jit: out of order");
        assert_eq!(value(7, || panic!("again")), 7);
        assert_eq!(message(), "a bug in gaia-jit: again");
        assert_eq!(status(|| Ok(())), Status::Ok);
        assert_eq!(message(), "a bug in gaia-jit: again");
    }

    #[test]
    fn what_the_system_said_is_in_the_message() {
        let error = jit::CodeArena::builder().capacity(1 << 40).build().map(drop);
        assert_eq!(status(|| Ok(error?)), Status::TooLarge);
        assert!(message().starts_with("1099511627776 bytes asked for, at most "), "{}", message());
    }
}
