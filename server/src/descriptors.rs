//! How many files the process may have open. Each NBD connection takes two, its socket and the one to cut it off with.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit to what the host allows. The usual limit of 1024 is for programs that use `select`, and would end at
/// some five hundred connections.
pub(crate) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, limit = ?limit.current, "the limit of open files stays");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_what_the_host_allows() {
        let before = getrlimit(Resource::Nofile);
        // Enough for the tests beside this one.
        let lowered = before.maximum.map_or(1024, |maximum| maximum / 2);
        setrlimit(Resource::Nofile, Rlimit { current: Some(lowered), ..before }).unwrap();
        raise_limit();
        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
    }
}
