//! How much there is and how much is taken: bytes and inodes.

use crate::vfs::{FsSpace, Result};
use proto::nfs3::Nfsstat3;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A quantity that is taken from and given back to.
#[derive(Debug)]
struct Stock {
    total: u64,
    taken: AtomicU64,
}

impl Stock {
    fn take(&self, n: u64) -> bool {
        let more = |taken: u64| taken.checked_add(n).filter(|&sum| sum <= self.total);
        n == 0 || self.taken.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    fn give_back(&self, n: u64) {
        if n > 0 {
            self.taken.fetch_sub(n, Relaxed);
        }
    }

    fn free(&self) -> u64 {
        self.total.saturating_sub(self.taken.load(Relaxed))
    }
}

/// Bytes and inodes of one store.
#[derive(Debug)]
pub(super) struct Space {
    bytes: Stock,
    files: Stock,
    when_full: Nfsstat3,
}

impl Space {
    /// All free.
    pub(super) fn new(bytes: u64, files: u64, when_full: Nfsstat3) -> Space {
        let stock = |total| Stock {
            total,
            taken: AtomicU64::new(0),
        };
        Space {
            bytes: stock(bytes),
            files: stock(files),
            when_full,
        }
    }

    /// Takes bytes.
    pub(super) fn take_bytes(&self, n: u64) -> Result<()> {
        if self.bytes.take(n) {
            Ok(())
        } else {
            Err(self.when_full)
        }
    }

    /// Gives bytes back.
    pub(super) fn free_bytes(&self, n: u64) {
        self.bytes.give_back(n);
    }

    /// Takes an inode and bytes, or neither.
    pub(super) fn take_file(&self, bytes: u64) -> Result<()> {
        if !self.files.take(1) {
            return Err(self.when_full);
        }
        self.take_bytes(bytes).inspect_err(|_| self.files.give_back(1))
    }

    /// Gives an inode and its bytes back.
    pub(super) fn free_file(&self, bytes: u64) {
        self.files.give_back(1);
        self.bytes.give_back(bytes);
    }

    /// For FSSTAT.
    pub(super) fn report(&self) -> FsSpace {
        let (bytes, files) = (self.bytes.free(), self.files.free());
        FsSpace {
            total_bytes: self.bytes.total,
            free_bytes: bytes,
            available_bytes: bytes,
            total_files: self.files.total,
            free_files: files,
            available_files: files,
        }
    }
}
