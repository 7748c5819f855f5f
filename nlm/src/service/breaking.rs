//! Giving locks away by hand: for somebody who looks at a lock that nobody will ever give back.

use super::LockService;
use crate::Now;
use crate::effect::{Effects, Event};
use crate::hosts::PeerId;
use crate::range::Range;
use crate::request::PeerSelector;
use crate::table::{Fh, Handle, OwnerId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Whether a file is meant.
pub type IsFile<'a> = dyn Fn(Fh<'_>) -> bool + 'a;

/// Which locks; each part narrows the choice, and none of them means all.
#[derive(Clone, Copy, Default)]
pub struct LockSelector<'a> {
    /// Those on files of which this is true, and how to call these files.
    pub file: Option<(&'a str, &'a IsFile<'a>)>,
    /// Those of these peers.
    pub peer: Option<&'a PeerSelector>,
    /// Those of the owners with this number.
    pub svid: Option<i32>,
}

impl fmt::Display for LockSelector<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("locks")?;
        if let Some((name, _)) = self.file {
            write!(f, " on {name}")?;
        }
        match self.peer {
            Some(PeerSelector::Address(address)) => write!(f, " of {address}")?,
            Some(PeerSelector::Name(name)) => write!(f, " of {}", name.escape_default())?,
            Some(PeerSelector::All | PeerSelector::Private(_)) | None => {}
        }
        match self.svid {
            Some(svid) => write!(f, " of owner {svid}"),
            None => Ok(()),
        }
    }
}

impl LockService {
    /// Gives these locks back as if their owners had unlocked them: whoever waits for them is granted. Returns how
    /// many there were.
    ///
    /// The clients are not told, for NLM has no word for it; they believe that they hold their locks. A GRANTED
    /// that such a client has not acknowledged is not repeated. Requests that wait stay.
    pub fn break_locks(&mut self, now: Now, which: &LockSelector<'_>, fx: &mut Effects) -> usize {
        let (broken, free) = self.take_away(which);
        fx.event(Event::LocksBroken {
            broken,
            which: which.to_string(),
        });
        self.retry_all(now, free, fx);
        broken
    }

    /// Takes these locks out of the table: how many there were and, if anybody waits at all, where they were.
    pub(super) fn take_away(&mut self, which: &LockSelector<'_>) -> (usize, Vec<(Handle, Range)>) {
        let peers: Option<BTreeSet<PeerId>> = which.peer.map(|peer| self.select(peer).into_iter().collect());
        let owners: Vec<OwnerId> = self
            .owners
            .iter()
            .filter(|(_, owner)| owner.locks > 0 && which.svid.is_none_or(|svid| owner.svid == svid))
            .filter(|(_, owner)| {
                let peer = self.hosts.peer_of(owner.host);
                peers.as_ref().is_none_or(|peers| peers.contains(&peer))
            })
            .map(|(id, _)| id)
            .collect();
        let mut files: BTreeMap<Handle, bool> = BTreeMap::new();
        let mut free = Vec::new();
        let mut taken = 0;
        for owner in owners {
            let mut chosen = |fh: &Handle| match which.file {
                Some((_, is_it)) => *files.entry(*fh).or_insert_with(|| is_it(fh.as_fh())),
                None => true,
            };
            let locks: Vec<(Handle, Range)> = self
                .table
                .of_owner(owner)
                .filter(|(fh, _)| chosen(fh))
                .map(|(fh, lock)| (fh, lock.range))
                .collect();
            for (fh, range) in locks {
                self.forget_grants(owner, fh, range);
                let change = self.table.unset(fh.as_fh(), owner, range);
                self.account(owner, change);
                taken += 1;
                if !self.waiters.is_empty() {
                    free.push((fh, range));
                }
            }
            self.owners.forget_if_idle(owner);
        }
        (taken, free)
    }

    /// What the client has not acknowledged yet is not to be announced to it once more.
    fn forget_grants(&mut self, owner: OwnerId, fh: Handle, range: Range) {
        if self.owners.owner(owner).waits == 0 {
            return;
        }
        for (id, want) in self.waiters.grants_of(owner) {
            if want.fh == fh && range.covers(want.range) {
                self.drop_block(id);
            }
        }
    }
}
