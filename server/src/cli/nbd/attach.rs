//! Where the commands reach an export, and how.

use super::client;
use crate::{
    cli::{
        base::CliError,
        copy::{CopyError, Device},
    },
    net::{ExportAddress, Place},
};
use std::{io, path::Path};

/// Where the volume's export can be reached from here: a Unix socket that exists, else TCP.
pub(crate) fn reachable_export(uris: &[String], name: &str) -> Result<ExportAddress, CliError> {
    let known = || uris.iter().filter_map(|uri| ExportAddress::parse(uri));
    let on_unix =
        known().find(|address| matches!(&address.place, Place::Unix(path) if path.exists()));
    let on_tcp = || known().find(|address| matches!(address.place, Place::Tcp(_)));
    on_unix.or_else(on_tcp).ok_or_else(|| CliError::Nbd {
        volume: name.to_owned(),
        source: io::Error::other(
            "the server listens neither on TCP nor on a Unix socket of this host",
        ),
    })
}

pub(crate) fn connect(
    address: &ExportAddress,
    volume: &str,
) -> Result<impl Device + use<>, CliError> {
    client::connect(address).map_err(|source| CliError::Nbd { volume: volume.to_owned(), source })
}

pub(crate) fn blame(error: CopyError, image: &Path, volume: &str) -> CliError {
    match error {
        CopyError::Image(error) => CliError::Image(image.to_path_buf(), error),
        CopyError::Device(source) => CliError::Nbd { volume: volume.to_owned(), source },
        CopyError::Interrupted => CliError::Interrupted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_is_not_here_is_no_way_to_the_volume() {
        let uris =
            ["nbd+unix:///x?socket=/nowhere/at/all.sock", "nbd://127.0.0.1:1/x"].map(str::to_owned);
        assert_eq!(reachable_export(&uris, "x").unwrap().uri(), "nbd://127.0.0.1:1/x");
        assert!(reachable_export(&[], "x").is_err());
    }
}
