//! The table as an administrator sees it: listed in pages, and with locks given away by hand.

use crate::lab::*;
use nfslab_nlm::effect::{Effects, Event};
use nfslab_nlm::personality::{Personality, QueueOrder};
use nfslab_nlm::range::Kind;
use nfslab_nlm::request::{Call, CallId, PeerSelector, Reply, Request};
use nfslab_nlm::service::{FileCheck, LockSelector, LockService};
use nfslab_nlm::table::Fh;
use proto::nlm::{LockArgs, Netobj, UnlockArgs};
use std::time::Duration;

fn broken(lab: &mut Lab, which: &LockSelector<'_>) -> usize {
    lab.with_service(|s, now, fx| s.break_locks(now, which, fx))
}

fn file_is(name: &'static str) -> impl Fn(Fh<'_>) -> bool {
    move |fh| fh.as_slice() == name.as_bytes()
}

/// Two clients with two owners each, on two files, and somebody who waits for all of it.
fn busy() -> Lab {
    let mut lab = Lab::new("linux-6.1");
    for (client, svid) in [(2, 1), (2, 2), (3, 1), (3, 2)] {
        for file in ["f", "g"] {
            let at = u64::from(client) * 10 + svid as u64;
            let a = asker(client, svid).bytes(at, 1).file(file);
            assert_eq!(lab.lock(a), GRANTED);
        }
    }
    lab
}

#[test]
fn what_is_broken_is_chosen_by_file_peer_and_owner_in_any_combination() {
    let (f, two, three) = (
        file_is("f"),
        PeerSelector::Address(address(2)),
        PeerSelector::Address(address(3)),
    );
    let client = PeerSelector::Name("client".into());
    let stranger = PeerSelector::Name("stranger".into());
    let all = LockSelector::default();
    let on_f = LockSelector {
        file: Some(("/lab/f", &f)),
        ..all
    };
    let by = |peer| LockSelector {
        peer: Some(peer),
        ..all
    };
    let svid = |svid, of: LockSelector<'static>| LockSelector {
        svid: Some(svid),
        ..of
    };
    let cases = [
        (all, 8, "8 locks broken"),
        (on_f, 4, "4 locks on /lab/f broken"),
        (by(&two), 4, "4 locks of 10.77.0.2 broken"),
        (by(&client), 8, "8 locks of client broken"),
        (by(&stranger), 0, "0 locks of stranger broken"),
        (svid(2, all_static()), 4, "4 locks of owner 2 broken"),
        (
            LockSelector {
                peer: Some(&three),
                svid: Some(1),
                ..on_f
            },
            1,
            "1 locks on /lab/f of 10.77.0.3 of owner 1 broken",
        ),
        (svid(7, all_static()), 0, "0 locks of owner 7 broken"),
    ];
    for (which, expected, sentence) in cases {
        let mut lab = busy();
        assert_eq!(broken(&mut lab, &which), expected, "{which}");
        assert_eq!(lab.service.locks_held(), 8 - expected, "{which}");
        let told = lab.events.last().unwrap().1.to_string();
        assert!(told.starts_with(sentence), "{told}");
    }
}

fn all_static() -> LockSelector<'static> {
    LockSelector::default()
}

#[test]
fn whoever_waits_for_a_broken_lock_is_granted_and_the_other_waits_stay() {
    for queue in [QueueOrder::Linux, QueueOrder::Fair] {
        let mut lab = Lab::with(Personality {
            queue,
            ..Personality::default()
        });
        lab.lock(asker(2, 1));
        lab.lock(asker(4, 1).file("g"));
        assert_eq!(lab.lock(asker(3, 1)), BLOCKED);
        assert_eq!(lab.lock(asker(3, 2)), BLOCKED);
        assert_eq!(lab.lock(asker(2, 1).file("g")), BLOCKED);
        let two = PeerSelector::Address(address(2));
        let which = LockSelector {
            peer: Some(&two),
            ..LockSelector::default()
        };
        assert_eq!(broken(&mut lab, &which), 1);
        let held = ["3/1 X the whole file", "4/1 X the whole file"];
        assert_eq!(lab.held(), held);
        assert_eq!(lab.callbacks.len(), 1, "and is told");
        assert_eq!(lab.service.waiting(), 3, "the grant, and two that wait");
        assert_eq!(lab.unlock(asker(2, 1)), GRANTED, "it does not know");
        assert_eq!(lab.held(), held);
    }
}

/// A grant that was broken is not announced again.
#[test]
fn a_broken_grant_is_forgotten() {
    let mut lab = Lab::new("linux-6.1");
    lab.lock(asker(2, 1));
    assert_eq!(lab.lock(asker(3, 1)), BLOCKED);
    lab.unlock(asker(2, 1));
    assert_eq!(broken(&mut lab, &LockSelector::default()), 1);
    assert_eq!((lab.service.waiting(), lab.service.locks_held()), (0, 0));
    lab.run_until(200.0);
    assert_eq!(lab.count(|e| matches!(e, Event::GrantRepeated { .. })), 0);
}

/// Enough for a hundred pages; `make bench` lists a million.
const LOCKS: u64 = 100_000;

struct Table {
    service: LockService,
    fx: Effects,
    calls: u64,
}

impl Table {
    fn call(&mut self, request: Request<'_>) {
        self.calls += 1;
        let call = Call {
            id: CallId(self.calls),
            from: asker(2, 0).host(),
            request: &request,
            permitted: true,
        };
        let files = |_: &[u8], _: Kind| FileCheck::Ok;
        let reply = self.service.call(Duration::ZERO, call, &files, &mut self.fx);
        assert_eq!(reply, Some(Reply::Stat(GRANTED)));
    }

    /// Byte n of its file, for an owner of its own; a hundred of them to a file.
    fn set(&mut self, n: u64, locked: bool) {
        let (file, owner) = ((n / 100).to_be_bytes(), asker(2, 0));
        let mut alock = owner.alock();
        alock.fh = Netobj::from(&file[..]);
        (alock.svid, alock.l_offset, alock.l_len) = (n as i32, n, 1);
        let cookie = Netobj::default();
        self.call(match locked {
            true => Request::NmLock(LockArgs {
                cookie,
                block: false,
                exclusive: true,
                alock,
                reclaim: false,
                state: 0,
            }),
            false => Request::Unlock(UnlockArgs { cookie, alock }),
        });
    }
}

/// Every lock that stays is seen once, however many come and go between the pages.
#[test]
fn many_locks_are_listed_in_pages_while_others_come_and_go() {
    let service = LockService::new(Personality::default());
    let (fx, calls) = (Effects::new(), 0);
    let mut table = Table { service, fx, calls };
    let stays = |n: u64| n % 10 != 7;
    (0..LOCKS).for_each(|n| table.set(n, true));
    let (mut seen, mut after, mut pages) = (vec![false; 2 * LOCKS as usize], None, 0);
    loop {
        let (page, next) = table.service.locks(after, 1_000);
        assert!(page.len() <= 1_000);
        for lock in &page {
            let before = std::mem::replace(&mut seen[lock.svid as usize], true);
            assert!(!before, "{lock:?} came twice");
        }
        pages += 1;
        let Some(next) = next else { break };
        after = Some(next.to_string().parse().unwrap());
        // Some go, before and behind the place; some come, in old files and in new ones.
        for n in 0..50 {
            let gone = (pages * 1_007 + n * 1_000) % LOCKS / 10 * 10 + 7;
            if n % 2 == 0 {
                table.set(gone, true);
            } else {
                table.set(gone, false);
            }
            table.set(LOCKS + pages * 50 + n, true);
        }
    }
    let missed = (0..LOCKS).filter(|n| stays(*n) && !seen[*n as usize]);
    assert_eq!(missed.count(), 0);
    assert!(pages >= 100);
}

fn forget(lab: &mut Lab, which: &LockSelector<'_>) -> usize {
    lab.with_service(|s, _, fx| s.forget_locks(which, fx))
}

#[test]
fn a_forgotten_lock_is_free_and_who_waits_for_it_learns_of_it_by_asking_again() {
    for queue in [QueueOrder::Linux, QueueOrder::Fair] {
        let mut lab = Lab::with(Personality {
            queue,
            ..Personality::default()
        });
        lab.lock(asker(2, 1));
        assert_eq!(lab.lock(asker(3, 1)), BLOCKED);
        assert_eq!(lab.lock(asker(4, 1)), BLOCKED);
        let two = PeerSelector::Address(address(2));
        let which = LockSelector {
            peer: Some(&two),
            ..LockSelector::default()
        };
        assert_eq!(forget(&mut lab, &which), 1);
        assert!(
            lab.events
                .last()
                .unwrap()
                .1
                .to_string()
                .contains("has lost 1 locks of 10.77.0.2")
        );
        lab.run_until(300.0);
        assert_eq!(
            (lab.held().len(), lab.callbacks.len(), lab.service.waiting()),
            (0, 0, 2)
        );
        assert_eq!(lab.lock(asker(3, 1)), GRANTED, "the client asks every 30 s");
        assert_eq!(lab.service.waiting(), 1);
        assert_eq!(lab.unlock(asker(3, 1)), GRANTED);
        assert_eq!(lab.callbacks.len(), 1, "from here on all is as ever");
        assert_eq!(lab.held(), ["4/1 X the whole file"]);
        assert_eq!(forget(&mut lab, &LockSelector::default()), 1);
        assert_eq!(
            lab.service.waiting(),
            0,
            "a grant that was forgotten is not announced again"
        );
    }
}

#[test]
fn a_leaked_lock_belongs_to_nobody_until_it_is_broken() {
    let mut lab = Lab::new("linux-6.1");
    let range = nfslab_nlm::range::Range::from_wire(10, 10).unwrap();
    let leak = |lab: &mut Lab, kind| {
        let f = Fh::new(b"f").unwrap();
        lab.with_service(|s, now, fx| s.leak(now, f, range, kind, None, fx))
    };
    assert_eq!(leak(&mut lab, Kind::Exclusive), Ok(1));
    let error = leak(&mut lab, Kind::Shared).unwrap_err().to_string();
    assert!(
        error.starts_with("orphan (0.0.0.0) owner 1 holds a lock"),
        "{error}"
    );
    assert_eq!(lab.lock(asker(2, 1).bytes(0, 10).nb()), GRANTED);
    assert_eq!(lab.lock(asker(2, 1).nb()), DENIED);
    assert_eq!(lab.lock(asker(2, 1)), BLOCKED);
    let waits_for = lab.service.waiters(None, 1).remove(0).waiting_for.remove(0).who;
    assert_eq!(waits_for.name.to_string(), nfslab_nlm::service::ORPHAN);
    let orphan = PeerSelector::Name("orphan".into());
    let which = LockSelector {
        peer: Some(&orphan),
        ..LockSelector::default()
    };
    assert_eq!(broken(&mut lab, &which), 1);
    assert_eq!(lab.callbacks.len(), 1);
    lab.with_service(|s, now, fx| s.server_rebooted(now, Duration::ZERO, fx));
    assert_eq!(
        (leak(&mut lab, Kind::Shared), leak(&mut lab, Kind::Shared)),
        (Ok(1), Ok(2))
    );
    lab.with_service(|s, now, fx| s.server_rebooted(now, Duration::ZERO, fx));
    assert_eq!(lab.held().len(), 0, "a reboot buries them");
}

#[test]
fn locks_that_conflict_are_granted_as_often_as_asked_for() {
    let mut lab = Lab::new("linux-6.1");
    let due = |lab: &mut Lab, count| {
        lab.with_service(|s, now, fx| s.double_grant(now, Fh::new(b"f").unwrap(), count, None, fx));
    };
    assert_eq!(lab.lock(asker(2, 1)), GRANTED);
    assert_eq!(lab.lock(asker(5, 1)), BLOCKED);
    due(&mut lab, 2);
    assert_eq!(lab.lock(asker(2, 1)), GRANTED, "no conflict, no double grant");
    assert_eq!(lab.lock(asker(2, 9).file("g")), GRANTED);
    assert_eq!(lab.lock(asker(3, 9).file("g").nb()), DENIED, "not on this file");
    assert_eq!(lab.lock(asker(3, 1).nb()), GRANTED);
    assert_eq!(lab.lock(asker(5, 1)), GRANTED, "one that waits and asks again");
    assert_eq!(lab.service.waiting(), 0);
    assert_eq!(lab.lock(asker(4, 1).nb()), DENIED, "that was all");
    assert_eq!(lab.count(|e| matches!(e, Event::DoublyGranted { .. })), 2);
    assert_eq!(lab.held(), ["2/1 X the whole file", "2/9 X the whole file"]);
    assert_eq!(
        lab.unlock(asker(3, 1)),
        GRANTED,
        "as of any lock that is not there"
    );
    assert_eq!(lab.held().len(), 2);
    due(&mut lab, 1);
    due(&mut lab, 0);
    assert_eq!(lab.lock(asker(3, 1).nb()), DENIED);
    due(&mut lab, 1);
    lab.with_service(|s, now, fx| s.server_rebooted(now, Duration::ZERO, fx));
    assert_eq!(lab.lock(asker(2, 1)), GRANTED);
    assert_eq!(lab.lock(asker(3, 1).nb()), DENIED, "forgotten with the table");
}

#[test]
fn a_leaked_lock_that_lasts_for_a_time_is_given_back_after_it() {
    let mut lab = Lab::new("linux-6.1");
    let leak = |lab: &mut Lab, lasts: Option<u64>| {
        let range = nfslab_nlm::range::Range::from_wire(0, 0).unwrap();
        let (f, lasts) = (Fh::new(b"f").unwrap(), lasts.map(Duration::from_secs));
        lab.with_service(|s, now, fx| s.leak(now, f, range, Kind::Shared, lasts, fx))
    };
    assert_eq!(
        [
            leak(&mut lab, Some(20)),
            leak(&mut lab, None),
            leak(&mut lab, Some(10))
        ],
        [Ok(1), Ok(2), Ok(3)]
    );
    assert_eq!(lab.lock(asker(2, 1)), BLOCKED);
    lab.run_until(9.9);
    assert_eq!(lab.held().len(), 3);
    lab.run_until(10.0);
    assert_eq!(lab.count(|e| matches!(e, Event::OrphanGone { svid: 3 })), 1);
    lab.lockd(nfslab_nlm::service::Lockd::Hung);
    lab.run_until(20.0);
    assert_eq!(lab.held().len(), 1, "whatever state lockd is in");
    lab.lockd(nfslab_nlm::service::Lockd::Ok);
    assert_eq!(lab.callbacks.len(), 0, "one lasts");
    assert_eq!(broken(&mut lab, &LockSelector::default()), 1);
    assert_eq!(lab.callbacks.len(), 1);

    // What is gone already is not given back again, and another of the same number after a reboot is another.
    lab.with_service(|s, now, fx| s.server_rebooted(now, Duration::ZERO, fx));
    assert_eq!(leak(&mut lab, Some(10)), Ok(1));
    assert_eq!(broken(&mut lab, &LockSelector::default()), 1);
    assert_eq!(leak(&mut lab, Some(10)), Ok(2));
    lab.with_service(|s, now, fx| s.server_rebooted(now, Duration::ZERO, fx));
    assert_eq!((leak(&mut lab, None), leak(&mut lab, Some(30))), (Ok(1), Ok(2)));
    lab.run_until(40.0);
    assert_eq!(lab.held().len(), 2);
    assert_eq!(lab.lock(asker(3, 1)), BLOCKED);
    lab.run_until(50.0);
    assert_eq!((lab.held().len(), lab.service.waiting()), (1, 1));
    assert_eq!(lab.count(|e| matches!(e, Event::OrphanGone { .. })), 3);
}

#[test]
fn a_leaked_lock_whose_time_is_over_goes_to_whoever_waits() {
    let mut lab = Lab::new("linux-6.1");
    let range = nfslab_nlm::range::Range::from_wire(0, 0).unwrap();
    let (f, lasts) = (Fh::new(b"f").unwrap(), Some(Duration::from_secs(10)));
    let leaked = lab.with_service(|s, now, fx| s.leak(now, f, range, Kind::Exclusive, lasts, fx));
    assert_eq!(leaked, Ok(1));
    assert_eq!(lab.lock(asker(2, 1)), BLOCKED);
    lab.run_until(10.0);
    assert_eq!(lab.callbacks.len(), 1);
    assert_eq!(lab.held(), ["2/1 X the whole file"]);
}

#[test]
fn double_grants_that_have_a_time_are_forgotten_after_it() {
    let mut lab = Lab::new("linux-6.1");
    let due = |lab: &mut Lab, file: &str, lasts: Option<u64>| {
        let (fh, lasts) = (Fh::new(file.as_bytes()).unwrap(), lasts.map(Duration::from_secs));
        lab.with_service(|s, now, fx| s.double_grant(now, fh, 5, lasts, fx));
    };
    let forgotten = |lab: &Lab| lab.count(|e| matches!(e, Event::DoubleGrantsDue { count: 0, .. }));
    for file in ["f", "g", "h"] {
        assert_eq!(lab.lock(asker(2, 1).file(file)), GRANTED);
        due(&mut lab, file, Some(10));
    }
    due(&mut lab, "g", Some(20));
    due(&mut lab, "h", None);
    lab.run_until(9.9);
    assert_eq!(lab.lock(asker(3, 1).nb()), GRANTED);
    lab.run_until(10.0);
    assert_eq!(forgotten(&lab), 1);
    assert_eq!(lab.lock(asker(3, 1).nb()), DENIED);
    assert_eq!(lab.lock(asker(3, 1).file("g").nb()), GRANTED, "it was set anew");
    lab.run_until(20.0);
    assert_eq!(lab.lock(asker(3, 1).file("g").nb()), DENIED);
    due(&mut lab, "f", Some(10));
    lab.with_service(|s, now, fx| s.server_rebooted(now, Duration::ZERO, fx));
    assert_eq!(lab.lock(asker(2, 1)), GRANTED);
    due(&mut lab, "f", None);
    lab.run_until(60.0);
    assert_eq!(
        lab.lock(asker(3, 1).nb()),
        GRANTED,
        "the reboot ended the time of the older one"
    );
    assert_eq!(forgotten(&lab), 2);
}
