//! The machines that ask for locks.
//!
//! A *peer* is an address: it is what is monitored, and what reboots. A *host* is a peer by one transport
//! and version, at one of the server's addresses: it is what Linux makes part of a lock's owner
//! (`nlmsvc_lookup_host`, fs/lockd/host.c), and where a GRANTED is sent. Hosts come into being with their
//! first LOCK; the other procedures only look.

use crate::Now;
use crate::arena::{Arena, Latest, id};
use crate::limits;
use crate::short::ShortBytes;
use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

id! {
    /// A host.
    pub(crate) struct HostId;
}
id! {
    /// A peer.
    pub(crate) struct PeerId;
}

/// How a call came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// On a connection.
    Tcp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
        })
    }
}

/// Where a call came from and how. Ports do not matter to locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostKey {
    /// The client's address.
    pub peer: IpAddr,
    /// The address of the server that the client used.
    pub server: IpAddr,
    /// The transport.
    pub transport: Transport,
    /// The version of NLM.
    pub version: u32,
}

/// Whether a peer is monitored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Monitored {
    /// It is not.
    #[default]
    No,
    /// statd does it.
    ByStatd {
        /// When that began.
        since: Now,
    },
    /// Nobody does it, and the lock manager believes that it is done.
    AsIf {
        /// When that began.
        since: Now,
    },
}

impl Monitored {
    /// Whether the lock manager believes that it is monitored.
    pub fn is_believed(self) -> bool {
        self != Monitored::No
    }
}

/// What is known of an address.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    /// As it called itself in its latest LOCK.
    pub(crate) name: ShortBytes,
    pub(crate) monitored: Monitored,
    /// Its state number according to the latest SM_NOTIFY or, if such are believed, LOCK.
    pub(crate) state: Option<i32>,
    /// Which one it is of all that this service ever knew; not 0.
    pub(crate) serial: u64,
    pub(crate) locks: usize,
    pub(crate) waits: usize,
    pub(crate) shares: usize,
}

#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) key: HostKey,
    pub(crate) peer: PeerId,
}

/// All hosts and peers.
pub(crate) struct Hosts {
    hosts: Arena<HostId, Host>,
    peers: Arena<PeerId, Peer>,
    /// Never iterated, and its hash is fixed.
    by_key: HashMap<HostKey, HostId, FxBuildHasher>,
    latest: Latest<HostId>,
    by_address: BTreeMap<IpAddr, PeerId>,
    last_serial: u64,
    instance: u32,
}

/// What the lock service gives to the status monitor with a peer's name, and by which alone it knows the
/// peer again (`priv` of SM_MON and SM_NOTIFY). Linux puts a time and a pointer into it, which mean as
/// little to anyone else.
pub type Private = [u8; proto::nlm::PRIV_SIZE];

impl Hosts {
    pub(crate) fn new() -> Self {
        Hosts {
            hosts: Arena::new(),
            peers: Arena::new(),
            by_key: HashMap::default(),
            latest: Latest::new(),
            by_address: BTreeMap::new(),
            last_serial: 0,
            instance: 0,
        }
    }

    /// None, but with serial numbers that go on: what the status monitor was given before a restart must not
    /// name another peer after it.
    pub(crate) fn emptied(&self) -> Self {
        Hosts {
            last_serial: self.last_serial,
            instance: self.instance,
            ..Hosts::new()
        }
    }

    pub(crate) fn set_instance(&mut self, instance: u32) {
        self.instance = instance;
    }

    /// What names this peer to the status monitor.
    pub(crate) fn private(&self, id: PeerId) -> Private {
        let serial = self.peers.at(id).serial.to_be_bytes();
        let (instance, place) = (self.instance.to_be_bytes(), id.0.to_be_bytes());
        let mut private = Private::default();
        let bytes = serial.into_iter().chain(instance).chain(place);
        private.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        private
    }

    /// The peer that was given this name, if it is known still.
    pub(crate) fn peer_by_private(&self, private: &Private) -> Option<PeerId> {
        let place = PeerId(u32::from_be_bytes(*private.last_chunk()?));
        self.peers.get(place)?;
        (self.private(place) == *private).then_some(place)
    }

    pub(crate) fn find(&self, key: &HostKey) -> Option<HostId> {
        let is_it = |id: &HostId| self.hosts.get(*id).is_some_and(|host| host.key == *key);
        self.latest.or_find(is_it, || self.by_key.get(key).copied())
    }

    /// The host, known from now on; `None` if there is no room, see [`forget_all_but`](Self::forget_all_but).
    pub(crate) fn find_or_add(&mut self, key: &HostKey, name: &[u8]) -> Option<HostId> {
        if let Some(id) = self.find(key) {
            let peer = self.hosts.at(id).peer;
            let known = &mut self.peers.at_mut(peer).name;
            if known.as_slice() != name {
                *known = name.into();
            }
            return Some(id);
        }
        if self.hosts.len() >= limits::HOSTS {
            return None;
        }
        let peer = match self.by_address.get(&key.peer) {
            Some(peer) => *peer,
            None => {
                self.last_serial += 1;
                let peer = self.peers.insert(Peer {
                    serial: self.last_serial,
                    address: key.peer,
                    name: name.into(),
                    monitored: Monitored::No,
                    state: None,
                    locks: 0,
                    waits: 0,
                    shares: 0,
                });
                self.by_address.insert(key.peer, peer);
                peer
            }
        };
        let id = self.hosts.insert(Host { key: *key, peer });
        self.by_key.insert(*key, id);
        Some(id)
    }

    /// Forgets every peer that is not in `needed`, with its hosts.
    pub(crate) fn forget_all_but(&mut self, needed: &BTreeSet<PeerId>) {
        let idle = |peer: &PeerId| !needed.contains(peer);
        let hosts = self
            .hosts
            .iter_from(0)
            .filter(|(_, h)| idle(&h.peer))
            .map(|(id, _)| id);
        for id in hosts.collect::<Vec<_>>() {
            if let Some(host) = self.hosts.remove(id) {
                self.by_key.remove(&host.key);
            }
        }
        for id in self
            .peers
            .iter_from(0)
            .map(|(id, _)| id)
            .filter(idle)
            .collect::<Vec<_>>()
        {
            if let Some(peer) = self.peers.remove(id) {
                self.by_address.remove(&peer.address);
            }
        }
    }

    pub(crate) fn host(&self, id: HostId) -> &Host {
        self.hosts.at(id)
    }

    pub(crate) fn peer(&self, id: PeerId) -> &Peer {
        self.peers.at(id)
    }

    pub(crate) fn peer_mut(&mut self, id: PeerId) -> &mut Peer {
        self.peers.at_mut(id)
    }

    pub(crate) fn peer_of(&self, host: HostId) -> PeerId {
        self.hosts.at(host).peer
    }

    pub(crate) fn peer_at(&self, address: IpAddr) -> Option<PeerId> {
        self.by_address.get(&address).copied()
    }

    /// Peers by address.
    pub(crate) fn peers(&self) -> impl Iterator<Item = (PeerId, &Peer)> {
        self.by_address
            .values()
            .filter_map(|id| Some((*id, self.peers.get(*id)?)))
    }
}
