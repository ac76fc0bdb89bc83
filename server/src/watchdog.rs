//! What hangs: the store's work, the threads that serve, and the reader of the log. It is told once
//! when it begins and once when it is over, is counted, and turns readiness red meanwhile.
//!
//! The one who looks is on the control threads, where nothing of that runs.

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry as Exported,
};
use sandstone_ring::runtime;
use sandstone_storage::{Stall, StallKind, Store};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::{MissedTickBehavior, interval};

/// How often the watchdog looks, and threads say that they run.
const TICK: Duration = Duration::from_secs(1);

/// That a thread runs.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    /// The thread's.
    name: String,
    /// In microseconds of the runtimes' clock.
    last_us: AtomicU64,
}

impl Heartbeat {
    pub(crate) fn new(name: impl Into<String>) -> Arc<Heartbeat> {
        let heartbeat = Heartbeat { name: name.into(), last_us: AtomicU64::new(0) };
        heartbeat.beat();
        Arc::new(heartbeat)
    }

    pub(crate) fn beat(&self) {
        self.last_us.store(runtime::clock().as_micros() as u64, Relaxed);
    }

    /// Beats on the thread of this runtime, as long as that runs.
    pub(crate) async fn go_on(self: Arc<Self>) {
        loop {
            self.beat();
            runtime::sleep(TICK).await;
        }
    }

    fn pauses_for(&self) -> Duration {
        runtime::clock().saturating_sub(Duration::from_micros(self.last_us.load(Relaxed)))
    }
}

/// Something that hangs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hanging {
    what: What,
    /// For people, with the time that it has lasted.
    told: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Store(StallKind),
    Thread(String),
    LogReader,
}

impl fmt::Display for Hanging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told)
    }
}

/// Looks after all that.
pub(crate) struct Watchdog {
    store: Store,
    threads: Vec<Arc<Heartbeat>>,
    /// How long a thread may be silent, and a line of the log unread.
    patience: Duration,
    /// How long the line has waited that is being written.
    log_waits: fn() -> Option<Duration>,
    told: Counter,
    hanging: Gauge,
}

impl Watchdog {
    /// Of that store and those threads; `log_waits` says how long the line of the log has waited
    /// that is being written. What it counts is put into `exported`.
    pub(crate) fn new(
        store: Store,
        threads: Vec<Arc<Heartbeat>>,
        log_waits: fn() -> Option<Duration>,
        patience: Duration,
        exported: &mut Exported,
    ) -> Watchdog {
        let (told, hanging) = (Counter::default(), Gauge::default());
        let help = "Times that the log, a checkpoint, reclaim, a thread or the reader of the server's log hung";
        exported.register("sandstone_stalls", help, told.clone());
        exported.register("sandstone_stalled", "How many of them hang now", hanging.clone());
        Watchdog { store, threads, patience, log_waits, told, hanging }
    }

    /// What hangs now.
    pub(crate) fn look(&self) -> Vec<Hanging> {
        let of_store =
            |stall: Stall| Hanging { what: What::Store(stall.kind), told: stall.to_string() };
        let mut hanging: Vec<_> = self.store.stalls().into_iter().map(of_store).collect();
        for thread in &self.threads {
            let pause = thread.pauses_for();
            if pause >= self.patience {
                let told = format!(
                    "the thread {} has not come round for {} s",
                    thread.name,
                    pause.as_secs()
                );
                hanging.push(Hanging { what: What::Thread(thread.name.clone()), told });
            }
        }
        if let Some(wait) = (self.log_waits)().filter(|wait| *wait >= self.patience) {
            let told = format!("the server's log has waited for {} s to be read", wait.as_secs());
            hanging.push(Hanging { what: What::LogReader, told });
        }
        hanging
    }

    /// Tells and counts what hangs and did not before, and what goes on. Gives what hangs.
    fn tell(&self, before: &[Hanging]) -> Vec<Hanging> {
        let now = self.look();
        let is_in = |all: &[Hanging], one: &Hanging| all.iter().any(|other| other.what == one.what);
        for begun in now.iter().filter(|one| !is_in(before, one)) {
            self.told.inc();
            tracing::error!(reason = %begun, "something hangs: readiness is red until it goes on");
        }
        for over in before.iter().filter(|one| !is_in(&now, one)) {
            tracing::info!(reason = %over, "what hung goes on");
        }
        self.hanging.set(now.len() as i64);
        now
    }

    /// Looks each second, for ever.
    pub(crate) async fn watch(&self) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut hanging = Vec::new();
        loop {
            ticks.tick().await;
            hanging = self.tell(&hanging);
        }
    }
}
