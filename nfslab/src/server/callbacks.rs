//! Calls to a client's lock manager, GRANTED_MSG and the answers to asynchronous calls (`_RES`), by way of the
//! client's own port mapper.
//!
//! The way is that of a Linux server: ask port 111 of the client's address where the version of NLM that the
//! client used listens, over the transport that it used, then call there from the address that it had
//! called. A connection is kept for as long as it works.

use super::plan::Outgoing;
use super::portmap::port_of;
use crate::capture::Capture;
use bytes::Bytes;
use faults::action::Field;
use nlm::hosts::HostKey;
use nlm::request::Callback;
use parking_lot::Mutex;
use proto::nlm::NlmProc;
use proto::portmap;
use rpc::client::{CallError, Client, Identity, Options, Tap, Target};
use rpc::msg::Transport;
use rpc::xdr::{self, Encode, Writer};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How long a client's port mapper and lock manager may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections kept.
const CONNECTIONS: usize = 1024;

/// Arguments, encoded in the version of the client.
pub struct Encoded(pub Bytes);

impl Encoded {
    /// The arguments of GRANTED_MSG, changed as is planned.
    pub fn granted(callback: &Callback, outgoing: &Outgoing) -> Encoded {
        let mut args = callback.args();
        let cookie = outgoing
            .get(Field::Cookie)
            .map(|cookie| (cookie as u32).to_be_bytes());
        if let Some(cookie) = &cookie {
            args.cookie = cookie[..].into();
        }
        if let Some(svid) = outgoing.get(Field::Svid) {
            args.alock.svid = svid as i32;
        }
        if let Some(offset) = outgoing.get(Field::Offset) {
            args.alock.l_offset = offset;
        }
        if let Some(len) = outgoing.get(Field::Len) {
            args.alock.l_len = len;
        }
        if let Some(exclusive) = outgoing.get(Field::Exclusive) {
            args.exclusive = exclusive != 0;
        }
        let args = match callback.host.version {
            proto::nlm::V4 => xdr::to_bytes(&args),
            _ => xdr::to_bytes(&proto::nlm::v3::TestArgs::from(args)),
        };
        Encoded(outgoing.words(args))
    }
}

impl Encode for Encoded {
    fn encode(&self, w: &mut Writer) {
        w.raw(&self.0);
    }
}

/// Why a callback did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum CallbackError {
    /// The client's port mapper could not be asked.
    #[error("its port mapper (port 111) cannot be asked: {0}")]
    PortMapper(CallError),
    /// It knows no lock manager.
    #[error("its port mapper knows no lock manager")]
    NotRegistered,
    /// The lock manager could not be called.
    #[error("its lock manager (port {port}) cannot be called: {error}")]
    LockManager {
        /// Where it should be.
        port: u16,
        /// What happened.
        error: CallError,
    },
}

/// The way to one client's lock manager. Who calls it while it is being looked for waits, and their calls go out in the
/// order in which they came.
#[derive(Default)]
struct Line {
    latest: tokio::sync::Mutex<Option<Found>>,
    /// How often it was looked for.
    attempts: AtomicU32,
}

type Found = Result<Arc<Client>, Arc<CallbackError>>;

/// The connections to the clients' lock managers.
pub struct Callbacks {
    lines: Mutex<BTreeMap<HostKey, Arc<Line>>>,
    next_xid: AtomicU32,
    tap: Option<Arc<Capture>>,
}

impl Callbacks {
    /// None yet.
    pub fn new(tap: Option<Arc<Capture>>) -> Self {
        Callbacks {
            lines: Mutex::default(),
            next_xid: AtomicU32::new(0x6e66_0001),
            tap,
        }
    }

    /// Makes one call, to another port than the client's own if that is planned. Its void reply says that it arrived; what the client thinks of a GRANTED_MSG comes
    /// later, as a GRANTED_RES call to us.
    ///
    /// # Errors
    /// Why it did not arrive. The connection is forgotten, so the next attempt looks for the port anew.
    pub async fn call(
        &self,
        host: &HostKey,
        port: Option<u16>,
        procedure: NlmProc,
        args: &Encoded,
    ) -> Result<(), Arc<CallbackError>> {
        let client = match port {
            Some(port) => Arc::new(self.connect_to(host, port).await?),
            None => self.client(host).await?,
        };
        let target = Target::new(proto::nlm::PROGRAM, host.version, procedure.0);
        match client.call(target, args, PATIENCE).await {
            Ok(_) => Ok(()),
            Err(error) => {
                if port.is_none() {
                    self.lines.lock().remove(host);
                }
                let port = client.peer().port();
                Err(CallbackError::LockManager { port, error }.into())
            }
        }
    }

    /// Drops every connection. A call that is under way ends first.
    pub fn hang_up(&self) {
        self.lines.lock().clear();
    }

    async fn client(&self, host: &HostKey) -> Found {
        let line = self.line(host);
        let attempts = line.attempts.load(Ordering::Relaxed);
        let mut latest = line.latest.lock().await;
        match &*latest {
            Some(Ok(client)) if client.is_open() => return Ok(client.clone()),
            // It was looked for meanwhile.
            Some(Err(error)) if line.attempts.load(Ordering::Relaxed) != attempts => {
                return Err(error.clone());
            }
            _ => {}
        }
        let found = self.connect(host).await.map(Arc::new).map_err(Arc::new);
        line.attempts.fetch_add(1, Ordering::Relaxed);
        *latest = Some(found.clone());
        found
    }

    fn line(&self, host: &HostKey) -> Arc<Line> {
        let mut lines = self.lines.lock();
        if lines.len() >= CONNECTIONS && !lines.contains_key(host) {
            // Those with a call under way live on until it ends.
            lines.clear();
        }
        lines.entry(*host).or_default().clone()
    }

    async fn connect(&self, host: &HostKey) -> Result<Client, CallbackError> {
        let HostKey {
            peer,
            server,
            version,
            ..
        } = *host;
        let transport = transport(host);
        let mapper = SocketAddr::new(peer, portmap::PMAP_PORT);
        let ask = async {
            let client = Client::connect(transport, mapper, self.options(server)).await?;
            port_of(&client, transport, (proto::nlm::PROGRAM, version), PATIENCE).await
        };
        let found = ask.await.map_err(CallbackError::PortMapper)?;
        let port = found.ok_or(CallbackError::NotRegistered)?;
        self.connect_to(host, port).await
    }

    async fn connect_to(&self, host: &HostKey, port: u16) -> Result<Client, CallbackError> {
        let to = SocketAddr::new(host.peer, port);
        let connected = Client::connect(transport(host), to, self.options(host.server)).await;
        connected.map_err(|error| CallbackError::LockManager { port, error })
    }

    fn options(&self, from: IpAddr) -> Options {
        Options {
            from: Some(SocketAddr::new(from, 0)),
            identity: Identity::Sys {
                machine: "nfslab".to_owned(),
                uid: 0,
                gid: 0,
                groups: vec![],
            },
            first_xid: self.next_xid.fetch_add(0x1_0000, Ordering::Relaxed),
            patience: PATIENCE,
            tap: self.tap.clone().map(|tap| tap as Arc<dyn Tap>),
        }
    }
}

fn transport(host: &HostKey) -> Transport {
    match host.transport {
        nlm::hosts::Transport::Tcp => Transport::Tcp,
        nlm::hosts::Transport::Udp => Transport::Udp,
    }
}
