//! A process that compiles, runs and frees Cranelift modules all its life, while its memory stays
//! constant.
//!
//! ```text
//! cargo run --release --features cranelift --example cranelift_jit
//! cargo run --release --features cranelift --example cranelift_jit -- 100000
//! ```
//!
//! A few dozen modules are alive at any time. Each has functions that call each other, a constant,
//! and a counter in writable data. Again and again one module is freed and defined again, with
//! other code. At intervals the process reads its memory and its mappings, which have to stay
//! constant. With the providers of `cranelift-jit` this fails: the memory of a dropped module
//! stays, or each module has mappings of its own.

use std::error::Error;

use cranelift_codegen::Context;
use cranelift_codegen::ir::{AbiParam, InstBuilder, MemFlagsData, types};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{DataDescription, FuncId, Linkage, Module, default_libcall_names};
use gaia_jit::CodeArena;
use gaia_jit::cranelift::CodeArenaProvider;

/// The number of modules that are alive at one time.
const LIVE: usize = 48;
/// The number of times that the process is measured.
const LOOKS: usize = 8;

/// A module, and its function `run`. It returns `base` at its first call, and one more at each
/// further call.
struct Loaded {
    module: JITModule,
    run: extern "C" fn() -> i64,
    base: i64,
    calls: i64,
}

impl Loaded {
    fn new(arena: &CodeArena, number: i64) -> Result<Self, Box<dyn Error>> {
        let mut builder = JITBuilder::new(default_libcall_names())?;
        builder.memory_provider(Box::new(CodeArenaProvider::new(arena.clone())?.tag(number as u64)));
        let mut module = JITModule::new(builder);

        let mut data = DataDescription::new();
        data.set_align(8);
        data.define_zeroinit(8);
        let counter = module.declare_data("counter", Linkage::Local, true, false)?;
        module.define_data(counter, &data)?;
        data.clear();
        data.set_align(8);
        data.define(Box::from(number.to_ne_bytes()));
        let constant = module.declare_data("number", Linkage::Local, false, false)?;
        module.define_data(constant, &data)?;

        // A chain of functions. Each adds one to the result of the last. Some modules have longer
        // chains than others.
        let mut last = function(&mut module, "first", |module, function| {
            let global = module.declare_data_in_func(constant, function.func);
            let at = function.ins().symbol_value(types::I64, global);
            let value = function.ins().load(types::I64, MemFlagsData::trusted(), at, 0);
            function.ins().return_(&[value]);
        })?;
        let links = 1 + number % 20;
        for link in 0..links {
            last = function(&mut module, &format!("link{link}"), |module, function| {
                let callee = module.declare_func_in_func(last, function.func);
                let call = function.ins().call(callee, &[]);
                let value = function.inst_results(call)[0];
                let sum = function.ins().iadd_imm_s(value, 1);
                function.ins().return_(&[sum]);
            })?;
        }
        // The functions that were defined so far could run from here on. More definitions may
        // follow.
        module.finalize_definitions()?;
        let run = function(&mut module, "run", |module, function| {
            let callee = module.declare_func_in_func(last, function.func);
            let call = function.ins().call(callee, &[]);
            let value = function.inst_results(call)[0];
            let global = module.declare_data_in_func(counter, function.func);
            let at = function.ins().symbol_value(types::I64, global);
            let calls = function.ins().load(types::I64, MemFlagsData::trusted(), at, 0);
            let more = function.ins().iadd_imm_s(calls, 1);
            function.ins().store(MemFlagsData::trusted(), more, at, 0);
            let sum = function.ins().iadd(value, calls);
            function.ins().return_(&[sum]);
        })?;
        module.finalize_definitions()?;
        let code = module.get_finalized_function(run);
        // SAFETY: the function was compiled with this signature, in the convention of C. `Loaded`
        // calls it while the module lives.
        let run = unsafe { std::mem::transmute::<*const u8, extern "C" fn() -> i64>(code) };
        Ok(Self { module, run, base: number + links, calls: 0 })
    }

    fn check(&mut self, arena: &CodeArena) {
        assert_eq!((self.run)(), self.base + self.calls);
        self.calls += 1;
        assert!(arena.lookup(self.run as *const u8).is_some());
    }

    fn free(self) {
        // SAFETY: only this program's one thread runs the code, and no other value has its address.
        unsafe { self.module.free_memory() };
    }
}

/// Declares and defines a function that takes nothing and returns a number.
fn function(
    module: &mut JITModule,
    name: &str,
    body: impl FnOnce(&mut JITModule, &mut FunctionBuilder<'_>),
) -> Result<FuncId, Box<dyn Error>> {
    let mut context = Context::new();
    context.func.signature = module.make_signature();
    context.func.signature.returns.push(AbiParam::new(types::I64));
    let id = module.declare_function(name, Linkage::Local, &context.func.signature)?;
    let mut frontend = FunctionBuilderContext::new();
    let mut function = FunctionBuilder::new(&mut context.func, &mut frontend);
    let block = function.create_block();
    function.switch_to_block(block);
    body(module, &mut function);
    function.seal_all_blocks();
    function.finalize(module.target_config());
    module.define_function(id, &mut context)?;
    Ok(id)
}

/// Returns the bytes of memory and the number of mappings of this process, on systems that report
/// them.
fn process() -> Option<(usize, usize)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: usize = resident.trim().trim_end_matches(" kB").parse().ok()?;
    Some((kilobytes << 10, std::fs::read_to_string("/proc/self/maps").ok()?.lines().count()))
}

fn main() -> Result<(), Box<dyn Error>> {
    let replacements: usize = match std::env::args().nth(1) {
        Some(number) => number.parse()?,
        None => 20_000,
    };
    let arena = CodeArena::builder().capacity(16 << 20).build()?;
    let mut loaded = Vec::new();
    for number in 0..LIVE {
        loaded.push(Loaded::new(&arena, number as i64)?);
    }
    let interval = replacements.div_ceil(LOOKS).max(1);
    let mut looks: Vec<(usize, usize, usize)> = Vec::new();
    println!("modules defined   arena resident      code   data   process resident   mappings");
    for n in 0..=replacements {
        let at = n * 7 % LIVE;
        loaded[at].check(&arena);
        let mut old = std::mem::replace(&mut loaded[at], Loaded::new(&arena, (LIVE + n) as i64)?);
        old.check(&arena);
        old.free();
        loaded[at].check(&arena);
        if n % interval == 0 {
            let stats = arena.stats();
            let (memory, mappings) = process().unwrap_or_default();
            println!(
                "{:>15} {:>16} {:>9} {:>6} {:>18} {:>10}",
                LIVE + n,
                stats.resident_bytes,
                stats.live_bytes,
                stats.data_bytes,
                memory,
                mappings
            );
            looks.push((stats.resident_bytes, memory, mappings));
        }
    }
    // The process grows to its working size during the first measurements.
    if let [_, _, early, .., last] = looks[..] {
        assert!(last.0 <= early.0 + (64 << 10), "the arena's memory is not flat");
        assert!(last.1 <= early.1 + (1 << 20), "the process' memory is not flat");
        assert!(last.2 <= early.2 + 10, "the mappings are not flat");
    }
    loaded.into_iter().for_each(Loaded::free);
    let given_back = arena.trim()?;
    let stats = arena.stats();
    assert_eq!((stats.live_blocks, stats.free_bytes, stats.resident_bytes), (0, stats.capacity, 0));
    println!("all freed; {given_back} bytes given back to the system");
    Ok(())
}
