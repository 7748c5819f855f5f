//! From file handle to what is known of the file.
//!
//! Only files with locks are here. Handles lie in place, and the hash index holds nothing but ids, so a
//! lookup compares bytes once. The hash is fixed and the index is never iterated: listings follow the ids.

use super::tree::NodeId;
use crate::arena::{Arena, Id, Latest, id};
use hashbrown::HashTable;
use rustc_hash::FxHasher;
use std::fmt;
use std::hash::Hasher;

/// The longest file handle of NFSv3 (`NFS3_FHSIZE`, RFC 1813, section 2.4).
pub const FH_MAX: usize = 64;

id! {
    /// A file that has locks.
    pub(crate) struct FileId;
}

/// A borrowed file handle of at most [`FH_MAX`] bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Fh<'a>(&'a [u8]);

impl<'a> Fh<'a> {
    /// `None` if it is longer than [`FH_MAX`]: then it names no file of an NFSv3 server.
    pub fn new(bytes: &'a [u8]) -> Option<Fh<'a>> {
        (bytes.len() <= FH_MAX).then_some(Fh(bytes))
    }

    /// The bytes.
    pub fn as_slice(self) -> &'a [u8] {
        self.0
    }
}

impl fmt::Debug for Fh<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// An owned file handle.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Handle {
    bytes: [u8; FH_MAX],
    len: u8,
}

impl Handle {
    /// The same handle, borrowed.
    pub fn as_fh(&self) -> Fh<'_> {
        Fh(self.bytes.get(..usize::from(self.len)).unwrap_or_default())
    }
}

impl From<Fh<'_>> for Handle {
    fn from(fh: Fh<'_>) -> Self {
        let mut bytes = [0; FH_MAX];
        bytes.iter_mut().zip(fh.0).for_each(|(to, from)| *to = *from);
        Handle {
            bytes,
            len: fh.0.len() as u8,
        }
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_fh())
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_fh())
    }
}

/// What is known of a file.
pub(crate) struct File {
    pub(crate) handle: Handle,
    /// `None` only in the middle of an operation.
    pub(crate) root: Option<NodeId>,
}

/// All files that have locks.
pub(crate) struct Files {
    files: Arena<FileId, File>,
    index: HashTable<FileId>,
    latest: Latest<FileId>,
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(bytes);
    hasher.finish()
}

impl Files {
    pub(crate) fn new() -> Self {
        Files {
            files: Arena::new(),
            index: HashTable::new(),
            latest: Latest::new(),
        }
    }

    pub(crate) fn find(&self, fh: Fh<'_>) -> Option<FileId> {
        let is_it = |id: &FileId| self.files.get(*id).is_some_and(|file| file.handle.as_fh() == fh);
        self.latest
            .or_find(is_it, || self.index.find(hash(fh.0), is_it).copied())
    }

    /// Adds a file that is not there.
    pub(crate) fn add(&mut self, fh: Fh<'_>) -> FileId {
        let id = self.files.insert(File {
            handle: fh.into(),
            root: None,
        });
        let files = &self.files;
        self.index
            .insert_unique(hash(fh.0), id, |id| hash(files.at(*id).handle.as_fh().0));
        id
    }

    pub(crate) fn remove(&mut self, id: FileId) {
        let Some(file) = self.files.remove(id) else { return };
        let hash = hash(file.handle.as_fh().0);
        // Not `entry`: that may grow the index, and would then look for the file that is gone.
        if let Ok(found) = self.index.find_entry(hash, |other| *other == id) {
            found.remove();
        }
    }

    pub(crate) fn get(&self, id: FileId) -> Option<&File> {
        self.files.get(id)
    }

    pub(crate) fn root(&self, id: FileId) -> Option<NodeId> {
        self.files.at(id).root
    }

    pub(crate) fn set_root(&mut self, id: FileId, root: Option<NodeId>) {
        self.files.at_mut(id).root = root;
    }

    pub(crate) fn iter_from(&self, from: Option<FileId>) -> impl Iterator<Item = (FileId, &File)> {
        self.files.iter_from(from.map_or(0, Id::place))
    }

    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }
}
