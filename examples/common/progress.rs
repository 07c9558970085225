//! A progress bar for a run.

use indicatif::{ProgressBar, ProgressStyle};

/// Returns a progress bar. It prints nothing if standard error is not a terminal.
pub(crate) fn bar(template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style.progress_chars("=> "))
}
