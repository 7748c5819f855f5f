//! What each procedure answers, with a healthy statd.

use crate::lab::*;
use nfslab_nlm::personality::{DeniedGrant, HolderShown, HostBy, MonitorPolicy, OwnerKey, Personality};
use nfslab_nlm::range::{Kind, OFFSET_MAX};
use nfslab_nlm::request::{PeerSelector, Request};
use nfslab_nlm::service::{FileCheck, Lockd};
use proto::nlm::Nlm4Stat;

fn lab() -> Lab {
    Lab::new("linux-6.1")
}

#[test]
fn a_lock_is_granted_once_and_given_back() {
    let mut lab = lab();
    assert_eq!(lab.lock(asker(2, 1)), GRANTED);
    assert_eq!(lab.held(), ["2/1 X the whole file"]);
    assert_eq!(lab.lock(asker(3, 1).nb()), DENIED);
    assert_eq!(lab.unlock(asker(2, 1)), GRANTED);
    assert_eq!(lab.service.locks_held(), 0);
    assert_eq!(lab.unlock(asker(2, 1)), GRANTED, "unlocking nothing succeeds");
    assert_eq!(lab.lock(asker(3, 1).nb()), GRANTED);
}

#[test]
fn locking_again_in_another_kind_changes_the_kind() {
    // A server of another make ignored the kind when re-locking (chimera #1096).
    let mut lab = lab();
    assert_eq!(lab.lock(asker(2, 1).shared()), GRANTED);
    assert_eq!(lab.lock(asker(3, 1).shared()), GRANTED);
    assert_eq!(lab.lock(asker(2, 1).nb()), DENIED);
    assert_eq!(lab.unlock(asker(3, 1)), GRANTED);
    assert_eq!(lab.lock(asker(2, 1).nb()), GRANTED);
    assert_eq!(lab.held(), ["2/1 X the whole file"]);
    assert_eq!(lab.lock(asker(2, 1).shared()), GRANTED);
    assert_eq!(lab.held(), ["2/1 S the whole file"]);
}

#[test]
fn an_unlock_need_not_have_the_range_of_the_lock() {
    // A server of another make wanted the exact range (chimera #1097).
    let mut lab = lab();
    assert_eq!(lab.lock(asker(2, 1).bytes(0, 10)), GRANTED);
    assert_eq!(lab.unlock(asker(2, 1).bytes(3, 2)), GRANTED);
    assert_eq!(lab.held(), ["2/1 X bytes 0 to 2", "2/1 X bytes 5 to 9"]);
    assert_eq!(lab.unlock(asker(2, 1)), GRANTED);
    assert_eq!(lab.service.locks_held(), 0);
}

#[test]
fn a_range_that_does_not_fit_is_refused_before_anything_else() {
    let mut lab = lab();
    lab.file = FileCheck::Refuse(Nlm4Stat::NLM4_STALE_FH);
    for (offset, len) in [(OFFSET_MAX + 1, 0), (OFFSET_MAX, 2), (1, u64::MAX)] {
        let bad = asker(2, 1).bytes(offset, len);
        assert_eq!(lab.lock(bad), Nlm4Stat::NLM4_FBIG);
        assert_eq!(lab.unlock(bad), Nlm4Stat::NLM4_FBIG);
        assert_eq!(lab.cancel(bad), Nlm4Stat::NLM4_FBIG);
        assert_eq!(lab.test(bad).stat, Nlm4Stat::NLM4_FBIG);
    }
    assert!(lab.monitor_requests.is_empty());
}

#[test]
fn the_file_is_looked_at_after_the_host_is_monitored() {
    let mut lab = lab();
    lab.file = FileCheck::Refuse(Nlm4Stat::NLM4_STALE_FH);
    assert_eq!(lab.lock(asker(2, 1)), Nlm4Stat::NLM4_STALE_FH);
    assert_eq!(lab.monitor_requests, [address(2)]);
    lab.file = FileCheck::Drop;
    let call = lab.send_lock(asker(2, 1));
    assert!(!lab.is_answered(call));
    assert_eq!(
        lab.events.last().unwrap().1.to_string(),
        "LOCK dropped without an answer: its file cannot be had now"
    );
    lab.file = FileCheck::Ok;
    let long = asker(2, 1).file("a file handle of more than sixty-four bytes, which NFSv3 does not allow");
    assert_eq!(lab.lock(long), Nlm4Stat::NLM4_STALE_FH);
}

#[test]
fn a_host_with_a_slash_in_its_name_gets_no_locks() {
    let mut lab = lab();
    assert_eq!(
        lab.lock(Asker {
            name: "../evil",
            ..asker(2, 1)
        }),
        NOLOCKS
    );
    assert_eq!(lab.service.peers().count(), 0);
    // But whoever is known already may call itself what it likes.
    assert_eq!(lab.lock(asker(2, 1)), GRANTED);
    assert_eq!(
        lab.lock(Asker {
            name: "../evil",
            ..asker(2, 1)
        }),
        GRANTED
    );
}

#[test]
fn who_may_not_read_a_file_cannot_lock_it_nor_have_anything_else_done() {
    let mut lab = lab();
    lab.permitted = false;
    assert_eq!(lab.lock(asker(1, 1)), Nlm4Stat::NLM4_FAILED);
    assert_eq!(lab.unlock(asker(1, 1)), Nlm4Stat::NLM4_FAILED);
    // Nor if the call had to wait for its turn.
    lab.lockd(Lockd::Hung);
    let late = lab.send_lock(asker(1, 1));
    lab.permitted = true;
    lab.lockd(Lockd::Ok);
    assert_eq!(lab.stat(late), Nlm4Stat::NLM4_FAILED);
    // A file that is not there is something else.
    lab.permitted = false;
    lab.file = FileCheck::Refuse(Nlm4Stat::NLM4_STALE_FH);
    assert_eq!(lab.lock(asker(1, 1)), Nlm4Stat::NLM4_STALE_FH);
}

#[test]
fn a_test_names_the_lock_in_the_way_but_not_its_owner() {
    let mut lab = lab();
    lab.lock(
        Asker {
            oh: "7@client",
            ..asker(2, 7)
        }
        .bytes(10, 0),
    );
    let denied = lab.test(asker(3, 1).shared());
    let holder = denied.holder.clone().unwrap();
    assert_eq!(
        (denied.stat, holder.svid, holder.oh.as_slice()),
        (DENIED, 1, &b""[..])
    );
    assert_eq!((holder.kind, holder.range.to_wire()), (Kind::Exclusive, (10, 0)));
    assert_eq!(denied.to_wire("c".into()).holder.unwrap().l_len, 0);
    assert_eq!(lab.test(asker(3, 1).bytes(0, 10)).stat, GRANTED);
    assert_eq!(
        lab.test(asker(2, 7)).stat,
        GRANTED,
        "one's own lock is not in the way"
    );
}

#[test]
fn a_personality_may_name_the_owner() {
    let mut lab = Lab::with(Personality {
        holder_shown: HolderShown::Owner,
        ..Personality::default()
    });
    lab.lock(Asker {
        oh: "7@client",
        ..asker(2, 7)
    });
    let holder = lab.test(asker(3, 1)).holder.unwrap();
    assert_eq!((holder.svid, holder.oh.as_slice()), (7, &b"7@client"[..]));
}

#[test]
fn linux_owners_are_addresses_and_svids_whatever_the_names() {
    let mut lab = lab();
    assert_eq!(
        lab.lock(Asker {
            oh: "a",
            name: "one",
            ..asker(2, 1)
        }),
        GRANTED
    );
    // Two machines behind one address translation, with equal svids: both have it.
    assert_eq!(
        lab.lock(Asker {
            oh: "b",
            name: "two",
            ..asker(2, 1)
        }),
        GRANTED
    );
    assert_eq!(lab.service.locks_held(), 1);
    assert_eq!(lab.lock(asker(2, 2).nb()), DENIED);
}

#[test]
fn owners_by_name_and_handle() {
    let owner_key = OwnerKey {
        host: HostBy::CallerName,
        oh: true,
    };
    let mut lab = Lab::with(Personality {
        owner_key,
        ..Personality::default()
    });
    let first = Asker {
        oh: "a",
        name: "one",
        ..asker(2, 1)
    }
    .nb();
    assert_eq!(lab.lock(first), GRANTED);
    assert_eq!(
        lab.lock(Asker { client: 3, ..first }),
        GRANTED,
        "the address does not matter"
    );
    assert_eq!(lab.lock(Asker { oh: "b", ..first }), DENIED);
    assert_eq!(lab.lock(Asker { name: "two", ..first }), DENIED);
    assert_eq!(lab.unlock(Asker { oh: "b", ..first }), GRANTED);
    assert_eq!(lab.service.locks_held(), 1, "another handle unlocks nothing");
    assert_eq!(lab.unlock(Asker { client: 3, ..first }), GRANTED);
    assert_eq!(lab.service.locks_held(), 0);
}

#[test]
fn in_the_grace_period_only_reclaims_are_heard() {
    let mut lab = lab();
    lab.with_service(|s, now, fx| s.server_rebooted(now, secs(50.0), fx));
    assert_eq!(lab.lock(asker(2, 1)), GRACE);
    assert_eq!(lab.unlock(asker(2, 1)), GRACE);
    assert_eq!(lab.cancel(asker(2, 1)), GRACE);
    assert_eq!(lab.test(asker(2, 1)).stat, GRACE);
    assert_eq!(lab.lock(asker(2, 1).reclaim()), GRANTED);
    // A server of another make let a reclaim through whatever stood in its way (nfs-mamont).
    assert_eq!(lab.lock(asker(3, 1).reclaim()), DENIED);
    lab.run_until(50.0);
    assert_eq!(lab.lock(asker(3, 1).reclaim()), GRACE, "too late");
    assert_eq!(lab.lock(asker(3, 1).nb()), DENIED);
    assert_eq!(
        lab.events.last().unwrap().1.to_string(),
        "the grace period is over"
    );
}

#[test]
fn a_server_reboot_forgets_everything() {
    let mut lab = lab();
    lab.lock(asker(2, 1));
    assert_eq!(lab.lock(asker(3, 1)), BLOCKED);
    lab.with_service(|s, now, fx| s.server_rebooted(now, secs(0.0), fx));
    assert_eq!(
        (
            lab.service.locks_held(),
            lab.service.waiting(),
            lab.service.peers().count()
        ),
        (0, 0, 0)
    );
    assert_eq!(lab.lock(asker(3, 1)), GRANTED);
    assert_eq!(lab.monitor_requests, [address(2), address(3), address(3)]);
}

#[test]
fn a_repeated_blocking_lock_is_queued_once() {
    // A server of another make queued it twice (chimera #1401).
    let mut lab = lab();
    lab.lock(asker(2, 1));
    for _ in 0..3 {
        assert_eq!(lab.lock(asker(3, 1)), BLOCKED);
    }
    assert_eq!(
        lab.lock(asker(3, 1).shared()),
        BLOCKED,
        "another kind is another request"
    );
    assert_eq!(lab.service.waiting(), 2);
    let waiters = lab.service.waiters(None, 10);
    assert_eq!(
        waiters[0].waiting_for[0].who.to_string(),
        "client (10.77.0.2) owner 1"
    );
    assert_eq!(lab.service.waiters(Some(waiters[0].id), 10), waiters[1..]);
}

#[test]
fn two_owners_in_each_others_way_are_a_deadlock() {
    let mut lab = lab();
    lab.lock(asker(2, 1).file("a"));
    lab.lock(asker(3, 1).file("b"));
    assert_eq!(lab.lock(asker(2, 1).file("b")), BLOCKED);
    assert_eq!(lab.lock(asker(3, 1).file("a")), DEADLCK);
    assert_eq!(lab.lock(asker(3, 1).file("a").nb()), DENIED);
    assert_eq!(
        lab.events.last().unwrap().1.to_string(),
        "client (10.77.0.3) owner 1 may not wait for an exclusive lock on the whole file of file 61: \
         it would wait for itself, through client (10.77.0.2) owner 1"
    );
}

#[test]
fn two_readers_who_both_want_to_write_are_a_deadlock() {
    let mut lab = lab();
    lab.lock(asker(2, 1).shared());
    lab.lock(asker(3, 1).shared());
    assert_eq!(lab.lock(asker(2, 1)), BLOCKED);
    assert_eq!(lab.lock(asker(3, 1)), DEADLCK);
    lab.unlock(asker(3, 1));
    assert_eq!(lab.held(), ["2/1 X the whole file"]);
}

#[test]
fn a_deadlock_is_found_over_any_number_of_owners_unless_a_limit_is_set() {
    for (limit, expect) in [
        (None, DEADLCK),
        (Some(10), BLOCKED),
        (Some(29), DEADLCK),
        (Some(28), BLOCKED),
    ] {
        let mut lab = Lab::with(Personality {
            deadlock_hops: limit,
            ..Personality::default()
        });
        // Owner n holds byte n and waits for byte n+1; the last one closes the ring of thirty.
        for n in 0..30 {
            assert_eq!(lab.lock(asker(2, n).bytes(n as u64, 1)), GRANTED);
        }
        for n in 0..29 {
            assert_eq!(lab.lock(asker(2, n).bytes(n as u64 + 1, 1)), BLOCKED);
        }
        assert_eq!(lab.lock(asker(2, 29).bytes(0, 1)), expect, "limit {limit:?}");
    }
}

#[test]
fn a_crowd_of_readers_does_not_hide_a_deadlock() {
    // More holders than waiting owners, so that the search goes the other way round.
    let mut lab = lab();
    for svid in 0..40 {
        assert_eq!(lab.lock(asker(2, svid).shared()), GRANTED);
    }
    lab.lock(asker(3, 1).file("b"));
    assert_eq!(lab.lock(asker(2, 39).file("b")), BLOCKED);
    assert_eq!(lab.lock(asker(3, 1)), DEADLCK);
    assert_eq!(lab.lock(asker(3, 2)), BLOCKED, "who holds nothing can wait");
}

#[test]
fn free_all_frees_what_the_senders_address_holds() {
    // A server of another make did nothing at FREE_ALL (dittofs #1131).
    let mut lab = lab();
    lab.lock(asker(2, 1));
    lab.lock(asker(2, 2).file("b"));
    lab.lock(asker(3, 1).file("c"));
    assert_eq!(lab.lock(asker(3, 2)), BLOCKED);
    assert_eq!(lab.lock(asker(2, 3).file("c")), BLOCKED);
    lab.with_service(|s, now, fx| s.start_grace(now, secs(1.0), fx));
    lab.send(2, Request::FreeAll);
    assert_eq!(
        lab.held(),
        ["3/2 X the whole file", "3/1 X the whole file"],
        "even in the grace period"
    );
    assert_eq!(
        lab.service.waiting(),
        1,
        "the grant that client 3 has not acknowledged"
    );
}

#[test]
fn a_rebooted_peer_owns_nothing_and_hears_of_it_once() {
    let mut lab = lab();
    let rebooted = |lab: &mut Lab, which: PeerSelector, state| {
        let files = |_: &[u8], _: Kind| FileCheck::Ok;
        lab.with_service(|s, now, fx| s.peer_rebooted(now, which, Some(state), &files, fx));
    };
    lab.lock(asker(2, 1));
    assert_eq!(lab.lock(asker(3, 1)), BLOCKED);
    rebooted(&mut lab, PeerSelector::Address(address(2)), 5);
    assert_eq!(lab.held(), ["3/1 X the whole file"]);
    assert_eq!(lab.callbacks.len(), 1);
    lab.lock(asker(2, 1).file("b"));
    rebooted(&mut lab, PeerSelector::Name("client".into()), 5);
    assert_eq!(
        lab.held(),
        ["2/1 X the whole file"],
        "2 had told state 5 before, 3 had not"
    );
    assert_eq!(lab.service.waiting(), 0);
    rebooted(&mut lab, PeerSelector::All, 7);
    assert_eq!(lab.service.locks_held(), 0);
    rebooted(&mut lab, PeerSelector::Name("stranger".into()), 7);
}

#[test]
fn nm_lock_does_not_monitor_and_neither_do_the_others() {
    let mut lab = lab();
    lab.test(asker(2, 1));
    lab.unlock(asker(2, 1));
    lab.cancel(asker(2, 1));
    lab.send(2, Request::Null);
    assert!(lab.monitor_requests.is_empty());
    lab.lock(asker(2, 1));
    lab.lock(asker(2, 2).file("b"));
    assert_eq!(lab.monitor_requests, [address(2)]);
    let forgotten = lab.with_service(|s, _, fx| s.forget_peer(&PeerSelector::All, fx));
    assert_eq!(forgotten, 1);
    lab.lock(asker(2, 3).file("c"));
    assert_eq!(lab.monitor_requests, [address(2), address(2)]);
}

#[test]
fn a_peer_can_be_monitored_after_the_grant_or_not_at_all() {
    let after = Personality {
        monitor: MonitorPolicy::AfterIgnored,
        ..Personality::default()
    };
    let mut lab = Lab::with(after);
    lab.statd_answers = Some(false);
    assert_eq!(lab.lock(asker(2, 1)), GRANTED);
    assert_eq!(lab.lock(asker(2, 2).file("b")), GRANTED);
    assert_eq!(lab.monitor_requests.len(), 2);
    lab.statd_answers = Some(true);
    lab.lock(asker(2, 3).file("c"));
    lab.lock(asker(2, 4).file("d"));
    assert_eq!(lab.monitor_requests.len(), 3);
    let mut lab = Lab::with(Personality {
        monitor: MonitorPolicy::Never,
        ..Personality::default()
    });
    assert_eq!(lab.lock(asker(2, 1)), GRANTED);
    assert!(lab.monitor_requests.is_empty());
}

#[test]
fn a_denied_grant_leaks_or_is_given_back() {
    for (policy, held) in [(DeniedGrant::Leak, 1), (DeniedGrant::Unlock, 0)] {
        let mut lab = Lab::with(Personality {
            denied_grant: policy,
            ..Personality::default()
        });
        lab.lock(asker(2, 1));
        lab.lock(asker(3, 1));
        lab.unlock(asker(2, 1));
        lab.granted_res(0, DENIED);
        assert_eq!((lab.service.locks_held(), lab.service.waiting()), (held, 0));
    }
}

#[test]
fn peers_are_listed_with_what_they_hold() {
    let mut lab = lab();
    lab.lock(asker(3, 1));
    lab.lock(asker(2, 1));
    let peers: Vec<_> = lab.service.peers().collect();
    assert_eq!(
        (peers[0].address, peers[0].locks, peers[0].waiting),
        (address(2), 0, 1)
    );
    assert_eq!(
        (peers[1].address, peers[1].locks, peers[1].waiting),
        (address(3), 1, 0)
    );
    assert!(
        peers
            .iter()
            .all(|p| p.monitored.is_believed() && p.name.as_slice() == b"client")
    );
}

#[test]
fn a_lock_on_a_removed_file_can_be_given_back() {
    let mut lab = Lab::new("linux-6.1");
    assert_eq!(lab.lock(asker(1, 1)), Nlm4Stat::NLM4_GRANTED);
    assert_eq!(lab.lock(asker(1, 2)), Nlm4Stat::NLM4_BLOCKED);
    lab.file = FileCheck::Refuse(Nlm4Stat::NLM4_STALE_FH);
    assert_eq!(lab.cancel(asker(1, 2)), Nlm4Stat::NLM4_GRANTED);
    assert_eq!(lab.unlock(asker(1, 1)), Nlm4Stat::NLM4_GRANTED);
    assert!(lab.held().is_empty());
    // With its last lock the file is gone for lockd too.
    assert_eq!(lab.unlock(asker(1, 1)), Nlm4Stat::NLM4_STALE_FH);
    assert_eq!(lab.lock(asker(1, 1)), Nlm4Stat::NLM4_STALE_FH);
}
