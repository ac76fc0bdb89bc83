//! The log: to stderr, as text for people or JSON for programs.

use sandstone_config::{Log, LogFormat, LogLevel};
use std::io::{self, IsTerminal};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

/// Our crates; `log.level` is theirs. Libraries speak up only to warn.
const OWN_CRATES: [&str; 4] = ["sandstone", "sandstone_storage", "sandstone_protocol", "sandstone_config"];

/// Begins logging. Called once, before anything logs.
pub(crate) fn start(log: &Log) {
    let own = match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let filter = Targets::new()
        .with_default(own.min(LevelFilter::WARN))
        .with_targets(OWN_CRATES.map(|name| (name, own)));
    let to_stderr = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let layer = match log.format {
        LogFormat::Text => to_stderr.with_ansi(io::stderr().is_terminal()).with_target(false).boxed(),
        LogFormat::Json => to_stderr.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(layer.with_filter(filter)).init();
}
