//! The traffic of all exports that had a connection since the start.

use super::{
    limits::{Limits, Rates},
    meter::{Meter, Tally},
};
use dashmap::DashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use uuid::Uuid;

/// What passes between one export and its clients.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) meter: Meter,
    pub(crate) limits: Limits,
}

/// By the id of the volume or snapshot.
#[derive(Debug, Default)]
pub(crate) struct TrafficTable {
    exports: DashMap<Uuid, Arc<Traffic>>,
    /// What was counted of exports that are gone, so that the sums over all never fall.
    gone: Mutex<Tally>,
}

impl TrafficTable {
    /// The traffic of an export, made where it is the first. `rates` is asked for the limits only
    /// then, with the place held: a change that comes meanwhile finds the place and sets them
    /// again.
    pub(crate) fn of(&self, export: Uuid, rates: impl FnOnce() -> Rates) -> Arc<Traffic> {
        let make = || Arc::new(Traffic { meter: Meter::default(), limits: Limits::new(rates()) });
        Arc::clone(&self.exports.entry(export).or_insert_with(make))
    }

    /// Gives an export other limits, where a client has been attached to it.
    pub(crate) fn limit(&self, export: Uuid, rates: Rates) {
        if let Some(traffic) = self.get(export) {
            traffic.limits.set(rates);
        }
    }

    /// The traffic of an export, if a client has been attached to it.
    pub(crate) fn get(&self, export: Uuid) -> Option<Arc<Traffic>> {
        self.exports.get(&export).map(|traffic| Arc::clone(&traffic))
    }

    /// Forgets an export that is gone, unless there is another of that id by now; what it counted
    /// stays in [`Self::total`].
    pub(crate) fn forget(&self, export: Uuid, traffic: &Arc<Traffic>) {
        // Together, so that no sum misses it or has it twice.
        let mut gone = self.gone();
        if let Some((_, traffic)) =
            self.exports.remove_if(&export, |_, found| Arc::ptr_eq(found, traffic))
        {
            gone.add(&traffic.meter.read());
        }
    }

    /// What each has counted, in the order of their ids.
    pub(crate) fn list(&self) -> Vec<(Uuid, Tally)> {
        let mut list: Vec<_> =
            self.exports.iter().map(|place| (*place.key(), place.value().meter.read())).collect();
        list.sort_by_key(|(id, _)| *id);
        list
    }

    /// The sum over all, also over the deleted ones.
    pub(crate) fn total(&self) -> Tally {
        let gone = self.gone();
        let mut total = gone.clone();
        self.exports.iter().for_each(|place| total.add(&place.value().meter.read()));
        total
    }

    fn gone(&self) -> MutexGuard<'_, Tally> {
        // Additions do not panic half-way.
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::meter::{Operation, Success};
    use std::time::Duration;

    #[test]
    fn what_is_gone_stays_in_the_total() {
        let (table, id) = (TrafficTable::default(), Uuid::new_v4());
        let traffic = table.of(id, Rates::default);
        traffic.meter.taken_in();
        traffic.meter.answered(
            Some(Operation::Read),
            4096,
            Duration::from_micros(9),
            Success::Done,
        );
        let before = table.total();
        assert_eq!(table.list(), [(id, before.clone())]);
        table.forget(id, &Arc::default());
        assert_eq!(table.list().len(), 1, "it was another");
        table.forget(id, &traffic);
        assert_eq!((table.list().len(), table.total()), (0, before));
    }

    #[test]
    fn limits_come_with_the_first_connection_and_change_with_the_record() {
        let (table, id) = (TrafficTable::default(), Uuid::new_v4());
        let rates = Rates { iops_max: Some(10), bytes_per_second_max: None };
        table.limit(id, rates);
        assert!(table.list().is_empty(), "nobody is attached");
        assert!(!table.of(id, || rates).limits.are_none());
        table.limit(id, Rates::default());
        assert!(table.of(id, || rates).limits.are_none());
    }
}
