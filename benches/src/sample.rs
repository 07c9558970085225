//! One measured figure, as it is passed from the child process to the parent and written to the
//! CSV.

use std::fmt::Write;

/// A figure of one peer at one case of one group. Smaller is better unless the metric says
/// otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub group: String,
    pub case: String,
    pub peer: String,
    pub metric: String,
    /// The best round; the only value where there are no rounds. `NaN` if the peer failed.
    pub best: f64,
    pub median: f64,
    pub note: String,
}

/// The columns, for the head of the CSV.
pub const COLUMNS: &str = "group,case,peer,metric,best,median,note";

const MARK: &str = "sample\t";

impl Sample {
    /// A single value.
    pub fn value(group: &str, case: &str, peer: &str, metric: &str, value: f64) -> Self {
        let text = str::to_owned;
        let note = String::new();
        Self {
            group: text(group),
            case: text(case),
            peer: text(peer),
            metric: text(metric),
            best: value,
            median: value,
            note,
        }
    }

    /// A peer that failed.
    pub fn failed(group: &str, case: &str, peer: &str, why: &str) -> Self {
        Self { note: why.replace(['\t', '\n'], " "), ..Self::value(group, case, peer, "failed", f64::NAN) }
    }

    pub fn with_note(self, note: impl Into<String>) -> Self {
        Self { note: note.into(), ..self }
    }

    /// Whether both are figures of the same thing.
    pub fn is_of_same(&self, other: &Self) -> bool {
        let key = |s: &'_ Self| [&s.group, &s.case, &s.peer, &s.metric].map(String::clone);
        key(self) == key(other)
    }

    /// For the pipe between child and parent.
    pub fn to_line(&self) -> String {
        let Self { group, case, peer, metric, best, median, note } = self;
        format!("{MARK}{group}\t{case}\t{peer}\t{metric}\t{best}\t{median}\t{note}")
    }

    /// `None` for lines that are not samples.
    pub fn from_line(line: &str) -> Option<Self> {
        let mut fields = line.strip_prefix(MARK)?.split('\t').map(str::to_owned);
        let mut next = || fields.next();
        Some(Self {
            group: next()?,
            case: next()?,
            peer: next()?,
            metric: next()?,
            best: next()?.parse().ok()?,
            median: next()?.parse().ok()?,
            note: next()?,
        })
    }

    pub fn to_csv(&self) -> String {
        let mut line = String::new();
        for field in [&self.group, &self.case, &self.peer, &self.metric] {
            let _ = write!(line, "{},", quoted(field));
        }
        let _ = write!(line, "{:.3},{:.3},{}", self.best, self.median, quoted(&self.note));
        line
    }
}

fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field.to_owned() }
}

/// Finds figures among samples.
#[derive(Clone, Copy, Debug)]
pub struct Samples<'a>(pub &'a [Sample]);

impl Samples<'_> {
    fn find(&self, case: &str, peer: &str, metric: &str) -> Option<&Sample> {
        self.0.iter().find(|s| s.case == case && s.peer == peer && s.metric == metric && s.best.is_finite())
    }

    /// The best round, or `NaN`.
    pub fn best(&self, case: &str, peer: &str, metric: &str) -> f64 {
        self.find(case, peer, metric).map_or(f64::NAN, |s| s.best)
    }

    /// The peer with the least figure of those that `is_peer` admits, by name.
    pub fn least(&self, case: &str, metric: &str, is_peer: impl Fn(&str) -> bool) -> Option<(&str, f64)> {
        let among = self.0.iter().filter(|s| s.case == case && s.metric == metric && s.best.is_finite());
        among.filter(|s| is_peer(&s.peer)).min_by(|a, b| a.best.total_cmp(&b.best)).map(|s| (&*s.peer, s.best))
    }

    /// What failed, and what the notes say, one line each.
    pub fn remarks(&self) -> impl Iterator<Item = String> {
        let noted = self.0.iter().filter(|s| !s.note.is_empty());
        noted.map(|s| format!("{} {} {}: {}", s.group, s.case, s.peer, s.note))
    }
}
