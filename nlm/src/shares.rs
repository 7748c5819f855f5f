//! Share reservations: what a DOS open asks for, and what it denies to others (XNFS C702, chapter 10:
//! SHARE and UNSHARE).
//!
//! They have nothing to do with byte ranges: a reservation is for a whole file, nobody waits for one, and
//! reads, writes and locks do not look at it. Its owner is a host with an owner handle; there is no svid.
//!
//! Invariants: at most one reservation for each file, host and owner handle; no two of different owners
//! where one denies what the other does; the counts of a file have each of its reservations once.

use crate::Now;
use crate::hosts::{HostId, HostKey};
use crate::short::ShortBytes;
use crate::table::Handle;
use proto::nlm::{FshAccess, FshMode};
use std::collections::BTreeMap;

/// Both reading and writing.
const BOTH: u32 = 3;
/// Ways to combine what is done with what is denied.
const WAYS: usize = 16;

/// What a reservation is for and what it denies. Both are sets of bits: 1 is reading, 2 is writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    access: u32,
    deny: u32,
}

impl Terms {
    /// From the wire; `None` if a value is none of the specification's.
    pub fn from_wire(access: FshAccess, mode: FshMode) -> Option<Terms> {
        (access.0 <= BOTH && mode.0 <= BOTH).then_some(Terms {
            access: access.0,
            deny: mode.0,
        })
    }

    /// What its owner does.
    pub fn access(self) -> FshAccess {
        FshAccess(self.access)
    }

    /// What others may not do.
    pub fn mode(self) -> FshMode {
        FshMode(self.deny)
    }

    /// Whether one denies what the other does.
    pub fn conflicts(self, other: Terms) -> bool {
        self.access & other.deny != 0 || self.deny & other.access != 0
    }

    fn way(self) -> usize {
        (self.access << 2 | self.deny) as usize
    }

    fn of_way(way: usize) -> Terms {
        let way = way as u32;
        Terms {
            access: way >> 2 & BOTH,
            deny: way & BOTH,
        }
    }
}

/// Which reservation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ShareKey {
    pub(crate) fh: Handle,
    pub(crate) host: HostId,
    pub(crate) oh: ShortBytes,
}

#[derive(Debug, Clone)]
pub(crate) struct Reservation {
    pub(crate) terms: Terms,
    pub(crate) caller_name: ShortBytes,
    pub(crate) since: Now,
}

/// Why there is no reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotShared {
    /// Another one is in the way.
    Conflict,
    /// There are too many.
    Full,
}

/// All reservations.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    all: BTreeMap<ShareKey, Reservation>,
    /// How many of each kind a file has, so that a conflict is found without looking at each.
    counts: BTreeMap<Handle, [u32; WAYS]>,
}

impl Shares {
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// Takes a reservation or, if the owner has one, replaces its terms.
    pub(crate) fn take(&mut self, key: ShareKey, new: Reservation, limit: usize) -> Result<(), NotShared> {
        let own = self.all.get(&key).map(|own| own.terms);
        let counts = self.counts.get(&key.fh).copied().unwrap_or_default();
        let conflict = (0..).zip(counts).any(|(way, count)| {
            let terms = Terms::of_way(way);
            let others = count - u32::from(own == Some(terms));
            others > 0 && terms.conflicts(new.terms)
        });
        if conflict {
            return Err(NotShared::Conflict);
        }
        if own.is_none() && self.all.len() >= limit {
            return Err(NotShared::Full);
        }
        if let Some(own) = own {
            self.count(key.fh, own, -1);
        }
        self.count(key.fh, new.terms, 1);
        self.all.insert(key, new);
        Ok(())
    }

    /// Gives a reservation back; whether there was one.
    pub(crate) fn give_back(&mut self, key: &ShareKey) -> bool {
        let Some(gone) = self.all.remove(key) else {
            return false;
        };
        self.count(key.fh, gone.terms, -1);
        true
    }

    /// Gives back those of the hosts that `of` names; how many there were.
    pub(crate) fn free(&mut self, of: impl Fn(HostId) -> bool) -> usize {
        let gone: Vec<ShareKey> = self.all.keys().filter(|key| of(key.host)).cloned().collect();
        gone.iter().filter(|key| self.give_back(key)).count()
    }

    fn count(&mut self, fh: Handle, terms: Terms, by: i32) {
        let counts = self.counts.entry(fh).or_default();
        if let Some(count) = counts.get_mut(terms.way()) {
            *count = count.saturating_add_signed(by);
        }
        if counts.iter().all(|count| *count == 0) {
            self.counts.remove(&fh);
        }
    }

    /// The hosts that have any.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = HostId> {
        self.all.keys().map(|key| key.host)
    }

    /// All of them, file by file.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ShareKey, &Reservation)> {
        self.all.iter()
    }

    /// Checks the invariants of the module head, in time proportional to the number of reservations.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut counts: BTreeMap<Handle, [u32; WAYS]> = BTreeMap::new();
        for (key, share) in &self.all {
            let ways = counts.entry(key.fh).or_default();
            for (way, count) in (0..).zip(&*ways) {
                if *count > 0 && Terms::of_way(way).conflicts(share.terms) {
                    return Err(format!("{key:?} and another exclude each other"));
                }
            }
            if let Some(count) = ways.get_mut(share.terms.way()) {
                *count += 1;
            }
        }
        if counts == self.counts {
            Ok(())
        } else {
            Err(format!("{:?} reservations, counted {counts:?}", self.counts))
        }
    }
}

/// A share reservation, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareView {
    /// The file.
    pub fh: Handle,
    /// Where its owner asked from.
    pub host: HostKey,
    /// What that host called itself.
    pub caller_name: ShortBytes,
    /// The owner's handle there.
    pub oh: ShortBytes,
    /// What it is for and what it denies.
    pub terms: Terms,
    /// Since when; a replacement begins anew.
    pub since: Now,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Fh;
    use proptest::prelude::*;

    fn key(fh: u8, host: u32, oh: u8) -> ShareKey {
        ShareKey {
            fh: Fh::new(&[fh]).unwrap().into(),
            host: HostId(host),
            oh: [oh][..].into(),
        }
    }

    fn reservation(access: u32, deny: u32) -> Reservation {
        Reservation {
            terms: Terms { access, deny },
            caller_name: ShortBytes::EMPTY,
            since: Now::ZERO,
        }
    }

    #[test]
    fn every_pair_of_terms_conflicts_if_one_denies_what_the_other_does() {
        for (a, b) in (0..WAYS).flat_map(|a| (0..WAYS).map(move |b| (a, b))) {
            let (a, b) = (Terms::of_way(a), Terms::of_way(b));
            let bit = |bit| a.access & b.deny & bit != 0 || a.deny & b.access & bit != 0;
            assert_eq!(a.conflicts(b), bit(1) || bit(2));
            assert_eq!(a.conflicts(b), b.conflicts(a));
            assert_eq!(Terms::of_way(a.way()), a);
        }
    }

    #[test]
    fn values_that_are_not_in_the_specification_are_no_terms() {
        assert!(Terms::from_wire(FshAccess::FSA_RW, FshMode::FSM_DRW).is_some());
        assert_eq!(Terms::from_wire(FshAccess(4), FshMode::FSM_DN), None);
        assert_eq!(Terms::from_wire(FshAccess::FSA_R, FshMode(u32::MAX)), None);
    }

    #[test]
    fn a_full_list_takes_replacements_only() {
        let mut shares = Shares::default();
        assert_eq!(shares.take(key(1, 1, 1), reservation(1, 0), 1), Ok(()));
        assert_eq!(
            shares.take(key(1, 1, 2), reservation(1, 0), 1),
            Err(NotShared::Full)
        );
        assert_eq!(shares.take(key(1, 1, 1), reservation(3, 3), 1), Ok(()));
    }

    proptest! {
        /// Against a list that is looked through from end to end.
        #[test]
        fn a_naive_list_says_the_same(steps in prop::collection::vec(
            (0..2_u8, 0..3_u32, 0..2_u8, 0..4_u32, 0..4_u32, 0..6_u8), 1..120,
        )) {
            let mut shares = Shares::default();
            let mut list: Vec<(ShareKey, Terms)> = Vec::new();
            for (fh, host, oh, access, deny, what) in steps {
                let (key, new) = (key(fh, host, oh), reservation(access, deny));
                match what {
                    0 => {
                        let had = list.iter().any(|(k, _)| *k == key);
                        list.retain(|(k, _)| *k != key);
                        prop_assert_eq!(shares.give_back(&key), had);
                    }
                    1 => {
                        let before = list.len();
                        list.retain(|(k, _)| k.host != key.host);
                        prop_assert_eq!(shares.free(|h| h == key.host), before - list.len());
                    }
                    _ => {
                        let conflict = list.iter().any(|(k, terms)| {
                            *k != key && k.fh == key.fh && terms.conflicts(new.terms)
                        });
                        let taken = shares.take(key.clone(), new.clone(), 100);
                        prop_assert_eq!(taken.is_err(), conflict);
                        if !conflict {
                            list.retain(|(k, _)| *k != key);
                            list.push((key, new.terms));
                        }
                    }
                }
                prop_assert_eq!(shares.check(), Ok(()));
                prop_assert_eq!(shares.len(), list.len());
            }
        }
    }
}
