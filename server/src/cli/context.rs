//! What every command needs: the configuration, the server, and a way to answer.

use super::{Global, error::CliError};
use crate::{client::AdminClient, token::Token};
use sandstone_config::Config;
use serde_json::Value;
use std::{
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// The options of all commands, and what follows from them.
pub(super) struct Context {
    global: Global,
}

/// For whom the output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    People,
    Programs,
}

impl Context {
    pub(super) fn new(global: Global) -> Context {
        Context { global }
    }

    pub(super) fn audience(&self) -> Audience {
        if self.global.json { Audience::Programs } else { Audience::People }
    }

    /// The configuration that the server on this host would have.
    pub(super) fn config(&self) -> Result<Config, CliError> {
        Config::load(self.global.config.as_deref()).map_err(CliError::Config)
    }

    /// The server. The configuration is read only for what the command line does not say.
    pub(super) fn client(&self) -> Result<AdminClient, CliError> {
        let base = match &self.global.admin {
            Some(url) if url.contains("://") => url.clone(),
            Some(address) => format!("http://{address}"),
            None => format!("http://{}", reachable(self.config()?.admin.listen)),
        };
        let token = match &self.global.token {
            Some(text) => Token::given(text.clone()),
            None => Token::read(&self.config()?.token_path()).map_err(CliError::Token)?,
        };
        Ok(AdminClient::new(&base, token))
    }

    /// Answers with `data` as it is for programs, and with a text for people.
    pub(super) fn answer(&self, data: &Value, text: impl FnOnce() -> String) -> Result<(), CliError> {
        match self.audience() {
            Audience::People => print(&text()),
            Audience::Programs => print(&format!("{data:#}")),
        }
    }
}

/// An address that listens on all interfaces is reached on this host's own.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    address
}

/// Writes to stdout. `println!` would panic where the reader is gone (`sandstone volume list | head -1`).
pub(super) fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", text.trim_end()).and_then(|()| stdout.flush()).map_err(|error| {
        match error.kind() {
            io::ErrorKind::BrokenPipe => CliError::OutputClosed,
            _ => CliError::Output(error),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_all_interfaces_is_called_on_loopback() {
        for (listen, called) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:2", "[::1]:2"),
            ("10.0.0.1:3", "10.0.0.1:3"),
            ("127.0.0.1:4", "127.0.0.1:4"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()), called.parse().unwrap());
        }
    }
}
