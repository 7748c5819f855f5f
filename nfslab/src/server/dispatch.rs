//! From a message to a reply: header, credential, program, the hook for faults, the handler.
//!
//! **Invariant**: [`Faults::plan`] is asked once for each call, here, and its [`Plan`] is carried out here.
//! Handlers know neither. A new kind of fault gets its arm in [`Door::message`].

use super::portmap::{self, Asker};
use super::repeated::{Due, Underway};
use super::{Node, programs};
use crate::events::{What, ms};
use crate::metrics::Slot;
use bytes::Bytes;
use faults::{Direction, Exchange, Plan, Service};
use nfsd::{CallError, Caller, Cx};
use proto::mount::{MountProc, MountProc1};
use proto::nfs3::Nfstime3;
use proto::nlm::NlmProc;
use proto::nsm::SmProc;
use rpc::msg::{self, CallHeader, Credential, NotACall, RpcError, Transport};
use rpc::server::{Flow, Origin};
use rpc::xdr::{self, Reader, Writer};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Most calls that wait for a disk at one time, in threads and in line for one. Beyond that a connection waits itself,
/// and so its peer.
pub(super) const MAX_WAITING: usize = 1024;

/// The way into one service: what its sockets hand their messages to.
pub struct Door {
    node: Arc<Node>,
    service: Service,
}

/// A call on its way through a handler.
pub struct Incoming<'a> {
    /// Where it came from.
    pub origin: &'a Arc<Origin>,
    /// Its header.
    pub header: CallHeader<'a>,
    /// Who asks.
    pub credential: Credential<'a>,
    /// Its arguments.
    pub args: Bytes,
    /// When it arrived, on the server's clock.
    pub received: Duration,
    /// To be kept by whoever answers later, and told the answer, if copies of this call are not to be executed.
    pub underway: Option<Arc<Underway>>,
}

/// What a handler made of a call.
pub enum Answer {
    /// The reply is written; its status in words, for the log.
    Now(Cow<'static, str>),
    /// The reply will be sent through the origin, or never.
    Later,
}

impl From<CallError> for Refusal {
    fn from(error: CallError) -> Self {
        Refusal(match error {
            CallError::ProcUnavail => RpcError::ProcUnavail,
            CallError::GarbageArgs(error) => {
                tracing::debug!(%error, "arguments refused");
                RpcError::GarbageArgs
            }
        })
    }
}

impl From<xdr::DecodeError> for Refusal {
    fn from(error: xdr::DecodeError) -> Self {
        CallError::GarbageArgs(error).into()
    }
}

/// A refusal by the RPC layer.
pub struct Refusal(pub RpcError);

impl Door {
    pub fn new(node: Arc<Node>, service: Service) -> Self {
        Door { node, service }
    }

    /// Handles a call that nothing keeps from being executed, but not twice what must not be done twice. The
    /// reply, if there is one already, is in `out` with its header.
    fn execute(&self, call: &mut Incoming<'_>, out: &mut Writer) -> Option<Cow<'static, str>> {
        let (repeated, peer) = (&self.node.repeated, call.origin.peer.ip());
        match repeated.due(self.service, peer, &call.header, &call.args) {
            Due::Execute => self.execute_anew(call, out),
            Due::Wait => None,
            Due::Again(reply) => {
                out.raw(&reply);
                Some("as before".into())
            }
            Due::Remember(underway) => {
                let mark = out.mark();
                call.underway = Some(underway.clone());
                let status = self.execute_anew(call, out);
                if status.is_some() {
                    underway.answered(out.bytes_since(mark));
                }
                status
            }
        }
    }

    /// Handles a call, whether or not it came before.
    fn execute_anew(&self, call: &Incoming<'_>, out: &mut Writer) -> Option<Cow<'static, str>> {
        let mark = out.mark();
        msg::accepted(out, call.header.xid);
        let answered = match check_program(self.service, &call.header) {
            Ok(()) => self.handle(call, out),
            Err(refusal) => Err(refusal),
        };
        match answered {
            Ok(Answer::Now(status)) => Some(status),
            Ok(Answer::Later) => {
                out.rewind(mark);
                None
            }
            Err(Refusal(error)) => {
                out.rewind(mark);
                msg::refused(out, call.header.xid, error);
                Some(error.to_string().into())
            }
        }
    }

    fn handle(&self, call: &Incoming<'_>, out: &mut Writer) -> Result<Answer, Refusal> {
        let node = &self.node;
        let (version, procedure, args) = (call.header.version, call.header.procedure, &call.args);
        match self.service {
            Service::Portmap => {
                let asker = Asker::from(&**call.origin);
                match node.registry.call(asker, version, procedure, args, out) {
                    Ok(true) => Ok(Answer::Now("ok".into())),
                    Ok(false) => Ok(Answer::Later),
                    Err(error) => Err(Refusal(error)),
                }
            }
            Service::Nfs => {
                // Calls on files are not logged one by one, so their status is not put into words.
                node.nfs.call(&cx(call), procedure, args, out)?;
                Ok(Answer::Now("".into()))
            }
            Service::Mount => {
                let status = node.mount.call(&cx(call), version, procedure, args, out)?;
                Ok(Answer::Now(status.to_string().into()))
            }
            Service::Lockd => node.locks.call(node, call, out),
            Service::Statd => node.statd.call(node, call, out),
        }
    }

    /// Has a call on a store that may wait for a disk handled by a thread that may wait, which sends the reply through
    /// the origin. The order of a connection's calls is lost: they have no order (RFC 5531, section 9, leaves it to the
    /// program, and NFS clients wait for a reply where they need one). False if too many wait already.
    fn hand_over(&self, origin: &Arc<Origin>, message: &Bytes, plan: Plan, received: Duration) -> bool {
        let Ok(place) = self.node.waiting.clone().try_acquire_owned() else {
            return false;
        };
        let door = Door::new(self.node.clone(), self.service);
        let (origin, message) = (origin.clone(), message.clone());
        self.node.tasks.spawn_blocking(move || {
            let mut out = Writer::new();
            // It was read once before, so this cannot fail.
            if let Some(mut call) = reread(&origin, &message, received) {
                door.answer(&mut call, plan, &mut out);
                if !out.is_empty() {
                    let slot = Slot::of(door.service, &call.header);
                    door.node.calls.answered_later(slot);
                }
            }
            if !out.is_empty() {
                origin.reply(out);
            }
            drop(place);
        });
        true
    }

    /// Handles a call, records the reply and sends it as planned.
    fn answer(&self, call: &mut Incoming<'_>, plan: Plan, out: &mut Writer) -> Option<Cow<'static, str>> {
        let mark = out.mark();
        let status = self.execute(call, out)?;
        let comment = comment(plan);
        self.node
            .capture_reply(call.origin, out, mark, comment.as_deref());
        if let Plan::Delay(by) = plan {
            self.put_off(call, by, out, mark);
        }
        Some(status)
    }

    /// Sends what `out` has got since `mark` later instead of now.
    fn put_off(&self, call: &Incoming<'_>, by: Duration, out: &mut Writer, mark: xdr::Mark) {
        let reply = out.split_off(mark);
        let slot = Slot::of(self.service, &call.header);
        let (origin, node) = (call.origin.clone(), self.node.clone());
        // From its arrival on, of which there may be an event that somebody advances the clock for.
        let until = call.received + by;
        self.node.spawn(async move {
            node.clock.sleep_until(Some(until)).await;
            node.calls.answered_later(slot);
            origin.reply(reply);
        });
    }

    fn capture_call(&self, origin: &Origin, message: &[u8], comment: Option<&str>) {
        if let Some(capture) = &self.node.capture {
            capture.record(origin.transport, origin.peer, origin.local, message, comment);
        }
    }
}

impl rpc::server::Service for Door {
    fn message(&self, origin: &Arc<Origin>, message: Bytes, out: &mut Writer) -> Flow {
        let node = &self.node;
        let mark = out.mark();
        let mut reader = Reader::new(&message);
        let refuse = |xid, error, out: &mut Writer| {
            self.capture_call(origin, &message, None);
            msg::refused(out, xid, error);
            node.capture_reply(origin, out, mark, None);
            Flow::Continue
        };
        let header = match CallHeader::read(&mut reader) {
            Ok(header) => header,
            Err(NotACall::Refused { xid, error }) => return refuse(xid, error, out),
            Err(NotACall::Hopeless(error)) => {
                tracing::debug!(peer = %origin.peer, %error, "not a call: closing");
                return Flow::Close;
            }
        };
        let credential = match Credential::parse(&header.cred) {
            Ok(credential) => credential,
            Err(stat) => return refuse(header.xid, RpcError::Auth(stat), out),
        };
        let args = message.slice(reader.offset()..);
        let mut call = Incoming {
            origin,
            header,
            credential,
            args,
            received: node.clock.now(),
            underway: None,
        };
        let plan = node.faults.load().plan(&Exchange {
            direction: Direction::Call,
            service: self.service,
            peer: origin.peer,
            program: header.program,
            version: header.version,
            procedure: header.procedure,
            xid: header.xid,
        });
        self.capture_call(origin, &message, comment(plan).as_deref());
        let log = Logged::new(self.service, node, &call);
        if let Some(log) = &log {
            node.event(log.call(node, &call));
        }
        let slot = Slot::of(self.service, &call.header);
        if plan == Plan::Drop {
            node.calls.came(slot, false);
            return Flow::Continue;
        }
        if self.service == Service::Nfs
            && node.nfs.may_block(&call.args)
            && self.hand_over(origin, &message, plan, call.received)
        {
            node.calls.came(slot, false);
            return Flow::Continue;
        }
        let status = self.answer(&mut call, plan, out);
        node.calls.came(slot, out.since(mark) > 0);
        if let Some(status) = status
            && let Some(log) = log
        {
            node.event(log.reply(node, &call, status));
        }
        Flow::Continue
    }

    fn connected(&self) {
        self.node.calls.connected(self.service);
    }

    fn disconnected(&self) {
        self.node.calls.disconnected(self.service);
    }
}

/// What a capture says of a call that is not simply answered.
fn comment(plan: Plan) -> Option<String> {
    match plan {
        Plan::Proceed => None,
        Plan::Delay(by) => Some(format!("nfslab: answered {by:?} later")),
        Plan::Drop => Some("nfslab: dropped, never answered".to_owned()),
    }
}

/// A call from its message; none if it is not one.
fn reread<'a>(origin: &'a Arc<Origin>, message: &'a Bytes, received: Duration) -> Option<Incoming<'a>> {
    let mut reader = Reader::new(message);
    let header = CallHeader::read(&mut reader).ok()?;
    let credential = Credential::parse(&header.cred).ok()?;
    Some(Incoming {
        origin,
        header,
        credential,
        args: message.slice(reader.offset()..),
        received,
        underway: None,
    })
}

impl Node {
    /// Records what `out` has got since `mark` as a reply.
    pub(super) fn capture_reply(
        &self,
        origin: &Origin,
        out: &Writer,
        mark: xdr::Mark,
        comment: Option<&str>,
    ) {
        if let Some(capture) = &self.capture {
            let reply = out.bytes_since(mark);
            if !reply.is_empty() {
                capture.record(origin.transport, origin.local, origin.peer, &reply, comment);
            }
        }
    }
}

/// PROG_UNAVAIL and PROG_MISMATCH: each port has its one program.
fn check_program(service: Service, header: &CallHeader<'_>) -> Result<(), Refusal> {
    let (program, versions) = programs(service);
    if header.program != program {
        return Err(Refusal(RpcError::ProgUnavail));
    }
    if !versions.contains(&header.version) {
        let low = versions.iter().copied().min().unwrap_or_default();
        let high = versions.iter().copied().max().unwrap_or_default();
        return Err(Refusal(RpcError::ProgMismatch { low, high }));
    }
    Ok(())
}

/// Who asks, when, and from where.
fn cx<'a>(call: &'a Incoming<'_>) -> Cx<'a> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Cx {
        caller: caller(call),
        now: Nfstime3 {
            seconds: now.as_secs() as u32,
            nseconds: now.subsec_nanos(),
        },
        peer: call.origin.peer.ip(),
        max_payload: match call.origin.transport {
            Transport::Tcp => nfsd::TCP_PAYLOAD,
            Transport::Udp => nfsd::UDP_PAYLOAD,
        },
    }
}

/// Who asks, by their own account.
pub(super) fn caller<'a>(call: &'a Incoming<'_>) -> Caller<'a> {
    match &call.credential {
        Credential::None => Caller::ANONYMOUS,
        Credential::Sys(sys) => Caller {
            uid: sys.uid,
            gid: sys.gid,
            groups: sys.gids(),
        },
    }
}

/// What the log says of a call. Calls on files are not logged.
struct Logged {
    service: &'static str,
    procedure: String,
    about: String,
}

impl Logged {
    fn new(service: Service, node: &Node, call: &Incoming<'_>) -> Option<Logged> {
        let procedure = call.header.procedure;
        if service == Service::Nfs || !node.events.has_room_for_call(call.received) {
            return None;
        }
        let (procedure, about) = match service {
            Service::Nfs => return None,
            Service::Portmap => portmap::describe(call.header.version, procedure, &call.args),
            Service::Mount if call.header.version == proto::mount::V3 => {
                (MountProc(procedure).to_string(), about_path(&call.args))
            }
            Service::Mount => (MountProc1(procedure).to_string(), about_path(&call.args)),
            Service::Lockd => (
                NlmProc(procedure).to_string(),
                node.locks.about(node, call.header.version, procedure, &call.args),
            ),
            Service::Statd => (SmProc(procedure).to_string(), String::new()),
        };
        Some(Logged {
            service: service.name(),
            procedure,
            about,
        })
    }

    fn call(&self, node: &Node, call: &Incoming<'_>) -> What {
        What::Call {
            peer: call.origin.peer.ip(),
            service: self.service,
            procedure: self.procedure.clone(),
            xid: call.header.xid,
            about: self.about.clone(),
            copy: node.locks.is_pending(call.origin, call.header.xid),
        }
    }

    fn reply(self, node: &Node, call: &Incoming<'_>, status: Cow<'static, str>) -> What {
        What::Reply {
            peer: call.origin.peer.ip(),
            service: self.service,
            procedure: self.procedure,
            xid: call.header.xid,
            about: self.about,
            status: status.into_owned(),
            copy: false,
            took_ms: ms(node.clock.now() - call.received),
        }
    }
}

fn about_path(args: &[u8]) -> String {
    match xdr::from_bytes::<proto::mount::DirPath<'_>>(args) {
        Ok(path) => path.to_string(),
        Err(_) => String::new(),
    }
}
