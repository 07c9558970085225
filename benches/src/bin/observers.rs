//! What listening costs: eight threads that publish and drop, with and without an observer,
//! alternating in one process; bytes that are there already, and functions that each thread
//! compiles before it publishes them.
//!
//! ```sh
//! cargo run --release --manifest-path benches/Cargo.toml --bin observers
//! ```
//!
//! Each thread keeps some hundred functions of 8 to 1,031 bytes and replaces one, or a batch of
//! sixteen, at a time; where it compiles them (Cranelift, optimising for speed), they have 1 to 64
//! operations. The times are those of the processors for one function, all threads and the writing
//! of files included: on a machine that does other things too, they say more than the clock.
//! Medians of the rounds; the ratios are medians of each round's.

use std::fmt;
use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use cranelift_codegen::Context;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::{AbiParam, InstBuilder, Signature, types};
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_codegen::settings::{self, Configurable};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use gaia_jit::{Code, CodeArena, CodeBlock, Observer, WxMode};

const THREADS: usize = 8;
/// Blocks that each thread keeps.
const KEPT: usize = 512;
const LONGEST: usize = 1_031;

/// Hears everything and does nothing: what telling costs by itself.
struct Nobody;

impl Observer for Nobody {}

struct Contender {
    name: &'static str,
    arena: CodeArena,
    workers: Vec<Worker>,
    /// Writes what an observer has kept back.
    flush: Box<dyn Fn() -> Result<()>>,
    /// Nanoseconds for each function, by round.
    times: Vec<f64>,
}

#[derive(Clone, Copy, PartialEq)]
enum Work {
    Singly,
    By(usize),
    Compiled,
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Work::Singly => f.pad("singly"),
            Work::By(batch) => f.pad(&format!("by {batch}")),
            Work::Compiled => f.pad("compiled"),
        }
    }
}

struct Worker {
    blocks: Vec<Option<CodeBlock>>,
    names: Vec<String>,
    random: u64,
    compiler: Compiler,
}

/// A thread's own.
struct Compiler {
    isa: OwnedTargetIsa,
    context: Context,
    control: ControlPlane,
    frontend: FunctionBuilderContext,
}

impl Compiler {
    fn new() -> Result<Self> {
        let mut flags = settings::builder();
        flags.set("opt_level", "speed")?;
        let isa = cranelift_native::builder().map_err(anyhow::Error::msg)?.finish(settings::Flags::new(flags))?;
        Ok(Self { isa, context: Context::new(), control: Default::default(), frontend: FunctionBuilderContext::new() })
    }

    /// A function of one number that works on it so many times.
    fn compile(&mut self, operations: usize) -> Result<&[u8]> {
        self.context.clear();
        let mut signature = Signature::new(self.isa.default_call_conv());
        signature.params.push(AbiParam::new(types::I64));
        signature.returns.push(AbiParam::new(types::I64));
        self.context.func.signature = signature;
        let mut function = FunctionBuilder::new(&mut self.context.func, &mut self.frontend);
        let block = function.create_block();
        function.append_block_params_for_function_params(block);
        function.switch_to_block(block);
        let argument = function.block_params(block)[0];
        let mut value = argument;
        for operation in 0..operations {
            let shifted = function.ins().ushr_imm_u(value, 1 + operation as i64 % 31);
            let product = function.ins().imul(value, argument);
            value = function.ins().bxor(product, shifted);
        }
        function.ins().return_(&[value]);
        function.seal_all_blocks();
        function.finalize(self.isa.frontend_config());
        let compiled =
            self.context.compile(&*self.isa, &mut self.control).map_err(|error| anyhow!("{:?}", error.inner))?;
        Ok(compiled.code_buffer())
    }
}

impl Worker {
    fn next(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as usize % below
    }

    /// Replaces `count` functions.
    fn run(&mut self, arena: &CodeArena, code: &[u8], count: usize, work: Work) -> Result<()> {
        let batch = if let Work::By(batch) = work { batch } else { 1 };
        for _ in 0..count / batch {
            let first = self.next(KEPT / batch) * batch;
            self.blocks[first..first + batch].fill_with(|| None);
            if work == Work::Compiled {
                let operations = 1 + self.next(64);
                let code = self.compiler.compile(operations)?;
                self.blocks[first] = Some(arena.publish(Code::new(code).name(&self.names[first]))?);
                continue;
            }
            if work == Work::Singly {
                let len = 8 + self.next(LONGEST - 8);
                self.blocks[first] = Some(arena.publish(Code::new(&code[..len]).name(&self.names[first]))?);
                continue;
            }
            let mut open = arena.batch();
            for at in first..first + batch {
                let len = 8 + self.next(LONGEST - 8);
                open.push(Code::new(&code[..len]).name(&self.names[at]))?;
            }
            for (block, place) in open.publish()?.into_iter().zip(&mut self.blocks[first..]) {
                *place = Some(block);
            }
        }
        Ok(())
    }
}

impl Contender {
    fn new(
        name: &'static str,
        mode: WxMode,
        observer: Option<Arc<dyn Observer>>,
        flush: impl Fn() -> Result<()> + 'static,
    ) -> Result<Self> {
        let builder = CodeArena::builder().capacity(64 << 20).mode(mode);
        let arena = observer.into_iter().fold(builder, |builder, observer| builder.observer(observer)).build()?;
        let worker = |number: usize| {
            Ok(Worker {
                blocks: (0..KEPT).map(|_| None).collect(),
                names: (0..KEPT).map(|block| format!("thread_{number}::function_{block}")).collect(),
                random: 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(number as u64 + 1),
                compiler: Compiler::new()?,
            })
        };
        let workers = (0..THREADS).map(worker).collect::<Result<_>>()?;
        Ok(Self { name, arena, workers, flush: Box::new(flush), times: Vec::new() })
    }

    fn round(&mut self, code: &[u8], count: usize, work: Work) -> Result<f64> {
        let (arena, barrier) = (&self.arena, &Barrier::new(THREADS));
        let before = processor_time()?;
        thread::scope(|scope| -> Result<()> {
            let start = |worker| {
                let worker: &mut Worker = worker;
                scope.spawn(move || {
                    barrier.wait();
                    worker.run(arena, code, count, work)
                })
            };
            let running: Vec<_> = self.workers.iter_mut().map(start).collect();
            for thread in running {
                thread.join().ok().context("a thread panicked")??;
            }
            Ok(())
        })?;
        (self.flush)()?;
        let elapsed = processor_time()? - before;
        Ok(elapsed.as_nanos() as f64 / (THREADS * count) as f64)
    }
}

/// What all threads of the process have used up.
fn processor_time() -> Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for the call to write to.
    let got = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    anyhow::ensure!(got == 0, "clock_gettime: {}", std::io::Error::last_os_error());
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

fn main() -> Result<()> {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let (rounds, count) = if quick { (3, 400) } else { (61, 20_000) };
    let code = vec![0xc3; LONGEST];
    println!("{:8} {:10} {:12} {:>9} {:>8}", "mode", "published", "observer", "ns each", "ratio");
    for (mode, mode_name) in [(WxMode::DualMap, "DualMap"), (WxMode::Flip, "Flip")] {
        for work in [Work::Singly, Work::By(16), Work::Compiled] {
            let mut contenders = vec![
                Contender::new("none", mode, None, || Ok(()))?,
                Contender::new("none again", mode, None, || Ok(()))?,
                Contender::new("idle", mode, Some(Arc::new(Nobody)), || Ok(()))?,
            ];
            let files = observers(mode, &mut contenders)?;
            let count = match work {
                Work::Compiled => count / 400,
                _ if mode == WxMode::Flip => count / 4,
                _ => count,
            };
            for round in 0..rounds {
                // Another one begins each time.
                for turn in 0..contenders.len() {
                    let at = (turn + round) % contenders.len();
                    let time = contenders[at].round(black_box(&code), count, work)?;
                    contenders[at].times.push(time);
                }
            }
            let alone = contenders[0].times.clone();
            for Contender { name, times, .. } in &contenders {
                let ratios = times.iter().zip(&alone).map(|(time, alone)| time / alone).collect();
                let (time, ratio) = (median(times.clone()), median(ratios));
                println!("{mode_name:8} {work:10} {name:12} {time:9.1} {ratio:8.3}");
            }
            drop(contenders);
            files.iter().for_each(|file| drop(std::fs::remove_file(file)));
        }
    }
    Ok(())
}

/// Adds those that write files, and says which.
#[cfg(target_os = "linux")]
fn observers(mode: WxMode, contenders: &mut Vec<Contender>) -> Result<Vec<std::path::PathBuf>> {
    use gaia_jit::observe::{Jitdump, PerfMap};
    let (map, dump) = (Arc::new(PerfMap::new()?), Arc::new(Jitdump::in_directory(std::env::temp_dir())?));
    let files = vec![map.path().to_owned(), dump.path().to_owned()];
    contenders.push(Contender::new("PerfMap", mode, Some(map.clone()), move || Ok(map.flush()?))?);
    contenders.push(Contender::new("Jitdump", mode, Some(dump.clone()), move || Ok(dump.flush()?))?);
    Ok(files)
}

#[cfg(not(target_os = "linux"))]
fn observers(_: WxMode, _: &mut Vec<Contender>) -> Result<Vec<std::path::PathBuf>> {
    Ok(Vec::new())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
