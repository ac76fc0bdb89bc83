//! Two shapes that the specification uses everywhere: a number with names, and a set of flag bits.
//!
//! Both keep what they do not know. An unknown number becomes `Unknown(n)` and is answered, not
//! crashed on; unknown bits stay in the set, where `unknown()` finds them.

/// An enum over wire numbers that keeps unknown ones. `from_wire` and `to_wire` are inverse for
/// every number. `Unknown` is only for numbers without a name; build values from numbers by
/// `from_wire`.
macro_rules! wire_enum {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident: $int:ty {
            $($(#[$variant_meta:meta])* $variant:ident = $number:literal,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        $vis enum $name {
            $($(#[$variant_meta])* $variant,)+
            /// A number that this crate has no name for.
            Unknown($int),
        }

        impl $name {
            /// The value with this number on the wire.
            $vis const fn from_wire(number: $int) -> Self {
                match number {
                    $($number => Self::$variant,)+
                    other => Self::Unknown(other),
                }
            }

            /// Its number on the wire.
            $vis const fn to_wire(self) -> $int {
                match self {
                    $(Self::$variant => $number,)+
                    Self::Unknown(other) => other,
                }
            }
        }
    };
}

/// A set of flag bits with names. All bits are kept, named or not.
macro_rules! flag_set {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident: $int:ty {
            $($(#[$flag_meta:meta])* $flag:ident = $bit:literal,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
        $vis struct $name($int);

        impl $name {
            $($(#[$flag_meta])* pub const $flag: Self = Self(1 << $bit);)+
            /// No flag.
            pub const EMPTY: Self = Self(0);
            /// All flags that have a name here.
            pub const NAMED: Self = Self(0 $(| 1 << $bit)+);

            /// The set with exactly these bits, as they come from the wire.
            pub const fn from_bits(bits: $int) -> Self {
                Self(bits)
            }

            /// The bits, as they go to the wire.
            pub const fn bits(self) -> $int {
                self.0
            }

            /// Whether all flags of `other` are in this set.
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// This set and `other` together.
            pub const fn with(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// This set less `other`.
            pub const fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }

            /// Whether no bit is set.
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }

            /// The bits that have no name here.
            pub const fn unknown(self) -> Self {
                self.without(Self::NAMED)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(stringify!($name))?;
                let mut set = f.debug_set();
                $(if self.contains(Self::$flag) { set.entry(&format_args!(stringify!($flag))); })+
                if !self.unknown().is_empty() {
                    set.entry(&format_args!("{:#x}", self.unknown().bits()));
                }
                set.finish()
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use crate::{Command, TransmissionFlags};

    #[test]
    fn a_named_number_and_an_unknown_one_survive_the_round_trip() {
        for number in 0..=u16::MAX {
            assert_eq!(Command::from_wire(number).to_wire(), number);
        }
        assert_eq!(Command::from_wire(8), Command::Unknown(8));
    }

    #[test]
    fn unknown_bits_are_kept_and_shown() {
        let flags = TransmissionFlags::from_bits(0x8001);
        assert_eq!(flags.unknown().bits(), 0x8000);
        assert_eq!(format!("{flags:?}"), "TransmissionFlags{HAS_FLAGS, 0x8000}");
    }
}
