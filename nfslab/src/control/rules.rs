//! Rules, gates, expectations and the journal.

use super::api::{Explain, ExplainView, GateView, ReleaseView, RuleView, SetGate, Verify, VerifyView};
use super::{BadRequest, Failure, NotFound, bad_request};
use crate::server::{Node, Verdict};
use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use faults::rule::RuleFile;
use faults::verify::Expectation;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use utoipa::IntoParams;

/// The longest time that a request waits for something to happen.
const LONGEST: Duration = Duration::from_secs(3600);

/// The rules in force, in their order, and what became of each.
#[utoipa::path(get, path = "/v1/rules", responses((status = OK, body = [RuleView])))]
pub async fn rules(State(node): State<Arc<Node>>) -> Json<Vec<RuleView>> {
    Json(node.rules())
}

/// Replaces all rules as one: the body is a rule file, as TOML, or as JSON if the content type says so.
///
/// `rules` are lines such as `nlm.lock nth=2 -> hold g1`, `rule` are tables; lines come first. If anything in it is
/// wrong, nothing is changed.
#[utoipa::path(put, path = "/v1/rules", request_body(content((String = "application/toml"), (Object = "application/json"))), responses((status = OK, body = [RuleView]), BadRequest))]
pub async fn set_rules(
    State(node): State<Arc<Node>>,
    headers: HeaderMap,
    body: String,
) -> Result<Json<Vec<RuleView>>, Failure> {
    let content = headers
        .get(CONTENT_TYPE)
        .and_then(|content| content.to_str().ok());
    let file = match content.is_some_and(|content| content.starts_with("application/json")) {
        true => serde_json::from_str::<RuleFile>(&body).map_err(bad_request)?,
        false => RuleFile::parse(&body).map_err(bad_request)?,
    };
    node.set_rule_file(file).map_err(bad_request)?;
    Ok(Json(node.rules()))
}

/// Takes all rules away.
#[utoipa::path(delete, path = "/v1/rules", responses((status = OK, body = [RuleView])))]
pub async fn no_rules(State(node): State<Arc<Node>>) -> Json<Vec<RuleView>> {
    node.set_rules(vec![]);
    Json(node.rules())
}

/// Which rule a call would meet, and why the others would not. Nothing is counted by this.
#[utoipa::path(post, path = "/v1/rules/explain", request_body = Explain, responses((status = OK, body = [ExplainView]), BadRequest))]
pub async fn explain(
    State(node): State<Arc<Node>>,
    body: Result<Json<Explain>, JsonRejection>,
) -> Result<Json<Vec<ExplainView>>, Failure> {
    node.explain(&body?.0.call).map(Json).map_err(bad_request)
}

/// Every gate that a call has come to, and what waits there.
#[utoipa::path(get, path = "/v1/gates", responses((status = OK, body = [GateView])))]
pub async fn gates(State(node): State<Arc<Node>>) -> Json<Vec<GateView>> {
    Json(node.gates())
}

/// For which arrivals to wait.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Arrivals {
    /// How many calls must be held at once before this is answered.
    #[serde(default)]
    held: usize,
    /// How long it may take.
    #[serde(default = "Arrivals::within")]
    #[param(default = "30s")]
    within: String,
}

impl Arrivals {
    fn within() -> String {
        "30s".to_owned()
    }
}

/// One gate, as soon as so many calls wait there.
#[utoipa::path(get, path = "/v1/gates/{name}", params(("name" = String, Path, description = "the gate's name, as in a rule: hold NAME"), Arrivals), responses((status = OK, body = GateView), BadRequest, NotFound))]
pub async fn gate(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    arrivals: Result<Query<Arrivals>, QueryRejection>,
) -> Result<Json<GateView>, Failure> {
    let Query(Arrivals { held, within }) = arrivals?;
    let time = duration(&within)?;
    if held > 0 && !node.wait_at_gate(&name, held, time).await {
        let so_far = find(&node, &name).map_or(0, |gate| gate.held.len());
        let text = format!("{so_far} of {held} calls wait at gate {name} after {within}");
        return Err(Failure(StatusCode::NOT_FOUND, text));
    }
    find(&node, &name).map(Json).ok_or_else(|| no_gate(&node, &name))
}

/// Decides about calls at a gate: all that wait, the first so many, or one by its number. Or opens it, or closes it.
#[utoipa::path(post, path = "/v1/gates/{name}", params(("name" = String, Path, description = "the gate's name, as in a rule: hold NAME")), request_body = SetGate, responses((status = OK, body = ReleaseView), BadRequest, NotFound))]
pub async fn set_gate(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    body: Result<Json<SetGate>, JsonRejection>,
) -> Result<Json<ReleaseView>, Failure> {
    let SetGate {
        release,
        id,
        count,
        open,
    } = body?.0;
    let verdict = release
        .map(|text| text.parse::<Verdict>())
        .transpose()
        .map_err(bad_request)?;
    if verdict.is_none() && open.is_none() {
        return Err(bad_request(
            "what is to become of it? Expected release (go, drop, answer STATUS) or open (true, false)",
        ));
    }
    if find(&node, &name).is_none() && open.is_none() {
        return Err(no_gate(&node, &name));
    }
    let mut released = 0;
    if let Some(verdict) = verdict {
        released = node.release(&name, id, count, verdict);
        if let (Some(id), 0) = (id, released) {
            return Err(Failure(
                StatusCode::NOT_FOUND,
                format!("no call {id} waits at gate {name}"),
            ));
        }
    }
    if let Some(open) = open {
        node.set_gate_open(&name, open);
    }
    Ok(Json(ReleaseView { released }))
}

/// Whether the calls so far are as expected, and unless `only` is said: whether every rule was done, no call waits at a
/// gate, and the run is as in the journal that is replayed.
#[utoipa::path(post, path = "/v1/verify", request_body = Verify, responses((status = OK, body = VerifyView), BadRequest))]
pub async fn verify(
    State(node): State<Arc<Node>>,
    body: Result<Json<Verify>, JsonRejection>,
) -> Result<Json<VerifyView>, Failure> {
    let Verify { expect, within, only } = body?.0;
    let expectations = expect.iter().map(|text| text.parse::<Expectation>());
    let expectations = expectations.collect::<Result<Vec<_>, _>>().map_err(bad_request)?;
    let within = within.map_or(Ok(Duration::ZERO), |within| duration(&within))?;
    Ok(Json(node.verify_within(&expectations, !only, within).await))
}

/// Every decision so far that is kept, as `--journal` writes it: JSON lines, the first with the version and the seed.
#[utoipa::path(get, path = "/v1/journal", responses((status = OK, body = String, content_type = "application/jsonl")))]
pub async fn journal(State(node): State<Arc<Node>>) -> Response {
    let text = node.journal().to_lines();
    ([(CONTENT_TYPE, "application/jsonl")], text).into_response()
}

/// A time, as requests have it.
pub(super) fn duration(text: &str) -> Result<Duration, Failure> {
    let time = humantime::parse_duration(text)
        .map_err(|error| bad_request(format!("'{text}' is no duration such as 10s: {error}")))?;
    Ok(time.min(LONGEST))
}

fn find(node: &Node, name: &str) -> Option<GateView> {
    node.gates().into_iter().find(|gate| gate.gate == name)
}

fn no_gate(node: &Node, name: &str) -> Failure {
    let all: Vec<String> = node.gates().into_iter().map(|gate| gate.gate).collect();
    let text = format!(
        "no call has come to a gate {name}: there are [{}]",
        all.join(", ")
    );
    Failure(StatusCode::NOT_FOUND, text)
}
