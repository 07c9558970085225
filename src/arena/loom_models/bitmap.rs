//! The bitmap's readers against its one writer.

use super::{Arc, check, spawn};
use crate::space::bitmap::Bitmap;

/// Bits behind one that stays come and go, and their summary with them. Three preemptions.
#[test]
fn a_bit_that_stays_is_found() {
    check(3, || {
        let bitmap = Arc::new(Bitmap::new(200).unwrap());
        bitmap.set(3, 4);
        let writer = {
            let bitmap = Arc::clone(&bitmap);
            spawn(move || {
                bitmap.set(70, 71);
                bitmap.clear(70, 71);
                bitmap.set(150, 151);
            })
        };
        let found = bitmap.prev_set(200);
        assert!(matches!(found, Some(3 | 70 | 150)), "{found:?}");
        writer.join().unwrap();
        assert_eq!((bitmap.prev_set(200), bitmap.prev_set(150)), (Some(150), Some(3)));
    });
}

/// The bit that stays shares its word with ones that go. Three preemptions.
#[test]
fn a_bit_is_found_beside_others_that_go() {
    check(3, || {
        let bitmap = Arc::new(Bitmap::new(200).unwrap());
        bitmap.set(60, 130);
        let writer = {
            let bitmap = Arc::clone(&bitmap);
            spawn(move || {
                bitmap.clear(66, 130);
                bitmap.clear(60, 64);
            })
        };
        let found = bitmap.prev_set(200);
        assert!(found.is_some_and(|bit| (65..130).contains(&bit)), "{found:?}");
        assert_eq!(bitmap.prev_set(66), Some(65));
        writer.join().unwrap();
        assert_eq!((bitmap.prev_set(200), bitmap.prev_set(65)), (Some(65), Some(64)));
    });
}
