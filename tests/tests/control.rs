//! The control API over HTTP: what no command of the shell shows.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

mod common;

use common::{connect, lock_args, make_file};
use faults::{Condition, Service};
use nfslab::control::client::{Control, Endpoint};
use nfslab::server::{Config, ControlAt, Ports, Server};
use proto::nlm::NlmProc;
use rpc::client::{Client, Target};
use rpc::msg::Transport;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

async fn start() -> (Server, Control) {
    let anywhere = Endpoint::Tcp(([127, 0, 0, 1], 0).into());
    let config = Config {
        ports: Ports::AUTO,
        control: ControlAt::At(anywhere),
        ..Config::default()
    };
    let server = Server::start(config).await.unwrap();
    let control = Control::new(Endpoint::Tcp(server.control().unwrap())).unwrap();
    (server, control)
}

/// The figure of a series, by its name and labels.
fn figure(text: &str, series: &str) -> f64 {
    let figures = text.lines().filter_map(|line| line.strip_prefix(series));
    let figures: Vec<f64> = figures
        .filter_map(|rest| rest.strip_prefix(' ')?.parse().ok())
        .collect();
    assert_eq!(figures.len(), 1, "{series} stands once in\n{text}");
    figures[0]
}

/// A type and a help for each name, and a number in each line.
fn well_formed(text: &str) {
    assert!(text.ends_with("# EOF\n"), "{text}");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, number) = line.rsplit_once(' ').unwrap();
        assert!(number.parse::<f64>().is_ok(), "{line}");
        let name = series.split('{').next().unwrap();
        let name = name.strip_suffix("_total").unwrap_or(name);
        assert!(text.contains(&format!("# TYPE {name} ")), "{line}: no type");
        assert!(text.contains(&format!("# HELP {name} ")), "{line}: no help");
    }
}

async fn lock(client: &Client, fh: &[u8]) -> Result<bytes::Bytes, rpc::client::CallError> {
    let target = Target::new(proto::nlm::PROGRAM, 4, NlmProc::NLM_LOCK.0);
    client.call(target, &lock_args(fh, 1, 0, 0), PATIENCE).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_move_with_what_happens() {
    const LOCKS: &str = r#"nfslab_calls_total{service="lockd",procedure="NLM_LOCK"}"#;
    const ANSWERED: &str = r#"nfslab_replies_total{service="lockd",procedure="NLM_LOCK"}"#;
    let (server, control) = start().await;
    let before = control.metrics().await.unwrap();
    well_formed(&before);
    assert_eq!(figure(&before, LOCKS), 0.0);
    assert_eq!(figure(&before, r#"nfslab_connections{service="lockd"}"#), 0.0);

    let fh = make_file(&server, "f").await;
    let node = server.node();
    node.set_condition(Service::Statd, Condition::Hung).await.unwrap();
    let client = connect([127, 0, 0, 2].into(), &server, Service::Lockd, Transport::Tcp).await;
    let (_, mut live) = node.events.since(u64::MAX);
    let frozen = async {
        while live.recv().await.unwrap().kind() != "call" {}
        control.metrics().await.unwrap()
    };
    let calling = lock(&client, &fh);
    tokio::pin!(calling);
    let text = tokio::select! {
        answer = &mut calling => panic!("answered, though statd is hung: {answer:?}"),
        text = frozen => text,
    };
    well_formed(&text);
    assert_eq!(figure(&text, ANSWERED), 0.0);
    assert_eq!(
        figure(
            &text,
            r#"nfslab_service_condition{service="statd",condition="hung"}"#
        ),
        1.0
    );
    assert_eq!(
        figure(&text, r#"nfslab_service_condition{service="nfs",condition="ok"}"#),
        1.0
    );
    assert_eq!(figure(&text, r#"nfslab_connections{service="lockd"}"#), 1.0);

    node.set_condition(Service::Statd, Condition::Ok).await.unwrap();
    calling.await.unwrap();
    let after = control.metrics().await.unwrap();
    let created = r#"_total{service="nfs",procedure="NFSPROC3_CREATE"}"#;
    for (series, expected) in [
        (LOCKS, 1.0),
        (ANSWERED, 1.0),
        (&format!("nfslab_calls{created}"), 1.0),
        (&format!("nfslab_replies{created}"), 1.0),
        (r#"nfslab_locks{state="held"}"#, 1.0),
        (r#"nfslab_locks{state="waiting"}"#, 0.0),
        (r#"nfslab_peers{monitored="statd"}"#, 1.0),
        ("nfslab_events_dropped_total", 0.0),
        ("nfslab_calls_unlogged_total", 0.0),
    ] {
        assert_eq!(figure(&after, series), expected, "{series}\n{after}");
    }
    assert!(figure(&after, "nfslab_events_total") > figure(&before, "nfslab_events_total"));
    assert!(figure(&after, "nfslab_clock_seconds") > figure(&before, "nfslab_clock_seconds"));
    server.stop().await;
}

#[tokio::test]
async fn the_openapi_document_is_served() {
    let (server, control) = start().await;
    let document = control.openapi().await.unwrap();
    assert!(
        document["openapi"].as_str().unwrap().starts_with("3."),
        "{document}"
    );
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    for (path, method) in [
        ("/v1/rules", "put"),
        ("/v1/gates", "get"),
        ("/v1/gates/{name}", "post"),
        ("/v1/locks", "get"),
        ("/v1/locks", "delete"),
        ("/v1/peers", "get"),
        ("/v1/services", "get"),
        ("/v1/services/{name}", "put"),
        ("/v1/clock", "post"),
        ("/v1/events", "get"),
        ("/v1/verify", "post"),
        ("/v1/reset", "post"),
        ("/metrics", "get"),
        ("/healthz", "get"),
        ("/version", "get"),
        ("/openapi.json", "get"),
    ] {
        assert!(document["paths"][path][method].is_object(), "{method} {path}");
    }
    server.stop().await;
}
