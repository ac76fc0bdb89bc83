//! What the server says when it is up: what it serves, where, and how to use it.
//!
//! For people, lines on stdout with commands to copy; where the log is for programs, one event
//! instead.

use crate::{net::Endpoints, show};
use sandstone_config::{ByteSize, Config, LogFormat};
use sandstone_storage::RecoveryReport;
use std::{
    fmt::Write as _, io::Write as _, net::SocketAddr, path::Path, sync::mpsc, thread,
    time::Duration,
};

/// Longest wait for a reader of stdout.
const UNREAD_TIME_MAX: Duration = Duration::from_secs(1);

/// What there is to say.
pub(crate) struct Started<'a> {
    pub(crate) config: &'a Config,
    /// Where NBD clients connect.
    pub(crate) endpoints: &'a Endpoints,
    /// Where the admin API is.
    pub(crate) admin: SocketAddr,
    pub(crate) admin_socket: Option<&'a Path>,
    /// Which engine drives files and sockets.
    pub(crate) engine: &'static str,
    /// Why it is not the better one.
    pub(crate) fallback: Option<&'a str>,
    pub(crate) recovery: &'a RecoveryReport,
    /// What volumes and snapshots may have in the store together.
    pub(crate) usable_bytes: u64,
    pub(crate) volumes: usize,
    pub(crate) snapshots: usize,
}

/// Says it.
pub(crate) fn announce(started: &Started<'_>) {
    match started.config.log.format {
        LogFormat::Text => {
            print(lines(started, &show::own_command()));
        }
        LogFormat::Json => {
            let recovery = started.recovery;
            tracing::info!(
                version = env!("CARGO_PKG_VERSION"),
                store = %started.config.store.path.display(),
                engine = started.engine,
                engine_why = started.fallback,
                workers = started.config.nbd.workers,
                admin = %started.admin,
                admin_socket = started.admin_socket.map(|path| path.display().to_string()),
                nbd = ?started.endpoints.uris(""),
                usable_bytes = started.usable_bytes,
                volumes = started.volumes,
                snapshots = started.snapshots,
                created = recovery.created,
                clean = recovery.clean,
                recovery_ms = recovery.duration.as_millis() as u64,
                replayed_records = recovery.records,
                replayed_bytes = recovery.log_bytes,
                staged_records = recovery.staged_records,
                placement = recovery.placement.name(),
                "serving"
            );
        }
    }
}

/// To stdout. A failure to write it is no reason not to serve.
fn print(text: String) {
    let (written, writing) = mpsc::channel();
    let print = move || written.send(std::io::stdout().write_all(text.as_bytes()));
    if thread::Builder::new().name("announce".to_owned()).spawn(print).is_ok() {
        let _unread = writing.recv_timeout(UNREAD_TIME_MAX);
    }
}

fn lines(started: &Started<'_>, command: &str) -> String {
    let config = started.config;
    let file = config
        .file
        .as_ref()
        .map(|file| format!(" --config {}", show::quoted(file)))
        .unwrap_or_default();
    let engine = match started.fallback {
        Some(why) => format!("{} because {why}", started.engine),
        None => started.engine.to_owned(),
    };
    let mut text = String::new();
    let mut line = |what: &str, value: &str| {
        writeln!(text, "  {what:<9} {value}").expect("a String takes all that is written to it");
    };
    line(
        "store",
        &format!(
            "{} ({}, {} usable, {}, {} worker(s)), {}",
            config.store.path.display(),
            ByteSize::new(config.store.size_bytes),
            show::rounded(started.usable_bytes),
            engine,
            config.nbd.workers,
            recovery(started)
        ),
    );
    line("below", &started.recovery.placement.to_string());
    for uri in started.endpoints.uris("") {
        line("nbd", &uri);
    }
    line(
        "admin",
        &format!("http://{}/api/v1, token in {}", started.admin, config.token_path().display()),
    );
    if let Some(path) = started.admin_socket {
        line("admin", &format!("{}, for the commands", path.display()));
    }
    line("make", &format!("{command}{file} volume create --name disk --size 10G"));
    if let Some(path) = &started.endpoints.unix {
        line("attach", &format!("nbd-client -unix {} -name disk /dev/nbd0", show::quoted(path)));
    } else if let Some(address) = started.endpoints.tcp.first() {
        line(
            "attach",
            &format!("nbd-client {} {} -name disk /dev/nbd0", address.ip(), address.port()),
        );
    }
    if let Some(uri) = started.endpoints.uris("disk").last() {
        line(
            "or",
            &format!(
                "qemu-system-x86_64 -drive format=raw,if=virtio,file={}",
                show::quoted(uri.as_ref())
            ),
        );
    }
    format!("sandstone {} serves\n{text}", env!("CARGO_PKG_VERSION"))
}

fn recovery(started: &Started<'_>) -> String {
    let report = started.recovery;
    let volumes = match started.snapshots {
        0 => format!("{} volume(s)", started.volumes),
        snapshots => format!("{} volume(s) and {snapshots} snapshot(s)", started.volumes),
    };
    let ms = report.duration.as_millis();
    if report.created {
        format!("new after {ms} ms")
    } else if report.clean {
        format!("{volumes}, opened in {ms} ms, with nothing to replay")
    } else {
        format!(
            "{volumes}, recovered in {ms} ms: {} record(s) replayed from {} of log, {} from staging",
            report.records,
            show::rounded(report.log_bytes),
            report.staged_records
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandstone_ring::Placement;
    use sandstone_storage::StagingFate;
    use std::time::Duration;

    fn report() -> RecoveryReport {
        RecoveryReport {
            created: false,
            duration: Duration::from_millis(12),
            records: 34,
            log_bytes: 3 << 19,
            staged_records: 5,
            volumes: 2,
            clean: false,
            staging: StagingFate::Kept,
            placement: Placement::InPlace("ext4"),
            epoch: 2,
        }
    }

    fn started<'a>(
        config: &'a Config,
        endpoints: &'a Endpoints,
        recovery: &'a RecoveryReport,
    ) -> Started<'a> {
        let admin = "127.0.0.1:8810".parse().unwrap();
        Started {
            config,
            endpoints,
            admin,
            admin_socket: Some(Path::new("sandstone-data/admin.sock")),
            engine: "io_uring",
            fallback: None,
            recovery,
            usable_bytes: 61 << 30,
            volumes: 2,
            snapshots: 0,
        }
    }

    #[test]
    fn the_lines_hold_the_commands_to_copy() {
        let endpoints = Endpoints {
            tcp: vec!["127.0.0.1:10809".parse().unwrap()],
            unix: Some("/srv/my data/nbd.sock".into()),
        };
        let (config, report) = (Config::default(), report());
        let started = started(&config, &endpoints, &report);
        let text = lines(&started, "target/release/sandstone");
        for part in [
            "sandstone-data/store (64G, 61G usable, io_uring,",
            "recovered in 12 ms: 34 record(s) replayed from 1.5M of log, 5 from staging",
            "below     ext4, overwritten in place",
            "nbd://127.0.0.1:10809/",
            "http://127.0.0.1:8810/api/v1, token in sandstone-data/admin.token",
            "sandstone-data/admin.sock, for the commands",
            "target/release/sandstone volume create --name disk --size 10G",
            "nbd-client -unix '/srv/my data/nbd.sock' -name disk /dev/nbd0",
            "file='nbd+unix:///disk?socket=/srv/my%20data/nbd.sock'",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }

    #[test]
    fn threads_in_place_of_the_ring_are_told_with_the_reason() {
        let (config, endpoints, report) = (Config::default(), Endpoints::default(), report());
        let started = Started {
            engine: "threads",
            fallback: Some("this kernel has no io_uring"),
            ..started(&config, &endpoints, &report)
        };
        assert!(
            lines(&started, "sandstone").contains("threads because this kernel has no io_uring")
        );
    }

    #[test]
    fn a_second_start_says_what_it_replayed() {
        let (config, endpoints) = (Config::default(), Endpoints::default());
        let check = |report: RecoveryReport, snapshots: usize, expected: &str| {
            let started = Started { snapshots, ..started(&config, &endpoints, &report) };
            assert_eq!(recovery(&started), expected);
        };
        check(RecoveryReport { created: true, ..report() }, 0, "new after 12 ms");
        let clean = RecoveryReport { clean: true, ..report() };
        check(clean.clone(), 0, "2 volume(s), opened in 12 ms, with nothing to replay");
        check(clean, 1, "2 volume(s) and 1 snapshot(s), opened in 12 ms, with nothing to replay");
    }
}
