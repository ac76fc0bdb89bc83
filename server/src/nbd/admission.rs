//! How many clients there may be (`nbd.connections_max`), and how the ones beyond are refused.
//!
//! One that comes beyond may still ask what there is, and is told why it cannot attach. There may
//! be some of those at a time; who comes when there are is sent away without a word.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
};
use thiserror::Error;

/// Clients beyond the bound that may be told so at a time. They are gone after their handshake. A
/// guess, not tuned.
const REFUSED_MAX: usize = 256;

/// The clients that are there, from their first byte on.
#[derive(Debug)]
pub(super) struct Admissions {
    clients_max: usize,
    /// Clients that may be served.
    clients: AtomicUsize,
    /// Clients that are only told that they may not.
    refused: AtomicUsize,
    /// Whether it was said that there are too many.
    is_said: AtomicBool,
}

/// A client's, as long as it is there.
#[derive(Debug)]
pub(super) struct Admission {
    all: Arc<Admissions>,
    is_admitted: bool,
}

/// A client came beyond the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "the server has {clients_max} connections and takes no more (nbd.connections_max): try again \
     later"
)]
pub(super) struct Full {
    clients_max: usize,
}

impl Admissions {
    pub(super) fn new(clients_max: usize) -> Arc<Admissions> {
        let (clients, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Admissions { clients_max, clients, refused, is_said: AtomicBool::new(false) })
    }

    /// A client comes. `None` where it is to be sent away without a word.
    pub(super) fn enter(self: &Arc<Admissions>) -> Option<Admission> {
        let enter = |count: &AtomicUsize, max| {
            count.fetch_update(Relaxed, Relaxed, |now| (now < max).then_some(now + 1)).is_ok()
        };
        let is_admitted = enter(&self.clients, self.clients_max);
        if !is_admitted && !enter(&self.refused, REFUSED_MAX) {
            return None;
        }
        let admission = Admission { all: Arc::clone(self), is_admitted };
        if !is_admitted && !self.is_said.swap(true, Relaxed) {
            tracing::warn!(
                connections = self.clients_max,
                "clients are refused: nbd.connections_max is reached"
            );
        }
        Some(admission)
    }
}

impl Admission {
    /// # Errors
    /// Where the client may not be served.
    pub(super) fn check(&self) -> Result<(), Full> {
        if self.is_admitted { Ok(()) } else { Err(Full { clients_max: self.all.clients_max }) }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if !self.is_admitted {
            self.all.refused.fetch_sub(1, Relaxed);
            return;
        }
        let left = self.all.clients.fetch_sub(1, Relaxed) - 1;
        // Not at each client that comes and goes at the bound.
        if left < self.all.clients_max / 10 * 9 && self.all.is_said.swap(false, Relaxed) {
            tracing::info!(connections = left, "clients are taken in again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_beyond_is_told_why_and_too_many_of_those_nothing() {
        let all = Admissions::new(2);
        let admitted = [(); 2].map(|()| all.enter().expect("there is room"));
        assert!(admitted.iter().all(|admission| admission.check().is_ok()));
        let refused: Vec<_> =
            (0..REFUSED_MAX).map(|_| all.enter().expect("it is told why")).collect();
        assert!(refused.iter().all(|admission| admission.check().is_err()));
        assert!(refused[0].check().unwrap_err().to_string().contains("has 2 connections"));
        assert!(all.enter().is_none());
        // Clients that are only told take no slot of the served ones.
        drop(admitted);
        assert!(all.enter().expect("there is room").check().is_ok());
        drop(refused);
        let again = [(); 2].map(|()| all.enter().expect("there is room"));
        assert!(again.iter().all(|admission| admission.check().is_ok()));
        assert!(all.enter().expect("it is told why").check().is_err());
    }
}
