//! The plan of a new region, and the meaning of refused reservations.
#![forbid(unsafe_code)]

use std::ffi::CString;
use std::io;

use crate::Error;
use crate::sys::{Access, Os, Place, Refused};
use crate::units::BRANCH_REACH;

/// The properties of a new region.
pub(crate) struct Plan {
    pub(crate) len: usize,
    /// The bytes of data beside the code.
    pub(crate) data: usize,
    pub(crate) near: Option<usize>,
    pub(crate) huge_pages: bool,
    /// Whether indirect branches may arrive at landing pads only.
    pub(crate) landing_pads: bool,
    pub(crate) freeze: bool,
    /// Whether everything that is not code is filled with traps.
    pub(crate) poison: bool,
    /// The name of the mappings.
    pub(crate) name: Option<CString>,
}

/// Converts a refusal while a mode is set up. A refusal by a policy becomes [`Error::Unsupported`].
/// Every other refusal stays the system's error.
pub(crate) fn refusal(mode: &'static str) -> impl Fn(Refused) -> Error {
    move |refused| match refused.source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput => {
            Error::unsupported(mode, format!("{} is refused: {}", refused.call, refused.source))
        }
        _ => refused.into(),
    }
}

impl Plan {
    /// Returns the protection of pages with code.
    pub(crate) fn executable(&self) -> Access {
        if self.landing_pads { Access::ReadExecuteLanding } else { Access::ReadExecute }
    }

    pub(crate) fn place(&self, os: &dyn Os) -> Result<Place, Error> {
        let place = Place::new(self.len, self.data, os.page_size());
        let place = place.ok_or(Error::TooLarge { asked: self.len, limit: BRANCH_REACH })?;
        // Branches have to reach the code. Data may lie a little farther away.
        Ok(match self.near {
            Some(address) => place.near(address, BRANCH_REACH),
            None => place,
        })
    }

    /// Converts the refusal of a reservation.
    pub(crate) fn out_of_reach(&self, place: &Place) -> impl Fn(Refused) -> Error {
        let (near, len) = (self.near, place.total());
        move |refused| match near {
            Some(address) if refused.source.kind() == io::ErrorKind::AddrNotAvailable => {
                Error::OutOfReach { address, len, reach: BRANCH_REACH }
            }
            _ => refused.into(),
        }
    }

    /// Converts the refusal of a reservation where a policy may refuse the mode.
    pub(crate) fn no_place(&self, mode: &'static str, place: &Place, refused: Refused) -> Error {
        match self.out_of_reach(place)(refused) {
            Error::OperatingSystem { call, bytes, source, .. } => refusal(mode)(Refused { call, source, bytes }),
            other => other,
        }
    }
}
