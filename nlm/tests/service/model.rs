//! Random calls against the service. The table is checked against bytes elsewhere; here it is about
//! waiting: every waiter has someone in its way, a wait ends only by grant, cancel, unlock or reboot, nobody
//! is granted anything twice, and in the end nothing is left over.

use crate::lab::*;
use nfslab_nlm::effect::Event;
use nfslab_nlm::personality::{DeniedGrant, Personality, QueueOrder};
use nfslab_nlm::range::Kind;
use nfslab_nlm::request::PeerSelector;
use nfslab_nlm::service::{FileCheck, LockSelector, WaiterView};
use nfslab_nlm::waiters::{BlockId, BlockState};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone)]
enum Step {
    Lock(Asker),
    Unlock(Asker),
    Cancel(Asker),
    Test(Asker),
    /// The client answers one of the callbacks that it has had.
    Answer(usize, bool),
    PeerRebooted(u8),
    /// Somebody breaks what this client, or this owner of any client, holds.
    Break(Option<u8>, Option<i32>),
    ServerRebooted,
    Wait(u32),
}

/// Clients have names of their own, since names are part of an owner for some.
fn named(client: u8, svid: i32) -> Asker {
    let name = ["two", "three", "four"][usize::from(client) - 2];
    asker(client, svid).name(name)
}

fn askers() -> impl Strategy<Value = Asker> {
    let file = prop_oneof![Just("a"), Just("b")];
    (
        2..5_u8,
        1..3,
        file,
        0..6_u64,
        0..4_u64,
        any::<bool>(),
        any::<bool>(),
        prop_oneof![60 => Just(3), 1 => Just(5), 1 => Just(7)],
    )
        .prop_map(|(client, svid, fh, offset, len, exclusive, block, state)| Asker {
            fh,
            offset,
            len,
            exclusive,
            block,
            state,
            ..named(client, svid)
        })
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        40 => askers().prop_map(Step::Lock),
        20 => askers().prop_map(Step::Unlock),
        6 => askers().prop_map(Step::Cancel),
        4 => askers().prop_map(Step::Test),
        15 => (0..100_usize, prop::bool::weighted(0.8)).prop_map(|(n, yes)| Step::Answer(n, yes)),
        2 => (2..5_u8).prop_map(Step::PeerRebooted),
        2 => (prop::option::of(2..5_u8), prop::option::of(1..3)).prop_map(|(client, svid)| Step::Break(client, svid)),
        1 => Just(Step::ServerRebooted),
        6 => (1..70_u32).prop_map(Step::Wait),
    ]
}

struct Checked {
    lab: Lab,
    seen: usize,
    granted: BTreeSet<BlockId>,
    waiting: BTreeMap<BlockId, BlockState>,
}

impl Checked {
    fn step(&mut self, step: &Step) {
        let before = self.lab.service.waiters(None, usize::MAX);
        let had_locks = match step {
            Step::Lock(a) => self.has_locks(a),
            _ => false,
        };
        let lab = &mut self.lab;
        match *step {
            Step::Lock(a) => {
                let stat = lab.lock(a);
                assert!([GRANTED, DENIED, BLOCKED, DEADLCK].contains(&stat));
                assert!(a.block || stat != BLOCKED);
                if stat == GRANTED {
                    assert_eq!(lab.test(a).stat, GRANTED);
                    if !had_locks && lab.service.personality().queue == QueueOrder::Fair {
                        let after = lab.service.waiters(None, usize::MAX);
                        assert_nobody_passed(&a, &before, &after);
                    }
                }
            }
            Step::Unlock(a) => assert_eq!(lab.unlock(a), GRANTED),
            Step::Cancel(a) => {
                lab.cancel(a);
            }
            Step::Test(a) => {
                let before = lab.held();
                lab.test(a);
                assert_eq!(lab.held(), before);
            }
            Step::Answer(n, yes) if !lab.callbacks.is_empty() => {
                let which = n % lab.callbacks.len();
                lab.granted_res(which, if yes { GRANTED } else { DENIED });
            }
            Step::Answer(..) => {}
            Step::PeerRebooted(client) => {
                let files = |_: &[u8], _: Kind| FileCheck::Ok;
                let which = PeerSelector::Address(address(client));
                lab.with_service(|s, now, fx| s.peer_rebooted(now, which, None, &files, fx));
                let peer = lab.service.peers().find(|p| p.address == address(client));
                assert!(peer.is_none_or(|p| p.locks == 0 && p.waiting == 0));
            }
            Step::Break(client, svid) => {
                let peer = client.map(|client| PeerSelector::Address(address(client)));
                let which = LockSelector {
                    peer: peer.as_ref(),
                    svid,
                    ..LockSelector::default()
                };
                let held = lab.held().len();
                let waited = before.iter().filter(|w| w.state == BlockState::Waiting).count();
                let broken = lab.with_service(|s, now, fx| s.break_locks(now, &which, fx));
                assert!(broken <= held && (client.or(svid.map(|_| 0)).is_some() || broken == held));
                let after = lab.service.waiters(None, usize::MAX);
                let kept = before.iter().filter(|b| after.iter().any(|a| a.id == b.id));
                let kept = kept.filter(|w| w.state == BlockState::Waiting).count();
                assert_eq!(kept, waited, "a request that waited is gone");
            }
            Step::ServerRebooted => {
                lab.with_service(|s, now, fx| s.server_rebooted(now, secs(0.0), fx));
                assert_eq!((lab.service.locks_held(), lab.service.waiting()), (0, 0));
            }
            Step::Wait(s) => {
                let until = lab.now.as_secs_f64() + f64::from(s);
                lab.run_until(until);
            }
        }
        self.check_waits(step);
        self.check_holders_shown();
        self.check_graph();
    }

    fn has_locks(&self, a: &Asker) -> bool {
        let (locks, _) = self.lab.service.locks(None, usize::MAX);
        let mut of = locks.iter().map(|lock| (lock.host.peer, lock.svid));
        of.any(|of| of == (address(a.client), a.svid))
    }

    /// The lab has called `LockService::check`, so every waiter has a blocker; here is how waits end.
    fn check_waits(&mut self, step: &Step) {
        let now: BTreeMap<BlockId, BlockState> = self
            .lab
            .service
            .waiters(None, usize::MAX)
            .into_iter()
            .map(|w| (w.id, w.state))
            .collect();
        let mut told = BTreeSet::new();
        let (mut deadlock, mut rebooted) = (false, false);
        for (_, event) in self.lab.events.get(self.seen..).unwrap() {
            match event {
                Event::Granted { id, .. } => {
                    assert!(self.granted.insert(*id), "{id} was granted twice");
                    told.insert(*id);
                }
                Event::GrantedToPoll { id, .. } => {
                    told.insert(*id);
                }
                Event::Deadlock { .. } => deadlock = true,
                Event::RebootInferred { .. } => rebooted = true,
                _ => {}
            }
        }
        self.seen = self.lab.events.len();
        for (id, before) in &self.waiting {
            let ended = !now.contains_key(id) || now[id] != BlockState::Waiting;
            if *before == BlockState::Waiting && ended && !told.contains(id) {
                assert!(
                    matches!(
                        step,
                        Step::Cancel(_) | Step::Unlock(_) | Step::PeerRebooted(_) | Step::ServerRebooted
                    ) || deadlock
                        || rebooted,
                    "{id} ended by {step:?}"
                );
            }
            // A grant that was given up in part, and is asked for again, begins a new wait.
            if now.get(id) == Some(&BlockState::Waiting) {
                self.granted.remove(id);
            }
        }
        self.waiting = now;
    }

    /// Whoever waits is shown with those in its way, and is not one of them.
    fn check_holders_shown(&self) {
        let waiters = self.lab.service.waiters(None, usize::MAX);
        for w in waiters.iter().filter(|w| w.state == BlockState::Waiting) {
            let own = |h: &nfslab_nlm::service::HolderView| {
                h.who.svid == w.wants.svid && h.who.peer == w.wants.host.peer
            };
            assert!(!w.waiting_for.is_empty() && !w.waiting_for.iter().any(own));
        }
    }

    /// Each request that waits has an edge to somebody else.
    fn check_graph(&self) {
        let graph = self.lab.service.wait_for(usize::MAX);
        let waiting = self
            .waiting
            .iter()
            .filter(|(_, state)| **state == BlockState::Waiting);
        let waiting: BTreeSet<BlockId> = waiting.map(|(id, _)| *id).collect();
        let edges: BTreeSet<BlockId> = graph.edges.iter().map(|edge| edge.id).collect();
        assert_eq!((graph.waiting, edges), (waiting.len(), waiting));
    }

    /// Everybody goes away in an orderly manner.
    fn end(&mut self) {
        for client in 2..5 {
            for svid in 1..3 {
                for fh in ["a", "b"] {
                    self.lab.unlock(named(client, svid).file(fh));
                }
            }
        }
        for _ in 0..3 {
            for client in 2..5 {
                self.lab.send(client, nfslab_nlm::request::Request::FreeAll);
            }
        }
        assert_eq!(
            (self.lab.service.locks_held(), self.lab.service.waiting()),
            (0, 0)
        );
        assert!(self.lab.service.peers().all(|p| p.locks == 0 && p.waiting == 0));
    }
}

/// In a fair queue nobody who held nothing got a lock that an earlier one waits for still.
fn assert_nobody_passed(a: &Asker, before: &[WaiterView], after: &[WaiterView]) {
    let range = nfslab_nlm::range::Range::from_wire(a.offset, a.len).unwrap();
    let own = |w: &WaiterView| w.wants.host.peer == address(a.client) && w.wants.svid == a.svid;
    let same = |w: &WaiterView| w.wants.range == range && w.wants.kind == Kind::from_wire(a.exclusive);
    let fh = |w: &WaiterView| w.wants.fh.as_fh().as_slice() == a.fh.as_bytes();
    let since = before.iter().find(|w| own(w) && same(w) && fh(w)).map(|w| w.id);
    for w in after {
        let waits =
            w.state == BlockState::Waiting && before.iter().any(|b| b.id == w.id && b.state == w.state);
        let earlier = since.is_none_or(|since| w.id < since);
        let conflicts =
            fh(w) && w.wants.range.overlaps(range) && w.wants.kind.conflicts(Kind::from_wire(a.exclusive));
        assert!(!(waits && earlier && conflicts && !own(w)), "{a:?} passed {w:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 3, failure_persistence: None, ..ProptestConfig::default() })]

    /// 85 runs of 150 steps: 12,750 transitions, the invariants after each.
    #[test]
    fn waiting_always_has_a_reason_and_an_end(
        steps in prop::collection::vec(steps(), 150),
        which in 0..Personality::all().len(),
        unlock in any::<bool>(),
        fair in any::<bool>(),
        reboot_by_state in any::<bool>(),
        sent in any::<bool>(),
    ) {
        let denied_grant = if unlock { DeniedGrant::Unlock } else { DeniedGrant::Leak };
        let queue = if fair { QueueOrder::Fair } else { QueueOrder::Linux };
        let personality = Personality::all()[which].clone();
        let mut lab = Lab::with(Personality { denied_grant, queue, reboot_by_state, ..personality });
        lab.callbacks_sent = Some(sent);
        let (granted, waiting) = (BTreeSet::new(), BTreeMap::new());
        let mut checked = Checked { lab, seen: 0, granted, waiting };
        steps.iter().for_each(|step| checked.step(step));
        checked.end();
    }
}
