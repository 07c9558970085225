//! Tests by random operations, beside a model that knows which entries may be cached.

use std::collections::HashMap;
use std::sync::Arc;

use gaia_jit::cache::{CodeCache, Entry};
use gaia_jit::{Batch, Error};

use super::call_entry;
use super::common::{asm, modes, often, small};

#[test]
fn random_operations() {
    const KEYS: u16 = 40;
    for (seed, mode) in (0..3).flat_map(|seed| modes().map(move |mode| (seed, mode))) {
        let mut random = fastrand::Rng::with_seed(seed);
        let arena = small(mode).poison(seed == 1).build().unwrap();
        // In some runs the budget is the limit, in others the arena.
        let budget = if seed == 0 { 100_000 } else { 10 << 20 };
        let cache: CodeCache<u16, u32> = CodeCache::builder(arena.clone()).budget(budget).build();
        // By key: the number and the size of the last code that was added and not removed on
        // purpose.
        let mut newest: HashMap<u16, (u32, usize)> = HashMap::new();
        let mut held: Vec<Arc<Entry<u16, u32>>> = Vec::new();
        let mut last = 0;
        for step in 0..often(1_500) {
            let key = random.u16(0..KEYS);
            let len = if random.u8(0..10) == 0 { random.usize(1..120_000) } else { random.usize(8..20_000) };
            match random.u8(0..20) {
                0 => {
                    let was = cache.get(&key).is_some();
                    assert_eq!(cache.invalidate(&key), was);
                    newest.remove(&key);
                }
                1 => {
                    let divisor = random.u16(2..9);
                    let there = (0..KEYS).filter(|key| key % divisor == 0 && cache.get(key).is_some()).count();
                    assert_eq!(cache.invalidate_if(|entry| entry.key() % divisor == 0), there);
                    newest.retain(|key, _| key % divisor != 0);
                }
                2 if random.u8(0..10) == 0 => {
                    cache.clear();
                    newest.clear();
                }
                3 => {
                    if let Ok(block) = arena.publish(&asm::padded(last + 1, len.max(32))) {
                        last += 1;
                        cache.insert(key, block, last).unwrap();
                        newest.insert(key, (last, len.max(32)));
                    }
                }
                4..8 => {
                    held.pop();
                }
                way => {
                    let was = cache.get(&key);
                    let before = cache.stats();
                    let mut compiled = false;
                    let compile = |batch: &mut Batch| {
                        compiled = true;
                        let parts = random.usize(1..4);
                        let slots = (0..parts).map(|_| batch.push(&asm::padded(last + 1, len.max(32))));
                        let slots = slots.collect::<Result<Vec<_>, Error>>()?;
                        if way == 8 { Err(Error::ZeroSize) } else { Ok((slots[parts - 1], last + 1)) }
                    };
                    let result = cache.get_or_compile_with(&key, compile);
                    let after = cache.stats();
                    assert_eq!(was.is_none(), compiled, "{mode:?} {seed} {step}");
                    assert_eq!(
                        (after.hits - before.hits, after.misses - before.misses),
                        if compiled { (0, 1) } else { (1, 0) }
                    );
                    match (result, was) {
                        (Ok(entry), Some(was)) => assert!(Arc::ptr_eq(&entry, &was)),
                        (Ok(entry), None) => {
                            last += 1;
                            assert_eq!(*entry.value(), last);
                            newest.insert(key, (last, entry.len()));
                            assert_eq!(cache.get(&key).is_some(), entry.len() <= budget);
                            if random.u8(0..4) == 0 {
                                held.push(entry);
                            }
                        }
                        (Err(Error::ZeroSize), None) => assert_eq!(way, 8),
                        (Err(Error::ArenaFull { waiting: 0, .. }), None) => assert!(!held.is_empty()),
                        (Err(error), _) => panic!("{error}"),
                    }
                }
            }
            let stats = cache.stats();
            assert!(stats.bytes <= budget);
            if step % 16 == 0 {
                let (mut entries, mut bytes) = (0, 0);
                for key in 0..KEYS {
                    if let Some(entry) = cache.get(&key) {
                        assert_eq!(
                            newest.get(&key),
                            Some(&(*entry.value(), entry.len())),
                            "stale: {mode:?} {seed} {step}"
                        );
                        assert_eq!(call_entry(&entry), *entry.value());
                        entries += 1;
                        bytes += entry.len();
                    }
                }
                assert_eq!((stats.entries, stats.bytes), (entries, bytes));
                held.iter().for_each(|entry| assert_eq!(call_entry(entry), *entry.value()));
                assert_eq!(arena.stats().live_bytes, stats.bytes + stats.held, "{mode:?} {seed} {step}");
            }
        }
        // A tenth of the steps may not fill the arena.
        assert!(cache.stats().evictions > 0 || often(10) < 10 && seed > 0, "{mode:?} {seed}");
        drop(cache);
        held.clear();
        assert_eq!((arena.stats().live_blocks, arena.stats().free_bytes), (0, arena.capacity()));
    }
}
