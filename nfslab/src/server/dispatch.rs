//! From a message to a reply: header, credential, program, the hook for faults, the handler.
//!
//! **Invariant**: [`Node::decide`] is asked once for each call, here, and what it plans is carried out in
//! [`plan`](super::plan). Handlers know neither.

use super::locks::{self, Decoded};
use super::look::Live;
use super::plan::{Arrived, Planned};
use super::portmap::{self, Asker};
use super::repeated::{Due, Underway};
use super::{Node, programs};
use crate::events::{What, ms};
use crate::metrics::Slot;
use bytes::Bytes;
use faults::{Facts, Point, Service};
use nfsd::{CallError, Caller, Cx};
use proto::mount::{MountProc, MountProc1};
use proto::nfs3::Nfstime3;
use proto::nlm::NlmProc;
use proto::nsm::SmProc;
use rpc::msg::{self, CallHeader, Credential, NotACall, RpcError, Transport};
use rpc::server::{Flow, Message, Origin};
use rpc::xdr::{self, Reader, Writer};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Most calls that wait for a disk at one time, in threads and in line for one. Beyond that a connection waits itself,
/// and so its peer.
pub(super) const MAX_WAITING: usize = 1024;

/// The way into one service: what its sockets hand their messages to.
pub struct Door {
    pub(super) node: Arc<Node>,
    pub(super) service: Service,
}

/// A call on its way through a handler.
pub struct Incoming<'a> {
    /// Where it came from.
    pub origin: &'a Arc<Origin>,
    /// Its header.
    pub header: CallHeader<'a>,
    /// Who asks.
    pub credential: Credential<'a>,
    /// The whole message.
    pub message: Message<'a>,
    /// Its arguments, the message's end.
    pub args: &'a [u8],
    /// What it asks of the lock service, if it is that which is called.
    asked: Result<Decoded<'a>, Refusal>,
    /// When it arrived, on the server's clock.
    pub received: Duration,
    /// To be kept by whoever answers later, and told the answer, if copies of this call are not to be executed.
    pub underway: Option<Arc<Underway>>,
    /// What is to be done to it, or to its reply. To be kept by whoever answers later.
    pub planned: Option<Arc<Planned>>,
}

impl<'a> Incoming<'a> {
    #[inline]
    fn new(
        service: Service,
        origin: &'a Arc<Origin>,
        (header, credential): (CallHeader<'a>, Credential<'a>),
        message: Message<'a>,
        args: &'a [u8],
        received: Duration,
    ) -> Self {
        Incoming {
            origin,
            header,
            credential,
            message,
            args,
            // Here and not when somebody asks, as nearly always somebody does.
            asked: match service {
                Service::Lockd => locks::decode(header.version, header.procedure, args),
                _ => Err(Refusal(RpcError::ProcUnavail)),
            },
            received,
            underway: None,
            planned: None,
        }
    }

    /// Its arguments as those of a call to the lock service.
    ///
    /// # Errors
    /// The refusal of a call that has none.
    pub fn asked(&self) -> Result<&Decoded<'a>, Refusal> {
        self.asked.as_ref().map_err(|refusal| *refusal)
    }
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
#[derive(Clone, Copy)]
pub struct Refusal(pub RpcError);

impl Door {
    pub fn new(node: Arc<Node>, service: Service) -> Self {
        Door { node, service }
    }

    /// Handles a call, but not twice what must not be done twice. The reply, if there is one already, is in `out`
    /// with its header, as it is to be sent.
    pub(super) fn answer(&self, call: &mut Incoming<'_>, out: &mut Writer) -> Option<Cow<'static, str>> {
        let (repeated, peer) = (&self.node.repeated, call.origin.peer.ip());
        match repeated.due(self.service, peer, &call.header, call.args) {
            Due::Execute => {}
            Due::Wait => return None,
            Due::Again(reply) => {
                let mark = out.mark();
                out.raw(&reply);
                // It comes out of the cache: of the points behind that there is one.
                let planned = call
                    .planned
                    .as_ref()
                    .filter(|planned| planned.is_at(Point::BeforeReply));
                self.node.finish(call.origin, planned, None, out, mark);
                return Some("as before".into());
            }
            Due::Remember(underway) => call.underway = Some(underway),
        }
        self.carry_on(call, out)
    }

    /// The same for a call of which the duplicate request cache knows.
    pub(super) fn carry_on(&self, call: &Incoming<'_>, out: &mut Writer) -> Option<Cow<'static, str>> {
        let mark = out.mark();
        let status = match self.before_execution(call, out) {
            Arrived::GoesOn => self.execute_anew(call, out)?,
            Arrived::Over(status) => status?,
        };
        let (planned, underway) = (call.planned.as_ref(), call.underway.as_ref());
        self.node.finish(call.origin, planned, underway, out, mark);
        Some(status)
    }

    /// Handles a call, whether or not it came before.
    pub(super) fn execute_anew(&self, call: &Incoming<'_>, out: &mut Writer) -> Option<Cow<'static, str>> {
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
        let (version, procedure, args) = (call.header.version, call.header.procedure, call.args);
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
                node.nfs
                    .call(&cx(call), procedure, call.message.buffer(), args, out)?;
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
    fn hand_over(&self, call: &Incoming<'_>) -> bool {
        let Ok(place) = self.node.waiting.clone().try_acquire_owned() else {
            return false;
        };
        let door = Door::new(self.node.clone(), self.service);
        let (origin, message) = (call.origin.clone(), call.message.keep());
        let (received, planned) = (call.received, call.planned.clone());
        self.node.tasks.spawn_blocking(move || {
            let mut out = Writer::new();
            // It was read once before, so this cannot fail.
            if let Some(mut call) = reread(door.service, &origin, &message, received) {
                call.planned = planned;
                door.answer(&mut call, &mut out);
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

    /// Tells of a reply that came later than its call, if the call was told of.
    pub(super) fn log_reply(&self, call: &Incoming<'_>, logged: bool, status: Cow<'static, str>) {
        if let Some(log) = Logged::of(self.service, &self.node, call).filter(|_| logged) {
            self.node.event(log.reply(&self.node, call, status));
        }
    }

    /// Asks what is to be done to a call, and keeps it for those who expect something of the calls: calls on files only
    /// if a rule means them, the others as far as they are told of.
    fn plan(&self, call: &mut Incoming<'_>, logged: bool) {
        let node = &self.node;
        let live = Live::new(node, self.service, call);
        let decided = node.decide(call.received, &live);
        if logged || (self.service == Service::Nfs && decided.is_some()) {
            node.history.lock().add(Facts::of(&live), ms(call.received));
        }
        let plan = decided.and_then(|decided| decided.plan);
        let planned = plan.map(|plan| {
            Arc::new(Planned::new(
                plan,
                self.service,
                call.message,
                call.received,
                &live,
                logged,
            ))
        });
        call.planned = planned;
    }

    fn capture_call(&self, origin: &Origin, message: &[u8], comment: Option<&str>) {
        if let Some(capture) = &self.node.capture {
            capture.record(origin.transport, origin.peer, origin.local, message, comment);
        }
    }
}

impl rpc::server::Service for Door {
    fn message(
        &self,
        origin: &Arc<Origin>,
        message: Message<'_>,
        arrived: Instant,
        out: &mut Writer,
    ) -> Flow {
        let node = &self.node;
        let mark = out.mark();
        let mut reader = Reader::new(message.bytes());
        let refuse = |xid, error, out: &mut Writer| {
            self.capture_call(origin, message.bytes(), None);
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
        let (who, args, received) = ((header, credential), reader.rest(), node.clock.at(arrived));
        let mut call = Incoming::new(self.service, origin, who, message, args, received);
        let log = Logged::new(self.service, node, &call);
        self.plan(&mut call, log.is_some());
        let comment = call.planned.as_ref().map(|planned| planned.comment());
        self.capture_call(origin, message.bytes(), comment.as_deref());
        if let Some(log) = &log {
            node.event(log.call(node, &call));
        }
        if self.service == Service::Statd && node.faults.load().is_hung(Service::Statd) {
            // A statd that hangs after some calls: this may have been the last of them.
            node.locks.conditions_changed(node, None);
        }
        let slot = Slot::of(self.service, &call.header);
        let status = match self.on_arrival(&call, out) {
            Arrived::Over(status) => {
                node.capture_reply(origin, out, mark, comment.as_deref());
                status
            }
            Arrived::GoesOn => {
                if self.service == Service::Nfs && node.nfs.may_block(call.args) && self.hand_over(&call) {
                    node.calls.came(slot, false);
                    return Flow::Continue;
                }
                self.answer(&mut call, out)
            }
        };
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

/// A call from its message; none if it is not one.
pub(super) fn reread<'a>(
    service: Service,
    origin: &'a Arc<Origin>,
    message: &'a Bytes,
    received: Duration,
) -> Option<Incoming<'a>> {
    let mut reader = Reader::new(message);
    let header = CallHeader::read(&mut reader).ok()?;
    let credential = Credential::parse(&header.cred).ok()?;
    let (who, args) = ((header, credential), reader.rest());
    Some(Incoming::new(
        service,
        origin,
        who,
        message.into(),
        args,
        received,
    ))
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

/// Who asks, and from where.
fn cx<'a>(call: &'a Incoming<'_>) -> Cx<'a> {
    let max_payload = match call.origin.transport {
        Transport::Tcp => nfsd::TCP_PAYLOAD,
        Transport::Udp => nfsd::UDP_PAYLOAD,
    };
    Cx::new(caller(call), wall_time, call.origin.peer.ip(), max_payload)
}

fn wall_time() -> Nfstime3 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Nfstime3 {
        seconds: now.as_secs() as u32,
        nseconds: now.subsec_nanos(),
    }
}

/// Who asks, by their own account.
pub(super) fn caller<'a>(call: &'a Incoming<'_>) -> Caller<'a> {
    match &call.credential {
        Credential::None => Caller::ANONYMOUS,
        Credential::Sys(sys) => Caller {
            uid: sys.uid,
            gid: sys.gid,
            groups: sys.gids,
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
        if service == Service::Nfs || !node.events.has_room_for_call(call.received) {
            return None;
        }
        Logged::of(service, node, call)
    }

    /// The same, whether or not there is room.
    fn of(service: Service, node: &Node, call: &Incoming<'_>) -> Option<Logged> {
        let procedure = call.header.procedure;
        let (procedure, about) = match service {
            Service::Nfs => return None,
            Service::Portmap => portmap::describe(call.header.version, procedure, call.args),
            Service::Mount if call.header.version == proto::mount::V3 => {
                (MountProc(procedure).to_string(), about_path(call.args))
            }
            Service::Mount => (MountProc1(procedure).to_string(), about_path(call.args)),
            Service::Lockd => (NlmProc(procedure).to_string(), node.locks.about(node, call)),
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
