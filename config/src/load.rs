//! The walk from a TOML text to settings, which does not stop at the first mistake.
//!
//! serde would: its errors are returned, not collected. So the text becomes a tree of values with
//! their places, and each entry is held against the table of keys.

use crate::{
    Config, Problem, Problems,
    keys::{KEYS, Key, Reach, Rule},
    ranges::SOCKET_PATH_BYTES_MAX,
    settings::{DATA_DIR_WORD, is_loopback},
    trust::{self, Distrust},
};
use std::{
    io,
    net::SocketAddr,
    ops::Range,
    path::{Path, PathBuf},
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// The file that is read when none is named, if it is there.
const DEFAULT_FILE: &str = "sandstone.toml";
/// Most bytes of a file. A guess, far past any.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Most mistakes that are told one by one.
const PROBLEMS_MAX: usize = 100;
/// Longest key that is compared with the known ones, which are shorter by far.
const COMPARED_CHARS_MAX: usize = 64;

impl Default for Config {
    fn default() -> Config {
        let mut config = Config::unresolved();
        config.resolve_paths(Path::new(""));
        config
    }
}

impl Config {
    /// Reads `path`; without one, `sandstone.toml` in the working directory where it exists, else
    /// the defaults.
    ///
    /// A file that is found, not named, is read only if it is the user's own, or root's: a user
    /// that may write to a directory must not decide to whom those send their token who happen to
    /// work there.
    ///
    /// Relative paths in a file are relative to the file's directory, so that the server and the
    /// command line find the same data whichever directory they are started in.
    ///
    /// # Errors
    /// Every mistake of the file, or the one that it cannot be read.
    pub fn load(path: Option<&Path>) -> Result<Config, Problems> {
        let file = path.unwrap_or(Path::new(DEFAULT_FILE));
        let in_file = |list| Problems { file: Some(file.to_path_buf()), list };
        let read = match path {
            Some(path) => trust::read_named(path, FILE_BYTES_MAX),
            None => trust::read_found(Path::new(DEFAULT_FILE), FILE_BYTES_MAX),
        };
        let bytes = match read {
            Err(Distrust::Io(error))
                if path.is_none() && error.kind() == io::ErrorKind::NotFound =>
            {
                return Ok(Config::default());
            }
            read => read.map_err(|why| in_file(vec![unreadable(&why)]))?,
        };
        let text = String::from_utf8(bytes).map_err(|_| {
            in_file(vec![unreadable(&Distrust::Io(io::ErrorKind::InvalidData.into()))])
        })?;
        let mut config =
            parse_in(&text, file.parent().unwrap_or(Path::new(""))).map_err(in_file)?;
        config.file = Some(file.to_path_buf());
        Ok(config)
    }

    /// The settings of a text, with relative paths left as they are.
    ///
    /// # Errors
    /// Every mistake of the text.
    pub fn parse(text: &str) -> Result<Config, Problems> {
        parse_in(text, Path::new("")).map_err(|list| Problems { file: None, list })
    }

    /// Puts the data directory in place of `<data_dir>`, and `base` before what is relative.
    fn resolve_paths(&mut self, base: &Path) {
        self.data_dir = base.join(&self.data_dir);
        let data_dir = self.data_dir.clone();
        let resolve = |path: &mut PathBuf| {
            *path = match path.strip_prefix(DATA_DIR_WORD) {
                Ok(rest) => data_dir.join(rest),
                Err(_) => base.join(&*path),
            };
        };
        resolve(&mut self.store.path);
        resolve(&mut self.store.staging);
        self.nbd.unix.as_mut().map(resolve);
        self.admin.unix.as_mut().map(resolve);
    }
}

fn unreadable(why: &Distrust) -> Problem {
    let reason = match why {
        Distrust::Io(error) => format!(
            "cannot be read ({error}); name another file with --config, or none to run on the defaults"
        ),
        why => format!(
            "{why}, and what lies in the working directory is read unasked only if you and root alone can have written \
             it; name it with --config if you trust it, or work elsewhere"
        ),
    };
    Problem { line: None, key: String::new(), value: None, reason }
}

fn parse_in(text: &str, base: &Path) -> Result<Config, Vec<Problem>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let line_starts = text.match_indices('\n').map(|(at, _)| at + 1).collect();
    let mut walk =
        Walk { text, line_starts, config: Config::unresolved(), problems: Vec::new(), untold: 0 };
    for error in errors {
        let line = error.span().map(|span| walk.line_of(&span));
        // The parser's messages may have several lines; a problem has one.
        let message = error.message().lines().collect::<Vec<_>>().join(", ");
        walk.report(line, String::new(), None, format!("not TOML: {message}"));
    }
    // What recovery guessed about a broken text would only add mistakes that are not there.
    if walk.problems.is_empty() {
        walk.root(table.get_ref());
        walk.config.resolve_paths(base);
        walk.whole();
    }
    walk.problems.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
    if walk.untold > 0 {
        let untold = walk.untold;
        walk.problems.push(Problem {
            line: None,
            key: String::new(),
            value: None,
            reason: format!("and {untold} more mistakes"),
        });
    }
    if walk.problems.is_empty() { Ok(walk.config) } else { Err(walk.problems) }
}

struct Walk<'a> {
    text: &'a str,
    /// Where the second line begins, and each further one.
    line_starts: Vec<usize>,
    config: Config,
    problems: Vec<Problem>,
    /// Mistakes past [`PROBLEMS_MAX`].
    untold: usize,
}

impl Walk<'_> {
    fn root(&mut self, table: &DeTable<'_>) {
        for (name, value) in table {
            let name_text = name.get_ref().as_ref();
            let is_section = KEYS.iter().any(|key| key.parts().0 == name_text);
            match value.get_ref().as_table() {
                Some(section) if is_section => self.section(name_text, section),
                None if is_section => {
                    let reason = format!("is a section: write [{name_text}] and its keys below it");
                    self.report_value(name_text, value, reason);
                }
                Some(_) | None => self.entry("", name, value),
            }
        }
    }

    fn section(&mut self, section: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            self.entry(section, name, value);
        }
    }

    fn entry(
        &mut self,
        section: &str,
        name: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
    ) {
        let name_text = name.get_ref().as_ref();
        match KEYS.iter().find(|key| key.parts() == (section, name_text)) {
            Some(key) => self.value(key, value),
            None => {
                let full = if section.is_empty() {
                    name_text.to_owned()
                } else {
                    format!("{section}.{name_text}")
                };
                let line = Some(self.line_of(&name.span()));
                self.report(line, full, None, unknown_key(section, name_text));
            }
        }
    }

    fn value(&mut self, key: &Key, value: &Spanned<DeValue<'_>>) {
        if let Err(reason) = self.apply(&key.rule, value.get_ref()) {
            self.report_value(key.name, value, reason);
        }
    }

    /// Holds a value against its rule and puts an allowed one into the settings.
    fn apply(&mut self, rule: &Rule, value: &DeValue<'_>) -> Result<(), String> {
        let must_be = || format!("must be {rule}");
        match rule {
            Rule::Path(set) => {
                let path = value.as_str().filter(|path| is_path(path)).ok_or_else(must_be)?;
                set(&mut self.config, path.into());
            }
            Rule::OptionalPath(set) => {
                let path = value
                    .as_str()
                    .filter(|path| path.is_empty() || is_path(path))
                    .ok_or_else(must_be)?;
                set(
                    &mut self.config,
                    Some(path).filter(|path| !path.is_empty()).map(PathBuf::from),
                );
            }
            Rule::Size(range, set) => {
                let bytes =
                    size_of(value).filter(|bytes| range.contains(*bytes)).ok_or_else(must_be)?;
                set(&mut self.config, bytes);
            }
            Rule::Count(range, set) => {
                let count = integer_of(value)
                    .and_then(|count| u32::try_from(count).ok())
                    .filter(|count| range.contains(count))
                    .ok_or_else(must_be)?;
                set(&mut self.config, count);
            }
            Rule::Mode(range, set) => {
                let mode = value.as_str().and_then(mode_of).filter(|mode| range.contains(mode));
                set(&mut self.config, mode.ok_or_else(must_be)?);
            }
            Rule::Address(reach, set) => {
                let address =
                    value.as_str().and_then(|text| text.parse().ok()).ok_or_else(must_be)?;
                check_reach(*reach, &address)?;
                set(&mut self.config, address);
            }
            Rule::Addresses(reach, set) => {
                let list = value.as_array().ok_or_else(must_be)?;
                let mut addresses = Vec::new();
                for item in list {
                    let address = item
                        .get_ref()
                        .as_str()
                        .and_then(|text| text.parse().ok())
                        .ok_or_else(must_be)?;
                    check_reach(*reach, &address)?;
                    addresses.push(address);
                }
                set(&mut self.config, addresses);
            }
            Rule::Word(words) => {
                let text = value.as_str().ok_or_else(must_be)?;
                let word = words.iter().find(|word| word.text == text).ok_or_else(must_be)?;
                (word.set)(&mut self.config);
            }
        }
        Ok(())
    }

    /// Rules that look at more than one key.
    fn whole(&mut self) {
        if self.config.nbd.listen.is_empty() && self.config.nbd.unix.is_none() {
            let reason =
                "nowhere to connect: give nbd.listen an address or nbd.unix a path".to_owned();
            self.report(None, "nbd.listen".to_owned(), Some("[]".to_owned()), reason);
        }
        let sockets = [
            ("nbd.unix", self.config.nbd.unix.clone()),
            ("admin.unix", self.config.admin.unix.clone()),
        ];
        for (key, path) in sockets {
            let Some(path) = path else { continue };
            let len = path.as_os_str().len();
            if len > SOCKET_PATH_BYTES_MAX {
                let value = Some(format!("{:?}", path.display().to_string()));
                let reason = format!(
                    "the path has {len} bytes and a Unix socket takes at most {SOCKET_PATH_BYTES_MAX}: choose a shorter \
                     {key} or data_dir"
                );
                self.report(None, key.to_owned(), value, reason);
            }
        }
        if self.config.nbd.unix.is_some() && self.config.nbd.unix == self.config.admin.unix {
            let reason = "is the path of nbd.unix too: give each socket one of its own".to_owned();
            self.report(None, "admin.unix".to_owned(), None, reason);
        }
    }

    fn report_value(&mut self, key: &str, value: &Spanned<DeValue<'_>>, reason: String) {
        let shown = self
            .text
            .get(value.span())
            .unwrap_or_default()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        let line = Some(self.line_of(&value.span()));
        self.report(line, key.to_owned(), Some(shown), reason);
    }

    fn report(&mut self, line: Option<usize>, key: String, value: Option<String>, reason: String) {
        if self.problems.len() == PROBLEMS_MAX {
            self.untold += 1;
            return;
        }
        self.problems.push(Problem { line, key, value, reason });
    }

    fn line_of(&self, span: &Range<usize>) -> usize {
        self.line_starts.partition_point(|start| *start <= span.start) + 1
    }
}

fn is_path(text: &str) -> bool {
    !text.is_empty() && !text.contains('\0')
}

/// Octal digits, as chmod(1) takes them.
fn mode_of(text: &str) -> Option<u32> {
    let is_octal =
        (3..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    is_octal.then(|| u32::from_str_radix(text, 8).ok()).flatten()
}

fn integer_of(value: &DeValue<'_>) -> Option<u64> {
    let integer = value.as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// A size is a text, or a bare number of bytes.
fn size_of(value: &DeValue<'_>) -> Option<u64> {
    match value.as_str() {
        Some(text) => text.parse().ok().map(crate::ByteSize::bytes),
        None => integer_of(value),
    }
}

fn check_reach(reach: Reach, address: &SocketAddr) -> Result<(), String> {
    match reach {
        Reach::Loopback if !is_loopback(address) => Err(format!(
            "{address} is reachable from other hosts, and NBD has neither TLS nor a check of who connects yet: listen on \
             127.0.0.1, [::1] or a Unix socket, and bring remote clients in through a tunnel"
        )),
        Reach::Loopback | Reach::Anywhere => Ok(()),
    }
}

fn unknown_key(section: &str, name: &str) -> String {
    let near = |key: &&Key| {
        let (of, known) = key.parts();
        // A key in the wrong section is nearer than one that is spelled alike.
        if known == name {
            0
        } else {
            strsim::levenshtein(known, name) + usize::from(of != section)
        }
    };
    let comparable = name.chars().nth(COMPARED_CHARS_MAX).is_none();
    let nearest = comparable.then(|| KEYS.iter().min_by_key(near)).flatten();
    match nearest.filter(|key| near(key) <= 2) {
        Some(key) => format!("no such key; did you mean {}?", key.name),
        None => {
            let known: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
            format!("no such key; there are {}", known.join(", "))
        }
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
