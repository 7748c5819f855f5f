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
//! because an owner's own ranges are disjoint; no node is empty; every branch's reach is exactly that of what is below it,
//! and its key parts that from what is before; nothing hangs over the next thing in its node by more than the node says; all
//! leaves are at the same depth.
//!
//! A node also knows a bound on how far its things hang over what begins after them ([`Row::overhang`]), so that it need
//! not be looked at thing by thing: where nothing does, as mostly, only the last that begins before a range can reach it.
//!
//! The idea is the interval tree of Cormen, Leiserson, Rivest and Stein, *Introduction to Algorithms*,
//! section 14.3 in the third edition, on wide nodes and with owners.

use super::{OwnerId, entry::Entry};
use crate::arena::{Arena, id};
use crate::range::{Kind, Range};
use std::hint;
use std::ops::{self, ControlFlow};

/// Locks in a leaf.
const LEAF_CAP: usize = 64;
/// Branches in an inner node.
const INNER_CAP: usize = 64;
/// A node with fewer is joined with a neighbour if the two together leave room to grow.
const fn is_sparse(len: usize, cap: usize) -> bool {
    len < cap / 8
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
    /// No item has more bytes from the first byte of the next one on. It is not made less when something is taken out,
    /// only when the row is split or joined.
    overhang: u64,
}

/// Something that stands in a row.
trait Item {
    /// Its first byte and owner, by which the items of a row are in order.
    fn key(&self) -> Key;
    fn first(&self) -> u64;
    /// One past the last byte to which it reaches.
    fn end(&self) -> u64;
}

impl Item for Entry {
    fn key(&self) -> Key {
        self.key()
    }

    fn first(&self) -> u64 {
        self.start()
    }

    fn end(&self) -> u64 {
        self.last() + 1
    }
}

impl Item for Branch {
    fn key(&self) -> Key {
        (self.first_start, self.first_owner)
    }

    fn first(&self) -> u64 {
        self.first_start
    }

    fn end(&self) -> u64 {
        self.reach.exclusive.end.max(self.reach.shared.end)
    }
}

impl Row<Branch> {
    /// An entry was inserted below the branch at `index`.
    fn grow(&mut self, index: usize, entry: &Entry) {
        if let Some(branch) = self.items.get_mut(index) {
            branch.add(entry);
            self.look_behind(index);
        }
    }
}

impl<T: Item> Row<T> {
    fn of(items: Vec<T>) -> Self {
        let overhang = overhang(&items);
        Row { items, overhang }
    }

    /// The item at `index` reaches farther than before.
    fn look_behind(&mut self, index: usize) {
        if let Some([item, next, ..]) = self.items.get(index..) {
            self.overhang = self.overhang.max(item.end().saturating_sub(next.first()));
        }
    }

    /// How many begin before a byte.
    fn find(&self, start: u64) -> usize {
        // As `partition_point` does it, in which the compiler makes branches that no processor foresees.
        let begins_before = |place: usize| self.items.get(place).is_some_and(|item| item.first() < start);
        let (mut base, mut size) = (0, self.items.len());
        while size > 1 {
            let half = size / 2;
            base = hint::select_unpredictable(begins_before(base + half), base + half, base);
            size -= half;
        }
        base + usize::from(begins_before(base))
    }

    /// How many are before a key.
    fn before(&self, key: Key) -> usize {
        let index = self.find(key.0);
        let rest = self.items.get(index..).unwrap_or_default();
        match rest.first() {
            // More than one begins there: shared locks, or something wide and what is in it.
            Some(next) if next.first() == key.0 && rank(next.key()) < rank(key) => {
                index + rest.partition_point(|item| rank(item.key()) < rank(key))
            }
            _ => index,
        }
    }

    /// How many are before a key or have it.
    fn up_to(&self, key: Key) -> usize {
        let before = self.before(key);
        before + usize::from(self.items.get(before).is_some_and(|item| item.key() == key))
    }

    /// Those that may overlap a range, and perhaps some that do not.
    fn near(&self, range: Range) -> &[T] {
        let near = self.around(self.find(range.start()), range);
        self.items.get(near).unwrap_or_default()
    }

    /// Where those stand, if so many begin before the range. One by one is looked at, since few are near.
    fn around(&self, begin_before: usize, range: Range) -> ops::Range<usize> {
        let (mut from, mut to) = (begin_before.saturating_sub(1), begin_before);
        // Whether what stands before it may reach the range.
        let may_be_hung_over = |item: &T| item.first().saturating_add(self.overhang) > range.start();
        while from > 0 && self.items.get(from).is_some_and(may_be_hung_over) {
            from -= 1;
        }
        while self
            .items
            .get(to)
            .is_some_and(|item| item.first() <= range.last())
        {
            to += 1;
        }
        from..to
    }

    fn check(&self) -> Result<(), String> {
        match overhang(&self.items) {
            overhang if overhang > self.overhang => Err(format!(
                "an item hangs over by {overhang}, its row says {}",
                self.overhang
            )),
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
            items.insert(index, item);
            self.look_behind(index);
            if let Some(before) = index.checked_sub(1) {
                self.look_behind(before);
            }
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

/// The most bytes that an item has from the first byte of the next one on.
fn overhang<T: Item>(items: &[T]) -> u64 {
    let over = |(item, next): (&T, &T)| item.end().saturating_sub(next.first());
    items
        .iter()
        .zip(items.iter().skip(1))
        .map(over)
        .max()
        .unwrap_or_default()
}

/// A child of an inner node, with what can be known without going there. A line of the processor's cache.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Branch {
    /// A key beyond all before it and none below, in two parts, since a tuple of them would be as long as three.
    first_start: u64,
    first_owner: OwnerId,
    node: NodeId,
    reach: Reaches,
}

impl Branch {
    /// Whether it says the same with this entry below it as without.
    fn is_same_with(&self, entry: &Entry) -> bool {
        rank(self.key()) <= rank(entry.key()) && !self.reach.is_more_with(entry)
    }

    fn add(&mut self, entry: &Entry) {
        (self.first_start, self.first_owner) = self.key().min(entry.key());
        self.reach.add(entry);
    }
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

    /// Whether it would be more with a lock of this owner that ends here.
    fn is_more_with(&self, end: u64, owner: OwnerId) -> bool {
        end > if owner == self.owner {
            self.end
        } else {
            self.other_end
        }
    }

    fn is_of(&self, owner: OwnerId) -> bool {
        self.owner == owner || self.other_owner == owner
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

    fn of(&self, kind: Kind) -> &Reach {
        if kind.is_exclusive() {
            &self.exclusive
        } else {
            &self.shared
        }
    }

    fn add(&mut self, entry: &Entry) {
        let reach = if entry.kind().is_exclusive() {
            &mut self.exclusive
        } else {
            &mut self.shared
        };
        reach.add(entry.last() + 1, entry.owner());
    }

    fn is_more_with(&self, entry: &Entry) -> bool {
        self.of(entry.kind())
            .is_more_with(entry.last() + 1, entry.owner())
    }

    fn rests_on(&self, entry: &Entry) -> bool {
        self.of(entry.kind()).rests_on(entry.last() + 1, entry.owner())
    }

    fn is_of(&self, owner: OwnerId) -> bool {
        self.exclusive.is_of(owner) || self.shared.is_of(owner)
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

/// Where an entry was put.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Put {
    /// The root of its tree, which may be a new one.
    pub(crate) root: NodeId,
    /// Its leaf, unless that was split.
    pub(crate) leaf: NodeId,
}

/// A branch on the way from a root to a leaf.
struct Step {
    node: NodeId,
    /// Which of the node's branches.
    index: usize,
    child: NodeId,
    /// Whether it says the same with what is put below it.
    is_same: bool,
}

/// All the trees of a table.
pub(crate) struct Forest {
    nodes: Arena<NodeId, Node>,
    /// Small vectors of leaves that went away, for the next ones: a file that is locked and unlocked
    /// over and over then asks nothing of the allocator.
    spare: Vec<Vec<Entry>>,
    /// Memory that is used again by every insertion.
    way: Vec<Step>,
}

const SPARE_LEAVES: usize = 64;

impl Forest {
    pub(crate) fn new() -> Self {
        Forest {
            nodes: Arena::new(),
            spare: Vec::new(),
            way: Vec::new(),
        }
    }

    /// Starts a tree.
    pub(crate) fn plant(&mut self, entry: Entry) -> Put {
        let mut leaf = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(1));
        leaf.push(entry);
        let root = self.nodes.insert(Node::Leaf(Row::of(leaf)));
        Put { root, leaf: root }
    }

    /// Adds an entry whose key is not there yet.
    pub(crate) fn insert(&mut self, root: NodeId, entry: Entry) -> Put {
        match self.put(root, entry, None) {
            Ok(put) => put,
            Err(InTheWay) => unreachable!("nothing was looked for"),
        }
    }

    /// The same, unless something conflicts with it.
    pub(crate) fn insert_unless_conflict(&mut self, root: NodeId, entry: Entry) -> Result<Put, InTheWay> {
        let wanted = Wanted {
            owner: entry.owner(),
            range: entry.range(),
            kind: entry.kind(),
        };
        self.put(root, entry, Some(&wanted))
    }

    fn put(&mut self, root: NodeId, entry: Entry, wanted: Option<&Wanted>) -> Result<Put, InTheWay> {
        let mut way = std::mem::take(&mut self.way);
        way.clear();
        let put = match self.find_way(root, &entry, wanted, &mut way) {
            Ok(leaf) => self.put_in_leaf(leaf, entry, wanted).map(|split_off| Put {
                root: self.go_back(root, &entry, split_off, &mut way),
                leaf,
            }),
            Err(InTheWay) => Err(InTheWay),
        };
        self.way = way;
        put
    }

    /// The leaf for an entry, unless something beside the way there conflicts with what is wanted.
    fn find_way(
        &self,
        root: NodeId,
        entry: &Entry,
        wanted: Option<&Wanted>,
        way: &mut Vec<Step>,
    ) -> Result<NodeId, InTheWay> {
        let mut node = root;
        while let Node::Inner(branches) = self.nodes.at(node) {
            let index = branches.up_to(entry.key()).saturating_sub(1);
            if wanted.is_some_and(|wanted| self.conflicts_beside(branches, index, wanted)) {
                return Err(InTheWay);
            }
            let Some(branch) = branches.items.get(index) else {
                unreachable!("an inner node has branches");
            };
            way.push(Step {
                node,
                index,
                child: branch.node,
                is_same: branch.is_same_with(entry),
            });
            node = branch.node;
        }
        Ok(node)
    }

    /// What was split off, if there was no room.
    fn put_in_leaf(
        &mut self,
        leaf: NodeId,
        entry: Entry,
        wanted: Option<&Wanted>,
    ) -> Result<Option<NodeId>, InTheWay> {
        let Node::Leaf(entries) = self.nodes.at_mut(leaf) else {
            unreachable!("the way ends at a leaf");
        };
        let index = entries.before(entry.key());
        if let Some(wanted) = wanted {
            let near = entries.items.get(entries.around(index, wanted.range));
            if near.is_some_and(|near| near.iter().any(|e| wanted.conflicts(e))) {
                return Err(InTheWay);
            }
        }
        let tail = entries.insert_or_split(index, entry, LEAF_CAP);
        Ok(tail.map(|tail| self.nodes.insert(Node::Leaf(tail))))
    }

    /// Brings the branches up to date through which an entry was put; the root then.
    fn go_back(
        &mut self,
        root: NodeId,
        entry: &Entry,
        mut split_off: Option<NodeId>,
        way: &mut Vec<Step>,
    ) -> NodeId {
        while let Some(step) = way.pop() {
            if let Some(right) = split_off {
                let (left, right) = (self.branch(step.child), self.branch(right));
                let branches = self.branches_mut(step.node);
                if let Some(branch) = branches.items.get_mut(step.index) {
                    *branch = left;
                }
                let tail = branches.insert_or_split(step.index + 1, right, INNER_CAP);
                split_off = tail.map(|tail| self.nodes.insert(Node::Inner(tail)));
            } else if !step.is_same {
                self.branches_mut(step.node).grow(step.index, entry);
            }
        }
        let Some(right) = split_off else {
            return root;
        };
        let (left, right) = (self.branch(root), self.branch(right));
        self.nodes.insert(Node::Inner(Row::of(vec![left, right])))
    }

    /// Whether there is a conflict below a branch other than that at `index`.
    fn conflicts_beside(&self, branches: &Row<Branch>, index: usize, wanted: &Wanted) -> bool {
        let around = branches.around(index + 1, wanted.range);
        around.len() > 1
            && around.filter(|other| *other != index).any(|other| {
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
        let (first_start, first_owner) = self.first_key(node);
        Branch {
            first_start,
            first_owner,
            node,
            reach,
        }
    }

    /// A key than which none below `node` is less.
    fn first_key(&self, node: NodeId) -> Key {
        let first = match self.nodes.at(node) {
            Node::Leaf(entries) => entries.items.first().map(Entry::key),
            Node::Inner(branches) => branches.items.first().map(Branch::key),
        };
        first.unwrap_or((0, OwnerId::NOBODY))
    }

    /// The entry with this key.
    pub(crate) fn get(&self, root: NodeId, key: Key) -> Option<Entry> {
        let mut at = root;
        loop {
            match self.nodes.at(at) {
                Node::Leaf(entries) => {
                    let entry = entries.items.get(entries.before(key));
                    return entry.filter(|e| e.key() == key).copied();
                }
                Node::Inner(branches) => {
                    let index = branches.up_to(key).checked_sub(1)?;
                    at = branches.items.get(index)?.node;
                }
            }
        }
    }

    /// Takes the entry with this key out of the leaf where it was put, if it is still there and nothing above changes by
    /// that, as mostly.
    ///
    /// The leaf may be gone, or another tree's by now: its key must be of one entry in all trees.
    pub(crate) fn remove_from(&mut self, leaf: NodeId, key: Key) -> Option<Entry> {
        let Node::Leaf(row) = self.nodes.get_mut(leaf)? else {
            return None;
        };
        let index = row.before(key);
        let entry = *row.items.get(index).filter(|entry| entry.key() == key)?;
        let [.., a, b] = row.items.as_slice() else {
            return None;
        };
        // Two others reach farther than it.
        let is_hidden = a.owner() != b.owner()
            && [a, b]
                .iter()
                .all(|other| other.kind() == entry.kind() && other.last() > entry.last());
        let may_go = is_hidden && !is_sparse(row.items.len() - 1, LEAF_CAP);
        may_go.then(|| row.items.remove(index))
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
        let (index, child, may_reach_less) = match self.nodes.at_mut(at) {
            Node::Leaf(entries) => {
                let index = entries.before(key);
                let entries = &mut entries.items;
                return entries
                    .get(index)
                    .is_some_and(|e| e.key() == key)
                    .then(|| entries.remove(index));
            }
            Node::Inner(branches) => {
                let index = branches.up_to(key).checked_sub(1)?;
                let branch = branches.items.get(index)?;
                (index, branch.node, branch.reach.is_of(key.1))
            }
        };
        let removed = self.remove_below(child, key)?;
        let (len, cap) = self.size(child);
        if may_reach_less || is_sparse(len, cap) {
            self.mend(at, index, child, (len, cap), &removed);
        }
        Some(removed)
    }

    /// After something was taken out below `child`: drops it, joins it with a neighbour, or brings its
    /// branch up to date.
    fn mend(&mut self, at: NodeId, index: usize, child: NodeId, (len, cap): (usize, usize), removed: &Entry) {
        let Some(branch) = self.branches(at).get(index) else {
            return;
        };
        let may_reach_less = branch.reach.rests_on(removed);
        if len == 0 {
            self.branches_mut(at).items.remove(index);
            self.fell(child);
        } else if is_sparse(len, cap) && self.join_with_neighbour(at, index) {
            // The branch of what the two became is new.
        } else if may_reach_less {
            let updated = self.branch(child);
            if let Some(branch) = self.branches_mut(at).items.get_mut(index) {
                *branch = updated;
            }
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
                let from = after.map_or(0, |key| entries.up_to(key));
                entries.items.iter().skip(from).try_for_each(see)
            }
            Node::Inner(branches) => {
                let from = after.map_or(0, |key| branches.up_to(key).saturating_sub(1));
                branches
                    .items
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

    fn last_key(&self, node: NodeId) -> Option<Key> {
        match self.nodes.at(node) {
            Node::Leaf(entries) => entries.items.last().map(Entry::key),
            Node::Inner(branches) => self.last_key(branches.items.last()?.node),
        }
    }

    fn check_below(&self, node: NodeId) -> Result<usize, String> {
        let branches = match self.nodes.at(node) {
            Node::Leaf(entries) if entries.items.is_empty() => return Err("an empty leaf".to_owned()),
            Node::Leaf(entries) => return entries.check().map(|()| 1),
            Node::Inner(branches) => branches,
        };
        branches.check()?;
        let (mut depth, mut last) = (None, None);
        for branch in &branches.items {
            let real = self.branch(branch.node);
            // The owners of equal reaches may differ: which of them came first is not kept.
            let same = |a: Reach, b: Reach| a.end == b.end && a.other_end == b.other_end;
            let exact = same(real.reach.exclusive, branch.reach.exclusive)
                && same(real.reach.shared, branch.reach.shared);
            if real.key() < branch.key() || last.is_some_and(|last| last >= branch.key()) || !exact {
                return Err(format!(
                    "a branch after {last:?} says {:?} {:?} and is {:?} {:?}",
                    branch.key(),
                    branch.reach,
                    real.key(),
                    real.reach
                ));
            }
            last = self.last_key(branch.node);
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
