//! What goes wrong, decided in one place.
//!
//! Every message that enters or leaves passes one hook: [`Faults::plan`] looks at the [`Exchange`] and says
//! what is to be done with it ([`Plan`]); the `nfslab` crate carries the plan out. Handlers see neither.
//!
//! **Invariant**: nothing here knows a socket, a clock or a random number.
//!
//! What there is so far are the conditions of whole services ([`condition`]). A new fault is a variant of
//! [`Plan`], a line where plans are carried out (`nfslab/src/server/dispatch.rs`), and its documentation.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing))]

pub mod condition;

pub use condition::{Answered, Condition, Conditions, Service};

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Which way a call goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// A client calls us.
    Call,
    /// We call a client: GRANTED, SM_NOTIFY, or the question to its port mapper before them.
    Callback,
}

/// A call, as far as a decision may depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchange {
    /// Which way.
    pub direction: Direction,
    /// Which of our services is concerned.
    pub service: Service,
    /// The other side.
    pub peer: SocketAddr,
    /// Program number.
    pub program: u32,
    /// Its version.
    pub version: u32,
    /// Its procedure.
    pub procedure: u32,
    /// The call's number at the other side.
    pub xid: u32,
}

/// What is done with one exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Nothing unusual.
    Proceed,
    /// Execute it now, answer it this much later.
    Delay(Duration),
    /// Never execute it, never answer it.
    Drop,
}

/// Every fault that is in force.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// The state of each service.
    pub conditions: Conditions,
    /// How many calls each has answered, for those that hang after some.
    pub answered: Arc<Answered>,
}

impl Faults {
    /// Decides what happens to `exchange`.
    ///
    /// The lock service is left alone here: being slow or hung is a state of its worker, which the pure
    /// `nlm` crate models, because a slow call must hold up the calls behind it.
    pub fn plan(&self, exchange: &Exchange) -> Plan {
        if exchange.direction == Direction::Callback || exchange.service == Service::Lockd {
            return Plan::Proceed;
        }
        match self.conditions.get(exchange.service) {
            Condition::HungAfter(calls) if !self.answered.one_more(exchange.service, calls) => Plan::Drop,
            Condition::Ok
            | Condition::Absent
            | Condition::Refused
            | Condition::HungAfter(_)
            | Condition::Failing
            | Condition::LyingPort(_) => Plan::Proceed,
            Condition::Slow(by) => Plan::Delay(by),
            Condition::Hung => Plan::Drop,
        }
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

    fn call(service: Service, program: u32) -> Exchange {
        let peer = SocketAddr::from(([10, 77, 0, 2], 700));
        Exchange {
            direction: Direction::Call,
            service,
            peer,
            program,
            version: 3,
            procedure: 1,
            xid: 1,
        }
    }

    #[test]
    fn a_condition_concerns_its_own_service_only() {
        let mut faults = Faults::default();
        faults
            .conditions
            .set(Service::Nfs, Condition::Slow(Duration::from_secs(2)));
        assert_eq!(
            faults.plan(&call(Service::Nfs, 100_003)),
            Plan::Delay(Duration::from_secs(2))
        );
        assert_eq!(faults.plan(&call(Service::Mount, 100_005)), Plan::Proceed);
        faults.conditions.set(Service::Nfs, Condition::Hung);
        assert_eq!(faults.plan(&call(Service::Nfs, 100_003)), Plan::Drop);
    }

    #[test]
    fn a_service_may_answer_some_calls_and_hang_then() {
        let mut faults = Faults::default();
        faults.conditions.set(Service::Mount, Condition::HungAfter(2));
        let plans = [(); 4].map(|()| faults.plan(&call(Service::Mount, 100_005)));
        assert_eq!(plans, [Plan::Proceed, Plan::Proceed, Plan::Drop, Plan::Drop]);
        assert!(faults.is_hung(Service::Mount) && !faults.is_hung(Service::Nfs));
        assert_eq!(faults.plan(&call(Service::Nfs, 100_003)), Plan::Proceed);
        faults.answered.restart(Service::Mount);
        assert_eq!(faults.plan(&call(Service::Mount, 100_005)), Plan::Proceed);
    }

    #[test]
    fn a_slow_lock_service_is_not_a_delayed_reply() {
        let mut faults = Faults::default();
        faults
            .conditions
            .set(Service::Lockd, Condition::Slow(Duration::from_secs(2)));
        assert_eq!(faults.plan(&call(Service::Lockd, 100_021)), Plan::Proceed);
    }
}
