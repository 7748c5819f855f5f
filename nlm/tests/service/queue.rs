//! Who goes first: the Linux order and the fair queue.

use crate::lab::*;
use nfslab_nlm::personality::{Personality, QueueOrder};
use nfslab_nlm::range::Kind;
use nfslab_nlm::request::PeerSelector;
use nfslab_nlm::service::FileCheck;

fn fair() -> Lab {
    Lab::with(Personality {
        queue: QueueOrder::Fair,
        ..Personality::default()
    })
}

/// Whether a writer gets its turn although readers come before the last one has gone.
fn writer_is_served(mut lab: Lab) -> bool {
    lab.lock(asker(2, 0).shared());
    assert_eq!(lab.lock(asker(3, 1)), BLOCKED);
    for n in 1..200 {
        lab.lock(asker(2, n).shared());
        lab.unlock(asker(2, n - 1).shared());
        if lab.held() == ["3/1 X the whole file"] {
            return true;
        }
    }
    false
}

#[test]
fn readers_can_starve_a_writer_in_the_linux_order_and_not_in_a_fair_queue() {
    assert!(!writer_is_served(Lab::new("linux-6.1")));
    assert!(writer_is_served(fair()));
    assert!(writer_is_served(Lab::new("ganesha")));
}

#[test]
fn a_lock_stands_behind_those_who_wait_or_is_denied() {
    let mut lab = fair();
    lab.lock(asker(2, 1).shared());
    assert_eq!(lab.lock(asker(3, 1)), BLOCKED);
    assert_eq!(lab.lock(asker(4, 1).shared().nb()), DENIED);
    assert_eq!(lab.test(asker(4, 1).shared()).stat, GRANTED, "nobody holds it");
    assert_eq!(lab.lock(asker(4, 1).shared()), BLOCKED);
    let ahead = lab.service.waiters(None, 9)[1].waiting_for.clone();
    assert_eq!(ahead.len(), 1);
    assert_eq!(ahead[0].queued, Some(lab.service.waiters(None, 1)[0].id));
    assert_eq!(
        lab.lock(asker(4, 1).shared()),
        BLOCKED,
        "asking again keeps the place"
    );
    assert_eq!(lab.service.waiting(), 2);
    lab.unlock(asker(2, 1));
    assert_eq!(lab.held(), ["3/1 X the whole file"]);
    lab.unlock(asker(3, 1));
    assert_eq!(lab.held(), ["4/1 S the whole file"]);
}

#[test]
fn other_bytes_other_files_and_other_readers_are_not_in_the_line() {
    let mut lab = fair();
    lab.lock(asker(2, 1).bytes(0, 10));
    assert_eq!(lab.lock(asker(3, 1).bytes(5, 10).shared()), BLOCKED);
    assert_eq!(lab.lock(asker(4, 1).bytes(10, 5).shared()), GRANTED);
    assert_eq!(lab.lock(asker(4, 2).bytes(10, 5).nb()), DENIED);
    assert_eq!(lab.lock(asker(4, 2).bytes(15, 5)), GRANTED);
    assert_eq!(lab.lock(asker(4, 2).bytes(5, 10).file("g")), GRANTED);
}

/// One who leaves the line lets those behind it go, however it leaves.
#[test]
fn who_gives_up_waiting_is_in_nobodys_way() {
    for leave in 0..4 {
        let mut lab = fair();
        lab.lock(asker(2, 1).shared());
        assert_eq!(lab.lock(asker(3, 1)), BLOCKED);
        assert_eq!(lab.lock(asker(4, 1).shared()), BLOCKED);
        match leave {
            0 => assert_eq!(lab.cancel(asker(3, 1)), GRANTED),
            1 => assert_eq!(lab.unlock(asker(3, 1)), GRANTED),
            2 => {
                lab.send(3, nfslab_nlm::request::Request::FreeAll);
            }
            _ => {
                let files = |_: &[u8], _: Kind| FileCheck::Ok;
                let which = PeerSelector::Address(address(3));
                lab.with_service(|s, now, fx| s.peer_rebooted(now, which, None, &files, fx));
            }
        }
        let held = ["2/1 S the whole file", "4/1 S the whole file"];
        assert_eq!(lab.held(), held, "by way {leave}");
    }
}

#[test]
fn an_owner_does_not_stand_behind_one_who_waits_for_it() {
    let mut lab = fair();
    lab.lock(asker(2, 1).shared());
    assert_eq!(lab.lock(asker(3, 1)), BLOCKED);
    assert_eq!(lab.lock(asker(2, 1)), GRANTED, "an upgrade");
    assert_eq!(lab.lock(asker(2, 1).shared()), GRANTED, "a downgrade");
    // The first waits for the holder, the second for the first; the third is in the second's way.
    let mut lab = fair();
    lab.lock(asker(2, 1).bytes(0, 10));
    assert_eq!(lab.lock(asker(3, 1).bytes(0, 20)), BLOCKED);
    assert_eq!(lab.lock(asker(4, 1).bytes(10, 20)), BLOCKED);
    assert_eq!(lab.lock(asker(5, 1).bytes(20, 10).nb()), DENIED);
    assert_eq!(lab.lock(asker(2, 1).bytes(20, 10).nb()), GRANTED);
    // The same, if it has to wait for a holder first.
    let mut lab = fair();
    lab.lock(asker(2, 1).bytes(0, 10));
    lab.lock(asker(5, 1).bytes(25, 5));
    assert_eq!(lab.lock(asker(3, 1).bytes(0, 20)), BLOCKED);
    assert_eq!(lab.lock(asker(4, 1).bytes(10, 20)), BLOCKED);
    assert_eq!(lab.lock(asker(2, 1).bytes(20, 10)), BLOCKED);
    lab.unlock(asker(5, 1));
    assert_eq!(lab.held(), ["2/1 X bytes 0 to 9", "2/1 X bytes 20 to 29"]);
}

/// The last one would wait for a holder who stands in line behind one who waits for it.
#[test]
fn a_deadlock_may_go_through_the_queue() {
    let ring = |lab: &mut Lab| {
        lab.lock(asker(2, 1).shared());
        lab.lock(asker(4, 1).file("g"));
        assert_eq!(lab.lock(asker(3, 1)), BLOCKED);
        let read = lab.lock(asker(4, 1).shared());
        (read, lab.lock(asker(2, 1).file("g")))
    };
    assert_eq!(ring(&mut Lab::new("linux-6.1")), (GRANTED, BLOCKED));
    let mut lab = fair();
    assert_eq!(ring(&mut lab), (BLOCKED, DEADLCK));
    lab.unlock(asker(2, 1));
    lab.unlock(asker(3, 1));
    assert_eq!(lab.held(), ["4/1 S the whole file", "4/1 X the whole file"]);
}

#[test]
fn a_reclaim_is_never_queued() {
    let mut lab = fair();
    lab.with_service(|s, now, fx| s.start_grace(now, secs(50.0), fx));
    assert_eq!(lab.lock(asker(2, 1).shared().reclaim()), GRANTED);
    // Nobody can begin to wait in a grace period, but one can begin while somebody waits.
    lab.with_service(|s, _, fx| s.end_grace(fx));
    assert_eq!(lab.lock(asker(3, 1)), BLOCKED);
    assert_eq!(lab.lock(asker(4, 1).shared().nb()), DENIED);
    lab.with_service(|s, now, fx| s.start_grace(now, secs(50.0), fx));
    assert_eq!(lab.lock(asker(4, 1).shared().reclaim()), GRANTED);
}

/// A line of many is gone through once for each that comes or goes, not once for each of its members.
#[test]
fn a_long_line_is_served_in_order() {
    let mut lab = fair();
    lab.lock(asker(2, 0));
    for svid in 1..400 {
        let a = asker(3, svid);
        assert_eq!(lab.lock(if svid % 2 == 0 { a.shared() } else { a }), BLOCKED);
    }
    lab.unlock(asker(2, 0));
    for svid in 1..400 {
        let kind = if svid % 2 == 0 { "S" } else { "X" };
        assert_eq!(lab.held(), [format!("3/{svid} {kind} the whole file")]);
        lab.unlock(asker(3, svid));
    }
}
