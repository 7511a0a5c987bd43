//! Long work on the terminal: a spinner with the current step, or plain lines where nobody watches.

use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use mvm_runtime::Progress;

/// Draws on standard error.
pub struct Drawn {
    terminal: bool,
    quiet: bool,
    step: Mutex<Option<Step>>,
}

struct Step {
    label: String,
    since: Instant,
    bar: ProgressBar,
}

impl Drawn {
    /// Draws, unless `quiet`; warnings are shown in any case.
    pub fn new(quiet: bool) -> Drawn {
        Drawn { terminal: std::io::stderr().is_terminal(), quiet, step: Mutex::default() }
    }

    fn current(&self) -> MutexGuard<'_, Option<Step>> {
        self.step.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self, result: &str) {
        let Some(step) = self.current().take() else { return };
        step.bar.finish_and_clear();
        if !self.quiet {
            let note = if result.is_empty() { String::new() } else { format!(": {result}") };
            eprintln!("  {}{note} ({:.1} s)", step.label, step.since.elapsed().as_secs_f32());
        }
    }
}

impl Progress for Drawn {
    fn step(&self, label: &str) {
        self.finish("");
        let bar = if self.terminal && !self.quiet {
            let bar = ProgressBar::new_spinner().with_message(label.to_owned());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        } else {
            if !self.quiet {
                eprintln!("  {label} …");
            }
            ProgressBar::hidden()
        };
        *self.current() = Some(Step { label: label.to_owned(), since: Instant::now(), bar });
    }

    fn detail(&self, text: &str) {
        if let Some(step) = &*self.current() {
            step.bar.set_message(format!("{}: {text}", step.label));
        }
    }

    fn done(&self, result: &str) {
        self.finish(result);
    }

    fn warn(&self, text: &str) {
        let show = || eprintln!("mvmctl: {text}");
        match &*self.current() {
            Some(step) => step.bar.suspend(show),
            None => show(),
        }
    }
}

impl Drop for Drawn {
    fn drop(&mut self) {
        if let Some(step) = self.current().take() {
            step.bar.finish_and_clear();
        }
    }
}
