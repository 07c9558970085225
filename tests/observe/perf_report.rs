//! Tests with perf itself: it reads perf maps and jitdumps, in every mode.

use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::common::{self, asm, modes, small};
use gaia_jit::observe::{Jitdump, PerfMap};
use gaia_jit::{Code, Observer, WxMode};

/// Not a test by itself: [`perf_report_names_functions`] profiles it.
#[test]
fn profiled() {
    let Ok(what) = std::env::var("GAIA_TEST_PROFILED") else { return };
    let mode = [WxMode::Flip, WxMode::DualMap, WxMode::PerThread, WxMode::FileWrite]
        .into_iter()
        .find(|mode| what.contains(&format!("{mode:?}")));
    let is_late = what.contains("late");
    let (observer, path): (Arc<dyn Observer>, _) = if what.contains("map") {
        let map = Arc::new(PerfMap::new().unwrap());
        let path = map.path().to_owned();
        (map, path)
    } else {
        let dump = Arc::new(Jitdump::new().unwrap());
        let path = dump.path().to_owned();
        (dump, path)
    };
    println!("written: {}", path.display());
    let builder = small(mode.unwrap());
    let builder = if is_late { builder.keep_notes(true) } else { builder.observer(observer.clone()) };
    let arena = builder.build().unwrap();
    // An earlier function at the same address. A jitdump distinguishes the two, a map does not.
    let _guard = what.contains("map").then(|| arena.pin());
    drop(arena.publish(Code::new(&asm::padded(1, asm::spin().len())).name("jit_was_here_before")).unwrap());
    let name = if what.contains("short") { "f" } else { "jit_hot_loop" };
    let block = arena.publish(Code::new(&asm::spin()).name(name)).unwrap();
    if is_late {
        arena.attach(observer).unwrap();
    }
    // SAFETY: takes a flag, and returns when it is set.
    let spin = unsafe { block.as_fn::<unsafe extern "C" fn(*const std::sync::atomic::AtomicU32) -> u32>() };
    let flag = std::sync::atomic::AtomicU32::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(500));
            flag.store(1, std::sync::atomic::Ordering::Relaxed);
        });
        // SAFETY: the block and the flag are alive.
        assert_eq!(unsafe { spin(&raw const flag) }, 1);
    });
}

#[test]
fn perf_report_names_functions() {
    const NAME: &str = "perf_report_names_functions";
    if std::env::var_os("CROSS_RUNNER").is_some() {
        return common::not_run(NAME, "perf would see the emulator");
    }
    let directory = std::env::temp_dir().join(format!("gaia-jit-perf-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let (data, injected) = (directory.join("perf.data"), directory.join("injected.data"));
    let perf = |arguments: &[&str], rest: &[&std::ffi::OsStr], what: &str| {
        let mut perf = std::process::Command::new("perf");
        perf.args(arguments).args(rest).env("JITDUMPDIR", &directory).env("GAIA_TEST_PROFILED", what);
        perf.output().ok().map(|output| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (output.status.success(), text(&output.stdout), text(&output.stderr))
        })
    };
    let test = std::env::current_exe().unwrap();
    let profiled = common::child::name_in(module_path!(), "profiled");
    // Late observers are attached to an arena in which the function lives already.
    let observers = ["map", "dump", "late map", "late dump"];
    let every = modes().flat_map(|mode| observers.map(|observer| format!("{observer} in {mode:?}")));
    // `perf` skips lines with names of one or two bytes.
    for what in every.chain(["short map in Flip".into(), "short dump in Flip".into()]) {
        let clock: &[&str] = if what.contains("dump") { &["-k", "mono"] } else { &[] };
        let record = [&["record", "-q", "-e", "cpu-clock:u"], clock, &["-o"]].concat();
        let rest = [
            data.as_os_str(),
            "--".as_ref(),
            test.as_os_str(),
            "--exact".as_ref(),
            profiled.as_ref(),
            "--nocapture".as_ref(),
        ];
        let Some((recorded, out, error)) = perf(&record, &rest, &what) else {
            return common::not_run(NAME, "there is no perf");
        };
        let Some(written) = out.lines().find_map(|line| line.split("written: ").nth(1)) else {
            assert!(!recorded, "{out}\n{error}");
            return common::not_run(NAME, "perf may not record");
        };
        let mut report = &data;
        if what.contains("dump") {
            let rest = [data.as_os_str(), "-o".as_ref(), injected.as_os_str()];
            let (done, out, error) = perf(&["inject", "--jit", "-i"], &rest, &what).unwrap();
            assert!(done, "{out}\n{error}");
            report = &injected;
        }
        let (_, out, error) = perf(&["report", "--stdio", "-i"], &[report.as_os_str()], &what).unwrap();
        let hot = match what.contains("short") {
            true => out.lines().any(|line| line.trim_end().ends_with("[.] f")),
            false => out.contains("jit_hot_loop"),
        };
        let before = out.contains("jit_was_here_before");
        assert!(hot && !before, "{what}: {out}\n{error}");
        fs::remove_file(written).unwrap();
    }
    fs::remove_dir_all(directory).unwrap();
}
