//! Tests of memory that cannot be given, and of errors of a function that writes.

use super::*;

#[test]
fn settings_of_whoever_maps_are_refused() {
    if !has_two_views("settings_of_whoever_maps_are_refused") {
        return;
    }
    let views = Arc::new(Views::new(1 << 20));
    let here: *const u8 = views.executable.as_ptr();
    type Set = Box<dyn Fn(ArenaBuilder) -> ArenaBuilder>;
    let settings: [(&str, Set); 9] = [
        ("capacity", Box::new(|builder| builder.capacity(1 << 20))),
        ("data", Box::new(|builder| builder.data(0))),
        ("mode", Box::new(|builder| builder.mode(WxMode::Given))),
        ("mode", Box::new(|builder| builder.modes(&[]))),
        ("huge_pages", Box::new(|builder| builder.huge_pages(true))),
        ("seal", Box::new(|builder| builder.seal(true))),
        ("landing_pads", Box::new(|builder| builder.landing_pads(true))),
        ("near", Box::new(move |builder| builder.near(here))),
        ("name", Box::new(|builder| builder.name("given"))),
    ];
    for (name, set) in settings {
        match build_with(set(CodeArena::builder()), views.part(0, 1 << 20, false)) {
            Err(Error::Unsupported { what, .. }) => assert_eq!(what, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    for mode in [&[WxMode::Given][..], &[WxMode::Given; 2]] {
        let refused = CodeArena::builder().modes(mode).build();
        assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
    }
    let other = CodeArena::builder().capacity(1 << 20).modes(&[WxMode::Given, WxMode::Flip]).build().unwrap();
    assert_eq!((other.mode(), other.refused()[0].0), (WxMode::Flip, WxMode::Given));
    // A hint has no effect.
    let arena = build_with(CodeArena::builder().keep_free(0).huge_pages(false), views.part(0, 1 << 20, false)).unwrap();
    drop(arena.publish(&asm::padded(1, 500_000)).unwrap());
    assert_eq!((arena.stats().decommits, arena.stats().resident_bytes > 0), (0, true));
    assert!(matches!(arena.collapse(), Err(Error::Unsupported { what: "collapse", .. })));
}

#[test]
fn memory_that_cannot_be_used_is_refused() {
    if !has_two_views("memory_that_cannot_be_used_is_refused") {
        return;
    }
    let views = Arc::new(Views::new(1 << 20));
    for (from, len) in [(0, 0), (0, 15), (1, 30), (15, 16)] {
        assert!(matches!(build(views.part(from, len, false)), Err(Error::ZeroSize)), "{from} {len}");
    }
    for (from, len) in [(0, 16), (1, 31), (15, 17)] {
        let arena = build(views.part(from, len, true)).unwrap();
        assert_eq!((arena.capacity(), call(&arena.publish(&asm::constant(6)).unwrap())), (16, 6));
    }
    #[cfg(target_pointer_width = "64")]
    {
        let mut memory = views.part(0, 16, false);
        memory.executable = NonNull::slice_from_raw_parts(memory.executable.cast(), (2 << 30) + 16);
        assert!(matches!(build(memory), Err(Error::TooLarge { .. })));
    }
    let mut memory = views.part(4096, 1 << 19, false);
    memory.writer = GivenWriter::Alias(views.executable);
    assert!(matches!(build(memory), Err(Error::Unsupported { what: "the alias", .. })));
    let mut memory = views.part(4096, 1 << 19, false);
    memory.data = Some(NonNull::slice_from_raw_parts(views.executable, 8192));
    assert!(matches!(build(memory), Err(Error::Unsupported { what: "the data", .. })));
    // A page is executable even if the arena uses nothing of it.
    let page = region::page::size();
    let mut memory = views.part(page - 8, 1 << 19, false);
    memory.data = Some(NonNull::slice_from_raw_parts(views.executable, page));
    assert!(matches!(build(memory), Err(Error::Unsupported { what: "the data", .. })));
    // The alias of another memory: bytes that are written there do not run.
    let (other, mut memory) = (Views::new(1 << 20), views.part(0, 1 << 20, false));
    // SAFETY: it is the whole view, which no arena has. It contains a function that returns 3.
    unsafe {
        views.alias.copy_from_nonoverlapping(NonNull::from(&asm::constant(3)[..]).cast(), asm::constant(3).len());
    };
    memory.writer = GivenWriter::Alias(other.alias);
    let refused = build(memory);
    assert!(matches!(refused, Err(Error::Unsupported { what: "build_over", .. })), "{refused:?}");
    assert_eq!(Arc::strong_count(&views), 1);
}

/// A payload that panics again when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

/// Whatever the function that writes does, a failure is an error, and nothing is lost.
#[test]
fn a_function_that_fails_is_an_error() {
    if !has_two_views("a_function_that_fails_is_an_error") {
        return;
    }
    let views = Arc::new(Views::new(1 << 20));
    let fails = Arc::new(AtomicBool::new(true));
    for panics in [false, true] {
        let memory = || {
            let (mut memory, fails) = (views.part(3, 900_000, true), Arc::clone(&fails));
            let GivenWriter::Copy(inner) = memory.writer else { panic!() };
            memory.writer =
                GivenWriter::Copy(Box::new(move |offset, bytes: &[u8]| match fails.load(Ordering::Relaxed) {
                    false => inner(offset, bytes),
                    true if panics => std::panic::panic_any(Bomb),
                    true => Err(io::ErrorKind::PermissionDenied.into()),
                }));
            memory
        };
        let is_system = |error: &Error| matches!(error, Error::OperatingSystem { call: "GivenWriter::Copy", .. });
        fails.store(true, Ordering::Relaxed);
        assert!(is_system(&build(memory()).unwrap_err()));
        fails.store(false, Ordering::Relaxed);
        let arena = build(memory()).unwrap();
        let block = arena.publish(&asm::constant(1)).unwrap();
        let dropped = arena.publish(&asm::padded(1, 50_000)).unwrap();
        fails.store(true, Ordering::Relaxed);
        assert!(is_system(&arena.publish(&asm::constant(2)).unwrap_err()));
        let mut batch = arena.batch();
        batch.push(&asm::constant(3)).unwrap();
        assert!(is_system(&batch.publish().unwrap_err()));
        // SAFETY: nobody runs the block meanwhile. The bytes are equal to the old ones.
        assert!(is_system(&unsafe { block.patch(0, &asm::constant(1)) }.unwrap_err()));
        drop(dropped);
        assert!(is_system(&arena.trim().unwrap_err()) && call(&block) == 1);
        check_sums(&arena);
        fails.store(false, Ordering::Relaxed);
        assert_eq!(arena.trim().unwrap(), 0);
        drop(block);
        check_empty(&arena);
        check_works(&arena);
    }
    assert_eq!(Arc::strong_count(&views), 1);
}
