//! What goes wrong, decided in one place.
//!
//! Every message that enters or leaves passes one hook: [`Faults::decide`] looks at the call ([`Look`]) and says what is
//! to be done with it ([`Plan`]); the `nfslab` crate carries the plan out. Handlers see neither.
//!
//! | module | what |
//! |---|---|
//! | [`condition`] | the state of a whole service |
//! | [`rule`], [`action`], [`names`], [`pattern`] | what a rule may say: which calls, when, what is done, until when |
//! | [`active`] | the rules in force: who acts on a call, and what they remember |
//! | [`explain`] | which rule a call would meet, and why the others would not |
//! | [`journal`] | every decision on paper, and the way back |
//! | [`history`], [`verify`] | which calls there were; whether they are what was expected, and why not |
//!
//! **Invariant**: nothing here knows a socket, a clock or a random number.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing))]

pub mod action;
pub mod active;
pub mod condition;
pub mod exchange;
pub mod explain;
pub mod history;
mod index;
pub mod journal;
pub mod names;
pub mod pattern;
pub mod rule;
pub mod verify;

pub use action::{Action, Point};
pub use active::{Active, Decision, Plan};
pub use condition::{Answered, Condition, Conditions, Service};
pub use exchange::{Direction, Exchange, Facts, LockFacts, Look, Table, Transport};

use std::sync::Arc;
use std::time::Duration;

/// Every fault that is in force.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// The state of each service.
    pub conditions: Conditions,
    /// How many calls each has answered, for those that hang after some.
    pub answered: Arc<Answered>,
    /// The rules.
    pub rules: Arc<Active>,
}

impl Faults {
    /// Decides what happens to a call: what the first rule says that chooses it, else what the service's condition says.
    /// None: nothing unusual, and nothing for the journal.
    // In a box, since for nearly every call there is none.
    pub fn decide(
        &self,
        now: Duration,
        call: &dyn Look,
        table: impl FnOnce() -> Table,
    ) -> Option<Box<Decision>> {
        let mut decision = self.rules.decide(now, call, table);
        let plan = decision.as_ref().and_then(|decision| decision.plan.as_ref());
        if plan.is_none()
            && let Some(plan) = self.condition_of(call)
        {
            decision.get_or_insert_default().plan = Some(plan);
        }
        decision
    }

    /// What the condition of its service does to a call.
    ///
    /// The lock service is left alone here: being slow or hung is a state of its worker, which the pure
    /// `nlm` crate models, because a slow call must hold up the calls behind it.
    fn condition_of(&self, call: &dyn Look) -> Option<Plan> {
        let service = call.service();
        let condition = self.conditions.get(service);
        if service == Service::Lockd
            || condition == Condition::Ok
            || call.exchange().direction == Direction::Callback
        {
            return None;
        }
        let (action, at) = match condition {
            Condition::HungAfter(calls) if !self.answered.one_more(service, calls) => {
                (Action::Drop, Point::Received)
            }
            Condition::Ok
            | Condition::Absent
            | Condition::Refused
            | Condition::HungAfter(_)
            | Condition::Failing
            | Condition::LyingPort(_) => return None,
            Condition::Slow(by) => (Action::Delay(by), Point::BeforeReply),
            Condition::Hung => (Action::Drop, Point::Received),
        };
        Some(Plan {
            action,
            at,
            rule: None,
            until: None,
        })
    }

    /// Whether a service other than the lock service takes calls and answers none of them any more.
    pub fn is_hung(&self, service: Service) -> bool {
        match self.conditions.get(service) {
            Condition::Hung => true,
            Condition::HungAfter(calls) => self.answered.get(service) >= calls,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn call(service: Service, program: u32) -> Facts {
        let peer = SocketAddr::from(([10, 77, 0, 2], 700));
        Facts {
            exchange: Exchange {
                direction: Direction::Call,
                service,
                peer,
                transport: Transport::Tcp,
                program,
                version: 3,
                procedure: 1,
                xid: 1,
                uid: None,
            },
            client: "web1".to_owned(),
            caller: None,
            lock: None,
            handle: None,
            path: None,
            bytes: None,
        }
    }

    fn plan(faults: &Faults, service: Service, program: u32) -> Option<Action> {
        let decision = faults.decide(Duration::ZERO, &call(service, program), Table::default)?;
        Some(decision.plan?.action)
    }

    #[test]
    fn a_condition_concerns_its_own_service_only() {
        let mut faults = Faults::default();
        let slow = Duration::from_secs(2);
        faults.conditions.set(Service::Nfs, Condition::Slow(slow));
        assert_eq!(plan(&faults, Service::Nfs, 100_003), Some(Action::Delay(slow)));
        assert_eq!(plan(&faults, Service::Mount, 100_005), None);
        faults.conditions.set(Service::Nfs, Condition::Hung);
        assert_eq!(plan(&faults, Service::Nfs, 100_003), Some(Action::Drop));
    }

    #[test]
    fn a_service_may_answer_some_calls_and_hang_then() {
        let mut faults = Faults::default();
        faults.conditions.set(Service::Mount, Condition::HungAfter(2));
        let plans = [(); 4].map(|()| plan(&faults, Service::Mount, 100_005));
        assert_eq!(plans, [None, None, Some(Action::Drop), Some(Action::Drop)]);
        assert!(faults.is_hung(Service::Mount) && !faults.is_hung(Service::Nfs));
        assert_eq!(plan(&faults, Service::Nfs, 100_003), None);
    }

    #[test]
    fn a_slow_lock_service_is_not_a_delayed_reply() {
        let mut faults = Faults::default();
        let slow = Condition::Slow(Duration::from_secs(2));
        faults.conditions.set(Service::Lockd, slow);
        assert_eq!(plan(&faults, Service::Lockd, 100_021), None);
    }

    #[test]
    fn a_rule_comes_before_a_condition() {
        let mut faults = Faults::default();
        faults.conditions.set(Service::Nfs, Condition::Hung);
        let rule = "nfs.getattr -> pass".parse().unwrap();
        faults.rules = Arc::new(Active::new(vec![rule], 1, Duration::ZERO, None));
        assert_eq!(plan(&faults, Service::Nfs, 100_003), Some(Action::Pass));
    }
}
