//! The profilers and debuggers that the example reports its code to, depending on the crate's
//! features.

use gaia_jit::ArenaBuilder;

use crate::common::failure::Failure;
use crate::options::{Options, Perf};

pub(crate) fn add(builder: ArenaBuilder, options: &Options) -> Result<ArenaBuilder, Failure> {
    let builder = match options.perf {
        None => builder,
        Some(Perf::Map) => perf_map(builder)?,
        Some(Perf::Jitdump) => jitdump(builder)?,
    };
    if options.gdb { gdb(builder) } else { Ok(builder) }
}

#[cfg(all(feature = "perf", target_os = "linux"))]
fn perf_map(builder: ArenaBuilder) -> Result<ArenaBuilder, Failure> {
    let map = gaia_jit::observe::PerfMap::new().map_err(|error| Failure::Input(format!("--perf map: {error}")))?;
    println!("perf map: {}", map.path().display());
    Ok(builder.observer(std::sync::Arc::new(map)))
}

#[cfg(all(feature = "perf", target_os = "linux"))]
fn jitdump(builder: ArenaBuilder) -> Result<ArenaBuilder, Failure> {
    let dump = gaia_jit::observe::Jitdump::new().map_err(|error| Failure::Input(format!("--perf jitdump: {error}")))?;
    println!("jitdump: {}", dump.path().display());
    Ok(builder.observer(std::sync::Arc::new(dump)))
}

#[cfg(not(all(feature = "perf", target_os = "linux")))]
fn perf_map(_: ArenaBuilder) -> Result<ArenaBuilder, Failure> {
    Err(Failure::Input("--perf needs Linux, and cargo's --features perf".to_owned()))
}

#[cfg(not(all(feature = "perf", target_os = "linux")))]
use perf_map as jitdump;

#[cfg(all(feature = "gdb", unix, not(target_vendor = "apple")))]
fn gdb(builder: ArenaBuilder) -> Result<ArenaBuilder, Failure> {
    let gdb = gaia_jit::observe::Gdb::new().map_err(|error| Failure::Input(format!("--gdb: {error}")))?;
    Ok(builder.observer(std::sync::Arc::new(gdb)))
}

#[cfg(not(all(feature = "gdb", unix, not(target_vendor = "apple"))))]
fn gdb(_: ArenaBuilder) -> Result<ArenaBuilder, Failure> {
    Err(Failure::Input("--gdb needs a system with ELF, and cargo's --features gdb".to_owned()))
}
