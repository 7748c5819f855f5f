//! The other end of the control API: what the shell commands and the scenarios use.

use super::api::{
    BreakLocks, BreakView, ClockView, DoubleGrant, DoubleGrantView, ErrorBody, Explain, ExplainView,
    ForgetView, GateView, GraphView, LeakLock, LeakView, LockPage, NodeView, PeerView, RebootNode,
    RebootedView, ReleaseView, RuleView, ServiceView, SetClock, SetGate, SetService, StaleHandles, Verify,
    VerifyView,
};
use anyhow::{Context, Result, bail};
use nlm::table::Cursor;
use reqwest::{Method, RequestBuilder};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Where a server's control API is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// HTTP on a TCP port.
    Tcp(SocketAddr),
    /// HTTP on a socket in the file system.
    Unix(PathBuf),
}

impl Endpoint {
    /// Where it is unless told otherwise.
    pub const DEFAULT: &'static str = "127.0.0.1:9049";
}

impl FromStr for Endpoint {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("unix:") {
            Some("") => Err("unix: needs a path, as in unix:/run/nfslab.sock".to_owned()),
            Some(path) => Ok(Endpoint::Unix(path.into())),
            None => text.parse().map(Endpoint::Tcp).map_err(|_| {
                format!(
                    "'{text}' is neither ADDRESS:PORT, as in {}, nor unix:PATH",
                    Endpoint::DEFAULT
                )
            }),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp(address) => write!(f, "{address}"),
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A control API to talk to.
#[derive(Debug, Clone)]
pub struct Control {
    endpoint: Endpoint,
    http: reqwest::Client,
}

impl Control {
    /// Prepares; nothing is connected yet.
    ///
    /// # Errors
    /// If the HTTP client cannot be made.
    pub fn new(endpoint: Endpoint) -> Result<Control> {
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(Duration::from_secs(5));
        if let Endpoint::Unix(path) = &endpoint {
            builder = builder.unix_socket(path.clone());
        }
        Ok(Control {
            endpoint,
            http: builder.build()?,
        })
    }

    /// Every service.
    ///
    /// # Errors
    /// If nothing answers there, or what answers refuses. The same for all that follow.
    pub async fn services(&self) -> Result<Vec<ServiceView>> {
        self.ask(self.request(Method::GET, "/v1/services")).await
    }

    /// Sets a service's condition, for a time if that is said, and returns every service.
    pub async fn set_service(
        &self,
        service: &str,
        condition: &str,
        lasts: Option<&str>,
    ) -> Result<Vec<ServiceView>> {
        let body = SetService {
            condition: condition.to_owned(),
            lasts: lasts.map(str::to_owned),
        };
        self.send(Method::PUT, &format!("/v1/services/{service}"), &body)
            .await
    }

    /// Every peer of the lock service.
    pub async fn peers(&self) -> Result<Vec<PeerView>> {
        self.ask(self.request(Method::GET, "/v1/peers")).await
    }

    /// Has a peer no longer count as monitored; without a name, every one.
    pub async fn forget(&self, name: Option<&str>) -> Result<ForgetView> {
        let path = name.map_or("/v1/peers".to_owned(), |name| format!("/v1/peers/{name}"));
        self.ask(self.request(Method::DELETE, &path)).await
    }

    /// A page of the lock table.
    pub async fn locks(&self, after: Option<&Cursor>, limit: usize) -> Result<LockPage> {
        let after = after.map_or(String::new(), |cursor| format!("&after={cursor}"));
        self.ask(self.request(Method::GET, &format!("/v1/locks?limit={limit}{after}")))
            .await
    }

    /// Who waits for whom.
    pub async fn graph(&self, limit: usize) -> Result<GraphView> {
        self.ask(self.request(Method::GET, &format!("/v1/locks/graph?limit={limit}")))
            .await
    }

    /// Gives locks away as if they had been unlocked.
    pub async fn break_locks(&self, which: &BreakLocks) -> Result<BreakView> {
        self.ask(self.request(Method::DELETE, "/v1/locks").query(which))
            .await
    }

    /// Loses locks, and tells nobody.
    pub async fn forget_locks(&self, which: &BreakLocks) -> Result<ForgetView> {
        self.send(Method::POST, "/v1/locks/forget", which).await
    }

    /// Enters a lock of nobody.
    pub async fn leak(&self, which: &LeakLock) -> Result<LeakView> {
        self.send(Method::POST, "/v1/locks/leak", which).await
    }

    /// Has locks that conflict granted.
    pub async fn double_grant(&self, which: &DoubleGrant) -> Result<DoubleGrantView> {
        self.send(Method::POST, "/v1/locks/double-grant", which).await
    }

    /// Has a peer count as rebooted.
    pub async fn reboot_peer(&self, name: &str) -> Result<RebootedView> {
        self.ask(self.request(Method::POST, &format!("/v1/peers/{name}/reboot")))
            .await
    }

    /// Reboots the server, as far as clients can tell.
    pub async fn reboot(&self, how: &RebootNode) -> Result<NodeView> {
        self.send(Method::POST, "/v1/node/reboot", how).await
    }

    /// Has every file handle go stale.
    pub async fn stale_handles(&self, how: &StaleHandles) -> Result<NodeView> {
        self.send(Method::POST, "/v1/node/stale-handles", how).await
    }

    /// Advances the server's clock.
    pub async fn advance(&self, by: &str) -> Result<ClockView> {
        self.send(
            Method::POST,
            "/v1/clock",
            &SetClock {
                advance: by.to_owned(),
            },
        )
        .await
    }

    /// The server's clock.
    pub async fn clock(&self) -> Result<ClockView> {
        self.ask(self.request(Method::GET, "/v1/clock")).await
    }

    /// The rules in force.
    pub async fn rules(&self) -> Result<Vec<RuleView>> {
        self.ask(self.request(Method::GET, "/v1/rules")).await
    }

    /// Replaces all rules by those of a file, as TOML.
    pub async fn set_rules(&self, toml: String) -> Result<Vec<RuleView>> {
        let request = self.request(Method::PUT, "/v1/rules");
        self.ask(request.header("content-type", "application/toml").body(toml))
            .await
    }

    /// Takes all rules away.
    pub async fn no_rules(&self) -> Result<Vec<RuleView>> {
        self.ask(self.request(Method::DELETE, "/v1/rules")).await
    }

    /// Which rule a call would meet.
    pub async fn explain(&self, call: &str) -> Result<Vec<ExplainView>> {
        let body = Explain {
            call: call.to_owned(),
        };
        self.send(Method::POST, "/v1/rules/explain", &body).await
    }

    /// Every gate.
    pub async fn gates(&self) -> Result<Vec<GateView>> {
        self.ask(self.request(Method::GET, "/v1/gates")).await
    }

    /// Waits until so many calls are held at a gate.
    pub async fn wait_at_gate(&self, gate: &str, held: usize, within: &str) -> Result<GateView> {
        let request = self.request(Method::GET, &format!("/v1/gates/{gate}"));
        self.ask(request.query(&[("held", held.to_string().as_str()), ("within", within)]))
            .await
    }

    /// Decides about calls at a gate.
    pub async fn set_gate(&self, gate: &str, what: &SetGate) -> Result<ReleaseView> {
        self.send(Method::POST, &format!("/v1/gates/{gate}"), what).await
    }

    /// Whether the calls are as expected.
    pub async fn verify(&self, what: &Verify) -> Result<VerifyView> {
        self.send(Method::POST, "/v1/verify", what).await
    }

    /// Puts everything back.
    pub async fn reset(&self) -> Result<Vec<ServiceView>> {
        self.ask(self.request(Method::POST, "/v1/reset")).await
    }

    /// The events kept with a number above `after`, as JSON.
    pub async fn events(&self, after: u64) -> Result<Vec<serde_json::Value>> {
        self.ask(self.request(Method::GET, &format!("/v1/events?after={after}")))
            .await
    }

    /// Those events and all that follow, until the server ends or `see` says `false`.
    pub async fn follow(&self, after: u64, mut see: impl FnMut(serde_json::Value) -> bool) -> Result<()> {
        let request = self.request(Method::GET, &format!("/v1/events?after={after}&follow=true"));
        let mut response = request.send().await.with_context(|| self.nobody())?;
        let mut text = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            text.extend_from_slice(&chunk);
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                let Some(data) = line.strip_prefix(b"data: ") else {
                    continue;
                };
                if !see(serde_json::from_slice(data)?) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The figures for Prometheus, as OpenMetrics text.
    pub async fn metrics(&self) -> Result<String> {
        let request = self.request(Method::GET, "/metrics");
        let response = request.send().await.with_context(|| self.nobody())?;
        Ok(response.error_for_status()?.text().await?)
    }

    /// The API, as an OpenAPI document.
    pub async fn openapi(&self) -> Result<serde_json::Value> {
        self.ask(self.request(Method::GET, "/openapi.json")).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let host = match &self.endpoint {
            Endpoint::Tcp(address) => address.to_string(),
            Endpoint::Unix(_) => "nfslab".to_owned(),
        };
        self.http.request(method, format!("http://{host}{path}"))
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        self.ask(self.request(method, path).json(body)).await
    }

    async fn ask<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let response = request.send().await.with_context(|| self.nobody())?;
        if response.status().is_success() {
            return response
                .json()
                .await
                .with_context(|| format!("what answers at {} is not nfslab", self.endpoint));
        }
        let status = response.status();
        match response.json::<ErrorBody>().await {
            Ok(body) => bail!("{}", body.error),
            Err(_) => bail!("{} answers {status}", self.endpoint),
        }
    }

    fn nobody(&self) -> String {
        format!(
            "no nfslab server at {}: start one with `nfslab serve`, or name another with --control or \
             NFSLAB_CONTROL",
            self.endpoint
        )
    }
}
