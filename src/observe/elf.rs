//! An ELF object that describes functions to a debugger: their addresses, their names, and how to
//! unwind them.
//!
//! ```text
//! | ELF header, ET_EXEC | .eh_frame | .symtab | .strtab | .shstrtab | section headers |
//!
//! .text (one for each run of code): address and size, without contents (SHT_NOBITS)
//! .symtab:                          each function with its address, size and name
//! .eh_frame:                        call frame information of the functions that have it
//! ```
//!
//! The object counts as linked (`ET_EXEC`), because all addresses are final.
//!
//! The `object` crate lays out the tables. By hand this would be a hundred lines, twice, for 32 and
//! 64 bits, and in both byte orders, and one machine could test a quarter of them. The crate is
//! used under the feature `gdb` only, with its ELF writer and nothing else.
#![forbid(unsafe_code)]

use std::ops::Range;

use object::elf;
use object::write::elf::{FileHeader, SectionHeader, Sym, Writer};
use object::{Endianness, write::Result};

/// The number of functions in one object, at most. It is far below 65,280 sections, from which on a
/// symbol needs a second table.
pub(super) const MOST: usize = 4096;

/// The description of one function.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) address: usize,
    pub(super) len: usize,
    pub(super) name: Vec<u8>,
    /// The records of `.eh_frame` for this address. Empty if there are none.
    pub(super) frames: Vec<u8>,
}

impl Function {
    pub(super) fn range(&self) -> Range<usize> {
        self.address..self.address + self.len
    }
}

/// Returns an object for `functions`, which are ordered by address, and at most [`MOST`]. The bytes
/// must not move, because the address of `.eh_frame` is in them.
pub(super) fn object(machine: u16, functions: &[&Function]) -> Result<Vec<u8>> {
    let (frames, is_64) = (functions.iter().flat_map(|function| &function.frames), cfg!(target_pointer_width = "64"));
    let mut frames: Vec<u8> = frames.copied().collect();
    if !frames.is_empty() {
        // The end of the section.
        frames.extend_from_slice(&[0; 4]);
    }
    let runs = runs(functions);
    // Enough room, so that it does not move any more.
    let each = |function: &&Function| function.name.len() + 128;
    let mut out: Vec<u8> = Vec::with_capacity(1024 + frames.len() + functions.iter().map(each).sum::<usize>());
    let start = out.as_ptr().addr() as u64;
    let mut writer = Writer::new(endianness(), is_64, &mut out);

    // The layout.
    writer.reserve_file_header();
    let frames_at = writer.reserve(frames.len() as u64, 8);
    writer.reserve_null_section_index();
    let (text_name, frames_name) = (writer.add_section_name(b".text"), writer.add_section_name(b".eh_frame"));
    let texts: Vec<_> = runs.iter().map(|_| writer.reserve_section_index()).collect();
    if !frames.is_empty() {
        writer.reserve_section_index();
    }
    writer.reserve_symtab_section_index();
    writer.reserve_strtab_section_index();
    writer.reserve_shstrtab_section_index();
    writer.reserve_null_symbol_index();
    let mut symbols = Vec::with_capacity(functions.len());
    for function in functions {
        let run = runs.partition_point(|run| run.end <= function.address);
        let section = texts.get(run).copied();
        symbols.push((writer.add_string(&function.name), section.map(|section| section.0)));
        writer.reserve_symbol_index(section);
    }
    writer.reserve_symtab();
    writer.reserve_strtab()?;
    writer.reserve_shstrtab()?;
    writer.reserve_section_headers();

    // The contents.
    writer.write_file_header(&FileHeader {
        os_abi: elf::ELFOSABI_NONE,
        abi_version: 0,
        e_type: elf::ET_EXEC,
        e_machine: elf::Machine(machine),
        e_entry: 0,
        e_flags: flags(),
    })?;
    writer.pad_until(frames_at);
    writer.write(&frames);
    writer.write_null_symbol();
    for (function, (name, section)) in functions.iter().zip(symbols) {
        writer.write_symbol(&Sym {
            st_name: writer.string_offset(Some(name)),
            section,
            st_info: elf::SymbolInfo::new(elf::STB_GLOBAL, elf::STT_FUNC),
            st_other: elf::SymbolOther(0),
            st_shndx: elf::SHN_UNDEF,
            st_value: function.address as u64,
            st_size: function.len as u64,
        });
    }
    writer.write_strtab();
    writer.write_shstrtab();
    writer.write_null_section_header();
    let header = SectionHeader {
        sh_name: 0,
        sh_type: elf::SHT_NOBITS,
        sh_flags: elf::SHF_ALLOC | elf::SHF_EXECINSTR,
        sh_addr: 0,
        sh_offset: 0,
        sh_size: 0,
        sh_link: 0,
        sh_info: 0,
        sh_addralign: 1,
        sh_entsize: 0,
    };
    let name = writer.section_name_offset(Some(text_name));
    for run in &runs {
        let (sh_addr, sh_size) = (run.start as u64, run.len() as u64);
        writer.write_section_header(&SectionHeader { sh_name: name, sh_addr, sh_size, ..header });
    }
    if !frames.is_empty() {
        writer.write_section_header(&SectionHeader {
            sh_name: writer.section_name_offset(Some(frames_name)),
            sh_type: elf::SHT_PROGBITS,
            sh_flags: elf::SHF_ALLOC,
            sh_addr: start + frames_at,
            sh_offset: frames_at,
            sh_size: frames.len() as u64,
            sh_addralign: 8,
            ..header
        });
    }
    let local = 1;
    writer.write_symtab_section_header(local);
    writer.write_strtab_section_header();
    writer.write_shstrtab_section_header();
    Ok(out)
}

/// Returns the runs of code without gaps. The padding after a function is no gap, because it
/// belongs to nobody else.
fn runs(functions: &[&Function]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for function in functions {
        let Range { start, end } = function.range();
        match runs.last_mut() {
            Some(last) if start - last.end < crate::units::GRANULE => last.end = end,
            _ => runs.push(start..end),
        }
    }
    runs
}

fn endianness() -> Endianness {
    if cfg!(target_endian = "big") { Endianness::Big } else { Endianness::Little }
}

/// Returns `e_flags`: the calling convention, on machines that have several.
fn flags() -> elf::FileFlags {
    if cfg!(target_arch = "arm") {
        elf::EF_ARM_EABI_VER5
    } else if cfg!(any(target_arch = "riscv64", target_arch = "riscv32")) {
        elf::EF_RISCV_RVC | elf::EF_RISCV_FLOAT_ABI_DOUBLE
    } else {
        elf::FileFlags(0)
    }
}
