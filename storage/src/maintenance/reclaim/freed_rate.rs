//! Rate at which slots become free; writers are slowed to it while the log's room is short.

use sandstone_ring::runtime;
use std::{sync::Mutex, time::Duration};

#[derive(Debug, Default)]
pub(super) struct FreedRate(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    at: Duration,
    per_second: Option<f64>,
}

impl FreedRate {
    /// A round begins: idle time before it does not count.
    pub(super) fn begin(&self) {
        self.0.lock().expect("no panics under this lock").at = runtime::now();
    }

    /// Notes that `slots` slots became free.
    pub(super) fn freed(&self, slots: u64) {
        let mut state = self.0.lock().expect("no panics under this lock");
        let now = runtime::now();
        let seconds = now.saturating_sub(state.at).as_secs_f64().max(0.001);
        // The last second weighs as much as all time before.
        let weight = (seconds / (seconds + 1.0)).min(1.0);
        let rate = slots as f64 / seconds;
        state.per_second = Some(state.per_second.map_or(rate, |old| old + (rate - old) * weight));
        state.at = now;
    }

    /// `None` before any was freed.
    pub(super) fn per_second(&self) -> Option<f64> {
        self.0.lock().expect("no panics under this lock").per_second
    }
}
