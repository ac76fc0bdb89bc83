//! What is wrong with a configuration, all of it at once.

use std::{fmt, path::PathBuf};
use thiserror::Error;

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, from 1; none where the mistake is in what is not written.
    pub line: Option<usize>,
    /// The key with its section, `store.size`; empty where the file as a whole is meant.
    pub key: String,
    /// The value as it stands in the file; none where the key itself is the mistake.
    pub value: Option<String>,
    /// What is wrong and what is allowed.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        match (self.key.as_str(), &self.value) {
            ("", _) => {}
            (key, Some(value)) => write!(f, "{key} = {value}: ")?,
            (key, None) => write!(f, "{key}: ")?,
        }
        f.write_str(&self.reason)
    }
}

/// Every mistake of one configuration, in the order of the file. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}", self.lines().join("\n"))]
pub struct Problems {
    /// The file; none where there was none.
    pub file: Option<PathBuf>,
    /// The mistakes.
    pub list: Vec<Problem>,
}

impl Problems {
    /// One problem a line.
    fn lines(&self) -> Vec<String> {
        let file = self.file.as_ref().map_or(String::new(), |file| format!("{}: ", file.display()));
        self.list.iter().map(|problem| format!("{file}{problem}")).collect()
    }
}
