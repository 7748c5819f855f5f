//! The wait-for graph: who waits for whom, and where that goes round in a circle.
//!
//! Nodes are owners; an owner has an edge to each owner that holds against what it waits for and, if the queue is
//! fair, to each owner whose request it is behind. A *cycle* here is a strongly connected component of at least two
//! owners: every one of them waits for every other, directly or not, and unless one gives up or is refused they all
//! wait for ever. With deadlock detection on there is rarely one: it takes an owner that waits for several
//! things at once, or a limit to the search ([`deadlock_hops`](crate::personality::Personality::deadlock_hops)).
//!
//! Components are found in time linear in the graph (Tarjan's algorithm). The graph itself is kept small: only
//! owners that wait can be part of a cycle, and requests for the same bytes of the same file have one common node
//! between them and the holders. That node adds no way from one owner to another, but for the way back to the
//! asker itself, which is why a component of one owner is no cycle.

use super::LockService;
use crate::components::components;
use crate::deadlock;
use crate::limits;
use crate::range::{Kind, Range};
use crate::service::{HolderView, LockView};
use crate::table::{Handle, Lock, OwnerId};
use crate::waiters::{BlockId, Want};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Part of the wait-for graph: the cycles, and then those who merely wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitFor {
    /// How many requests wait.
    pub waiting: usize,
    /// How many cycles there are.
    pub cycles: usize,
    /// Who waits for whom: cycle by cycle, then the rest in the order in which the requests came. Each
    /// request has at most [`limits::HOLDERS_SHOWN`] edges outside its cycle.
    pub edges: Vec<WaitEdge>,
    /// Whether there are more edges than were asked for.
    pub more: bool,
    /// Whether the search for cycles was given up at [`limits::GRAPH_STEPS`], so that there may be more of them.
    pub gave_up: bool,
}

/// That one owner waits for another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitEdge {
    /// The request that waits.
    pub id: BlockId,
    /// The lock it wants; `since` is when it began to wait.
    pub wants: LockView,
    /// Who is in its way.
    pub waits_for: HolderView,
    /// Of which cycle this is a part, counted from 0.
    pub cycle: Option<usize>,
}

/// A node: an owner that waits, or a place that several of them want.
type Node = usize;

/// The part of the graph in which cycles can be.
struct Graph {
    /// The owners that wait, in order: nodes 0 and following.
    owners: Vec<OwnerId>,
    edges: Vec<Vec<Node>>,
    /// The requests, in the order in which they came: owner, place, and behind whom they are in the queue.
    requests: BTreeMap<BlockId, (Node, Node, Vec<BlockId>)>,
    /// Steps that are left.
    left: usize,
}

impl LockService {
    /// Who waits for whom, with at most `limit` edges.
    pub fn wait_for(&self, limit: usize) -> WaitFor {
        let graph = self.graph();
        let component = components(&graph.edges);
        let mut sizes: BTreeMap<usize, usize> = BTreeMap::new();
        for component in component.iter().take(graph.owners.len()) {
            *sizes.entry(*component).or_default() += 1;
        }
        // Cycles are numbered in the order in which their first request came.
        let mut numbers: BTreeMap<usize, usize> = BTreeMap::new();
        let component_of = |node: Node| component.get(node).copied().unwrap_or_default();
        for (owner, ..) in graph.requests.values() {
            let (component, next) = (component_of(*owner), numbers.len());
            if sizes.get(&component).is_some_and(|owners| *owners > 1) {
                numbers.entry(component).or_insert(next);
            }
        }
        let cycle_of = |node: Node| numbers.get(&component_of(node)).copied();
        let mut out = WaitFor {
            waiting: graph.requests.len(),
            cycles: numbers.len(),
            edges: Vec::new(),
            more: false,
            gave_up: graph.left == 0,
        };
        let mut in_cycles: Vec<(usize, BlockId)> = graph
            .requests
            .iter()
            .filter_map(|(id, (owner, ..))| Some((cycle_of(*owner)?, *id)))
            .collect();
        in_cycles.sort_unstable();
        for (cycle, id) in in_cycles {
            let Some((_, place, queue)) = graph.requests.get(&id) else {
                continue;
            };
            let holders = graph.edges.get(*place).into_iter().flatten();
            for holder in holders.filter(|holder| cycle_of(**holder) == Some(cycle)) {
                let holder = graph.owners.get(*holder).copied();
                let view = holder.and_then(|holder| self.holds(id, holder));
                out.add(limit, self.edge(id, view, Some(cycle)));
            }
            for ahead in queue {
                let of = graph.requests.get(ahead).and_then(|(owner, ..)| cycle_of(*owner));
                if of == Some(cycle) {
                    out.add(limit, self.edge(id, self.queued(*ahead), Some(cycle)));
                }
            }
        }
        for (id, (owner, ..)) in &graph.requests {
            if out.more {
                break;
            }
            let inside = cycle_of(*owner);
            for (other, view) in self.blockers(*id) {
                let other = graph.owners.binary_search(&other).ok().and_then(cycle_of);
                if inside.is_none() || other != inside {
                    out.add(limit, self.edge(*id, Some(view), None));
                }
            }
        }
        out
    }

    fn edge(&self, id: BlockId, waits_for: Option<HolderView>, cycle: Option<usize>) -> Option<WaitEdge> {
        let block = self.waiters.get(id)?;
        Some(WaitEdge {
            id,
            wants: self.wanted(block),
            waits_for: waits_for?,
            cycle,
        })
    }

    /// What this owner holds against a request; nothing, if it is the owner of that.
    fn holds(&self, id: BlockId, holder: OwnerId) -> Option<HolderView> {
        let want = &self.waiters.get(id)?.want;
        let other = want.owner != holder;
        let lock = other.then(|| self.held_against(holder, want))??;
        Some(HolderView {
            who: self.who(holder),
            range: lock.range,
            kind: lock.kind,
            queued: None,
        })
    }

    fn held_against(&self, holder: OwnerId, want: &Want) -> Option<Lock> {
        self.table
            .held_against(holder, want.fh.as_fh(), want.range, want.kind)
    }

    fn queued(&self, ahead: BlockId) -> Option<HolderView> {
        let want = &self.waiters.get(ahead)?.want;
        Some(HolderView {
            who: self.who(want.owner),
            range: want.range,
            kind: want.kind,
            queued: Some(ahead),
        })
    }

    /// Who is in the way of a request, a few of them.
    fn blockers(&self, id: BlockId) -> Vec<(OwnerId, HolderView)> {
        let Some(want) = self.waiters.get(id).map(|block| block.want) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        let mut see = |lock: Lock| {
            let view = HolderView {
                who: self.who(lock.owner),
                range: lock.range,
                kind: lock.kind,
                queued: None,
            };
            found.push((lock.owner, view));
            match found.len() < limits::HOLDERS_SHOWN {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        };
        let _ = self
            .table
            .conflicts(want.fh.as_fh(), want.owner, want.range, want.kind, &mut see);
        if found.is_empty()
            && let Some(ahead) = self.is_behind(&want, Some(id))
            && let (Some(block), Some(view)) = (self.waiters.get(ahead), self.queued(ahead))
        {
            found.push((block.want.owner, view));
        }
        found
    }

    fn graph(&self) -> Graph {
        let owners: Vec<OwnerId> = self.waiters.waiting_owners().collect();
        let mut graph = Graph {
            edges: vec![Vec::new(); owners.len()],
            owners,
            requests: BTreeMap::new(),
            left: limits::GRAPH_STEPS,
        };
        let mut places: BTreeMap<(Handle, Range, Kind), Node> = BTreeMap::new();
        // Those of the file that were seen before, and the exclusive ones among them.
        let (mut file, mut all, mut exclusive) = (None, Vec::new(), Vec::new());
        for (id, want) in self.waiters.waiting() {
            if file.replace(want.fh) != Some(want.fh) {
                all.clear();
                exclusive.clear();
            }
            let Ok(owner) = graph.owners.binary_search(&want.owner) else {
                continue;
            };
            let place = *places
                .entry((want.fh, want.range, want.kind))
                .or_insert_with(|| self.add_place(&mut graph, want));
            let earlier = if want.kind.is_exclusive() {
                &all
            } else {
                &exclusive
            };
            let queue = self.queue_of(&mut graph, want, earlier);
            let ahead = queue.iter().filter_map(|id| graph.requests.get(id));
            let ahead: Vec<Node> = ahead.map(|(owner, ..)| *owner).collect();
            if let Some(edges) = graph.edges.get_mut(owner) {
                edges.push(place);
                edges.extend(ahead);
            }
            graph.requests.insert(id, (owner, place, queue));
            all.push((id, *want));
            if want.kind.is_exclusive() {
                exclusive.push((id, *want));
            }
        }
        graph
    }

    /// A node for what is wanted, with edges to the waiting owners that hold against it. As in the search for
    /// deadlocks, the shorter list is gone through: the holders, or those who wait.
    fn add_place(&self, graph: &mut Graph, want: &Want) -> Node {
        let mut holders = Vec::new();
        let most = graph.owners.len().min(graph.left);
        let (mut steps, nobody) = (0, OwnerId::NOBODY);
        let flow = self
            .table
            .conflicts(want.fh.as_fh(), nobody, want.range, want.kind, |lock| {
                if steps == most {
                    return ControlFlow::Break(());
                }
                steps += 1;
                holders.extend(graph.owners.binary_search(&lock.owner));
                ControlFlow::Continue(())
            });
        if flow.is_break() {
            holders.clear();
            for (node, owner) in graph.owners.iter().enumerate().take(graph.left) {
                steps += 1;
                if self.held_against(*owner, want).is_some() {
                    holders.push(node);
                }
            }
        }
        graph.left = graph.left.saturating_sub(steps);
        holders.dedup();
        graph.edges.push(holders);
        graph.edges.len() - 1
    }

    /// Behind whom a request is, the latest first. It ends with one that is behind all before it itself.
    fn queue_of(&self, graph: &mut Graph, want: &Want, earlier: &[(BlockId, Want)]) -> Vec<BlockId> {
        let mut queue = Vec::new();
        if !self.is_fair() {
            return queue;
        }
        for (id, other) in earlier.iter().rev() {
            graph.left = graph.left.saturating_sub(1);
            if graph.left == 0 {
                break;
            }
            if !deadlock::is_queued_behind(&self.table, want, other) {
                continue;
            }
            queue.push(*id);
            let holds_nothing = self.owners.owner(other.owner).locks == 0;
            if holds_nothing && other.kind.is_exclusive() && other.range.covers(want.range) {
                break;
            }
        }
        queue
    }
}

impl WaitFor {
    fn add(&mut self, limit: usize, edge: Option<WaitEdge>) {
        match edge {
            Some(_) if self.edges.len() >= limit => self.more = true,
            Some(edge) => self.edges.push(edge),
            None => {}
        }
    }
}
