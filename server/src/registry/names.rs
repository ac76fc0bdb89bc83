//! Which volumes have a name.
//!
//! A volume is found under its name as an export, so a name is one volume's. Stores of versions
//! before that rule may have several of one name; then it finds none of them, until one is renamed
//! or deleted.

use dashmap::DashMap;
use thiserror::Error;
use uuid::Uuid;

/// An index from names to volumes.
#[derive(Default)]
pub(crate) struct Names(DashMap<String, Vec<Uuid>>);

impl Names {
    pub(crate) fn add(&self, name: &str, id: Uuid) {
        let mut ids = self.0.entry(name.to_owned()).or_default();
        if !ids.contains(&id) {
            ids.push(id);
        }
    }

    pub(crate) fn remove(&self, name: &str, id: Uuid) {
        self.0.remove_if_mut(name, |_, ids| {
            ids.retain(|other| *other != id);
            ids.is_empty()
        });
    }

    /// Takes a name for a volume that is about to have it, or has it: in one step with the look
    /// whether it is free.
    ///
    /// # Errors
    /// [`NameTaken`].
    pub(crate) fn claim<'a>(
        &'a self,
        name: Option<&str>,
        id: Uuid,
    ) -> Result<NameClaim<'a>, NameTaken> {
        let Some(name) = name else { return Ok(NameClaim { names: self, claimed: None }) };
        let mut ids = self.0.entry(name.to_owned()).or_default();
        if ids.contains(&id) {
            return Ok(NameClaim { names: self, claimed: None });
        }
        if let Some(by) = ids.first() {
            return Err(NameTaken { name: name.to_owned(), by: *by });
        }
        ids.push(id);
        Ok(NameClaim { names: self, claimed: Some((name.to_owned(), id)) })
    }

    /// The volume of that name.
    pub(crate) fn find(&self, name: &str) -> Named {
        match self.0.get(name).as_deref().map(Vec::as_slice) {
            None | Some([]) => Named::Nothing,
            Some([id]) => Named::Volume(*id),
            Some(_) => Named::Several,
        }
    }
}

/// What a name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    Nothing,
    Volume(Uuid),
    /// See the module's documentation.
    Several,
}

/// A name that is taken for a volume. Dropped before it is kept, the name is free again.
#[must_use]
pub(crate) struct NameClaim<'a> {
    names: &'a Names,
    claimed: Option<(String, Uuid)>,
}

impl NameClaim<'_> {
    /// The volume has the name now.
    pub(crate) fn keep(mut self) {
        self.claimed = None;
    }
}

impl Drop for NameClaim<'_> {
    fn drop(&mut self) {
        if let Some((name, id)) = self.claimed.take() {
            self.names.remove(&name, id);
        }
    }
}

/// A volume has the name already.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "volume {by} is named {name:?}, and a name is the export name of one volume: choose another"
)]
pub(crate) struct NameTaken {
    name: String,
    pub(crate) by: Uuid,
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Uuid = Uuid::from_u128(1);
    const B: Uuid = Uuid::from_u128(2);

    #[test]
    fn a_name_finds_its_volume_only_while_it_is_unique() {
        let names = Names::default();
        assert_eq!(names.find("disk"), Named::Nothing);
        names.add("disk", A);
        names.add("disk", A);
        assert_eq!(names.find("disk"), Named::Volume(A));
        names.add("disk", B);
        assert_eq!(names.find("disk"), Named::Several);
        names.remove("disk", A);
        assert_eq!(names.find("disk"), Named::Volume(B));
        names.remove("disk", B);
        names.remove("disk", B);
        assert!(names.0.is_empty());
    }

    #[test]
    fn a_claimed_name_is_nobody_elses_until_it_is_given_up() {
        let names = Names::default();
        let claim = names.claim(Some("disk"), A).unwrap();
        let taken = names.claim(Some("disk"), B).err().unwrap();
        assert_eq!(taken.by, A);
        assert!(taken.to_string().contains("\"disk\""), "{taken}");
        drop(claim);
        let claim = names.claim(Some("disk"), B).unwrap();
        names.add("disk", B);
        claim.keep();
        assert_eq!(names.find("disk"), Named::Volume(B));
        drop(names.claim(Some("disk"), B).unwrap());
        assert_eq!(names.find("disk"), Named::Volume(B), "it had the name before");
        names.claim(None, A).unwrap().keep();
    }

    #[test]
    fn of_claims_at_once_one_wins() {
        let names = Names::default();
        let won = std::thread::scope(|scope| {
            let claims: Vec<_> = (1..=8)
                .map(|id| {
                    let names = &names;
                    scope.spawn(move || {
                        names.claim(Some("disk"), Uuid::from_u128(id)).map(NameClaim::keep).is_ok()
                    })
                })
                .collect();
            claims.into_iter().map(|claim| claim.join().unwrap()).filter(|won| *won).count()
        });
        assert_eq!(won, 1);
    }
}
