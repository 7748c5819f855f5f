//! Strongly connected components of a directed graph: the nodes that can all reach each other.

/// Finds the component of every node, as a number, in time linear in nodes and edges (Tarjan 1972). Without
/// recursion, as a chain of waiting owners may be a hundred thousand long. `edges` has the successors of
/// each node; those that are no nodes are ignored.
pub(crate) fn components(edges: &[Vec<usize>]) -> Vec<usize> {
    let mut search = Search {
        nodes: vec![Node::default(); edges.len()],
        open: Vec::new(),
        way: Vec::new(),
        seen: 0,
        components: 0,
    };
    for start in 0..edges.len() {
        if search.node(start).is_some_and(|node| node.index.is_none()) {
            search.run(start, edges);
        }
    }
    let component = |node: &Node| node.component.unwrap_or_default();
    search.nodes.iter().map(component).collect()
}

#[derive(Debug, Clone, Copy, Default)]
struct Node {
    /// The how-manieth it was to be seen.
    index: Option<usize>,
    /// The first node that can be reached from here and is open.
    low: usize,
    component: Option<usize>,
}

struct Search {
    nodes: Vec<Node>,
    /// Seen, and not yet in a component.
    open: Vec<usize>,
    /// From the start to where we are, with the edge of each node that is next.
    way: Vec<(usize, usize)>,
    seen: usize,
    components: usize,
}

impl Search {
    fn node(&self, node: usize) -> Option<Node> {
        self.nodes.get(node).copied()
    }

    fn enter(&mut self, at: usize) {
        if let Some(node) = self.nodes.get_mut(at) {
            (node.index, node.low) = (Some(self.seen), self.seen);
            self.seen += 1;
            self.open.push(at);
            self.way.push((at, 0));
        }
    }

    fn lower(&mut self, node: usize, to: usize) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.low = node.low.min(to);
        }
    }

    fn run(&mut self, start: usize, edges: &[Vec<usize>]) {
        self.enter(start);
        while let Some((at, turn)) = self.way.last_mut() {
            let at = *at;
            if let Some(to) = edges.get(at).and_then(|to| to.get(*turn)).copied() {
                *turn += 1;
                match self.node(to) {
                    Some(Node { index: None, .. }) => self.enter(to),
                    Some(Node {
                        index: Some(index),
                        component: None,
                        ..
                    }) => self.lower(at, index),
                    _ => {}
                }
            } else {
                self.leave(at);
            }
        }
    }

    fn leave(&mut self, at: usize) {
        self.way.pop();
        let Some(node) = self.node(at) else { return };
        if let Some((before, _)) = self.way.last().copied() {
            self.lower(before, node.low);
        }
        if node.index != Some(node.low) {
            return;
        }
        while let Some(member) = self.open.pop() {
            if let Some(node) = self.nodes.get_mut(member) {
                node.component = Some(self.components);
            }
            if member == at {
                break;
            }
        }
        self.components += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_ring_is_one_component_and_a_chain_is_many() {
        let nodes = 100_000;
        let mut edges: Vec<Vec<usize>> = (0..nodes).map(|n| vec![n + 1]).collect();
        let mut chain = components(&edges);
        chain.sort_unstable();
        assert_eq!(chain, (0..nodes).collect::<Vec<_>>());
        edges[nodes - 1] = vec![0];
        assert_eq!(components(&edges), vec![0; nodes]);
        assert!(components(&[]).is_empty());
    }

    proptest! {
        /// Two nodes are in one component if and only if each can be reached from the other.
        #[test]
        fn who_reaches_whom_says_the_same(edges in prop::collection::vec(prop::collection::vec(0..9_usize, 0..4), 0..9)) {
            let n = edges.len();
            let mut reach = vec![vec![false; n]; n];
            for (from, reached) in reach.iter_mut().enumerate() {
                let mut todo = vec![from];
                while let Some(at) = todo.pop() {
                    if !std::mem::replace(&mut reached[at], true) {
                        todo.extend(edges[at].iter().filter(|to| **to < n));
                    }
                }
            }
            let found = components(&edges);
            for a in 0..n {
                for b in 0..n {
                    prop_assert_eq!(found[a] == found[b], reach[a][b] && reach[b][a]);
                }
            }
        }
    }
}
