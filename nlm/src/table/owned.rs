//! Which locks an owner has.
//!
//! Nearly every owner has one lock (a file descriptor that was `flock`ed is an owner of its own), so one
//! is kept in place, in 24 bytes; more make an ordered set. Only enough is kept to find a lock in the tree
//! of its file.

use super::OwnerId;
use super::files::FileId;
use super::tree::NodeId;
use crate::arena::Id;
use std::collections::BTreeSet;

/// Where a lock is: its file and its first byte.
pub(crate) type Place = (FileId, u64);

#[derive(Default)]
enum Locks {
    #[default]
    None,
    One {
        file: FileId,
        start: u64,
        /// The leaf into which it was put, if that is remembered. It may be elsewhere by now.
        leaf: Option<NodeId>,
    },
    #[expect(
        clippy::box_collection,
        reason = "it would double the size of the other forms"
    )]
    Many(Box<BTreeSet<Place>>),
}

/// The locks of every owner, by the owner's number.
#[derive(Default)]
pub(crate) struct Owned {
    owners: Vec<Locks>,
}

impl Owned {
    pub(crate) fn insert(&mut self, owner: OwnerId, (file, start): Place, leaf: NodeId) {
        if self.owners.len() <= owner.place() {
            self.owners.resize_with(owner.place() + 1, Locks::default);
        }
        let Some(locks) = self.owners.get_mut(owner.place()) else {
            return;
        };
        match locks {
            Locks::None => {
                let leaf = Some(leaf);
                *locks = Locks::One { file, start, leaf };
            }
            Locks::One {
                file: other,
                start: begin,
                ..
            } => {
                *locks = Locks::Many(Box::new(BTreeSet::from([(*other, *begin), (file, start)])));
            }
            Locks::Many(places) => {
                places.insert((file, start));
            }
        }
    }

    pub(crate) fn remove(&mut self, owner: OwnerId, place: Place) {
        let Some(locks) = self.owners.get_mut(owner.place()) else {
            return;
        };
        match locks {
            Locks::One { file, start, .. } if (*file, *start) == place => *locks = Locks::None,
            Locks::None | Locks::One { .. } => {}
            Locks::Many(places) => {
                places.remove(&place);
                if places.len() <= 1 {
                    let rest = places.first().map(|(file, start)| Locks::One {
                        file: *file,
                        start: *start,
                        leaf: None,
                    });
                    *locks = rest.unwrap_or_default();
                }
            }
        }
    }

    /// The last lock that begins before `place` in the same file.
    pub(crate) fn before(&self, owner: OwnerId, (file, start): Place) -> Option<u64> {
        match self.owners.get(owner.place())? {
            Locks::None => None,
            Locks::One {
                file: other,
                start: begin,
                ..
            } => (*other == file && *begin < start).then_some(*begin),
            Locks::Many(places) => places
                .range((file, 0)..(file, start))
                .next_back()
                .map(|(_, begin)| *begin),
        }
    }

    /// The locks from `place` on in the same file.
    pub(crate) fn from(&self, owner: OwnerId, (file, start): Place) -> impl Iterator<Item = u64> {
        let (one, many) = match self.owners.get(owner.place()) {
            None | Some(Locks::None) => (None, None),
            Some(Locks::One {
                file: other,
                start: begin,
                ..
            }) => ((*other == file && *begin >= start).then_some(*begin), None),
            Some(Locks::Many(places)) => (None, Some(places.range((file, start)..=(file, u64::MAX)))),
        };
        one.into_iter()
            .chain(many.into_iter().flatten().map(|(_, begin)| *begin))
    }

    /// All locks of an owner, by file and first byte.
    pub(crate) fn all(&self, owner: OwnerId) -> impl Iterator<Item = Place> {
        let (one, many) = match self.owners.get(owner.place()) {
            None | Some(Locks::None) => (None, None),
            Some(Locks::One { file, start, .. }) => (Some((*file, *start)), None),
            Some(Locks::Many(places)) => (None, Some(places.iter())),
        };
        one.into_iter().chain(many.into_iter().flatten().copied())
    }

    /// The first of an owner's locks.
    pub(crate) fn first(&self, owner: OwnerId) -> Option<Place> {
        match self.owners.get(owner.place())? {
            Locks::None => None,
            Locks::One { file, start, .. } => Some((*file, *start)),
            Locks::Many(places) => places.first().copied(),
        }
    }

    /// The owner's only lock.
    pub(crate) fn only(&self, owner: OwnerId) -> Option<Place> {
        match self.owners.get(owner.place())? {
            Locks::One { file, start, .. } => Some((*file, *start)),
            _ => None,
        }
    }

    /// The leaf in which an owner's only lock probably is.
    pub(crate) fn leaf_of_only(&self, owner: OwnerId) -> Option<NodeId> {
        match self.owners.get(owner.place())? {
            Locks::One { leaf, .. } => *leaf,
            _ => None,
        }
    }

    pub(crate) fn contains(&self, owner: OwnerId, place: Place) -> bool {
        match self.owners.get(owner.place()) {
            None | Some(Locks::None) => false,
            Some(Locks::One { file, start, .. }) => (*file, *start) == place,
            Some(Locks::Many(places)) => places.contains(&place),
        }
    }

    /// Number of locks of all owners, counted.
    pub(crate) fn count(&self) -> usize {
        let of = |locks: &Locks| match locks {
            Locks::None => 0,
            Locks::One { .. } => 1,
            Locks::Many(places) => places.len(),
        };
        self.owners.iter().map(of).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_lock_is_kept_in_24_bytes_and_more_in_order() {
        assert_eq!(size_of::<Locks>(), 24);
        let (a, f, g, leaf) = (OwnerId(3), FileId(1), FileId(2), NodeId(7));
        let mut owned = Owned::default();
        owned.insert(a, (g, 5), leaf);
        assert_eq!(owned.only(a), Some((g, 5)));
        owned.insert(a, (f, 9), leaf);
        owned.insert(a, (f, 2), leaf);
        assert_eq!(owned.all(a).collect::<Vec<_>>(), [(f, 2), (f, 9), (g, 5)]);
        assert_eq!(
            (owned.before(a, (f, 9)), owned.before(a, (f, 2))),
            (Some(2), None)
        );
        assert_eq!(owned.from(a, (f, 3)).collect::<Vec<_>>(), [9]);
        assert!(
            owned.contains(a, (g, 5)) && !owned.contains(a, (f, 5)) && !owned.contains(OwnerId(9), (f, 5))
        );
        owned.remove(a, (f, 2));
        owned.remove(a, (g, 5));
        assert_eq!((owned.only(a), owned.count()), (Some((f, 9)), 1));
        owned.remove(a, (f, 8));
        owned.remove(a, (f, 9));
        assert_eq!((owned.only(a), owned.count()), (None, 0));
    }
}
