//! Which rules a call may meet, found without trying every rule.
//!
//! A rule stands under its program and procedure, and there under one value that it insists on, if it does: the peer,
//! the owner, the user, the caller's name, the handle or the path. So a thousand rules for a thousand files cost a call
//! one look-up.

use crate::exchange::{Direction, Look};
use crate::rule::{Rule, hex};
use crate::{Exchange, Service};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A rule's place in its set.
type Number = u32;

#[derive(Debug, Default)]
struct Bucket {
    rest: Vec<Number>,
    peers: BTreeMap<IpAddr, Vec<Number>>,
    owners: BTreeMap<i32, Vec<Number>>,
    uids: BTreeMap<u32, Vec<Number>>,
    callers: BTreeMap<Vec<u8>, Vec<Number>>,
    handles: BTreeMap<String, Vec<Number>>,
    paths: BTreeMap<String, Vec<Number>>,
}

impl Bucket {
    fn insert(&mut self, n: Number, rule: &Rule) {
        let calls = &rule.calls;
        let place = if let Some(peer) = calls.peer.and_then(|peer| peer.exact()) {
            self.peers.entry(peer).or_default()
        } else if let Some(owner) = calls.owner {
            self.owners.entry(owner).or_default()
        } else if let Some(uid) = calls.uid {
            self.uids.entry(uid).or_default()
        } else if let Some(caller) = calls.caller.as_ref().and_then(|caller| caller.exact()) {
            self.callers.entry(caller.as_bytes().to_vec()).or_default()
        } else if let Some(handle) = &calls.handle {
            self.handles.entry(handle.to_ascii_lowercase()).or_default()
        } else if let Some(path) = calls.path.as_ref().and_then(|path| path.exact()) {
            self.paths.entry(path.to_owned()).or_default()
        } else {
            &mut self.rest
        };
        place.push(n);
    }

    fn find(&self, exchange: &Exchange, call: &dyn Look, found: &mut Vec<Number>) {
        found.extend(&self.rest);
        let mut add = |numbers: Option<&Vec<Number>>| found.extend(numbers.into_iter().flatten());
        if !self.peers.is_empty() {
            add(self.peers.get(&exchange.peer.ip().to_canonical()));
        }
        if !self.uids.is_empty() {
            add(exchange.uid.and_then(|uid| self.uids.get(&uid)));
        }
        if !(self.owners.is_empty() && self.callers.is_empty())
            && let Some(lock) = call.lock()
        {
            add(lock.svid.and_then(|svid| self.owners.get(&svid)));
            add(self.callers.get(lock.caller));
        }
        if !self.handles.is_empty() {
            add(call.handle().and_then(|handle| self.handles.get(&hex(handle))));
        }
        if !self.paths.is_empty() {
            add(call.path().and_then(|path| self.paths.get(path)));
        }
    }
}

/// Every rule of a set, by what it insists on.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// By direction, and by program and procedure as far as the rule names them.
    buckets: BTreeMap<(Direction, Option<Service>, Option<u32>), Bucket>,
}

impl Index {
    /// The index of these rules.
    pub fn of(rules: &[Rule]) -> Index {
        let mut index = Index::default();
        for (n, rule) in (0..).zip(rules) {
            let calls = &rule.calls.call;
            let mut add = |procedure| {
                let key = (rule.calls.direction, calls.service, procedure);
                index.buckets.entry(key).or_default().insert(n, rule);
            };
            match calls.procedures.is_empty() {
                true => add(None),
                false => calls
                    .procedures
                    .iter()
                    .for_each(|procedure| add(Some(*procedure))),
            }
        }
        index
    }

    /// The numbers of the rules that may mean this call, in their order.
    pub fn find(&self, call: &dyn Look) -> Vec<Number> {
        let mut found = Vec::new();
        if self.buckets.is_empty() {
            return found;
        }
        let ex = call.exchange();
        let keys = [
            (ex.direction, Some(ex.service), Some(ex.procedure)),
            (ex.direction, Some(ex.service), None),
            (ex.direction, None, None),
        ];
        for bucket in keys.iter().filter_map(|key| self.buckets.get(key)) {
            bucket.find(&ex, call, &mut found);
        }
        found.sort_unstable();
        found
    }
}
