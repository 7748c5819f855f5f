//! What the lock table gets wrong because somebody wants it to: locks that it forgets, locks of nobody, and locks that
//! two have.
//!
//! The table itself stays as consistent as ever ([`LockService::check`]); what is wrong is what clients believe.

use super::LockService;
use super::breaking::LockSelector;
use crate::effect::{Effects, Event, What, Who};
use crate::hosts::{HostKey, Transport};
use crate::owners::Identity;
use crate::range::{Kind, Range};
use crate::request::PeerSelector;
use crate::table::{Fh, Handle};
use crate::waiters::Want;
use crate::{Now, limits};
use proto::nlm::Nlm4Lock;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// How the client is called that holds the locks of nobody. No client has its address, 0.0.0.0.
pub const ORPHAN: &str = "orphan";

const NOBODYS_HOST: HostKey = HostKey {
    peer: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    server: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    transport: Transport::Tcp,
    version: 4,
};

/// Whether this is the address of [`ORPHAN`].
pub fn is_orphan(peer: IpAddr) -> bool {
    peer == NOBODYS_HOST.peer
}

/// How LOCKs that conflict are granted on a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct DoubleGrants {
    /// How many more.
    left: u32,
    /// When it is over even if there were fewer.
    until: Option<Now>,
}

/// Why a lock could not be leaked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotLeaked {
    /// Somebody's lock is in the way.
    Held(Who),
    /// There are as many locks as there can be.
    Full,
}

impl fmt::Display for NotLeaked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotLeaked::Held(who) => write!(f, "{who} holds a lock there that is in the way"),
            NotLeaked::Full => write!(f, "the lock table is full"),
        }
    }
}

impl std::error::Error for NotLeaked {}

impl LockService {
    /// Loses these locks, silently: their clients believe that they hold them, and whoever waits for them goes on
    /// waiting until it asks again. Requests that wait stay. Returns how many locks there were.
    pub fn forget_locks(&mut self, which: &LockSelector<'_>, fx: &mut Effects) -> usize {
        let (forgotten, free) = self.take_away(which);
        for (fh, range) in free {
            for id in self.waiters.waiting_for(fh, &[range]) {
                self.waiters.overlook(id);
            }
        }
        fx.event(Event::LocksForgotten {
            forgotten,
            which: which.to_string(),
        });
        forgotten
    }

    /// Enters a lock that nobody holds, and nobody will give back, of a client called [`ORPHAN`]. Returns the number of
    /// its owner, which is another for each. After the time that it `lasts`, the lock is given back as by an UNLOCK.
    ///
    /// # Errors
    /// If somebody has a lock that is in the way.
    pub fn leak(
        &mut self,
        now: Now,
        fh: Fh<'_>,
        range: Range,
        kind: Kind,
        lasts: Option<Duration>,
        fx: &mut Effects,
    ) -> Result<i32, NotLeaked> {
        if self.table.len() >= limits::HELD_LOCKS {
            return Err(NotLeaked::Full);
        }
        let svid = self.orphans.wrapping_add(1);
        let lock = Nlm4Lock {
            caller_name: ORPHAN.into(),
            fh: fh.as_slice().into(),
            oh: "nobody".into(),
            svid,
            l_offset: 0,
            l_len: 0,
        };
        let host = self.host_for(&NOBODYS_HOST, ORPHAN.as_bytes());
        let host = host.map_err(|_| NotLeaked::Full)?;
        let space = self.space_for(host, &lock).map_err(|_| NotLeaked::Full)?;
        let who = Identity {
            space,
            svid,
            oh: lock.oh.0,
        };
        let owner = self.owners.find_or_add(&who, host);
        match self.table.lock(fh, owner, range, kind, now) {
            Ok(change) => self.account(owner, change),
            Err(holder) => {
                self.owners.forget_if_idle(owner);
                return Err(NotLeaked::Held(self.who(holder.owner)));
            }
        }
        self.orphans = svid;
        if let Some(lasts) = lasts {
            self.orphans_end.insert((now.saturating_add(lasts), svid));
        }
        fx.event(Event::Orphaned {
            what: What {
                fh: fh.into(),
                range,
                kind,
            },
        });
        Ok(svid)
    }

    /// The next `count` LOCKs on this file that conflict with somebody's lock are granted all the same; 0: none any
    /// more. Such a lock is granted and not entered into the table, which has room for one holder: its UNLOCK is answered
    /// GRANTED, as that of any lock that is not there, and a TEST shows the first holder alone. After the time that it
    /// `lasts`, none is granted any more, however many there were.
    pub fn double_grant(
        &mut self,
        now: Now,
        fh: Fh<'_>,
        count: u32,
        lasts: Option<Duration>,
        fx: &mut Effects,
    ) {
        let fh = Handle::from(fh);
        if count == 0 {
            self.double_grants.remove(&fh);
        } else {
            let until = lasts.map(|lasts| now.saturating_add(lasts));
            self.double_grants.insert(fh, DoubleGrants { left: count, until });
        }
        fx.event(Event::DoubleGrantsDue { fh, count });
    }

    /// Whether a LOCK that conflicts is to be granted; it counts if it is.
    pub(super) fn is_granted_twice(&mut self, want: &Want, fx: &mut Effects) -> bool {
        if self.double_grants.is_empty() {
            return false;
        }
        let Some(due) = self.double_grants.get_mut(&want.fh) else {
            return false;
        };
        due.left -= 1;
        if due.left == 0 {
            self.double_grants.remove(&want.fh);
        }
        // It may have waited before; then it does so no longer.
        if let Some(id) = self.waiters.find(want)
            && self.waiters.get(id).is_some_and(|block| block.is_waiting())
        {
            self.drop_block(id);
        }
        fx.event(Event::DoublyGranted {
            who: self.who(want.owner),
            what: super::procedures::what(want),
        });
        true
    }

    /// Whether there are none of these faults.
    pub(super) fn has_no_faults(&self) -> bool {
        self.orphans_end.is_empty() && self.double_grants.is_empty()
    }

    /// When the next of these faults is over, if nothing else happens.
    pub(super) fn next_fault_ends(&self) -> Option<Now> {
        let orphan = self.orphans_end.first().map(|(end, _)| *end);
        let double_grant = self.double_grants.values().filter_map(|due| due.until);
        orphan.into_iter().chain(double_grant).min()
    }

    /// Undoes what is over by now.
    pub(super) fn end_faults(&mut self, now: Now, fx: &mut Effects) {
        while let Some((end, svid)) = self.orphans_end.first().copied()
            && end <= now
        {
            self.orphans_end.remove(&(end, svid));
            self.bury_orphan(now, svid, fx);
        }
        self.double_grants.retain(|fh, due| {
            let is_over = due.until.is_some_and(|until| until <= now);
            if is_over {
                fx.event(Event::DoubleGrantsDue { fh: *fh, count: 0 });
            }
            !is_over
        });
    }

    /// Gives the lock of an orphan back, unless that has happened.
    fn bury_orphan(&mut self, now: Now, svid: i32, fx: &mut Effects) {
        let nobody = PeerSelector::Address(NOBODYS_HOST.peer);
        let which = LockSelector {
            peer: Some(&nobody),
            svid: Some(svid),
            ..LockSelector::default()
        };
        let (taken, free) = self.take_away(&which);
        if taken > 0 {
            fx.event(Event::OrphanGone { svid });
            self.retry_all(now, free, fx);
        }
    }
}
