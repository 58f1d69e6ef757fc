//! How far a command has come, for somebody at a terminal.

use indicatif::{ProgressBar, ProgressStyle};

pub(super) struct Bar(ProgressBar);

impl Bar {
    /// Shows nothing where standard error is no terminal.
    pub(super) fn new() -> Bar {
        let bar = ProgressBar::no_length();
        bar.set_style(style("{spinner} {binary_bytes}, {binary_bytes_per_sec}"));
        Bar(bar)
    }

    pub(super) fn show(&self, done_len: u64, total_len: Option<u64>) {
        if let Some(len) = total_len
            && self.0.length().is_none()
        {
            self.0.set_style(style(
                "{bar:40} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}",
            ));
            self.0.set_length(len);
        }
        self.0.set_position(done_len);
    }

    pub(super) fn finish(self) {
        self.0.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("a template that was tried")
}
