//! The relocation of call frame information ([`UnwindInfo::EhFrame`]) to the final address of its
//! function.
#![forbid(unsafe_code)]

use crate::{Published, UnwindInfo};

/// Appends a function's records, with their final addresses. Returns `false` and appends nothing if
/// it has none, or if they do not have the documented form.
pub(super) fn push(out: &mut Vec<u8>, function: &Published<'_>) -> bool {
    let Some(UnwindInfo::EhFrame(records)) = function.unwind else { return false };
    let from = out.len();
    let added = relocate(out, records, function.block.start.addr()).is_some();
    if !added {
        out.truncate(from);
    }
    added
}

/// Appends records with their addresses relocated, without the ends of sections.
///
/// ```text
/// CIE  | length: 4 | 0: 4                    | contents |
/// FDE  | length: 4 | distance to its CIE: 4  | first address: a word | contents |
/// end  | 0: 4      |
/// ```
///
/// An end is left out, because it would hide the records that are appended after it.
fn relocate(out: &mut Vec<u8>, mut records: &[u8], address: usize) -> Option<()> {
    while let Some((len, rest)) = records.split_first_chunk::<4>() {
        let body_len = u32::from_ne_bytes(*len) as usize;
        // A 64-bit length begins with 32 ones, which is a larger number than any length here.
        let (body, next) = rest.split_at_checked(body_len)?;
        if body_len > 0 {
            let (id, content) = body.split_first_chunk::<4>()?;
            out.extend_from_slice(len);
            out.extend_from_slice(id);
            if u32::from_ne_bytes(*id) == 0 {
                out.extend_from_slice(content);
            } else {
                let (begin, content) = content.split_first_chunk::<{ size_of::<usize>() }>()?;
                let begin = usize::from_ne_bytes(*begin).wrapping_add(address);
                out.extend_from_slice(&begin.to_ne_bytes());
                out.extend_from_slice(content);
            }
        }
        records = next;
    }
    records.is_empty().then_some(())
}

#[cfg(test)]
mod tests {
    use super::relocate;

    fn record(id: u32, content: &[u8]) -> Vec<u8> {
        let len = 4 + content.len() as u32;
        [&len.to_ne_bytes()[..], &id.to_ne_bytes(), content].concat()
    }

    #[test]
    fn only_the_first_addresses_change_and_ends_are_left_out() {
        let given =
            [record(0, &[1, 2, 3, 4]), record(16, &[&8_usize.to_ne_bytes()[..], &[9; 12]].concat()), vec![0; 4]];
        let mut out = vec![77];
        assert_eq!(relocate(&mut out, &given.concat(), 0x1000), Some(()));
        let expected =
            [vec![77], record(0, &[1, 2, 3, 4]), record(16, &[&0x1008_usize.to_ne_bytes()[..], &[9; 12]].concat())];
        assert_eq!(out, expected.concat());
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        let whole = [record(0, &[1, 2, 3, 4]), record(16, &[0; 16])].concat();
        for len in 1..whole.len() {
            let cut = relocate(&mut Vec::new(), &whole[..len], 0);
            assert_eq!(cut.is_some(), len == 12, "{len}");
        }
        assert_eq!(relocate(&mut Vec::new(), &u32::MAX.to_ne_bytes(), 0), None);
    }
}
