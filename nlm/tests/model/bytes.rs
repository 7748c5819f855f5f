//! The model: for every byte of every file, who has it and how; and who waits, in the order in which they
//! came. It is slow and obvious, which is the point.
//!
//! What it leaves to the service is *when* a waiting request is granted; [`Model::grant`] says whether that
//! was right, and [`Model::idle_waiter`] whether it was forgotten.

use super::step::{Owner, Span, Want};
use std::collections::{BTreeMap, BTreeSet};

/// A request that waits, or whose grant the client has not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// What is wanted.
    pub want: Want,
    /// Whether the lock is taken for it already.
    pub granted: bool,
    /// Tells it from earlier waits for the same.
    pub serial: u64,
}

/// What a LOCK comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locked {
    /// The lock is held.
    Granted,
    /// It is not, and its owner does not wait.
    Denied,
    /// Its owner waits.
    Blocked,
    /// Its owner would wait for itself.
    Deadlock,
}

/// Whether each owner of a byte has it exclusively.
type Holders = BTreeMap<Owner, bool>;

/// Owners by byte, and those who wait.
#[derive(Debug, Clone, Default)]
pub struct Model {
    bytes: BTreeMap<(u8, u8), Holders>,
    waits: Vec<Wait>,
    serial: u64,
}

impl Model {
    /// Who has the bytes of the files.
    pub fn bytes(&self) -> impl Iterator<Item = ((u8, u8), Owner, bool)> {
        self.bytes.iter().flat_map(|(byte, holders)| {
            holders
                .iter()
                .map(|(owner, exclusive)| (*byte, *owner, *exclusive))
        })
    }

    /// Those who wait, or whose grant is not acknowledged, in the order in which they came.
    pub fn waits(&self) -> &[Wait] {
        &self.waits
    }

    /// Who stands in the way of a lock.
    pub fn in_the_way(&self, want: Want) -> BTreeSet<Owner> {
        let Span {
            who,
            file,
            first,
            last,
        } = want.span;
        let holders = (first..=last).filter_map(|byte| self.bytes.get(&(file, byte)));
        holders
            .flatten()
            .filter(|(owner, exclusive)| **owner != who && (want.exclusive || **exclusive))
            .map(|(owner, _)| *owner)
            .collect()
    }

    fn set(&mut self, want: Want) {
        for byte in want.span.first..=want.span.last {
            let holders = self.bytes.entry((want.span.file, byte)).or_default();
            holders.insert(want.span.who, want.exclusive);
        }
    }

    fn unset(&mut self, span: Span) {
        for byte in span.first..=span.last {
            if let Some(holders) = self.bytes.get_mut(&(span.file, byte)) {
                holders.remove(&span.who);
            }
        }
    }

    fn holds_anything(&self, who: Owner) -> bool {
        self.bytes.values().any(|holders| holders.contains_key(&who))
    }

    /// LOCK.
    pub fn lock(&mut self, want: Want, block: bool) -> Locked {
        if self.in_the_way(want).is_empty() {
            self.set(want);
            self.waits.retain(|wait| wait.want != want || wait.granted);
            return Locked::Granted;
        }
        if !block {
            return Locked::Denied;
        }
        if self.would_wait_for_itself(want) {
            self.waits.retain(|wait| wait.want != want);
            return Locked::Deadlock;
        }
        if let Some(known) = self.waits.iter_mut().find(|wait| wait.want == want) {
            known.granted = false;
        } else {
            self.serial += 1;
            self.waits.push(Wait {
                want,
                granted: false,
                serial: self.serial,
            });
        }
        Locked::Blocked
    }

    /// Everyone for whom the owner would wait, however indirectly: is it one of them?
    fn would_wait_for_itself(&self, want: Want) -> bool {
        let who = want.span.who;
        if !self.holds_anything(who) {
            return false;
        }
        let mut waited_for = self.in_the_way(want);
        loop {
            let waits = self.waits.iter().filter(|wait| !wait.granted);
            let further: BTreeSet<Owner> = waits
                .filter(|wait| waited_for.contains(&wait.want.span.who))
                .flat_map(|wait| self.in_the_way(wait.want))
                .collect();
            if further.contains(&who) {
                return true;
            }
            let before = waited_for.len();
            waited_for.extend(further);
            if waited_for.len() == before {
                return false;
            }
        }
    }

    /// UNLOCK: gives up waiting for exactly these bytes, and all of them that are held.
    pub fn unlock(&mut self, span: Span) {
        self.waits.retain(|wait| wait.want.span != span);
        self.unset(span);
    }

    /// CANCEL. Whether it came in time.
    pub fn cancel(&mut self, want: Want) -> bool {
        let too_late = self.waits.iter().any(|wait| wait.want == want && wait.granted);
        self.waits.retain(|wait| wait.want != want);
        !too_late
    }

    /// The client has answered GRANTED: it knows, or it wants no such lock, which is then given back
    /// if `give_back`.
    pub fn answered(&mut self, serial: u64, give_back: bool) {
        let is = |wait: &Wait| wait.serial == serial && wait.granted;
        let Some(wait) = self.waits.iter().copied().find(is) else {
            return;
        };
        self.waits.retain(|wait| !is(wait));
        if give_back {
            self.unset(wait.want.span);
        }
    }

    /// A peer is gone.
    pub fn forget(&mut self, peer: u8) {
        self.waits.retain(|wait| wait.want.span.who.peer != peer);
        for holders in self.bytes.values_mut() {
            holders.retain(|owner, _| owner.peer != peer);
        }
    }

    /// The service grants a request that waits. Its serial number, or why that is wrong.
    pub fn grant(&mut self, want: Want) -> Result<Granted, String> {
        let who = want.span.who;
        let place = self
            .waits
            .iter()
            .position(|wait| wait.want == want && !wait.granted);
        let Some((place, wait)) = place.and_then(|place| Some((place, *self.waits.get(place)?))) else {
            return Err(format!("{who} is granted {want} and does not wait for it"));
        };
        if let Some(holder) = self.in_the_way(want).first() {
            return Err(format!("{who} is granted {want} against {holder}"));
        }
        let earlier = self.waits.iter().take(place);
        let passed_over = earlier
            .filter(|wait| !wait.granted && wait.want.span.file == want.span.file)
            .find(|wait| self.in_the_way(wait.want).is_empty())
            .map(|wait| wait.want);
        let span = want.span;
        let downgrade = !want.exclusive
            && (span.first..=span.last).any(|byte| {
                let holders = self.bytes.get(&(span.file, byte));
                holders.and_then(|h| h.get(&who)) == Some(&true)
            });
        self.set(want);
        if let Some(wait) = self.waits.get_mut(place) {
            wait.granted = true;
        }
        Ok(Granted {
            serial: wait.serial,
            passed_over,
            downgrade,
        })
    }

    /// Somebody who waits although nobody is in the way.
    pub fn idle_waiter(&self) -> Option<Want> {
        let waiting = self.waits.iter().filter(|wait| !wait.granted);
        waiting
            .map(|wait| wait.want)
            .find(|want| self.in_the_way(*want).is_empty())
    }
}

/// A request that was granted.
#[derive(Debug, Clone, Copy)]
pub struct Granted {
    /// Which wait it was.
    pub serial: u64,
    /// Who had come earlier and could have had its lock at that moment, too.
    pub passed_over: Option<Want>,
    /// Whether its owner gave something up for it: from exclusive to shared.
    pub downgrade: bool,
}
