//! Gates: calls wait at one until somebody lets them go. A test waits for an arrival, looks, and decides; nobody
//! sleeps.

use crate::control::api::{GateView, HeldView};
use crate::events::ms;
use faults::names::Status;
use faults::{Facts, Point};
use parking_lot::Mutex;
use serde_with::{DeserializeFromStr, SerializeDisplay};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// Calls that wait at all gates together. Beyond it they pass: a client must not fill the memory.
const MOST: usize = 65_536;

/// What becomes of a call that was held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, DeserializeFromStr, SerializeDisplay)]
pub enum Verdict {
    /// It goes on as if nothing had been.
    Go,
    /// It is never answered; if it has not been executed, it never is.
    Drop,
    /// It is answered so. If it has not been executed, it never is.
    Answer(Status),
}

impl FromStr for Verdict {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "go" => Ok(Verdict::Go),
            "drop" => Ok(Verdict::Drop),
            text => match text.strip_prefix("answer ") {
                Some(status) => status.trim().parse().map(Verdict::Answer),
                None => Err(format!("no verdict '{text}': expected go, drop or answer STATUS")),
            },
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Go => f.write_str("go"),
            Verdict::Drop => f.write_str("drop"),
            Verdict::Answer(status) => write!(f, "answer {status}"),
        }
    }
}

struct Held {
    facts: Facts,
    rule: String,
    at: Point,
    since: Duration,
    go: oneshot::Sender<Verdict>,
}

#[derive(Default)]
struct Gate {
    /// How many have come in all.
    arrived: u64,
    /// What comes, passes.
    open: bool,
    held: BTreeMap<u64, Held>,
}

/// All gates, by name. A gate is there from the first call on that comes to it, or from its first mention.
pub struct Gates {
    gates: Mutex<BTreeMap<String, Gate>>,
    /// Counts arrivals, so that who waits for one can be woken.
    arrivals: watch::Sender<u64>,
    /// Counts resets, for those who wait for a time or an event.
    resets: watch::Sender<u64>,
}

impl Default for Gates {
    fn default() -> Self {
        Gates {
            gates: Mutex::default(),
            arrivals: watch::channel(0).0,
            resets: watch::channel(0).0,
        }
    }
}

impl Gates {
    /// A call has come to a gate: its number there. The verdict comes through what is returned; if that ends without one,
    /// the gates were reset.
    pub fn arrive(
        &self,
        name: &str,
        rule: String,
        at: Point,
        now: Duration,
        facts: Facts,
    ) -> (u64, oneshot::Receiver<Verdict>) {
        let (go, verdict) = oneshot::channel();
        let id = {
            let mut gates = self.gates.lock();
            let waiting: usize = gates.values().map(|gate| gate.held.len()).sum();
            let gate = gates.entry(name.to_owned()).or_default();
            gate.arrived += 1;
            if gate.open || waiting >= MOST {
                let _ = go.send(Verdict::Go);
            } else {
                let held = Held {
                    facts,
                    rule,
                    at,
                    since: now,
                    go,
                };
                gate.held.insert(gate.arrived, held);
            }
            gate.arrived
        };
        self.arrivals.send_modify(|n| *n += 1);
        (id, verdict)
    }

    /// Waits until so many calls are held at a gate at once.
    pub async fn held(&self, name: &str, count: usize) {
        let mut arrivals = self.arrivals.subscribe();
        let _ = arrivals.wait_for(|_| self.count(name) >= count).await;
    }

    fn count(&self, name: &str) -> usize {
        self.gates.lock().get(name).map_or(0, |gate| gate.held.len())
    }

    /// Decides about the call with this number, or about the first `count` that wait (none: all). How many there were.
    pub fn release(&self, name: &str, id: Option<u64>, count: Option<usize>, verdict: Verdict) -> usize {
        let mut gates = self.gates.lock();
        let Some(gate) = gates.get_mut(name) else { return 0 };
        let which: Vec<u64> = match id {
            Some(id) => vec![id],
            None => gate
                .held
                .keys()
                .copied()
                .take(count.unwrap_or(usize::MAX))
                .collect(),
        };
        let held = which.iter().filter_map(|id| gate.held.remove(id));
        held.filter_map(|held| held.go.send(verdict).ok()).count()
    }

    /// Opens a gate, so that what comes passes, or closes it again.
    pub fn set_open(&self, name: &str, open: bool) {
        self.gates.lock().entry(name.to_owned()).or_default().open = open;
    }

    /// Every gate, and what waits there.
    pub fn view(&self) -> Vec<GateView> {
        let gates = self.gates.lock();
        let held =
            |(id, held): (&u64, &Held)| HeldView::new(*id, &held.rule, held.at, ms(held.since), &held.facts);
        gates
            .iter()
            .map(|(name, gate)| GateView {
                gate: name.clone(),
                open: gate.open,
                arrived: gate.arrived,
                held: gate.held.iter().map(held).collect(),
            })
            .collect()
    }

    /// Takes every gate away. What waited has no verdict.
    pub fn reset(&self) {
        self.gates.lock().clear();
        self.resets.send_modify(|n| *n += 1);
    }

    /// By which the next reset is heard of.
    pub fn resets(&self) -> watch::Receiver<u64> {
        self.resets.subscribe()
    }
}
