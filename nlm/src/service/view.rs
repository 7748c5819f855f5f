//! What can be seen of the service from outside: locks, waiting requests, peers, and whether all is consistent.

use super::LockService;
use crate::Now;
use crate::effect::Who;
use crate::hosts::{HostKey, Monitored};
use crate::limits;
use crate::range::{Kind, Range};
use crate::short::ShortBytes;
use crate::table::{Cursor, Handle, Lock, OwnerId};
use crate::waiters::{Block, BlockId, BlockState, Want};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::ControlFlow;

/// A lock that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockView {
    /// The file.
    pub fh: Handle,
    /// Where its owner asked from.
    pub host: HostKey,
    /// What that host calls itself.
    pub caller_name: ShortBytes,
    /// The owner's number there.
    pub svid: i32,
    /// The owner's handle there.
    pub oh: ShortBytes,
    /// Which bytes.
    pub range: Range,
    /// Alone or with others.
    pub kind: Kind,
    /// Since when.
    pub since: Now,
}

/// A request that waits, or whose grant the client has not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaiterView {
    /// Its number.
    pub id: BlockId,
    /// The lock it wants; `since` is when it began to wait.
    pub wants: LockView,
    /// How far it is, with the last callback.
    pub state: BlockState,
    /// Who is in the way; at most [`limits::HOLDERS_SHOWN`] of them.
    pub waiting_for: Vec<HolderView>,
}

/// Who is in the way of a request that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HolderView {
    /// The owner.
    pub who: Who,
    /// Which bytes it holds or wants.
    pub range: Range,
    /// How.
    pub kind: Kind,
    /// The number of its request, if it does not hold the lock but waits for it itself, and longer.
    pub queued: Option<BlockId>,
}

/// A peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerView {
    /// Where it is.
    pub address: IpAddr,
    /// What it calls itself.
    pub name: ShortBytes,
    /// Whether it is monitored.
    pub monitored: Monitored,
    /// Locks that it holds.
    pub locks: usize,
    /// Requests of it that wait or are not acknowledged.
    pub waiting: usize,
    /// Share reservations that it has.
    pub shares: usize,
    /// Its state number according to the latest SM_NOTIFY or, if such are believed, LOCK.
    pub state: Option<i32>,
}

impl LockService {
    /// Number of locks held.
    pub fn locks_held(&self) -> usize {
        self.table.len()
    }

    /// Number of requests that wait or are not acknowledged.
    pub fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// Up to `limit` locks after `after`, file by file and by first byte, and where to go on.
    ///
    /// See [`LockTable::page`](crate::table::LockTable::page) for what is seen when locks come and go meanwhile.
    pub fn locks(&self, after: Option<Cursor>, limit: usize) -> (Vec<LockView>, Option<Cursor>) {
        let mut locks = Vec::new();
        let next = self.table.page(after, limit, |fh, lock| {
            locks.push(self.lock_view(fh.into(), &lock))
        });
        (locks, next)
    }

    fn lock_view(&self, fh: Handle, lock: &Lock) -> LockView {
        let owner = self.owners.owner(lock.owner);
        let host = self.hosts.host(owner.host);
        LockView {
            fh,
            host: host.key,
            caller_name: self.hosts.peer(host.peer).name.clone(),
            svid: owner.svid,
            oh: owner.oh.clone(),
            range: lock.range,
            kind: lock.kind,
            since: lock.since,
        }
    }

    /// Up to `limit` waiting requests after `after`, in the order in which they came. The next page begins
    /// after the last of this one.
    pub fn waiters(&self, after: Option<BlockId>, limit: usize) -> Vec<WaiterView> {
        self.waiters
            .iter_after(after)
            .take(limit)
            .map(|(id, block)| WaiterView {
                id,
                wants: self.wanted(block),
                state: block.state,
                waiting_for: self.in_the_way(id, &block.want),
            })
            .collect()
    }

    /// What a request wants, as if it had it.
    pub(super) fn wanted(&self, block: &Block) -> LockView {
        let lock = Lock {
            owner: block.want.owner,
            range: block.want.range,
            kind: block.want.kind,
            since: block.since,
        };
        LockView {
            caller_name: block.caller_name.clone(),
            oh: block.oh.clone(),
            host: self.hosts.host(block.host).key,
            ..self.lock_view(block.want.fh, &lock)
        }
    }

    /// The holders; if there are none, the request that has to be let go first.
    fn in_the_way(&self, id: BlockId, want: &Want) -> Vec<HolderView> {
        let mut holders = self.holders(want);
        let ahead = if holders.is_empty() {
            self.is_behind(want, Some(id))
        } else {
            None
        };
        if let Some(block) = ahead.and_then(|id| self.waiters.get(id)) {
            holders.push(HolderView {
                who: self.who(block.want.owner),
                range: block.want.range,
                kind: block.want.kind,
                queued: ahead,
            });
        }
        holders
    }

    fn holders(&self, want: &Want) -> Vec<HolderView> {
        let mut holders = Vec::new();
        let _ = self
            .table
            .conflicts(want.fh.as_fh(), want.owner, want.range, want.kind, |lock| {
                if holders.len() == limits::HOLDERS_SHOWN {
                    return ControlFlow::Break(());
                }
                holders.push(HolderView {
                    who: self.who(lock.owner),
                    range: lock.range,
                    kind: lock.kind,
                    queued: None,
                });
                ControlFlow::Continue(())
            });
        holders
    }

    /// Every peer that ever asked for a lock and has not been forgotten for lack of room, by address.
    pub fn peers(&self) -> impl Iterator<Item = PeerView> {
        self.hosts.peers().map(|(_, peer)| PeerView {
            address: peer.address,
            name: peer.name.clone(),
            monitored: peer.monitored,
            locks: peer.locks,
            waiting: peer.waits,
            shares: peer.shares,
            state: peer.state,
        })
    }

    /// Checks the invariants of the module head and of the table, in time proportional to the table.
    pub fn check(&self) -> Result<(), String> {
        self.table.check()?;
        let mut held: BTreeMap<OwnerId, u32> = BTreeMap::new();
        let mut by_address: BTreeMap<IpAddr, usize> = BTreeMap::new();
        let mut unknown = None;
        self.table.page(None, usize::MAX, |_, lock| {
            *held.entry(lock.owner).or_default() += 1;
            match self.owners.get(lock.owner) {
                None => unknown = Some(lock),
                Some(_) => *by_address.entry(self.who(lock.owner).peer).or_default() += 1,
            }
        });
        if let Some(lock) = unknown {
            return Err(format!("{lock:?}: its owner is unknown"));
        }
        self.check_owners(&held)?;
        for peer in self.peers() {
            if peer.locks != by_address.get(&peer.address).copied().unwrap_or(0) {
                return Err(format!("{}: counts {} locks", peer.address, peer.locks));
            }
        }
        self.check_shares()?;
        self.check_waiters()
    }

    fn check_owners(&self, held: &BTreeMap<OwnerId, u32>) -> Result<(), String> {
        let mut waits: BTreeMap<OwnerId, u32> = BTreeMap::new();
        for (_, block) in self.waiters.iter_after(None) {
            *waits.entry(block.want.owner).or_default() += 1;
        }
        for (id, owner) in self.owners.iter() {
            let locks = held.get(&id).copied().unwrap_or(0);
            let blocks = waits.get(&id).copied().unwrap_or(0);
            if (owner.locks, owner.waits) != (locks, blocks) || locks + blocks == 0 {
                return Err(format!(
                    "{owner:?}: has {locks} locks and {blocks} waiting requests"
                ));
            }
        }
        match waits.keys().find(|id| self.owners.get(**id).is_none()) {
            Some(id) => Err(format!("{id:?} waits and is unknown")),
            None => Ok(()),
        }
    }

    fn check_waiters(&self) -> Result<(), String> {
        for (id, block) in self.waiters.iter_after(None) {
            let want = &block.want;
            let blocker = self
                .table
                .conflict(want.fh.as_fh(), want.owner, want.range, want.kind);
            if block.is_waiting()
                && !block.overlooked
                && blocker.is_none()
                && self.is_behind(want, Some(id)).is_none()
            {
                return Err(format!("{id} waits for nobody: {want:?}"));
            }
        }
        Ok(())
    }
}
