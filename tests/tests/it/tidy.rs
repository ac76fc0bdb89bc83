//! What reviews would otherwise have to look for: rooms and their direction, where `unsafe` is,
//! width of lines, files that comments cite, and words that only we would use.
//!
//! Each finding is one sentence that says what to do. `--nocapture` shows the rooms with their
//! imports.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// A crate and its rooms, the lowest first: each imports from those before it alone.
const CRATES: [(&str, &[&str]); 3] = [
    ("storage/ring/src", &["memory", "io", "engine", "runtime", "transfer"]),
    (
        "storage/src",
        &[
            "base",
            "format",
            "map",
            "cache",
            "disk",
            "log",
            "core",
            "volume",
            "catalog",
            "maintenance",
            "recovery",
            "offline",
            "store",
        ],
    ),
    (
        "server/src",
        &[
            "api",
            "traffic",
            "record",
            "attachments",
            "mounts",
            "registry",
            "process",
            "net",
            "token",
            "show",
            "watchdog",
            "runtime_thread",
            "nbd",
            "admin",
            "serve",
            "cli",
        ],
    ),
];

/// Where `unsafe` may be: files whose path begins like this.
const UNSAFE: [&str; 3] =
    ["storage/ring/src/", "server/src/process/allocator.rs", "storage/tests/it/world/mod.rs"];

/// Most columns of a line.
const COLUMNS: usize = 100;

/// Words that only we would use, and what to say instead. Matched as whole words, in any case.
const WORDS: [(&str, &str); 16] = [
    ("crowd", "fairness"),
    ("is_others_turn", "must_yield"),
    ("lose_patience", "cancel_waits"),
    ("note_company", "hint_concurrency"),
    ("grasp", "replace mode"),
    ("barren", "a round without progress"),
    ("rot", "corrupt, corruption"),
    ("rotten", "corrupt"),
    ("rots", "becomes corrupt"),
    ("spoilt", "corrupt, or unreadable"),
    ("whoever", "the task, client or operation that is meant"),
    ("somebody", "the task, client or operation that is meant"),
    ("anybody", "the task, client or operation that is meant"),
    ("nobody", "no task, no client, no operation"),
    ("everybody", "all tasks, clients or operations"),
    ("look_behind_end", "scan_past_tail"),
];

/// Files in which such a word is meant: the old names of what the scrub found stay for one version.
const WORDS_MEANT: [&str; 5] = [
    "server/src/admin/metrics/store.rs",
    "server/src/admin/store/scrub.rs",
    "server/src/api/maintenance.rs",
    "server/src/cli/maintenance/scrub.rs",
    "storage/src/lib.rs",
];

/// A text file of the repository.
struct Source {
    /// From the repository's root.
    path: String,
    text: String,
}

impl Source {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether all of it is tests.
    fn is_test(&self) -> bool {
        self.path.split('/').any(|part| part == "tests" || part == "tests.rs")
            || self.path.ends_with("_tests.rs")
    }

    /// Its text without the unit tests at its end.
    fn without_unit_tests(&self) -> &str {
        self.text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default()
    }

    /// Its code without comments and without unit tests.
    fn code(&self) -> String {
        let code = |line: &str| match line.find("//") {
            Some(at) => line[..at].to_owned(),
            None => line.to_owned(),
        };
        self.without_unit_tests().lines().map(code).collect::<Vec<_>>().join("\n")
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All Rust sources and documents, sorted.
fn sources() -> Vec<Source> {
    let (root, mut found) = (root(), Vec::new());
    let mut folders: Vec<PathBuf> =
        ["server", "protocol", "storage", "config", "tests"].map(|name| root.join(name)).into();
    let readme = root.join("README.md");
    found.push(Source {
        path: "README.md".into(),
        text: fs::read_to_string(readme).expect("a README"),
    });
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs" || kind == "md") {
                let text = fs::read_to_string(&path).expect("a text");
                let path = path
                    .strip_prefix(&root)
                    .expect("below the root")
                    .to_str()
                    .expect("a name")
                    .to_owned();
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The paths below `crate::` that a piece of code names, groups taken apart: `map::Tree`.
fn crate_paths(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        // Not a crate's name that ends like this.
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        take_apart(&code[at + "crate::".len()..], "", &mut found);
    }
    found
}

/// Reads one path or group from the front of `text`; gives how much of it that was.
fn take_apart(text: &str, prefix: &str, found: &mut BTreeSet<String>) -> usize {
    if let Some(group) = text.strip_prefix('{') {
        let mut at = 0;
        loop {
            at += group[at..].len() - group[at..].trim_start_matches([' ', '\n', ',']).len();
            if group[at..].starts_with('}') {
                return at + 2;
            }
            let taken = take_apart(&group[at..], prefix, found);
            assert!(taken > 0, "a group that is none: {group}");
            at += taken;
        }
    }
    let name_end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let path = format!("{prefix}{}", &text[..name_end]);
    if text[name_end..].starts_with("::") {
        let below = name_end + 2;
        return below + take_apart(&text[below..], &format!("{path}::"), found);
    }
    found.insert(path);
    let rest = &text[name_end..];
    // `Name as Other` takes the other name with it.
    match rest.strip_prefix(" as ") {
        Some(other) => {
            let end = other.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(other.len());
            name_end + " as ".len() + end
        }
        None => name_end,
    }
}

#[test]
fn rooms_import_from_rooms_below_them() {
    let (sources, mut wrong, mut shown) = (sources(), String::new(), String::new());
    for (folder, rooms) in CRATES {
        let floor = |room: &str| rooms.iter().position(|known| *known == room);
        let mut imports: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for source in sources.iter().filter(|s| s.is_rust() && !s.is_test()) {
            let Some(file) = source.path.strip_prefix(&format!("{folder}/")) else { continue };
            let room = file.split('/').next().unwrap_or_default().trim_end_matches(".rs");
            if room == "lib" || room == "main" {
                continue;
            }
            let Some(own) = floor(room) else {
                let _ = writeln!(wrong, "{}: put the room {room} into tidy.rs", source.path);
                continue;
            };
            for path in crate_paths(&source.code()) {
                let other = path.split("::").next().unwrap_or_default();
                let Some(other_floor) = floor(other) else { continue };
                if other_floor > own {
                    let _ = writeln!(
                        wrong,
                        "{}: {room} must not import crate::{path}; move what both need into a \
                         room below {room}",
                        source.path
                    );
                } else if other_floor < own {
                    imports.entry(own).or_default().insert(other_floor);
                }
            }
        }
        let _ = writeln!(shown, "{folder}");
        for (floor, room) in rooms.iter().enumerate().rev() {
            let below: Vec<_> =
                imports.get(&floor).into_iter().flatten().map(|floor| rooms[*floor]).collect();
            let _ = writeln!(shown, "  {room:14} {}", below.join(" "));
        }
    }
    println!("{shown}");
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn unsafe_is_in_the_ring() {
    let mut wrong = String::new();
    for source in sources().iter().filter(|source| source.is_rust()) {
        let is_word = |line: &&str| {
            line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == "unsafe")
        };
        let allowed = UNSAFE.iter().any(|place| source.path.starts_with(place));
        if !allowed
            && source.path != "tests/tests/it/tidy.rs"
            && source.code().lines().any(|line| is_word(&line))
        {
            let _ = writeln!(wrong, "{}: move what is unsafe into storage/ring", source.path);
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// rustfmt breaks code, but no comments.
#[test]
fn comments_are_at_most_a_hundred_columns() {
    let mut wrong = String::new();
    for source in sources().iter().filter(|source| source.is_rust()) {
        let mut is_picture = false;
        for (i, line) in source.text.lines().enumerate() {
            let comment = line.trim_start();
            if !comment.starts_with("//") {
                is_picture = false;
                continue;
            }
            let text = comment.trim_start_matches(['/', '!']).trim_start();
            is_picture ^= text.starts_with("```");
            // Pictures, rows of tables and addresses cannot be broken.
            let is_whole = is_picture || text.starts_with('|') || text.contains("://");
            if line.chars().count() > COLUMNS && !is_whole {
                let _ = writeln!(
                    wrong,
                    "{}:{}: break the comment at {COLUMNS} columns",
                    source.path,
                    i + 1
                );
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn files_that_are_cited_exist() {
    let sources = sources();
    let paths: Vec<&str> = sources.iter().map(|source| source.path.as_str()).collect();
    let exists = |cited: &str| {
        paths.iter().any(|path| *path == cited || path.ends_with(&format!("/{cited}")))
    };
    let mut wrong = String::new();
    for source in &sources {
        for (i, line) in source.text.lines().enumerate() {
            let is_prose = !source.is_rust() || line.trim_start().starts_with("//");
            // The specification of NBD has a folder of this name.
            for cited in line.split('`').skip(1).step_by(2).filter(|_| is_prose) {
                let is_file = [".rs", ".md"].iter().any(|end| cited.ends_with(end))
                    && !cited.starts_with("doc/")
                    && cited.chars().all(|c| c.is_alphanumeric() || "./_-".contains(c));
                if is_file && cited.len() > 4 && !exists(cited.trim_start_matches("../")) {
                    let _ = writeln!(
                        wrong,
                        "{}:{}: {cited} does not exist; cite what does",
                        source.path,
                        i + 1
                    );
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// In what is shipped: tests may speak of persons.
#[test]
fn words_are_those_of_the_field() {
    let mut wrong = String::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        if source.path.starts_with("tests/") || WORDS_MEANT.contains(&source.path.as_str()) {
            continue;
        }
        for (i, line) in source.without_unit_tests().lines().enumerate() {
            let lower = line.to_lowercase();
            for word in lower.split(|c: char| !c.is_alphanumeric() && c != '_') {
                if let Some((_, instead)) = WORDS.iter().find(|(bad, _)| *bad == word) {
                    let _ =
                        writeln!(wrong, "{}:{}: for \"{word}\" say {instead}", source.path, i + 1);
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn groups_of_imports_are_taken_apart() {
    let code = "use crate::{\n    base::{Address, Lsn as L},\n    map,\n};\nfn f() -> crate::disk::Need {}";
    let expected = ["base::Address", "base::Lsn", "disk::Need", "map"];
    assert_eq!(crate_paths(code).into_iter().collect::<Vec<_>>(), expected);
}
