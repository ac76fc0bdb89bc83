//! Effective settings: the four settings as one handle of a volume has them, with its overrides,
//! its buffer and its share of the cache.
//!
//! The data path reads them here. A setting that is not overridden is read from the volume each
//! time, so a change at run time applies to all handles at once.

use crate::{
    base::{Settings, SettingsOverride, Usage},
    cache::Account,
    log::Gauge,
    volume::Volume,
};
use std::sync::{Arc, atomic::Ordering::Relaxed};

#[derive(Debug)]
pub(crate) struct EffectiveSettings {
    overrides: SettingsOverride,
    /// The cache account of blocks that this handle brings in.
    pub(crate) account: Arc<Account>,
    /// Bytes in staging that are not in the store yet.
    pub(crate) gauge: Arc<Gauge>,
}

impl EffectiveSettings {
    /// The settings of a volume's own handles, which override nothing.
    pub(crate) fn of_volume(settings: &Settings, usage: &Arc<Usage>) -> Arc<Self> {
        Arc::new(Self {
            overrides: SettingsOverride::default(),
            account: Account::new(settings.cache_bytes, Arc::clone(usage)),
            gauge: Gauge::new(usage),
        })
    }

    /// The settings of an attachment to the volume.
    pub(crate) fn overridden(&self, overrides: SettingsOverride, usage: &Arc<Usage>) -> Self {
        let account = match overrides.cache_bytes {
            Some(cap) => Account::new(cap, Arc::clone(usage)),
            None => Arc::clone(&self.account),
        };
        let gauge = if overrides.buffer_bytes.is_some() {
            Gauge::new(usage)
        } else {
            Arc::clone(&self.gauge)
        };
        Self { overrides, account, gauge }
    }
}

impl Volume {
    /// Whether a write is acknowledged from the staging buffer.
    pub(crate) fn writeback(&self) -> bool {
        self.effective.overrides.writeback.unwrap_or_else(|| self.inner.writeback.load(Relaxed))
    }

    /// MiB to read ahead.
    pub(crate) fn prefetch_mib(&self) -> u32 {
        self.effective
            .overrides
            .prefetch_mib
            .unwrap_or_else(|| self.inner.prefetch_mib.load(Relaxed))
    }

    fn buffer_bytes(&self) -> u64 {
        self.effective
            .overrides
            .buffer_bytes
            .unwrap_or_else(|| self.inner.buffer_bytes.load(Relaxed))
    }

    /// Waits while more bytes are in staging than `buffer_size`, or fairness to other volumes that
    /// write, allows.
    pub(crate) async fn wait_buffer(&self) {
        while self.is_full() && !self.inner.engine.health.is_stopped() {
            let room = self.effective.gauge.room.notified();
            if !self.is_full() {
                break;
            }
            self.inner.engine.log.hurry();
            room.await;
        }
    }

    /// Whether [`Self::wait_buffer`] would wait.
    pub(crate) fn is_full(&self) -> bool {
        let own_bytes = self.effective.gauge.unwritten_bytes();
        own_bytes >= self.buffer_bytes() || self.inner.engine.log.must_yield(own_bytes)
    }
}
