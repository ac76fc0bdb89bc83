//! Which volumes have a name.

use dashmap::DashMap;
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

    /// The one volume of that name.
    pub(crate) fn only(&self, name: &str) -> Option<Uuid> {
        match self.0.get(name)?.as_slice() {
            [id] => Some(*id),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_finds_its_volume_only_while_it_is_unique() {
        let names = Names::default();
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(names.only("disk"), None);
        names.add("disk", a);
        names.add("disk", a);
        assert_eq!(names.only("disk"), Some(a));
        names.add("disk", b);
        assert_eq!(names.only("disk"), None);
        names.remove("disk", a);
        assert_eq!(names.only("disk"), Some(b));
        names.remove("disk", b);
        names.remove("disk", b);
        assert!(names.0.is_empty());
    }
}
