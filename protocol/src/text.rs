//! The specification's string: export names, descriptions, context names, error texts.

use std::fmt;
use std::ops::Deref;

use thiserror::Error;

use crate::limits::STRING_BYTES_MAX;

/// A string as "Conventions" defines it: UTF-8, at most [`STRING_BYTES_MAX`] bytes, without NUL.
/// May be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Text(String);

/// Why some bytes are not a [`Text`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TextError {
    /// More than [`STRING_BYTES_MAX`] bytes: so many.
    #[error("a string of {0} bytes, at most {STRING_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// Not UTF-8.
    #[error("a string that is not UTF-8")]
    NotUtf8,
    /// Contains a NUL.
    #[error("a string that contains NUL")]
    Nul,
}

impl Text {
    /// Checks `text` against the rules.
    ///
    /// # Errors
    /// Which rule it breaks.
    pub fn new(text: impl Into<String>) -> Result<Text, TextError> {
        let text = text.into();
        Text::check(&text).map(|()| Text(text))
    }

    /// Checks bytes from the wire against the rules.
    ///
    /// # Errors
    /// Which rule they break.
    pub fn from_utf8(bytes: &[u8]) -> Result<Text, TextError> {
        if bytes.len() > STRING_BYTES_MAX {
            return Err(TextError::TooLong(bytes.len()));
        }
        let text = str::from_utf8(bytes).map_err(|_| TextError::NotUtf8)?;
        Text::check(text).map(|()| Text(text.to_owned()))
    }

    /// A text for a human that is always valid: control characters become escapes and what is too
    /// long is cut, with an ellipsis. Words of the other side belong through
    /// [`escaped`](crate::escaped) first.
    pub fn message(text: &str) -> Text {
        const ELLIPSIS: &str = "…";
        let mut out = String::with_capacity(text.len().min(STRING_BYTES_MAX));
        let mut cut_at = 0; // the longest prefix that leaves room for the ellipsis
        for character in text.chars() {
            if character.is_control() {
                out.extend(character.escape_default());
            } else {
                out.push(character);
            }
            if out.len() > STRING_BYTES_MAX {
                out.truncate(cut_at);
                out.push_str(ELLIPSIS);
                break;
            }
            if out.len() <= STRING_BYTES_MAX - ELLIPSIS.len() {
                cut_at = out.len();
            }
        }
        Text(out)
    }

    /// The string.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn check(text: &str) -> Result<(), TextError> {
        if text.len() > STRING_BYTES_MAX {
            return Err(TextError::TooLong(text.len()));
        }
        if text.contains('\0') {
            return Err(TextError::Nul);
        }
        Ok(())
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl From<Text> for String {
    fn from(text: Text) -> String {
        text.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_4096_bytes_is_taken_and_one_of_4097_is_not() {
        assert!(Text::from_utf8(&[b'a'; 4096]).is_ok());
        assert_eq!(Text::from_utf8(&[b'a'; 4097]), Err(TextError::TooLong(4097)));
        assert_eq!(Text::new("a".repeat(4097)), Err(TextError::TooLong(4097)));
    }

    #[test]
    fn broken_utf8_and_nul_are_refused() {
        assert_eq!(Text::from_utf8(b"\xff"), Err(TextError::NotUtf8));
        assert_eq!(Text::from_utf8(b"a\0"), Err(TextError::Nul));
    }

    #[test]
    fn a_message_is_cut_at_a_character_and_keeps_no_control_characters() {
        let long = Text::message(&"ö".repeat(3000));
        assert!(long.len() <= STRING_BYTES_MAX && long.ends_with("ö…"));
        assert_eq!(Text::message(&"a".repeat(4096)).len(), 4096);
        assert_eq!(Text::message("a\nb\0").as_str(), "a\\nb\\u{0}");
        assert!(Text::message(&"\x01".repeat(4096)).ends_with("\\u{1}…"));
    }
}
