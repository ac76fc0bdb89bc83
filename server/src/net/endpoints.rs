//! Where NBD clients connect, and how such a place is written as a URI.
//!
//! Source: the NBD URI specification, `doc/uri.md` of the NetworkBlockDevice/nbd project.

use percent_encoding::{
    AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode, utf8_percent_encode,
};
use std::{
    ffi::OsString,
    fmt,
    net::SocketAddr,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
};

/// The addresses that are really bound: a configured port 0 is a real one here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Endpoints {
    pub(crate) tcp: Vec<SocketAddr>,
    /// Absolute.
    pub(crate) unix: Option<PathBuf>,
}

impl Endpoints {
    /// One URI of the export for each place.
    pub(crate) fn uris(&self, export_name: &str) -> Vec<String> {
        let tcp = self.tcp.iter().map(|address| Place::Tcp(address.to_string()));
        let unix = self.unix.iter().cloned().map(Place::Unix);
        let address = |place| ExportAddress { place, export_name: export_name.to_owned() };
        tcp.chain(unix).map(|place| address(place).uri()).collect()
    }
}

/// One export at one place, as a client is told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExportAddress {
    pub(crate) place: Place,
    pub(crate) export_name: String,
}

/// Where to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// `host:port`.
    Tcp(String),
    Unix(PathBuf),
}

impl ExportAddress {
    pub(crate) fn uri(&self) -> String {
        let export = escaped_segment(&self.export_name);
        match &self.place {
            Place::Tcp(address) => format!("nbd://{address}/{export}"),
            Place::Unix(path) => {
                let path = percent_encode(path.as_os_str().as_bytes(), &RESERVED_IN_PATH);
                format!("nbd+unix:///{export}?socket={path}")
            }
        }
    }

    /// Reads what [`Self::uri`] writes; other NBD URIs (TLS, vsock, ssh) are not ours and give
    /// none.
    pub(crate) fn parse(uri: &str) -> Option<ExportAddress> {
        if let Some(rest) = uri.strip_prefix("nbd+unix:///") {
            let (export, socket) = rest.split_once("?socket=")?;
            let path = PathBuf::from(OsString::from_vec(unescaped(socket)?));
            return Some(ExportAddress {
                place: Place::Unix(path),
                export_name: unescaped_text(export)?,
            });
        }
        let (address, export) = uri.strip_prefix("nbd://")?.split_once('/')?;
        Some(ExportAddress {
            place: Place::Tcp(address.to_owned()),
            export_name: unescaped_text(export)?,
        })
    }
}

/// What is escaped: all but the characters that no part of a URI gives a meaning.
/// Source: RFC 3986 section 2.3.
const RESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The same within a path of several segments.
const RESERVED_IN_PATH: AsciiSet = RESERVED.remove(b'/');

/// A text as one segment of a path, in a URI of any kind.
pub(crate) fn escaped_segment(text: &str) -> impl fmt::Display {
    utf8_percent_encode(text, &RESERVED)
}

fn unescaped_text(text: &str) -> Option<String> {
    String::from_utf8(unescaped(text)?).ok()
}

/// `None` where a `%` is not followed by two digits, which the crate lets through as it is.
fn unescaped(text: &str) -> Option<Vec<u8>> {
    let is_escape = |rest: &str| {
        rest.get(..2).is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
    };
    text.split('%').skip(1).all(is_escape).then(|| percent_decode_str(text).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_has_its_uri() {
        let endpoints = Endpoints {
            tcp: vec!["127.0.0.1:10809".parse().unwrap(), "[::1]:1".parse().unwrap()],
            unix: Some("/srv/my data/nbd.sock".into()),
        };
        assert_eq!(
            endpoints.uris("a b/ü"),
            [
                "nbd://127.0.0.1:10809/a%20b%2F%C3%BC",
                "nbd://[::1]:1/a%20b%2F%C3%BC",
                "nbd+unix:///a%20b%2F%C3%BC?socket=/srv/my%20data/nbd.sock",
            ]
        );
        assert!(Endpoints::default().uris("x").is_empty());
    }

    #[test]
    fn what_is_written_reads_back() {
        let endpoints = Endpoints {
            tcp: vec!["[::1]:1".parse().unwrap()],
            unix: Some("/a b/%/ü.sock".into()),
        };
        let read: Vec<ExportAddress> =
            endpoints.uris("x y/z?").iter().map(|uri| ExportAddress::parse(uri).unwrap()).collect();
        assert_eq!(read[0].place, Place::Tcp("[::1]:1".into()));
        assert_eq!(read[1].place, Place::Unix("/a b/%/ü.sock".into()));
        assert!(read.iter().all(|address| address.export_name == "x y/z?"));
        for other in
            ["nbds://h/x", "nbd+unix:///x", "nbd://h", "nbd://h/%4", "nbd://h/%zz", "nbd://h/%FF"]
        {
            assert_eq!(ExportAddress::parse(other), None, "{other}");
        }
    }
}
