//! The admin API as a client meets it: requests into the router, over a real store in a directory of its own.

mod harness;
mod lifecycle;
mod openapi;
mod refusals;
mod system;
