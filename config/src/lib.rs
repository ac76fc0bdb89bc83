//! `sandstone.toml` to checked settings.
//!
//! A file is read once, every mistake in it is reported at once, and what comes out needs no second
//! check:
//!
//! ```
//! use sandstone_config::Config;
//!
//! let config = Config::parse("[store]\nsize = \"10G\"").expect("a valid file");
//! assert_eq!(config.store.size_bytes, 10 << 30);
//!
//! let problems = Config::parse("[store]\nsize = \"tiny\"\nspeed = 9").expect_err("two mistakes");
//! assert_eq!(problems.list.len(), 2);
//! ```
//!
//! Where to read: `settings` (what a configuration is), `keys` (the one table of keys, defaults and
//! ranges), `load` (the walk that collects mistakes), `ranges` (limits that the admin API enforces
//! too), `trust` (whose files are relied on).

mod byte_size;
mod keys;
mod load;
mod memory;
mod problem;
pub mod ranges;
mod settings;
pub mod trust;

pub use byte_size::{ByteSize, ByteSizeError};
pub use keys::{KEYS, Key};
pub use problem::{Problem, Problems};
pub use settings::{
    Admin, Attach, Cache, Config, Defaults, IoEngine, Log, LogFormat, LogLevel, Nbd, Store,
};
