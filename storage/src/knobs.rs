//! The four knobs as one handle of a volume has them: what it overrides, and the buffer and cache share that it uses.
//!
//! The data path asks here; what is not overridden is read from the volume each time, so a change at run time reaches
//! everybody at once.

use crate::{
    cache::Account,
    log::Gauge,
    usage::Usage,
    volume::{Settings, Volume},
};
use std::sync::{Arc, atomic::Ordering::Relaxed};

/// What one attachment wants otherwise than its volume is set. `None` follows the volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// As [`Settings::cache_bytes`], for what this attachment brings in.
    pub cache_bytes: Option<u64>,
    /// As [`Settings::buffer_bytes`], for what this attachment writes.
    pub buffer_bytes: Option<u64>,
    /// As [`Settings::prefetch_mib`].
    pub prefetch_mib: Option<u32>,
    /// As [`Settings::writeback`].
    pub writeback: Option<bool>,
}

#[derive(Debug)]
pub(crate) struct Knobs {
    overrides: Overrides,
    /// Who brings blocks into the cache.
    pub(crate) account: Arc<Account>,
    /// What is in staging and not in the store yet.
    pub(crate) gauge: Arc<Gauge>,
}

impl Knobs {
    /// Those of a volume, which override nothing.
    pub(crate) fn of_volume(settings: &Settings, usage: &Arc<Usage>) -> Arc<Self> {
        Arc::new(Self {
            overrides: Overrides::default(),
            account: Account::new(settings.cache_bytes, Arc::clone(usage)),
            gauge: Gauge::new(usage),
        })
    }

    /// Those of an attachment to it.
    pub(crate) fn overridden(&self, overrides: Overrides, usage: &Arc<Usage>) -> Self {
        let account = match overrides.cache_bytes {
            Some(cap) => Account::new(cap, Arc::clone(usage)),
            None => Arc::clone(&self.account),
        };
        let gauge =
            if overrides.buffer_bytes.is_some() { Gauge::new(usage) } else { Arc::clone(&self.gauge) };
        Self { overrides, account, gauge }
    }
}

impl Volume {
    /// Whether a write is acknowledged from the staging buffer.
    pub(crate) fn writeback(&self) -> bool {
        self.knobs.overrides.writeback.unwrap_or_else(|| self.inner.writeback.load(Relaxed))
    }

    /// MiB to read ahead.
    pub(crate) fn prefetch_mib(&self) -> u32 {
        self.knobs.overrides.prefetch_mib.unwrap_or_else(|| self.inner.prefetch_mib.load(Relaxed))
    }

    fn buffer_bytes(&self) -> u64 {
        self.knobs.overrides.buffer_bytes.unwrap_or_else(|| self.inner.buffer_bytes.load(Relaxed))
    }

    /// Waits while more is in staging than `buffer_size` allows, or than others who write leave room for.
    pub(crate) async fn wait_buffer(&self) {
        while self.is_full() && !self.inner.engine.health.is_stopped() {
            let room = self.knobs.gauge.room.notified();
            if !self.is_full() {
                break;
            }
            self.inner.engine.log.hurry();
            room.await;
        }
    }

    /// Whether [`Self::wait_buffer`] would wait.
    pub(crate) fn is_full(&self) -> bool {
        let own_bytes = self.knobs.gauge.unwritten_bytes();
        own_bytes >= self.buffer_bytes() || self.inner.engine.log.is_others_turn(own_bytes)
    }
}
