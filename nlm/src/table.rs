//! The lock table: who holds which bytes of which file.
//!
//! These are POSIX locks (`fcntl`, IEEE Std 1003.1), which is what NLM carries, `flock` included: an
//! owner has at most one kind of lock on a byte; a new lock replaces what the owner had there, so it can
//! split, merge, upgrade and downgrade; owners stand in each other's way, never in their own.
//!
//! Three structures, because three questions must be answered in logarithmic time however many locks
//! and owners there are:
//!
//! - who *else* is in the way: one [`tree`] per file, by first byte, with the reach of its branches;
//! - what does *this owner* have here: its only lock, or an ordered set of them ([`owned`]);
//! - which file is it: a hash index over the handles ([`files`]).
//!
//! The table knows no time-outs, no waiting, no hosts and no policy. Owners are numbers here; what an
//! owner *is* differs between servers, see [`crate::personality::OwnerKey`]. Waiting is in
//! [`crate::waiters`].
//!
//! Invariants, checked by [`LockTable::check`] and by a property test against a model with one owner per
//! byte: two owners never have conflicting locks on a byte; an owner's ranges on a file are disjoint, and
//! those of the same kind do not touch; a file without locks takes no memory; the three structures agree.
//!
//! Memory: 24 bytes for a lock in its tree, divided by how full the leaves are, and 24 for its owner. Owner
//! numbers should be dense, as memory is taken for each of them up to the highest.

pub(crate) mod entry;
mod files;
mod owned;
pub(crate) mod tree;

pub use files::{FH_MAX, Fh, Handle};

use crate::Now;
use crate::arena::id;
use crate::range::{Kind, OFFSET_MAX, Range};
use entry::Entry;
pub(crate) use files::FileId;
use files::{File, Files};
use owned::Owned;
use std::fmt;
use std::ops::ControlFlow;
use std::str::FromStr;
use tree::{Forest, Put, Wanted};

id! {
    /// A lock owner, as a number. Whoever uses the table gives them out.
    pub struct OwnerId;
}

impl OwnerId {
    /// Owns nothing and never will: everyone's locks stand in its way.
    pub const NOBODY: OwnerId = OwnerId(u32::MAX);
}

impl From<u32> for OwnerId {
    fn from(number: u32) -> Self {
        OwnerId(number)
    }
}

/// A lock that is held, as the table shows it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    /// Who holds it.
    pub owner: OwnerId,
    /// Which bytes.
    pub range: Range,
    /// Alone or with others.
    pub kind: Kind,
    /// Since when. A lock that grew out of several has the time of the earliest.
    pub since: Now,
}

impl From<&Entry> for Lock {
    fn from(e: &Entry) -> Self {
        Lock {
            owner: e.owner(),
            range: e.range(),
            kind: e.kind(),
            since: e.since(),
        }
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} of {:?}", self.kind, self.range, self.owner)
    }
}

/// What an operation did to the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use]
pub struct Change {
    /// How many locks the owner has more or less than before.
    pub locks: isize,
    /// Whether others may now have what they could not have before.
    pub freed: bool,
}

/// Where a listing goes on.
///
/// As text it is `3.4096.17`: numbers for the file, and for the last lock of it that was shown its first byte
/// and its owner; only `3` if none of the file was shown. Nothing is promised about them but that the text that
/// came out can be put in again. Any other text of this form is harmless: the listing begins where such a
/// lock would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    file: FileId,
    /// The last lock of the file that was shown, if any was.
    after: Option<tree::Key>,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.after {
            None => write!(f, "{}", self.file.0),
            Some((start, owner)) => write!(f, "{}.{start}.{}", self.file.0, owner.0),
        }
    }
}

/// A text is no [`Cursor`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotACursor(String);

impl fmt::Display for NotACursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "'{}' is not a place in the lock table: expected the `next` of the page before, as in 3.4096.17",
            self.0.escape_default()
        )
    }
}

impl std::error::Error for NotACursor {}

impl FromStr for Cursor {
    type Err = NotACursor;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_cursor(text).ok_or_else(|| NotACursor(text.chars().take(64).collect()))
    }
}

fn parse_cursor(text: &str) -> Option<Cursor> {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let mut parts = text.split('.');
    let mut number = || parts.next().filter(|part| digits(part));
    let file = FileId(number()?.parse().ok()?);
    let after = match number() {
        None => None,
        Some(start) => {
            let start = start.parse().ok().filter(|start| *start <= OFFSET_MAX)?;
            Some((start, OwnerId(number()?.parse().ok()?)))
        }
    };
    let cursor = Cursor { file, after };
    // Nothing may follow, and no number has a second spelling.
    (cursor.to_string() == text).then_some(cursor)
}

/// The locks of all files.
pub struct LockTable {
    files: Files,
    forest: Forest,
    owned: Owned,
    len: usize,
    /// Memory that is used again by every operation.
    scratch: Vec<Entry>,
}

impl Default for LockTable {
    fn default() -> Self {
        Self::new()
    }
}

impl LockTable {
    /// An empty table.
    pub fn new() -> Self {
        LockTable {
            files: Files::new(),
            forest: Forest::new(),
            owned: Owned::default(),
            len: 0,
            scratch: Vec::new(),
        }
    }

    /// Number of locks held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is locked.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of files that have locks.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Whether there is any lock on the file.
    pub fn has_locks(&self, fh: Fh<'_>) -> bool {
        self.file(fh).is_some()
    }

    /// The file, if there is any lock on it.
    pub(crate) fn file(&self, fh: Fh<'_>) -> Option<FileId> {
        self.files.find(fh)
    }

    /// The first lock of another owner that stands in the way: the one that begins first.
    pub fn conflict(&self, fh: Fh<'_>, owner: OwnerId, range: Range, kind: Kind) -> Option<Lock> {
        self.first_conflict(self.files.find(fh)?, &Wanted { owner, range, kind })
    }

    fn first_conflict(&self, file: FileId, wanted: &Wanted) -> Option<Lock> {
        let stop = &mut |e: &Entry| ControlFlow::Break(Lock::from(e));
        match self.forest.conflicts(self.files.root(file)?, wanted, stop) {
            ControlFlow::Break(lock) => Some(lock),
            ControlFlow::Continue(()) => None,
        }
    }

    /// Shows all locks of others that stand in the way, until `see` says to stop.
    pub fn conflicts<B>(
        &self,
        fh: Fh<'_>,
        owner: OwnerId,
        range: Range,
        kind: Kind,
        mut see: impl FnMut(Lock) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let root = self.files.find(fh).and_then(|file| self.files.root(file));
        let Some(root) = root else {
            return ControlFlow::Continue(());
        };
        self.forest
            .conflicts(root, &Wanted { owner, range, kind }, &mut |e: &Entry| {
                see(e.into())
            })
    }

    /// Whether `holder` itself has a lock that would stand in the way of this one, were it another's.
    pub fn holds_against(&self, holder: OwnerId, fh: Fh<'_>, range: Range, kind: Kind) -> bool {
        self.held_against(holder, fh, range, kind).is_some()
    }

    /// The first lock of `holder` itself that would stand in the way of this one, were it another's.
    pub fn held_against(&self, holder: OwnerId, fh: Fh<'_>, range: Range, kind: Kind) -> Option<Lock> {
        let file = self.files.find(fh)?;
        self.own_from(file, holder, range.start())
            .take_while(|e| e.range().start() <= range.last())
            .find(|e| e.range().overlaps(range) && kind.conflicts(e.kind()))
            .map(|e| Lock::from(&e))
    }

    /// Takes the lock if nobody is in the way; otherwise says who is.
    pub fn lock(
        &mut self,
        fh: Fh<'_>,
        owner: OwnerId,
        range: Range,
        kind: Kind,
        now: Now,
    ) -> Result<Change, Lock> {
        let (file, entry) = (self.files.find(fh), Entry::new(owner, range, kind, now));
        let known = file.and_then(|file| Some((file, self.files.root(file)?)));
        if let Some((file, root)) = known
            // By far the most frequent case, and it needs one way down the tree.
            && self.owned.first(owner).is_none()
            && let Ok(put) = self.forest.insert_unless_conflict(root, entry)
        {
            self.added(file, put, &entry);
            return Ok(Change {
                locks: 1,
                freed: false,
            });
        }
        let wanted = Wanted { owner, range, kind };
        match file.and_then(|file| self.first_conflict(file, &wanted)) {
            Some(holder) => Err(holder),
            None => Ok(self.place(fh, file, entry)),
        }
    }

    /// Takes the lock without asking whether anybody is in the way: for a fault that grants twice.
    pub fn set(&mut self, fh: Fh<'_>, owner: OwnerId, range: Range, kind: Kind, now: Now) -> Change {
        self.place(fh, self.files.find(fh), Entry::new(owner, range, kind, now))
    }

    fn place(&mut self, fh: Fh<'_>, file: Option<FileId>, wanted: Entry) -> Change {
        let (owner, range, kind) = (wanted.owner(), wanted.range(), wanted.kind());
        let file = match file {
            // An owner that has nothing yet has nothing to join, to replace or to split.
            Some(file) if self.owned.first(owner).is_some() => file,
            file => {
                let file = file.unwrap_or_else(|| self.files.add(fh));
                self.add(file, wanted);
                return Change {
                    locks: 1,
                    freed: false,
                };
            }
        };
        let mut own = std::mem::take(&mut self.scratch);
        // From one byte before to one byte after, since a lock of the same kind that touches grows.
        let reaching = self.own_from(file, owner, range.start().saturating_sub(1));
        own.extend(reaching.take_while(|e| e.range().start() <= range.last() + 1));
        let before = self.len;
        let mut freed = false;
        if !own.iter().any(|e| e.kind() == kind && e.range().covers(range)) {
            let (mut grown, mut since) = (range, wanted.since());
            for old in &own {
                if old.kind() == kind {
                    self.take(file, owner, old.range().start());
                    grown = grown.span(old.range());
                    since = since.min(old.since());
                } else if old.range().overlaps(range) {
                    self.cut(file, owner, old.range().start(), range);
                    freed |= old.kind().is_exclusive();
                }
            }
            self.add(file, Entry::new(owner, grown, kind, since));
        }
        own.clear();
        self.scratch = own;
        Change {
            locks: self.len as isize - before as isize,
            freed,
        }
    }

    /// Takes `range` out of the lock that begins there; what lies on both sides of it stays.
    fn cut(&mut self, file: FileId, owner: OwnerId, start: u64, range: Range) {
        let Some(old) = self.take(file, owner, start) else {
            return;
        };
        if range.covers(old.range()) {
            return;
        }
        for rest in old.range().without(range).into_iter().flatten() {
            self.add(file, Entry::new(owner, rest, old.kind(), old.since()));
        }
    }

    fn add(&mut self, file: FileId, entry: Entry) {
        let put = match self.files.root(file) {
            Some(root) => self.forest.insert(root, entry),
            None => self.forest.plant(entry),
        };
        self.added(file, put, &entry);
    }

    fn added(&mut self, file: FileId, Put { root, leaf }: Put, entry: &Entry) {
        self.files.set_root(file, Some(root));
        self.owned.insert(entry.owner(), (file, entry.start()), leaf);
        self.len += 1;
    }

    /// Removes the lock that begins there. The file stays even if this was its last: see
    /// [`forget_if_unlocked`](Self::forget_if_unlocked).
    fn take(&mut self, file: FileId, owner: OwnerId, start: u64) -> Option<Entry> {
        let key = (start, owner);
        // An owner's only lock has a key that is unique in the whole forest.
        let leaf = self.owned.leaf_of_only(owner);
        let entry = match leaf.and_then(|leaf| self.forest.remove_from(leaf, key)) {
            Some(entry) => entry,
            None => {
                let (root, entry) = self.forest.remove(self.files.root(file)?, key);
                self.files.set_root(file, root);
                entry?
            }
        };
        self.owned.remove(owner, (file, start));
        self.len -= 1;
        Some(entry)
    }

    fn forget_if_unlocked(&mut self, file: FileId) {
        if self.files.root(file).is_none() {
            self.files.remove(file);
        }
    }

    fn entry(&self, file: FileId, owner: OwnerId, start: u64) -> Option<Entry> {
        self.forest.get(self.files.root(file)?, (start, owner))
    }

    /// An owner's locks on a file by first byte, beginning with the one that has `byte` or the first after it.
    fn own_from(&self, file: FileId, owner: OwnerId, byte: u64) -> impl Iterator<Item = Entry> {
        let before = self.owned.before(owner, (file, byte));
        let before = before.and_then(|start| self.entry(file, owner, start));
        let before = before.filter(|e| e.range().last() >= byte);
        let from = self.owned.from(owner, (file, byte));
        let from = from.filter_map(move |start| self.entry(file, owner, start));
        before.into_iter().chain(from)
    }

    /// Gives back what the owner has in the range; what it has beside it stays.
    pub fn unset(&mut self, fh: Fh<'_>, owner: OwnerId, range: Range) -> Change {
        match self.file(fh) {
            Some(file) => self.unset_at(file, owner, range),
            None => Change::default(),
        }
    }

    /// The same of a file that is known already.
    pub(crate) fn unset_at(&mut self, file: FileId, owner: OwnerId, range: Range) -> Change {
        let before = self.len;
        let freed = if self.owned.only(owner) == Some((file, range.start())) {
            // By far the most frequent case, and it needs one way down the tree.
            self.cut(file, owner, range.start(), range);
            true
        } else {
            self.cut_all(file, owner, range)
        };
        self.forget_if_unlocked(file);
        Change {
            locks: self.len as isize - before as isize,
            freed,
        }
    }

    /// Takes `range` out of all locks of the owner; says whether there was any.
    fn cut_all(&mut self, file: FileId, owner: OwnerId, range: Range) -> bool {
        let mut own = std::mem::take(&mut self.scratch);
        let reaching = self.own_from(file, owner, range.start());
        own.extend(reaching.take_while(|e| e.range().start() <= range.last()));
        let freed = !own.is_empty();
        for old in own.drain(..) {
            self.cut(file, owner, old.range().start(), range);
        }
        self.scratch = own;
        freed
    }

    /// Gives back everything the owner has, and shows each lock that goes.
    pub fn release_owner(&mut self, owner: OwnerId, mut gone: impl FnMut(Fh<'_>, Lock)) -> usize {
        let mut released = 0;
        while let Some((file, start)) = self.owned.first(owner) {
            let Some(entry) = self.take(file, owner, start) else {
                break;
            };
            if let Some(file) = self.files.get(file) {
                gone(file.handle.as_fh(), Lock::from(&entry));
            }
            self.forget_if_unlocked(file);
            released += 1;
        }
        released
    }

    /// The owner's locks on all files, file by file and by first byte.
    pub fn of_owner(&self, owner: OwnerId) -> impl Iterator<Item = (Handle, Lock)> {
        self.owned.all(owner).filter_map(move |(file, start)| {
            let entry = self.entry(file, owner, start)?;
            Some((self.files.get(file)?.handle, Lock::from(&entry)))
        })
    }

    /// Shows up to `limit` locks, file by file and by first byte, beginning after `after`; returns where
    /// to go on, or `None` at the end.
    ///
    /// The table may change between two pages: then a lock that came or went meanwhile may or may not be
    /// seen, and all others are seen once.
    pub fn page(
        &self,
        after: Option<Cursor>,
        limit: usize,
        mut see: impl FnMut(Fh<'_>, Lock),
    ) -> Option<Cursor> {
        let mut left = limit;
        for (id, file) in self.files.iter_from(after.map(|c| c.file)) {
            let mut last = after.filter(|c| c.file == id).and_then(|c| c.after);
            let flow = self.walk(file, last, &mut |e: &Entry| {
                let Some(fewer) = left.checked_sub(1) else {
                    return ControlFlow::Break(());
                };
                left = fewer;
                last = Some(e.key());
                see(file.handle.as_fh(), e.into());
                ControlFlow::Continue(())
            });
            if flow.is_break() {
                return Some(Cursor {
                    file: id,
                    after: last,
                });
            }
        }
        None
    }

    fn walk(
        &self,
        file: &File,
        after: Option<tree::Key>,
        see: &mut impl FnMut(&Entry) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        file.root.map_or(ControlFlow::Continue(()), |root| {
            self.forest.walk(root, after, see)
        })
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = LockTable::new();
    }

    /// Checks every invariant of the module head, in time proportional to the table.
    ///
    /// After a fault that granted a lock twice this reports the two locks, as it should.
    pub fn check(&self) -> Result<(), String> {
        let mut seen = 0;
        for (id, file) in self.files.iter_from(None) {
            let root = file
                .root
                .ok_or_else(|| format!("file {} has no locks", file.handle))?;
            seen += self.forest.check(root)?;
            self.check_file(id, file.handle, root)?;
        }
        let owned = self.owned.count();
        if seen != self.len || owned != self.len {
            return Err(format!("{} locks, {seen} in trees, {owned} owned", self.len));
        }
        if self.len == 0 && self.forest.nodes() > 0 {
            return Err("an empty table with nodes".to_owned());
        }
        Ok(())
    }

    fn check_file(&self, id: FileId, handle: Handle, root: tree::NodeId) -> Result<(), String> {
        let flow = self.forest.walk(root, None, &mut |e: &Entry| {
            if !self.owned.contains(e.owner(), (id, e.range().start())) {
                return ControlFlow::Break(format!("file {handle}: {e:?} is not among its owner's"));
            }
            let wanted = Wanted {
                owner: e.owner(),
                range: e.range(),
                kind: e.kind(),
            };
            if let Some(other) = self.first_conflict(id, &wanted) {
                return ControlFlow::Break(format!("file {handle}: {e:?} conflicts with {other:?}"));
            }
            let next = self
                .own_from(id, e.owner(), e.range().start() + 1)
                .find(|n| n.key() != e.key());
            match next {
                Some(n) if n.range().start() <= e.range().last() => {
                    ControlFlow::Break(format!("file {handle}: {e:?} overlaps {n:?} of the same owner"))
                }
                Some(n) if n.range().start() == e.range().last() + 1 && n.kind() == e.kind() => {
                    ControlFlow::Break(format!("file {handle}: {e:?} and {n:?} should be one"))
                }
                _ => ControlFlow::Continue(()),
            }
        });
        match flow {
            ControlFlow::Break(wrong) => Err(wrong),
            ControlFlow::Continue(()) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
