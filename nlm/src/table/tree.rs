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
//! exactly those of what is below it; nothing is wider than its row's bound; all leaves are at the same depth.
//!
//! A node also knows a bound on how wide its things are ([`Row::widest`]), so that it need not be looked at thing by
//! thing: whatever begins farther to the left of a range than the widest is wide cannot reach it. Where all locks are
//! short, as most are, a binary search and a step to either side find all.
//!
//! The idea is the interval tree of Cormen, Leiserson, Rivest and Stein, *Introduction to Algorithms*,
//! section 14.3 in the third edition, on wide nodes and with owners.

use super::{OwnerId, entry::Entry};
use crate::arena::{Arena, id};
use crate::range::{Kind, Range};
use std::ops::{self, ControlFlow};

/// Locks in a leaf.
const LEAF_CAP: usize = 64;
/// Branches in an inner node.
const INNER_CAP: usize = 64;
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

/// A key as one number of the same order, which is compared without a branch that no processor foresees.
fn rank((start, owner): Key) -> u128 {
    u128::from(start) << 32 | u128::from(owner.0)
}

enum Node {
    Leaf(Row<Entry>),
    Inner(Row<Branch>),
}

/// What stands in a node, in order.
struct Row<T> {
    items: Vec<T>,
    /// No item reaches farther beyond its first byte. It is not made less when something is taken out, only when the row
    /// is split or joined.
    widest: u64,
}

/// Something that stands in a row.
trait Item {
    fn first(&self) -> u64;
    /// How far it reaches beyond its first byte.
    fn width(&self) -> u64;
}

impl Item for Entry {
    fn first(&self) -> u64 {
        self.start()
    }

    fn width(&self) -> u64 {
        self.last() - self.start()
    }
}

impl Item for Branch {
    fn first(&self) -> u64 {
        self.first.0
    }

    fn width(&self) -> u64 {
        let end = self.reach.exclusive.end.max(self.reach.shared.end);
        end.saturating_sub(self.first.0)
    }
}

impl<T: Item> Row<T> {
    fn of(items: Vec<T>) -> Self {
        let widest = items.iter().map(T::width).max().unwrap_or_default();
        Row { items, widest }
    }

    /// An item is as wide as this now.
    fn grew(&mut self, width: u64) {
        self.widest = self.widest.max(width);
    }

    /// Those that may overlap a range, and perhaps some that do not.
    fn near(&self, range: Range) -> &[T] {
        let index = self.items.partition_point(|item| item.first() < range.start());
        self.items.get(self.around(index, range)).unwrap_or_default()
    }

    /// Where those stand, if the range's own place is at `index`. One by one is looked at, since few are near.
    fn around(&self, index: usize, range: Range) -> ops::Range<usize> {
        let least = range.start().saturating_sub(self.widest);
        let (before, after) = self.items.split_at_checked(index).unwrap_or_default();
        let is_left = |item: &&T| item.first() >= least;
        let is_right = |item: &&T| item.first() <= range.last();
        index - before.iter().rev().take_while(is_left).count()
            ..index + after.iter().take_while(is_right).count()
    }

    fn check(&self) -> Result<(), String> {
        match self.items.iter().map(T::width).max() {
            Some(width) if width > self.widest => {
                Err(format!("an item is {width} wide, its row says {}", self.widest))
            }
            _ => Ok(()),
        }
    }

    /// Puts all of another row, whose place is behind this one, at the end.
    fn join(&mut self, other: Row<T>) {
        let mut items = std::mem::take(&mut self.items);
        items.extend(other.items);
        *self = Row::of(items);
    }

    /// Inserts at `index`; if there is no room, the upper part is split off and returned. Something added
    /// at the very end begins a new row, so that ranges taken in ascending order leave full ones behind.
    fn insert_or_split(&mut self, index: usize, item: T, cap: usize) -> Option<Row<T>> {
        let items = &mut self.items;
        if items.len() < cap {
            if items.len() == items.capacity() {
                items.reserve_exact((items.len()).clamp(1, cap - items.len()));
            }
            self.widest = self.widest.max(item.width());
            items.insert(index, item);
            return None;
        }
        if index == items.len() {
            return Some(Row::of(vec![item]));
        }
        let mut tail = items.split_off(cap / 2);
        match index.checked_sub(items.len()) {
            Some(index) => tail.insert(index, item),
            None => items.insert(index, item),
        }
        *self = Row::of(std::mem::take(items));
        Some(Row::of(tail))
    }
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

/// Something conflicts with what was to be inserted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InTheWay;

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
        self.nodes.insert(Node::Leaf(Row::of(leaf)))
    }

    /// Adds an entry whose key is not there yet; returns the root, which may be a new one.
    pub(crate) fn insert(&mut self, root: NodeId, entry: Entry) -> NodeId {
        let inserted = self.insert_below(root, entry, None);
        self.grown(root, inserted.unwrap_or_default())
    }

    /// The same, unless something conflicts with it.
    pub(crate) fn insert_unless_conflict(&mut self, root: NodeId, entry: Entry) -> Result<NodeId, InTheWay> {
        let wanted = Wanted {
            owner: entry.owner(),
            range: entry.range(),
            kind: entry.kind(),
        };
        let split_off = self.insert_below(root, entry, Some(&wanted))?;
        Ok(self.grown(root, split_off))
    }

    /// The root, after something was inserted and perhaps a part was split off.
    fn grown(&mut self, root: NodeId, split_off: Option<NodeId>) -> NodeId {
        let Some(right) = split_off else {
            return root;
        };
        let (left, right) = (self.branch(root), self.branch(right));
        self.nodes.insert(Node::Inner(Row::of(vec![left, right])))
    }

    /// Inserts below a node, unless something there conflicts with what is wanted, if that is to be looked for: on the one
    /// way down. What was split off.
    fn insert_below(
        &mut self,
        at: NodeId,
        entry: Entry,
        wanted: Option<&Wanted>,
    ) -> Result<Option<NodeId>, InTheWay> {
        let place = rank(entry.key());
        let (index, child) = match self.nodes.at_mut(at) {
            Node::Leaf(entries) => {
                let index = entries.items.partition_point(|e| rank(e.key()) < place);
                if let Some(wanted) = wanted {
                    let near = entries.items.get(entries.around(index, wanted.range));
                    if near.unwrap_or_default().iter().any(|e| wanted.conflicts(e)) {
                        return Err(InTheWay);
                    }
                }
                let tail = entries.insert_or_split(index, entry, LEAF_CAP);
                return Ok(tail.map(|tail| self.nodes.insert(Node::Leaf(tail))));
            }
            Node::Inner(branches) => {
                let after = branches.items.partition_point(|b| rank(b.first) <= place);
                let index = after.saturating_sub(1);
                let Some(child) = branches.items.get(index).map(|branch| branch.node) else {
                    return Ok(None);
                };
                (index, child)
            }
        };
        if let Some(wanted) = wanted
            && self.conflicts_beside(at, index, wanted)
        {
            return Err(InTheWay);
        }
        let split_off = self.insert_below(child, entry, wanted)?;
        let Some(right) = split_off else {
            let branches = self.branches_mut(at);
            if let Some(branch) = branches.items.get_mut(index) {
                branch.first = branch.first.min(entry.key());
                branch.reach.add(&entry);
                let width = branch.width();
                branches.grew(width);
            }
            return Ok(None);
        };
        let (left, right) = (self.branch(child), self.branch(right));
        let branches = self.branches_mut(at);
        if let Some(branch) = branches.items.get_mut(index) {
            *branch = left;
        }
        let tail = branches.insert_or_split(index + 1, right, INNER_CAP);
        Ok(tail.map(|tail| self.nodes.insert(Node::Inner(tail))))
    }

    /// Whether there is a conflict below a branch of `at` other than that at `index`.
    fn conflicts_beside(&self, at: NodeId, index: usize, wanted: &Wanted) -> bool {
        let Node::Inner(branches) = self.nodes.at(at) else {
            return false;
        };
        let mut beside = branches
            .around(index, wanted.range)
            .filter(|other| *other != index);
        beside.any(|other| {
            let branch = branches.items.get(other);
            branch.is_some_and(|branch| {
                wanted.may_conflict(&branch.reach)
                    && self
                        .conflicts(branch.node, wanted, &mut |_| ControlFlow::Break(()))
                        .is_break()
            })
        })
    }

    /// The branch that leads to `node`, computed from what is there.
    fn branch(&self, node: NodeId) -> Branch {
        let mut reach = Reaches::NOTHING;
        match self.nodes.at(node) {
            Node::Leaf(entries) => entries.items.iter().for_each(|e| reach.add(e)),
            Node::Inner(branches) => branches.items.iter().for_each(|b| reach.add_all(&b.reach)),
        }
        Branch {
            first: self.first_key(node),
            node,
            reach,
        }
    }

    /// The least key below `node`.
    fn first_key(&self, node: NodeId) -> Key {
        let first = match self.nodes.at(node) {
            Node::Leaf(entries) => entries.items.first().map(Entry::key),
            Node::Inner(branches) => branches.items.first().map(|b| b.first),
        };
        first.unwrap_or((0, OwnerId::NOBODY))
    }

    /// The entry with this key.
    pub(crate) fn get(&self, root: NodeId, key: Key) -> Option<Entry> {
        let mut at = root;
        loop {
            match self.nodes.at(at) {
                Node::Leaf(entries) => {
                    let index = entries.items.partition_point(|e| rank(e.key()) < rank(key));
                    return entries.items.get(index).filter(|e| e.key() == key).copied();
                }
                Node::Inner(branches) => {
                    let index = branches
                        .items
                        .partition_point(|b| rank(b.first) <= rank(key))
                        .checked_sub(1)?;
                    at = branches.items.get(index)?.node;
                }
            }
        }
    }

    /// Takes the entry with this key out; returns the root, `None` when the tree is gone, and the entry.
    pub(crate) fn remove(&mut self, root: NodeId, key: Key) -> (Option<NodeId>, Option<Entry>) {
        let removed = self.remove_below(root, key);
        let root = match self.nodes.at(root) {
            Node::Inner(branches) => match branches.items.as_slice() {
                [only] => {
                    let child = only.node;
                    self.nodes.remove(root);
                    Some(child)
                }
                [] => self.fell(root),
                _ => Some(root),
            },
            Node::Leaf(entries) if entries.items.is_empty() => self.fell(root),
            Node::Leaf(_) => Some(root),
        };
        (root, removed)
    }

    fn fell(&mut self, node: NodeId) -> Option<NodeId> {
        if let Some(Node::Leaf(Row { items: mut leaf, .. })) = self.nodes.remove(node)
            && self.spare.len() < SPARE_LEAVES
            && leaf.capacity() <= LEAF_CAP
        {
            leaf.clear();
            self.spare.push(leaf);
        }
        None
    }

    fn remove_below(&mut self, at: NodeId, key: Key) -> Option<Entry> {
        let place = rank(key);
        let (index, child) = match self.nodes.at_mut(at) {
            Node::Leaf(entries) => {
                let entries = &mut entries.items;
                let index = entries.partition_point(|e| rank(e.key()) < place);
                return entries
                    .get(index)
                    .is_some_and(|e| e.key() == key)
                    .then(|| entries.remove(index));
            }
            Node::Inner(branches) => {
                let branches = &branches.items;
                let after = branches.partition_point(|b| rank(b.first) <= place);
                let index = after.checked_sub(1)?;
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
        let was_first = branch.first == removed.key();
        let may_reach_less = branch.reach.rests_on(removed);
        if len == 0 {
            self.branches_mut(at).items.remove(index);
            self.fell(child);
        } else if is_sparse(len, cap) && self.join_with_neighbour(at, index) {
            // The branch of what the two became is new.
        } else if may_reach_less {
            let updated = self.branch(child);
            self.update(at, index, |branch| *branch = updated);
        } else if was_first {
            let first = self.first_key(child);
            self.update(at, index, |branch| branch.first = first);
        }
    }

    /// Changes one of the branches of `at`, which becomes no wider.
    fn update(&mut self, at: NodeId, index: usize, change: impl FnOnce(&mut Branch)) {
        if let Some(branch) = self.branches_mut(at).items.get_mut(index) {
            change(branch);
        }
    }

    fn branches(&self, at: NodeId) -> &[Branch] {
        match self.nodes.at(at) {
            Node::Inner(branches) => &branches.items,
            Node::Leaf(_) => &[],
        }
    }

    fn branches_mut(&mut self, at: NodeId) -> &mut Row<Branch> {
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
            Node::Leaf(entries) => (entries.items.len(), LEAF_CAP),
            Node::Inner(branches) => (branches.items.len(), INNER_CAP),
        }
    }

    /// Moves all of `right` to the end of `left`, its neighbour at `index` of `at`.
    fn join(&mut self, at: NodeId, index: usize, left: NodeId, right: NodeId) {
        let moved = self.nodes.remove(right);
        match (self.nodes.at_mut(left), moved) {
            (Node::Leaf(to), Some(Node::Leaf(from))) => to.join(from),
            (Node::Inner(to), Some(Node::Inner(from))) => to.join(from),
            _ => unreachable!("neighbours are at the same depth"),
        }
        let joined = self.branch(left);
        let branches = self.branches_mut(at);
        branches.items.remove(index + 1);
        branches.grew(joined.width());
        if let Some(branch) = branches.items.get_mut(index) {
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
                for entry in entries.near(wanted.range) {
                    if wanted.conflicts(entry) {
                        see(entry)?;
                    }
                }
            }
            Node::Inner(branches) => {
                for branch in branches.near(wanted.range) {
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
                let entries = &entries.items;
                let from = after.map_or(0, |key| entries.partition_point(|e| rank(e.key()) <= rank(key)));
                entries.iter().skip(from).try_for_each(see)
            }
            Node::Inner(branches) => {
                let branches = &branches.items;
                let from = after.map_or(0, |key| {
                    branches
                        .partition_point(|b| rank(b.first) <= rank(key))
                        .saturating_sub(1)
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
            Node::Leaf(entries) if entries.items.is_empty() => return Err("an empty leaf".to_owned()),
            Node::Leaf(entries) => return entries.check().map(|()| 1),
            Node::Inner(branches) => branches,
        };
        branches.check()?;
        let mut depth = None;
        for branch in &branches.items {
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
