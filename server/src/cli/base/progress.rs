//! What people see on stderr while they wait.

use super::context::Audience;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{cell::RefCell, time::Duration};

/// How far a copy is.
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Progress over `total_bytes`. indicatif itself shows nothing where stderr is no terminal.
    pub(crate) fn new(total_bytes: u64, audience: Audience) -> Progress {
        let target = match audience {
            Audience::People => ProgressDrawTarget::stderr(),
            Audience::Programs => ProgressDrawTarget::hidden(),
        };
        let style = ProgressStyle::with_template(
            "{wide_bar} {percent:>3}%  {bytes} of {total_bytes}  {bytes_per_sec}  {eta}",
        )
        .expect("the template is well formed");
        Progress { bar: ProgressBar::with_draw_target(Some(total_bytes), target).with_style(style) }
    }

    /// So many bytes more, copied or skipped.
    pub(crate) fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// So many bytes in all, of so many.
    pub(crate) fn reach(&self, bytes: u64, total_bytes: u64) {
        self.bar.set_length(total_bytes);
        self.bar.set_position(bytes);
    }

    /// So many percent in all.
    pub(crate) fn percent(&self, percent: f64) {
        let total = self.bar.length().unwrap_or(0);
        // A bar is a picture: what a float loses here is not seen.
        self.bar.set_position((total as f64 * percent / 100.0) as u64);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Time between two pictures of a spinner.
const SPIN_TIME: Duration = Duration::from_millis(100);

/// Something whose end is not known: a spinner at a terminal, elsewhere a line for each of its
/// phases.
pub(crate) struct Activity {
    spinner: ProgressBar,
    /// The phase that was told last.
    phase: RefCell<String>,
}

impl Activity {
    pub(crate) fn new(audience: Audience) -> Activity {
        let target = match audience {
            Audience::People => ProgressDrawTarget::stderr(),
            Audience::Programs => ProgressDrawTarget::hidden(),
        };
        let spinner = ProgressBar::with_draw_target(None, target);
        spinner.enable_steady_tick(SPIN_TIME);
        Activity { spinner, phase: RefCell::default() }
    }

    /// What goes on, and how far it is.
    pub(crate) fn say(&self, phase: &str, so_far: &str) {
        if !self.spinner.is_hidden() {
            self.spinner.set_message(format!("{phase}: {so_far}"));
        } else if *self.phase.borrow() != phase {
            eprintln!("{phase}: {so_far}");
            phase.clone_into(&mut self.phase.borrow_mut());
        }
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        self.spinner.finish_and_clear();
    }
}
