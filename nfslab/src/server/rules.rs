//! Rules, gates and expectations, as the control API and the library have them.

use super::Node;
use super::gates::Verdict;
use crate::control::api::{CheckView, ExplainView, GateView, RuleView, VerifyView};
use crate::events::What;
use faults::active::Active;
use faults::explain::Sample;
use faults::rule::{Rule, RuleFile};
use faults::verify::{self, Expectation};
use faults::{Faults, journal};
use std::sync::Arc;
use std::time::Duration;

impl Node {
    /// Puts a set of rules in force instead of the one before, as a whole: no call sees a part of it.
    pub fn set_rules(&self, rules: Vec<Rule>) {
        let count = rules.len();
        let active = Active::new(rules, self.seed, self.clock.now(), None);
        let active = Arc::new(active.after(&self.faults.load().rules));
        self.put_in_force(active);
        self.event(What::Rules { rules: count });
    }

    /// The same from a file.
    ///
    /// # Errors
    /// Which rule, what is wrong with it and what would be right; nothing is changed.
    pub fn set_rule_file(&self, file: RuleFile) -> Result<(), String> {
        self.set_rules(file.into_rules()?);
        Ok(())
    }

    pub(super) fn put_in_force(&self, active: Arc<Active>) {
        self.faults.rcu(|faults| {
            let mut faults = Faults::clone(faults);
            faults.rules = active.clone();
            faults
        });
    }

    /// Every rule, and what became of it.
    pub fn rules(&self) -> Vec<RuleView> {
        self.faults.load().rules.view(self.clock.now())
    }

    /// Which rule a call would meet, and why the others would not.
    ///
    /// # Errors
    /// If the words are not a call.
    pub fn explain(&self, call: &str) -> Result<Vec<ExplainView>, String> {
        let sample: Sample = call.parse()?;
        let now = self.clock.now();
        let table = self.locks.table(now);
        Ok(self.faults.load().rules.explain(now, &sample.0, &table))
    }

    /// Every gate, and what waits there.
    pub fn gates(&self) -> Vec<GateView> {
        self.gates.view()
    }

    /// Waits until so many calls are held at a gate at once. False: not within that time.
    pub async fn wait_at_gate(&self, gate: &str, count: usize, within: Duration) -> bool {
        tokio::time::timeout(within, self.gates.held(gate, count))
            .await
            .is_ok()
    }

    /// Decides about a call at a gate by its number, or about the first `count` (none: all). How many there were.
    pub fn release(&self, gate: &str, id: Option<u64>, count: Option<usize>, verdict: Verdict) -> usize {
        self.gates.release(gate, id, count, verdict)
    }

    /// Opens a gate, so that what comes passes, or closes it again.
    pub fn set_gate_open(&self, gate: &str, open: bool) {
        self.gates.set_open(gate, open);
        if open {
            self.gates.release(gate, None, None, Verdict::Go);
        }
    }

    /// Whether everything is as expected by now: the expectations; that every rule was done that does not say
    /// optional=true; that no call waits at a gate; that the run is as the journal that is replayed.
    pub fn verify(&self, expectations: &[Expectation], all: bool) -> VerifyView {
        let active = self.faults.load().rules.clone();
        let rules = active.view(self.clock.now());
        let history = self.history.lock();
        let missed = self.events.figures().unlogged;
        let mut checks: Vec<CheckView> = expectations
            .iter()
            .map(|expectation| match expectation.unkept(active.rules()) {
                None => expectation.check(&history, missed, &rules),
                Some(which) => CheckView {
                    expect: expectation.to_string(),
                    passed: false,
                    found: format!(
                        "cannot be said: calls on files are kept only if a rule means them, as {} optional=true -> pass",
                        which.call
                    ),
                },
            })
            .collect();
        if all {
            checks.extend(verify::unused(&rules, active.rules(), &history));
            checks.extend(
                self.gates
                    .view()
                    .into_iter()
                    .filter(|gate| !gate.held.is_empty())
                    .map(|gate| {
                        let held: Vec<&str> = gate.held.iter().map(|held| held.call.as_str()).collect();
                        CheckView {
                            expect: format!("gate {} left open", gate.gate),
                            passed: false,
                            found: format!("still held there: {}", held.join(", ")),
                        }
                    }),
            );
            checks.extend(self.journal.difference().map(|differs| CheckView {
                expect: "as in the journal".to_owned(),
                passed: false,
                found: differs.to_string(),
            }));
            checks.extend(
                active
                    .not_replayed()
                    .filter(|left| *left > 0)
                    .map(|left| CheckView {
                        expect: "as in the journal".to_owned(),
                        passed: false,
                        found: format!("{left} decisions of the journal did not come"),
                    }),
            );
        }
        VerifyView {
            passed: checks.iter().all(|check| check.passed),
            checks,
        }
    }

    /// The same, waited for. What the expectations say may still come; `never` and `at most` are looked at when the
    /// others are so, or when time is over.
    pub async fn verify_within(
        &self,
        expectations: &[Expectation],
        all: bool,
        within: Duration,
    ) -> VerifyView {
        let mut events = self.events.subscribe();
        let passed = async {
            loop {
                if self.verify(expectations, all).passed {
                    return;
                }
                // Whatever could make it so is an event, or is one of so many that some are missed.
                match events.recv().await {
                    Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                }
            }
        };
        let _ = tokio::time::timeout(within, passed).await;
        self.verify(expectations, all)
    }

    /// Waits until a call comes that is not as in the journal that is replayed; for ever without a replay.
    pub async fn differs(&self) -> journal::Differs {
        let mut events = self.events.subscribe();
        loop {
            if let Some(differs) = self.journal.difference() {
                return differs.clone();
            }
            if let Err(tokio::sync::broadcast::error::RecvError::Closed) = events.recv().await {
                return std::future::pending().await;
            }
        }
    }

    /// The decisions so far.
    pub fn journal(&self) -> journal::Journal {
        self.journal.view()
    }
}
