//! Fields of requests, from what a client sent to checked values.
//!
//! A wrong value is refused with its field and what is allowed, both in the sentence and in the
//! details.

use super::{error::ApiError, extract::type_of};
use crate::{
    api::{self, Details, Field},
    mounts::Tuning,
};
use sandstone_config::{
    ByteSize,
    ranges::{self, SizeRange},
};
use serde::Serialize;
use serde_json::Value;
use std::fmt;

/// A size with the text it was given as, which is what it is echoed as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GivenSize {
    pub(crate) text: String,
    pub(crate) bytes: u64,
}

/// The checked value of a field; `None` where it is absent.
///
/// # Errors
/// `parse` finds none.
pub(crate) fn optional<T: Serialize, U>(
    name: &str,
    field: Option<Field<T>>,
    allowed: impl fmt::Display,
    parse: impl FnOnce(&T) -> Option<U>,
) -> Result<Option<U>, ApiError> {
    let Some(field) = field else { return Ok(None) };
    let parsed = match &field {
        Field::Valid(value) => parse(value),
        Field::Invalid(_) => None,
    };
    parsed.map(Some).ok_or_else(|| refused(name, Some(&field), &allowed))
}

/// The checked value of a field that must be there.
///
/// # Errors
/// It is absent, or `parse` finds none.
pub(crate) fn required<T: Serialize, U>(
    name: &str,
    field: Option<Field<T>>,
    allowed: impl fmt::Display,
    parse: impl FnOnce(&T) -> Option<U>,
) -> Result<U, ApiError> {
    optional(name, field, &allowed, parse)?.ok_or_else(|| refused::<T>(name, None, &allowed))
}

fn refused<T: Serialize>(
    name: &str,
    field: Option<&Field<T>>,
    allowed: &dyn fmt::Display,
) -> ApiError {
    // The value is echoed where it is short; a client that sent an object gets its type.
    let shown = match field.map(|field| serde_json::to_value(field).unwrap_or_default()) {
        Some(Value::String(text)) => format!("{:?}", text.chars().take(64).collect::<String>()),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => value.to_string(),
        Some(value) => type_of(&value).to_owned(),
        None => "absent".to_owned(),
    };
    ApiError::bad_request(format!("{name} must be {allowed}, not {shown}"))
        .with_details(Details::field(name, allowed))
}

/// The tuning of a volume or of a mount, as it was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GivenTuning {
    pub(crate) cache_size: Option<GivenSize>,
    pub(crate) buffer_size: Option<GivenSize>,
    pub(crate) prefetch_mib: Option<u32>,
    pub(crate) writeback: Option<bool>,
}

impl GivenTuning {
    /// # Errors
    /// The first field with a wrong value.
    pub(crate) fn check(given: api::Tuning) -> Result<GivenTuning, ApiError> {
        let mib = ranges::VOLUME_PREFETCH_MIB;
        let allowed = format!("a whole number of MiB from {} to {}", mib.start(), mib.end());
        Ok(GivenTuning {
            cache_size: size("cache_size", given.cache_size, &ranges::VOLUME_CACHE)?,
            buffer_size: size("buffer_size", given.buffer_size, &ranges::VOLUME_BUFFER)?,
            prefetch_mib: optional("prefetch", given.prefetch, allowed, |given| {
                Some(*given).filter(|given| mib.contains(given))
            })?,
            writeback: optional("writeback", given.writeback, "true or false", |given| {
                Some(*given)
            })?,
        })
    }
}

impl From<GivenTuning> for Tuning {
    fn from(given: GivenTuning) -> Tuning {
        Tuning {
            cache_bytes: given.cache_size.map(|size| size.bytes),
            buffer_bytes: given.buffer_size.map(|size| size.bytes),
            prefetch_mib: given.prefetch_mib,
            writeback: given.writeback,
        }
    }
}

fn size(
    name: &str,
    field: Option<Field<String>>,
    range: &SizeRange,
) -> Result<Option<GivenSize>, ApiError> {
    optional(name, field, size_allowed(range), |text| {
        let bytes = bytes_of(text).filter(|bytes| range.contains(*bytes))?;
        Some(GivenSize { text: text.clone(), bytes })
    })
}

/// What a size that is written as a text may be.
pub(crate) fn size_allowed(range: &SizeRange) -> String {
    format!("{range}, written as a string such as \"32M\"")
}

/// The bytes of a size.
pub(crate) fn bytes_of(text: &str) -> Option<u64> {
    text.parse().ok().map(ByteSize::bytes)
}
