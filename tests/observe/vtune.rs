//! Tests of the events that a collector of VTune's interface gets. The collector writes them to a
//! file.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::{env, fs, thread};

use crate::common::{self, asm, child, small};
use gaia_jit::observe::VTune;
use gaia_jit::{Code, WxMode};

const VARIABLE: &str = if cfg!(target_pointer_width = "64") { "INTEL_JIT_PROFILER64" } else { "INTEL_JIT_PROFILER32" };

/// The two functions that the interface calls in a collector, which write a line for each event.
const COLLECTOR: &str = r#"
#include <stdio.h>
#include <stdlib.h>
struct load { unsigned id; char *name; void *start; unsigned size, lines; void *table; char *class_file, *source, *module; };
static FILE *out;
static int inside;
unsigned Initialize(void) {
    out = fopen(getenv("TOLD"), "a");
    return out ? 1 : 0;
}
int NotifyEvent(unsigned event, void *data) {
    struct load *load = data;
    if (__sync_lock_test_and_set(&inside, 1)) abort();
    if (event == 21) fprintf(out, "load %u %s %p %u %s\n", load->id, load->name, load->start, load->size, load->module);
    else if (event == 14) fprintf(out, "unload %u %p\n", load->id, load->start);
    else fprintf(out, "event %u\n", event);
    fflush(out);
    __sync_lock_release(&inside);
    return 1;
}
"#;

/// Builds the collector with the C compiler, which linking a Rust program needs anyway.
fn collector(directory: &Path) -> PathBuf {
    let (source, library) = (directory.join("collector.c"), directory.join("collector.so"));
    fs::write(&source, COLLECTOR).unwrap();
    let bits = if cfg!(target_pointer_width = "64") { "-m64" } else { "-m32" };
    let built = Command::new("cc").args(["-shared", "-fPIC", bits, "-o"]).args([&library, &source]).status();
    assert!(built.expect("there is no C compiler").success());
    library
}

fn directory(name: &str) -> PathBuf {
    let directory = env::temp_dir().join(format!("gaia-jit-vtune-{name}-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// Returns the command that runs a test of this file in another process.
fn again(test: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", &child::name_in(module_path!(), test), "--nocapture"]);
    command
}

fn passes(command: &mut Command) {
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{command:?}: {out}\n{err}");
}

#[test]
fn a_collector_hears_of_every_function_and_of_its_end() {
    if env::var_os("TOLD").is_none() {
        // In the parent, because the collector has to exist when the process that uses it starts.
        let directory = directory("told");
        let told = directory.join("told");
        let library = collector(&directory);
        let mut command = again("a_collector_hears_of_every_function_and_of_its_end");
        passes(command.env(VARIABLE, &library).env("TOLD", &told));
        fs::remove_dir_all(directory).unwrap();
        return;
    }
    let vtune = Arc::new(VTune::new());
    assert!(vtune.is_active() && VTune::new().is_active(), "{vtune:?}");
    let arena = small(WxMode::Flip).observer(vtune.clone()).build().unwrap();
    let first = arena.publish(Code::new(&asm::constant(1)).name("first")).unwrap();
    let start = first.as_ptr();
    drop(first);
    // Another function at the same address.
    let second = arena.publish(Code::new(&asm::constant(2)).name("se\ncond")).unwrap();
    assert_eq!(second.as_ptr(), start);
    // From several threads, with one at a time in the collector. Otherwise the collector aborts.
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..200).for_each(|_| drop(arena.publish(&asm::constant(3)).unwrap())));
        }
    });
    // The collector does not belong to a child.
    let before = fs::read_to_string(env::var_os("TOLD").unwrap()).unwrap();
    let status = common::fork::fork(|| {
        let arena = small(WxMode::Flip).observer(vtune.clone()).build().unwrap();
        drop(arena.publish(&asm::constant(4)).unwrap());
        assert!(!vtune.is_active());
    });
    assert!(status);
    let told = fs::read_to_string(env::var_os("TOLD").unwrap()).unwrap();
    assert_eq!(told, before);

    let mut lines = told.lines();
    let size = asm::constant(1).len();
    assert_eq!(lines.next().unwrap(), format!("load 1 first {start:p} {size} gaia_jit"));
    assert_eq!(lines.next().unwrap(), format!("unload 1 {start:p}"));
    assert_eq!(lines.next().unwrap(), format!("load 2 se_cond {start:p} {size} gaia_jit"));
    // Every load has a number of its own, and ends once.
    let mut live = std::collections::HashMap::new();
    let mut loads = 0;
    for line in lines {
        let words: Vec<_> = line.split(' ').collect();
        match *words {
            ["load", number, _, start, _, _] => {
                assert!(live.insert(number, start).is_none(), "{line}");
                loads += 1;
            }
            ["unload", number, start] => assert_eq!(live.remove(number), Some(start), "{line}"),
            _ => panic!("{line}"),
        }
    }
    assert_eq!((loads, live.len()), (800, 0));
}

#[test]
fn without_a_collector_nothing_is_told_and_nothing_happens() {
    for library in [None, Some("/nowhere/collector.so"), Some("")] {
        if env::var_os("ALONE").is_none() {
            let mut command = again("without_a_collector_nothing_is_told_and_nothing_happens");
            command.env("ALONE", "1").env_remove(VARIABLE);
            if let Some(library) = library {
                command.env(VARIABLE, library);
            }
            passes(&mut command);
            continue;
        }
        let vtune = Arc::new(VTune::new());
        assert!(!vtune.is_active());
        let arena = small(WxMode::Flip).observer(vtune).build().unwrap();
        drop(arena.publish(&asm::constant(1)).unwrap());
    }
}
