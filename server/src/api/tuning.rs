//! What a volume, or a mount of it, is tuned by.

use super::field::Field;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Tuning as it is asked for. Of a change, and of a mount, what is absent stays the volume's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct Tuning {
    /// Most memory for the volume's clean blocks, from 0 to 1T. Of a new volume "1G" unless given,
    /// of a fork the source's; echoed as given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub(crate) cache_size: Option<Field<String>>,
    /// Most bytes accepted but not yet in the store, from 1M to 1G. Of a new volume "32M" unless
    /// given, of a fork the source's; echoed as given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub(crate) buffer_size: Option<Field<String>>,
    /// MiB to keep coming while reads run in sequence. Of a new volume 0 unless given, of a fork
    /// the source's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 1024)]
    pub(crate) prefetch: Option<Field<u32>>,
    /// Whether a write is acknowledged from the staging buffer. Of a new volume false unless given,
    /// of a fork the source's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<bool>)]
    pub(crate) writeback: Option<Field<bool>>,
}
