//! The one table of keys: name, what it does, what it may be, and where its value goes.
//!
//! Parsing, `check-config`, the documentation and the suggestions for a mistyped key all read it,
//! so a key that is not here does not exist. Defaults are not repeated: they are what
//! [`Config::default`] shows through the same table.

use crate::{
    ByteSize, Config, IoEngine, LogFormat, LogLevel,
    ranges::{self, SizeRange},
};
use std::{
    fmt,
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

/// A key of `sandstone.toml`.
pub struct Key {
    /// With its section: `store.size`.
    pub name: &'static str,
    /// What it does, a phrase.
    pub about: &'static str,
    pub(crate) rule: Rule,
    show: fn(&Config) -> String,
}

/// What a value may be, and how an allowed one enters the settings.
pub(crate) enum Rule {
    /// A path; `<data_dir>` at its beginning stands for the data directory.
    Path(fn(&mut Config, PathBuf)),
    /// A path, or "" for none.
    OptionalPath(fn(&mut Config, Option<PathBuf>)),
    Size(SizeRange, fn(&mut Config, u64)),
    Count(RangeInclusive<u32>, fn(&mut Config, u32)),
    /// Octal digits.
    Mode(RangeInclusive<u32>, fn(&mut Config, u32)),
    /// `IP:port`.
    Address(Reach, fn(&mut Config, SocketAddr)),
    Addresses(Reach, fn(&mut Config, Vec<SocketAddr>)),
    Word(&'static [Word]),
}

/// One of a few words.
pub(crate) struct Word {
    pub(crate) text: &'static str,
    pub(crate) set: fn(&mut Config),
}

/// Who may reach an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Every connection brings a token, which is checked.
    Anywhere,
    /// Nothing guards it, so it is for this host only.
    Loopback,
}

impl Key {
    /// What is allowed, to stand after "must be".
    pub fn allowed(&self) -> String {
        self.rule.to_string()
    }

    /// The value it has in `config`, as TOML.
    pub fn value_in(&self, config: &Config) -> String {
        (self.show)(config)
    }

    /// Section and name in it; keys outside of any section have an empty one.
    pub fn parts(&self) -> (&'static str, &'static str) {
        self.name.split_once('.').unwrap_or(("", self.name))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Path(_) => f.write_str("a path"),
            Rule::OptionalPath(_) => f.write_str("a path, or \"\" for none"),
            Rule::Size(range, _) => write!(f, "{range}, such as \"64G\""),
            Rule::Count(range, _) => {
                write!(f, "a whole number from {} to {}", range.start(), range.end())
            }
            Rule::Mode(range, _) => {
                write!(f, "octal digits from \"{:04o}\" to \"{:04o}\"", range.start(), range.end())
            }
            Rule::Address(reach, _) => write!(f, "an \"IP:port\"{}", reach.restriction()),
            Rule::Addresses(reach, _) => write!(f, "a list of \"IP:port\"{}", reach.restriction()),
            Rule::Word(words) => {
                for (i, word) in words.iter().enumerate() {
                    let joint = if i == 0 { "" } else { " or " };
                    write!(f, "{joint}\"{}\"", word.text)?;
                }
                Ok(())
            }
        }
    }
}

impl Reach {
    fn restriction(self) -> &'static str {
        match self {
            Reach::Anywhere => "",
            Reach::Loopback => " on loopback",
        }
    }
}

/// All keys, in the order of the documentation, a section's keys together.
pub static KEYS: [Key; 23] = [
    Key {
        name: "data_dir",
        about: "directory of all that the server makes; made with mode 0700",
        rule: Rule::Path(|c, v| c.data_dir = v),
        show: |c| show_path(&c.data_dir),
    },
    Key {
        name: "store.path",
        about: "the store: one file, made at first start, or one block device",
        rule: Rule::Path(|c, v| c.store.path = v),
        show: |c| show_path(&c.store.path),
    },
    Key {
        name: "store.size",
        about: "size of a store file when it is made; sparse, it grows with use",
        rule: Rule::Size(ranges::STORE, |c, v| c.store.size_bytes = v),
        show: |c| show_size(c.store.size_bytes),
    },
    Key {
        name: "store.io",
        about: "how files and sockets are driven; auto takes io_uring where the kernel allows it",
        rule: Rule::Word(&[
            Word { text: "auto", set: |c| c.store.io = IoEngine::Auto },
            Word { text: "uring", set: |c| c.store.io = IoEngine::Uring },
            Word { text: "threads", set: |c| c.store.io = IoEngine::Threads },
        ]),
        show: |c| {
            quoted(match c.store.io {
                IoEngine::Auto => "auto",
                IoEngine::Uring => "uring",
                IoEngine::Threads => "threads",
            })
        },
    },
    Key {
        name: "store.staging",
        about: "directory of the staging buffer; in shared memory it outlives the server's process",
        rule: Rule::Path(|c, v| c.store.staging = v),
        show: |c| show_path(&c.store.staging),
    },
    Key {
        name: "store.reclaim_rate",
        about: "bytes a second that reclaim may read and write in the background, while no writer waits for space",
        rule: Rule::Size(ranges::RECLAIM_RATE, |c, v| c.store.reclaim_rate = v),
        show: |c| show_size(c.store.reclaim_rate),
    },
    Key {
        name: "store.scrub_rate",
        about: "bytes a second that the daily scrub may read to find corruption; 0 for none, unless one is asked for",
        rule: Rule::Size(ranges::SCRUB_RATE, |c, v| c.store.scrub_rate = v),
        show: |c| show_size(c.store.scrub_rate),
    },
    Key {
        name: "nbd.listen",
        about: "TCP addresses for NBD clients",
        rule: Rule::Addresses(Reach::Loopback, |c, v| c.nbd.listen = v),
        show: |c| {
            let addresses: Vec<String> =
                c.nbd.listen.iter().map(|address| quoted(&address.to_string())).collect();
            format!("[{}]", addresses.join(", "))
        },
    },
    Key {
        name: "nbd.unix",
        about: "Unix socket for NBD clients",
        rule: Rule::OptionalPath(|c, v| c.nbd.unix = v),
        show: |c| c.nbd.unix.as_deref().map_or_else(|| quoted(""), show_path),
    },
    Key {
        name: "nbd.unix_mode",
        about: "who may connect to that socket: its mode, whatever the umask",
        rule: Rule::Mode(ranges::SOCKET_MODE, |c, v| c.nbd.unix_mode = v),
        show: |c| show_mode(c.nbd.unix_mode),
    },
    Key {
        name: "nbd.workers",
        about: "threads that serve NBD connections; by default one a core",
        rule: Rule::Count(ranges::WORKERS, |c, v| c.nbd.workers = v),
        show: |c| c.nbd.workers.to_string(),
    },
    Key {
        name: "nbd.in_flight",
        about: "memory for requests and replies under way, of all connections together; by default a sixteenth of the host's, \
                at most 512M",
        rule: Rule::Size(ranges::IN_FLIGHT, |c, v| c.nbd.in_flight_bytes = v),
        show: |c| show_size(c.nbd.in_flight_bytes),
    },
    Key {
        name: "nbd.connections_max",
        about: "connections of NBD clients; who comes beyond is refused and told why",
        rule: Rule::Count(ranges::CONNECTIONS, |c, v| c.nbd.connections_max = v),
        show: |c| c.nbd.connections_max.to_string(),
    },
    Key {
        name: "nbd.stall",
        about: "seconds in which a client must send a MiB of its payload or take one of its replies, or what is left, or be \
                cut off",
        rule: Rule::Count(ranges::STALL_SECS, |c, v| c.nbd.stall_secs = v),
        show: |c| c.nbd.stall_secs.to_string(),
    },
    Key {
        name: "attach.grace",
        about: "seconds that a mount may be without a connection before it ends by itself",
        rule: Rule::Count(ranges::GRACE_SECS, |c, v| c.attach.grace_secs = v),
        show: |c| c.attach.grace_secs.to_string(),
    },
    Key {
        name: "admin.listen",
        about: "TCP address of the admin API, which checks a token",
        rule: Rule::Address(Reach::Anywhere, |c, v| c.admin.listen = v),
        show: |c| quoted(&c.admin.listen.to_string()),
    },
    Key {
        name: "admin.unix",
        about: "Unix socket of the admin API, which the commands use",
        rule: Rule::OptionalPath(|c, v| c.admin.unix = v),
        show: |c| c.admin.unix.as_deref().map_or_else(|| quoted(""), show_path),
    },
    Key {
        name: "admin.unix_mode",
        about: "who may connect to that socket: its mode, whatever the umask",
        rule: Rule::Mode(ranges::SOCKET_MODE, |c, v| c.admin.unix_mode = v),
        show: |c| show_mode(c.admin.unix_mode),
    },
    Key {
        name: "cache.memory",
        about: "memory for blocks that were read or written",
        rule: Rule::Size(ranges::CACHE, |c, v| c.cache.memory_bytes = v),
        show: |c| show_size(c.cache.memory_bytes),
    },
    Key {
        name: "cache.metadata",
        about: "memory for the maps of the volumes",
        rule: Rule::Size(ranges::CACHE, |c, v| c.cache.metadata_bytes = v),
        show: |c| show_size(c.cache.metadata_bytes),
    },
    Key {
        name: "defaults.volume_size",
        about: "size of a volume whose creator names none",
        rule: Rule::Size(ranges::VOLUME, |c, v| c.defaults.volume_size_bytes = v),
        show: |c| show_size(c.defaults.volume_size_bytes),
    },
    Key {
        name: "log.format",
        about: "text for people, json for programs",
        rule: Rule::Word(&[
            Word { text: "text", set: |c| c.log.format = LogFormat::Text },
            Word { text: "json", set: |c| c.log.format = LogFormat::Json },
        ]),
        show: |c| {
            quoted(match c.log.format {
                LogFormat::Text => "text",
                LogFormat::Json => "json",
            })
        },
    },
    Key {
        name: "log.level",
        about: "least severe line that is written",
        rule: Rule::Word(&[
            Word { text: "error", set: |c| c.log.level = LogLevel::Error },
            Word { text: "warn", set: |c| c.log.level = LogLevel::Warn },
            Word { text: "info", set: |c| c.log.level = LogLevel::Info },
            Word { text: "debug", set: |c| c.log.level = LogLevel::Debug },
            Word { text: "trace", set: |c| c.log.level = LogLevel::Trace },
        ]),
        show: |c| {
            quoted(match c.log.level {
                LogLevel::Error => "error",
                LogLevel::Warn => "warn",
                LogLevel::Info => "info",
                LogLevel::Debug => "debug",
                LogLevel::Trace => "trace",
            })
        },
    },
];

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn show_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

fn show_size(bytes: u64) -> String {
    quoted(&ByteSize::new(bytes).to_string())
}

fn show_mode(mode: u32) -> String {
    quoted(&format!("{mode:04o}"))
}

/// The settings as a `sandstone.toml`, each key with what it does and what it may be.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut section_before = "";
        for key in &KEYS {
            let (section, name) = key.parts();
            if section != section_before {
                write!(f, "\n[{section}]\n")?;
                section_before = section;
            }
            writeln!(f, "# {}: {}", key.about, key.allowed())?;
            writeln!(f, "{name} = {}", key.value_in(self))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_shown_as_a_file_are_the_defaults() {
        let text = Config::default().to_string();
        assert_eq!(
            Config::parse(&text).map_err(|p| p.to_string()),
            Ok(Config::default()),
            "{text}"
        );
    }

    #[test]
    fn changed_settings_shown_as_a_file_parse_back() {
        let config = Config::parse(
            "data_dir = \"a \\\"b\\\"\"\n[nbd]\nlisten = []\nworkers = 3\n[store]\nio = \"threads\"\n[log]\nlevel = \"trace\"",
        )
        .unwrap();
        assert_eq!(Config::parse(&config.to_string()).unwrap(), config);
    }

    #[test]
    fn a_section_stands_together() {
        let mut sections: Vec<&str> = KEYS.iter().map(|key| key.parts().0).collect();
        sections.dedup();
        let count = sections.len();
        sections.sort_unstable();
        sections.dedup();
        assert_eq!(sections.len(), count, "a section appears twice in the table");
    }
}
