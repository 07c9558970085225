//! Calls through a `Redirect`, directly, and through a function pointer that is loaded from memory.

use std::sync::atomic::{AtomicPtr, Ordering};

use anyhow::{Context, Result, ensure};
use gaia_jit::{Redirect, WxMode};

use crate::code::{self, Numbered};
use crate::group::{Group, Row, Target, Task, ns_text};
use crate::measure::{Contender, race, time};
use crate::peers::gaia;
use crate::sample::{Sample, Samples};
use crate::scale::Scale;
use crate::trace::Rng;

pub const GROUP: Group =
    Group { name: "redirect", about: "calls through redirects, of one function and of many", tasks, run, judge };

const METRIC: &str = "ns/call";
const DIRECT: &str = "a direct call";
const THROUGH: &str = "gaia-jit through a redirect";
const LOADED: &str = "a pointer loaded from memory";
/// The same function each time.
const ONE: &str = "one function";
const MANY: &str = "1000 functions at random";

fn tasks(_: Scale) -> Vec<Task> {
    [ONE, MANY].map(Task::new).to_vec()
}

/// Nanoseconds for each call of the functions that `function` says for the numbers in `order`,
/// which return those numbers.
fn calling<'a>(name: &str, order: &'a [u16], function: impl Fn(usize) -> Numbered + 'a) -> Contender<'a> {
    let expected: i64 = order.iter().copied().map(i64::from).sum();
    let call_all = move || {
        let mut sum = 0;
        let each = time(order.len(), |i| sum += i64::from(function(usize::from(order[i]))()));
        ensure!(sum == expected, "other functions were called");
        Ok(each)
    };
    Contender::new(name, move || {
        // What the neighbours left in the caches does not count.
        call_all()?;
        call_all()
    })
}

/// As [`calling`], of one function.
fn calling_one<'a>(name: &str, count: usize, function: impl Fn() -> Numbered + 'a) -> Contender<'a> {
    Contender::new(name, move || {
        let mut sum = 0;
        let each = time(count, |_| sum += i64::from(function()()));
        ensure!(sum == count as i64, "another function was called");
        Ok(each)
    })
}

/// Functions with their redirects.
struct Functions {
    direct: Vec<Numbered>,
    redirects: Vec<Redirect>,
    cells: Vec<AtomicPtr<u8>>,
}

impl Functions {
    fn new(count: usize, first: u16) -> Result<Self> {
        let arena = gaia::Arena::new(WxMode::DualMap, false, 2 * count)?.0;
        let (mut direct, mut redirects, mut cells) = (Vec::new(), Vec::new(), Vec::new());
        for number in first..first + count as u16 {
            let block = arena.publish(&code::numbered(number))?;
            // SAFETY: made by `numbered`; the redirect keeps it.
            direct.push(unsafe { block.as_fn::<Numbered>() });
            cells.push(AtomicPtr::new(block.as_ptr().cast_mut()));
            redirects.push(arena.redirect(block)?);
        }
        Ok(Self { direct, redirects, cells })
    }

    fn through(&self) -> Vec<Numbered> {
        // SAFETY: all targets are made by `numbered`, and no redirect is ever swapped.
        self.redirects.iter().map(|redirect| unsafe { redirect.as_fn::<Numbered>() }).collect()
    }

    #[inline]
    fn loaded(&self, at: usize) -> Numbered {
        let address = self.cells[at].load(Ordering::Acquire);
        // SAFETY: the address of a function made by `numbered`.
        unsafe { std::mem::transmute::<*mut u8, Numbered>(address) }
    }
}

fn run(task: &Task, scale: Scale) -> Result<Vec<Sample>> {
    let calls = scale.count(100_000);
    if task.case == ONE {
        let functions = Functions::new(1, 1)?;
        let (direct, through) = (functions.direct[0], *functions.through().first().context("no redirect")?);
        let contenders = vec![
            calling_one(DIRECT, calls, move || direct),
            calling_one(THROUGH, calls, move || through),
            calling_one(LOADED, calls, || functions.loaded(0)),
        ];
        return Ok(race(GROUP.name, ONE, METRIC, scale.rounds(51), contenders));
    }
    let functions = Functions::new(1_000, 0)?;
    let through = functions.through();
    let mut rng = Rng::new(22);
    let order: Vec<u16> = (0..calls).map(|_| rng.below(functions.direct.len()) as u16).collect();
    let contenders = vec![
        calling(DIRECT, &order, |at| functions.direct[at]),
        calling(THROUGH, &order, |at| through[at]),
        calling(LOADED, &order, |at| functions.loaded(at)),
    ];
    Ok(race(GROUP.name, MANY, METRIC, scale.rounds(21), contenders))
}

fn judge(samples: Samples<'_>) -> Vec<Row> {
    let row = |what, case, target| {
        let ns = |peer| samples.best(case, peer, METRIC);
        Row::new(what, target, ns(THROUGH) - ns(DIRECT), "ns more")
            .ours(ns_text(ns(THROUGH)))
            .peer(format!("{} {LOADED}", ns_text(ns(LOADED))))
            .floor(format!("{} {DIRECT}", ns_text(ns(DIRECT))))
    };
    vec![
        row("a call through a redirect, one function", ONE, Target::AtMost(1.5)),
        row("calls through redirects, 1,000 at random", MANY, Target::None),
    ]
}
