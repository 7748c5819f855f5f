//! The server's life: start, addresses, stop.

use super::Node;
use super::config::{Config, ControlAt};
use super::listeners::Listeners;
use super::{locks, statd};
use crate::control::client::Endpoint;
use crate::events::What;
use anyhow::{Context, Result, bail};
use faults::{Condition, Service};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// How long the control API's connections have for their last answers when the server stops.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// A server that runs.
pub struct Server {
    node: Arc<Node>,
    tasks: JoinSet<()>,
    /// The control API with its connections.
    serving: JoinSet<()>,
    control: Option<SocketAddr>,
    control_path: Option<PathBuf>,
    ready_file: Option<PathBuf>,
}

/// The addresses that a server took: the content of `--ready-file`.
#[derive(Debug, Clone, Serialize)]
pub struct Addresses {
    /// The first address of every service.
    pub address: IpAddr,
    /// All of them.
    pub addresses: Vec<IpAddr>,
    /// The port of each service.
    pub ports: BTreeMap<String, u16>,
    /// Where the control API is.
    pub control: Option<String>,
    /// What can be mounted.
    pub exports: Vec<String>,
    /// The process.
    pub pid: u32,
}

impl Server {
    /// Binds every port, then starts to answer.
    ///
    /// # Errors
    /// A port or file that cannot be had, with the flag that mends it. Nothing is half started.
    pub async fn start(config: Config) -> Result<Server> {
        config.check_conditions()?;
        config.check_statd()?;
        let (listeners, bound) =
            Listeners::bind(&config.bind, config.ports, config.services(), config.limits)?;
        let node = Node::new(&config)?;
        // Last, since a socket in the file system would stay if anything after it failed.
        let control = bind_control(&config.control).await?;
        let mut server = Server {
            node: node.clone(),
            tasks: JoinSet::new(),
            serving: JoinSet::new(),
            control: None,
            control_path: None,
            ready_file: config.ready_file.clone(),
        };
        for (service, sockets) in bound {
            let condition = config.conditions.get(service);
            if let Some(port) = condition.registered(listeners.ports().get(service)) {
                node.register(service, port, &listeners);
            }
            if !condition.listens() {
                continue; // dropping the sockets closes them
            }
            if let Some(door) = node.door(service) {
                listeners.serve(service, sockets, door)?;
            }
        }
        let _ = node.listeners.set(listeners);
        node.statd.conditions_changed(&node);
        node.locks.conditions_changed(&node, None);
        server.tasks.spawn(locks::drive(node.clone()));
        server.tasks.spawn(statd::drive(node.clone()));
        server.tasks.spawn(statd::system::drive(node.clone()));
        server.serve_control(control)?;
        let addresses = server.addresses(&config)?;
        node.event(What::Serving {
            address: joined(&addresses.addresses),
            exports: addresses.exports.clone(),
        });
        for (service, condition) in config.conditions.iter().filter(|(_, c)| *c != Condition::Ok) {
            node.event(What::condition(service, condition));
        }
        node.register_all_with_system(&config.conditions).await?;
        if let Some(path) = &config.ready_file
            && let Err(error) = write_ready(path, &addresses)
        {
            node.withdraw_all_from_system().await;
            return Err(error);
        }
        node.statd.begin(&node);
        Ok(server)
    }

    fn serve_control(&mut self, control: Option<ControlSocket>) -> Result<()> {
        let router = crate::control::router(self.node.clone());
        let stopping = self.node.stopping.clone().cancelled_owned();
        let ended = |result: std::io::Result<()>| {
            if let Err(error) = result {
                tracing::error!(%error, "the control API has ended");
            }
        };
        match control {
            None => {}
            Some(ControlSocket::Tcp(listener)) => {
                self.control = Some(listener.local_addr()?);
                self.serving.spawn(async move {
                    ended(
                        axum::serve(listener, router)
                            .with_graceful_shutdown(stopping)
                            .await,
                    )
                });
            }
            Some(ControlSocket::Unix(listener, path)) => {
                self.control_path = Some(path);
                self.serving.spawn(async move {
                    ended(
                        axum::serve(listener, router)
                            .with_graceful_shutdown(stopping)
                            .await,
                    )
                });
            }
        }
        Ok(())
    }

    fn addresses(&self, config: &Config) -> Result<Addresses> {
        let listeners = self.node.listeners()?;
        let ports = Service::ALL.map(|s| (s.to_string(), listeners.ports().get(s)));
        let control = match (&self.control, &self.control_path) {
            (Some(address), _) => Some(address.to_string()),
            (None, Some(path)) => Some(format!("unix:{}", path.display())),
            (None, None) => None,
        };
        let listening = listeners.addresses();
        Ok(Addresses {
            address: *listening.first().context("there is no address")?,
            addresses: listening.to_vec(),
            ports: ports.into_iter().collect(),
            control,
            exports: config.exports.iter().map(|e| e.name.clone()).collect(),
            pid: std::process::id(),
        })
    }

    /// What to tell the person who started it.
    pub fn greeting(&self) -> String {
        let control = self
            .control
            .map_or(String::new(), |at| format!("; control API on {at}"));
        let services = self.node.services();
        let ports: Vec<_> = services
            .iter()
            .map(|s| match s.port {
                0 => format!("{} of the system", s.service),
                port => format!("{} {port}", s.service),
            })
            .collect();
        let address = self
            .node
            .listeners
            .get()
            .map_or(String::new(), |l| joined(l.addresses()));
        let exports: Vec<_> = self.node.exports.list().iter().map(|e| e.name.as_str()).collect();
        format!(
            "nfslab serves {} on {address} ({}){control}",
            exports.join(", "),
            ports.join(", ")
        )
    }

    /// What the services share.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// The port of a service.
    pub fn port(&self, service: Service) -> u16 {
        self.node.listeners.get().map_or(0, |l| l.ports().get(service))
    }

    /// Where the control API listens, if on TCP.
    pub fn control(&self) -> Option<SocketAddr> {
        self.control
    }

    /// Closes every socket and has every task end, whenever the runtime gets to it.
    fn end(&mut self) {
        self.node.stopping.cancel();
        self.node.events.end();
        self.tasks.abort_all();
        if let Some(listeners) = self.node.listeners.get() {
            listeners.abandon();
        }
    }

    /// Stops: closes every socket, ends every task, writes out the capture, removes its files.
    pub async fn stop(mut self) {
        self.node.withdraw_all_from_system().await;
        if let Some(listeners) = self.node.listeners.get() {
            listeners.close_all().await;
        }
        self.end();
        self.tasks.shutdown().await;
        // Its connections end with their answer; somebody may never have asked to the end.
        let ended = async { while self.serving.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LAST_ANSWERS, ended).await;
        self.node.tasks.close();
        self.node.tasks.wait().await;
        if let Some(capture) = &self.node.capture
            && let Err(error) = capture.flush()
        {
            tracing::error!(%error, "the capture is not complete");
        }
        for path in [&self.control_path, &self.ready_file].into_iter().flatten() {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// Addresses for people.
fn joined(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    texts.join(", ")
}

enum ControlSocket {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener, PathBuf),
}

async fn bind_control(at: &ControlAt) -> Result<Option<ControlSocket>> {
    let failed = |at: &Endpoint| {
        format!(
            "cannot listen on {at} for the control API; choose another with --control ADDR:PORT, \
             --control unix:PATH or --control none"
        )
    };
    Ok(match at {
        ControlAt::None => None,
        ControlAt::At(endpoint @ Endpoint::Tcp(address)) => {
            let listener = tokio::net::TcpListener::bind(address).await;
            Some(ControlSocket::Tcp(listener.with_context(|| failed(endpoint))?))
        }
        ControlAt::At(endpoint @ Endpoint::Unix(path)) => {
            // A server that was killed leaves its socket behind; one that answers keeps it.
            let left = tokio::net::UnixStream::connect(path).await.err();
            if left.is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused) {
                let _ = std::fs::remove_file(path);
            }
            let listener = tokio::net::UnixListener::bind(path).with_context(|| failed(endpoint))?;
            Some(ControlSocket::Unix(listener, path.clone()))
        }
    })
}

/// Writes the ready file under another name and renames it, so that whoever waits for it finds it whole.
fn write_ready(path: &Path, addresses: &Addresses) -> Result<()> {
    let Some(name) = path.file_name() else {
        bail!("--ready-file {} is not a file", path.display())
    };
    let new = path.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let written = std::fs::write(&new, serde_json::to_vec_pretty(addresses)?)
        .and_then(|()| std::fs::rename(&new, path));
    written.with_context(|| format!("cannot write --ready-file {}", path.display()))
}
