//! Effort: which segments a round of reclaim empties.

/// Which segments a round empties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// Moves the live blocks of segments of which less than half lives.
    Usual,
    /// Moves the live blocks of every segment where that frees one, because an operator asked for
    /// it.
    Thorough,
    /// Empties the sparsest segments, however much is alive in them, until the log has room.
    Needed,
}

impl Effort {
    /// The live part of a segment below which its blocks are moved.
    pub(super) fn sparse(self) -> f64 {
        match self {
            Self::Usual => 0.5,
            Self::Thorough => 0.95,
            Self::Needed => 1.0,
        }
    }
}
