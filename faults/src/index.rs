//! Which rules a call may meet, found without trying every rule.
//!
//! A rule stands under its program and procedure, and there under one value that it insists on, if it does: the peer,
//! the owner, the user, the caller's name, the handle or the path. So a thousand rules for a thousand files cost a call
//! one look-up.
//!
//! The keys are those of the rules, which strangers do not choose: a fast hash is good enough. Nothing is ever listed in
//! the order of a hash.

use crate::exchange::{Direction, Look};
use crate::rule::{Rule, hex};
use crate::{Exchange, Service};
use rustc_hash::FxBuildHasher;
use std::net::IpAddr;

type Map<K> = hashbrown::HashMap<K, Vec<Number>, FxBuildHasher>;

/// A rule's place in its set.
type Number = u32;

#[derive(Debug, Default)]
struct Bucket {
    /// How many rules stand here. Most buckets have none, and every call looks into three.
    len: usize,
    rest: Vec<Number>,
    peers: Map<IpAddr>,
    owners: Map<i32>,
    uids: Map<u32>,
    callers: Map<Vec<u8>>,
    handles: Map<String>,
    paths: Map<String>,
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
        self.len += 1;
    }

    fn find(&self, exchange: &Exchange, call: &dyn Look, found: &mut Vec<Number>) {
        if self.len == 0 {
            return;
        }
        found.extend_from_slice(&self.rest);
        let mut add = |numbers: Option<&Vec<Number>>| {
            if let Some(numbers) = numbers {
                found.extend_from_slice(numbers);
            }
        };
        if !self.peers.is_empty() {
            add(self.peers.get(&exchange.peer.ip().to_canonical()));
        }
        if !self.uids.is_empty() {
            add(exchange.uid.and_then(|uid| self.uids.get(&uid)));
        }
        if !(self.owners.is_empty() && self.callers.is_empty())
            && let Some(lock) = call.lock()
        {
            if !self.owners.is_empty() {
                add(lock.svid.and_then(|svid| self.owners.get(&svid)));
            }
            if !self.callers.is_empty() {
                add(self.callers.get(lock.caller));
            }
        }
        if !self.handles.is_empty() {
            add(call.handle().and_then(|handle| self.handles.get(&hex(handle))));
        }
        if !self.paths.is_empty() {
            add(call.path().and_then(|path| self.paths.get(path)));
        }
    }
}

/// Procedures that have a place of their own; none of the programs has more.
const PROCEDURES: usize = 32;

/// The rules of one program.
#[derive(Debug, Default)]
struct Program {
    /// For every procedure.
    all: Bucket,
    /// For one, by its number.
    each: [Bucket; PROCEDURES],
    /// For numbers that no procedure has.
    beyond: Bucket,
}

impl Program {
    fn place(&self, procedure: u32) -> &Bucket {
        self.each.get(procedure as usize).unwrap_or(&self.beyond)
    }

    fn place_mut(&mut self, procedure: u32) -> &mut Bucket {
        self.each.get_mut(procedure as usize).unwrap_or(&mut self.beyond)
    }
}

/// The rules for one direction.
#[derive(Debug, Default)]
struct Way {
    any: Bucket,
    programs: [Option<Box<Program>>; Service::ALL.len()],
}

/// Every rule of a set, by what it insists on.
#[derive(Debug, Default)]
pub(crate) struct Index {
    calls: Way,
    callbacks: Way,
}

impl Index {
    /// The index of these rules.
    pub fn of(rules: &[Rule]) -> Index {
        let mut index = Index::default();
        for (n, rule) in (0..).zip(rules) {
            let way = match rule.calls.direction {
                Direction::Call => &mut index.calls,
                Direction::Callback => &mut index.callbacks,
            };
            let calls = &rule.calls.call;
            let Some(slot) = calls
                .service
                .and_then(|service| way.programs.get_mut(service.index()))
            else {
                way.any.insert(n, rule);
                continue;
            };
            let program = slot.get_or_insert_default();
            if calls.procedures.is_empty() {
                program.all.insert(n, rule);
            }
            for procedure in &calls.procedures {
                program.place_mut(*procedure).insert(n, rule);
            }
        }
        index
    }

    /// The numbers of the rules that may mean this call, in their order.
    pub fn find(&self, call: &dyn Look) -> Vec<Number> {
        let ex = call.exchange();
        let way = match ex.direction {
            Direction::Call => &self.calls,
            Direction::Callback => &self.callbacks,
        };
        let mut found = Vec::new();
        way.any.find(&ex, call, &mut found);
        if let Some(Some(program)) = way.programs.get(ex.service.index()) {
            program.all.find(&ex, call, &mut found);
            program.place(ex.procedure).find(&ex, call, &mut found);
        }
        if found.len() < 2 {
            return found;
        }
        found.sort_unstable();
        // One that names a number beyond those that have a place may stand there twice.
        found.dedup();
        found
    }
}
