//! How far a run is.

use indicatif::{ProgressBar, ProgressStyle};

/// A progress bar; it is silent if standard error is not a terminal.
pub(crate) fn bar(template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style.progress_chars("=> "))
}
