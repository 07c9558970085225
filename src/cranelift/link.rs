//! Single functions that [`cranelift_codegen`] compiled, in a [`Batch`] (feature `cranelift`).
//!
//! A module of `cranelift-jit` takes at least a page, and is freed as a whole.
//! [`Batch::push_compiled`] takes functions instead: it puts them into a batch, and links them.
//! Each becomes a block that is freed by itself. It works in every mode.
//!
//! ```text
//! Context --compile--> CompiledCode --Compiled::new--> push_compiled
//!                                                        1. translate relocations, ask `resolve` for names
//!                                                        2. reserve a slot with stubs, copy the code
//!                                                        3. when all have addresses, apply relocations
//!                                                      publish --> one CodeBlock for each function
//! ```
//!
//! ```
//! # #[cfg(all(not(miri), any(target_arch = "x86_64", target_arch = "aarch64")))] {
//! use cranelift_codegen::ir::{AbiParam, Function, InstBuilder, Signature, UserFuncName, types};
//! use cranelift_codegen::{Context, settings};
//! use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
//! use gaia_jit::cranelift::link::{Compiled, Name};
//! use gaia_jit::{CodeArena, Target};
//!
//! let isa = cranelift_native::builder()?.finish(settings::Flags::new(settings::builder()))?;
//! let mut signature = Signature::new(isa.default_call_conv());
//! signature.returns.push(AbiParam::new(types::I32));
//! let mut context = Context::for_function(Function::with_name_signature(UserFuncName::user(0, 0), signature));
//! let mut frontend = FunctionBuilderContext::new();
//! let mut function = FunctionBuilder::new(&mut context.func, &mut frontend);
//! let block = function.create_block();
//! function.switch_to_block(block);
//! let value = function.ins().iconst(types::I32, 42);
//! function.ins().return_(&[value]);
//! function.seal_all_blocks();
//! function.finalize(isa.frontend_config());
//! context.compile(&*isa, &mut Default::default()).map_err(|error| error.inner)?;
//!
//! let arena = CodeArena::builder().capacity(1 << 20).build()?;
//! let mut batch = arena.batch();
//! let compiled = Compiled::new(context.compiled_code().unwrap(), &context.func).name("answer");
//! // Functions of this call are named by their index. No other function is called.
//! let slots = batch.push_compiled(&[compiled], |name, slots| match name {
//!     Name::User(user) => slots.get(user.index as usize).map(|slot| Target::Slot(*slot)),
//!     _ => None,
//! })?;
//! let blocks = batch.publish()?;
//! // SAFETY: this is the function's type.
//! let answer = unsafe { blocks[slots[0].index()].typed::<extern "C" fn() -> i32>() };
//! assert_eq!(answer.call(), 42);
//! drop(blocks); // frees the function
//! assert_eq!(arena.stats().live_blocks, 0);
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The [guide](crate::guide#cranelift) frees two functions one after the other.
#![forbid(unsafe_code)]

use std::fmt;

use cranelift_codegen::binemit::Reloc as Kind;
use cranelift_codegen::ir::{ExternalName, Function, KnownSymbol, LibCall, UserExternalName};
use cranelift_codegen::{CompiledCode, FinalizedMachReloc, FinalizedRelocTarget};

use crate::reloc::Via;
use crate::{Batch, Error, Reloc, Slot, Target};

/// Compiled code with the function that it was compiled from, for [`Batch::push_compiled`].
#[derive(Clone, Copy)]
pub struct Compiled<'a> {
    code: &'a CompiledCode,
    function: &'a Function,
    name: Option<&'a str>,
    tag: u64,
}

impl<'a> Compiled<'a> {
    /// Returns compiled code with its function, which has the names in the code. In a `Context`
    /// they are `compiled_code()` and `func`.
    pub fn new(code: &'a CompiledCode, function: &'a Function) -> Self {
        Self { code, function, name: None, tag: 0 }
    }

    /// Sets the function's name for the arena's observers.
    pub fn name(self, name: &'a str) -> Self {
        Self { name: Some(name), ..self }
    }

    /// Sets the function's tag, as [`Code::tag`](crate::Code::tag) does.
    pub fn tag(self, tag: u64) -> Self {
        Self { tag, ..self }
    }
}

impl fmt::Debug for Compiled<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (len, name) = (self.code.code_buffer().len(), self.name);
        f.debug_struct("Compiled").field("len", &len).field("name", &name).finish_non_exhaustive()
    }
}

/// A name in compiled code.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Name {
    /// A name that the user chose: a namespace and an index.
    User(UserExternalName),
    /// A function of the runtime library, such as `memcpy`.
    LibCall(LibCall),
    /// A symbol that linkers define.
    KnownSymbol(KnownSymbol),
    /// A name in a test of Cranelift.
    TestCase(String),
}

/// A relocation in the terms of this crate.
struct Open<'t> {
    offset: usize,
    kind: Reloc,
    target: Target<'t>,
    addend: i64,
}

impl Batch {
    /// Adds functions that `cranelift-codegen` compiled, and links them. Returns their slots in the
    /// same order.
    ///
    /// `resolve` returns the target of a name. It gets the slots of this call's functions, so that
    /// they can call each other. Functions of earlier calls are a [`Target::Slot`] too. Stubs are
    /// reserved for targets that may be out of reach, and for cells (`is_pic`).
    ///
    /// The page of [`cranelift::link`](crate::cranelift::link) has an example.
    ///
    /// # Errors
    /// After an error the batch can only be dropped.
    ///
    /// - [`Error::Unsupported`] if `resolve` returns `None` for a name, or if [`Reloc`] has no kind
    ///   for a relocation, as for those of thread-local storage.
    /// - [`Error::ZeroSize`] if a function has no code.
    /// - [`Error::TooLarge`] if a function is larger than the arena.
    /// - [`Error::BadAlignment`] if the arena does not support a function's alignment.
    /// - [`Error::ArenaFull`] if there is no space for a function.
    /// - [`Error::Link`] with the reason if a relocation cannot be applied.
    /// - [`Error::OtherBatch`] if a target is a slot of another batch.
    /// - [`Error::OperatingSystem`] if the system refuses memory or a change of protection.
    /// - [`Error::Forked`] in a forked child.
    pub fn push_compiled<'t>(
        &mut self,
        functions: &[Compiled<'_>],
        mut resolve: impl FnMut(&Name, &[Slot]) -> Option<Target<'t>>,
    ) -> Result<Vec<Slot>, Error> {
        let slots = self.next_slots(functions.len());
        let mut all = Vec::with_capacity(functions.len());
        for (compiled, slot) in functions.iter().zip(&slots) {
            let relocs = compiled.code.buffer.relocs().iter();
            let open = relocs.map(|reloc| translate(compiled.function, *slot, reloc, |name| resolve(name, &slots)));
            let open: Vec<Open<'t>> = open.collect::<Result<_, _>>()?;
            let code = compiled.code.code_buffer();
            let reserved =
                self.reserve_with_stubs(code.len(), compiled.code.buffer.alignment as usize, self.stubs_for(&open))?;
            debug_assert_eq!(reserved, *slot);
            if let Some(bytes) = self.bytes_mut(*slot).get_mut(..code.len()) {
                bytes.copy_from_slice(code);
            }
            self.set_tag(*slot, compiled.tag);
            if let Some(name) = compiled.name {
                self.set_name(*slot, name);
            }
            all.push(open);
        }
        // Every function has its address now. Low parts are linked after their high parts.
        for low in [false, true] {
            for (open, slot) in all.iter().zip(&slots) {
                for Open { offset, kind, target, addend } in
                    open.iter().filter(|open| (open.kind.via() == Via::High) == low)
                {
                    self.link(*slot, *offset, *kind, *target, *addend)?;
                }
            }
        }
        Ok(slots)
    }

    /// Returns how many stubs a function may need: one for each target that is far, or that needs a
    /// cell.
    fn stubs_for(&self, open: &[Open<'_>]) -> usize {
        let needs = |open: &&Open<'_>| match open.kind.via() {
            Via::Cell | Via::CellOfSum => true,
            Via::Stub(_) => match open.target {
                Target::Slot(_) | Target::DataSlot(_) => false,
                Target::Block(block) => !self.reaches(block.as_ptr()),
                Target::Data(data) => !self.reaches(data.as_ptr()),
                Target::Address(address) => !self.reaches(address),
            },
            Via::Itself | Via::High => false,
        };
        let same = |one: &Open<'_>, other: &Open<'_>| {
            let address = |target| match target {
                Target::Slot(slot) => (0, slot.index()),
                Target::DataSlot(slot) => (1, slot.index()),
                Target::Block(block) => (2, block.as_ptr().addr()),
                Target::Data(data) => (2, data.as_ptr().addr()),
                Target::Address(address) => (2, address.addr()),
            };
            address(one.target) == address(other.target) && one.addend == other.addend
        };
        let mut far: Vec<&Open<'_>> = Vec::new();
        for open in open.iter().filter(needs) {
            if !far.iter().any(|other| same(open, other)) {
                far.push(open);
            }
        }
        far.len()
    }
}

/// Translates a relocation of a function, and resolves its name.
fn translate<'t>(
    function: &Function,
    slot: Slot,
    reloc: &FinalizedMachReloc,
    resolve: impl FnOnce(&Name) -> Option<Target<'t>>,
) -> Result<Open<'t>, Error> {
    const WHAT: &str = "a relocation of Cranelift";
    let kind = kind(reloc.kind)
        .ok_or_else(|| Error::unsupported(WHAT, format!("`Reloc` has no kind for {:?}", reloc.kind)))?;
    let (target, addend) = match &reloc.target {
        FinalizedRelocTarget::Func(offset) => (Target::Slot(slot), reloc.addend + i64::from(*offset)),
        FinalizedRelocTarget::ExternalName(name) => {
            let name = match name {
                ExternalName::User(user) => Name::User(function.params.user_named_funcs()[*user].clone()),
                ExternalName::LibCall(call) => Name::LibCall(*call),
                ExternalName::KnownSymbol(symbol) => Name::KnownSymbol(*symbol),
                ExternalName::TestCase(_) => Name::TestCase(name.display(None).to_string()),
            };
            let target = resolve(&name)
                .ok_or_else(|| Error::unsupported(WHAT, format!("`resolve` returned no target for {name:?}")))?;
            (target, reloc.addend)
        }
    };
    Ok(Open { offset: reloc.offset as usize, kind, target, addend })
}

/// Returns the kind of a relocation, if this crate has it.
fn kind(kind: Kind) -> Option<Reloc> {
    Some(match kind {
        Kind::Abs4 if cfg!(target_arch = "x86_64") => Reloc::X86Abs32,
        Kind::Abs4 if cfg!(target_arch = "aarch64") => Reloc::Arm64Abs32,
        Kind::Abs4 if cfg!(target_arch = "riscv64") => Reloc::RiscvAbs32,
        Kind::Abs8 if cfg!(target_arch = "x86_64") => Reloc::X86Abs64,
        Kind::Abs8 if cfg!(target_arch = "aarch64") => Reloc::Arm64Abs64,
        Kind::Abs8 if cfg!(target_arch = "riscv64") => Reloc::RiscvAbs64,
        Kind::X86PCRel4 => Reloc::X86Pc32,
        Kind::X86CallPCRel4 | Kind::X86CallPLTRel4 => Reloc::X86Call32,
        Kind::X86GOTPCRel4 => Reloc::X86GotPc32,
        Kind::Arm64Call => Reloc::Arm64Call26,
        Kind::Aarch64AdrPrelPgHi21 => Reloc::Arm64AdrPrelPgHi21,
        Kind::Aarch64AddAbsLo12Nc => Reloc::Arm64AddAbsLo12Nc,
        Kind::Aarch64AdrGotPage21 => Reloc::Arm64AdrGotPage,
        Kind::Aarch64Ld64GotLo12Nc => Reloc::Arm64Ld64GotLo12Nc,
        Kind::RiscvCallPlt => Reloc::RiscvCall,
        Kind::RiscvPCRelHi20 => Reloc::RiscvPcrelHi20,
        Kind::RiscvGotHi20 => Reloc::RiscvGotHi20,
        Kind::RiscvPCRelLo12I => Reloc::RiscvPcrelLo12I,
        _ => return None,
    })
}
