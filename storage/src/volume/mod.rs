//! A volume's handle: reading, writing, read-ahead, defragmenting, diff and effective settings.

mod chunk;
mod defragment;
mod diff;
mod effective_settings;
mod handle;
mod leaf_memo;
mod read;
mod readahead;
mod write;

pub use diff::{Change, Changes};
pub use handle::Volume;
pub use read::{BegunRead, Extent, ExtentState, Piece, UnfinishedRead};
pub use readahead::Readahead;
pub use write::{Allocation, Begun, Receipt, Unfinished};

pub(crate) use defragment::Moved;
pub(crate) use effective_settings::EffectiveSettings;
pub(crate) use handle::{Inner, State};
pub(crate) use leaf_memo::{LeafMemo, Remembered};
pub(crate) use read::FETCH_BYTES;
