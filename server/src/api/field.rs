//! Fields of requests, which may hold anything.

use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::Value;
use utoipa::ToSchema;

/// A field of a request: what the contract asks for, or whatever else a client has sent, kept so
/// that the refusal can show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum Field<T> {
    Valid(T),
    Invalid(Value),
}

impl<T> From<T> for Field<T> {
    fn from(value: T) -> Field<T> {
        Field::Valid(value)
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Field<T>, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Ok(match T::deserialize(&value) {
            // serde takes an array for a struct, too.
            Ok(valid) if !value.is_array() => Field::Valid(valid),
            Ok(_) | Err(_) => Field::Invalid(value),
        })
    }
}

/// A size: a text such as `"10G"`, or a number of bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Size {
    Text(String),
    Bytes(u64),
}

impl From<&str> for Size {
    fn from(text: &str) -> Size {
        Size::Text(text.to_owned())
    }
}
