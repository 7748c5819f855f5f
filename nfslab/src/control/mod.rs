//! The control API: HTTP and JSON under `/v1`, for the shell commands, for scenarios and for anybody's tests.
//!
//! | | |
//! |---|---|
//! | `GET /v1/services`, `PUT /v1/services/{name}` | the condition of each service: `{"condition": "slow 5s"}` |
//! | `GET /v1/peers`, `DELETE /v1/peers[/{name or address}]` | who is monitored; forget that |
//! | `GET /v1/locks` | what is held and who waits: `?limit=N`, `&after=` the `next` of the page before |
//! | `DELETE /v1/locks` | give locks away: `?path=`, `?peer=` and `?svid=` in any combination, or `?all=true` |
//! | `GET /v1/locks/graph` | who waits for whom, cycles first: `?limit=N` |
//! | `GET /v1/events` | what happened: an array, or from `?after=N&follow=true` server-sent events |
//! | `GET /v1/clock`, `POST /v1/clock` | the server's clock: `{"advance": "60s"}` |
//! | `POST /v1/reset` | every service well, no locks, nobody monitored |
//! | `GET /healthz`, `GET /version` | |
//!
//! An error is `{"error": "what, where, and what would be right"}` with a status of 4xx or 5xx.

pub mod api;
pub mod client;

use crate::events::ms;
use crate::server::Node;
use api::{
    BreakLocks, BreakView, ClockView, ErrorBody, ForgetView, GraphView, LockPage, PeerView, ServiceView,
    SetClock, SetService, VersionView,
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
        .route("/v1/locks/graph", get(graph))
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
    let some = which.path.is_some() || which.peer.is_some() || which.svid.is_some();
    if some == which.all {
        return Err(bad_request(
            "which locks are to be broken? Expected path, peer and svid in any combination, or all=true alone",
        ));
    }
    Ok(Json(BreakView {
        broken: node.break_locks(&which),
    }))
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
