//! Connections that end: cut, close, reset, and a client that goes while its call is held.

use crate::kit::*;
use faults::Service;
use nfslab::server::Verdict;
use nfslab_tests::call::record;
use rpc::msg::Transport;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

/// Everything that comes until the connection ends, and how it ends.
fn rest(lab: &Lab, call: &[u8]) -> (Vec<u8>, Result<(), ErrorKind>) {
    let mut stream = TcpStream::connect(lab.address(Service::Lockd)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&record(call)).unwrap();
    let mut came = Vec::new();
    let end = stream.read_to_end(&mut came);
    (came, end.map(|_| ()).map_err(|error| error.kind()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_is_cut_after_so_many_bytes_and_the_connection_ends() {
    let lab = Lab::start(&[]).await;
    let mut wire = lab.tcp(Service::Lockd);
    wire.send(&lock(1, &lab.fh, 1));
    let whole = wire.next().unwrap();
    for cut in [0, 1, 4, 24, whole.len() - 1, whole.len(), 1000] {
        lab.set(&[&format!("nlm.lock -> cut {cut}")]);
        let xid = 100 + cut as u32;
        let (came, end) = rest(&lab, &lock(xid, &lab.fh, 1));
        assert_eq!(end, Ok(()));
        let announced = 0x8000_0000 | whole.len() as u32;
        let reply = [&xid.to_be_bytes()[..], &whole[4..]].concat();
        let expected = [&announced.to_be_bytes()[..], &reply[..cut.min(whole.len())]].concat();
        assert_eq!(came, expected, "cut {cut}");
    }
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_datagram_is_cut_and_nothing_ends() {
    let lab = Lab::start(&["nlm.lock -> cut 10"]).await;
    let mut wire = lab.dial(Service::Lockd, Transport::Udp);
    wire.send(&lock(7, &lab.fh, 1));
    assert_eq!(wire.next().unwrap()[..], [0, 0, 0, 7, 0, 0, 0, 1, 0, 0]);
    wire.is_silent();
    lab.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_closed_or_reset_at_every_point() {
    for (action, end) in [("close", Ok(())), ("reset", Err(ErrorKind::ConnectionReset))] {
        for (point, executed) in [
            ("received", 0),
            ("before-execute", 0),
            ("after-execute", 1),
            ("before-reply", 1),
        ] {
            let lab = Lab::start(&[&format!("nlm.lock -> {action} at {point}")]).await;
            let mut other = lab.tcp(Service::Lockd);
            let (came, ended) = rest(&lab, &lock(7, &lab.fh, 1));
            assert_eq!((came, ended), (vec![], end), "{action} at {point}");
            assert_eq!(lab.held(), executed, "{action} at {point}");
            other.is_silent(); // it goes on
            lab.server.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_udp_there_is_nothing_to_close_but_no_answer_comes() {
    for action in ["close", "reset"] {
        for point in ["received", "before-reply"] {
            let lab = Lab::start(&[&format!("nlm.lock -> {action} at {point}")]).await;
            let mut wire = lab.dial(Service::Lockd, Transport::Udp);
            wire.send(&lock(7, &lab.fh, 1));
            wire.is_silent();
            lab.server.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_end_on_a_real_directory_too() {
    let Some(lab) = Lab::on_directory(&[]).await else {
        return;
    };
    for (n, line) in (1..).zip([
        "nfs.getattr -> close at after-execute",
        "nfs.getattr -> reset",
        "nfs.getattr -> cut 9",
    ]) {
        lab.set(&[line]);
        let mut wire = lab.tcp(Service::Nfs);
        wire.send(&getattr(n, &lab.fh));
        assert_eq!(wire.next(), None, "{line}");
    }
    lab.set(&["nfs.getattr -> hold g at before-reply"]);
    let mut wire = lab.tcp(Service::Nfs);
    wire.send(&getattr(9, &lab.fh));
    lab.at_gate("g", 1).await;
    wire.is_silent();
    assert_eq!(lab.server.node().release("g", None, None, Verdict::Go), 1);
    assert_eq!(wire.reply().0, 9);
    lab.server.stop().await;
}

/// As in life: the server does not notice, and executes the call once it can.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_client_has_gone_is_executed_all_the_same() {
    for (point, executed) in [("received", 0), ("before-execute", 0), ("before-reply", 1)] {
        let lab = Lab::start(&[&format!("nlm.lock -> hold g at {point}")]).await;
        let mut wire = lab.tcp(Service::Lockd);
        wire.send(&lock(7, &lab.fh, 1));
        lab.at_gate("g", 1).await;
        assert_eq!(lab.held(), executed);
        drop(wire);
        let mut other = lab.tcp(Service::Lockd);
        other.is_silent();
        assert_eq!(lab.server.node().release("g", None, None, Verdict::Go), 1);
        lab.happens("reply/NLM_LOCK").await;
        assert_eq!(lab.held(), 1, "{point}");
        other.is_silent();
        lab.server.stop().await;
    }
}
