//! Each key of a rule is about what came over the wire, and what the lock table of the server says.

use crate::common::{lock_args, make_file};
use crate::kit::*;
use faults::Service;
use nfslab::server::Config;
use proto::nlm::{LockArgs, NlmProc};
use rpc::msg::Transport;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn each_key_means_what_the_wire_says() {
    let lab = Lab::start(&[]).await;
    let handle: String = lab.fh.iter().map(|byte| format!("{byte:02x}")).collect();
    // Byte 7 for owner 7 over TCP; and over UDP everything that can be otherwise.
    let plain = lock_args(&lab.fh, 7, 7, 1);
    let caller = String::from_utf8_lossy(&plain.alock.caller_name).into_owned();
    let other = LockArgs {
        block: !plain.block,
        exclusive: !plain.exclusive,
        reclaim: !plain.reclaim,
        ..lock_args(&lab.fh, 8, 9, 0)
    };
    let (mut tcp, mut udp) = (lab.tcp(Service::Lockd), lab.dial(Service::Lockd, Transport::Udp));
    let mut xid = 0;
    let mut met = |key: &str| {
        lab.set(&[&format!("nlm.lock {key} -> answer NLM4_ROFS")]);
        [(&mut tcp, &plain), (&mut udp, &other)].map(|(wire, args)| {
            xid += 1;
            stat(wire.ask(&nlm(xid, NlmProc::NLM_LOCK, args))) == 6
        })
    };
    for both in [
        "version=4",
        "peer=127.0.0.0/8",
        "uid=0",
        "path=/lab/?",
        &format!("handle={handle}"),
        &format!("caller={caller}"),
        "bytes=7..10",
    ] {
        assert_eq!(met(both), [true, true], "{both}");
    }
    for neither in [
        "version=3",
        "peer=10.0.0.0/8",
        "uid=1",
        "path=/lab/g",
        "handle=00",
        "caller=nobody",
        "bytes=8",
    ] {
        assert_eq!(met(neither), [false, false], "{neither}");
    }
    let (exclusive, block, reclaim) = (plain.exclusive, plain.block, plain.reclaim);
    for (first, second) in [
        ("transport=tcp".to_owned(), "transport=udp".to_owned()),
        ("owner=7".to_owned(), "owner=8".to_owned()),
        ("bytes=0..8".to_owned(), "bytes=10..".to_owned()),
        (
            format!("exclusive={exclusive}"),
            format!("exclusive={}", !exclusive),
        ),
        (format!("block={block}"), format!("block={}", !block)),
        (format!("reclaim={reclaim}"), format!("reclaim={}", !reclaim)),
    ] {
        assert_eq!(met(&first), [true, false], "{first}");
        assert_eq!(met(&second), [false, true], "{second}");
    }
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_is_in_force_while_the_lock_table_is_so() {
    let lab = Lab::start(&["nlm.lock waiting=1 -> answer NLM4_ROFS"]).await;
    let mut wire = lab.tcp(Service::Lockd);
    assert_eq!(stat(wire.ask(&lock_all(1, &lab.fh, 1))), 0);
    assert_eq!(stat(wire.ask(&lock_all(2, &lab.fh, 2))), 3, "it waits");
    assert_eq!(stat(wire.ask(&lock_all(3, &lab.fh, 3))), 6, "one waits now");
    lab.set(&["nlm.lock held=1 -> answer NLM4_ROFS"]);
    assert_eq!(stat(wire.ask(&lock_all(4, &lab.fh, 4))), 6);
    lab.set(&["nlm.lock held=2 optional=true -> answer NLM4_ROFS"]);
    assert_eq!(stat(wire.ask(&lock(5, &lab.fh, 1))), 0, "one is held");
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_is_in_force_during_the_grace_period_or_outside_it() {
    let config = Config {
        grace: Duration::from_secs(60),
        ..Config::default()
    };
    let lines = [
        "nlm.lock grace=true -> answer NLM4_ROFS",
        "nlm.lock grace=false owner=2 -> answer NLM4_FBIG",
    ];
    let lab = Lab::with(config, &lines).await;
    let mut wire = lab.tcp(Service::Lockd);
    assert_eq!(stat(wire.ask(&lock(1, &lab.fh, 2))), 6);
    lab.advance(Duration::from_secs(61));
    assert_eq!(stat(wire.ask(&lock(2, &lab.fh, 2))), 8);
    assert_eq!(stat(wire.ask(&lock(3, &lab.fh, 3))), 0);
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_counted_apart_for_each_owner_and_for_each_file() {
    let lab = Lab::start(&["nlm.lock nth=2 per=owner -> answer NLM4_ROFS"]).await;
    let mut wire = lab.tcp(Service::Lockd);
    let other = make_file(&lab.server, "g").await;
    let mut xid = 0;
    let mut ask = |fh: &[u8], svid| {
        xid += 1;
        stat(wire.ask(&lock(xid, fh, svid)))
    };
    let f = &lab.fh;
    let owners = [ask(f, 1), ask(f, 2), ask(&other, 1), ask(f, 2), ask(f, 1)];
    assert_eq!(owners, [0, 0, 6, 6, 0]);
    lab.set(&["nlm.lock nth=2 per=file -> answer NLM4_ROFS"]);
    let files = [ask(f, 1), ask(&other, 2), ask(f, 2), ask(&other, 2), ask(f, 1)];
    assert_eq!(files, [0, 0, 6, 6, 0]);
    lab.server.stop().await;
}
