//! Numbers that a printed seed repeats.

use std::env;
use std::time::{SystemTime, UNIX_EPOCH};

/// A small generator (xorshift64*), enough to choose operations and to make bytes that do not
/// compress to zero.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Takes the seed from `SANDSTONE_SEED` or from the clock, and prints it for the failure's
    /// report.
    pub fn from_env() -> Self {
        let seed =
            env::var("SANDSTONE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                now.as_nanos() as u64
            });
        println!("SANDSTONE_SEED={seed}");
        Self::new(seed)
    }

    /// The generator of this seed.
    pub fn new(seed: u64) -> Self {
        // One step of splitmix64: near seeds give far apart streams, and the state is never zero.
        let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((z ^ (z >> 31)) | 1)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }

    /// `len` random bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            out.extend_from_slice(&self.draw().to_le_bytes());
        }
        out.truncate(len);
        out
    }
}
