//! The files that the kernel knows, by the numbers under which it knows them.
//!
//! A number is the server's `fileid`, so that it is the same whenever the kernel asks again; only the root is always 1,
//! and a file that would be 1 or 0 gets another. When a `fileid` comes with another handle than before, the old file is
//! gone, and the number gets a new generation.

use crate::data::Written;
use crate::nfs::{Fh, Nfs};
use crate::options::Caching;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use parking_lot::Mutex;
use proto::nfs3::{Fattr3, Ftype3};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The number of the root (`FUSE_ROOT_ID`).
pub const ROOT: u64 = 1;

/// A file that the kernel knows.
pub struct Inode {
    /// Its number.
    pub number: u64,
    /// Tells two files apart that had the same number one after the other.
    pub generation: u64,
    /// The server's handle.
    pub fh: Fh,
    /// What was written and is not safe.
    pub written: Arc<Written>,
    state: Mutex<State>,
}

struct State {
    attr: Fattr3,
    /// Until when they are believed.
    fresh_until: Instant,
    /// For how long they were believed the last time.
    believed: Duration,
    /// How often the kernel was told of the file; it gives that back with FORGET.
    lookups: u64,
    opens: u32,
    /// A file that was removed while it was open has this name until it is closed.
    silly: Option<(Fh, Vec<u8>)>,
    /// Size and times of the data that the kernel's page cache has.
    cached: Option<(u64, proto::nfs3::Nfstime3)>,
}

impl Inode {
    /// The attributes as last seen, if they are still believed.
    pub fn fresh(&self) -> Option<(Fattr3, Duration)> {
        let state = self.state.lock();
        let left = state.fresh_until.checked_duration_since(Instant::now())?;
        (!left.is_zero()).then_some((state.attr, left))
    }

    /// The attributes as last seen.
    pub fn last_attr(&self) -> Fattr3 {
        self.state.lock().attr
    }

    /// The server has sent these; for how long they are believed. Twice as long as before if nothing has changed (nfs(5),
    /// `acregmin`).
    pub fn update(&self, attr: Fattr3, caching: &Caching) -> Duration {
        let (min, max) = match attr.ftype {
            Ftype3::NF3DIR => (caching.dir_min, caching.dir_max),
            _ => (caching.reg_min, caching.reg_max),
        };
        let state = &mut *self.state.lock();
        let unchanged =
            (attr.mtime, attr.ctime, attr.size) == (state.attr.mtime, state.attr.ctime, state.attr.size);
        state.believed = match unchanged {
            true => (state.believed * 2).clamp(min, max.max(min)),
            false => min,
        };
        state.attr = attr;
        state.fresh_until = Instant::now() + state.believed;
        state.believed
    }

    /// What we know of it is not believed any more.
    pub fn doubt(&self) {
        self.state.lock().fresh_until = Instant::now();
    }

    /// It is opened. True if what the kernel has of its data is still right.
    pub fn open(&self, attr: &Fattr3) -> bool {
        let mut state = self.state.lock();
        state.opens += 1;
        let seen = (attr.size, attr.mtime);
        state.cached.replace(seen) == Some(seen)
    }

    /// It is closed. The name under which it must be removed now, if it was removed while it was open.
    pub fn close(&self) -> Option<(Fh, Vec<u8>)> {
        let mut state = self.state.lock();
        state.opens = state.opens.saturating_sub(1);
        match state.opens {
            0 => state.silly.take(),
            _ => None,
        }
    }

    /// How often it is open.
    pub fn opens(&self) -> u32 {
        self.state.lock().opens
    }

    /// Whether somebody has it open.
    pub fn is_open(&self) -> bool {
        self.opens() > 0
    }

    /// It has such a name now, and is to be removed when it is closed.
    pub fn renamed_silly(&self, dir: Fh, name: Vec<u8>) {
        self.state.lock().silly = Some((dir, name));
    }
}

/// All of them.
pub struct Inodes {
    nfs: Nfs,
    wsize: u32,
    caching: Caching,
    by_number: DashMap<u64, Arc<Inode>>,
    generations: AtomicU64,
}

impl Inodes {
    /// With the root.
    pub fn new(nfs: Nfs, root: Fh, attr: Fattr3, wsize: u32, caching: Caching) -> Inodes {
        let inodes = Inodes {
            nfs,
            wsize,
            caching,
            by_number: DashMap::new(),
            generations: AtomicU64::new(1),
        };
        let inode = inodes.make(ROOT, root, attr);
        inodes.by_number.insert(ROOT, inode);
        inodes
    }

    fn make(&self, number: u64, fh: Fh, attr: Fattr3) -> Arc<Inode> {
        Arc::new(Inode {
            number,
            generation: self.generations.fetch_add(1, Relaxed),
            written: Arc::new(Written::new(self.nfs.clone(), fh.clone(), self.wsize)),
            fh,
            state: Mutex::new(State {
                attr,
                fresh_until: Instant::now(),
                believed: Duration::ZERO,
                lookups: 1,
                opens: 0,
                silly: None,
                cached: None,
            }),
        })
    }

    /// The file of a number.
    pub fn get(&self, number: u64) -> Option<Arc<Inode>> {
        self.by_number.get(&number).map(|inode| inode.clone())
    }

    /// The kernel is told of a file: it has looked it up once more.
    pub fn found(&self, fh: Fh, attr: Fattr3) -> Arc<Inode> {
        let root = self.get(ROOT);
        let number = match root {
            Some(root) if root.fh == fh => ROOT,
            _ => number_of(attr.fileid),
        };
        match self.by_number.entry(number) {
            Entry::Occupied(mut there) => {
                if there.get().fh == fh {
                    let inode = there.get().clone();
                    inode.state.lock().lookups += 1;
                    inode.update(attr, &self.caching);
                    inode
                } else {
                    let inode = self.make(number, fh, attr);
                    inode.update(attr, &self.caching);
                    there.insert(inode.clone());
                    inode
                }
            }
            Entry::Vacant(free) => {
                let inode = self.make(number, fh, attr);
                inode.update(attr, &self.caching);
                free.insert(inode.clone());
                inode
            }
        }
    }

    /// The kernel gives back so many of its lookups.
    pub fn forget(&self, number: u64, lookups: u64) {
        if number == ROOT {
            return;
        }
        self.by_number.remove_if(&number, |_, inode| {
            let mut state = inode.state.lock();
            state.lookups = state.lookups.saturating_sub(lookups);
            state.lookups == 0
        });
    }

    /// The number of a file that has these attributes, as a listing shows it.
    pub fn shown(&self, fileid: u64) -> u64 {
        number_of(fileid)
    }
}

/// 0 is nothing and 1 the root.
fn number_of(fileid: u64) -> u64 {
    match fileid {
        0 | ROOT => u64::MAX - 1 + fileid,
        fileid => fileid,
    }
}
