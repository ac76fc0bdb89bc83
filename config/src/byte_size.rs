//! Sizes as people write them: `64G`, `32MiB`, `1048576`.
//!
//! Digits, then optionally one of `K M G T` or `Ki Mi Gi Ti`, each with an optional `B`, in upper
//! or lower case. All are powers of two; no unit means bytes. Source: the size rule of the admin
//! API, which speaks the same language.

use std::{fmt, str::FromStr};
use thiserror::Error;

/// A number of bytes that was written, or is to be shown, as text.
///
/// ```
/// use sandstone_config::ByteSize;
///
/// let size: ByteSize = "64g".parse().expect("a size");
/// assert_eq!(size.bytes(), 64 << 30);
/// assert_eq!(size.to_string(), "64G");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

impl ByteSize {
    /// A size of that many bytes.
    pub const fn new(bytes: u64) -> ByteSize {
        ByteSize(bytes)
    }

    /// The bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

/// Units and the power of two each stands for, largest first.
const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

/// Most characters of a size: the 20 digits of `u64::MAX` and a unit of three. Texts are kept as
/// given, so a long row of leading zeroes is refused, not stored.
const TEXT_LEN_MAX: usize = 23;

/// Why a text is not a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ByteSizeError {
    /// Not digits with one of the units.
    #[error(
        "not a size: write digits with an optional K, M, G, T, Ki, Mi, Gi or Ti, such as \"64G\""
    )]
    Syntax,
    /// More than 2^64 - 1 bytes.
    #[error("a size past 2^64 - 1 bytes")]
    TooLarge,
}

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<ByteSize, ByteSizeError> {
        let digits_len = text.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, unit) = text.split_at(digits_len);
        if digits.is_empty() || text.len() > TEXT_LEN_MAX {
            return Err(ByteSizeError::Syntax);
        }
        let shift = shift_of(unit).ok_or(ByteSizeError::Syntax)?;
        // Only digits are left, so the one way to fail is to be too many of them.
        let count: u64 = digits.parse().map_err(|_| ByteSizeError::TooLarge)?;
        let bytes = count.checked_mul(1 << shift).ok_or(ByteSizeError::TooLarge)?;
        Ok(ByteSize(bytes))
    }
}

fn shift_of(unit: &str) -> Option<u32> {
    if unit.is_empty() {
        return Some(0);
    }
    let unit = unit.to_ascii_uppercase();
    let without_b = unit.strip_suffix('B').unwrap_or(&unit);
    let letter = without_b.strip_suffix('I').unwrap_or(without_b);
    UNITS.iter().find(|(name, _)| letter.chars().eq([*name])).map(|(_, shift)| *shift)
}

/// The shortest exact form: `64G`, `1536M`, or plain bytes where no unit divides it.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = |shift: u32| self.0 != 0 && self.0.trailing_zeros() >= shift;
        let text = match UNITS.iter().find(|(_, shift)| exact(*shift)) {
            Some((name, shift)) => format!("{}{name}", self.0 >> shift),
            None => self.0.to_string(),
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, expected: Result<u64, ByteSizeError>) {
        assert_eq!(text.parse::<ByteSize>().map(ByteSize::bytes), expected, "{text:?}");
    }

    #[test]
    fn units_are_powers_of_two_in_any_case() {
        check("0", Ok(0));
        check("1048576", Ok(1 << 20));
        for text in ["1k", "1K", "1kb", "1KB", "1ki", "1KI", "1KiB", "1kIb"] {
            check(text, Ok(1 << 10));
        }
        check("32M", Ok(32 << 20));
        check("1G", Ok(1 << 30));
        check("16tib", Ok(16 << 40));
        check("007G", Ok(7 << 30));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "", "G", "-1", "+1", "1.5G", "1 G", " 1G", "1G ", "1P", "1BB", "1B", "1iB", "1Gi B",
            "0x10", "1GG", "١G",
        ] {
            check(text, Err(ByteSizeError::Syntax));
        }
        check("18446744073709551615", Ok(u64::MAX));
        check("18446744073709551616", Err(ByteSizeError::TooLarge));
        check("16777216T", Err(ByteSizeError::TooLarge));
        check("000000000000000000000001", Err(ByteSizeError::Syntax));
    }

    #[test]
    fn shown_in_the_shortest_exact_form() {
        for (bytes, text) in [
            (0, "0"),
            (1, "1"),
            (4096, "4K"),
            (1536 << 20, "1536M"),
            (64 << 30, "64G"),
            (1 << 50, "1024T"),
        ] {
            assert_eq!(ByteSize::new(bytes).to_string(), text);
        }
        assert_eq!(format!("[{:>5}]", ByteSize::new(1 << 30)), "[   1G]");
    }

    proptest! {
        #[test]
        fn what_is_shown_parses_back(bytes: u64) {
            prop_assert_eq!(ByteSize::new(bytes).to_string().parse(), Ok(ByteSize::new(bytes)));
        }

        #[test]
        fn any_text_is_answered_without_panic(text in "\\PC{0,30}") {
            let _answer = text.parse::<ByteSize>();
        }

        #[test]
        fn a_count_times_its_unit(count in 0u64..1 << 20, unit in 0usize..4, spelling in 0usize..4) {
            let (name, shift) = UNITS[unit];
            let text = format!("{count}{name}{}", ["", "B", "i", "iB"][spelling]);
            prop_assert_eq!(text.parse(), Ok(ByteSize::new(count << shift)));
        }
    }
}
