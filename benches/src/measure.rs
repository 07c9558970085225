//! Races: peers take turns, round by round.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::sample::Sample;

/// One who takes part in a race. A round returns its figure, in the race's metric; less is better.
pub struct Contender<'a> {
    peer: String,
    round: Box<dyn FnMut() -> Result<f64> + 'a>,
}

impl<'a> Contender<'a> {
    pub fn new(peer: impl Into<String>, round: impl FnMut() -> Result<f64> + 'a) -> Self {
        Self { peer: peer.into(), round: Box::new(round) }
    }
}

/// Runs `rounds` rounds of all contenders in turn. One that fails leaves the race, and its sample
/// says why.
pub fn race(group: &str, case: &str, metric: &str, rounds: usize, contenders: Vec<Contender<'_>>) -> Vec<Sample> {
    let mut runners: Vec<(Contender<'_>, Vec<f64>, Option<String>)> =
        contenders.into_iter().map(|c| (c, Vec::new(), None)).collect();
    for round in 0..rounds {
        // Not always behind the same neighbour.
        let len = runners.len().max(1);
        runners.rotate_left(round % len);
        for (contender, figures, fault) in runners.iter_mut().filter(|(_, _, fault)| fault.is_none()) {
            match (contender.round)() {
                Ok(figure) => figures.push(figure),
                Err(error) => *fault = Some(format!("{error:#}")),
            }
        }
        runners.rotate_right(round % len);
    }
    let sample = |(contender, mut figures, fault): (Contender<'_>, Vec<f64>, Option<String>)| match fault {
        Some(why) => Sample::failed(group, case, &contender.peer, &why),
        None => {
            figures.sort_by(f64::total_cmp);
            let best = figures.first().copied().unwrap_or(f64::NAN);
            let median = figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN);
            Sample { median, ..Sample::value(group, case, &contender.peer, metric, best) }
        }
    };
    runners.into_iter().map(sample).collect()
}

/// Nanoseconds for each of `count`.
pub fn per(elapsed: Duration, count: usize) -> f64 {
    elapsed.as_nanos() as f64 / count.max(1) as f64
}

/// Times `count` calls of `work`: nanoseconds each.
pub fn time<T>(count: usize, mut work: impl FnMut(usize) -> T) -> f64 {
    let start = Instant::now();
    for i in 0..count {
        black_box(work(i));
    }
    per(start.elapsed(), count)
}

/// As [`time`], for work that can fail.
pub fn try_time<T>(count: usize, mut work: impl FnMut(usize) -> Result<T>) -> Result<f64> {
    let start = Instant::now();
    for i in 0..count {
        black_box(work(i)?);
    }
    Ok(per(start.elapsed(), count))
}
