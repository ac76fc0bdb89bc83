//! What the host allows the process, looked at before anything depends on it. What is missing later
//! ends threads, files or the process in the middle of something; at the start it is one line.
//!
//! The soft limit of open files is raised to what the host allows: the usual one of 1024 is for
//! programs that use `select`, and would end at some hundred connections. The others stay as they
//! are configured.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sandstone_config::{ByteSize, Config};
use std::{fs, io, sync::RwLock, thread};
use thiserror::Error;

/// Threads beside the workers: the log, the store's, control, and tokio's and the engine's for what
/// blocks.
const THREADS_BESIDE_WORKERS: usize = 12;
/// Memory that is neither cache nor maps: staging, the server itself, and what clients have in
/// flight. Source: the sum in the README. Addresses are more than memory, so less than this cannot
/// do.
const MEMORY_BESIDE_CACHES: u64 = 112 << 20;
/// Descriptors that are not for NBD clients: files, rings, and clients of the admin API.
pub(crate) const DESCRIPTORS_FOR_CONTROL: u64 = 128;
/// Descriptors of an NBD connection: its socket, and the one to cut it off with.
pub(crate) const DESCRIPTORS_A_CONNECTION: u64 = 2;

/// What the host allows too little of.
#[derive(Debug, Error)]
pub(crate) enum LimitError {
    #[error(
        "the host does not let this process have {wanted} threads ({source}): raise the limit \
         (ulimit -u, LimitNPROC, TasksMax), or set nbd.workers lower"
    )]
    Threads { wanted: usize, source: io::Error },
    #[error(
        "the host lets this process write files of {} at most, and the store has {}: raise the \
         limit (ulimit -f, LimitFSIZE), or set store.size lower before the store is made",
        ByteSize::new(*allowed),
        ByteSize::new(*store)
    )]
    FileSize { allowed: u64, store: u64 },
    #[error(
        "the host lets this process have {} of {what}, and this configuration takes up to {}: raise \
         the limit, or set cache.memory and cache.metadata lower",
        ByteSize::new(*allowed),
        ByteSize::new(*needed)
    )]
    Memory { what: &'static str, allowed: u64, needed: u64 },
    #[error(
        "the host lets this process have {allowed} open files, and {needed} are the least: raise \
         the limit (ulimit -n, LimitNOFILE)"
    )]
    Descriptors { allowed: u64, needed: u64 },
}

/// Raises the limit of open files, and holds the others against what the configuration needs.
///
/// # Errors
/// The first limit that it does not fit into.
pub(crate) fn check(config: &Config) -> Result<(), LimitError> {
    descriptors(raise_open_files())?;
    file_size(getrlimit(Resource::Fsize).current, config)?;
    let needed = config.cache.memory_bytes + 2 * config.cache.metadata_bytes + MEMORY_BESIDE_CACHES;
    memory("address space (ulimit -v, LimitAS)", getrlimit(Resource::As).current, needed)?;
    memory("data (ulimit -d, LimitDATA)", getrlimit(Resource::Data).current, needed)?;
    threads(config.nbd.workers as usize + THREADS_BESIDE_WORKERS)
}

/// NBD connections that the limit of open files has room for, when `open` of them are open without
/// any.
pub(crate) fn connections(open: u64) -> usize {
    let Some(allowed) = getrlimit(Resource::Nofile).current else {
        return tokio::sync::Semaphore::MAX_PERMITS;
    };
    let left = allowed.saturating_sub(open + DESCRIPTORS_FOR_CONTROL) / DESCRIPTORS_A_CONNECTION;
    usize::try_from(left).unwrap_or(usize::MAX).clamp(1, tokio::sync::Semaphore::MAX_PERMITS)
}

/// Descriptors that the process has open.
pub(crate) fn open_descriptors() -> u64 {
    fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64)
}

/// The limit of open files, raised to what the host allows; `None` for no limit.
fn raise_open_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, limit = ?limit.current, "the limit of open files stays");
            limit.current
        }
    }
}

fn descriptors(allowed: Option<u64>) -> Result<(), LimitError> {
    let needed = DESCRIPTORS_FOR_CONTROL + DESCRIPTORS_A_CONNECTION;
    match allowed {
        Some(allowed) if allowed < needed => Err(LimitError::Descriptors { allowed, needed }),
        Some(_) | None => Ok(()),
    }
}

fn file_size(allowed: Option<u64>, config: &Config) -> Result<(), LimitError> {
    let store = match fs::metadata(&config.store.path) {
        Ok(found) if found.is_file() => found.len().max(config.store.size_bytes),
        // A device has no limit.
        Ok(_) => return Ok(()),
        Err(_) => config.store.size_bytes,
    };
    match allowed {
        Some(allowed) if allowed < store => Err(LimitError::FileSize { allowed, store }),
        Some(_) | None => Ok(()),
    }
}

fn memory(what: &'static str, allowed: Option<u64>, needed: u64) -> Result<(), LimitError> {
    match allowed {
        Some(allowed) if allowed < needed => Err(LimitError::Memory { what, allowed, needed }),
        Some(allowed) => {
            tracing::warn!(
                "the process may have {} of {what}: it ends where that is used up",
                ByteSize::new(allowed)
            );
            Ok(())
        }
        None => Ok(()),
    }
}

/// Has so many threads at once, for a moment. A runtime that gets none panics, and one that gets
/// fewer is slow in silence.
fn threads(wanted: usize) -> Result<(), LimitError> {
    // Held while they are started, so that each waits for it.
    let gate = RwLock::new(());
    let closed = gate.write();
    thread::scope(|scope| {
        let wait = || drop(gate.read());
        let started = (0..wanted)
            .try_for_each(|_| thread::Builder::new().spawn_scoped(scope, wait).map(drop));
        drop(closed);
        started.map_err(|source| LimitError::Threads { wanted, source })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_what_the_host_allows() {
        let before = getrlimit(Resource::Nofile);
        // Enough for the tests beside this one.
        let lowered = before.maximum.map_or(1024, |maximum| maximum / 2);
        setrlimit(Resource::Nofile, Rlimit { current: Some(lowered), ..before }).unwrap();
        assert_eq!(raise_open_files(), before.maximum);
        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
    }

    #[test]
    fn each_limit_that_is_too_low_is_told_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.store.path = directory.path().join("store");
        config.store.size_bytes = 10 << 30;
        let told = |result: Result<(), LimitError>| result.unwrap_err().to_string();
        let said = told(file_size(Some(1 << 30), &config));
        assert!(
            said.contains("1G") && said.contains("10G") && said.contains("ulimit -f"),
            "{said}"
        );
        assert!(file_size(Some(10 << 30), &config).is_ok() && file_size(None, &config).is_ok());
        config.store.path = "/dev/null".into();
        assert!(file_size(Some(1), &config).is_ok(), "what is no file has no limit");
        let said = told(memory("address space (ulimit -v, LimitAS)", Some(1 << 20), 1 << 30));
        assert!(said.contains("1M of address space") && said.contains("up to 1G"), "{said}");
        assert!(told(descriptors(Some(100))).contains("ulimit -n"));
        let said =
            LimitError::Threads { wanted: 9, source: io::ErrorKind::WouldBlock.into() }.to_string();
        assert!(said.contains("9 threads") && said.contains("TasksMax"), "{said}");
    }

    #[test]
    fn threads_are_had_all_at_once_and_go() {
        threads(50).unwrap();
    }

    #[test]
    fn descriptors_are_left_for_control() {
        let allowed = getrlimit(Resource::Nofile).current.unwrap();
        let most = connections(10) as u64;
        assert!(10 + DESCRIPTORS_FOR_CONTROL + DESCRIPTORS_A_CONNECTION * most <= allowed);
        assert_eq!(connections(allowed), 1);
        assert!(open_descriptors() > 2);
    }
}
