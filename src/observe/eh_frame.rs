//! Call frame information, as it is given for a function ([`UnwindInfo::EhFrame`]), for the address
//! where it came to lie.
#![forbid(unsafe_code)]

use crate::{Published, UnwindInfo};

/// Appends a function's records with the addresses they are for; `false`, and nothing appended, if
/// it has none or they are not of the form that is documented.
pub(super) fn push(out: &mut Vec<u8>, function: &Published<'_>) -> bool {
    let Some(UnwindInfo::EhFrame(records)) = function.unwind else { return false };
    let from = out.len();
    let added = relocate(out, records, function.block.start.addr()).is_some();
    if !added {
        out.truncate(from);
    }
    added
}

/// Each record is its length and so many bytes: a zero (CIE), or the distance back to its CIE (FDE)
/// and then the first address. A length of zero ends a section, and would hide what is appended
/// next.
fn relocate(out: &mut Vec<u8>, mut records: &[u8], address: usize) -> Option<()> {
    while let Some((len, rest)) = records.split_first_chunk::<4>() {
        let body_len = u32::from_ne_bytes(*len) as usize;
        // 64-bit lengths, which begin with all ones, are longer than anything here.
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
