//! A directory's entries: found by name, listed by cookie.
//!
//! Every entry gets the next number of its directory as its cookie and keeps it until its name is gone. A
//! listing goes on behind a cookie, so whatever happens to other entries, one that stays is given exactly once
//! (RFC 1813, section 3.3.16, leaves this to the server; clients with long listings need it). A RENAME onto an
//! existing name keeps that name's cookie, because to a reader that entry stayed.

use super::inode::Inode;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

/// Cookie of ".".
pub(super) const DOT: u64 = 1;
/// Cookie of "..".
pub(super) const DOT_DOT: u64 = 2;
const FIRST: u64 = 3;

/// What an entry counts besides its name, in bytes: about what it takes in memory.
const ENTRY_COST: u64 = 64;

/// What an entry of this name counts.
pub(super) fn entry_cost(name: &[u8]) -> u64 {
    ENTRY_COST + name.len() as u64
}

/// One entry.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its name.
    pub(super) name: Arc<[u8]>,
    /// Its file.
    pub(super) inode: Arc<Inode>,
}

/// All entries but "." and "..".
#[derive(Debug)]
pub(super) struct Directory {
    names: HashMap<Arc<[u8]>, u64>,
    entries: BTreeMap<u64, Entry>,
    next: u64,
}

impl Directory {
    /// Without entries.
    pub(super) fn new() -> Directory {
        Directory {
            names: HashMap::new(),
            entries: BTreeMap::new(),
            next: FIRST,
        }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The file of this name.
    pub(super) fn get(&self, name: &[u8]) -> Option<&Arc<Inode>> {
        let cookie = self.names.get(name)?;
        self.entries.get(cookie).map(|entry| &entry.inode)
    }

    /// Gives a name to a file. An entry that has the name already is replaced, and its file returned.
    pub(super) fn set(&mut self, name: Arc<[u8]>, inode: Arc<Inode>) -> Option<Arc<Inode>> {
        if let Some(entry) = self
            .names
            .get(&name)
            .and_then(|cookie| self.entries.get_mut(cookie))
        {
            return Some(std::mem::replace(&mut entry.inode, inode));
        }
        self.names.insert(name.clone(), self.next);
        self.entries.insert(self.next, Entry { name, inode });
        self.next += 1;
        None
    }

    /// Takes a name away.
    pub(super) fn remove(&mut self, name: &[u8]) -> Option<Entry> {
        let cookie = self.names.remove(name)?;
        self.entries.remove(&cookie)
    }

    /// Whether this directory has ever given out `cookie`.
    pub(super) fn has_issued(&self, cookie: u64) -> bool {
        cookie < self.next
    }

    /// The entries behind a cookie, which need not exist any more.
    pub(super) fn after(&self, cookie: u64) -> impl Iterator<Item = (u64, &Entry)> {
        self.entries
            .range((Bound::Excluded(cookie), Bound::Unbounded))
            .map(|(&cookie, entry)| (cookie, entry))
    }
}
