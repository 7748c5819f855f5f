//! The control API: HTTP and JSON under `/v1`, for the shell commands, for scenarios and for anybody's tests.
//!
//! | | |
//! |---|---|
//! | `GET /v1/services`, `PUT /v1/services/{name}` | the condition of each service: `{"condition": "slow 5s"}` |
//! | `GET /v1/peers`, `DELETE /v1/peers[/{name or address}]` | who is monitored; forget that |
//! | `GET /v1/locks` | what is held and who waits: `?limit=N`, `&after=` the `next` of the page before |
//! | `DELETE /v1/locks` | give locks away: `?path=`, `?peer=` and `?svid=` in any combination, or `?all=true` |
//! | `POST /v1/locks/forget` | lose locks, and tell nobody: `{"path": …, "peer": …, "svid": …}`, or `{"all": true}` |
//! | `POST /v1/locks/leak` | a lock of nobody: `{"path": "/lab/f", "start": 0, "len": 0, "kind": "exclusive", "for": "30s"}` |
//! | `POST /v1/locks/double-grant` | grant the next locks although they conflict: `{"path": "/lab/f", "count": 1, "for": "30s"}` |
//! | `GET /v1/locks/graph` | who waits for whom, cycles first: `?limit=N` |
//! | `GET /v1/events` | what happened: an array, or from `?after=N&follow=true` server-sent events |
//! | `GET /v1/clock`, `POST /v1/clock` | the server's clock: `{"advance": "60s"}` |
//! | `GET`, `PUT`, `DELETE /v1/rules` | the rules in force; all of them are replaced as one, by TOML or JSON |
//! | `POST /v1/rules/explain` | which rule a call would meet: `{"call": "nlm.lock path=/lab/f"}` |
//! | `GET /v1/gates`, `GET`, `POST /v1/gates/{name}` | who waits there; wait for arrivals: `?held=1&within=10s`; decide: `{"release": "go"}` |
//! | `POST /v1/verify` | whether the calls are as expected: `{"expect": ["never nlm.cancel"]}` |
//! | `GET /v1/journal` | every decision so far, JSON lines |
//! | `POST /v1/node/reboot` | a reboot, to clients: `{"grace": "50s", "notify": "all"}`, or `"none"`, or `"as_name": "other"` |
//! | `POST /v1/node/stale-handles` | every file handle given out so far goes stale: nothing, or `{"for": "30s"}` |
//! | `POST /v1/peers/{name or address}/reboot` | that client counts as rebooted: its locks go |
//! | `POST /v1/reset` | every service well, no locks, nobody monitored, the rules and file handles of the start |
//! | `GET /healthz`, `GET /version` | |
//! | `GET /metrics` | figures for Prometheus |
//! | `GET /openapi.json` | all of this as an OpenAPI document, made from the code |
//!
//! A route enters [`router`] through `routes!` only, which takes its documentation along: the comment over the
//! handler, its parameters and its bodies.
//!
//! An error is `{"error": "what, where, and what would be right"}` with a status of 4xx or 5xx.

pub mod api;
pub mod client;
mod rules;

use crate::events::{Event, EventView, ms};
use crate::server::Node;
use api::{
    BreakLocks, BreakView, ClockView, DoubleGrant, DoubleGrantView, ErrorBody, ForgetView, GraphView,
    LeakLock, LeakView, LockPage, NodeView, PeerView, RebootNode, RebootedView, ServiceView, SetClock,
    SetService, StaleHandles, VersionView,
};
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response, sse};
use axum::{Json, Router};
use serde::Deserialize;
use std::convert::Infallible;
use std::sync::Arc;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::{Stream, StreamExt};
use utoipa::openapi::{InfoBuilder, License, OpenApi, OpenApiBuilder};
use utoipa::{IntoParams, IntoResponses};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

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

/// How the document describes a [`Failure`].
#[derive(IntoResponses)]
#[response(
    status = 400,
    description = "the request says what cannot be; nothing was changed"
)]
#[expect(dead_code, reason = "only described")]
struct BadRequest(#[to_schema] ErrorBody);

/// The same.
#[derive(IntoResponses)]
#[response(status = NOT_FOUND, description = "there is nothing of that name")]
#[expect(dead_code, reason = "only described")]
struct NotFound(#[to_schema] ErrorBody);

/// The same.
#[derive(IntoResponses)]
#[response(status = CONFLICT, description = "the server cannot do that as it is now")]
#[expect(dead_code, reason = "only described")]
struct Conflict(#[to_schema] ErrorBody);
/// Something that cannot be done to the server as it is.
fn conflict(error: anyhow::Error) -> Failure {
    Failure(StatusCode::CONFLICT, format!("{error:#}"))
}

/// A fault that cannot be.
fn fault(error: anyhow::Error) -> Failure {
    bad_request(format!("{error:#}"))
}

fn bad_request(error: impl ToString) -> Failure {
    Failure(StatusCode::BAD_REQUEST, error.to_string())
}

/// The routes, for `node`.
pub fn router(node: Arc<Node>) -> Router {
    let (router, _) = documented().split_for_parts();
    router
        .fallback(async || {
            Failure(
                StatusCode::NOT_FOUND,
                "no such path: see GET /openapi.json or `nfslab help serve`".to_owned(),
            )
        })
        .with_state(node)
}

/// The routes with what the OpenAPI document says of them.
fn documented() -> OpenApiRouter<Arc<Node>> {
    OpenApiRouter::with_openapi(head())
        .routes(routes!(services))
        .routes(routes!(set_service))
        .routes(routes!(peers, forget_all))
        .routes(routes!(forget))
        .routes(routes!(locks, break_locks))
        .routes(routes!(graph))
        .routes(routes!(events))
        .routes(routes!(clock, advance))
        .routes(routes!(rules::rules, rules::set_rules, rules::no_rules))
        .routes(routes!(rules::explain))
        .routes(routes!(rules::gates))
        .routes(routes!(rules::gate, rules::set_gate))
        .routes(routes!(rules::verify))
        .routes(routes!(rules::journal))
        .routes(routes!(reboot_peer))
        .routes(routes!(forget_locks))
        .routes(routes!(leak))
        .routes(routes!(double_grant))
        .routes(routes!(reboot))
        .routes(routes!(stale_handles))
        .routes(routes!(reset))
        .routes(routes!(healthz))
        .routes(routes!(version))
        .routes(routes!(metrics))
        .routes(routes!(openapi))
}

/// The document without its paths.
fn head() -> OpenApi {
    let info = InfoBuilder::new()
        .title("nfslab")
        .description(Some(
            "The control API of a running nfslab server. Durations in requests are texts such as 5s or 250ms; times \
             in answers are milliseconds since the server started, on the server's clock.",
        ))
        .version(env!("CARGO_PKG_VERSION"))
        .license(Some(License::new(env!("CARGO_PKG_LICENSE"))))
        .build();
    OpenApiBuilder::new().info(info).build()
}

/// How each service is, and where it listens.
#[utoipa::path(get, path = "/v1/services", responses((status = OK, body = [ServiceView])))]
async fn services(State(node): State<Arc<Node>>) -> Json<Vec<ServiceView>> {
    Json(node.services())
}

/// Sets how a service is.
///
/// What follows from it (sockets, registration, the lock service's view of statd) has happened when this is
/// answered, with every service as it then is.
#[utoipa::path(put, path = "/v1/services/{name}", params(("name", description = "portmap, mount, nfs, lockd or statd")), request_body = SetService, responses((status = OK, body = [ServiceView]), BadRequest, Conflict))]
async fn set_service(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    body: Result<Json<SetService>, JsonRejection>,
) -> Result<Json<Vec<ServiceView>>, Failure> {
    let SetService { condition, lasts } = body?.0;
    let (service, condition) = faults::condition::parse(&name, &condition).map_err(bad_request)?;
    let lasts = lasts.map(|lasts| rules::duration(&lasts)).transpose()?;
    let set = match lasts {
        Some(lasts) => node.set_condition_for(service, condition, lasts).await,
        None => node.set_condition(service, condition).await,
    };
    set.map_err(conflict)?;
    Ok(Json(node.services()))
}

/// The hosts that the lock service knows.
#[utoipa::path(get, path = "/v1/peers", responses((status = OK, body = [PeerView])))]
async fn peers(State(node): State<Arc<Node>>) -> Json<Vec<PeerView>> {
    Json(node.peers())
}

/// Has the lock service no longer count anybody as monitored.
#[utoipa::path(delete, path = "/v1/peers", responses((status = OK, body = ForgetView)))]
async fn forget_all(State(node): State<Arc<Node>>) -> Json<ForgetView> {
    Json(ForgetView {
        forgotten: node.forget_peers(None),
    })
}

/// Has the lock service no longer count a host as monitored.
#[utoipa::path(delete, path = "/v1/peers/{name}", params(("name", description = "the host's caller_name or address")), responses((status = OK, body = ForgetView), NotFound))]
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
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Page {
    /// The `next` of the page before; without it, the first page.
    after: Option<String>,
    /// At most so many.
    #[serde(default = "Page::limit")]
    #[param(default = 1000)]
    limit: usize,
}

impl Page {
    fn limit() -> usize {
        1000
    }
}

/// A page of the lock table: what is held and who waits.
#[utoipa::path(get, path = "/v1/locks", params(Page), responses((status = OK, body = LockPage), BadRequest))]
async fn locks(
    State(node): State<Arc<Node>>,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Json<LockPage>, Failure> {
    let Query(page) = page?;
    let after = page.after.map(|text| text.parse()).transpose();
    Ok(Json(node.locks(after.map_err(bad_request)?, page.limit)))
}

/// Gives locks away as if they had been unlocked; their clients are not told.
#[utoipa::path(delete, path = "/v1/locks", params(BreakLocks), responses((status = OK, body = BreakView), BadRequest))]
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

/// Loses locks silently: who waits for them is not granted them by this.
#[utoipa::path(post, path = "/v1/locks/forget", request_body = BreakLocks, responses((status = OK, body = ForgetView), BadRequest))]
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

/// Enters a lock that nobody holds who lives.
#[utoipa::path(post, path = "/v1/locks/leak", request_body = LeakLock, responses((status = OK, body = LeakView), BadRequest, Conflict))]
async fn leak(
    State(node): State<Arc<Node>>,
    body: Result<Json<LeakLock>, JsonRejection>,
) -> Result<Json<LeakView>, Failure> {
    let Json(which) = body?;
    which.parse().map_err(fault)?;
    node.leak_lock(&which).map(Json).map_err(conflict)
}

/// Has the next LOCKs on a file granted although they conflict.
#[utoipa::path(post, path = "/v1/locks/double-grant", request_body = DoubleGrant, responses((status = OK, body = DoubleGrantView), BadRequest, Conflict))]
async fn double_grant(
    State(node): State<Arc<Node>>,
    body: Result<Json<DoubleGrant>, JsonRejection>,
) -> Result<Json<DoubleGrantView>, Failure> {
    let Json(which) = body?;
    which.lasts().map_err(fault)?;
    node.double_grant(&which).map(Json).map_err(conflict)
}

/// Counts a client as rebooted: its locks go.
#[utoipa::path(post, path = "/v1/peers/{name}/reboot", params(("name" = String, Path, description = "its name or address")), responses((status = OK, body = RebootedView), NotFound))]
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

/// Reboots the server, as clients see it, without the end of its process.
#[utoipa::path(post, path = "/v1/node/reboot", request_body = RebootNode, responses((status = OK, body = NodeView), BadRequest, Conflict))]
async fn reboot(
    State(node): State<Arc<Node>>,
    body: Result<Json<RebootNode>, JsonRejection>,
) -> Result<Json<NodeView>, Failure> {
    let how = body?.0.parse().map_err(fault)?;
    // It closes and opens sockets, and is not to stop half way because whoever asked hangs up.
    match tokio::spawn(async move { node.reboot(how).await }).await {
        Ok(rebooted) => rebooted.map(Json).map_err(conflict),
        Err(error) => Err(Failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

/// Makes every file handle that was given out so far stale.
#[utoipa::path(post, path = "/v1/node/stale-handles", request_body = Option<StaleHandles>, responses((status = OK, body = NodeView), BadRequest))]
async fn stale_handles(
    State(node): State<Arc<Node>>,
    body: Result<Option<Json<StaleHandles>>, JsonRejection>,
) -> Result<Json<NodeView>, Failure> {
    let how = body?.map_or_else(StaleHandles::default, |Json(how)| how);
    node.stale_handles(&how).map(Json).map_err(fault)
}

/// How much of a graph.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Most {
    /// At most so many edges.
    #[serde(default = "Page::limit")]
    #[param(default = 1000)]
    limit: usize,
}

/// Who waits for whom, cycles first.
#[utoipa::path(get, path = "/v1/locks/graph", params(Most), responses((status = OK, body = GraphView), BadRequest))]
async fn graph(
    State(node): State<Arc<Node>>,
    most: Result<Query<Most>, QueryRejection>,
) -> Result<Json<GraphView>, Failure> {
    Ok(Json(node.lock_graph(most?.0.limit)))
}

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// Only those with a higher number.
    #[serde(default)]
    after: u64,
    /// Whether to go on with what happens from now on.
    #[serde(default)]
    follow: bool,
}

/// What happened, in order.
///
/// An array of the events that are kept; with `follow=true` those and all to come as server-sent events, each
/// with its number as `id` and one event of the array as `data`. The stream ends if the reader falls too far behind.
#[utoipa::path(get, path = "/v1/events", params(Wanted), responses((status = OK, description = "the events", content((Vec<EventView> = "application/json"), (String = "text/event-stream"))), BadRequest))]
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

fn as_sse(events: impl Stream<Item = Arc<Event>>) -> impl Stream<Item = Result<sse::Event, Infallible>> {
    events.filter_map(|event| {
        let data = serde_json::to_string(&*event).ok()?;
        Some(Ok(sse::Event::default().id(event.n.to_string()).data(data)))
    })
}

/// The server's clock.
#[utoipa::path(get, path = "/v1/clock", responses((status = OK, body = ClockView)))]
async fn clock(State(node): State<Arc<Node>>) -> Json<ClockView> {
    Json(ClockView {
        now_ms: ms(node.clock.now()),
    })
}

/// Advances the server's clock: every timer of the protocols that falls into that time runs out.
#[utoipa::path(post, path = "/v1/clock", request_body = SetClock, responses((status = OK, body = ClockView), BadRequest))]
async fn advance(
    State(node): State<Arc<Node>>,
    body: Result<Json<SetClock>, JsonRejection>,
) -> Result<Json<ClockView>, Failure> {
    let by = humantime::parse_duration(&body?.0.advance).map_err(bad_request)?;
    node.advance(by).await;
    Ok(clock(State(node)).await)
}

/// Puts everything back: the conditions of the start, no locks, nobody monitored.
#[utoipa::path(post, path = "/v1/reset", responses((status = OK, body = [ServiceView]), Conflict))]
async fn reset(State(node): State<Arc<Node>>) -> Result<Json<Vec<ServiceView>>, Failure> {
    node.reset()
        .await
        .map_err(|error| Failure(StatusCode::CONFLICT, format!("{error:#}")))?;
    Ok(Json(node.services()))
}

/// Whether the server answers: always `ok`.
#[utoipa::path(get, path = "/healthz", responses((status = OK, body = String, content_type = "text/plain")))]
async fn healthz() -> &'static str {
    "ok\n"
}

/// What answers here, and its version.
#[utoipa::path(get, path = "/version", responses((status = OK, body = VersionView)))]
async fn version() -> Json<VersionView> {
    Json(VersionView::default())
}

/// Figures for Prometheus, as OpenMetrics text: calls and replies by procedure, locks, peers, connections, events.
#[utoipa::path(get, path = "/metrics", responses((status = OK, body = String, content_type = crate::metrics::CONTENT_TYPE)))]
async fn metrics(State(node): State<Arc<Node>>) -> Result<Response, Failure> {
    let text = crate::metrics::text(&node)
        .map_err(|error| Failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(([(CONTENT_TYPE, crate::metrics::CONTENT_TYPE)], text).into_response())
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", responses((status = OK, description = "OpenAPI 3.1", body = serde_json::Value)))]
async fn openapi() -> Json<OpenApi> {
    Json(documented().into_openapi())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::{Config, Ports, Server};
    use axum::body::Body;
    use axum::http::{Method, Request};
    use serde_json::Value;
    use std::collections::BTreeSet;
    use tower::ServiceExt;

    /// The paths of a router: it has no other way to tell them than `Debug`.
    fn paths(router: &Router) -> BTreeSet<String> {
        let entry = regex::Regex::new(r#"RouteId\(\d+\): "([^"]+)""#).unwrap();
        let text = format!("{router:?}");
        let all = entry.captures_iter(&text).map(|found| found[1].to_owned());
        all.filter(|path| path != "/" && !path.contains("__private__axum"))
            .collect()
    }

    #[tokio::test]
    async fn every_route_is_documented() {
        let config = Config {
            ports: Ports::AUTO,
            ..Config::default()
        };
        let server = Server::start(config).await.unwrap();
        let router = router(server.node().clone());
        let document = serde_json::to_value(documented().into_openapi()).unwrap();
        let described = document["paths"].as_object().unwrap();
        assert_eq!(
            paths(&router),
            described.keys().cloned().collect(),
            "left: what the router has; right: what the document has. Routes are added with routes! only"
        );
        for (path, operations) in described {
            for method in [
                Method::GET,
                Method::PUT,
                Method::POST,
                Method::DELETE,
                Method::PATCH,
            ] {
                let request = Request::builder()
                    .method(&method)
                    .uri(path.replace(['{', '}'], ""));
                let answer = router.clone().oneshot(request.body(Body::empty()).unwrap()).await;
                let there = answer.unwrap().status() != StatusCode::METHOD_NOT_ALLOWED;
                let operation = operations.get(method.as_str().to_lowercase());
                assert_eq!(
                    there,
                    operation.is_some(),
                    "{method} {path} is there, or documented, alone"
                );
                if let Some(operation) = operation {
                    check(&format!("{method} {path}"), operation);
                }
            }
        }
        server.stop().await;
    }

    /// An operation says what it does, what its parameters mean and what it answers.
    fn check(what: &str, operation: &Value) {
        assert!(operation["summary"].is_string(), "{what} has no comment");
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        for parameter in &parameters {
            assert!(
                parameter["description"].is_string(),
                "{what}: {parameter} is not described"
            );
        }
        let ok = &operation["responses"]["200"]["content"];
        assert!(
            ok.as_object().is_some_and(|content| !content.is_empty()),
            "{what} answers nothing?"
        );
    }

    #[test]
    fn every_field_of_every_body_is_described() {
        let document = serde_json::to_value(documented().into_openapi()).unwrap();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        assert!(
            schemas.contains_key("LockPage") && schemas.contains_key("Event"),
            "{:?}",
            schemas.keys()
        );
        for (name, schema) in schemas {
            for (field, of) in schema["properties"].as_object().into_iter().flatten() {
                assert!(
                    of["description"].is_string(),
                    "{name}.{field} has no comment: {of}"
                );
            }
        }
    }
}
