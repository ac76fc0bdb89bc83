//! Texts for people: rounded sizes, words for the shell.

use sandstone_config::ByteSize;
use std::{error::Error, path::Path};

/// A size with at most one decimal, such as `1.5G`; exact below 1 KiB.
pub(crate) fn rounded(bytes: u64) -> String {
    const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];
    let Some((name, shift)) = UNITS.into_iter().find(|(_, shift)| bytes >> shift > 0) else {
        return ByteSize::new(bytes).to_string();
    };
    let tenths = (u128::from(bytes) * 10) >> shift;
    match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("{whole}{name}"),
        (whole, tenth) => format!("{whole}.{tenth}{name}"),
    }
}

/// An error with what lies below it, in one line: many of them leave their cause to
/// [`Error::source`].
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        let told = cause.to_string();
        if !text.contains(&told) {
            text.push_str(": ");
            text.push_str(&told);
        }
        below = cause.source();
    }
    text
}

/// A path as one word of a shell command.
pub(crate) fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:,@%=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// How this program was called, so that commands that are shown can be copied.
pub(crate) fn own_command() -> String {
    std::env::args_os()
        .next()
        .map_or_else(|| "sandstone".to_owned(), |word| quoted(Path::new(&word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_down_to_a_tenth() {
        for (bytes, text) in [
            (0, "0"),
            (1023, "1023"),
            (1024, "1K"),
            (1536, "1.5K"),
            ((1 << 30) - 1, "1023.9M"),
            (64 << 30, "64G"),
            (u64::MAX, "16777215.9T"),
        ] {
            assert_eq!(rounded(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn only_what_a_shell_would_split_or_expand_is_quoted() {
        assert_eq!(quoted(Path::new("/srv/a-b_c.d")), "/srv/a-b_c.d");
        assert_eq!(quoted(Path::new("/srv/it's")), r"'/srv/it'\''s'");
        assert_eq!(quoted(Path::new("nbd+unix:///x?socket=/s")), "'nbd+unix:///x?socket=/s'");
        assert_eq!(quoted(Path::new("")), "''");
    }
}
