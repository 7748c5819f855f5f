//! One file of any type: its attributes and its body under one lock.

use super::content::Content;
use super::dir::Directory;
use crate::perm::Change;
use crate::vfs::Result;
use bytes::Bytes;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use proto::nfs3::{Fattr3, Ftype3, NFS3_CREATEVERFSIZE, Nfsstat3, Nfstime3};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// What never changes lies outside of the lock.
#[derive(Debug)]
pub(super) struct Inode {
    /// Its number, never used again.
    pub(super) ino: u64,
    /// Its type.
    pub(super) ftype: Ftype3,
    /// How often it was locked to be changed: what was seen of it at one number is so for as long as that stands.
    changes: AtomicU64,
    state: RwLock<State>,
}

/// What the lock guards.
#[derive(Debug)]
pub(super) struct State {
    /// The attributes as GETATTR returns them. `nlink` is 0 when the file is gone; nothing may then be done
    /// with it by an operation that found it earlier.
    pub(super) attr: Fattr3,
    /// By type.
    pub(super) body: Body,
    /// A directory's parent and name; a file's last known name. None for the root.
    pub(super) place: Option<Place>,
    /// The verifier of the exclusive CREATE that made this file. Kept apart from the times, so that no
    /// SETATTR spoils it.
    pub(super) create_verf: Option<[u8; NFS3_CREATEVERFSIZE]>,
}

/// A name in a directory.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The directory's number.
    pub(super) dir: u64,
    /// The name.
    pub(super) name: Arc<[u8]>,
}

/// What a file holds.
#[derive(Debug)]
pub(super) enum Body {
    /// `NF3REG`.
    File(Content),
    /// `NF3DIR`.
    Directory(Box<Directory>),
    /// `NF3LNK`: the text.
    Symlink(Bytes),
    /// Devices, sockets, pipes: nothing.
    Node,
}

impl Body {
    /// The entries, or `NFS3ERR_NOTDIR`.
    pub(super) fn dir(&self) -> Result<&Directory> {
        match self {
            Body::Directory(dir) => Ok(dir),
            _ => Err(Nfsstat3::NFS3ERR_NOTDIR),
        }
    }

    /// The entries, or `NFS3ERR_NOTDIR`.
    pub(super) fn dir_mut(&mut self) -> Result<&mut Directory> {
        match self {
            Body::Directory(dir) => Ok(dir),
            _ => Err(Nfsstat3::NFS3ERR_NOTDIR),
        }
    }

    /// The data, or why there is none (RFC 1813, section 3.3.6).
    pub(super) fn file(&self) -> Result<&Content> {
        match self {
            Body::File(content) => Ok(content),
            Body::Directory(_) => Err(Nfsstat3::NFS3ERR_ISDIR),
            _ => Err(Nfsstat3::NFS3ERR_INVAL),
        }
    }

    /// The data, or why there is none.
    pub(super) fn file_mut(&mut self) -> Result<&mut Content> {
        match self {
            Body::File(content) => Ok(content),
            Body::Directory(_) => Err(Nfsstat3::NFS3ERR_ISDIR),
            _ => Err(Nfsstat3::NFS3ERR_INVAL),
        }
    }
}

impl Inode {
    /// A new file.
    pub(super) fn new(state: State) -> Inode {
        Inode {
            ino: state.attr.fileid,
            ftype: state.attr.ftype,
            changes: AtomicU64::new(0),
            state: RwLock::new(state),
        }
    }

    /// Whether it is a directory.
    pub(super) fn is_dir(&self) -> bool {
        self.ftype == Ftype3::NF3DIR
    }

    /// To look; `NFS3ERR_STALE` if the file is gone.
    pub(super) fn read(&self) -> Result<RwLockReadGuard<'_, State>> {
        let state = self.state.read();
        if state.attr.nlink == 0 {
            return Err(Nfsstat3::NFS3ERR_STALE);
        }
        Ok(state)
    }

    /// To change; `NFS3ERR_STALE` if the file is gone.
    pub(super) fn write(&self) -> Result<RwLockWriteGuard<'_, State>> {
        let state = self.state.write();
        // Nobody else has the lock, so this need not be one step.
        self.changes
            .store(self.changes.load(Relaxed).wrapping_add(1), Release);
        if state.attr.nlink == 0 {
            return Err(Nfsstat3::NFS3ERR_STALE);
        }
        Ok(state)
    }

    /// The attributes.
    pub(super) fn attr(&self) -> Result<Fattr3> {
        self.read().map(|state| state.attr)
    }

    /// Attributes that were [seen](Seen) before, or new ones: nothing that other threads look at is written to.
    pub(super) fn attr_again(&self, seen: &mut Option<Seen>) -> Result<Fattr3> {
        let changes = self.changes.load(Acquire);
        if let Some(seen) = seen.filter(|seen| seen.changes == changes) {
            return Ok(seen.attr);
        }
        let state = self.read()?;
        let attr = state.attr;
        *seen = Some(Seen {
            changes: self.changes.load(Relaxed),
            attr,
        });
        Ok(attr)
    }
}

/// A file's attributes, and when they were seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    changes: u64,
    attr: Fattr3,
}

/// A change of attributes or data at `now`: sets ctime and returns it.
///
/// Clients see that a file changed by its times only. So that two changes within one tick of the caller's
/// clock differ, a ctime that is not behind `now` by itself moves on by a nanosecond; unless it is far ahead,
/// which means that the clock was set back and should be believed.
pub(super) fn changed(attr: &mut Fattr3, now: Nfstime3) -> Nfstime3 {
    let ahead = attr.ctime >= now && attr.ctime.seconds - now.seconds <= 1;
    attr.ctime = if ahead { next_ns(attr.ctime) } else { now };
    attr.ctime
}

/// A change of data or directory entries: sets mtime and ctime.
pub(super) fn modified(attr: &mut Fattr3, now: Nfstime3) {
    attr.mtime = changed(attr, now);
}

fn next_ns(t: Nfstime3) -> Nfstime3 {
    if t.nseconds < 999_999_999 {
        Nfstime3 {
            seconds: t.seconds,
            nseconds: t.nseconds + 1,
        }
    } else {
        Nfstime3 {
            seconds: t.seconds.saturating_add(1),
            nseconds: 0,
        }
    }
}

/// Whether a read at `now` is worth recording, by the rule of Linux' `relatime`: the first one after a
/// change, and one a day.
pub(super) fn atime_is_due(attr: &Fattr3, now: Nfstime3) -> bool {
    const DAY_S: u32 = 24 * 60 * 60;
    now > attr.atime
        && (attr.atime <= attr.mtime || attr.atime <= attr.ctime || now.seconds - attr.atime.seconds >= DAY_S)
}

/// Sets what SETATTR sets, less the size.
pub(super) fn apply(attr: &mut Fattr3, change: &Change) {
    attr.mode = change.mode.unwrap_or(attr.mode);
    attr.uid = change.uid.unwrap_or(attr.uid);
    attr.gid = change.gid.unwrap_or(attr.gid);
    attr.atime = change.atime.unwrap_or(attr.atime);
    attr.mtime = change.mtime.unwrap_or(attr.mtime);
}
