//! The rules in force: which of them acts on a call, and what they remember.
//!
//! - A rule counts every call that it means, whether or not an earlier rule acts on it: editing one rule leaves the
//!   counts of the others as they were. The first rule, in their order, that chooses the call acts on it.
//! - A copy of a call is not counted again. Whether the rule acts on it too is [`Match::transmission`]'s to say.
//! - What a rule remembers changes at the moment of the decision, not when a reply goes out.
//! - A choice by chance is a hash of the seed, the rule's name, the client's name, the procedure, and how many such calls
//!   of that client the rule has counted: whatever else happens, the n-th gets the same.
//!
//! [`Match::transmission`]: crate::rule::Match::transmission

use crate::action::{Action, Point};
use crate::exchange::{Direction, Look, Table};
use crate::index::Index;
use crate::journal::{Differs, Entry, FromClient, Replay};
use crate::names;
use crate::rule::{Per, Rule, hex};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;
use std::collections::{BTreeMap, VecDeque};
use std::hash::Hasher;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Calls whose copies are recognised.
const RECENT: usize = 16_384;
/// Counters of one rule (`per`); what is beyond is counted together.
const COUNTERS: usize = 65_536;

/// What is to be done with one call, and which rule says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What.
    pub action: Action,
    /// Where on its way.
    pub at: Point,
    /// The rule's name; none if it is a service's condition.
    pub rule: Option<String>,
    /// When the rule is over (its `ttl`): what it has waited for until then waits no longer.
    pub until: Option<Duration>,
}

/// What was decided about a call that some rule means.
#[derive(Debug, Clone, Default)]
pub struct Decision {
    /// What is to be done, if anything.
    pub plan: Option<Plan>,
    /// For the journal: one for each rule that counted the call.
    pub entries: Vec<Entry>,
    /// The replayed journal has something else.
    pub differs: Option<Differs>,
}

/// A message of which copies may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct CallKey {
    peer: IpAddr,
    xid: u32,
    program: u32,
    procedure: u32,
}

/// What became of a call at its earlier transmissions.
#[derive(Debug, Default)]
struct Recent {
    transmissions: u32,
    /// The rules that have counted it, and whether they chose it.
    counted: BTreeMap<u32, bool>,
}

#[derive(Debug, Default)]
struct RuleState {
    /// Calls counted, in all.
    counted: u64,
    /// Calls counted, by what is counted together.
    by_key: BTreeMap<String, u64>,
    /// For `p`: calls counted, by client and procedure.
    chances: BTreeMap<String, u64>,
    fired: u64,
    /// What it waits for (`after`) has happened.
    armed: bool,
    ended: bool,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<RuleState>,
    recent: BTreeMap<CallKey, Recent>,
    order: VecDeque<CallKey>,
    replay: Option<Replay>,
}

/// A set of rules that is in force.
#[derive(Debug, Default)]
pub struct Active {
    rules: Vec<Rule>,
    index: Index,
    seed: u64,
    since: Duration,
    watches_events: bool,
    /// How many decisions the journal has, those by sets before this one included.
    entries: Arc<AtomicU64>,
    state: Mutex<State>,
}

/// A rule and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RuleView {
    /// Its name.
    pub name: String,
    /// It, as a line.
    pub rule: String,
    /// How many calls it has counted.
    pub counted: u64,
    /// How often it was done.
    pub fired: u64,
    /// Whether it is over.
    pub ended: bool,
    /// Whether it may pass without being done.
    pub optional: bool,
}

impl Active {
    /// Puts a set in force. The rules must be checked, each with a name of its own
    /// ([`RuleFile::into_rules`](crate::rule::RuleFile::into_rules)).
    pub fn new(rules: Vec<Rule>, seed: u64, now: Duration, replay: Option<Replay>) -> Active {
        let state = State {
            rules: rules
                .iter()
                .map(|rule| RuleState {
                    armed: rule.when.after.is_none(),
                    ..RuleState::default()
                })
                .collect(),
            replay,
            ..State::default()
        };
        let watches = |rule: &Rule| rule.when.after.is_some() || rule.until.event.is_some();
        Active {
            index: Index::of(&rules),
            watches_events: rules.iter().any(watches),
            rules,
            seed,
            since: now,
            entries: Arc::default(),
            state: Mutex::new(state),
        }
    }

    /// It, as the set that comes after another: its decisions are numbered on in the journal.
    pub fn after(mut self, previous: &Active) -> Active {
        self.entries = previous.entries.clone();
        self
    }

    /// The rules, in their order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Decides what happens to a call. `table` is asked only if a rule depends on it. None: no rule means the call.
    pub fn decide(
        &self,
        now: Duration,
        call: &dyn Look,
        table: impl FnOnce() -> Table,
    ) -> Option<Box<Decision>> {
        if self.rules.is_empty() {
            return None;
        }
        let found = self.index.find(call);
        if found.is_empty() {
            return None;
        }
        let rule = |n: u32| Some((n, self.rules.get(n as usize)?));
        let meant: Vec<(u32, &Rule)> = found
            .into_iter()
            .filter_map(rule)
            .filter(|(_, rule)| rule.calls.check(call).is_ok())
            .collect();
        if meant.is_empty() {
            return None;
        }
        let needs_table = meant.iter().any(|(_, rule)| rule.when.needs_table());
        // Before the state is locked: whoever knows the table may be about to tell us of an event.
        let table = if needs_table { table() } else { Table::default() };
        let mut state = self.state.lock();
        Some(state.decide(self, now, call, &table, &meant).into())
    }

    /// Whether any rule depends on events.
    pub fn watches_events(&self) -> bool {
        self.watches_events
    }

    /// Something has happened. `names` are all that it is called by.
    pub fn observe(&self, names: &[impl AsRef<str>]) {
        if self.watches_events {
            self.state.lock().observe(&self.rules, names);
        }
    }

    /// Every rule, and what became of it so far.
    pub fn view(&self, now: Duration) -> Vec<RuleView> {
        let state = self.state.lock();
        let view = |(rule, state): (&Rule, &RuleState)| RuleView {
            name: rule.name.clone(),
            rule: rule.to_string(),
            counted: state.counted,
            fired: state.fired,
            ended: state.ended || self.is_over(rule, now),
            optional: rule.optional,
        };
        self.rules.iter().zip(&state.rules).map(view).collect()
    }

    /// Whether what a rule waits for has happened.
    pub(crate) fn is_armed(&self, rule: &Rule) -> bool {
        let state = self.state.lock();
        let its = self
            .rules
            .iter()
            .zip(&state.rules)
            .find(|(one, _)| one.name == rule.name);
        its.is_some_and(|(_, state)| state.armed)
    }

    /// Decisions of the replayed journal to which the run has not come; none without a replay.
    pub fn not_replayed(&self) -> Option<u64> {
        self.state.lock().replay.as_ref().map(Replay::left)
    }

    fn is_over(&self, rule: &Rule, now: Duration) -> bool {
        self.end_of(rule).is_some_and(|end| now >= end)
    }

    /// When the time to live of a rule ends.
    fn end_of(&self, rule: &Rule) -> Option<Duration> {
        rule.until.ttl.map(|ttl| self.since.saturating_add(ttl.0))
    }

    /// Whether chance chooses the n-th call of a client.
    fn by_chance(&self, rule: &Rule, p: f64, key: &str, n: u64) -> bool {
        let mut hasher = SipHasher13::new_with_keys(self.seed, 0x6e66_736c_6162);
        for part in [rule.name.as_bytes(), key.as_bytes()] {
            hasher.write(part);
            hasher.write_u8(0xff);
        }
        hasher.write_u64(n);
        // 53 bits are what an f64 holds exactly.
        ((hasher.finish() >> 11) as f64) < p * (1u64 << 53) as f64
    }
}

impl State {
    fn decide(
        &mut self,
        active: &Active,
        now: Duration,
        call: &dyn Look,
        table: &Table,
        meant: &[(u32, &Rule)],
    ) -> Decision {
        let ex = call.exchange();
        let key = (ex.direction == Direction::Call).then_some(CallKey {
            peer: ex.peer.ip(),
            xid: ex.xid,
            program: ex.program,
            procedure: ex.procedure,
        });
        let mut recent = key.and_then(|key| self.recent.remove(&key)).unwrap_or_default();
        let is_new = recent.transmissions == 0;
        recent.transmissions = recent.transmissions.saturating_add(1);
        let transmission = recent.transmissions;
        let mut decision = Decision::default();
        let mut fired = None;
        for (n, rule) in meant {
            if !rule.calls.transmission.has(transmission) {
                continue;
            }
            let chosen = match recent.counted.get(n) {
                Some(chosen) => *chosen && !self.is_ended(*n, rule, active, now),
                None => {
                    if self.is_ended(*n, rule, active, now) || !rule.when.table_fits(table) {
                        continue;
                    }
                    let Some((chosen, mut entry)) = self.count(*n, rule, active, now, call) else {
                        continue;
                    };
                    let differs = self.replay.as_mut().map(|replay| replay.next(&entry));
                    let chosen = match differs {
                        None => chosen,
                        Some(Ok(chosen)) => chosen,
                        Some(Err(differs)) => {
                            decision.differs.get_or_insert(differs);
                            false
                        }
                    };
                    entry.chosen = chosen;
                    entry.acts = chosen && fired.is_none();
                    entry.client.transmission = transmission;
                    decision.entries.push(entry);
                    recent.counted.insert(*n, chosen);
                    chosen
                }
            };
            if chosen && fired.is_none() {
                fired = Some((*n, *rule));
            }
        }
        if let Some(key) = key {
            self.recent.insert(key, recent);
            if is_new {
                self.order.push_back(key);
                if self.order.len() > RECENT
                    && let Some(oldest) = self.order.pop_front()
                {
                    self.recent.remove(&oldest);
                }
            }
        }
        if let Some((n, rule)) = fired {
            self.fire(n, rule, &active.rules);
            decision.plan = Some(Plan {
                action: rule.deed.action.clone(),
                at: rule.at(),
                rule: Some(rule.name.clone()),
                until: active.end_of(rule),
            });
        }
        decision
    }

    fn is_ended(&self, n: u32, rule: &Rule, active: &Active, now: Duration) -> bool {
        let state = self.rules.get(n as usize);
        state.is_none_or(|state| state.ended || !state.armed) || active.is_over(rule, now)
    }

    /// Counts a call for a rule: whether the rule chooses it, and what the journal says.
    fn count(
        &mut self,
        n: u32,
        rule: &Rule,
        active: &Active,
        now: Duration,
        call: &dyn Look,
    ) -> Option<(bool, Entry)> {
        let ex = call.exchange();
        let state = self.rules.get_mut(n as usize)?;
        let client = call.client();
        state.counted += 1;
        let together = match rule.when.per {
            Per::Rule => String::new(),
            Per::Client => client.clone(),
            Per::Owner => format!(
                "{client} {}",
                call.lock()
                    .and_then(|lock| lock.svid)
                    .map_or(String::new(), |svid| svid.to_string())
            ),
            Per::File => call.handle().map_or(String::new(), hex),
        };
        let nth = next(&mut state.by_key, together);
        let name = names::call_name(ex.service, ex.procedure);
        let chosen = rule.when.counts(nth)
            && rule.when.p.is_none_or(|p| {
                let key = format!("{client} {name}");
                let n = next(&mut state.chances, key.clone());
                active.by_chance(rule, p, &key, n)
            });
        let entry = Entry {
            // Under the lock of this state: the numbers of a set's decisions are in their order.
            n: active.entries.fetch_add(1, Relaxed) + 1,
            rule: rule.name.clone(),
            count: state.counted,
            nth,
            call: name,
            from: client,
            path: call.path().map(str::to_owned),
            chosen,
            acts: false,
            deed: rule.deed.action.to_string(),
            at: rule.at(),
            client: FromClient {
                peer: ex.peer,
                xid: ex.xid,
                owner: call.lock().and_then(|lock| lock.svid),
                transmission: 1,
                at_ms: now.as_secs_f64() * 1000.0,
            },
        };
        Some((chosen, entry))
    }

    fn fire(&mut self, n: u32, rule: &Rule, rules: &[Rule]) {
        if let Some(state) = self.rules.get_mut(n as usize) {
            state.fired += 1;
            state.ended |= rule.until.count.is_some_and(|count| state.fired >= count);
        }
        self.observe(rules, &[format!("rule/{}", rule.name)]);
    }

    fn observe(&mut self, rules: &[Rule], names: &[impl AsRef<str>]) {
        for (rule, state) in rules.iter().zip(&mut self.rules) {
            let meant =
                |pattern: &crate::pattern::Pattern| names.iter().any(|name| pattern.fits(name.as_ref()));
            state.armed |= rule.when.after.as_ref().is_some_and(meant);
            state.ended |= rule.until.event.as_ref().is_some_and(meant);
        }
    }
}

/// Counts one more under a key; keys beyond the limit are counted together.
fn next(counters: &mut BTreeMap<String, u64>, key: String) -> u64 {
    let key = match counters.len() < COUNTERS || counters.contains_key(&key) {
        true => key,
        false => String::new(),
    };
    let counter = counters.entry(key).or_default();
    *counter += 1;
    *counter
}

#[cfg(test)]
mod tests;
