//! What keeps the worker, and for how long: statd absent, hung, slow, failing; lockd slow and hung.
//! The figures are those measured on real servers, see the personalities.

use crate::lab::*;
use nfslab_nlm::effect::Event;
use nfslab_nlm::hosts::Monitored;
use nfslab_nlm::limits;
use nfslab_nlm::request::{PeerSelector, Request};
use nfslab_nlm::service::Lockd;
use nfslab_nlm::upcall::{Statd, UpcallOutcome};
use std::time::Duration;

fn lookups(lab: &Lab) -> Vec<f64> {
    let of =
        |(at, e): &(Duration, Event)| matches!(e, Event::StatdNotRegistered { .. }).then(|| at.as_secs_f64());
    lab.events.iter().filter_map(of).collect()
}

fn outcomes(lab: &Lab) -> Vec<UpcallOutcome> {
    let of = |(_, e): &(Duration, Event)| match e {
        Event::UpcallEnded { outcome, .. } => Some(*outcome),
        _ => None,
    };
    lab.events.iter().filter_map(of).collect()
}

#[test]
fn a_healthy_statd_keeps_nobody_waiting() {
    for name in ["linux-5.0", "linux-6.1"] {
        let mut lab = Lab::new(name);
        assert_eq!(lab.lock(asker(2, 1)), GRANTED);
        assert_eq!(lab.service.next_wakeup(), None);
    }
}

#[test]
fn linux_6_1_without_statd_grants_after_a_minute_as_if_it_monitored() {
    let mut lab = Lab::new("linux-6.1");
    lab.statd(Statd::Absent);
    let call = lab.send_lock(asker(2, 1));
    lab.run_until(61.499);
    assert!(!lab.is_answered(call));
    lab.run_until(100.0);
    assert_eq!((lab.answered(call), lab.stat(call)), (secs(61.5), GRANTED));
    let tries: Vec<f64> = (0..20).map(|n| f64::from(n) * 3.0).collect();
    assert_eq!(lookups(&lab), tries);
    let peer = lab.service.peers().next().unwrap();
    assert_eq!(peer.monitored, Monitored::AsIf { since: secs(61.5) });
    assert_eq!(lab.lock(asker(2, 2).file("b")), GRANTED, "from now on at once");
}

#[test]
fn linux_5_0_without_statd_refuses_after_six_seconds_and_every_time_again() {
    let mut lab = Lab::new("linux-5.0");
    lab.statd(Statd::Absent);
    let call = lab.send_lock(asker(2, 1));
    lab.run_until(10.0);
    assert_eq!((lab.answered(call), lab.stat(call)), (secs(6.0), NOLOCKS));
    assert_eq!(lookups(&lab), [0.0, 3.0, 6.0]);
    let call = lab.send_lock(asker(2, 1));
    lab.run_until(20.0);
    assert_eq!((lab.answered(call), lab.stat(call)), (secs(16.0), NOLOCKS));
    assert_eq!(lab.service.peers().next().unwrap().monitored, Monitored::No);
    assert_eq!(lab.service.locks_held(), 0);
}

/// A statd outside that nobody finds is looked for as one that is known to be absent, at the same times.
#[test]
fn a_real_statd_that_is_missing_is_looked_for_as_often_and_as_long() {
    for (name, after, stat, tries) in [("linux-6.1", 61.5, GRANTED, 20), ("linux-5.0", 6.0, NOLOCKS, 3)] {
        let mut lab = Lab::new(name);
        lab.statd_missing = true;
        let call = lab.send_lock(asker(2, 1));
        lab.run_until(100.0);
        assert_eq!(
            (lab.answered(call), lab.stat(call)),
            (secs(after), stat),
            "{name}"
        );
        let expected: Vec<f64> = (0..tries).map(|n| f64::from(n) * 3.0).collect();
        assert_eq!(lookups(&lab), expected, "{name}");
        // It is found on the way.
        let mut lab = Lab::new(name);
        lab.statd_missing = true;
        let call = lab.send_lock(asker(2, 1));
        lab.run_until(2.0);
        lab.statd_missing = false;
        lab.run_until(100.0);
        assert_eq!(
            (lab.answered(call), lab.stat(call)),
            (secs(3.0), GRANTED),
            "{name}"
        );
    }
}

#[test]
fn a_hung_statd_refuses_after_a_minute() {
    for name in ["linux-5.0", "linux-6.1"] {
        let mut lab = Lab::new(name);
        lab.statd(Statd::Hung);
        let call = lab.send_lock(asker(2, 1));
        lab.run_until(70.0);
        assert_eq!((lab.answered(call), lab.stat(call)), (secs(60.5), NOLOCKS));
        assert_eq!(outcomes(&lab), [UpcallOutcome::NoAnswer]);
    }
}

#[test]
fn a_slow_statd_delays_the_first_lock_unless_it_is_too_slow() {
    let mut lab = Lab::new("linux-6.1");
    lab.statd(Statd::Slow(secs(20.0)));
    let call = lab.send_lock(asker(2, 1));
    lab.run_until(30.0);
    assert_eq!((lab.answered(call), lab.stat(call)), (secs(20.0), GRANTED));
    lab.statd(Statd::Slow(secs(90.0)));
    let call = lab.send_lock(asker(3, 1).file("b"));
    lab.run_until(200.0);
    assert_eq!((lab.answered(call), lab.stat(call)), (secs(90.5), NOLOCKS));
}

#[test]
fn a_failing_statd_refuses_at_once() {
    let mut lab = Lab::new("linux-6.1");
    lab.statd(Statd::Fails);
    assert_eq!(lab.lock(asker(2, 1)), NOLOCKS);
    lab.statd(Statd::Ok);
    lab.statd_answers = Some(false);
    assert_eq!(lab.lock(asker(2, 1)), NOLOCKS);
    lab.statd_answers = Some(true);
    assert_eq!(lab.lock(asker(2, 1)), GRANTED);
    assert_eq!(
        outcomes(&lab),
        [
            UpcallOutcome::Refused,
            UpcallOutcome::Refused,
            UpcallOutcome::Monitored
        ]
    );
}

#[test]
fn a_real_statd_that_never_answers_is_given_up() {
    let mut lab = Lab::new("linux-6.1");
    lab.statd_answers = None;
    let call = lab.send_lock(asker(2, 1));
    let other = lab.send(3, Request::Null);
    lab.run_until(60.0);
    assert!(!lab.is_answered(call) && !lab.is_answered(other));
    lab.run_until(61.0);
    assert_eq!((lab.stat(call), lab.answered(other)), (NOLOCKS, secs(60.5)));
}

#[test]
fn statd_that_comes_back_is_found_by_the_next_lookup() {
    let mut lab = Lab::new("linux-6.1");
    lab.statd(Statd::Absent);
    let call = lab.send_lock(asker(2, 1));
    lab.run_until(10.0);
    lab.statd(Statd::Ok);
    assert!(!lab.is_answered(call), "not before it is looked for again");
    lab.run_until(60.0);
    assert_eq!((lab.answered(call), lab.stat(call)), (secs(12.0), GRANTED));
    assert_eq!(lab.monitor_requests, [address(2)]);
    assert_eq!(outcomes(&lab), [UpcallOutcome::Monitored]);
}

#[test]
fn statd_that_goes_on_answers_the_call_that_it_has() {
    let mut lab = Lab::new("linux-6.1");
    lab.statd(Statd::Hung);
    let call = lab.send_lock(asker(2, 1));
    lab.run_until(25.0);
    lab.statd(Statd::Ok);
    assert_eq!((lab.answered(call), lab.stat(call)), (secs(25.0), GRANTED));
}

#[test]
fn statd_may_change_in_every_way_while_it_is_asked() {
    use Statd::{Absent, Fails, Hung, Ok, Slow};
    let five = Slow(secs(5.0));
    // How it was, how it is from second 10 on, when the answer comes, and which.
    for (before, after, answered, stat) in [
        (Absent, Hung, 60.5, NOLOCKS),
        (Absent, five, 17.0, GRANTED),
        (Absent, Fails, 12.0, NOLOCKS),
        (Hung, Absent, 61.5, GRANTED),
        (Hung, five, 15.0, GRANTED),
        (Hung, Fails, 10.0, NOLOCKS),
        (Slow(secs(30.0)), Ok, 10.0, GRANTED),
        (Slow(secs(30.0)), five, 15.0, GRANTED),
        (Slow(secs(30.0)), Hung, 60.5, NOLOCKS),
        (Slow(secs(30.0)), Absent, 61.5, GRANTED),
        (Slow(secs(30.0)), Fails, 10.0, NOLOCKS),
    ] {
        let mut lab = Lab::new("linux-6.1");
        lab.statd(before);
        let call = lab.send_lock(asker(2, 1));
        lab.run_until(10.0);
        lab.statd(after);
        lab.run_until(70.0);
        assert_eq!(
            (lab.answered(call), lab.stat(call)),
            (secs(answered), stat),
            "{before:?} then {after:?}"
        );
    }
}

#[test]
fn what_is_monitored_stays_monitored() {
    let mut lab = Lab::new("linux-6.1");
    assert_eq!(lab.lock(asker(2, 1)), GRANTED);
    for statd in [Statd::Absent, Statd::Hung, Statd::Fails] {
        lab.statd(statd);
        assert_eq!(lab.lock(asker(2, 2).file("b").shared()), GRANTED);
    }
    lab.with_service(|s, _, fx| s.forget_peer(&PeerSelector::Address(address(2)), fx));
    assert_eq!(lab.lock(asker(2, 2).file("b").shared()), NOLOCKS, "statd fails");
}

#[test]
fn everyone_waits_behind_the_stalled_worker() {
    let mut lab = Lab::new("linux-6.1");
    assert_eq!(lab.lock(asker(3, 1)), GRANTED);
    lab.statd(Statd::Absent);
    let first = lab.send_lock(asker(2, 1).file("b"));
    lab.run_until(5.0);
    // A monitored peer's UNLOCK, a NULL, a TEST, a GRANTED_RES: none needs statd, all wait.
    let unlock = lab.send_unlock(asker(3, 1));
    let null = lab.send(4, Request::Null);
    let copy = lab.send_lock(asker(2, 1).file("b"));
    assert_eq!(lab.service.queued_calls().count(), 3);
    let last = lab.events.last().unwrap().1.to_string();
    assert_eq!(
        last,
        "LOCK from 10.77.0.2 waits: the lock service is busy having 10.77.0.2 monitored, 2 calls are before it"
    );
    lab.run_until(61.4);
    assert!(![first, unlock, null, copy].iter().any(|c| lab.is_answered(*c)));
    lab.run_until(62.0);
    for call in [first, unlock, null, copy] {
        assert_eq!(lab.answered(call), secs(61.5));
    }
    assert_eq!(
        (lab.stat(first), lab.stat(copy)),
        (GRANTED, GRANTED),
        "one grant for every copy"
    );
}

#[test]
fn every_copy_of_a_refused_lock_costs_a_stall_of_its_own() {
    let mut lab = Lab::new("linux-5.0");
    lab.statd(Statd::Absent);
    let copies: Vec<u64> = (0..4).map(|_| lab.send_lock(asker(2, 1))).collect();
    lab.run_until(60.0);
    let answered: Vec<f64> = copies.iter().map(|c| lab.answered(*c).as_secs_f64()).collect();
    assert_eq!(answered, [6.0, 12.0, 18.0, 24.0]);
}

#[test]
fn two_new_peers_stall_one_after_the_other_and_side_by_side_with_two_workers() {
    for (workers, second) in [(1, 121.0), (2, 60.5)] {
        let linux = nfslab_nlm::personality::Personality::default();
        let mut lab = Lab::with(nfslab_nlm::personality::Personality { workers, ..linux });
        lab.statd(Statd::Hung);
        let calls = [lab.send_lock(asker(2, 1)), lab.send_lock(asker(3, 1))];
        lab.run_until(200.0);
        assert_eq!(calls.map(|c| lab.answered(c)), [secs(60.5), secs(second)]);
    }
}

#[test]
fn a_slow_lockd_takes_its_time_for_each_call_and_a_hung_one_for_ever() {
    let mut lab = Lab::new("linux-6.1");
    lab.lockd(Lockd::Slow(secs(2.0)));
    let calls: Vec<u64> = (0..3).map(|_| lab.send(2, Request::Null)).collect();
    lab.run_until(10.0);
    assert_eq!(
        calls
            .iter()
            .map(|c| lab.answered(*c).as_secs())
            .collect::<Vec<_>>(),
        [2, 4, 6]
    );
    lab.lockd(Lockd::Hung);
    let call = lab.send(2, Request::Null);
    lab.run_until(1000.0);
    assert!(!lab.is_answered(call) && lab.service.next_wakeup().is_none());
    lab.lockd(Lockd::Ok);
    assert_eq!(lab.answered(call), secs(1000.0));
    // Cured in the middle of a slow call.
    lab.lockd(Lockd::Slow(secs(50.0)));
    let call = lab.send(2, Request::Null);
    lab.run_until(1010.0);
    lab.lockd(Lockd::Ok);
    assert_eq!(lab.answered(call), secs(1010.0));
}

#[test]
fn a_lockd_may_hang_after_some_calls() {
    let mut lab = Lab::new("linux-6.1");
    lab.lockd(Lockd::HungAfter(2));
    // The first keeps the worker for an upcall, and counts once.
    lab.statd(Statd::Slow(secs(5.0)));
    let calls = [
        lab.send_lock(asker(2, 1)),
        lab.send(3, Request::Null),
        lab.send(3, Request::Null),
    ];
    lab.run_until(1000.0);
    assert_eq!(
        (lab.answered(calls[0]), lab.answered(calls[1])),
        (secs(5.0), secs(5.0))
    );
    assert!(!lab.is_answered(calls[2]) && lab.service.next_wakeup().is_none());
    assert_eq!(
        lab.service.lockd(),
        Lockd::HungAfter(2),
        "it is named as it was set"
    );
    lab.with_service(|s, now, fx| s.server_rebooted(now, secs(0.0), fx));
    let call = lab.send(3, Request::Null);
    assert!(!lab.is_answered(call), "a reboot does not cure lockd");
    lab.lockd(Lockd::Ok);
    assert!(lab.is_answered(call));
    lab.lockd(Lockd::HungAfter(1));
    let calls = [lab.send(3, Request::Null), lab.send(3, Request::Null)];
    assert_eq!(calls.map(|call| lab.is_answered(call)), [true, false]);
}

#[test]
fn a_statd_whose_port_refuses_is_given_up_at_once() {
    let mut lab = Lab::new("linux-6.1");
    lab.statd(Statd::Refused);
    assert_eq!(lab.lock(asker(2, 1)), NOLOCKS);
    assert_eq!(outcomes(&lab), [UpcallOutcome::Unreachable]);
    // One that dies with the call that it has: the connection is reset, and the port refuses the next.
    lab.statd(Statd::Slow(secs(20.0)));
    let call = lab.send_lock(asker(2, 1));
    lab.run_until(3.0);
    lab.statd(Statd::Refused);
    assert_eq!((lab.answered(call), lab.stat(call)), (secs(3.0), NOLOCKS));
}

#[test]
fn a_slow_lockd_stalls_before_the_upcall_too() {
    let mut lab = Lab::new("linux-6.1");
    lab.lockd(Lockd::Slow(secs(2.0)));
    lab.statd(Statd::Absent);
    let call = lab.send_lock(asker(2, 1));
    lab.run_until(70.0);
    assert_eq!((lab.answered(call), lab.stat(call)), (secs(63.5), GRANTED));
}

#[test]
fn the_queue_has_an_end() {
    let mut lab = Lab::new("linux-6.1");
    lab.lockd(Lockd::Hung);
    // The checks after each call are the lab's, not the service's; they are left out here.
    let mut fx = nfslab_nlm::effect::Effects::new();
    let files = |_: &[u8], _: nfslab_nlm::range::Kind| nfslab_nlm::service::FileCheck::Ok;
    for n in 0..limits::QUEUED_CALLS as u64 + 2 {
        let call = nfslab_nlm::request::Call {
            id: nfslab_nlm::request::CallId(n),
            from: asker(2, 1).host(),
            request: &Request::Null,
            permitted: true,
        };
        assert_eq!(lab.service.call(Duration::ZERO, call, &files, &mut fx), None);
    }
    assert_eq!(lab.service.queued_calls().count(), limits::QUEUED_CALLS);
    let full = fx
        .drain()
        .filter(|e| matches!(e, nfslab_nlm::effect::Effect::Event(Event::QueueFull { .. })));
    assert_eq!(full.count(), 2);
}

#[test]
fn a_reboot_answers_none_of_the_calls_that_waited() {
    let mut lab = Lab::new("linux-6.1");
    lab.statd(Statd::Absent);
    let calls = [lab.send_lock(asker(2, 1)), lab.send(3, Request::Null)];
    lab.run_until(5.0);
    lab.with_service(|s, now, fx| s.server_rebooted(now, secs(0.0), fx));
    assert_eq!(
        lab.count(|e| *e
            == Event::ServerRebooted {
                lost: 0,
                unanswered: 2
            }),
        1
    );
    lab.run_until(200.0);
    assert!(!calls.iter().any(|c| lab.is_answered(*c)));
    assert_eq!(lab.service.statd(), Statd::Absent, "a reboot does not cure statd");
}

#[test]
fn a_late_copy_of_a_lock_locks_again_after_the_unlock() {
    // Without a duplicate request cache a delayed copy is a call of its own, and nobody will unlock it.
    let mut lab = Lab::new("linux-6.1");
    assert_eq!(lab.lock(asker(2, 1)), GRANTED);
    assert_eq!(lab.unlock(asker(2, 1)), GRANTED);
    assert_eq!(lab.lock(asker(2, 1)), GRANTED);
    assert_eq!(lab.held(), ["2/1 X the whole file"]);
    assert_eq!(lab.lock(asker(3, 1).nb()), DENIED);
}

#[test]
fn news_of_a_reboot_waits_for_the_worker_like_any_call() {
    let mut lab = Lab::new("linux-6.1");
    lab.lock(asker(3, 1));
    lab.statd(Statd::Hung);
    lab.send_lock(asker(2, 1).file("b"));
    let files = |_: &[u8], _: nfslab_nlm::range::Kind| nfslab_nlm::service::FileCheck::Ok;
    let which = PeerSelector::Address(address(3));
    lab.with_service(|s, now, fx| s.peer_rebooted(now, which, Some(5), &files, fx));
    assert_eq!(lab.service.locks_held(), 1);
    lab.run_until(61.0);
    assert_eq!(lab.service.locks_held(), 0);
}
