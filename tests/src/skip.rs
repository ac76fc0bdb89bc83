//! When a test may be skipped, and how it says so.

use std::env;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;

/// Says why the running test does nothing. Written past the test runner's capture, because a skip
/// that nobody reads is a lie.
pub fn skip(reason: &str) {
    let test = thread::current().name().unwrap_or("a test").to_owned();
    // A closed standard error leaves nobody to tell.
    let _ = writeln!(io::stderr(), "SKIPPED {test}: {reason}");
}

/// Whether all of `programs` are here. When not, says so and gives false; panics instead where `CI`
/// is set, because there `tests/run` installs them.
pub fn needs(programs: &[&str]) -> bool {
    let missing: Vec<&str> =
        programs.iter().copied().filter(|p| find_program(p).is_none()).collect();
    if missing.is_empty() {
        return true;
    }
    let reason = format!("not installed: {}", missing.join(", "));
    assert!(!ci(), "{reason} (CI is set, so this is a failure)");
    skip(&reason);
    false
}

/// The full path of `program`, looked for in `PATH` and in the directories of system
/// administration.
pub fn find_program(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(extra).map(|d| d.join(program)).find(|p| Path::is_file(p))
}

/// Whether the long form of the tests was asked for (`tests/run --long`).
pub fn long() -> bool {
    env::var_os("SANDSTONE_LONG").is_some_and(|v| !v.is_empty())
}

/// Whether this is a CI run, where nothing that can be installed may be missing.
pub fn ci() -> bool {
    env::var_os("CI").is_some_and(|v| !v.is_empty())
}
