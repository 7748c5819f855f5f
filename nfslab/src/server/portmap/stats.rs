//! What the port mapper has been asked, for GETSTAT (RFC 1833, section 2.2.2) and `rpcinfo -m`.

use super::Key;
use proto::rpcbind::{
    List, Netid, RPCBSTAT_HIGHPROC, RPCBVERS_STAT, RpcbStat, RpcbStatByvers, RpcbsAddrlist, RpcbsRmtcalllist,
};
use rpc::xdr::{Encode, Writer};
use std::collections::BTreeMap;

/// Most programs, and most forwarded procedures, that are counted one by one, for each version.
const MAX_KINDS: usize = 128;

/// The counters since the start.
#[derive(Debug, Default)]
pub struct Stats([Version; RPCBVERS_STAT]);

/// Those of one version.
#[derive(Debug, Default)]
struct Version {
    calls: [u32; RPCBSTAT_HIGHPROC],
    sets: u32,
    unsets: u32,
    asked: BTreeMap<Key, Asked>,
    /// By program, version and transport, and by procedure.
    forwards: BTreeMap<(Key, u32), Forwards>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Asked {
    found: u32,
    missing: u32,
}

#[derive(Debug, Default, Clone, Copy)]
struct Forwards {
    refused: u32,
    indirect: u32,
}

fn count(counter: &mut u32) {
    *counter = counter.saturating_add(1);
}

/// The counter under `key`, unless there are too many.
fn slot<K: Ord, V: Default>(map: &mut BTreeMap<K, V>, key: K) -> Option<&mut V> {
    (map.len() < MAX_KINDS || map.contains_key(&key)).then(|| map.entry(key).or_default())
}

impl Stats {
    fn version(&mut self, version: u32) -> Option<&mut Version> {
        let first = proto::portmap::V2;
        self.0.get_mut(version.checked_sub(first)? as usize)
    }

    /// A procedure has been called.
    pub fn called(&mut self, version: u32, procedure: u32) {
        let counters = self.version(version);
        if let Some(counter) = counters.and_then(|v| v.calls.get_mut(procedure as usize)) {
            count(counter);
        }
    }

    /// A SET has been answered.
    pub fn set(&mut self, version: u32, done: bool) {
        if let (Some(counters), true) = (self.version(version), done) {
            count(&mut counters.sets);
        }
    }

    /// An UNSET has been answered.
    pub fn unset(&mut self, version: u32, done: bool) {
        if let (Some(counters), true) = (self.version(version), done) {
            count(&mut counters.unsets);
        }
    }

    /// A question for an address has been answered.
    pub fn asked(&mut self, version: u32, key: Key, found: bool) {
        let counters = self.version(version);
        if let Some(asked) = counters.and_then(|v| slot(&mut v.asked, key)) {
            count(if found {
                &mut asked.found
            } else {
                &mut asked.missing
            });
        }
    }

    /// A call was to be forwarded.
    pub fn not_forwarded(&mut self, version: u32, key: Key, procedure: u32, indirect: bool) {
        let counters = self.version(version);
        if let Some(forwards) = counters.and_then(|v| slot(&mut v.forwards, (key, procedure))) {
            count(&mut forwards.refused);
            if indirect {
                count(&mut forwards.indirect);
            }
        }
    }

    /// How often a procedure has been called.
    #[cfg(test)]
    pub fn calls(&mut self, version: u32, procedure: usize) -> u32 {
        let counters = self.version(version);
        counters
            .and_then(|v| v.calls.get(procedure))
            .copied()
            .unwrap_or_default()
    }

    /// Appends the answer to GETSTAT.
    pub fn put(&self, w: &mut Writer) {
        RpcbStatByvers(self.0.each_ref().map(Version::stat)).encode(w);
    }
}

impl Version {
    fn stat(&self) -> RpcbStat<'static> {
        let asked = |(&(prog, vers, netid), asked): (&Key, &Asked)| RpcbsAddrlist {
            prog,
            vers,
            success: asked.found,
            failure: asked.missing,
            netid: Netid::name(netid).into(),
        };
        let forwards =
            |(&((prog, vers, netid), proc), forwards): (&(Key, u32), &Forwards)| RpcbsRmtcalllist {
                prog,
                vers,
                proc,
                success: 0,
                failure: forwards.refused,
                indirect: forwards.indirect,
                netid: netid.name().into(),
            };
        RpcbStat {
            info: self.calls,
            setinfo: self.sets,
            unsetinfo: self.unsets,
            addrinfo: List(self.asked.iter().map(asked).collect()),
            rmtinfo: List(self.forwards.iter().map(forwards).collect()),
        }
    }
}
