//! Repeating the other side's words safely: in an error text, a log line, on a terminal.

use std::fmt::{self, Write as _};

use crate::limits::ESCAPED_BYTES_MAX;

/// `words` in double quotes, with quotes, backslashes, control and invisible characters (also those
/// that reverse the direction of writing) escaped, cut after [`ESCAPED_BYTES_MAX`] bytes.
pub fn escaped(words: &str) -> Escaped<'_> {
    Escaped(words)
}

/// See [`escaped`].
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        let mut written = 0;
        for character in self.0.chars() {
            let escape = character.escape_debug();
            let plain = character == '\'' || escape.len() == 1;
            let len = if plain { character.len_utf8() } else { escape.len() };
            if written + len > ESCAPED_BYTES_MAX {
                return f.write_str("\"…");
            }
            written += len;
            if plain { f.write_char(character)? } else { write!(f, "{escape}")? }
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(words: &str, expected: &str) {
        assert_eq!(escaped(words).to_string(), expected);
    }

    #[test]
    fn plain_words_stay_as_they_are() {
        check("disk-1", "\"disk-1\"");
        check("größe", "\"größe\"");
        check("it's", "\"it's\"");
    }

    #[test]
    fn what_could_mislead_a_reader_is_escaped() {
        check("a\"b\\c", "\"a\\\"b\\\\c\"");
        check("\x1b[31m\r\n", "\"\\u{1b}[31m\\r\\n\"");
        check("\u{202e}live", "\"\\u{202e}live\"");
    }

    #[test]
    fn long_words_are_cut_after_escaping() {
        let text = escaped(&"\n".repeat(4096)).to_string();
        assert_eq!(text, format!("\"{}\"…", "\\n".repeat(ESCAPED_BYTES_MAX / 2)));
        let text = escaped(&"ö".repeat(4096)).to_string();
        assert_eq!(text, format!("\"{}\"…", "ö".repeat(ESCAPED_BYTES_MAX / 2)));
    }
}
