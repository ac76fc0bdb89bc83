//! Accounts: which volume brought a block into the cache, and how much it may keep there.

use crate::base::Usage;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::*},
};

/// The share of one volume, or of one attachment with a share of its own.
#[derive(Debug)]
pub(crate) struct Account {
    number: u64,
    /// Most bytes that its entries may take. Changes at run time.
    cap_bytes: AtomicU64,
    bytes: AtomicU64,
    pub(crate) usage: Arc<Usage>,
}

impl Account {
    pub(crate) fn new(cap_bytes: u64, usage: Arc<Usage>) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Relaxed);
        Arc::new(Self {
            number,
            cap_bytes: AtomicU64::new(cap_bytes),
            bytes: AtomicU64::new(0),
            usage,
        })
    }

    /// The number by which its entries are found.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn set_cap(&self, bytes: u64) {
        self.cap_bytes.store(bytes, Relaxed);
    }

    pub(crate) fn cap_bytes(&self) -> u64 {
        self.cap_bytes.load(Relaxed)
    }

    pub(super) fn is_over(&self) -> bool {
        self.bytes.load(Relaxed) > self.cap_bytes()
    }

    /// Takes room for an entry, if the cap leaves it.
    pub(super) fn try_take(&self, bytes: u64) -> bool {
        let cap = self.cap_bytes();
        let more = |held: u64| Some(held + bytes).filter(|sum| *sum <= cap);
        let taken = self.bytes.fetch_update(Relaxed, Relaxed, more).is_ok();
        if taken {
            self.usage.cache_bytes.fetch_add(bytes, Relaxed);
        }
        taken
    }

    pub(super) fn give_back(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Relaxed);
        self.usage.cache_bytes.fetch_sub(bytes, Relaxed);
    }
}
