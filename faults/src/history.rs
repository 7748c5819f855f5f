//! Which calls there were, as far as they are kept: what expectations are about.

use crate::exchange::{Direction, Facts, Look};
use crate::names;
use crate::rule::{Match, Mismatch};
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

/// Calls that are kept.
pub const KEPT: usize = 65_536;

/// A call that came, or that we made.
#[derive(Debug, Clone)]
pub struct Past {
    /// What could be seen of it.
    pub facts: Facts,
    /// The how manieth message it was with this number of this peer.
    pub transmission: u32,
    /// When, in milliseconds on the server's clock.
    pub at_ms: f64,
}

/// The calls so far.
#[derive(Debug, Default)]
pub struct History {
    calls: VecDeque<Past>,
    transmissions: BTreeMap<(IpAddr, u32, u32, u32), u32>,
    counts: BTreeMap<String, u64>,
    /// Calls that are not kept any more.
    forgotten: u64,
}

impl History {
    /// Keeps a call.
    pub fn add(&mut self, facts: Facts, at_ms: f64) {
        let ex = facts.exchange;
        let mut transmission = 1;
        if ex.direction == Direction::Call {
            let key = key(&facts);
            let n = self.transmissions.entry(key).or_default();
            *n += 1;
            transmission = *n;
        }
        *self
            .counts
            .entry(names::call_name(ex.service, ex.procedure))
            .or_default() += 1;
        if self.calls.len() == KEPT
            && let Some(oldest) = self.calls.pop_front()
        {
            self.forgotten += 1;
            if oldest.facts.exchange.direction == Direction::Call {
                // Copies that come so late count as calls.
                self.transmissions.remove(&key(&oldest.facts));
            }
        }
        self.calls.push_back(Past {
            facts,
            transmission,
            at_ms,
        });
    }

    /// Calls of which nothing is known any more, beside those that whoever keeps the history never told of.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        *self = History::default();
    }

    /// The calls that are meant, in their order.
    pub fn find<'a>(&'a self, which: &'a Match) -> impl Iterator<Item = &'a Past> {
        self.calls
            .iter()
            .filter(|past| which.transmission.has(past.transmission) && which.check(&past.facts).is_ok())
    }

    /// The latest call.
    pub fn last(&self) -> Option<&Past> {
        self.calls.back()
    }

    /// Why no call was meant, in words: the one that was nearest to it.
    pub fn nearest(&self, which: &Match) -> String {
        let miss = |past: &'_ Past| -> Option<(Mismatch, String)> {
            let miss = which.check(&past.facts).err()?;
            Some((miss, describe(&past.facts)))
        };
        let of_kind = |past: &&Past| {
            let ex = past.facts.exchange;
            ex.direction == which.direction && which.call.has(ex.service, ex.procedure)
        };
        let nearest = self
            .calls
            .iter()
            .filter(of_kind)
            .filter_map(miss)
            .max_by_key(|(miss, _)| miss.fitted);
        if let Some((miss, call)) = nearest {
            return format!("nearest was {call}: {miss}");
        }
        if let Some(past) = self.calls.iter().find(of_kind) {
            return format!(
                "{} came, but as transmission {}, and it wants {}",
                describe(&past.facts),
                past.transmission,
                which.transmission
            );
        }
        let came: Vec<String> = self
            .counts
            .iter()
            .map(|(name, n)| format!("{n} of {name}"))
            .collect();
        match came.is_empty() {
            true => format!("no {} came, nor anything else", which.call),
            false => format!("no {} came, but {}", which.call, came.join(", ")),
        }
    }
}

fn key(facts: &Facts) -> (IpAddr, u32, u32, u32) {
    let ex = facts.exchange;
    (ex.peer.ip(), ex.xid, ex.program, ex.procedure)
}

/// A call in words.
pub fn describe(call: &dyn Look) -> String {
    let ex = call.exchange();
    let way = match ex.direction {
        Direction::Call => "of",
        Direction::Callback => "to",
    };
    let mut text = format!(
        "{} {way} {}",
        names::call_name(ex.service, ex.procedure),
        call.client()
    );
    if let Some(path) = call.path() {
        text.push_str(&format!(" about {path}"));
    }
    if let Some(svid) = call.lock().and_then(|lock| lock.svid) {
        text.push_str(&format!(" for owner {svid}"));
    }
    text
}
