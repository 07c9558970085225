//! Tests that all engines give the same results, and of queries without room for their code.
#![allow(clippy::unwrap_used)]

use fastrand::Rng;
use gaia_jit::CodeArena;
use gaia_jit::cache::CodeCache;

use crate::counts::Counts;
use crate::engine::{Caching, CompilingEachTime, Engine, Native};
use crate::query::{self, generator, interpreter};
use crate::table::Table;

fn table(rows: usize) -> Table {
    Table::made_up(&mut Rng::with_seed(3), rows)
}

fn made_up(count: usize) -> Vec<String> {
    let mut rng = Rng::with_seed(2);
    (0..count).map(|_| generator::generate(&mut rng)).collect()
}

/// Runs all queries, and compares the results with those of the interpreter.
fn run_all(engine: &mut impl Engine, texts: &[String], table: &Table) -> Counts {
    let mut counts = Counts::default();
    for text in texts {
        let given = engine.run(text, &mut counts).unwrap();
        let expected = interpreter::run(&query::read(text, 1).unwrap(), table);
        counts.check(text, given, expected.to_bits());
    }
    assert_eq!(counts.first_mismatch, None);
    counts
}

#[test]
fn code_gives_what_the_interpreter_gives() {
    let mut texts = made_up(100);
    // Special operands, so that every operation gets them.
    let operands = ["0", "-0", "-2.5", "-(0 / 0)", "(1 / 0)", "(-1 / 0)", "rating"];
    for left in operands {
        for right in operands {
            let infix = ["+", "-", "*", "/", "<", "<=", ">", ">=", "==", "!=", "&&", "||"];
            texts.extend(infix.map(|operator| format!("1 / ({left} {operator} {right})")));
            texts.extend(["min", "max"].map(|name| format!("1 / {name}({left}, {right})")));
            texts.push(format!("{left} where {right}"));
        }
        texts.extend(["abs", "sqrt", "!", "-"].map(|name| format!("1 / {name}({left})")));
    }
    let arena = CodeArena::new().unwrap();
    for (rows, texts) in [(0, &texts[..10]), (1, &texts[..10]), (50, &texts[..])] {
        let table = table(rows);
        let mut engine = CompilingEachTime { arena: &arena, native: Native::new(&table).unwrap() };
        let counts = run_all(&mut engine, texts, &table);
        assert_eq!((counts.compilations, counts.interpreted), (texts.len() as u64, 0));
    }
}

#[test]
fn every_query_is_a_hit_or_a_miss() {
    let (table, texts) = (table(10), made_up(100));
    let arena = CodeArena::new().unwrap();
    let cache = CodeCache::builder(arena.clone()).budget(4_000).build();
    let mut engine = Caching { arena: &arena, cache: &cache, native: Native::new(&table).unwrap() };
    let twice_each: Vec<_> = texts.iter().flat_map(|text| [text.clone(), text.clone()]).collect();
    let counts = run_all(&mut engine, &twice_each, &table);
    let stats = cache.stats();
    assert_eq!((counts.hits + stats.hits, stats.misses), (100, 100));
    assert_eq!((counts.compilations, counts.interpreted), (100, 0));
    assert_eq!(stats.evictions + stats.entries as u64, 100);
    assert!(stats.evictions > 0 && stats.bytes <= 4_000, "{stats:?}");
}

#[test]
fn a_query_without_room_is_interpreted() {
    let (table, texts) = (table(10), made_up(20));
    let arena = CodeArena::builder().capacity(1).build().unwrap();
    let others: Vec<_> = std::iter::from_fn(|| arena.publish(&[0; 16]).ok()).collect();
    assert!(!others.is_empty());
    let mut engine = CompilingEachTime { arena: &arena, native: Native::new(&table).unwrap() };
    assert_eq!(run_all(&mut engine, &texts, &table).interpreted, 20);
    let cache = CodeCache::builder(arena.clone()).build();
    let mut engine = Caching { arena: &arena, cache: &cache, native: Native::new(&table).unwrap() };
    assert_eq!(run_all(&mut engine, &texts, &table).interpreted, 20);
    drop(others);
    assert_eq!(run_all(&mut engine, &texts, &table).interpreted, 0);
}
