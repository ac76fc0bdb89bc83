//! Sandstone.
fn main() {}
