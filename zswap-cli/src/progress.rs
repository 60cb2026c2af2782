//! A progress bar on standard error, shown only on a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Makes a bar for `turns` turns. It is hidden unless standard error is a terminal.
    pub(crate) fn new(turns: usize) -> Self {
        let bar = ProgressBar::with_draw_target(Some(turns as u64), ProgressDrawTarget::stderr());
        if let Ok(style) =
            ProgressStyle::with_template("[{wide_bar}] {pos}/{len} {msg}, {eta} left")
        {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.enable_steady_tick(Duration::from_millis(500));
        Progress(bar)
    }

    /// Shows that the turn `what` begins.
    pub(crate) fn begin(&self, what: String) {
        self.0.set_message(what);
    }

    /// Counts a turn that has ended.
    pub(crate) fn end(&self) {
        self.0.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
