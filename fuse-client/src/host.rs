//! What a server calls: this host's port mapper, lock manager and status monitor, as far as an NFS client needs them.
//!
//! A server that grants a lock for which we have waited asks the port mapper at our address where our lock manager is
//! (RFC 1833), and calls it (NLM_GRANTED, NLM_GRANTED_MSG); one that has restarted calls our status monitor (SM_NOTIFY).
//! Where nobody has port 111 of our address yet we are the port mapper, too; where somebody has, they are told of us.

use crate::line::first_xid;
use anyhow::{Context as _, Result};
use proto::nlm::{self, NlmProc};
use proto::nsm::{self, SmProc, StatChge};
use proto::portmap::{self, IpProto, Mapping, PMAP_PORT, PmapList, PmapProc};
use rpc::client::{Client, Identity, Options, Target};
use rpc::msg::{self, CallHeader, NotACall, RpcError, Transport};
use rpc::server::{Flow, Limits, Message, Origin, Service, serve_tcp, serve_udp};
use rpc::xdr::{self, Decode, Encode, Reader, Writer};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

/// How long this host's own port mapper may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who is told of calls.
pub trait Callbacks: Send + Sync + 'static {
    /// NLM_GRANTED, or NLM_GRANTED_MSG, to which the answer goes out as a call of its own. Whether somebody waits for it.
    fn granted(&self, from: IpAddr, args: &nlm::TestArgs<'_>) -> bool;

    /// The answer to NLM_GRANTED_MSG is to be sent.
    fn answer_granted(&self, res: &nlm::Res<'_>);

    /// SM_NOTIFY: a host has this state number now.
    fn notified(&self, from: IpAddr, name: &[u8], state: i32);
}

/// The services at our address. They end when this is dropped.
pub struct Host {
    mappings: Vec<Mapping>,
    /// The port mapper of somebody else that knows of us.
    told: Option<IpAddr>,
    _serving: JoinSet<()>,
}

struct Doors {
    callbacks: Arc<dyn Callbacks>,
    /// What GETPORT and DUMP say, where we are the port mapper.
    mappings: Vec<Mapping>,
}

impl Host {
    /// Serves at `address`.
    ///
    /// # Errors
    /// Our own ports cannot be had. That nobody can be told of them is none: a client without callbacks asks again
    /// every 30 s (`NLMCLNT_POLL_TIMEOUT`).
    pub async fn new(address: IpAddr, callbacks: Arc<dyn Callbacks>) -> Result<Host> {
        let (tcp, udp) = pair(address, 0)
            .await
            .with_context(|| format!("the lock manager at {address}"))?;
        let port = tcp.local_addr()?.port().into();
        let mappings: Vec<Mapping> = [
            (nlm::PROGRAM, nlm::V1),
            (nlm::PROGRAM, nlm::V3),
            (nlm::PROGRAM, nlm::V4),
            (nsm::PROGRAM, nsm::V1),
        ]
        .into_iter()
        .flat_map(|(prog, vers)| [IpProto::IPPROTO_TCP, IpProto::IPPROTO_UDP].map(|prot| (prog, vers, prot)))
        .map(|(prog, vers, prot)| Mapping {
            prog,
            vers,
            prot,
            port,
        })
        .collect();
        let mut serving = JoinSet::new();
        serve(&mut serving, tcp, udp, callbacks.clone(), Vec::new());
        let mut told = None;
        match pair(address, PMAP_PORT).await {
            Ok((tcp, udp)) => serve(&mut serving, tcp, udp, callbacks, mappings.clone()),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let set = tell(address, PmapProc::PMAPPROC_SET, &mappings).await;
                match set {
                    Ok(()) => told = Some(address),
                    Err(error) => tracing::warn!(
                        "the port mapper at {address} does not take us ({error:#}): locks that are granted late are \
                         noticed by asking again, up to 30 s later (-o clientaddr=ADDR names another address)"
                    ),
                }
            }
            Err(error) => tracing::warn!(
                "port 111 of {address} cannot be had ({error}), and the server will not find us: locks that are granted \
                 late are noticed by asking again, up to 30 s later (run as root)"
            ),
        }
        Ok(Host {
            mappings,
            told,
            _serving: serving,
        })
    }

    /// Takes back what this host's port mapper was told.
    pub async fn close(self) {
        if let Some(address) = self.told {
            let _ = tell(address, PmapProc::PMAPPROC_UNSET, &self.mappings).await;
        }
    }
}

/// The same port for both transports.
async fn pair(address: IpAddr, port: u16) -> io::Result<(TcpListener, UdpSocket)> {
    let mut tried = 0;
    loop {
        let tcp = TcpListener::bind((address, port)).await?;
        match UdpSocket::bind((address, tcp.local_addr()?.port())).await {
            Err(error) if port == 0 && error.kind() == io::ErrorKind::AddrInUse && tried < 16 => tried += 1,
            udp => return Ok((tcp, udp?)),
        }
    }
}

fn serve(
    serving: &mut JoinSet<()>,
    tcp: TcpListener,
    udp: UdpSocket,
    callbacks: Arc<dyn Callbacks>,
    mappings: Vec<Mapping>,
) {
    let doors = Arc::new(Doors { callbacks, mappings });
    serving.spawn(serve_tcp(tcp, doors.clone(), Limits::default()));
    serving.spawn(async move {
        if let Err(error) = serve_udp(udp, doors).await {
            tracing::warn!("the lock manager's UDP socket: {error}");
        }
    });
}

/// Registers or unregisters with the port mapper of this host.
async fn tell(address: IpAddr, procedure: PmapProc, mappings: &[Mapping]) -> Result<()> {
    let options = Options {
        from: Some((address, 0).into()),
        identity: Identity::None,
        first_xid: first_xid(),
        patience: PATIENCE,
        tap: None,
    };
    let peer = SocketAddr::new(address, PMAP_PORT);
    let client = Client::connect(Transport::Tcp, peer, options).await?;
    let target = Target::new(portmap::PROGRAM, portmap::V2, procedure.0);
    for mapping in mappings {
        let answer = client.call(target, mapping, PATIENCE).await?;
        let done: bool = xdr::from_bytes(&answer)?;
        anyhow::ensure!(
            done || procedure != PmapProc::PMAPPROC_SET,
            "program {} version {} is registered already",
            mapping.prog,
            mapping.vers
        );
    }
    Ok(())
}

impl Service for Doors {
    fn message(&self, origin: &Arc<Origin>, message: Message<'_>, _: Instant, out: &mut Writer) -> Flow {
        let mut reader = Reader::new(message.bytes());
        let header = match CallHeader::read(&mut reader) {
            Ok(header) => header,
            Err(NotACall::Refused { xid, error }) => {
                msg::refused(out, xid, error);
                return Flow::Continue;
            }
            Err(NotACall::Hopeless(_)) => return Flow::Close,
        };
        let mark = out.mark();
        msg::accepted(out, header.xid);
        let args = reader.rest();
        let answered = match header.program {
            portmap::PROGRAM if !self.mappings.is_empty() => self.portmap(&header, args, out),
            nlm::PROGRAM => self.nlm(origin, &header, args, out),
            nsm::PROGRAM => self.nsm(origin, &header, args),
            _ => Err(RpcError::ProgUnavail),
        };
        if let Err(error) = answered {
            out.rewind(mark);
            msg::refused(out, header.xid, error);
        }
        Flow::Continue
    }
}

fn arguments<'a, T: Decode<'a>>(args: &'a [u8]) -> std::result::Result<T, RpcError> {
    xdr::from_bytes(args).map_err(|_| RpcError::GarbageArgs)
}

fn only_version(
    header: &CallHeader<'_>,
    versions: std::ops::RangeInclusive<u32>,
) -> std::result::Result<(), RpcError> {
    match versions.contains(&header.version) {
        true => Ok(()),
        false => Err(RpcError::ProgMismatch {
            low: *versions.start(),
            high: *versions.end(),
        }),
    }
}

impl Doors {
    /// Version 2: what every lock manager asks on IPv4.
    fn portmap(
        &self,
        header: &CallHeader<'_>,
        args: &[u8],
        out: &mut Writer,
    ) -> std::result::Result<(), RpcError> {
        only_version(header, portmap::V2..=portmap::V2)?;
        match PmapProc(header.procedure) {
            PmapProc::PMAPPROC_NULL => {}
            PmapProc::PMAPPROC_GETPORT => {
                let wanted: Mapping = arguments(args)?;
                let found = self.mappings.iter().find(|mapping| {
                    (mapping.prog, mapping.vers, mapping.prot) == (wanted.prog, wanted.vers, wanted.prot)
                });
                out.u32(found.map_or(0, |mapping| mapping.port));
            }
            PmapProc::PMAPPROC_DUMP => PmapList(self.mappings.clone()).encode(out),
            _ => return Err(RpcError::ProcUnavail),
        }
        Ok(())
    }

    fn nlm(
        &self,
        origin: &Origin,
        header: &CallHeader<'_>,
        args: &[u8],
        out: &mut Writer,
    ) -> std::result::Result<(), RpcError> {
        // We lock with version 4 only, and so are called back with it.
        only_version(header, nlm::V4..=nlm::V4)?;
        let granted = || {
            let args: nlm::TestArgs<'_> = arguments(args)?;
            let stat = match self.callbacks.granted(origin.peer.ip(), &args) {
                true => nlm::Nlm4Stat::NLM4_GRANTED,
                false => nlm::Nlm4Stat::NLM4_DENIED,
            };
            Ok(nlm::Res {
                cookie: args.cookie,
                stat,
            })
        };
        match NlmProc(header.procedure) {
            NlmProc::NLM_NULL => {}
            NlmProc::NLM_GRANTED => granted()?.encode(out),
            NlmProc::NLM_GRANTED_MSG => self.callbacks.answer_granted(&granted()?),
            _ => return Err(RpcError::ProcUnavail),
        }
        Ok(())
    }

    fn nsm(
        &self,
        origin: &Origin,
        header: &CallHeader<'_>,
        args: &[u8],
    ) -> std::result::Result<(), RpcError> {
        only_version(header, nsm::V1..=nsm::V1)?;
        match SmProc(header.procedure) {
            SmProc::SM_NULL => {}
            SmProc::SM_NOTIFY => {
                let change: StatChge<'_> = arguments(args)?;
                self.callbacks
                    .notified(origin.peer.ip(), change.mon_name.0, change.state);
            }
            _ => return Err(RpcError::ProcUnavail),
        }
        Ok(())
    }
}
