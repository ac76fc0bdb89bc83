//! What every command needs: the configuration, the server, and a way to answer.

use super::{
    client::{AdminAddress, AdminClient, Found},
    error::CliError,
};
use crate::token::{Token, TokenError};
use clap::Args;
use sandstone_config::{
    Config,
    trust::{self, Distrust},
};
use serde::Serialize;
use serde_json::Value;
use std::{
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

/// Options of all commands.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of all commands")]
pub(crate) struct Global {
    /// Configuration [default: ./sandstone.toml where it exists and is yours or root's, else none]
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) config: Option<PathBuf>,
    /// Answer with the API's data as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Admin API: http://host:port or unix:PATH [default: the configuration's socket]
    #[arg(long, value_name = "ADDRESS", global = true)]
    admin: Option<String>,
    /// Token of the admin API [default: read from admin.token in the data directory]
    #[arg(long, value_name = "TOKEN", global = true)]
    token: Option<String>,
}

/// The options of all commands, and what follows from them.
pub(crate) struct Context {
    global: Global,
}

/// For whom the output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    People,
    Programs,
}

impl Context {
    pub(crate) fn new(global: Global) -> Context {
        Context { global }
    }

    pub(crate) fn audience(&self) -> Audience {
        if self.global.json { Audience::Programs } else { Audience::People }
    }

    /// The configuration that the server on this host would have.
    pub(crate) fn config(&self) -> Result<Config, CliError> {
        Config::load(self.global.config.as_deref()).map_err(CliError::Config)
    }

    /// The server. The configuration is read only for what the command line does not say.
    pub(crate) fn client(&self) -> Result<AdminClient, CliError> {
        let server = match &self.global.admin {
            Some(text) => {
                AdminAddress::parse(text).ok_or_else(|| CliError::AdminAddress(text.clone()))?
            }
            None => found(&self.config()?),
        };
        let token = match &self.global.token {
            Some(text) => Token::given(text.clone()),
            None => read_token(&self.config()?)?,
        };
        Ok(AdminClient::new(server, token)?)
    }

    /// Answers with `data` as it is for programs, and with a text for people.
    pub(crate) fn answer(
        &self,
        data: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), CliError> {
        match self.audience() {
            Audience::People => print(&text()),
            Audience::Programs => print(&format!("{:#}", json(data))),
        }
    }
}

/// Data for programs. Its fields are in the order of their names, whatever order the types have.
pub(crate) fn json(data: &impl Serialize) -> Value {
    serde_json::to_value(data).expect("answers have a JSON form")
}

/// Where the configured server is: at its Unix socket, where no other user can listen, unless it
/// has none.
fn found(config: &Config) -> AdminAddress {
    match &config.admin.unix {
        Some(path) => AdminAddress::Unix(path.clone(), Found::Configured),
        None => AdminAddress::Http {
            authority: reachable(config.admin.listen).to_string(),
            prefix: String::new(),
        },
    }
}

/// The token, if no other user can have put it there.
fn read_token(config: &Config) -> Result<Token, TokenError> {
    match trust::check_directory(&config.data_dir) {
        // What is wrong with the file says more.
        Ok(()) | Err(Distrust::Io(_)) => Token::read(&config.token_path()),
        Err(why) => Err(TokenError::Untrusted(config.data_dir.clone(), why)),
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

/// Writes to stdout. `println!` would panic where the reader is gone (`sandstone volume list | head
/// -1`).
pub(crate) fn print(text: &str) -> Result<(), CliError> {
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
    fn the_server_is_found_at_its_socket_unless_it_has_none() {
        let mut config = Config::default();
        let socket = AdminAddress::Unix("sandstone-data/admin.sock".into(), Found::Configured);
        assert_eq!(found(&config), socket);
        config.admin.unix = None;
        assert_eq!(found(&config).to_string(), "http://127.0.0.1:8810");
    }

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
