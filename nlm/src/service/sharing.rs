//! SHARE and UNSHARE, in the order in which Linux does them (fs/lockd/svc4proc.c, svcshare.c).
//!
//! A reservation is not a reason to monitor its host: only LOCK is. One difference to Linux is on purpose: an
//! owner that replaces its terms is checked against everyone else. Linux looks through a list and stops at
//! the owner's own entry, so that it depends on the order in which reservations came.

use super::procedures::{Done, NotDone, refused};
use super::{Files, LockService};
use crate::hosts::{HostKey, PeerId};
use crate::range::Kind;
use crate::request::Reply;
use crate::shares::{NotShared, Reservation, ShareKey, ShareView, Terms};
use crate::{Now, limits};
use proto::nlm::{Nlm4Stat, ShareArgs};
use std::collections::BTreeMap;

fn reply(done: Done<Nlm4Stat>) -> Done<Reply> {
    match done {
        Ok(stat) | Err(NotDone::Refused(stat)) => Ok(Reply::Share(stat)),
        Err(other) => Err(other),
    }
}

impl LockService {
    /// NLM_SHARE.
    pub(super) fn share(
        &mut self,
        now: Now,
        from: &HostKey,
        args: &ShareArgs<'_>,
        files: &dyn Files,
    ) -> Done<Reply> {
        reply(self.reserve(now, from, args, files))
    }

    fn reserve(
        &mut self,
        now: Now,
        from: &HostKey,
        args: &ShareArgs<'_>,
        files: &dyn Files,
    ) -> Done<Nlm4Stat> {
        let share = &args.share;
        if self.in_grace(now) && !args.reclaim {
            return refused(Nlm4Stat::NLM4_DENIED_GRACE_PERIOD);
        }
        let host = self.host_for(from, share.caller_name.0)?;
        let fh = self.file_at(share.fh.0, Kind::Shared, files)?;
        let Some(terms) = Terms::from_wire(share.access, share.mode) else {
            return refused(Nlm4Stat::NLM4_FAILED);
        };
        let key = ShareKey {
            fh: fh.into(),
            host,
            oh: share.oh.0.into(),
        };
        let reservation = Reservation {
            terms,
            caller_name: share.caller_name.0.into(),
            since: now,
        };
        let before = self.shares.len();
        let stat = match self.shares.take(key, reservation, limits::SHARES) {
            Ok(()) => Nlm4Stat::NLM4_GRANTED,
            Err(NotShared::Conflict) => Nlm4Stat::NLM4_DENIED,
            Err(NotShared::Full) => Nlm4Stat::NLM4_DENIED_NOLOCKS,
        };
        let peer = self.hosts.peer_of(host);
        self.hosts.peer_mut(peer).shares += self.shares.len() - before;
        Ok(stat)
    }

    /// NLM_UNSHARE: granted, whether or not there was anything to give back.
    pub(super) fn unshare(
        &mut self,
        now: Now,
        from: &HostKey,
        args: &ShareArgs<'_>,
        files: &dyn Files,
    ) -> Done<Reply> {
        reply(self.give_back_share(now, from, args, files))
    }

    fn give_back_share(
        &mut self,
        now: Now,
        from: &HostKey,
        args: &ShareArgs<'_>,
        files: &dyn Files,
    ) -> Done<Nlm4Stat> {
        if self.in_grace(now) {
            return refused(Nlm4Stat::NLM4_DENIED_GRACE_PERIOD);
        }
        let fh = self.file_at(args.share.fh.0, Kind::Shared, files)?;
        if let Some(host) = self.hosts.find(from) {
            let oh = args.share.oh.0.into();
            let fh = fh.into();
            if self.shares.give_back(&ShareKey { fh, host, oh }) {
                let peer = self.hosts.peer_of(host);
                let peer = self.hosts.peer_mut(peer);
                peer.shares = peer.shares.saturating_sub(1);
            }
        }
        Ok(Nlm4Stat::NLM4_GRANTED)
    }

    /// Frees a peer's reservations; how many there were.
    pub(super) fn free_shares(&mut self, peer: PeerId) -> usize {
        let (shares, hosts) = (&mut self.shares, &self.hosts);
        let freed = shares.free(|host| hosts.peer_of(host) == peer);
        self.hosts.peer_mut(peer).shares = 0;
        freed
    }

    /// Number of share reservations.
    pub fn shares_held(&self) -> usize {
        self.shares.len()
    }

    /// Up to `limit` share reservations, file by file.
    pub fn shares(&self, limit: usize) -> Vec<ShareView> {
        self.shares
            .iter()
            .take(limit)
            .map(|(key, share)| ShareView {
                fh: key.fh,
                host: self.hosts.host(key.host).key,
                caller_name: share.caller_name.clone(),
                oh: key.oh.clone(),
                terms: share.terms,
                since: share.since,
            })
            .collect()
    }

    pub(super) fn check_shares(&self) -> Result<(), String> {
        self.shares.check()?;
        let mut counted: BTreeMap<PeerId, usize> = BTreeMap::new();
        for host in self.shares.hosts() {
            *counted.entry(self.hosts.peer_of(host)).or_default() += 1;
        }
        for (id, peer) in self.hosts.peers() {
            let has = counted.get(&id).copied().unwrap_or(0);
            if has != peer.shares {
                return Err(format!(
                    "{}: counts {} shares, has {has}",
                    peer.address, peer.shares
                ));
            }
        }
        Ok(())
    }
}
