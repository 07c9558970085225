//! Parsing of option values. An error says what is wrong with the value.

use std::ffi::OsStr;

use gaia_jit::WxMode;

pub(crate) fn number(value: &OsStr, least: u64, most: u64) -> Result<u64, String> {
    match value.to_str().and_then(|text| text.parse().ok()) {
        Some(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("not a number from {least} to {most}")),
    }
}

pub(crate) fn mode(value: &OsStr) -> Result<WxMode, String> {
    match value.to_str() {
        Some("flip") => Ok(WxMode::Flip),
        Some("dual") => Ok(WxMode::DualMap),
        Some("per-thread") => Ok(WxMode::PerThread),
        Some("file") => Ok(WxMode::FileWrite),
        _ => Err("the modes are flip, dual, per-thread and file".to_owned()),
    }
}

pub(crate) fn bytes(value: &OsStr) -> Result<usize, String> {
    let text = value.to_str().unwrap_or_default();
    let (digits, shift) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 10),
        Some((at, 'm' | 'M')) => (&text[..at], 20),
        Some((at, 'g' | 'G')) => (&text[..at], 30),
        _ => (text, 0),
    };
    let number = digits.parse::<usize>().map_err(|_| "not a number of bytes, such as 65536, 512K or 4M")?;
    number.checked_mul(1 << shift).ok_or_else(|| "more bytes than can be addressed".to_owned())
}
