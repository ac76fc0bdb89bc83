//! Errors of the store as errors of the protocol. The only place where the two meet.

use sandstone_protocol::WireError;
use sandstone_storage::Kind;

/// What the client is told. The log keeps the rest.
pub(super) fn wire_error(kind: Kind) -> WireError {
    match kind {
        Kind::NoSpace => WireError::Enospc,
        // Checked against the size before; a volume that is deleted meanwhile has no size left.
        Kind::OutOfRange | Kind::Invalid | Kind::Exists => WireError::Einval,
        Kind::NotFound | Kind::Corrupt | Kind::Io | Kind::Latched => WireError::Eio,
        Kind::ReadOnly => WireError::Eperm,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_full_store_is_told_as_such() {
        let kinds = [
            (Kind::NoSpace, WireError::Enospc),
            (Kind::OutOfRange, WireError::Einval),
            (Kind::NotFound, WireError::Eio),
            (Kind::Exists, WireError::Einval),
            (Kind::Invalid, WireError::Einval),
            (Kind::Corrupt, WireError::Eio),
            (Kind::Io, WireError::Eio),
            (Kind::Latched, WireError::Eio),
            (Kind::ReadOnly, WireError::Eperm),
        ];
        for (kind, expected) in kinds {
            assert_eq!(wire_error(kind), expected, "{kind:?}");
        }
    }
}
