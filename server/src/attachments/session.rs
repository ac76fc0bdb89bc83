//! The secret of a mount.

use crate::record::parse_id;
use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::Uuid;

/// The session id of a mount: a client that names it may use the mount. 122 random bits cannot be
/// guessed. It has no `Display`, and its `Debug` says nothing, so that it cannot get into a log or
/// a refusal by accident.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Session(Uuid);

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session(hidden)")
    }
}

impl Session {
    /// A new one.
    pub(crate) fn generate() -> Session {
        Session(Uuid::new_v4())
    }

    /// Reads one that a client names.
    pub(crate) fn parse(text: &str) -> Option<Session> {
        parse_id(text).map(Session)
    }

    /// The id, for the holder of the mount.
    pub(crate) fn reveal(self) -> Uuid {
        self.0
    }

    /// The export name under which a client uses the mount.
    pub(crate) fn export_name(self, volume: Uuid) -> String {
        format!("{volume}/{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_shows_itself_only_where_it_is_asked_to() {
        let session = Session::generate();
        let text = session.reveal().to_string();
        assert_eq!(format!("{session:?}"), "Session(hidden)");
        assert_eq!(Session::parse(&text), Some(session));
        assert_eq!(session.export_name(Uuid::max()), format!("{}/{text}", Uuid::max()));
        for other in ["", "x", &text.replace('-', ""), &Uuid::nil().to_string()] {
            assert_eq!(Session::parse(other), None, "{other}");
        }
    }
}
