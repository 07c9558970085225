//! Tests on architectures that the crate does not support: an error that says so, and never a
//! silent success.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use gaia_jit::{CodeArena, Error, JitMemory};

#[test]
fn an_unknown_architecture_is_refused() {
    let known = cfg!(any(
        target_arch = "x86",
        target_arch = "x86_64",
        target_arch = "aarch64",
        target_arch = "arm",
        target_arch = "riscv32",
        target_arch = "riscv64",
        target_arch = "s390x"
    ));
    assert_eq!(CodeArena::new().is_ok(), known);
    assert_eq!(JitMemory::new(4096).is_ok(), known);
    if !known {
        assert!(matches!(CodeArena::new(), Err(Error::Unsupported { .. })));
        assert!(matches!(JitMemory::new(4096), Err(Error::Unsupported { .. })));
    }
}
