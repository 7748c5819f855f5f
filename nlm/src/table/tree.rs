//! The locks of one file, in a B+ tree that knows how far its branches reach.
//!
//! The question to answer is: does anyone *else* hold a lock that overlaps these bytes and conflicts
//! with that kind? Sorting by first byte is not enough, because a lock that begins far to the left may
//! reach over: with a million shared locks an ordinary tree has to look at all of them. So every branch
//! carries, for each of the two kinds, a [`Reach`]: how far to the right its locks extend, and how far
//! those of any *other* owner than the farthest one do. A branch that does not reach the range, or
//! reaches it only by the asker's own locks, is skipped whole.
//!
//! A B+ tree rather than a binary one, because the cost that matters is cache misses: a million locks
//! are four levels here. The branches hold the reach, so a lock itself costs 24 bytes.
//!
//! All trees of a table live in one [`Forest`]; a file knows only its root.
//!
//! Invariants, checked by [`Forest::check`]: entries are sorted by (first byte, owner), which is unique
//! because an owner's own ranges are disjoint; no node is empty; every branch's key and reach are
//! exactly those of what is below it; all leaves are at the same depth.
//!
//! The idea is the interval tree of Cormen, Leiserson, Rivest and Stein, *Introduction to Algorithms*,
//! section 14.3 in the third edition, on wide nodes and with owners.

use super::{OwnerId, entry::Entry};
use crate::arena::{Arena, id};
use crate::range::{Kind, Range};
use std::ops::ControlFlow;

/// Locks in a leaf.
const LEAF_CAP: usize = 32;
/// Branches in an inner node.
const INNER_CAP: usize = 24;
/// A node with fewer is joined with a neighbour if the two together leave room to grow.
const fn is_sparse(len: usize, cap: usize) -> bool {
    len < cap / 4
}
const fn may_join(both: usize, cap: usize) -> bool {
    both <= cap * 3 / 4
}

id! {
    /// A node of some tree of the forest.
    pub(crate) struct NodeId;
}

/// Where an entry stands in its file.
pub(crate) type Key = (u64, OwnerId);

enum Node {
    Leaf(Vec<Entry>),
    Inner(Vec<Branch>),
}

/// A child of an inner node, with what can be known without going there.
#[derive(Clone, Copy)]
struct Branch {
    /// The least key below.
    first: Key,
    node: NodeId,
    reach: Reaches,
}

/// How far to the right locks extend: the farthest, and the farthest of anyone else.
///
/// Ends are one past the last byte, so that 0 means "nothing".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reach {
    end: u64,
    owner: OwnerId,
    other_owner: OwnerId,
    other_end: u64,
}

impl Reach {
    const NOTHING: Reach = Reach {
        end: 0,
        owner: OwnerId::NOBODY,
        other_owner: OwnerId::NOBODY,
        other_end: 0,
    };

    fn add(&mut self, end: u64, owner: OwnerId) {
        if owner == self.owner {
            if end > self.end {
                self.end = end;
            }
        } else if end > self.end {
            (self.other_end, self.other_owner) = (self.end, self.owner);
            (self.end, self.owner) = (end, owner);
        } else if end > self.other_end {
            (self.other_end, self.other_owner) = (end, owner);
        }
    }

    /// Whether it might be less without a lock of this owner that ends here.
    fn rests_on(&self, end: u64, owner: OwnerId) -> bool {
        (self.end, self.owner) == (end, owner) || (self.other_end, self.other_owner) == (end, owner)
    }

    /// Whether a lock of another owner than `me` goes beyond the byte `start`, or up to it.
    fn by_another(&self, me: OwnerId, start: u64) -> bool {
        // The farthest first: nearly every branch that is looked at ends before.
        self.end > start && (self.owner != me || self.other_end > start)
    }
}

/// The reach of both kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reaches {
    exclusive: Reach,
    shared: Reach,
}

impl Reaches {
    const NOTHING: Reaches = Reaches {
        exclusive: Reach::NOTHING,
        shared: Reach::NOTHING,
    };

    fn add(&mut self, entry: &Entry) {
        let reach = if entry.kind().is_exclusive() {
            &mut self.exclusive
        } else {
            &mut self.shared
        };
        reach.add(entry.last() + 1, entry.owner());
    }

    fn rests_on(&self, entry: &Entry) -> bool {
        let kind = if entry.kind().is_exclusive() {
            &self.exclusive
        } else {
            &self.shared
        };
        kind.rests_on(entry.last() + 1, entry.owner())
    }

    fn add_all(&mut self, below: &Reaches) {
        for (mine, theirs) in [
            (&mut self.exclusive, below.exclusive),
            (&mut self.shared, below.shared),
        ] {
            for (end, owner) in [(theirs.end, theirs.owner), (theirs.other_end, theirs.other_owner)] {
                if end > 0 {
                    mine.add(end, owner);
                }
            }
        }
    }
}

/// What a conflict is looked for with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) owner: OwnerId,
    pub(crate) range: Range,
    pub(crate) kind: Kind,
}

impl Wanted {
    fn conflicts(&self, entry: &Entry) -> bool {
        // Most entries that are looked at end before; the range as a whole is nobody's question.
        entry.last() >= self.range.start()
            && entry.start() <= self.range.last()
            && entry.owner() != self.owner
            && self.kind.conflicts(entry.kind())
    }

    fn may_conflict(&self, below: &Reaches) -> bool {
        let start = self.range.start();
        below.exclusive.by_another(self.owner, start)
            || (self.kind.is_exclusive() && below.shared.by_another(self.owner, start))
    }
}

/// All the trees of a table.
pub(crate) struct Forest {
    nodes: Arena<NodeId, Node>,
    /// Small vectors of leaves that went away, for the next ones: a file that is locked and unlocked
    /// over and over then asks nothing of the allocator.
    spare: Vec<Vec<Entry>>,
}

const SPARE_LEAVES: usize = 64;

impl Forest {
    pub(crate) fn new() -> Self {
        Forest {
            nodes: Arena::new(),
            spare: Vec::new(),
        }
    }

    /// Starts a tree; returns its root.
    pub(crate) fn plant(&mut self, entry: Entry) -> NodeId {
        let mut leaf = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(1));
        leaf.push(entry);
        self.nodes.insert(Node::Leaf(leaf))
    }

    /// Adds an entry whose key is not there yet; returns the root, which may be a new one.
    pub(crate) fn insert(&mut self, root: NodeId, entry: Entry) -> NodeId {
        match self.insert_below(root, entry) {
            None => root,
            Some(right) => {
                let left = self.branch(root);
                self.nodes.insert(Node::Inner(vec![left, right]))
            }
        }
    }

    fn insert_below(&mut self, at: NodeId, entry: Entry) -> Option<Branch> {
        let (index, child) = match self.nodes.at_mut(at) {
            Node::Leaf(entries) => {
                let index = entries.partition_point(|e| e.key() < entry.key());
                let tail = insert_or_split(entries, index, entry, LEAF_CAP)?;
                return Some(self.add_node(Node::Leaf(tail)));
            }
            Node::Inner(branches) => {
                let index = branches
                    .partition_point(|b| b.first <= entry.key())
                    .saturating_sub(1);
                let branch = branches.get_mut(index)?;
                // Written only if it changes, which is seldom: a line that nobody writes stays with every processor.
                if entry.key() < branch.first {
                    branch.first = entry.key();
                }
                branch.reach.add(&entry);
                (index, branch.node)
            }
        };
        let right = self.insert_below(child, entry)?;
        let left = self.branch(child);
        let branches = self.branches_mut(at);
        if let Some(branch) = branches.get_mut(index) {
            *branch = left;
        }
        let tail = insert_or_split(branches, index + 1, right, INNER_CAP)?;
        Some(self.add_node(Node::Inner(tail)))
    }

    fn add_node(&mut self, node: Node) -> Branch {
        let id = self.nodes.insert(node);
        self.branch(id)
    }

    /// The branch that leads to `node`, computed from what is there.
    fn branch(&self, node: NodeId) -> Branch {
        let mut reach = Reaches::NOTHING;
        let first = match self.nodes.at(node) {
            Node::Leaf(entries) => {
                entries.iter().for_each(|e| reach.add(e));
                entries.first().map(Entry::key)
            }
            Node::Inner(branches) => {
                branches.iter().for_each(|b| reach.add_all(&b.reach));
                branches.first().map(|b| b.first)
            }
        };
        Branch {
            first: first.unwrap_or((0, OwnerId::NOBODY)),
            node,
            reach,
        }
    }

    /// The entry with this key.
    pub(crate) fn get(&self, root: NodeId, key: Key) -> Option<Entry> {
        let mut at = root;
        loop {
            match self.nodes.at(at) {
                Node::Leaf(entries) => {
                    let index = entries.partition_point(|e| e.key() < key);
                    return entries.get(index).filter(|e| e.key() == key).copied();
                }
                Node::Inner(branches) => {
                    let index = branches.partition_point(|b| b.first <= key).checked_sub(1)?;
                    at = branches.get(index)?.node;
                }
            }
        }
    }

    /// Takes the entry with this key out; returns the root, `None` when the tree is gone, and the entry.
    pub(crate) fn remove(&mut self, root: NodeId, key: Key) -> (Option<NodeId>, Option<Entry>) {
        let removed = self.remove_below(root, key);
        let root = match self.nodes.at(root) {
            Node::Inner(branches) => match branches.as_slice() {
                [only] => {
                    let child = only.node;
                    self.nodes.remove(root);
                    Some(child)
                }
                [] => self.fell(root),
                _ => Some(root),
            },
            Node::Leaf(entries) if entries.is_empty() => self.fell(root),
            Node::Leaf(_) => Some(root),
        };
        (root, removed)
    }

    fn fell(&mut self, node: NodeId) -> Option<NodeId> {
        if let Some(Node::Leaf(mut leaf)) = self.nodes.remove(node)
            && self.spare.len() < SPARE_LEAVES
            && leaf.capacity() <= LEAF_CAP
        {
            leaf.clear();
            self.spare.push(leaf);
        }
        None
    }

    fn remove_below(&mut self, at: NodeId, key: Key) -> Option<Entry> {
        let (index, child) = match self.nodes.at_mut(at) {
            Node::Leaf(entries) => {
                let index = entries.partition_point(|e| e.key() < key);
                return entries
                    .get(index)
                    .is_some_and(|e| e.key() == key)
                    .then(|| entries.remove(index));
            }
            Node::Inner(branches) => {
                let index = branches.partition_point(|b| b.first <= key).checked_sub(1)?;
                (index, branches.get(index)?.node)
            }
        };
        let removed = self.remove_below(child, key)?;
        self.mend(at, index, child, &removed);
        Some(removed)
    }

    /// After something was taken out below `child`: drops it, joins it with a neighbour, or brings its
    /// branch up to date, which most removals leave as it was.
    fn mend(&mut self, at: NodeId, index: usize, child: NodeId, removed: &Entry) {
        let (len, cap) = self.size(child);
        let Some(branch) = self.branches(at).get(index) else {
            return;
        };
        let outdated = branch.first == removed.key() || branch.reach.rests_on(removed);
        if len == 0 {
            self.branches_mut(at).remove(index);
            self.fell(child);
        } else if is_sparse(len, cap) && self.join_with_neighbour(at, index) {
            // The branch of what the two became is new.
        } else if outdated {
            let updated = self.branch(child);
            if let Some(branch) = self.branches_mut(at).get_mut(index) {
                *branch = updated;
            }
        }
    }

    fn branches(&self, at: NodeId) -> &[Branch] {
        match self.nodes.at(at) {
            Node::Inner(branches) => branches,
            Node::Leaf(_) => &[],
        }
    }

    fn branches_mut(&mut self, at: NodeId) -> &mut Vec<Branch> {
        match self.nodes.at_mut(at) {
            Node::Inner(branches) => branches,
            Node::Leaf(_) => unreachable!("a leaf has no branches"),
        }
    }

    /// Joins the branch at `index` with the one after or before it, if there is room.
    fn join_with_neighbour(&mut self, at: NodeId, index: usize) -> bool {
        let branches = self.branches(at);
        let pair = |left: usize| Some((left, branches.get(left)?.node, branches.get(left + 1)?.node));
        let pairs = [pair(index), index.checked_sub(1).and_then(pair)];
        for (left_index, left, right) in pairs.into_iter().flatten() {
            let (len, cap) = self.size(left);
            if may_join(len + self.size(right).0, cap) {
                self.join(at, left_index, left, right);
                return true;
            }
        }
        false
    }

    /// Number of things in a node, and how many there may be.
    fn size(&self, node: NodeId) -> (usize, usize) {
        match self.nodes.at(node) {
            Node::Leaf(entries) => (entries.len(), LEAF_CAP),
            Node::Inner(branches) => (branches.len(), INNER_CAP),
        }
    }

    /// Moves all of `right` to the end of `left`, its neighbour at `index` of `at`.
    fn join(&mut self, at: NodeId, index: usize, left: NodeId, right: NodeId) {
        let moved = self.nodes.remove(right);
        match (self.nodes.at_mut(left), moved) {
            (Node::Leaf(to), Some(Node::Leaf(from))) => to.extend(from),
            (Node::Inner(to), Some(Node::Inner(from))) => to.extend(from),
            _ => unreachable!("neighbours are at the same depth"),
        }
        let joined = self.branch(left);
        let branches = self.branches_mut(at);
        branches.remove(index + 1);
        if let Some(branch) = branches.get_mut(index) {
            *branch = joined;
        }
    }

    /// Shows every entry that conflicts, by first byte and then owner, until `see` says to stop.
    pub(crate) fn conflicts<B>(
        &self,
        root: NodeId,
        wanted: &Wanted,
        see: &mut impl FnMut(&Entry) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        match self.nodes.at(root) {
            Node::Leaf(entries) => {
                for entry in entries.iter().take_while(|e| e.start() <= wanted.range.last()) {
                    if wanted.conflicts(entry) {
                        see(entry)?;
                    }
                }
            }
            Node::Inner(branches) => {
                for branch in branches.iter().take_while(|b| b.first.0 <= wanted.range.last()) {
                    if wanted.may_conflict(&branch.reach) {
                        self.conflicts(branch.node, wanted, see)?;
                    }
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// Shows every entry after `after` in order, until `see` says to stop.
    pub(crate) fn walk<B>(
        &self,
        root: NodeId,
        after: Option<Key>,
        see: &mut impl FnMut(&Entry) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        match self.nodes.at(root) {
            Node::Leaf(entries) => {
                let from = after.map_or(0, |key| entries.partition_point(|e| e.key() <= key));
                entries.iter().skip(from).try_for_each(see)
            }
            Node::Inner(branches) => {
                let from = after.map_or(0, |key| {
                    branches.partition_point(|b| b.first <= key).saturating_sub(1)
                });
                branches
                    .iter()
                    .skip(from)
                    .try_for_each(|b| self.walk(b.node, after, see))
            }
        }
    }

    /// Checks the invariants of one tree; returns its number of entries.
    pub(crate) fn check(&self, root: NodeId) -> Result<usize, String> {
        let (mut entries, mut last) = (0, None);
        let flow = self.walk(root, None, &mut |entry: &Entry| {
            entries += 1;
            if last
                .replace(entry.key())
                .is_some_and(|before| before >= entry.key())
            {
                return ControlFlow::Break(format!("{entry:?} is out of order"));
            }
            ControlFlow::Continue(())
        });
        if let ControlFlow::Break(wrong) = flow {
            return Err(wrong);
        }
        self.check_below(root)?;
        Ok(entries)
    }

    fn check_below(&self, node: NodeId) -> Result<usize, String> {
        let branches = match self.nodes.at(node) {
            Node::Leaf(entries) if entries.is_empty() => return Err("an empty leaf".to_owned()),
            Node::Leaf(_) => return Ok(1),
            Node::Inner(branches) => branches,
        };
        let mut depth = None;
        for branch in branches {
            let real = self.branch(branch.node);
            // The owners of equal reaches may differ: which of them came first is not kept.
            let same = |a: Reach, b: Reach| a.end == b.end && a.other_end == b.other_end;
            let exact = same(real.reach.exclusive, branch.reach.exclusive)
                && same(real.reach.shared, branch.reach.shared);
            if real.first != branch.first || !exact {
                return Err(format!(
                    "a branch says {:?} {:?} and is {:?} {:?}",
                    branch.first, branch.reach, real.first, real.reach
                ));
            }
            let below = self.check_below(branch.node)?;
            if depth.replace(below).is_some_and(|d| d != below) {
                return Err("leaves at different depths".to_owned());
            }
        }
        depth
            .map(|d| d + 1)
            .ok_or_else(|| "an inner node without branches".to_owned())
    }

    /// Number of nodes of all trees.
    pub(crate) fn nodes(&self) -> usize {
        self.nodes.len()
    }
}

/// Inserts at `index`; if there is no room, the upper part is split off and returned. Something added
/// at the very end begins a new node, so that ranges taken in ascending order leave full nodes behind.
fn insert_or_split<T>(items: &mut Vec<T>, index: usize, item: T, cap: usize) -> Option<Vec<T>> {
    if items.len() < cap {
        if items.len() == items.capacity() {
            items.reserve_exact((items.len()).clamp(1, cap - items.len()));
        }
        items.insert(index, item);
        return None;
    }
    if index == items.len() {
        return Some(vec![item]);
    }
    let mut tail = items.split_off(cap / 2);
    match index.checked_sub(items.len()) {
        Some(index) => tail.insert(index, item),
        None => items.insert(index, item),
    }
    Some(tail)
}
