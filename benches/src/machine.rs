//! Where and when a run took place.

use std::fs;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// A few lines: machine, system, compiler, library, date, command.
pub fn describe() -> Vec<String> {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let thp = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    let command: Vec<String> = std::env::args().collect();
    vec![
        format!("machine: {}, {cores} cores, {} MiB", cpu(), memory_mib()),
        format!("system:  {} {}, huge pages {}", std::env::consts::OS, kernel(), thp.trim()),
        format!("built:   {}, gaia-jit {}", rustc(), commit()),
        format!("date:    {}", date()),
        format!("command: {}", command.join(" ")),
    ]
}

fn cpu() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(':'));
    format!("{} ({})", model.map_or("unknown processor", |(_, name)| name.trim()), std::env::consts::ARCH)
}

fn memory_mib() -> usize {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = info.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
    total.trim().trim_end_matches(" kB").parse::<usize>().unwrap_or(0) >> 10
}

fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// The compiler on the path, which is the one that Cargo uses.
fn rustc() -> String {
    let output = Command::new("rustc").arg("--version").current_dir(env!("CARGO_MANIFEST_DIR")).output();
    output.map_or_else(|_| "rustc unknown".to_owned(), |out| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

/// The commit of the library, and whether its source differs from it; nothing outside a repository.
fn commit() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").arg("-C").arg(env!("CARGO_MANIFEST_DIR")).args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else { return String::new() };
    let changed = git(&["--no-optional-locks", "status", "--porcelain", "--", "../src"]);
    let state = if changed.is_none_or(|changed| changed.is_empty()) { "" } else { " with changes" };
    format!("at {commit}{state}")
}

fn date() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (year, month, day) = civil((seconds / 86400) as i64);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", seconds / 3600 % 24, seconds / 60 % 60)
}

/// Days since 1970 to a date of the Gregorian calendar (Hinnant, "chrono-compatible low-level date
/// algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    #[test]
    fn dates() {
        assert_eq!(super::civil(0), (1970, 1, 1));
        assert_eq!(super::civil(19_782), (2024, 2, 29));
        assert_eq!(super::civil(20_454), (2026, 1, 1));
    }
}
