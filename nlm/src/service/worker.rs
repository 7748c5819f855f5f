//! What keeps a call from being answered: the worker, and who has it.
//!
//! Calls wait in one queue, first come, first served. A free worker takes the next one and executes it in no
//! time, unless lockd is slow or the call needs a monitor upcall; then the worker is kept. Nothing here
//! happens while lockd is hung.

use super::procedures::NotDone;
use super::{Allowed, Files, LockService, Lockd};
use crate::Now;
use crate::effect::{Effect, Effects, Event};
use crate::hosts::{Monitored, PeerId};
use crate::request::{CallId, Queued, Reply};
use crate::upcall::{Step, Upcall, UpcallOutcome};
use proto::nlm::Nlm4Stat;
use std::net::IpAddr;

/// A call that keeps a worker.
#[derive(Debug)]
pub(super) struct Work {
    call: Queued,
    doing: Doing,
}

#[derive(Debug)]
enum Doing {
    /// lockd is slow; the call was taken then.
    Slowed { taken: Now },
    /// The peer is being monitored. To be looked at again at `wake`.
    Upcall { upcall: Upcall, wake: Now },
}

impl Work {
    pub(super) fn call(&self) -> &Queued {
        &self.call
    }
}

impl LockService {
    pub(super) fn free_worker(&self) -> Option<usize> {
        self.workers.iter().position(Option::is_none)
    }

    /// The peers that are being monitored at this moment.
    pub(super) fn upcall_peers(&self) -> impl Iterator<Item = PeerId> {
        self.workers
            .iter()
            .flatten()
            .filter_map(|work| match &work.doing {
                Doing::Upcall { upcall, .. } => Some(upcall.peer),
                Doing::Slowed { .. } => None,
            })
    }

    /// For whose monitoring a worker waits.
    pub(super) fn stuck_on(&self) -> Option<IpAddr> {
        self.upcall_peers()
            .next()
            .map(|peer| self.hosts.peer(peer).address)
    }

    pub(super) fn wakes(&self, work: &Work) -> Option<Now> {
        match (&work.doing, self.lockd) {
            (Doing::Upcall { wake, .. }, _) => Some(*wake),
            (Doing::Slowed { taken }, Lockd::Slow(delay)) => Some(*taken + delay),
            (Doing::Slowed { taken }, _) => Some(*taken),
        }
    }

    /// Whether a worker that is free takes the next call.
    pub(super) fn takes_calls(&self) -> bool {
        match self.lockd {
            Lockd::Hung => false,
            Lockd::HungAfter(_) => self.left > 0,
            Lockd::Ok | Lockd::Slow(_) => true,
        }
    }

    /// A worker has taken a call.
    pub(super) fn took_call(&mut self) {
        self.left = self.left.saturating_sub(1);
    }

    /// Does everything that can be done at this time.
    pub(super) fn pump(&mut self, now: Now, files: &dyn Files, fx: &mut Effects) {
        if self.lockd == Lockd::Hung {
            return;
        }
        let mut moved = true;
        while moved {
            moved = false;
            for worker in 0..self.workers.len() {
                moved |= self.advance(worker, now, files, fx);
            }
        }
        if self.free_worker().is_some() && self.takes_calls() {
            self.repeat_due_grants(now, fx);
        }
    }

    /// Moves one worker on; says whether it moved.
    fn advance(&mut self, worker: usize, now: Now, files: &dyn Files, fx: &mut Effects) -> bool {
        let Some(work) = self.workers.get_mut(worker).map(Option::take) else {
            return false;
        };
        match work {
            None => {
                if !self.takes_calls() {
                    return false;
                }
                let Some(call) = self.queue.pop_front() else {
                    return false;
                };
                if matches!(call, Queued::Call { .. }) {
                    self.took_call();
                }
                match self.lockd {
                    Lockd::Slow(_) => self.keep(worker, call, Doing::Slowed { taken: now }),
                    _ => self.run(worker, now, call, false, files, fx),
                }
                true
            }
            Some(Work {
                call,
                doing: Doing::Slowed { taken },
            }) => {
                let delay = if let Lockd::Slow(delay) = self.lockd {
                    delay
                } else {
                    Now::ZERO
                };
                let over = now >= taken + delay;
                match over {
                    true => self.run(worker, now, call, false, files, fx),
                    false => self.keep(worker, call, Doing::Slowed { taken }),
                }
                over
            }
            Some(Work {
                call,
                doing: Doing::Upcall { upcall, .. },
            }) => self.advance_upcall(worker, now, call, upcall, files, fx),
        }
    }

    fn keep(&mut self, worker: usize, call: Queued, doing: Doing) {
        if let Some(slot) = self.workers.get_mut(worker) {
            *slot = Some(Work { call, doing });
        }
    }

    fn run(
        &mut self,
        worker: usize,
        now: Now,
        call: Queued,
        upcall_done: bool,
        files: &dyn Files,
        fx: &mut Effects,
    ) {
        let (id, done) = match &call {
            Queued::PeerRebooted { which, state } => {
                self.free_rebooted(now, which, *state, fx);
                return;
            }
            Queued::Call {
                id,
                from,
                request,
                permitted,
            } => {
                let permitted = *permitted;
                let allowed = Allowed { files, permitted };
                let request = request.borrow();
                (*id, self.execute(now, from, &request, upcall_done, &allowed, fx))
            }
        };
        match done {
            Ok(reply) => fx.push(Effect::Reply { id, reply }),
            Err(NotDone::Refused(stat)) => fx.push(Effect::Reply {
                id,
                reply: Reply::Stat(stat),
            }),
            Err(NotDone::Dropped) => fx.event(Event::CallDropped {
                id,
                procedure: call.procedure(),
            }),
            Err(NotDone::Upcall(peer)) => self.start_upcall(worker, now, call, peer, fx),
        }
    }

    /// Keeps the worker until the peer is monitored, or is known not to be.
    pub(super) fn start_upcall(
        &mut self,
        worker: usize,
        now: Now,
        call: Queued,
        peer: PeerId,
        fx: &mut Effects,
    ) {
        let known = self.hosts.peer(peer);
        fx.event(Event::UpcallStarted {
            peer: known.address,
            name: known.name.clone(),
        });
        self.keep(
            worker,
            call,
            Doing::Upcall {
                upcall: Upcall::new(peer, now),
                wake: now,
            },
        );
    }

    fn advance_upcall(
        &mut self,
        worker: usize,
        now: Now,
        call: Queued,
        mut upcall: Upcall,
        files: &dyn Files,
        fx: &mut Effects,
    ) -> bool {
        let step = upcall.poll(now, self.statd, &self.personality.upcall);
        let peer = self.hosts.peer(upcall.peer);
        match step {
            Step::Wait(wake) => {
                self.keep(worker, call, Doing::Upcall { upcall, wake });
                return false;
            }
            Step::LookedUp(attempt) => fx.event(Event::StatdNotRegistered {
                peer: peer.address,
                attempt,
            }),
            Step::Ask => fx.push(Effect::Monitor {
                peer: peer.address,
                name: peer.name.clone(),
                private: self.hosts.private(upcall.peer),
            }),
            Step::Done(outcome) => {
                self.end_upcall(worker, now, call, &upcall, outcome, files, fx);
                return true;
            }
        }
        self.keep(worker, call, Doing::Upcall { upcall, wake: now });
        true
    }

    #[expect(clippy::too_many_arguments, reason = "a private step of one sequence")]
    fn end_upcall(
        &mut self,
        worker: usize,
        now: Now,
        call: Queued,
        upcall: &Upcall,
        outcome: UpcallOutcome,
        files: &dyn Files,
        fx: &mut Effects,
    ) {
        let peer = self.hosts.peer_mut(upcall.peer);
        let address = peer.address;
        peer.monitored = match outcome {
            UpcallOutcome::Monitored => Monitored::ByStatd { since: now },
            // Measured (6.1.0-56, 7.3.4; docs/compare.md): the first LOCK is granted after 61.6 s, every later
            // one of the same peer at once, over UDP too.
            UpcallOutcome::AsIfMonitored => Monitored::AsIf { since: now },
            _ => peer.monitored,
        };
        let took = now.saturating_sub(upcall.started);
        fx.event(Event::UpcallEnded {
            peer: address,
            outcome,
            took,
        });
        if outcome.is_success() {
            let really = outcome == UpcallOutcome::Monitored;
            fx.event(Event::HostMonitored {
                peer: address,
                really,
            });
            self.run(worker, now, call, true, files, fx);
        } else if let Queued::Call { id, .. } = call {
            fx.push(Effect::Reply {
                id,
                reply: Reply::Stat(Nlm4Stat::NLM4_DENIED_NOLOCKS),
            });
        }
    }

    /// Ends the upcalls that wait for this answer; says whether there was one.
    pub(super) fn statd_answered(
        &mut self,
        now: Now,
        peer: IpAddr,
        done: bool,
        files: &dyn Files,
        fx: &mut Effects,
    ) -> bool {
        let outcome = if done {
            UpcallOutcome::Monitored
        } else {
            UpcallOutcome::Refused
        };
        let mut waited = false;
        for worker in 0..self.workers.len() {
            if let Some((call, upcall)) = self.take_asked(worker, peer) {
                waited = true;
                self.end_upcall(worker, now, call, &upcall, outcome, files, fx);
            }
        }
        waited
    }

    /// The port mapper does not know the statd that was to be asked to monitor this peer.
    pub(super) fn statd_not_found(&mut self, now: Now, peer: IpAddr, files: &dyn Files, fx: &mut Effects) {
        for worker in 0..self.workers.len() {
            let Some((call, mut upcall)) = self.take_asked(worker, peer) else {
                continue;
            };
            match upcall.not_found(now, &self.personality.upcall) {
                Step::Done(outcome) => self.end_upcall(worker, now, call, &upcall, outcome, files, fx),
                step => {
                    if let Step::LookedUp(attempt) = step {
                        fx.event(Event::StatdNotRegistered { peer, attempt });
                    }
                    self.keep(worker, call, Doing::Upcall { upcall, wake: now });
                }
            }
        }
    }

    /// Takes out the call that waits until statd answers whether it monitors this peer.
    fn take_asked(&mut self, worker: usize, peer: IpAddr) -> Option<(Queued, Upcall)> {
        let slot = self.workers.get_mut(worker)?;
        let asked = slot.as_ref().is_some_and(|work| {
            matches!(&work.doing, Doing::Upcall { upcall, .. }
                if upcall.is_asked() && self.hosts.peer(upcall.peer).address == peer)
        });
        match slot.take_if(|_| asked)? {
            Work {
                call,
                doing: Doing::Upcall { upcall, .. },
            } => Some((call, upcall)),
            Work { .. } => None,
        }
    }

    /// Calls that wait for a worker, in order.
    pub fn queued_calls(&self) -> impl Iterator<Item = CallId> {
        self.queue.iter().filter_map(|queued| match queued {
            Queued::Call { id, .. } => Some(*id),
            Queued::PeerRebooted { .. } => None,
        })
    }

    /// Number of workers that are kept by a call.
    pub fn busy_workers(&self) -> usize {
        self.workers.iter().flatten().count()
    }
}
