//! What the system says of this process.

use std::error::Error;
use std::process::Command;
use std::{env, fs};

/// Memory and mappings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    /// Bytes of memory, of all mappings.
    pub(crate) resident: usize,
    /// Those of mappings of no file that can be executed.
    pub(crate) code: usize,
    /// Those of mappings of no file that can be read only.
    pub(crate) constants: usize,
    pub(crate) mappings: usize,
}

impl Process {
    /// As it is now.
    pub(crate) fn now() -> Result<Self, Box<dyn Error>> {
        let mut now = Self { resident: 0, code: 0, constants: 0, mappings: 0 };
        let (mut rights, mut file) = (String::new(), false);
        for line in fs::read_to_string("/proc/self/smaps")?.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["Rss:", kibibytes, "kB"] => {
                    let bytes = kibibytes.parse::<usize>()? * 1024;
                    now.resident += bytes;
                    match &*rights {
                        "r-xp" if !file => now.code += bytes,
                        "r--p" if !file => now.constants += bytes,
                        _ => {}
                    }
                }
                [range, mapped, _, _, inode, ..] if range.contains('-') => {
                    now.mappings += 1;
                    (rights, file) = (mapped.to_owned(), inode != "0");
                }
                _ => {}
            }
        }
        if now.resident == 0 {
            return Err("the system does not say what is resident".into());
        }
        Ok(now)
    }
}

/// This program again; under an emulator that does not start programs by itself, with it.
pub(crate) fn itself() -> Result<Command, Box<dyn Error>> {
    let program = env::current_exe()?;
    let runner = env::var("CROSS_RUNNER").unwrap_or_default();
    let mut words = runner.split_whitespace();
    let Some(emulator) = words.next() else { return Ok(Command::new(program)) };
    let mut command = Command::new(emulator);
    command.args(words).arg(program);
    Ok(command)
}

/// Bytes as people read them.
pub(crate) fn size(bytes: usize) -> String {
    match bytes {
        0..=9_999 => format!("{bytes} B"),
        10_000..=1_048_575 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}
