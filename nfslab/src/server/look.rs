//! A call as rules look at it: what is not asked for is not read.

use super::dispatch::Incoming;
use super::{Node, Service};
use faults::exchange::{Facts, LockFacts, Look};
use faults::{Direction, Exchange};
use nlm::request::{Callback, Request};
use proto::nfs3::{Nfs3Proc, NfsFh3};
use proto::nlm::Nlm4Lock;
use rpc::msg::{Credential, Transport};
use rpc::xdr::{self, Decode, Reader};
use std::cell::OnceCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

/// A call that has just come.
pub struct Live<'c, 'a> {
    node: &'c Node,
    service: Service,
    call: &'c Incoming<'a>,
    path: OnceCell<Option<Rc<str>>>,
}

impl<'c, 'a> Live<'c, 'a> {
    pub fn new(node: &'c Node, service: Service, call: &'c Incoming<'a>) -> Self {
        Live {
            node,
            service,
            call,
            path: OnceCell::new(),
        }
    }

    fn request(&self) -> Option<&Request<'a>> {
        match self.service {
            Service::Lockd => Some(&self.call.asked().ok()?.request),
            _ => None,
        }
    }

    fn nfs_handle(&self) -> Option<(&'a [u8], Reader<'a>)> {
        let r = &mut Reader::new(self.call.args);
        let handle = NfsFh3::decode(r).ok()?;
        Some((handle.0, r.clone()))
    }

    fn find_path(&self) -> Option<Rc<str>> {
        match self.service {
            Service::Lockd => self.node.exports.path_of(self.request()?.fh()?),
            Service::Mount => {
                let path = xdr::from_bytes::<proto::mount::DirPath<'_>>(self.call.args).ok()?;
                Some(path.to_string().into())
            }
            Service::Nfs => {
                let (handle, mut rest) = self.nfs_handle()?;
                let path = self.node.exports.path_of(handle)?;
                if !has_name(Nfs3Proc(self.call.header.procedure)) {
                    return Some(path);
                }
                let name = proto::nfs3::Filename3::decode(&mut rest).ok()?;
                Some(format!("{}/{name}", path.trim_end_matches('/')).into())
            }
            Service::Portmap | Service::Statd => None,
        }
    }
}

/// Whether a procedure's first argument is a directory and a name in it.
fn has_name(procedure: Nfs3Proc) -> bool {
    matches!(
        procedure,
        Nfs3Proc::NFSPROC3_LOOKUP
            | Nfs3Proc::NFSPROC3_CREATE
            | Nfs3Proc::NFSPROC3_MKDIR
            | Nfs3Proc::NFSPROC3_SYMLINK
            | Nfs3Proc::NFSPROC3_MKNOD
            | Nfs3Proc::NFSPROC3_REMOVE
            | Nfs3Proc::NFSPROC3_RMDIR
            | Nfs3Proc::NFSPROC3_RENAME
    )
}

impl<'a> Look for Live<'_, 'a> {
    fn exchange(&self) -> Exchange {
        let Incoming {
            origin,
            header,
            credential,
            ..
        } = self.call;
        Exchange {
            direction: Direction::Call,
            service: self.service,
            peer: origin.peer,
            transport: match origin.transport {
                Transport::Tcp => faults::Transport::Tcp,
                Transport::Udp => faults::Transport::Udp,
            },
            program: header.program,
            version: header.version,
            procedure: header.procedure,
            xid: header.xid,
            uid: match credential {
                Credential::Sys(sys) => Some(sys.uid),
                Credential::None => None,
            },
        }
    }

    fn service(&self) -> Service {
        self.service
    }

    fn client(&self) -> String {
        let caller = self
            .lock()
            .map(|lock| lock.caller)
            .filter(|caller| !caller.is_empty());
        let machine = match &self.call.credential {
            Credential::Sys(sys) => Some(sys.machine_name.0),
            Credential::None => None,
        };
        let name = caller.or(machine.filter(|name| !name.is_empty()));
        name.map_or_else(
            || self.call.origin.peer.ip().to_canonical().to_string(),
            |name| String::from_utf8_lossy(name).into_owned(),
        )
    }

    fn lock(&self) -> Option<LockFacts<'_>> {
        let of = |lock: &Nlm4Lock<'a>, exclusive, block, reclaim| LockFacts {
            caller: lock.caller_name.0,
            svid: Some(lock.svid),
            exclusive,
            block,
            reclaim,
        };
        Some(match self.request()? {
            Request::Test(args) => of(&args.alock, Some(args.exclusive), None, None),
            Request::Lock(args) | Request::NmLock(args) => of(
                &args.alock,
                Some(args.exclusive),
                Some(args.block),
                Some(args.reclaim),
            ),
            Request::Cancel(args) => of(&args.alock, Some(args.exclusive), Some(args.block), None),
            Request::Unlock(args) => of(&args.alock, None, None, None),
            Request::Share(args) | Request::Unshare(args) => LockFacts {
                caller: args.share.caller_name.0,
                reclaim: Some(args.reclaim),
                ..LockFacts::default()
            },
            _ => return None,
        })
    }

    fn handle(&self) -> Option<&[u8]> {
        match self.service {
            Service::Lockd => self.request()?.fh(),
            Service::Nfs => Some(self.nfs_handle()?.0),
            _ => None,
        }
    }

    fn path(&self) -> Option<&str> {
        if self.path.get().is_none() {
            // Not in `get_or_init`, which takes what it is given for code that seldom runs.
            let _ = self.path.set(self.find_path());
        }
        self.path.get()?.as_deref()
    }

    fn bytes(&self) -> Option<(u64, u64)> {
        let lock = |lock: &Nlm4Lock<'_>| (lock.l_offset, lock.l_len);
        match self.service {
            Service::Lockd => Some(match self.request()? {
                Request::Test(args) => lock(&args.alock),
                Request::Lock(args) | Request::NmLock(args) => lock(&args.alock),
                Request::Cancel(args) => lock(&args.alock),
                Request::Unlock(args) => lock(&args.alock),
                _ => return None,
            }),
            Service::Nfs => {
                let in_bytes = matches!(
                    Nfs3Proc(self.call.header.procedure),
                    Nfs3Proc::NFSPROC3_READ | Nfs3Proc::NFSPROC3_WRITE | Nfs3Proc::NFSPROC3_COMMIT
                );
                let (_, mut rest) = self.nfs_handle().filter(|_| in_bytes)?;
                let offset = rest.u64("offset").ok()?;
                Some((offset, rest.u32("count").ok()?.into()))
            }
            _ => None,
        }
    }
}

/// A call of ours to a client.
pub fn callback(
    service: Service,
    to: IpAddr,
    transport: faults::Transport,
    (program, version, procedure): (u32, u32, u32),
) -> Facts {
    Facts {
        exchange: Exchange {
            direction: Direction::Callback,
            service,
            peer: SocketAddr::new(to, 0),
            transport,
            program,
            version,
            procedure,
            xid: 0,
            uid: None,
        },
        client: to.to_canonical().to_string(),
        caller: None,
        lock: None,
        handle: None,
        path: None,
        bytes: None,
    }
}

/// What a GRANTED says.
pub fn granted(node: &Node, facts: &mut Facts, callback: &Callback) {
    let handle = callback.fh.as_fh().as_slice();
    let caller = callback.caller_name.as_slice().to_vec();
    facts.client = String::from_utf8_lossy(&caller).into_owned();
    facts.caller = Some(caller);
    facts.lock = Some(LockFacts {
        svid: Some(callback.svid),
        exclusive: Some(callback.kind.is_exclusive()),
        ..LockFacts::default()
    });
    facts.path = node.exports.path_of(handle).map(|path| path.to_string());
    facts.handle = Some(handle.to_vec());
    facts.bytes = Some(callback.range.to_wire());
}
