//! Where the commands reach an export, and how.

use super::client;
use crate::{
    cli::{
        base::{CliError, output},
        copy::{CopyError, Device},
    },
    net::{ExportAddress, Place},
};
use serde_json::Value;
use std::{io, path::Path};

/// Where the volume's export can be reached from here: a Unix socket that exists, else TCP.
pub(crate) fn reachable_export(volume: &Value, name: &str) -> Result<ExportAddress, CliError> {
    let uris = output::uris(volume);
    let known = || uris.iter().filter_map(|uri| ExportAddress::parse(uri));
    let on_unix = known().find(|address| matches!(&address.place, Place::Unix(path) if path.exists()));
    let on_tcp = || known().find(|address| matches!(address.place, Place::Tcp(_)));
    on_unix.or_else(on_tcp).ok_or_else(|| CliError::Nbd {
        volume: name.to_owned(),
        source: io::Error::other("the server listens neither on TCP nor on a Unix socket of this host"),
    })
}

/// The same for a snapshot: it is an export of its own, beside its volume's.
pub(crate) fn reachable_snapshot(
    volume: &Value,
    name: &str,
    snapshot: &Value,
) -> Result<ExportAddress, CliError> {
    let export_name = snapshot["export_name"].as_str().or(snapshot["id"].as_str()).unwrap_or_default();
    let export_name = export_name.to_owned();
    Ok(ExportAddress { export_name, ..reachable_export(volume, name)? })
}

pub(crate) fn connect(address: &ExportAddress, volume: &str) -> Result<impl Device + use<>, CliError> {
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
    use serde_json::json;

    #[test]
    fn a_socket_that_is_not_here_is_no_way_to_the_volume() {
        let volume = json!({ "uris": ["nbd+unix:///x?socket=/nowhere/at/all.sock", "nbd://127.0.0.1:1/x"] });
        assert_eq!(reachable_export(&volume, "x").unwrap().uri(), "nbd://127.0.0.1:1/x");
        assert!(reachable_export(&json!({ "uris": [] }), "x").is_err());
    }

    #[test]
    fn a_snapshot_is_reached_where_its_volume_is() {
        let volume = json!({ "uris": ["nbd://127.0.0.1:1/x"] });
        for snapshot in [json!({ "id": "s" }), json!({ "id": "s", "export_name": "s" })] {
            assert_eq!(reachable_snapshot(&volume, "x", &snapshot).unwrap().uri(), "nbd://127.0.0.1:1/s");
        }
    }
}
