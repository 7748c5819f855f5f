//! What each procedure does, in the order in which Linux does it (fs/lockd/svc4proc.c, svclock.c).
//!
//! The order shows: a LOCK with an impossible range is refused before its host is monitored, one from a
//! peer that cannot be monitored before its file is looked at, and the grace period comes last but one;
//! CANCEL and UNLOCK look at the grace period first.

use super::{Caller, FileCheck, Files, LockService};
use crate::deadlock;
use crate::effect::{Effect, Effects, Event, What};
use crate::hosts::{HostId, HostKey, PeerId};
use crate::owners::Identity;
use crate::personality::{DeniedGrant, HolderShown, HostBy, MonitorPolicy};
use crate::range::{Kind, Range};
use crate::request::{Holder, PeerSelector, Reply, Request, TestReply};
use crate::short::ShortBytes;
use crate::table::{Change, Fh, Lock, OwnerId};
use crate::waiters::{BlockId, BlockState, Want};
use crate::{Now, limits};
use proto::nlm::{CancelArgs, LockArgs, Nlm4Lock, Nlm4Stat, Res, TestArgs};
use std::collections::btree_map::Entry;

/// Why there is no answer yet, or none but a status.
#[derive(Debug)]
pub(super) enum NotDone {
    /// The answer is this status.
    Refused(Nlm4Stat),
    /// There is to be no answer.
    Dropped,
    /// The peer has to be monitored first.
    Upcall(PeerId),
}

pub(super) type Done<T> = Result<T, NotDone>;

pub(super) const fn refused<T>(stat: Nlm4Stat) -> Done<T> {
    Err(NotDone::Refused(stat))
}

fn range_of(lock: &Nlm4Lock<'_>) -> Done<Range> {
    Range::from_wire(lock.l_offset, lock.l_len).map_err(|_| NotDone::Refused(Nlm4Stat::NLM4_FBIG))
}

impl LockService {
    fn file_of<'a>(&self, lock: &Nlm4Lock<'a>, kind: Kind, files: &dyn Files) -> Done<Fh<'a>> {
        self.file_at(lock.fh.0, kind, files)
    }

    /// The file of a request, if it can be locked.
    ///
    /// Linux's lockd keeps a file open for as long as there are locks on it, so its handle outlives its last
    /// name. A client that removes a file before it gives its lock back would leak the lock otherwise.
    pub(super) fn file_at<'a>(&self, fh: &'a [u8], kind: Kind, files: &dyn Files) -> Done<Fh<'a>> {
        let known = Fh::new(fh).ok_or(NotDone::Refused(Nlm4Stat::NLM4_STALE_FH));
        match files.check(fh, kind) {
            FileCheck::Ok => known,
            FileCheck::Refuse(Nlm4Stat::NLM4_STALE_FH) => known.and_then(|fh| {
                if self.table.has_locks(fh) {
                    Ok(fh)
                } else {
                    refused(Nlm4Stat::NLM4_STALE_FH)
                }
            }),
            FileCheck::Refuse(stat) => refused(stat),
            FileCheck::Drop => Err(NotDone::Dropped),
        }
    }

    /// Carries out a request. Its peer need not be monitored if `upcall_done`.
    pub(super) fn execute(
        &mut self,
        now: Now,
        from: &HostKey,
        request: &Request<'_>,
        upcall_done: bool,
        files: &dyn Files,
        fx: &mut Effects,
    ) -> Done<Reply> {
        let done = match request {
            Request::Null => return Ok(Reply::Void),
            Request::Test(args) => return self.test(now, from, args, files),
            Request::Lock(args) => self.lock(now, from, args, !upcall_done, files, fx),
            Request::NmLock(args) => self.lock(now, from, args, false, files, fx),
            Request::Cancel(args) => self.cancel(now, from, args, files, fx),
            Request::Unlock(args) => self.unlock(now, from, &args.alock, files, fx),
            Request::GrantedRes(res) => {
                self.granted_res(now, res, fx);
                return Ok(Reply::Void);
            }
            Request::Granted => return Ok(Reply::Stat(Nlm4Stat::NLM4_DENIED)),
            Request::OtherRes => return Ok(Reply::Void),
            Request::SmNotify(news) => {
                let which = PeerSelector::Private(news.private);
                self.free_rebooted(now, &which, Some(news.state), fx);
                return Ok(Reply::Void);
            }
            Request::Share(args) => return self.share(now, from, args, files),
            Request::Unshare(args) => return self.unshare(now, from, args, files),
            Request::FreeAll => {
                self.free_all(now, from, fx);
                return Ok(Reply::Void);
            }
        };
        match done {
            Ok(stat) | Err(NotDone::Refused(stat)) => Ok(Reply::Stat(stat)),
            Err(other) => Err(other),
        }
    }

    /// NLM_TEST: who would be in the way?
    fn test(&self, now: Now, from: &HostKey, args: &TestArgs<'_>, files: &dyn Files) -> Done<Reply> {
        let found = self.conflict_of(now, from, args, files);
        let (stat, holder) = match found {
            Ok(None) => (Nlm4Stat::NLM4_GRANTED, None),
            Ok(Some(lock)) => (Nlm4Stat::NLM4_DENIED, Some(self.shown(&lock))),
            Err(NotDone::Refused(stat)) => (stat, None),
            Err(other) => return Err(other),
        };
        Ok(Reply::Test(TestReply { stat, holder }))
    }

    fn conflict_of(
        &self,
        now: Now,
        from: &HostKey,
        args: &TestArgs<'_>,
        files: &dyn Files,
    ) -> Done<Option<Lock>> {
        let (range, kind) = (range_of(&args.alock)?, Kind::from_wire(args.exclusive));
        let fh = self.file_of(&args.alock, kind, files)?;
        if self.in_grace(now) {
            return refused(Nlm4Stat::NLM4_DENIED_GRACE_PERIOD);
        }
        let owner = self.owner_of(from, &args.alock).unwrap_or(OwnerId::NOBODY);
        Ok(self.table.conflict(fh, owner, range, kind))
    }

    fn shown(&self, lock: &Lock) -> Holder {
        let owner = self.owners.owner(lock.owner);
        let (svid, oh) = match self.personality.holder_shown {
            HolderShown::Lockd { svid } => (svid, ShortBytes::EMPTY),
            HolderShown::Owner => (owner.svid, owner.oh.clone()),
        };
        Holder {
            kind: lock.kind,
            svid,
            oh,
            range: lock.range,
        }
    }

    /// NLM_LOCK and, without `monitor`, NLM_NM_LOCK.
    fn lock(
        &mut self,
        now: Now,
        from: &HostKey,
        args: &LockArgs<'_>,
        monitor: bool,
        files: &dyn Files,
        fx: &mut Effects,
    ) -> Done<Nlm4Stat> {
        let (lock, kind) = (&args.alock, Kind::from_wire(args.exclusive));
        let range = range_of(lock)?;
        let host = self.host_for(from, lock.caller_name.0)?;
        let peer = self.hosts.peer_of(host);
        if self.personality.reboot_by_state {
            self.state_told(now, host, lock, args.state, fx)?;
        }
        let unmonitored = monitor && !self.hosts.peer(peer).monitored.is_believed();
        if unmonitored && self.personality.monitor == MonitorPolicy::BeforeFatal {
            return Err(NotDone::Upcall(peer));
        }
        let fh = self.file_of(lock, kind, files)?;
        if args.reclaim != self.in_grace(now) {
            return refused(Nlm4Stat::NLM4_DENIED_GRACE_PERIOD);
        }
        let space = self.space_for(host, lock)?;
        let who = Identity {
            space,
            svid: lock.svid,
            oh: lock.oh.0,
        };
        let owner = self.owners.find_or_add(&who, host);
        let stat = self.take_or_wait(now, host, owner, fh, range, kind, args, fx);
        self.owners.forget_if_idle(owner);
        if unmonitored && stat == Nlm4Stat::NLM4_GRANTED {
            self.ask_to_monitor(peer, fx);
        }
        Ok(stat)
    }

    fn ask_to_monitor(&self, peer: PeerId, fx: &mut Effects) {
        if self.personality.monitor == MonitorPolicy::AfterIgnored {
            let private = self.hosts.private(peer);
            let peer = self.hosts.peer(peer);
            fx.push(Effect::Monitor {
                peer: peer.address,
                name: peer.name.clone(),
                private,
            });
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the second half of `lock`")]
    fn take_or_wait(
        &mut self,
        now: Now,
        host: HostId,
        owner: OwnerId,
        fh: Fh<'_>,
        range: Range,
        kind: Kind,
        args: &LockArgs<'_>,
        fx: &mut Effects,
    ) -> Nlm4Stat {
        if self.table.len() >= limits::HELD_LOCKS {
            return Nlm4Stat::NLM4_DENIED_NOLOCKS;
        }
        let want = || Want {
            owner,
            fh: fh.into(),
            range,
            kind,
        };
        if let Some(ahead) = self.in_line(&want, args.reclaim) {
            return match args.block {
                true => self.wait(now, host, want(), &args.alock, ahead, fx),
                false => Nlm4Stat::NLM4_DENIED,
            };
        }
        match self.table.lock(fh, owner, range, kind, now) {
            Ok(change) => {
                self.account(owner, change);
                if !self.waiters.is_empty() {
                    self.taken_by_call(now, want(), change, fx);
                }
                Nlm4Stat::NLM4_GRANTED
            }
            Err(_) if self.is_granted_twice(&want(), fx) => Nlm4Stat::NLM4_GRANTED,
            Err(_) if !args.block => Nlm4Stat::NLM4_DENIED,
            Err(holder) => self.wait(now, host, want(), &args.alock, holder.owner, fx),
        }
    }

    /// Whose request a LOCK has to let go first although nobody holds what it wants. Never anybody's in the
    /// Linux order, and never when nobody waits.
    fn in_line(&self, want: &impl Fn() -> Want, reclaim: bool) -> Option<OwnerId> {
        if !self.is_fair() || self.waiters.is_empty() || reclaim {
            return None;
        }
        let want = want();
        // The holders come first: in case of a deadlock it is they who count.
        let held = self
            .table
            .conflict(want.fh.as_fh(), want.owner, want.range, want.kind);
        if held.is_some() {
            return None;
        }
        let waits_since = self.waiters.find(&want);
        let ahead = self.ahead_of(&want, waits_since)?;
        Some(self.waiters.get(ahead)?.want.owner)
    }

    /// After a LOCK got what it wanted while others, or earlier copies of it, wait.
    fn taken_by_call(&mut self, now: Now, want: Want, change: Change, fx: &mut Effects) {
        // A block whose grant is under way stays until the client has answered that, as in Linux.
        if let Some(id) = self.waiters.find(&want)
            && self.waiters.get(id).is_some_and(|b| b.is_waiting())
            && let Some(block) = self.drop_block(id)
        {
            let who = self.who(want.owner);
            fx.event(Event::GrantedToPoll {
                id,
                who,
                waited: now.saturating_sub(block.since),
            });
        }
        let mut free = self.own_waits(want.owner);
        if change.freed {
            free.push((want.fh, want.range));
        }
        self.retry_all(now, free, fx);
    }

    /// Queues a blocking LOCK, unless a copy of it waits already or waiting would be a deadlock.
    fn wait(
        &mut self,
        now: Now,
        host: HostId,
        want: Want,
        lock: &Nlm4Lock<'_>,
        by: OwnerId,
        fx: &mut Effects,
    ) -> Nlm4Stat {
        let known = self.waiters.find(&want);
        if self.owners.owner(want.owner).locks > 0
            && let Some(chain) = self.deadlock(&want)
        {
            if let Some(id) = known {
                self.drop_block(id);
                self.left_queue(now, want.fh, want.range, fx);
            }
            let through = chain.into_iter().map(|owner| self.who(owner)).collect();
            fx.event(Event::Deadlock {
                who: self.who(want.owner),
                what: what(&want),
                through,
            });
            return Nlm4Stat::NLM4_DEADLCK;
        }
        if let Some(id) = known {
            // It may have been granted and given up again by an UNLOCK of other bounds.
            self.waiters.set_state(id, BlockState::Waiting);
            return Nlm4Stat::NLM4_BLOCKED;
        }
        if self.waiters.len() >= limits::WAITERS {
            return Nlm4Stat::NLM4_DENIED_NOLOCKS;
        }
        let id = self.waiters.add(want, host, lock.caller_name.0, lock.oh.0, now);
        self.owners.owner_mut(want.owner).waits += 1;
        let peer = self.hosts.peer_of(host);
        self.hosts.peer_mut(peer).waits += 1;
        let by = self.who(by);
        fx.event(Event::Blocked {
            id,
            who: self.who(want.owner),
            what: what(&want),
            by,
        });
        Nlm4Stat::NLM4_BLOCKED
    }

    /// Through whom the owner would wait for itself, if it waited for those who hold this.
    fn deadlock(&self, want: &Want) -> Option<Vec<OwnerId>> {
        let hops = self.personality.deadlock_hops;
        deadlock::chain(&self.table, &self.waiters, want, self.is_fair(), hops)
    }

    /// NLM_CANCEL: gives up waiting. What is granted already is not taken back: the client is told
    /// DENIED and has to unlock.
    fn cancel(
        &mut self,
        now: Now,
        from: &HostKey,
        args: &CancelArgs<'_>,
        files: &dyn Files,
        fx: &mut Effects,
    ) -> Done<Nlm4Stat> {
        if self.in_grace(now) {
            return refused(Nlm4Stat::NLM4_DENIED_GRACE_PERIOD);
        }
        let (range, kind) = (range_of(&args.alock)?, Kind::from_wire(args.exclusive));
        let fh = self.file_of(&args.alock, kind, files)?;
        let Some(owner) = self.owner_of(from, &args.alock) else {
            return Ok(Nlm4Stat::NLM4_GRANTED);
        };
        let Some(id) = self.waiters.find(&Want {
            owner,
            fh: fh.into(),
            range,
            kind,
        }) else {
            return Ok(Nlm4Stat::NLM4_GRANTED);
        };
        let waiting = self.drop_block(id).is_none_or(|block| block.is_waiting());
        self.owners.forget_if_idle(owner);
        self.left_queue(now, fh.into(), range, fx);
        Ok(if waiting {
            Nlm4Stat::NLM4_GRANTED
        } else {
            Nlm4Stat::NLM4_DENIED
        })
    }

    /// NLM_UNLOCK: gives up waiting for exactly this range, in either kind, and gives back what is held of it.
    fn unlock(
        &mut self,
        now: Now,
        from: &HostKey,
        lock: &Nlm4Lock<'_>,
        files: &dyn Files,
        fx: &mut Effects,
    ) -> Done<Nlm4Stat> {
        if self.in_grace(now) {
            return refused(Nlm4Stat::NLM4_DENIED_GRACE_PERIOD);
        }
        let range = range_of(lock)?;
        let known = Fh::new(lock.fh.0).and_then(|fh| Some((fh, self.table.file(fh)?)));
        let (fh, file) = match known {
            // The file was looked at when its locks were taken: lockd has it open.
            Some((fh, file)) => (fh, Some(file)),
            None => (self.file_of(lock, Kind::Shared, files)?, None),
        };
        let Some(owner) = self.owner_of(from, lock) else {
            return Ok(Nlm4Stat::NLM4_GRANTED);
        };
        if !self.waiters.is_empty() {
            for kind in [Kind::Shared, Kind::Exclusive] {
                if let Some(id) = self.waiters.find(&Want {
                    owner,
                    fh: fh.into(),
                    range,
                    kind,
                }) {
                    self.drop_block(id);
                }
            }
        }
        if let Some(file) = file {
            let change = self.table.unset_at(file, owner, range);
            self.gave_back(now, owner, fh, range, change, fx);
        }
        self.owners.forget_if_idle(owner);
        if !self.waiters.is_empty() {
            self.left_queue(now, fh.into(), range, fx);
        }
        Ok(Nlm4Stat::NLM4_GRANTED)
    }

    pub(super) fn give_back(&mut self, now: Now, owner: OwnerId, fh: Fh<'_>, range: Range, fx: &mut Effects) {
        let change = self.table.unset(fh, owner, range);
        self.gave_back(now, owner, fh, range, change, fx);
    }

    fn gave_back(
        &mut self,
        now: Now,
        owner: OwnerId,
        fh: Fh<'_>,
        range: Range,
        change: Change,
        fx: &mut Effects,
    ) {
        self.account(owner, change);
        if change.freed && !self.waiters.is_empty() {
            self.retry(now, fh.into(), range, fx);
        }
    }

    /// NLM_GRANTED_RES: the client's answer to GRANTED_MSG. It is found by its cookie alone.
    fn granted_res(&mut self, now: Now, res: &Res<'_>, fx: &mut Effects) {
        let Some(id) = self.waiters.by_cookie(res.cookie.0) else {
            return;
        };
        let Some(BlockState::Granting { attempts, last, .. }) = self.waiters.get(id).map(|b| b.state) else {
            return;
        };
        if res.stat == Nlm4Stat::NLM4_DENIED_GRACE_PERIOD {
            let again = Some(now + self.personality.regrant_failed);
            self.waiters.set_state(
                id,
                BlockState::Granting {
                    attempts,
                    last,
                    again,
                },
            );
            return;
        }
        let Some(block) = self.drop_block(id) else { return };
        let Want { owner, fh, range, .. } = block.want;
        let who = self.who(owner);
        match (res.stat, self.personality.denied_grant) {
            (Nlm4Stat::NLM4_DENIED, DeniedGrant::Leak) => {
                fx.event(Event::Leaked {
                    id,
                    who,
                    what: what(&block.want),
                });
            }
            (Nlm4Stat::NLM4_DENIED, DeniedGrant::Unlock) => {
                fx.event(Event::GrantDenied { id, who });
                self.give_back(now, owner, fh.as_fh(), range, fx);
            }
            _ => fx.event(Event::GrantAccepted { id, who }),
        }
        self.owners.forget_if_idle(owner);
    }

    /// Keeps the counts of owner and peer.
    pub(super) fn account(&mut self, owner: OwnerId, change: Change) {
        if change.locks == 0 {
            return;
        }
        let owner = self.owners.owner_mut(owner);
        owner.locks = owner.locks.saturating_add_signed(change.locks as i32);
        let peer = self.hosts.peer_of(owner.host);
        let peer = self.hosts.peer_mut(peer);
        peer.locks = peer.locks.saturating_add_signed(change.locks);
    }

    /// Takes a block out, with its counts. The owner stays, even if that was all it had.
    pub(super) fn drop_block(&mut self, id: BlockId) -> Option<crate::waiters::Block> {
        let block = self.waiters.remove(id)?;
        let owner = self.owners.owner_mut(block.want.owner);
        owner.waits = owner.waits.saturating_sub(1);
        let peer = self.hosts.peer_of(block.host);
        let peer = self.hosts.peer_mut(peer);
        peer.waits = peer.waits.saturating_sub(1);
        Some(block)
    }

    /// The host of a LOCK. If there is no room, those who have nothing here are forgotten.
    pub(super) fn host_for(&mut self, from: &HostKey, name: &[u8]) -> Done<HostId> {
        // Linux looks at the name only of a host that it does not know.
        if self.hosts.find(from).is_none() && name.contains(&b'/') {
            return refused(Nlm4Stat::NLM4_DENIED_NOLOCKS);
        }
        if let Some(host) = self.hosts.find_or_add(from, name) {
            return Ok(host);
        }
        let owners = self
            .owners
            .iter()
            .map(|(_, owner)| self.hosts.peer_of(owner.host));
        let waiters = self
            .waiters
            .iter_after(None)
            .map(|(_, block)| self.hosts.peer_of(block.host));
        let sharing = self.shares.hosts().map(|host| self.hosts.peer_of(host));
        let needed = owners
            .chain(waiters)
            .chain(sharing)
            .chain(self.upcall_peers())
            .collect();
        self.hosts.forget_all_but(&needed);
        self.hosts
            .find_or_add(from, name)
            .ok_or(NotDone::Refused(Nlm4Stat::NLM4_DENIED_NOLOCKS))
    }

    /// The owner of a request, if it holds or waits for anything.
    fn owner_of(&self, from: &HostKey, lock: &Nlm4Lock<'_>) -> Option<OwnerId> {
        let host = || self.hosts.find(from);
        let space = match self.personality.owner_key.host {
            HostBy::Address => host()?.0,
            by => self.callers.get(&caller_key(by, host, lock)?)?.space,
        };
        self.owners.find(&Identity {
            space,
            svid: lock.svid,
            oh: lock.oh.0,
        })
    }

    /// The number that stands for the client host in its owners.
    pub(super) fn space_for(&mut self, host: HostId, lock: &Nlm4Lock<'_>) -> Done<u32> {
        match self.caller_for(host, lock)? {
            None => Ok(host.0),
            Some(caller) => Ok(caller.space),
        }
    }

    /// What is known of the client host by its name; `None` if names do not matter.
    pub(super) fn caller_for(&mut self, host: HostId, lock: &Nlm4Lock<'_>) -> Done<Option<&mut Caller>> {
        let by = self.personality.owner_key.host;
        let Some(key) = caller_key(by, || Some(host), lock) else {
            return Ok(None);
        };
        let known = self.callers.len();
        match self.callers.entry(key) {
            Entry::Occupied(caller) => Ok(Some(caller.into_mut())),
            Entry::Vacant(_) if known >= limits::HOSTS => refused(Nlm4Stat::NLM4_DENIED_NOLOCKS),
            Entry::Vacant(place) => Ok(Some(place.insert(Caller {
                space: known as u32,
                state: None,
            }))),
        }
    }
}

/// Under which name a client host is known; `None` if it is known by its address alone, or not at all.
fn caller_key(by: HostBy, host: impl Fn() -> Option<HostId>, lock: &Nlm4Lock<'_>) -> Option<ShortBytes> {
    let name = lock.caller_name.0;
    match by {
        HostBy::Address => None,
        HostBy::CallerName => Some(name.into()),
        HostBy::AddressAndCallerName => {
            let host = host()?.0.to_be_bytes();
            Some([&host, name].concat().as_slice().into())
        }
    }
}

pub(super) fn what(want: &Want) -> What {
    What {
        fh: want.fh,
        range: want.range,
        kind: want.kind,
    }
}
