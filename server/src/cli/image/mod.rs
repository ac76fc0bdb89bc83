//! `import` and `export` of disk images.

mod chain;
mod command;
mod error;
mod format;
mod header;
mod qemu_img;
mod source;
mod unpack;

pub(super) use command::{ExportArgs, ImportArgs, export, import};
