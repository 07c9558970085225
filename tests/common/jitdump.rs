//! A reader of jitdump files, after the format's description.

use std::path::Path;

pub struct Dump {
    pub loads: Vec<Load>,
    /// Whether the last record closes the file.
    pub closed: bool,
}

pub struct Load {
    /// The offset of the record in the file.
    pub at: usize,
    pub time: u64,
    pub address: usize,
    pub index: u64,
    pub name: String,
    pub code: Vec<u8>,
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn u32(&mut self) -> u32 {
        let (bytes, rest) = self.0.split_first_chunk().unwrap();
        self.0 = rest;
        u32::from_ne_bytes(*bytes)
    }

    fn u64(&mut self) -> u64 {
        let (bytes, rest) = self.0.split_first_chunk().unwrap();
        self.0 = rest;
        u64::from_ne_bytes(*bytes)
    }
}

pub fn read(path: &Path) -> Dump {
    let file = std::fs::read(path).unwrap();
    let mut header = Reader(&file);
    assert_eq!((header.u32(), header.u32(), header.u32()), (0x4a69_5444, 1, 40), "magic, version, length");
    let (machine, pad, pid, time, flags) = (header.u32(), header.u32(), header.u32(), header.u64(), header.u64());
    assert!(machine > 0 && machine < 0x1_0000);
    assert_eq!((pad, pid, flags), (0, std::process::id(), 0));
    assert!(time > 0);
    let (mut at, mut dump) = (40, Dump { loads: Vec::new(), closed: false });
    while at < file.len() {
        assert!(!dump.closed, "a record behind the last");
        let mut record = Reader(&file[at..]);
        let (kind, len, time) = (record.u32(), record.u32() as usize, record.u64());
        record.0 = &record.0[..len - 16];
        match kind {
            0 => dump.loads.push(load(at, time, record)),
            2 => assert!(record.0.iter().all(|byte| *byte == 0), "no lines, no address"),
            3 => dump.closed = true,
            other => panic!("record of kind {other}"),
        }
        at += len;
    }
    assert_eq!(at, file.len());
    dump
}

fn load(at: usize, time: u64, mut record: Reader<'_>) -> Load {
    let (pid, tid) = (record.u32(), record.u32());
    assert_eq!(pid, std::process::id());
    assert!(tid > 0);
    let (vma, address, len, index) = (record.u64(), record.u64(), record.u64() as usize, record.u64());
    assert_eq!(vma, address);
    let end = record.0.iter().position(|byte| *byte == 0).unwrap();
    let (name, code) = (std::str::from_utf8(&record.0[..end]).unwrap().into(), record.0[end + 1..].to_vec());
    assert_eq!(code.len(), len);
    Load { at, time, address: address as usize, index, name, code }
}
