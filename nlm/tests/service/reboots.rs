//! A client that rebooted without a word, and shows it by the state number in its next LOCK.

use crate::lab::*;
use nfslab_nlm::effect::Event;
use nfslab_nlm::personality::{HostBy, OwnerKey, Personality};
use nfslab_nlm::range::Kind;
use nfslab_nlm::request::{PeerSelector, Request};
use nfslab_nlm::service::FileCheck;
use proto::nlm::{LockArgs, Netobj};

fn believing() -> Lab {
    Lab::with(Personality {
        reboot_by_state: true,
        ..Personality::default()
    })
}

fn inferred(lab: &Lab) -> usize {
    lab.count(|e| matches!(e, Event::RebootInferred { .. }))
}

#[test]
fn a_newer_state_frees_what_the_client_held_before_its_lock_is_taken() {
    let mut lab = believing();
    lab.lock(asker(2, 1).state(3));
    lab.lock(asker(2, 2).file("g").state(3));
    assert_eq!(lab.lock(asker(3, 1)), BLOCKED);
    assert_eq!(lab.lock(asker(2, 1).file("h").state(5)), GRANTED);
    assert_eq!(lab.held(), ["3/1 X the whole file", "2/1 X the whole file"]);
    assert_eq!(lab.callbacks.len(), 1, "who waited for it is granted");
    let sentences: Vec<String> = lab.events.iter().map(|(_, e)| e.to_string()).collect();
    let expected = "client (10.77.0.2) must have rebooted, for its state is 5 now: 2 locks freed, 0 waiting \
                    requests dropped";
    assert!(sentences.iter().any(|s| s == expected), "{sentences:?}");
}

#[test]
fn what_waits_is_dropped_too_and_others_are_not_touched() {
    let mut lab = believing();
    lab.lock(asker(3, 1));
    assert_eq!(lab.lock(asker(2, 1)), BLOCKED);
    assert_eq!(lab.lock(asker(2, 7).file("g").state(5)), GRANTED);
    assert_eq!((lab.service.waiting(), lab.service.locks_held()), (0, 2));
}

#[test]
fn the_same_an_older_and_no_state_are_no_news() {
    let mut lab = believing();
    lab.lock(asker(2, 1).state(5));
    // A copy from before the reboot, and clients without a status monitor.
    for (svid, state) in [(2, 5), (3, 3), (4, 0), (5, 5)] {
        let a = asker(2, svid).bytes(svid as u64, 1).file("g").state(state);
        assert_eq!(lab.lock(a), GRANTED);
    }
    assert_eq!((lab.service.locks_held(), inferred(&lab)), (5, 0));
    // The number comes around.
    let mut lab = believing();
    lab.lock(asker(2, 1).state(i32::MAX));
    lab.lock(asker(2, 1).file("g").state(i32::MIN + 1));
    assert_eq!((lab.service.locks_held(), inferred(&lab)), (1, 1));
}

#[test]
fn linux_believes_its_status_monitor_only() {
    let mut lab = Lab::new("linux-6.1");
    lab.lock(asker(2, 1).state(3));
    lab.lock(asker(2, 1).file("g").state(5));
    assert_eq!((lab.service.locks_held(), inferred(&lab)), (2, 0));
    assert_eq!(lab.service.peers().next().unwrap().state, None);
}

#[test]
fn the_news_that_comes_after_the_lock_is_old() {
    let files = |_: &[u8], _: Kind| FileCheck::Ok;
    let mut lab = believing();
    lab.lock(asker(2, 1).state(3));
    lab.lock(asker(2, 1).file("g").state(5));
    for (state, held) in [(5, 1), (7, 0)] {
        let which = PeerSelector::Address(address(2));
        lab.with_service(|s, now, fx| s.peer_rebooted(now, which, Some(state), &files, fx));
        assert_eq!(lab.service.locks_held(), held, "SM_NOTIFY with state {state}");
    }
}

#[test]
fn an_unmonitored_lock_tells_its_state_too() {
    let mut lab = believing();
    lab.lock(asker(2, 1).state(3));
    let a = asker(2, 1).file("g");
    let args = LockArgs {
        cookie: Netobj::default(),
        block: false,
        exclusive: true,
        alock: a.alock(),
        reclaim: false,
        state: 5,
    };
    lab.send(2, Request::NmLock(args));
    assert_eq!((lab.service.locks_held(), inferred(&lab)), (1, 1));
}

/// Two clients behind one address do not free each other's locks if it is their names that count.
#[test]
fn a_name_has_a_state_of_its_own() {
    for host in [HostBy::CallerName, HostBy::AddressAndCallerName] {
        let mut lab = Lab::with(Personality {
            reboot_by_state: true,
            owner_key: OwnerKey { host, oh: false },
            ..Personality::default()
        });
        lab.lock(asker(2, 1).name("one").state(3));
        lab.lock(asker(2, 1).name("two").file("g").state(9));
        assert_eq!(lab.service.locks_held(), 2);
        lab.lock(asker(2, 1).name("one").file("h").state(5));
        assert_eq!((lab.service.locks_held(), inferred(&lab)), (2, 1));
        lab.lock(asker(2, 1).name("two").file("i").state(11));
        assert_eq!((lab.service.locks_held(), inferred(&lab)), (2, 2));
    }
}

#[test]
fn names_and_addresses_may_both_count() {
    let mut lab = Lab::new("ganesha");
    let first = asker(2, 1).name("one").nb();
    assert_eq!(lab.lock(first), GRANTED);
    assert_eq!(lab.lock(first), GRANTED);
    assert_eq!(lab.lock(Asker { client: 3, ..first }), DENIED);
    assert_eq!(lab.lock(first.name("two")), DENIED);
    assert_eq!(lab.lock(Asker { oh: "b", ..first }), DENIED);
    assert_eq!(lab.unlock(first.name("two")), GRANTED);
    assert_eq!(lab.service.locks_held(), 1, "another name unlocks nothing");
    assert_eq!(lab.unlock(first), GRANTED);
    assert_eq!(lab.service.locks_held(), 0);
}
