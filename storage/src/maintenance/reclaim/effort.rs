//! How far a round of reclaim goes.

/// How far a round goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// Moves what is alive in less than half of its segment.
    Usual,
    /// Moves whatever gives back a segment, because an operator asked for it.
    Thorough,
    /// Empties the sparsest segments whatever is alive in them, until the log has room.
    Needed,
}

impl Effort {
    /// Part of a segment below which what is alive is moved.
    pub(super) fn sparse(self) -> f64 {
        match self {
            Self::Usual => 0.5,
            Self::Thorough => 0.95,
            Self::Needed => 1.0,
        }
    }
}
