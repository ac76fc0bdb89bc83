//! The wire from outside: golden bytes, inverses, and hostile bytes.
#![expect(clippy::unwrap_used, reason = "tests; clippy does not see their helpers as such")]

mod golden;
mod hostile;
mod inverse;
mod session;
mod values;
