//! How far a part has come: a bar on a terminal, lines elsewhere.

use std::io::{self, IsTerminal as _};

use indicatif::{ProgressBar, ProgressStyle};

/// The progress of one part, on stderr.
#[derive(Debug)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(super) fn start(title: &str, steps: u64) -> Self {
        if !io::stderr().is_terminal() {
            eprintln!("{title} …");
            return Self { bar: None };
        }
        let style = ProgressStyle::with_template("{prefix:<40} [{bar:30}] {pos}/{len} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        let bar = ProgressBar::new(steps)
            .with_style(style)
            .with_prefix(title.to_owned());
        bar.tick();
        Self { bar: Some(bar) }
    }

    pub(super) fn step(&self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    /// Says what a step has found.
    pub(super) fn say(&self, text: String) {
        match &self.bar {
            Some(bar) => bar.set_message(text),
            None => eprintln!("  {text}"),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}
