//! SHARE and UNSHARE; SM_NOTIFY; what versions 1 and 3 share with 4 and what not.

use crate::lab::*;
use nfslab_nlm::hosts::{HostKey, Private};
use nfslab_nlm::request::{Reply, Request};
use nfslab_nlm::service::Lockd;
use proto::nlm::{FshAccess, FshMode, LockArgs, Netobj, Nlm4Stat, Share, ShareArgs, SmStatus};

const R: FshAccess = FshAccess::FSA_R;
const W: FshAccess = FshAccess::FSA_W;
const RW: FshAccess = FshAccess::FSA_RW;
const DN: FshMode = FshMode::FSM_DN;
const DR: FshMode = FshMode::FSM_DR;
const DW: FshMode = FshMode::FSM_DW;

fn lab() -> Lab {
    Lab::new("linux-6.1")
}

fn args<'a>(oh: &'a str, access: FshAccess, mode: FshMode) -> ShareArgs<'a> {
    ShareArgs {
        cookie: Netobj::default(),
        share: Share {
            caller_name: "client".into(),
            fh: "f".into(),
            oh: oh.into(),
            mode,
            access,
        },
        reclaim: false,
    }
}

#[track_caller]
fn share(lab: &mut Lab, client: u8, oh: &str, access: FshAccess, mode: FshMode) -> Nlm4Stat {
    let call = lab.send(client, Request::Share(args(oh, access, mode)));
    lab.stat(call)
}

#[track_caller]
fn unshare(lab: &mut Lab, client: u8, oh: &str) -> Nlm4Stat {
    let call = lab.send(client, Request::Unshare(args(oh, R, DN)));
    lab.stat(call)
}

#[test]
fn a_share_is_denied_if_one_denies_what_the_other_does() {
    let mut lab = lab();
    assert_eq!(share(&mut lab, 2, "a", R, DW), GRANTED);
    assert_eq!(share(&mut lab, 3, "a", W, DN), DENIED, "writing is denied");
    assert_eq!(share(&mut lab, 3, "a", R, DR), DENIED, "there is a reader");
    assert_eq!(share(&mut lab, 3, "a", R, DW), GRANTED);
    assert_eq!(
        share(&mut lab, 2, "b", W, DN),
        DENIED,
        "an owner handle is an owner"
    );
    assert!(lab.monitor_requests.is_empty(), "only LOCK has a peer monitored");
    assert_eq!(lab.lock(asker(4, 1)), GRANTED, "locks and shares do not meet");
}

#[test]
fn an_owner_replaces_its_terms_and_nobody_elses() {
    let mut lab = lab();
    assert_eq!(share(&mut lab, 2, "a", RW, DN), GRANTED);
    assert_eq!(share(&mut lab, 2, "a", R, DW), GRANTED);
    assert_eq!(lab.service.shares_held(), 1);
    assert_eq!(share(&mut lab, 3, "a", R, DN), GRANTED);
    assert_eq!(share(&mut lab, 2, "a", R, DR), DENIED, "the other reads");
    assert_eq!(
        lab.service.shares(9)[0].terms.mode(),
        DW,
        "and what was there stays"
    );
}

#[test]
fn unshare_is_always_granted() {
    let mut lab = lab();
    assert_eq!(unshare(&mut lab, 2, "a"), GRANTED);
    share(&mut lab, 2, "a", R, DW);
    assert_eq!(
        unshare(&mut lab, 3, "a"),
        GRANTED,
        "but gives back only one's own"
    );
    assert_eq!(unshare(&mut lab, 2, "b"), GRANTED);
    assert_eq!(lab.service.shares_held(), 1);
    assert_eq!(unshare(&mut lab, 2, "a"), GRANTED);
    assert_eq!(lab.service.shares_held(), 0);
}

#[test]
fn in_the_grace_period_shares_are_only_reclaimed() {
    let mut lab = lab();
    lab.with_service(|service, now, fx| service.start_grace(now, secs(50.0), fx));
    assert_eq!(share(&mut lab, 2, "a", R, DW), GRACE);
    assert_eq!(unshare(&mut lab, 2, "a"), GRACE);
    let reclaim = ShareArgs {
        reclaim: true,
        ..args("a", R, DW)
    };
    let call = lab.send(2, Request::Share(reclaim));
    assert_eq!(lab.stat(call), GRANTED);
    lab.run_until(50.0);
    assert_eq!(share(&mut lab, 3, "a", W, DN), DENIED);
}

#[test]
fn what_a_share_asks_for_must_exist() {
    let mut lab = lab();
    assert_eq!(share(&mut lab, 2, "a", FshAccess(4), DN), Nlm4Stat::NLM4_FAILED);
    assert_eq!(share(&mut lab, 2, "a", R, FshMode(77)), Nlm4Stat::NLM4_FAILED);
    assert_eq!(lab.service.shares_held(), 0);
}

#[test]
fn shares_go_with_their_host_and_with_the_server() {
    let mut lab = lab();
    share(&mut lab, 2, "a", R, DN);
    share(&mut lab, 2, "b", R, DN);
    share(&mut lab, 3, "a", R, DN);
    let peers: Vec<_> = lab.service.peers().map(|p| p.shares).collect();
    assert_eq!(peers, [2, 1]);
    lab.send(2, Request::FreeAll);
    assert_eq!(lab.service.shares_held(), 1);
    lab.with_service(|service, now, fx| {
        let which = nfslab_nlm::request::PeerSelector::Address(address(3));
        service.peer_rebooted(
            now,
            which,
            Some(5),
            &|_: &[u8], _| nfslab_nlm::service::FileCheck::Ok,
            fx,
        );
    });
    assert_eq!(lab.service.shares_held(), 0);
    share(&mut lab, 2, "a", R, DN);
    lab.with_service(|service, now, fx| service.server_rebooted(now, secs(0.0), fx));
    assert_eq!(lab.service.shares_held(), 0);
}

/// A call that waits for the worker keeps all that it asked.
#[test]
fn a_share_that_had_to_wait_is_the_same_share() {
    let mut lab = lab();
    lab.lockd(Lockd::Slow(secs(2.0)));
    let calls = [
        lab.send(2, Request::Share(args("a", RW, DW))),
        lab.send(3, Request::Share(args("a", W, DN))),
        lab.send(2, Request::Unshare(args("a", RW, DW))),
        lab.send(3, Request::Granted),
        lab.send(3, Request::OtherRes),
    ];
    lab.run_until(20.0);
    assert_eq!(
        calls[..4].iter().map(|c| lab.stat(*c)).collect::<Vec<_>>(),
        [GRANTED, DENIED, GRANTED, DENIED]
    );
    assert_eq!(lab.replies[&calls[4]].1, Reply::Void);
    assert_eq!(lab.service.shares_held(), 0);
}

fn notify(private: Private, state: i32) -> Request<'static> {
    Request::SmNotify(SmStatus {
        mon_name: "whoever".into(),
        state,
        private,
    })
}

#[test]
fn sm_notify_names_a_peer_by_what_statd_was_given_and_by_nothing_else() {
    let mut lab = lab();
    lab.lock(asker(2, 1));
    lab.lock(asker(3, 1).file("g"));
    let [two, three] = lab.privates[..] else {
        panic!("{:?}", lab.privates)
    };
    assert!(two != three && two != Private::default());
    let mut forged = two;
    forged[0] ^= 1;
    for unknown in [Private::default(), [0xff; 16], forged] {
        lab.send(9, notify(unknown, 5));
        assert_eq!(lab.service.locks_held(), 2, "{unknown:?}");
    }
    lab.send(9, notify(two, 5));
    assert_eq!(lab.held(), ["3/1 X the whole file"]);
    lab.lock(asker(2, 1));
    lab.send(9, notify(two, 5));
    assert_eq!(lab.service.locks_held(), 2, "this state is known");
    lab.send(9, notify(two, 7));
    assert_eq!(lab.service.locks_held(), 1);
    // After a restart of the server the old name means nobody.
    lab.with_service(|service, now, fx| service.server_rebooted(now, secs(0.0), fx));
    lab.lock(asker(4, 1));
    lab.send(9, notify(two, 9));
    assert_eq!(lab.service.locks_held(), 1);
}

/// The version is part of an owner, as the transport is.
#[test]
fn the_same_process_by_two_versions_is_two_owners() {
    let mut lab = lab();
    let v3 = HostKey {
        version: 3,
        ..asker(2, 1).host()
    };
    assert_eq!(lab.lock(asker(2, 1)), GRANTED);
    let wanted = asker(2, 1);
    let lock = LockArgs {
        cookie: Netobj::default(),
        block: true,
        exclusive: true,
        alock: wanted.alock(),
        reclaim: false,
        state: 3,
    };
    let call = lab.send_from(v3, Request::Lock(lock));
    assert_eq!(lab.stat(call), BLOCKED);
    lab.unlock(asker(2, 1));
    assert_eq!(lab.callbacks[0].1.host, v3, "and is called back by its own");
}
