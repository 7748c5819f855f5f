//! Locks by inode number, so that what is told of a file before and after a change belongs to that change.
//!
//! A fixed number of them: two files may share one, which costs time and nothing else. **Order**: directories, two of
//! them by the number of their lock; then at most one file.

use parking_lot::{Mutex, MutexGuard};

const COUNT: usize = 256;

/// A held lock.
pub(super) type Held<'a> = Option<MutexGuard<'a, ()>>;

#[derive(Debug)]
struct Stripes([Mutex<()>; COUNT]);

impl Stripes {
    fn slot(ino: u64) -> usize {
        (ino % COUNT as u64) as usize
    }

    fn hold(&self, slot: usize) -> Held<'_> {
        self.0.get(slot).map(Mutex::lock)
    }
}

/// All locks of a store.
#[derive(Debug)]
pub(super) struct Locks {
    dirs: Stripes,
    files: Stripes,
}

impl Default for Locks {
    fn default() -> Self {
        let stripes = || Stripes([const { Mutex::new(()) }; COUNT]);
        Locks {
            dirs: stripes(),
            files: stripes(),
        }
    }
}

impl Locks {
    /// Of a directory.
    pub(super) fn dir(&self, ino: u64) -> Held<'_> {
        self.dirs.hold(Stripes::slot(ino))
    }

    /// Of a file that is not a directory.
    pub(super) fn file(&self, ino: u64) -> Held<'_> {
        self.files.hold(Stripes::slot(ino))
    }

    /// Of two directories.
    pub(super) fn two_dirs(&self, a: u64, b: u64) -> (Held<'_>, Held<'_>) {
        let (a, b) = (Stripes::slot(a), Stripes::slot(b));
        let first = self.dirs.hold(a.min(b));
        let second = if a == b { None } else { self.dirs.hold(a.max(b)) };
        (first, second)
    }
}
