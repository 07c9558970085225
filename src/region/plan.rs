//! What a region should be like, and what it means when the system has no place for it.
#![forbid(unsafe_code)]

use std::ffi::CString;
use std::io;

use crate::Error;
use crate::sys::{Access, Os, Place, Refused};
use crate::units::BRANCH_REACH;

/// What a new region should be like.
pub(crate) struct Plan {
    pub(crate) len: usize,
    /// Bytes of data beside it.
    pub(crate) data: usize,
    pub(crate) near: Option<usize>,
    pub(crate) huge_pages: bool,
    /// Indirect branches may arrive at landing pads only.
    pub(crate) landing_pads: bool,
    pub(crate) freeze: bool,
    /// What is not code is to be traps.
    pub(crate) poison: bool,
    /// What the system is to call the mappings.
    pub(crate) name: Option<CString>,
}

/// A refusal while a mode is set up: a policy's doing is `Unsupported`, all else is the system's
/// error as it is.
pub(crate) fn refusal(mode: &'static str) -> impl Fn(Refused) -> Error {
    move |refused| match refused.source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput => {
            Error::unsupported(mode, format!("{} is refused: {}", refused.call, refused.source))
        }
        _ => refused.into(),
    }
}

impl Plan {
    /// What pages with code may be used for.
    pub(crate) fn executable(&self) -> Access {
        if self.landing_pads { Access::ReadExecuteLanding } else { Access::ReadExecute }
    }

    pub(crate) fn place(&self, os: &dyn Os) -> Result<Place, Error> {
        let place = Place::new(self.len, self.data, os.page_size());
        let place = place.ok_or(Error::TooLarge { asked: self.len, limit: BRANCH_REACH })?;
        // Branches have to reach the code; data may lie a little farther.
        Ok(match self.near {
            Some(address) => place.near(address, BRANCH_REACH),
            None => place,
        })
    }

    /// What the refusal of a reservation means.
    pub(crate) fn out_of_reach(&self, place: &Place) -> impl Fn(Refused) -> Error {
        let (near, len) = (self.near, place.total());
        move |refused| match near {
            Some(address) if refused.source.kind() == io::ErrorKind::AddrNotAvailable => {
                Error::OutOfReach { address, len, reach: BRANCH_REACH }
            }
            _ => refused.into(),
        }
    }

    /// The same, where a refusal can be a policy's against the mode.
    pub(crate) fn no_place(&self, mode: &'static str, place: &Place, refused: Refused) -> Error {
        match self.out_of_reach(place)(refused) {
            Error::OperatingSystem { call, bytes, source, .. } => refusal(mode)(Refused { call, source, bytes }),
            other => other,
        }
    }
}
