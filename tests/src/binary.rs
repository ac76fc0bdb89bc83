//! The binary under test.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::turn;
use serde_json::Value;

/// The `sandstone` binary: `SANDSTONE_BIN`, or one that cargo builds in the profile these tests
/// were built in.
///
/// Cargo tells a test only the binaries of its own package, and plain `cargo test` must work in a
/// fresh clone. So cargo is asked once a process; its own lock on the build directory keeps test
/// processes from meeting.
///
/// It is what each test asks for first, so that it waits for its suite's turn here.
pub fn sandstone() -> &'static PathBuf {
    turn::take();
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match env::var_os("SANDSTONE_BIN") {
        Some(given) => {
            let path = PathBuf::from(given);
            assert!(path.is_file(), "SANDSTONE_BIN={} is not a file", path.display());
            path
        }
        None => build(),
    })
}

fn build() -> PathBuf {
    // <target>/<profile>/deps/<this test>
    let test = env::current_exe().expect("a test knows its own path");
    let profile_dir = test.ancestors().nth(2).expect("tests lie in <target>/<profile>/deps");
    let target_dir = profile_dir.parent().expect("a profile lies in a target directory");
    let profile = match profile_dir.file_name().and_then(|n| n.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let cargo = env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let output = Command::new(cargo)
        .args(["build", "--package", "sandstone", "--bin", "sandstone", "--profile", profile])
        .args(["--message-format", "json-render-diagnostics", "--target-dir"])
        .arg(target_dir)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo could not build the server:\n{errors}");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == "sandstone")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo names the binary it built")
}
