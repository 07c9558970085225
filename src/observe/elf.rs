//! An ELF object that says what a debugger needs to know of functions: where they are, their names,
//! how to unwind them.
//!
//! It has a section `.text` without contents (`SHT_NOBITS`) for every stretch of code, at its
//! address; `.symtab` with the functions; and `.eh_frame` for those that came with call frame
//! information. It counts as linked (`ET_EXEC`): all addresses are final.
//!
//! The tables are laid out by the `object` crate. By hand they are a hundred lines, twice, for 32
//! and 64 bits, in both byte orders, of which this machine would have tested a quarter; the crate
//! is under the feature `gdb` only, with nothing but its ELF writer.
#![forbid(unsafe_code)]

use std::ops::Range;

use object::elf;
use object::write::elf::{FileHeader, SectionHeader, Sym, Writer};
use object::{Endianness, write::Result};

/// Functions that fit into one object with some thousand sections to spare: from 65,280 sections on
/// a symbol needs a second table.
pub(super) const MOST: usize = 4096;

/// What the object says of one function.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) address: usize,
    pub(super) len: usize,
    pub(super) name: Vec<u8>,
    /// Records of `.eh_frame`, if there are any, for this address.
    pub(super) frames: Vec<u8>,
}

impl Function {
    pub(super) fn range(&self) -> Range<usize> {
        self.address..self.address + self.len
    }
}

/// `functions` are ordered by address, and at most [`MOST`]. The bytes must stay where they are, as
/// `.eh_frame` has an address as well.
pub(super) fn object(machine: u16, functions: &[&Function]) -> Result<Vec<u8>> {
    let (frames, is_64) = (functions.iter().flat_map(|function| &function.frames), cfg!(target_pointer_width = "64"));
    let mut frames: Vec<u8> = frames.copied().collect();
    if !frames.is_empty() {
        // The end of the section.
        frames.extend_from_slice(&[0; 4]);
    }
    let stretches = stretches(functions);
    // Room enough for it not to move any more.
    let each = |function: &&Function| function.name.len() + 128;
    let mut out: Vec<u8> = Vec::with_capacity(1024 + frames.len() + functions.iter().map(each).sum::<usize>());
    let start = out.as_ptr().addr() as u64;
    let mut writer = Writer::new(endianness(), is_64, &mut out);

    // What is where.
    writer.reserve_file_header();
    let frames_at = writer.reserve(frames.len() as u64, 8);
    writer.reserve_null_section_index();
    let (text_name, frames_name) = (writer.add_section_name(b".text"), writer.add_section_name(b".eh_frame"));
    let texts: Vec<_> = stretches.iter().map(|_| writer.reserve_section_index()).collect();
    if !frames.is_empty() {
        writer.reserve_section_index();
    }
    writer.reserve_symtab_section_index();
    writer.reserve_strtab_section_index();
    writer.reserve_shstrtab_section_index();
    writer.reserve_null_symbol_index();
    let mut symbols = Vec::with_capacity(functions.len());
    for function in functions {
        let stretch = stretches.partition_point(|stretch| stretch.end <= function.address);
        let section = texts.get(stretch).copied();
        symbols.push((writer.add_string(&function.name), section.map(|section| section.0)));
        writer.reserve_symbol_index(section);
    }
    writer.reserve_symtab();
    writer.reserve_strtab()?;
    writer.reserve_shstrtab()?;
    writer.reserve_section_headers();

    // What it is.
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
    for stretch in &stretches {
        let (sh_addr, sh_size) = (stretch.start as u64, stretch.len() as u64);
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

/// Code without gaps but for the padding behind functions, which belongs to nobody else.
fn stretches(functions: &[&Function]) -> Vec<Range<usize>> {
    let mut stretches: Vec<Range<usize>> = Vec::new();
    for function in functions {
        let Range { start, end } = function.range();
        match stretches.last_mut() {
            Some(last) if start - last.end < crate::units::GRANULE => last.end = end,
            _ => stretches.push(start..end),
        }
    }
    stretches
}

fn endianness() -> Endianness {
    if cfg!(target_endian = "big") { Endianness::Big } else { Endianness::Little }
}

/// `e_flags`: the calling convention, where a machine has several.
fn flags() -> elf::FileFlags {
    if cfg!(target_arch = "arm") {
        elf::EF_ARM_EABI_VER5
    } else if cfg!(any(target_arch = "riscv64", target_arch = "riscv32")) {
        elf::EF_RISCV_RVC | elf::EF_RISCV_FLOAT_ABI_DOUBLE
    } else {
        elf::FileFlags(0)
    }
}
