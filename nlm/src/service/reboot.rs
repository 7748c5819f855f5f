//! What a client's reboot does: what it held is free, and what it waited for is forgotten.
//!
//! The service learns of it by SM_NOTIFY from its own status monitor or, as a policy, because a LOCK carries a
//! newer state number than those before. FREE_ALL does the same without a reboot.

use super::LockService;
use super::procedures::Done;
use crate::Now;
use crate::effect::{Effects, Event};
use crate::hosts::{HostId, HostKey, PeerId};
use crate::owners::Owner;
use crate::range::Range;
use crate::request::PeerSelector;
use crate::table::{Change, Handle, OwnerId};
use crate::waiters::BlockId;
use proto::nlm::Nlm4Lock;

/// Whether a state number is from after another. They count up by two for each boot and may come around. An older
/// one is in a copy of a LOCK that was long under way, and not the news of anything.
fn is_newer(state: i32, known: i32) -> bool {
    state.wrapping_sub(known) > 0
}

impl LockService {
    /// A LOCK carries this state number ([`reboot_by_state`]). A client host that is known by its name has a
    /// number of its own, so that two behind one address translation do not free each other's locks; its
    /// share reservations, which are kept by address, stay.
    ///
    /// [`reboot_by_state`]: crate::personality::Personality::reboot_by_state
    pub(super) fn state_told(
        &mut self,
        now: Now,
        host: HostId,
        lock: &Nlm4Lock<'_>,
        state: i32,
        fx: &mut Effects,
    ) -> Done<()> {
        if state == 0 {
            return Ok(());
        }
        let peer = self.hosts.peer_of(host);
        let (space, known) = match self.caller_for(host, lock)? {
            Some(caller) => {
                let known = caller.state;
                caller.state = known.filter(|known| !is_newer(state, *known)).or(Some(state));
                (Some(caller.space), known)
            }
            None => (None, self.hosts.peer(peer).state),
        };
        // What comes by SM_NOTIFY later is no news then.
        let of_peer = &mut self.hosts.peer_mut(peer).state;
        *of_peer = of_peer.filter(|known| !is_newer(state, *known)).or(Some(state));
        if !known.is_some_and(|known| is_newer(state, known)) {
            return Ok(());
        }
        let (freed, dropped) = match space {
            None => self.free_peer(now, peer, fx),
            Some(space) => {
                let owners = self.owners_where(|owner| owner.space == space);
                self.free_owners(now, owners, fx)
            }
        };
        fx.event(Event::RebootInferred {
            peer: self.hosts.peer(peer).address,
            name: lock.caller_name.0.into(),
            state,
            freed,
            dropped,
        });
        Ok(())
    }

    /// NLM_FREE_ALL: frees what the sender's address holds; the name in the arguments is not believed.
    pub(super) fn free_all(&mut self, now: Now, from: &HostKey, fx: &mut Effects) {
        if let Some(peer) = self.hosts.peer_at(from.peer) {
            let (freed, dropped) = self.free_peer(now, peer, fx);
            fx.event(Event::FreedAll {
                peer: from.peer,
                freed,
                dropped,
            });
        }
    }

    /// What a peer's reboot does.
    pub(super) fn free_rebooted(
        &mut self,
        now: Now,
        which: &PeerSelector,
        state: Option<i32>,
        fx: &mut Effects,
    ) {
        for id in self.select(which) {
            let peer = self.hosts.peer_mut(id);
            if state.is_some() && peer.state == state {
                continue;
            }
            peer.state = state.or(peer.state);
            let (address, name) = (peer.address, peer.name.clone());
            let (freed, dropped) = self.free_peer(now, id, fx);
            fx.event(Event::PeerRebooted {
                peer: address,
                name,
                freed,
                dropped,
            });
        }
    }

    /// Frees all locks and share reservations of a peer and drops its waiting requests; returns how many
    /// were freed and how many were dropped.
    fn free_peer(&mut self, now: Now, peer: PeerId, fx: &mut Effects) -> (usize, usize) {
        let owners = self.owners_where(|owner| self.hosts.peer_of(owner.host) == peer);
        let shares = self.free_shares(peer);
        let (freed, dropped) = self.free_owners(now, owners, fx);
        (freed + shares, dropped)
    }

    fn owners_where(&self, which: impl Fn(&Owner) -> bool) -> Vec<OwnerId> {
        let owners = self.owners.iter().filter(|(_, owner)| which(owner));
        owners.map(|(id, _)| id).collect()
    }

    /// Frees all locks of these owners, which are in the order of their numbers, and drops their waiting requests.
    fn free_owners(&mut self, now: Now, owners: Vec<OwnerId>, fx: &mut Effects) -> (usize, usize) {
        let blocks: Vec<BlockId> = self
            .waiters
            .iter_after(None)
            .filter(|(_, b)| owners.binary_search(&b.want.owner).is_ok())
            .map(|(id, _)| id)
            .collect();
        let dropped = blocks.len();
        let mut free: Vec<(Handle, Range)> = Vec::new();
        for id in blocks {
            let block = self.drop_block(id).filter(|_| self.is_fair());
            free.extend(block.map(|block| (block.want.fh, block.want.range)));
        }
        let others_wait = !self.waiters.is_empty();
        let mut freed = 0;
        for owner in owners {
            let locks = self.table.release_owner(owner, |fh, lock| {
                if others_wait {
                    free.push((fh.into(), lock.range));
                }
            });
            freed += locks;
            self.account(
                owner,
                Change {
                    locks: -(locks as isize),
                    freed: true,
                },
            );
            self.owners.forget_if_idle(owner);
        }
        self.retry_all(now, free, fx);
        (freed, dropped)
    }
}
