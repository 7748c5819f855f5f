//! Calls and replies that are lost or late: drop, drop-reply, delay, wait.

use crate::kit::*;
use faults::Service;
use nfslab::server::{Config, Drc};
use rpc::msg::Transport;
use std::time::Duration;

const BOTH: [Transport; 2] = [Transport::Tcp, Transport::Udp];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_dropped_before_execution_is_never_executed_and_its_copy_is() {
    for drc in [Drc::NONE, Drc::of(&[Service::Lockd])] {
        for point in ["received", "before-execute"] {
            for transport in BOTH {
                let config = Config {
                    drc: drc.clone(),
                    ..Config::default()
                };
                let lab = Lab::with(config, &[&format!("nlm.lock -> drop at {point}")]).await;
                let mut wire = lab.dial(Service::Lockd, transport);
                wire.send(&lock(7, &lab.fh, 1));
                wire.is_silent();
                assert_eq!(lab.held(), 0, "{point}");
                assert_eq!(stat(wire.ask(&lock(7, &lab.fh, 1))), 0, "{point}, {drc}");
                assert_eq!(lab.held(), 1, "{point}");
                lab.server.stop().await;
            }
        }
    }
}

/// What is the difference between a reply that is lost behind the duplicate request cache, and one lost before it.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_answered_from_the_cache_after_drop_reply_and_executed_again_after_drop_at_after_execute() {
    for (line, copy) in [
        ("nfs.remove count=1 -> drop-reply", "NFS3_OK"),
        ("nfs.remove count=1 -> drop at before-reply", "NFS3_OK"),
        ("nfs.remove count=1 -> drop at after-execute", "NFS3ERR_NOENT"),
        ("nfs.remove count=1 -> drop at before-execute", "NFS3_OK"),
    ] {
        for transport in BOTH {
            let lab = Lab::start(&[line]).await;
            let mut wire = lab.dial(Service::Nfs, transport);
            wire.send(&remove(7, &lab.root, "f"));
            wire.is_silent();
            assert_eq!(removed(wire.ask(&remove(7, &lab.root, "f"))), copy, "{line}");
            assert_eq!(removed(wire.ask(&remove(8, &lab.root, "f"))), "NFS3ERR_NOENT");
            assert_eq!(lab.done(0), 1);
            lab.server.stop().await;
        }
    }
}

/// There, calls are handled by threads; that the file is gone says that the first has been executed.
#[tokio::test(flavor = "multi_thread")]
async fn replies_are_lost_on_a_real_directory_too() {
    let Some(lab) = Lab::on_directory(&["nfs.remove count=1 -> drop-reply"]).await else {
        return;
    };
    let mut wire = lab.tcp(Service::Nfs);
    wire.send(&remove(7, &lab.root, "f"));
    let stale = async {
        while first(lab.tcp(Service::Nfs).ask(&getattr(9, &lab.fh))) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, stale).await.expect("removed");
    // In progress, for the moment between the removal and the answer, or answered.
    let answered = loop {
        let mut other = lab.tcp(Service::Nfs);
        other.send(&remove(7, &lab.root, "f"));
        other.send(&null(8, Service::Nfs));
        if let (7, result) = other.reply() {
            break removed(result);
        }
    };
    assert_eq!(answered, "NFS3_OK");
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_out_of_the_cache_passes_before_reply_only() {
    let lines = [
        "nfs.remove transmission=2 -> answer NFS3ERR_IO at after-execute",
        "nfs.remove transmission=3 -> answer NFS3ERR_IO at before-execute",
        "nfs.remove transmission=4 -> drop",
        "nfs.remove transmission=5 -> answer NFS3ERR_IO at before-reply",
    ];
    let lab = Lab::start(&lines).await;
    let mut wire = lab.tcp(Service::Nfs);
    let call = remove(7, &lab.root, "f");
    assert_eq!(removed(wire.ask(&call)), "NFS3_OK");
    assert_eq!(removed(wire.ask(&call)), "NFS3_OK", "it is not executed");
    assert_eq!(removed(wire.ask(&call)), "NFS3_OK", "it is not about to be");
    wire.send(&call);
    wire.is_silent();
    assert_eq!(removed(wire.ask(&call)), "NFS3ERR_IO");
    assert_eq!(
        removed(wire.ask(&call)),
        "NFS3_OK",
        "what the cache has is as it was"
    );
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_copies_of_every_call_are_lost() {
    let lab = Lab::start(&["nlm.lock transmission=1-2 -> drop"]).await;
    for transport in BOTH {
        for xid in [7, 8] {
            let mut wire = lab.dial(Service::Lockd, transport);
            let xid = xid + if transport == Transport::Udp { 10 } else { 0 };
            for _ in 0..2 {
                wire.send(&lock(xid, &lab.fh, 1));
                wire.is_silent();
            }
            wire.send(&lock(xid, &lab.fh, 1));
            assert_eq!(wire.reply().0, xid);
        }
    }
    lab.server.stop().await;
}

/// The clock is the server's: it is advanced, and nobody sleeps.
#[tokio::test(flavor = "multi_thread")]
async fn a_delay_is_by_the_clock_of_the_server_and_executes_before_or_after_it() {
    for (point, executed) in [
        ("received", 0),
        ("before-execute", 0),
        ("after-execute", 1),
        ("before-reply", 1),
    ] {
        for transport in BOTH {
            let lab = Lab::start(&[&format!("nlm.lock -> delay 1h at {point}")]).await;
            let mut wire = lab.dial(Service::Lockd, transport);
            wire.send(&lock(7, &lab.fh, 1));
            wire.is_silent();
            lab.advance(Duration::from_secs(3500));
            wire.is_silent();
            assert_eq!(lab.held(), executed, "{point}");
            lab.advance(Duration::from_secs(100));
            assert_eq!(wire.reply().0, 7, "{point}");
            assert_eq!(lab.held(), 1);
            lab.server.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_waits_for_an_event_that_comes_after_it() {
    for (point, executed) in [
        ("received", 0),
        ("before-execute", 0),
        ("after-execute", 1),
        ("before-reply", 1),
    ] {
        let line = format!("nlm.lock -> wait call/MOUNTPROC3_* at {point}");
        let lab = Lab::start(&[&line]).await;
        let mut wire = lab.tcp(Service::Lockd);
        let mut mount = lab.tcp(Service::Mount);
        assert!(mount.ask(&null(1, Service::Mount)).unwrap().is_empty());
        wire.send(&lock(7, &lab.fh, 1));
        wire.is_silent();
        assert_eq!(lab.held(), executed, "{point}");
        assert!(mount.ask(&null(2, Service::Mount)).unwrap().is_empty());
        assert_eq!(wire.reply().0, 7, "{point}");
        lab.server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_ends_every_wait() {
    for action in ["delay 1h", "wait lockd/never", "hold g"] {
        for (point, answered) in [
            ("received", false),
            ("before-execute", false),
            ("after-execute", true),
            ("before-reply", true),
        ] {
            let lab = Lab::caching(Service::Lockd, &[&format!("nlm.lock -> {action} at {point}")]).await;
            let mut wire = lab.tcp(Service::Lockd);
            wire.send(&lock(7, &lab.fh, 1));
            wire.is_silent();
            lab.server.node().reset().await.unwrap();
            if answered {
                assert_eq!(wire.reply().0, 7, "{action} at {point}: it was executed");
            } else {
                wire.is_silent();
            }
            assert_eq!((lab.held(), lab.server.node().gates()), (0, vec![]));
            // As if it had never come: a copy is executed, and nothing is done to it.
            assert_eq!(stat(lab.tcp(Service::Lockd).ask(&lock(7, &lab.fh, 1))), 0);
            assert_eq!(lab.held(), 1, "{action} at {point}");
            lab.server.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delay_beyond_all_time_is_for_ever() {
    let lab = Lab::start(&["nlm.lock ttl=580000000000y -> delay 580000000000y"]).await;
    let mut wire = lab.tcp(Service::Lockd);
    wire.send(&lock(7, &lab.fh, 1));
    wire.is_silent();
    assert_eq!(lab.done(0), 1);
    lab.server.stop().await;
}
