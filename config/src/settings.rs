//! What a configuration is once it is checked.

use crate::{ByteSize, memory};
use std::{
    net::{IpAddr, SocketAddr},
    num::NonZero,
    path::PathBuf,
};

/// Checked settings: no later check is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file these came from; none where the defaults stand alone.
    pub file: Option<PathBuf>,
    /// Directory of everything the server makes: the store, the socket, the admin token.
    pub data_dir: PathBuf,
    /// `[store]`
    pub store: Store,
    /// `[nbd]`
    pub nbd: Nbd,
    /// `[attach]`
    pub attach: Attach,
    /// `[admin]`
    pub admin: Admin,
    /// `[cache]`
    pub cache: Cache,
    /// `[defaults]`
    pub defaults: Defaults,
    /// `[log]`
    pub log: Log,
}

/// Where the blocks live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// One file, made at first start, or one block device.
    pub path: PathBuf,
    /// Size of the file when it is made, in [`ranges::STORE`](crate::ranges::STORE). It is sparse
    /// and grows with use.
    pub size_bytes: u64,
    /// How the store and the sockets are driven.
    pub io: IoEngine,
    /// Directory of the staging buffer. In shared memory it outlives the server's process.
    pub staging: PathBuf,
    /// Bytes a second that reclaim may read and write while no write waits for it, in
    /// [`ranges::RECLAIM_RATE`](crate::ranges::RECLAIM_RATE).
    pub reclaim_rate: u64,
    /// Bytes a second that the daily scrub may read, in
    /// [`ranges::SCRUB_RATE`](crate::ranges::SCRUB_RATE); 0 for none.
    pub scrub_rate: u64,
}

/// Which engine drives files and sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoEngine {
    /// io_uring where the kernel allows it, else threads.
    Auto,
    /// io_uring, or no start.
    Uring,
    /// A pool of threads.
    Threads,
}

/// Where NBD clients connect. At least one of `listen` and `unix` is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nbd {
    /// TCP addresses, all of them loopback. Port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Unix socket, at most [`ranges::SOCKET_PATH_BYTES_MAX`](crate::ranges::SOCKET_PATH_BYTES_MAX)
    /// bytes long.
    pub unix: Option<PathBuf>,
    /// Who may connect to that socket, as the mode of a file, in
    /// [`ranges::SOCKET_MODE`](crate::ranges::SOCKET_MODE).
    pub unix_mode: u32,
    /// Threads that serve connections, in [`ranges::WORKERS`](crate::ranges::WORKERS).
    pub workers: u32,
    /// Most bytes of requests and replies in flight, of all connections together, in
    /// [`ranges::IN_FLIGHT`](crate::ranges::IN_FLIGHT).
    pub in_flight_bytes: u64,
    /// Most connections, in [`ranges::CONNECTIONS`](crate::ranges::CONNECTIONS).
    pub connections_max: u32,
    /// Seconds in which a client must send or take a MiB of what is under way, or the rest of it,
    /// in [`ranges::STALL_SECS`](crate::ranges::STALL_SECS).
    pub stall_secs: u32,
}

/// How long attachments last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attach {
    /// Seconds that a mount may be without a connection, in
    /// [`ranges::GRACE_SECS`](crate::ranges::GRACE_SECS).
    pub grace_secs: u32,
}

/// Where the admin API is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// TCP address. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Unix socket, as long as that of [`Nbd`] at most. The command line speaks over it where there
    /// is one.
    pub unix: Option<PathBuf>,
    /// Who may connect to that socket, in [`ranges::SOCKET_MODE`](crate::ranges::SOCKET_MODE).
    pub unix_mode: u32,
}

/// Memory of the server, in [`ranges::CACHE`](crate::ranges::CACHE).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    /// Clean blocks of all volumes together.
    pub memory_bytes: u64,
    /// Nodes of the volumes' maps.
    pub metadata_bytes: u64,
}

/// What a volume gets when its creator does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Size, in [`ranges::VOLUME`](crate::ranges::VOLUME).
    pub volume_size_bytes: u64,
}

/// What the server writes about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// For people or for programs.
    pub format: LogFormat,
    /// Least severe line that is written.
    pub level: LogLevel,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// A line of text an event.
    Text,
    /// A JSON object an event.
    Json,
}

/// Severity, most severe first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Something failed and needs a person.
    Error,
    /// Something is odd.
    Warn,
    /// What an operator wants to have read afterwards.
    Info,
    /// What each request did.
    Debug,
    /// Everything.
    Trace,
}

/// Stands for the data directory at the beginning of a path.
pub(crate) const DATA_DIR_WORD: &str = "<data_dir>";

/// Most of `nbd.in_flight` by default: eight of the largest requests.
const IN_FLIGHT_BYTES_MAX: u64 = 512 << 20;

/// `nbd.in_flight` on a host with that much memory: a sixteenth of it, within bounds, in whole MiB.
fn in_flight_bytes(memory: Option<u64>) -> u64 {
    let share = memory.map_or(IN_FLIGHT_BYTES_MAX, |bytes| bytes / 16);
    share.clamp(crate::ranges::IN_FLIGHT.bytes_min, IN_FLIGHT_BYTES_MAX) >> 20 << 20
}

impl Config {
    /// The defaults as they stand in the table of keys, with `<data_dir>` not yet replaced.
    pub(crate) fn unresolved() -> Config {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        Config {
            file: None,
            data_dir: "sandstone-data".into(),
            store: Store {
                path: format!("{DATA_DIR_WORD}/store").into(),
                size_bytes: 64 << 30,
                io: IoEngine::Auto,
                staging: "/dev/shm".into(),
                reclaim_rate: 256 << 20,
                scrub_rate: 16 << 20,
            },
            nbd: Nbd {
                listen: vec![SocketAddr::from(([127, 0, 0, 1], 10809))],
                unix: Some(format!("{DATA_DIR_WORD}/nbd.sock").into()),
                unix_mode: 0o600,
                workers: u32::try_from(cores)
                    .unwrap_or(u32::MAX)
                    .min(*crate::ranges::WORKERS.end()),
                in_flight_bytes: in_flight_bytes(memory::usable_bytes()),
                connections_max: 4096,
                // A guess: as long as the kernel's client waits for a reply.
                stall_secs: 30,
            },
            // A guess: longer than a sandbox takes to boot or a server to be started anew, and
            // short enough to wait for where a sandbox died.
            attach: Attach { grace_secs: 60 },
            admin: Admin {
                listen: SocketAddr::from(([127, 0, 0, 1], 8810)),
                unix: Some(format!("{DATA_DIR_WORD}/admin.sock").into()),
                unix_mode: 0o600,
            },
            cache: Cache { memory_bytes: 1 << 30, metadata_bytes: 256 << 20 },
            defaults: Defaults { volume_size_bytes: 64 << 30 },
            log: Log { format: LogFormat::Text, level: LogLevel::Info },
        }
    }

    /// The admin token's file. It is no key: the command line must find it from the data directory
    /// alone.
    pub fn token_path(&self) -> PathBuf {
        self.data_dir.join("admin.token")
    }

    /// What is allowed but should not pass without a word, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if !is_loopback(&self.admin.listen) {
            warnings.push(format!(
                "admin.listen = \"{}\" is reachable from other hosts and there is no TLS yet, so the token crosses the \
                 network in the clear: keep it inside a network you trust or behind a proxy that ends TLS",
                self.admin.listen
            ));
        }
        if self.defaults.volume_size_bytes > self.store.size_bytes {
            warnings.push(format!(
                "defaults.volume_size = \"{}\" is more than store.size = \"{}\": volumes are thin, so one of them can fill \
                 the store, and then its writes fail for want of space",
                ByteSize::new(self.defaults.volume_size_bytes),
                ByteSize::new(self.store.size_bytes)
            ));
        }
        warnings
    }
}

pub(crate) fn is_loopback(address: &SocketAddr) -> bool {
    // An IPv4 address may come dressed as IPv6.
    let ip: IpAddr = address.ip().to_canonical();
    ip.is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_machine_keeps_less_in_flight() {
        for (memory, expected) in [
            (Some(1 << 30), 128 << 20),
            (Some(5 << 30), 320 << 20),
            (Some(1 << 40), 512 << 20),
            (None, 512 << 20),
        ] {
            assert_eq!(in_flight_bytes(memory), expected, "{memory:?}");
        }
    }
}
