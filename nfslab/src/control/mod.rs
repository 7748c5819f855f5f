//! The control API: HTTP and JSON under `/v1`, for the shell commands, for scenarios and for anybody's tests.
//!
//! | | |
//! |---|---|
//! | `GET /v1/services`, `PUT /v1/services/{name}` | the condition of each service: `{"condition": "slow 5s"}` |
//! | `GET /v1/peers`, `DELETE /v1/peers[/{name or address}]` | who is monitored; forget that |
//! | `GET /v1/locks` | what is held and who waits: `?limit=N`, `&after=` the `next` of the page before |
//! | `DELETE /v1/locks` | give locks away: `?path=`, `?peer=` and `?svid=` in any combination, or `?all=true` |
//! | `POST /v1/locks/forget` | lose locks, and tell nobody: `{"path": …, "peer": …, "svid": …}`, or `{"all": true}` |
//! | `POST /v1/locks/leak` | a lock of nobody: `{"path": "/lab/f", "start": 0, "len": 0, "kind": "exclusive"}` |
//! | `POST /v1/locks/double-grant` | grant the next locks although they conflict: `{"path": "/lab/f", "count": 1}` |
//! | `GET /v1/locks/graph` | who waits for whom, cycles first: `?limit=N` |
//! | `GET /v1/events` | what happened: an array, or from `?after=N&follow=true` server-sent events |
//! | `GET /v1/clock`, `POST /v1/clock` | the server's clock: `{"advance": "60s"}` |
//! | `POST /v1/node/reboot` | a reboot, to clients: `{"grace": "50s", "notify": "all"}`, or `"none"`, or `"as_name": "other"` |
//! | `POST /v1/node/stale-handles` | every file handle given out so far goes stale |
//! | `POST /v1/peers/{name or address}/reboot` | that client counts as rebooted: its locks go |
//! | `POST /v1/reset` | every service well, no locks, nobody monitored, the file handles of the start |
//! | `GET /healthz`, `GET /version` | |
//!
//! An error is `{"error": "what, where, and what would be right"}` with a status of 4xx or 5xx.

pub mod api;
pub mod client;

use crate::events::ms;
use crate::server::Node;
use api::{
    BreakLocks, BreakView, ClockView, DoubleGrant, DoubleGrantView, ErrorBody, ForgetView, GraphView,
    LeakLock, LeakView, LockPage, NodeView, PeerView, RebootNode, RebootedView, ServiceView, SetClock,
    SetService, VersionView,
};
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response, sse};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use serde::Deserialize;
use std::convert::Infallible;
use std::sync::Arc;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::{Stream, StreamExt};

/// An error on its way to the client.
struct Failure(StatusCode, String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(ErrorBody { error: self.1 })).into_response()
    }
}

impl From<JsonRejection> for Failure {
    fn from(rejection: JsonRejection) -> Self {
        Failure(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for Failure {
    fn from(rejection: QueryRejection) -> Self {
        Failure(rejection.status(), rejection.body_text())
    }
}

/// Something that cannot be done to the server as it is.
fn conflict(error: anyhow::Error) -> Failure {
    Failure(StatusCode::CONFLICT, format!("{error:#}"))
}

fn bad_request(error: impl ToString) -> Failure {
    Failure(StatusCode::BAD_REQUEST, error.to_string())
}

/// The routes, for `node`.
pub fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/v1/services", get(services))
        .route("/v1/services/{name}", put(set_service))
        .route("/v1/peers", get(peers).delete(forget_all))
        .route("/v1/peers/{name}", delete(forget))
        .route("/v1/locks", get(locks).delete(break_locks))
        .route("/v1/peers/{name}/reboot", post(reboot_peer))
        .route("/v1/locks/forget", post(forget_locks))
        .route("/v1/locks/leak", post(leak))
        .route("/v1/locks/double-grant", post(double_grant))
        .route("/v1/locks/graph", get(graph))
        .route("/v1/node/reboot", post(reboot))
        .route("/v1/node/stale-handles", post(stale_handles))
        .route("/v1/events", get(events))
        .route("/v1/clock", get(clock).post(advance))
        .route("/v1/reset", post(reset))
        .route("/healthz", get(async || "ok\n"))
        .route("/version", get(async || Json(VersionView::default())))
        .fallback(async || {
            Failure(
                StatusCode::NOT_FOUND,
                "no such path: see `nfslab help serve`".to_owned(),
            )
        })
        .with_state(node)
}

async fn services(State(node): State<Arc<Node>>) -> Json<Vec<ServiceView>> {
    Json(node.services())
}

async fn set_service(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    body: Result<Json<SetService>, JsonRejection>,
) -> Result<Json<Vec<ServiceView>>, Failure> {
    let (service, condition) = faults::condition::parse(&name, &body?.0.condition).map_err(bad_request)?;
    node.set_condition(service, condition)
        .await
        .map_err(|error| Failure(StatusCode::CONFLICT, format!("{error:#}")))?;
    Ok(Json(node.services()))
}

async fn peers(State(node): State<Arc<Node>>) -> Json<Vec<PeerView>> {
    Json(node.peers())
}

async fn forget_all(State(node): State<Arc<Node>>) -> Json<ForgetView> {
    Json(ForgetView {
        forgotten: node.forget_peers(None),
    })
}

async fn forget(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
) -> Result<Json<ForgetView>, Failure> {
    match node.forget_peers(Some(&name)) {
        0 => Err(Failure(
            StatusCode::NOT_FOUND,
            format!("no monitored peer '{name}': see `nfslab peer list`"),
        )),
        forgotten => Ok(Json(ForgetView { forgotten })),
    }
}

/// Which part of a list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    after: Option<String>,
    #[serde(default = "Page::limit")]
    limit: usize,
}

impl Page {
    fn limit() -> usize {
        1000
    }
}

async fn locks(
    State(node): State<Arc<Node>>,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Json<LockPage>, Failure> {
    let Query(page) = page?;
    let after = page.after.map(|text| text.parse()).transpose();
    Ok(Json(node.locks(after.map_err(bad_request)?, page.limit)))
}

async fn break_locks(
    State(node): State<Arc<Node>>,
    which: Result<Query<BreakLocks>, QueryRejection>,
) -> Result<Json<BreakView>, Failure> {
    let Query(which) = which?;
    which.check().map_err(bad_request)?;
    Ok(Json(BreakView {
        broken: node.break_locks(&which),
    }))
}

async fn forget_locks(
    State(node): State<Arc<Node>>,
    body: Result<Json<BreakLocks>, JsonRejection>,
) -> Result<Json<ForgetView>, Failure> {
    let Json(which) = body?;
    which.check().map_err(bad_request)?;
    Ok(Json(ForgetView {
        forgotten: node.forget_locks(&which),
    }))
}

async fn leak(
    State(node): State<Arc<Node>>,
    body: Result<Json<LeakLock>, JsonRejection>,
) -> Result<Json<LeakView>, Failure> {
    let Json(which) = body?;
    which.parse().map_err(bad_request)?;
    node.leak_lock(&which).map(Json).map_err(conflict)
}

async fn double_grant(
    State(node): State<Arc<Node>>,
    body: Result<Json<DoubleGrant>, JsonRejection>,
) -> Result<Json<DoubleGrantView>, Failure> {
    node.double_grant(&body?.0).map(Json).map_err(conflict)
}

async fn reboot_peer(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
) -> Result<Json<RebootedView>, Failure> {
    match node.reboot_peer(&name) {
        0 => Err(Failure(
            StatusCode::NOT_FOUND,
            format!("the lock service knows no peer '{name}': see `nfslab peer list`"),
        )),
        rebooted => Ok(Json(RebootedView { rebooted })),
    }
}

async fn reboot(
    State(node): State<Arc<Node>>,
    body: Result<Json<RebootNode>, JsonRejection>,
) -> Result<Json<NodeView>, Failure> {
    let how = body?
        .0
        .parse()
        .map_err(|error| bad_request(format!("{error:#}")))?;
    // It closes and opens sockets, and is not to stop half way because whoever asked hangs up.
    match tokio::spawn(async move { node.reboot(how).await }).await {
        Ok(rebooted) => rebooted.map(Json).map_err(conflict),
        Err(error) => Err(Failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

async fn stale_handles(State(node): State<Arc<Node>>) -> Json<NodeView> {
    Json(node.stale_handles())
}

/// How much of a graph.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Most {
    #[serde(default = "Page::limit")]
    limit: usize,
}

async fn graph(
    State(node): State<Arc<Node>>,
    most: Result<Query<Most>, QueryRejection>,
) -> Result<Json<GraphView>, Failure> {
    Ok(Json(node.lock_graph(most?.0.limit)))
}

/// Which events.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    follow: bool,
}

async fn events(
    State(node): State<Arc<Node>>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Response, Failure> {
    let Query(wanted) = wanted?;
    let (past, live) = node.events.since(wanted.after);
    if !wanted.follow {
        return Ok(Json(past.iter().map(Arc::as_ref).collect::<Vec<_>>()).into_response());
    }
    let live = BroadcastStream::new(live).map_while(Result::ok);
    let stream = tokio_stream::iter(past).chain(live);
    Ok(Sse::new(as_sse(stream))
        .keep_alive(KeepAlive::default())
        .into_response())
}

fn as_sse(
    events: impl Stream<Item = Arc<crate::events::Event>>,
) -> impl Stream<Item = Result<sse::Event, Infallible>> {
    events.filter_map(|event| {
        let data = serde_json::to_string(&*event).ok()?;
        Some(Ok(sse::Event::default().id(event.n.to_string()).data(data)))
    })
}

async fn clock(State(node): State<Arc<Node>>) -> Json<ClockView> {
    Json(ClockView {
        now_ms: ms(node.clock.now()),
    })
}

async fn advance(
    State(node): State<Arc<Node>>,
    body: Result<Json<SetClock>, JsonRejection>,
) -> Result<Json<ClockView>, Failure> {
    let by = humantime::parse_duration(&body?.0.advance).map_err(bad_request)?;
    node.clock.advance(by);
    Ok(clock(State(node)).await)
}

async fn reset(State(node): State<Arc<Node>>) -> Result<Json<Vec<ServiceView>>, Failure> {
    node.reset()
        .await
        .map_err(|error| Failure(StatusCode::CONFLICT, format!("{error:#}")))?;
    Ok(Json(node.services()))
}
