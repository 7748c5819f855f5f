//! Figures for Prometheus, `GET /metrics` of the control API.
//!
//! A call costs one addition to a counter of its thread that is there from the start ([`Calls`]); names and labels are put
//! to the counters when somebody asks ([`text`]). That is why there are three counters for two figures: a call that is
//! answered at once, which is nearly every one, is counted as both by a single addition.

use crate::lanes::Lanes;
use crate::server::Node;
use faults::Service;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use proto::mount::{MountProc, MountProc1};
use proto::nfs3::Nfs3Proc;
use proto::nlm::NlmProc;
use proto::nsm::SmProc;
use proto::portmap::PmapProc;
use proto::rpcbind::RpcbProc;
use rpc::msg::CallHeader;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// The content type of [`text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Procedures of a program that are counted one by one. The last place is for calls to any other, and to programs and
/// versions that the service does not have; those below it that have no name are shown with it.
const PLACES: usize = 32;
const OTHER: usize = PLACES - 1;

/// A program whose procedures have names of their own.
struct Program {
    service: Service,
    versions: &'static [u32],
    name: fn(u32) -> Option<&'static str>,
}

const PROGRAMS: [Program; 7] = [
    Program {
        service: Service::Portmap,
        versions: &[proto::portmap::V2],
        name: |procedure| PmapProc(procedure).name(),
    },
    Program {
        service: Service::Portmap,
        versions: &[proto::rpcbind::V3, proto::rpcbind::V4],
        name: |procedure| RpcbProc(procedure).name(),
    },
    Program {
        service: Service::Mount,
        versions: &[proto::mount::V3],
        name: |procedure| MountProc(procedure).name(),
    },
    Program {
        service: Service::Mount,
        versions: &[proto::mount::V1, proto::mount::V2],
        name: |procedure| MountProc1(procedure).name(),
    },
    Program {
        service: Service::Nfs,
        versions: &[proto::nfs3::V3],
        name: |procedure| Nfs3Proc(procedure).name(),
    },
    Program {
        service: Service::Lockd,
        versions: &[proto::nlm::V1, proto::nlm::V3, proto::nlm::V4],
        name: |procedure| NlmProc(procedure).name(),
    },
    Program {
        service: Service::Statd,
        versions: &[proto::nsm::V1],
        name: |procedure| SmProc(procedure).name(),
    },
];

/// Where a call is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    program: usize,
    place: usize,
}

impl Slot {
    /// That of a call to `service`.
    pub fn of(service: Service, header: &CallHeader<'_>) -> Slot {
        Self::new(service, header.version, header.procedure)
    }

    /// That of a procedure.
    pub fn new(service: Service, version: u32, procedure: u32) -> Slot {
        let is_it = |program: &Program| program.service == service && program.versions.contains(&version);
        match PROGRAMS.iter().position(is_it) {
            Some(program) => Slot {
                program,
                place: (procedure as usize).min(OTHER),
            },
            None => Slot {
                program: PROGRAMS
                    .iter()
                    .position(|program| program.service == service)
                    .unwrap_or_default(),
                place: OTHER,
            },
        }
    }
}

#[derive(Debug, Default)]
struct Count {
    /// Calls whose reply was there when the handler returned.
    at_once: AtomicU64,
    /// Those whose reply was not.
    put_off: AtomicU64,
    /// Replies to those that were put off.
    later: AtomicU64,
}

/// Counters of every procedure.
type Counts = [[Count; PLACES]; PROGRAMS.len()];

fn at(counts: &Counts, slot: Slot) -> Option<&Count> {
    counts.get(slot.program)?.get(slot.place)
}

/// How many calls came, how many were answered, and who is connected.
#[derive(Debug, Default)]
pub struct Calls {
    lanes: Lanes<Counts>,
    /// TCP connections, in the order of [`Service::ALL`].
    connections: [AtomicU64; Service::ALL.len()],
}

impl Calls {
    /// A figure of a procedure, or of all others of its program.
    fn sum(&self, slot: Slot, figure: fn(&Count) -> u64) -> u64 {
        self.lanes.sum(|counts| at(counts, slot).map_or(0, figure))
    }

    /// A call came and was answered at once, or else (`false`) was not.
    pub fn came(&self, slot: Slot, answered: bool) {
        self.lanes.add_one(|counts| {
            let count = at(counts, slot)?;
            Some(if answered { &count.at_once } else { &count.put_off })
        });
    }

    /// A call that was not answered at once is answered now.
    pub fn answered_later(&self, slot: Slot) {
        self.lanes.add_one(|counts| Some(&at(counts, slot)?.later));
    }

    fn connections(&self, service: Service) -> Option<&AtomicU64> {
        let all = Service::ALL.into_iter().zip(&self.connections);
        all.into_iter()
            .find_map(|(s, open)| (s == service).then_some(open))
    }

    /// A connection to a service came about.
    pub fn connected(&self, service: Service) {
        if let Some(open) = self.connections(service) {
            open.fetch_add(1, Relaxed);
        }
    }

    /// And it ended.
    pub fn disconnected(&self, service: Service) {
        if let Some(open) = self.connections(service) {
            open.fetch_sub(1, Relaxed);
        }
    }
}

type Labels = Vec<(&'static str, String)>;

fn labels<const N: usize>(of: [(&'static str, &str); N]) -> Labels {
    of.map(|(name, value)| (name, value.to_owned())).into()
}

/// The figures under one name, in the order in which they are to stand.
#[derive(Debug)]
struct Figures {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    figures: Vec<(Labels, u64)>,
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let mut all = encoder.encode_descriptor(self.name, self.help, None, self.kind)?;
        for (labels, figure) in &self.figures {
            let one = all.encode_family(labels)?;
            match self.kind {
                MetricType::Counter => ConstCounter::new(*figure).encode(one)?,
                _ => ConstGauge::new(i64::try_from(*figure).unwrap_or(i64::MAX)).encode(one)?,
            }
        }
        Ok(())
    }
}

struct Page(Registry);

impl Page {
    fn counters(&mut self, name: &'static str, help: &'static str, figures: Vec<(Labels, u64)>) {
        self.add(name, help, MetricType::Counter, figures);
    }

    fn gauges(
        &mut self,
        name: &'static str,
        help: &'static str,
        figures: impl IntoIterator<Item = (Labels, u64)>,
    ) {
        self.add(name, help, MetricType::Gauge, figures.into_iter().collect());
    }

    fn add(&mut self, name: &'static str, help: &'static str, kind: MetricType, figures: Vec<(Labels, u64)>) {
        let figures = Figures {
            name,
            help,
            kind,
            figures,
        };
        self.0.register_collector(Box::new(figures));
    }

    /// One without labels.
    fn counter(&mut self, name: &str, help: &str, figure: u64) {
        self.0.register(name, help, ConstCounter::new(figure));
    }
}

/// Every figure of a server, in the text format of OpenMetrics.
///
/// # Errors
/// None that is known: the text is written into memory.
pub fn text(node: &Node) -> Result<String, std::fmt::Error> {
    let mut page = Page(Registry::with_prefix("nfslab"));
    let calls = &node.calls;
    page.counters(
        "calls",
        "Calls that arrived",
        calls.each(|count| count.at_once.load(Relaxed) + count.put_off.load(Relaxed)),
    );
    page.counters(
        "replies",
        "Calls that were answered",
        calls.each(|count| count.at_once.load(Relaxed) + count.later.load(Relaxed)),
    );
    let connections = Service::ALL.into_iter().zip(&calls.connections);
    page.gauges(
        "connections",
        "TCP connections that are open",
        connections.map(|(service, open)| (labels([("service", service.name())]), open.load(Relaxed))),
    );
    let (held, waiting) = node.lock_counts();
    let locks = [("held", held), ("waiting", waiting)];
    page.gauges(
        "locks",
        "Locks that are held, and requests that wait",
        locks.map(|(state, number)| (labels([("state", state)]), number as u64)),
    );
    let peers = node.peers();
    let by = |word: &str| peers.iter().filter(|peer| peer.monitored == word).count() as u64;
    page.gauges(
        "peers",
        "Hosts that the lock service knows, by who monitors them: statd, nobody although the lock service believes so, or no",
        ["statd", "nobody", "no"].map(|word| (labels([("monitored", word)]), by(word))),
    );
    let conditions = node.services().into_iter().map(|view| {
        let word = view.condition.split_whitespace().next().unwrap_or_default();
        (labels([("service", &view.service), ("condition", word)]), 1)
    });
    page.gauges(
        "service_condition",
        "How each service is: 1 for the condition that it has",
        conditions,
    );
    let events = node.events.figures();
    page.counter("events", "Events that were logged", events.logged);
    page.counter(
        "events_dropped",
        "Events that are no longer kept for those who ask later",
        events.dropped,
    );
    page.counter(
        "calls_unlogged",
        "Calls that came too fast to be logged one by one",
        events.unlogged,
    );
    let clock = ConstGauge::new(node.clock.now().as_secs_f64());
    let help = "Time since the start, plus what the clock was advanced by";
    page.0.register_with_unit("clock", help, Unit::Seconds, clock);
    let mut text = String::new();
    encode(&mut text, &page.0)?;
    Ok(text)
}

impl Calls {
    /// A figure of every procedure that has a name, and of the others of each service.
    fn each(&self, figure: fn(&Count) -> u64) -> Vec<(Labels, u64)> {
        let mut all = Vec::new();
        for service in Service::ALL {
            let mut others = 0;
            let mut add = |procedure, figure| {
                all.push((
                    labels([("service", service.name()), ("procedure", procedure)]),
                    figure,
                ));
            };
            for (number, program) in PROGRAMS.iter().enumerate().filter(|(_, p)| p.service == service) {
                for procedure in 0..PLACES as u32 {
                    let slot = Slot {
                        program: number,
                        place: procedure as usize,
                    };
                    match (program.name)(procedure) {
                        Some(name) => add(name, self.sum(slot, figure)),
                        None => others += self.sum(slot, figure),
                    }
                }
            }
            add("other", others);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_procedure_has_a_place_and_a_name_of_its_own() {
        let calls = Calls::default();
        let mut expected = 0;
        for program in &PROGRAMS {
            let procedures = (0..1000).filter(|procedure| (program.name)(*procedure).is_some());
            for procedure in procedures {
                let slot = Slot::new(program.service, program.versions[0], procedure);
                assert!(
                    slot.place < OTHER,
                    "{}: {procedure} is counted as other",
                    program.service
                );
                calls.came(slot, true);
                expected += 1;
            }
        }
        for service in Service::ALL {
            // A version that there is not, and a procedure: both are none.
            calls.came(Slot::new(service, 77, 0), true);
            calls.came(Slot::new(service, 3, u32::MAX), false);
            expected += 1;
        }
        let all = calls.each(|count| count.at_once.load(Relaxed));
        assert!(all.iter().all(|(_, figure)| *figure == 1), "{all:?}");
        assert_eq!(all.len(), expected);
        let names: std::collections::BTreeSet<_> = all.iter().map(|(labels, _)| labels).collect();
        assert_eq!(names.len(), expected, "a name stands twice");
    }
}
