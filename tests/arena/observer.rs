//! Tests of the events that observers get, and of their order.
//!
//! | What | How it is checked |
//! |---|---|
//! | the life of an arena | a log is compared with the expected events, from `reserved` to `released` |
//! | batches | one event describes all functions, ordered by slot; a dropped batch has no event |
//! | several observers | each gets every event in the order of registration, also if another one panics |
//! | calls from an observer | `lookup` and `stats` work in the middle of an event |
//! | `freed` | it follows the last guard, once for each block, with and without poison |
//! | features `tracing` and `serde` | a subscriber stores the fields of events; figures are the same after JSON |
//!
//! Observers that panic exist in these tests to catch two faults: a loop that stops at the first
//! panic, and space that is lost because a call was interrupted. The log reads the first byte of
//! each published function, so an event that is sent before the bytes are written is a failure.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::common::{asm, modes, small};
use gaia_jit::{BlockInfo, Code, CodeArena, Observer, Published, Reservation, UnwindInfo, WxMode};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Reserved(usize, WxMode),
    Published(Vec<(usize, Option<String>, Option<Vec<u8>>)>),
    Retired(usize),
    Reclaimed(u64, u64),
    Trimmed(usize),
    Released(usize),
}

#[derive(Default)]
struct Log(Mutex<Vec<Event>>);

impl Log {
    fn push(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }

    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Observer for Log {
    fn reserved(&self, space: &Reservation) {
        self.push(Event::Reserved(space.len, space.mode));
    }

    fn published(&self, functions: &[Published<'_>]) {
        let described = functions.iter().map(|function| {
            let unwind = match function.unwind {
                Some(UnwindInfo::EhFrame(bytes)) => Some(bytes.to_vec()),
                _ => None,
            };
            // SAFETY: the block is published and alive, because the publishing call has not
            // returned.
            let first = unsafe { *function.block.start };
            assert_eq!(first, asm::constant(1)[0], "the bytes are there");
            (function.block.len, function.name.map(String::from), unwind)
        });
        self.push(Event::Published(described.collect()));
    }

    fn retired(&self, block: &BlockInfo) {
        self.push(Event::Retired(block.len));
    }

    fn reclaimed(&self, blocks: u64, bytes: u64) {
        self.push(Event::Reclaimed(blocks, bytes));
    }

    fn trimmed(&self, bytes: usize) {
        self.push(Event::Trimmed(bytes));
    }

    fn released(&self, space: &Reservation) {
        self.push(Event::Released(space.len));
    }
}

/// Returns a log, and an arena that writes to it.
fn logged(mode: WxMode) -> (Arc<Log>, CodeArena) {
    let log = Arc::new(Log::default());
    let arena = small(mode).observer(log.clone()).build().unwrap();
    assert_eq!(log.take(), [Event::Reserved(1 << 20, mode)]);
    (log, arena)
}

#[test]
fn a_life_is_told_from_reservation_to_release() {
    for mode in modes() {
        let (log, arena) = logged(mode);
        let code = asm::padded(1, 200);
        let block = arena.publish(Code::new(&code).name("one").unwind(UnwindInfo::EhFrame(&[1, 2]))).unwrap();
        assert_eq!(log.take(), [Event::Published(vec![(200, Some("one".into()), Some(vec![1, 2]))])]);
        let guard = arena.pin();
        drop(block);
        assert_eq!(log.take(), [Event::Retired(200)]);
        drop(guard);
        // The next call with a lock finds that the guard has ended. The next call without a lock
        // reports it.
        assert_eq!(arena.stats().pending_blocks, 0);
        drop(arena.publish(&code).unwrap());
        let events = log.take();
        assert!(events.contains(&Event::Reclaimed(1, 200)), "{events:?}");
        let trimmed = arena.trim().unwrap();
        let expected = if trimmed > 0 { vec![Event::Trimmed(trimmed)] } else { Vec::new() };
        assert_eq!(log.take(), expected);
        let last = arena.publish(&code).unwrap();
        drop(arena);
        log.take();
        drop(last);
        assert_eq!(log.take(), [Event::Retired(200), Event::Released(1 << 20)]);
    }
}

#[test]
fn a_batch_is_told_at_once_in_the_order_of_its_slots() {
    for mode in modes() {
        let (log, arena) = logged(mode);
        let code = asm::constant(1);
        let mut batch = arena.batch();
        batch.push(Code::new(&code)).unwrap();
        let second = batch.push(Code::new(&code).name("second")).unwrap();
        let third = batch.push(Code::new(&code).name("third")).unwrap();
        batch.set_unwind(second, UnwindInfo::EhFrame(&[7]));
        batch.set_unwind(third, UnwindInfo::EhFrame(&[8, 9]));
        drop(batch.publish().unwrap());
        let len = code.len();
        let functions = vec![
            (len, None, None),
            (len, Some("second".into()), Some(vec![7])),
            (len, Some("third".into()), Some(vec![8, 9])),
        ];
        assert_eq!(log.take()[0], Event::Published(functions));
        let mut dropped = arena.batch();
        dropped.push(&code).unwrap();
        drop(dropped);
        assert_eq!(log.take(), [], "what is not published is not told");
    }
}

#[test]
fn all_observers_hear_the_first_one_first() {
    let (first, second) = (Arc::new(Log::default()), Arc::new(Log::default()));
    struct After(Arc<Log>, Arc<Log>);
    impl Observer for After {
        fn retired(&self, block: &BlockInfo) {
            assert!(self.0.0.lock().unwrap().contains(&Event::Retired(block.len)));
            self.1.retired(block);
        }
    }
    let after = Arc::new(After(first.clone(), second.clone()));
    let arena = small(WxMode::Flip).observer(first.clone()).observer(after).build().unwrap();
    drop(arena.publish(&asm::constant(1)).unwrap());
    assert_eq!(second.take(), [Event::Retired(asm::constant(1).len())]);
}

/// An observer that misses an event would have a wrong picture for ever, for example of a function
/// that retired.
#[test]
fn all_observers_hear_of_it_though_one_panics() {
    struct Panics;
    impl Observer for Panics {
        fn published(&self, _: &[Published<'_>]) {
            std::panic::resume_unwind(Box::new("published"));
        }

        fn released(&self, _: &Reservation) {
            std::panic::resume_unwind(Box::new("released"));
        }
    }
    for mode in modes() {
        let log = Arc::new(Log::default());
        let arena = small(mode).observer(Arc::new(Panics)).observer(log.clone()).observer(Arc::new(Panics));
        let arena = arena.build().unwrap();
        log.take();
        let caught = |body: &mut dyn FnMut()| {
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            *caught.unwrap_err().downcast::<&str>().unwrap()
        };
        assert_eq!(caught(&mut || drop(arena.publish(&asm::constant(1)))), "published");
        assert_eq!(log.take().len(), 2, "and retired, as nobody has it");
        let mut arena = Some(arena);
        assert_eq!(caught(&mut || drop(arena.take())), "released");
        assert_eq!(log.take().len(), 1);
    }
}

#[test]
fn an_observer_may_use_the_arena() {
    struct Uses(Mutex<Option<CodeArena>>);
    impl Observer for Uses {
        fn published(&self, functions: &[Published<'_>]) {
            if let Some(arena) = &*self.0.lock().unwrap() {
                assert_eq!(arena.lookup(functions[0].block.start), Some(functions[0].block));
            }
        }

        fn retired(&self, block: &BlockInfo) {
            if let Some(arena) = &*self.0.lock().unwrap() {
                assert_eq!(arena.stats().live_blocks, 1);
                assert!(arena.lookup(block.start).is_some(), "it is findable until all have heard");
            }
        }
    }
    for mode in modes() {
        let uses = Arc::new(Uses(Mutex::new(None)));
        let arena = small(mode).observer(uses.clone()).build().unwrap();
        *uses.0.lock().unwrap() = Some(arena.clone());
        drop(arena.publish(&asm::constant(1)).unwrap());
        *uses.0.lock().unwrap() = None;
    }
}

/// Feature `tracing`.
#[cfg(feature = "tracing")]
mod events {
    use std::sync::{Arc, Mutex};

    use gaia_jit::CodeArena;
    use gaia_jit::observe::Events;
    use tracing::field::{Field, Visit};
    use tracing::{Event, Metadata, Subscriber, span};

    /// A subscriber that stores the fields of each event.
    struct Heard(Arc<Mutex<Vec<String>>>);

    struct Words(String);

    impl Visit for Words {
        fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
            if !matches!(field.name(), "start") {
                self.0 += &format!("{}={value:?} ", field.name());
            }
        }
    }

    impl Subscriber for Heard {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target() == "gaia_jit"
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, event: &Event<'_>) {
            let mut words = Words(String::new());
            event.record(&mut words);
            self.0.lock().unwrap().push(words.0.trim().to_string());
        }

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn a_life_in_events() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        tracing::subscriber::with_default(Heard(heard.clone()), || {
            let arena = CodeArena::builder().capacity(1 << 20).observer(Arc::new(Events)).build().unwrap();
            let mut batch = arena.batch();
            batch.push(gaia_jit::Code::new(&[0; 10]).name("first")).unwrap();
            batch.push(&[0; 20]).unwrap();
            drop(batch.publish().unwrap());
        });
        let expected = [
            "message=reserved len=1048576 mode=Flip",
            r#"message=published functions=2 bytes=30 name="first""#,
            "message=retired len=10 tag=0",
            "message=retired len=20 tag=0",
            "message=released len=1048576",
        ];
        let mut heard = heard.lock().unwrap().clone();
        for event in &mut heard {
            // The order of a message among the fields is not promised.
            let mut words: Vec<&str> = event.split(' ').collect();
            words.sort_by_key(|word| !word.starts_with("message"));
            *event = words.join(" ");
        }
        assert_eq!(heard, expected);
    }
}

/// Feature `serde`.
#[cfg(feature = "serde")]
#[test]
fn figures_are_serialised() {
    let arena = small(WxMode::Flip).build().unwrap();
    let block = arena.publish(&asm::padded(1, 100)).unwrap();
    let stats = arena.stats();
    let json = serde_json::to_string(&stats).unwrap();
    assert_eq!(serde_json::from_str::<gaia_jit::Stats>(&json).unwrap(), stats);
    let map: serde_json::Value = serde_json::to_value(arena.map()).unwrap();
    assert_eq!(map["pages"].as_array().unwrap().len(), (1 << 20) / map["page_size"].as_u64().unwrap() as usize);
    assert_eq!(map["holes"][0]["len"].as_u64().unwrap() as usize, stats.largest_hole);
    drop(block);
}

#[test]
fn all_observers_hear_of_the_end_whoever_panics() {
    struct Bad;
    impl Observer for Bad {
        fn released(&self, _: &Reservation) {
            panic!("an observer's own fault");
        }
    }
    let log = Arc::new(Log::default());
    let arena = small(WxMode::Flip).observer(Arc::new(Bad)).observer(log.clone()).build().unwrap();
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(arena))).is_err());
    assert_eq!(log.take().last(), Some(&Event::Released(1 << 20)));
}

/// The payload of a panic can panic itself when it is dropped.
#[test]
fn a_panic_that_panics_ends_where_space_is_told_free() {
    static CARRIED: AtomicUsize = AtomicUsize::new(0);
    struct Carried;
    impl Drop for Carried {
        fn drop(&mut self) {
            CARRIED.fetch_sub(1, Ordering::Relaxed);
        }
    }
    struct Worse;
    impl Drop for Worse {
        fn drop(&mut self) {
            CARRIED.fetch_add(1, Ordering::Relaxed);
            std::panic::panic_any(Carried);
        }
    }
    struct Bad;
    impl Observer for Bad {
        fn freed(&self, _: &BlockInfo) {
            std::panic::panic_any(Worse);
        }
    }
    for mode in modes() {
        let arena = small(mode).observer(Arc::new(Bad)).build().unwrap();
        drop(arena.publish(&asm::constant(1)).unwrap());
        let (guard, block) = (arena.pin(), arena.publish(&asm::constant(1)).unwrap());
        drop(block);
        drop(guard);
        assert_eq!(arena.stats().free_bytes, arena.capacity());
    }
    assert_eq!(CARRIED.load(Ordering::Relaxed), 0, "what the second panic carried is lost");
}

#[test]
fn space_is_told_free_when_the_last_guard_is_gone() {
    #[derive(Default)]
    struct Freed(Mutex<Vec<(u64, &'static str)>>);
    impl Observer for Freed {
        fn retired(&self, block: &BlockInfo) {
            self.0.lock().unwrap().push((block.tag, "retired"));
        }

        fn freed(&self, block: &BlockInfo) {
            self.0.lock().unwrap().push((block.tag, "freed"));
            panic!("ends here");
        }
    }
    for mode in modes() {
        for poison in [false, true] {
            let freed = Arc::new(Freed::default());
            let arena = small(mode).poison(poison).observer(freed.clone()).build().unwrap();
            let take = || std::mem::take(&mut *freed.0.lock().unwrap());
            let code = asm::constant(1);
            let publish = |tag| arena.publish(Code::new(&code).tag(tag)).unwrap();
            drop(publish(1));
            assert_eq!(take(), [(1, "retired"), (1, "freed")]);
            let (guard, second, third) = (arena.pin(), publish(2), publish(3));
            drop(second);
            drop(third);
            let _ = publish(4);
            assert!(!take().iter().any(|(_, event)| *event == "freed"), "they may be running");
            drop(guard);
            assert_eq!(arena.stats().pending_blocks, 0);
            assert_eq!(take(), [(2, "freed"), (3, "freed"), (4, "freed")]);
            assert_eq!(arena.stats().free_bytes, arena.capacity());
        }
    }
}
