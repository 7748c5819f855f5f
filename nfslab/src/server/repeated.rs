//! Calls that come again: which programs have a duplicate request cache ([`rpc::drc`]), and for which calls.
//!
//! Of Linux's servers knfsd alone has one, and so has ours by default. `--drc` gives one to others too or takes
//! knfsd's away; both are things to test a client against. Each program has a cache of its own, so that none pushes
//! out the answers of another.
//!
//! A call that is put off (the lock service's queue) stays "in progress" for as long as somebody keeps its
//! [`Underway`]: either it is answered through that, or it is forgotten with it.

use super::Service;
use bytes::Bytes;
use parking_lot::Mutex;
use proto::mount::MountProc;
use proto::nfs3::Nfs3Proc;
use proto::nlm::NlmProc;
use proto::nsm::SmProc;
use proto::portmap::PmapProc;
use rpc::drc::{Cache, Key, Seen, Ticket};
use rpc::msg::CallHeader;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

/// Which programs answer a repeated call as before rather than execute it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drc(Vec<Service>);

impl Drc {
    /// No program does.
    pub const NONE: Drc = Drc(Vec::new());

    /// These do.
    pub fn of(services: &[Service]) -> Drc {
        Drc(services.to_vec())
    }
}

impl Default for Drc {
    /// As on Linux: NFS.
    fn default() -> Self {
        Drc::of(&[Service::Nfs])
    }
}

impl FromStr for Drc {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" {
            return Ok(Drc::NONE);
        }
        let service = |name: &str| {
            name.parse().map_err(|_| {
                format!(
                    "'{name}' has no cache: expected none, or a list of nfs, mount, lockd, statd, portmap"
                )
            })
        };
        text.split(',').map(service).collect::<Result<_, _>>().map(Drc)
    }
}

impl fmt::Display for Drc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.0.iter().map(|service| service.name()).collect();
        match names.is_empty() {
            true => f.write_str("none"),
            false => f.write_str(&names.join(",")),
        }
    }
}

/// Whether a call changes something, so that executing it twice is not the same as executing it once.
///
/// NLM's asynchronous calls (`_MSG`) are not among them: their answer is a call by us, which a copy asks for again.
fn changes(service: Service, procedure: u32) -> bool {
    match service {
        Service::Nfs => matches!(
            Nfs3Proc(procedure),
            Nfs3Proc::NFSPROC3_SETATTR
                | Nfs3Proc::NFSPROC3_WRITE
                | Nfs3Proc::NFSPROC3_CREATE
                | Nfs3Proc::NFSPROC3_MKDIR
                | Nfs3Proc::NFSPROC3_SYMLINK
                | Nfs3Proc::NFSPROC3_MKNOD
                | Nfs3Proc::NFSPROC3_REMOVE
                | Nfs3Proc::NFSPROC3_RMDIR
                | Nfs3Proc::NFSPROC3_RENAME
                | Nfs3Proc::NFSPROC3_LINK
        ),
        // The same numbers in all three versions.
        Service::Mount => matches!(
            MountProc(procedure),
            MountProc::MOUNTPROC3_MNT | MountProc::MOUNTPROC3_UMNT | MountProc::MOUNTPROC3_UMNTALL
        ),
        Service::Lockd => matches!(
            NlmProc(procedure),
            NlmProc::NLM_LOCK
                | NlmProc::NLM_CANCEL
                | NlmProc::NLM_UNLOCK
                | NlmProc::NLM_SHARE
                | NlmProc::NLM_UNSHARE
                | NlmProc::NLM_NM_LOCK
                | NlmProc::NLM_FREE_ALL
        ),
        Service::Statd => matches!(
            SmProc(procedure),
            SmProc::SM_MON
                | SmProc::SM_UNMON
                | SmProc::SM_UNMON_ALL
                | SmProc::SM_SIMU_CRASH
                | SmProc::SM_NOTIFY
        ),
        // rpcbind's SET and UNSET have the same numbers.
        Service::Portmap => matches!(
            PmapProc(procedure),
            PmapProc::PMAPPROC_SET | PmapProc::PMAPPROC_UNSET
        ),
    }
}

/// The caches of those programs that have one.
#[derive(Debug)]
pub struct Repeated {
    /// In the order of [`Service::ALL`].
    caches: [Option<Mutex<Cache>>; Service::ALL.len()],
}

/// What to do about a call.
pub enum Due {
    /// Execute it; nobody needs to know.
    Execute,
    /// Execute it, and tell what the answer was.
    Remember(Arc<Underway>),
    /// Nothing: it is being executed, and its answer will come.
    Wait,
    /// Answer it as before.
    Again(Bytes),
}

impl Repeated {
    /// Empty caches.
    pub fn new(drc: &Drc) -> Repeated {
        Repeated {
            caches: Service::ALL.map(|service| drc.0.contains(&service).then(Mutex::default)),
        }
    }

    fn cache(&self, service: Service) -> Option<&Mutex<Cache>> {
        self.caches.get(service.index())?.as_ref()
    }

    /// What to do about a call, which counts as being executed from now on if it is to be.
    pub fn due(
        self: &Arc<Self>,
        service: Service,
        peer: IpAddr,
        header: &CallHeader<'_>,
        args: &[u8],
    ) -> Due {
        let Some(cache) = self.cache(service).filter(|_| changes(service, header.procedure)) else {
            return Due::Execute;
        };
        let key = Key::new(peer, header, args);
        let seen = cache.lock().look_up(key);
        match seen {
            Seen::New(ticket) => Due::Remember(Arc::new(Underway {
                repeated: self.clone(),
                service,
                key,
                ticket,
            })),
            Seen::InProgress => Due::Wait,
            Seen::Answered(reply) => Due::Again(reply),
        }
    }

    /// Forgets what one program has answered, as its end does.
    pub fn clear(&self, service: Service) {
        if let Some(cache) = self.cache(service) {
            cache.lock().clear();
        }
    }

    /// Forgets everything.
    pub fn clear_all(&self) {
        for cache in self.caches.iter().flatten() {
            cache.lock().clear();
        }
    }
}

/// A call that is being executed and of which copies may come. Once nobody has it any more, an unanswered call is
/// forgotten.
#[derive(Debug)]
pub struct Underway {
    repeated: Arc<Repeated>,
    service: Service,
    key: Key,
    ticket: Ticket,
}

impl Underway {
    /// The call was answered with this message.
    pub fn answered(&self, reply: Bytes) {
        if let Some(cache) = self.repeated.cache(self.service) {
            cache.lock().answered(&self.key, self.ticket, reply);
        }
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        if let Some(cache) = self.repeated.cache(self.service) {
            cache.lock().abandon(&self.key, self.ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rpc::msg::OpaqueAuth;

    fn due(repeated: &Arc<Repeated>, service: Service, procedure: u32) -> Due {
        let none = OpaqueAuth::default();
        let header = CallHeader {
            xid: 1,
            program: 0,
            version: 0,
            procedure,
            cred: none,
            verf: none,
        };
        repeated.due(service, [127, 0, 0, 1].into(), &header, b"")
    }

    #[test]
    fn programs_are_named_as_everywhere_else() {
        assert_eq!("none".parse(), Ok(Drc::NONE));
        assert_eq!("nfs".parse(), Ok(Drc::default()));
        let several: Drc = "nfs,lockd".parse().unwrap();
        assert_eq!(several, Drc::of(&[Service::Nfs, Service::Lockd]));
        assert_eq!(several.to_string(), "nfs,lockd");
        for wrong in ["", "nlm", "nfs,none"] {
            assert!(wrong.parse::<Drc>().unwrap_err().contains("lockd"), "{wrong}");
        }
    }

    #[test]
    fn only_what_changes_something_is_remembered_and_only_where_it_is_wanted() {
        let repeated = Arc::new(Repeated::new(&Drc::of(&[Service::Lockd])));
        let lock = NlmProc::NLM_LOCK.0;
        assert!(matches!(due(&repeated, Service::Nfs, 8), Due::Execute));
        assert!(matches!(
            due(&repeated, Service::Lockd, NlmProc::NLM_TEST.0),
            Due::Execute
        ));
        let Due::Remember(underway) = due(&repeated, Service::Lockd, lock) else {
            panic!("it is new");
        };
        let kept = underway.clone();
        drop(underway);
        assert!(matches!(due(&repeated, Service::Lockd, lock), Due::Wait));
        kept.answered(Bytes::from("granted"));
        drop(kept);
        assert!(matches!(due(&repeated, Service::Lockd, lock), Due::Again(reply) if reply == "granted"));
        repeated.clear(Service::Lockd);
        let Due::Remember(lost) = due(&repeated, Service::Lockd, lock) else {
            panic!("it is new again");
        };
        drop(lost);
        assert!(matches!(due(&repeated, Service::Lockd, lock), Due::Remember(_)));
    }
}
