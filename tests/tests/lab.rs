//! The server inside a test (`nfslab::lab`), and the examples, so that they cannot rot.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

mod common;

#[path = "../../nfslab/examples/lab.rs"]
#[allow(dead_code, reason = "its main")]
mod example;

use common::lock_args;
use nfslab::lab::{Builder, Condition, Lab, Service};
use nfslab_tests::nfslab_binary;
use proto::mount::MountProc;
use proto::nlm::NlmProc;
use rpc::client::{Client, Target};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);
const MNT_NULL: Target = Target::new(proto::mount::PROGRAM, 3, MountProc::MOUNTPROC3_NULL.0);
const LOCK: Target = Target::new(proto::nlm::PROGRAM, 4, NlmProc::NLM_LOCK.0);

fn lab() -> Builder {
    Lab::builder().virtual_time()
}

async fn lock(client: &Client, fh: &[u8]) {
    client
        .call(LOCK, &lock_args(fh, 1, 0, 0), PATIENCE)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_example_freezes_a_lock_for_a_minute() {
    let said = example::freeze().await.unwrap();
    assert!(said.starts_with("NLM4_GRANTED after 6"), "{said}");
    assert!(said.ends_with("monitored by: nobody"), "{said}");
}

/// Each event of a freeze with its time, which is exact.
async fn story() -> Vec<(String, f64)> {
    let lab = lab()
        .service(Service::Statd, Condition::Absent)
        .start()
        .await
        .unwrap();
    let fh = lab.make_file("/lab/f").unwrap();
    let client = lab.connect(Service::Lockd, [127, 0, 0, 2]).await.unwrap();
    let asked = tokio::spawn(async move { lock(&client, &fh).await });
    lab.wait_for(|event| event.kind() == "lockd/upcall-started")
        .await
        .unwrap();
    lab.advance(Duration::from_secs(120)).await;
    asked.await.unwrap();
    let story = lab
        .events()
        .iter()
        .map(|event| (event.kind(), event.at_ms))
        .collect();
    lab.stop().await;
    story
}

#[tokio::test(flavor = "multi_thread")]
async fn time_passes_step_by_step_and_the_same_each_time() {
    let first = story().await;
    let ended = first
        .iter()
        .find(|(kind, _)| kind == "lockd/upcall-ended")
        .unwrap()
        .1;
    assert!(ended > 50_000.0 && ended < 70_000.0, "at its own time: {first:?}");
    let looked: Vec<f64> = first
        .iter()
        .map(|(_, at)| *at)
        .filter(|at| *at > 0.0 && *at < ended)
        .collect();
    assert!(looked.len() > 2, "each look for statd at its own time: {first:?}");
    for _ in 0..5 {
        assert_eq!(story().await, first);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_is_held_back_goes_when_its_time_has_come() {
    let slow = Condition::Slow(Duration::from_secs(3600));
    let lab = lab().service(Service::Mount, slow).start().await.unwrap();
    let mountd = lab.connect(Service::Mount, [127, 0, 0, 1]).await.unwrap();
    let asked = tokio::spawn(async move { mountd.call(MNT_NULL, &(), PATIENCE).await });
    lab.wait_for(|event| event.kind() == "call").await.unwrap();
    lab.advance(Duration::from_secs(3599)).await;
    assert!(!asked.is_finished());
    lab.advance(Duration::from_secs(1)).await;
    asked.await.unwrap().unwrap();
    assert_eq!(
        lab.now(),
        Duration::from_secs(3600),
        "no time has passed but that"
    );
    lab.stop().await;
}

#[tokio::test]
async fn what_is_held_is_shown_and_a_reset_takes_it() {
    let lab = lab()
        .export("/a=mem,root_squash")
        .export("/b=mem")
        .seed(7)
        .start()
        .await
        .unwrap();
    let fh = lab.make_file("/b/f").unwrap();
    assert_eq!(lab.make_file("/b/f").unwrap(), fh, "the same file");
    let client = lab.connect(Service::Lockd, [127, 0, 0, 2]).await.unwrap();
    lock(&client, &fh).await;
    assert_eq!(lab.locks().held[0].path, "/b/f");
    assert_eq!(lab.peers()[0].monitored, "statd");
    lab.set_service(Service::Portmap, Condition::Absent)
        .await
        .unwrap();
    assert!(TcpStream::connect(lab.address(Service::Portmap)).is_err());
    lab.reset().await.unwrap();
    assert_eq!((lab.locks().total, lab.peers().len()), (0, 0));
    TcpStream::connect(lab.address(Service::Portmap)).unwrap();
    lab.stop().await;
}

#[tokio::test]
async fn what_cannot_be_is_said_with_what_can() {
    let error = |builder: Builder| async { format!("{:#}", builder.start().await.err().unwrap()) };
    let text = error(lab().personality("linux-1.0")).await;
    assert!(text.contains("linux-1.0") && text.contains("linux-6.1"), "{text}");
    let text = error(lab().export("lab")).await;
    assert!(text.contains("lab"), "{text}");
    let lab = lab().deadline(Duration::from_millis(10)).start().await.unwrap();
    let text = format!("{:#}", lab.make_file("/elsewhere/f").unwrap_err());
    assert!(text.contains("/elsewhere/f") && text.contains("/lab"), "{text}");
    let text = format!(
        "{:#}",
        lab.wait_for(|event| event.kind() == "reply").await.unwrap_err()
    );
    assert!(text.contains("10ms") && text.contains("serving"), "{text}");
}

/// Connections, a call that is never answered, a reply held back for ever, somebody who reads the control API.
#[tokio::test(flavor = "multi_thread")]
async fn a_lab_that_is_dropped_leaves_nothing_behind() {
    let lab = lab()
        .control()
        .service(Service::Mount, Condition::Slow(Duration::from_secs(3600)))
        .service(Service::Statd, Condition::Hung)
        .start()
        .await
        .unwrap();
    let fh = lab.make_file("/lab/f").unwrap();
    let mountd = lab.connect(Service::Mount, [127, 0, 0, 1]).await.unwrap();
    let lockd = lab.connect(Service::Lockd, [127, 0, 0, 2]).await.unwrap();
    let held_back = tokio::spawn(async move { mountd.call(MNT_NULL, &(), PATIENCE).await });
    let unanswered = tokio::spawn(async move { lockd.call(LOCK, &lock_args(&fh, 1, 0, 0), PATIENCE).await });
    let control = lab.control().unwrap();
    let endpoint = nfslab::control::client::Endpoint::Tcp(control);
    let (seen, reading) = tokio::sync::oneshot::channel();
    let follower = tokio::spawn(async move {
        let mut seen = Some(seen);
        let see = |_| {
            seen.take().map(|seen| seen.send(()));
            true
        };
        let control = nfslab::control::client::Control::new(endpoint).unwrap();
        control.follow(0, see).await
    });
    reading.await.unwrap();
    lab.wait_for(|event| event.kind() == "lockd/upcall-started")
        .await
        .unwrap();
    let mount_call =
        |what: &nfslab::events::What| matches!(what, nfslab::events::What::Call { service: "mount", .. });
    lab.wait_for(|event| mount_call(&event.what)).await.unwrap();
    let node = Arc::downgrade(lab.node());
    let addresses: Vec<_> = [
        Service::Nfs,
        Service::Mount,
        Service::Lockd,
        Service::Statd,
        Service::Portmap,
    ]
    .map(|service| lab.address(service))
    .into_iter()
    .chain([control])
    .collect();
    drop(lab);
    let gone = async {
        assert!(held_back.await.unwrap().is_err());
        assert!(unanswered.await.unwrap().is_err());
        let _ = follower.await.unwrap();
        while node.strong_count() > 0 || addresses.iter().any(|at| TcpStream::connect(at).is_ok()) {
            tokio::task::yield_now().await;
        }
    };
    let ended = tokio::time::timeout(PATIENCE, gone).await;
    assert!(ended.is_ok(), "{} hold the node still", node.strong_count());
}

fn example(name: &str) -> Command {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nfslab/examples");
    Command::new(folder.join(name))
}

fn passed(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{text}\n{error}", output.status);
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_with_curl_works() {
    if Command::new("curl").arg("--version").output().is_err() {
        println!("skipped: there is no curl");
        return;
    }
    let lab = Lab::builder().control().start().await.unwrap();
    let at = lab.control().unwrap().to_string();
    let output = tokio::task::spawn_blocking(|| example("control_api.sh").arg(at).output());
    let text = passed(&output.await.unwrap().unwrap());
    assert!(text.contains(r#""condition":"absent""#), "{text}");
    assert!(
        text.contains(r#"nfslab_service_condition{service="statd",condition="ok"} 1"#),
        "{text}"
    );
    assert!(lab.now() > Duration::from_secs(60));
    lab.stop().await;
}

#[test]
fn the_example_of_the_shell_works() {
    let binary = nfslab_binary();
    let folder = binary.parent().unwrap().display();
    let path = format!("{folder}:{}", std::env::var("PATH").unwrap());
    let text = passed(&example("shell.sh").env("PATH", path).output().unwrap());
    assert!(text.contains("absent") && text.contains("slow 2s"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lab_that_is_stopped_has_free_ports_when_stop_returns() {
    let lab = lab().control().start().await.unwrap();
    let endpoint = nfslab::control::client::Endpoint::Tcp(lab.control().unwrap());
    let control = nfslab::control::client::Control::new(endpoint).unwrap();
    // It keeps its connection, for the next question.
    assert_eq!(control.services().await.unwrap().len(), 5);
    let mountd = lab.connect(Service::Mount, [127, 0, 0, 1]).await.unwrap();
    mountd.call(MNT_NULL, &(), PATIENCE).await.unwrap();
    let node = Arc::downgrade(lab.node());
    let addresses = [lab.address(Service::Mount), lab.control().unwrap()];
    lab.stop().await;
    for address in addresses {
        assert!(TcpStream::connect(address).is_err(), "{address}");
    }
    // Connections have been told to end.
    let gone = async {
        while node.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    };
    let ended = tokio::time::timeout(PATIENCE, gone).await;
    assert!(ended.is_ok(), "{} hold the node still", node.strong_count());
}

#[tokio::test]
async fn a_test_that_leaves_a_rule_unused_or_a_call_at_a_gate_fails() {
    let lab = lab().rule("nlm.cancel -> drop").start().await.unwrap();
    let wrong = lab.set_rules(&["nlm.lok -> drop"]).unwrap_err().to_string();
    assert!(wrong.contains("unlock"), "{wrong}");
    let unused = lab.finish().await.unwrap_err().to_string();
    assert!(
        unused.contains("never done") && unused.contains("no nlm.cancel came"),
        "{unused}"
    );

    let lab = Lab::builder().rule("nlm.lock -> hold g").start().await.unwrap();
    let fh = lab.make_file("/lab/f").unwrap();
    let client = lab.connect(Service::Lockd, [127, 0, 0, 2]).await.unwrap();
    let asked = tokio::spawn(async move { client.call(LOCK, &lock_args(&fh, 1, 0, 0), PATIENCE).await });
    lab.gate("g").arrived(1).await.unwrap();
    let left = lab.finish().await.unwrap_err().to_string();
    assert!(left.contains("gate g") && left.contains("about /lab/f"), "{left}");
    assert!(asked.await.unwrap().is_err(), "the connection is gone");
}

#[tokio::test]
async fn a_condition_may_end_by_itself_unless_it_was_set_anew() {
    let lab = lab().start().await.unwrap();
    let statd = |lab: &Lab| {
        let services = lab.node().services();
        services
            .into_iter()
            .find(|s| s.service == "statd")
            .unwrap()
            .condition
    };
    let half_a_minute = Duration::from_secs(30);
    lab.set_service_for(Service::Statd, Condition::Hung, half_a_minute)
        .await
        .unwrap();
    assert_eq!(statd(&lab), "hung");
    lab.advance(half_a_minute).await;
    let over = |event: &nfslab::events::Event| event.kind() == "service" && event.at_ms >= 30_000.0;
    lab.wait_for(over).await.unwrap();
    assert_eq!(statd(&lab), "ok");

    lab.set_service_for(Service::Statd, Condition::Hung, half_a_minute)
        .await
        .unwrap();
    lab.set_service(Service::Statd, Condition::Absent).await.unwrap();
    lab.set_service_for(Service::Mount, Condition::Hung, half_a_minute)
        .await
        .unwrap();
    lab.advance(half_a_minute).await;
    lab.wait_for(|event| event.kind() == "service" && event.at_ms >= 60_000.0)
        .await
        .unwrap();
    assert_eq!(statd(&lab), "absent", "the end of what it no longer is");
    lab.stop().await;
}
