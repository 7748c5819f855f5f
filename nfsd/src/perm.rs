//! Who may do what: every permission rule of the server, as functions of attributes and a caller.
//!
//! RFC 1813 leaves the rules to the server ("as UNIX", section 4.4); these are POSIX's as Linux has them:
//! - root may do everything, except execute a file that nobody may execute;
//! - READ and WRITE are allowed to the owner whatever the mode (RFC 1813, 4.4: a client checks when it opens,
//!   and a file may be made read-only while it is open), and READ to whoever may execute (to page a program in);
//! - in a directory with the sticky bit, entries are taken away only by the entry's owner, the directory's or
//!   root;
//! - a directory with the set-group-id bit gives its group to what is made in it, and the bit to directories;
//! - set-id bits vanish when someone else than root writes, and whenever a file that is not a directory changes
//!   hands, by root too (as Linux);
//! - only root gives files away; an owner may change the group to one that they belong to.

use crate::cx::Caller;
use crate::vfs::{FILE_SIZE_MAX, Result};
use proto::nfs3::{Fattr3, Ftype3, Nfsstat3, Nfstime3, Sattr3, SetTime, access};

/// Permission to read.
pub const READ: u32 = 4;
/// Permission to write.
pub const WRITE: u32 = 2;
/// Permission to execute, or to look names up in a directory.
pub const EXECUTE: u32 = 1;

/// Every bit of a mode that can be set.
pub const MODE_BITS: u32 = 0o7777;
const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const STICKY: u32 = 0o1000;
const GROUP_EXECUTE: u32 = 0o010;

/// Whether `caller` has all of `want` ([`READ`], [`WRITE`], [`EXECUTE`]) by the file's mode.
pub fn permits(caller: &Caller<'_>, attr: &Fattr3, want: u32) -> bool {
    if caller.is_root() {
        let executable = attr.ftype == Ftype3::NF3DIR || attr.mode & 0o111 != 0;
        return want & EXECUTE == 0 || executable;
    }
    let class = if caller.uid == attr.uid {
        attr.mode >> 6
    } else if caller.in_group(attr.gid) {
        attr.mode >> 3
    } else {
        attr.mode
    };
    want & !class & 7 == 0
}

fn allow(yes: bool) -> Result<()> {
    if yes { Ok(()) } else { Err(Nfsstat3::NFS3ERR_ACCES) }
}

/// `NFS3ERR_ACCES` unless `caller` has all of `want`.
pub fn require(caller: &Caller<'_>, attr: &Fattr3, want: u32) -> Result<()> {
    allow(permits(caller, attr, want))
}

/// May READ: by mode, as the owner, or to execute.
pub fn may_read(caller: &Caller<'_>, attr: &Fattr3) -> Result<()> {
    allow(caller.uid == attr.uid || permits(caller, attr, READ) || permits(caller, attr, EXECUTE))
}

/// May WRITE: by mode or as the owner.
pub fn may_write(caller: &Caller<'_>, attr: &Fattr3) -> Result<()> {
    allow(caller.uid == attr.uid || permits(caller, attr, WRITE))
}

/// May add entries to a directory.
pub fn may_add(caller: &Caller<'_>, dir: &Fattr3) -> Result<()> {
    require(caller, dir, WRITE | EXECUTE)
}

/// May take the entry of `victim` out of a directory. `NFS3ERR_PERM` is the sticky bit's refusal.
pub fn may_take_away(caller: &Caller<'_>, dir: &Fattr3, victim: &Fattr3) -> Result<()> {
    require(caller, dir, WRITE | EXECUTE)?;
    let sticky = dir.mode & STICKY != 0;
    if sticky && !caller.is_root() && caller.uid != victim.uid && caller.uid != dir.uid {
        return Err(Nfsstat3::NFS3ERR_PERM);
    }
    Ok(())
}

/// ACCESS (RFC 1813, section 3.3.4): which of the `wanted` rights the caller has. By mode only: the owner's
/// privilege of READ and WRITE is for files that are already open.
pub fn granted(caller: &Caller<'_>, attr: &Fattr3, wanted: u32) -> u32 {
    const DIRECTORY: [(u32, u32); 5] = [
        (access::READ, READ),
        (access::LOOKUP, EXECUTE),
        (access::MODIFY, WRITE | EXECUTE),
        (access::EXTEND, WRITE | EXECUTE),
        (access::DELETE, WRITE | EXECUTE),
    ];
    const OTHER: [(u32, u32); 4] = [
        (access::READ, READ),
        (access::MODIFY, WRITE),
        (access::EXTEND, WRITE),
        (access::EXECUTE, EXECUTE),
    ];
    let table: &[(u32, u32)] = if attr.ftype == Ftype3::NF3DIR {
        &DIRECTORY
    } else {
        &OTHER
    };
    table
        .iter()
        .filter(|&&(right, want)| wanted & right != 0 && permits(caller, attr, want))
        .fold(0, |granted, &(right, _)| granted | right)
}

/// Attributes to set, resolved: what a store applies as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    /// New mode, if it changes, set-id bits already taken away where they must be.
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New size.
    pub size: Option<u64>,
    /// New atime.
    pub atime: Option<Nfstime3>,
    /// New mtime.
    pub mtime: Option<Nfstime3>,
}

impl Change {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Change::default()
    }
}

fn resolve_time(set: SetTime, now: Nfstime3) -> Result<Option<Nfstime3>> {
    match set {
        SetTime::DontChange => Ok(None),
        SetTime::ServerTime => Ok(Some(now)),
        SetTime::ClientTime(t) if t.nseconds >= 1_000_000_000 => Err(Nfsstat3::NFS3ERR_INVAL),
        SetTime::ClientTime(t) => Ok(Some(t)),
    }
}

fn check_size(ftype: Ftype3, size: u64) -> Result<()> {
    match ftype {
        Ftype3::NF3REG if size > FILE_SIZE_MAX => Err(Nfsstat3::NFS3ERR_FBIG),
        Ftype3::NF3REG => Ok(()),
        Ftype3::NF3DIR => Err(Nfsstat3::NFS3ERR_ISDIR),
        _ => Err(Nfsstat3::NFS3ERR_INVAL),
    }
}

/// Whether `caller` may set `new` on a file with `attr`, and what that comes to (RFC 1813, section 3.3.2).
///
/// A size needs the right to write; so do times set to the server's (`utimes(NULL)`), if the caller is not the
/// owner; everything else is the owner's. A new size sets mtime also if it is the old size, as `O_TRUNC` must.
pub fn plan_setattr(caller: &Caller<'_>, attr: &Fattr3, new: &Sattr3, now: Nfstime3) -> Result<Change> {
    let owner = caller.is_root() || caller.uid == attr.uid;
    let mut change = Change {
        size: new.size,
        atime: resolve_time(new.atime, now)?,
        mtime: resolve_time(new.mtime, now)?,
        ..Change::default()
    };
    if let Some(size) = new.size {
        check_size(attr.ftype, size)?;
        may_write(caller, attr)?;
        change.mtime = change.mtime.or(Some(now));
    }
    if !owner {
        let foreign_time = |t| matches!(t, SetTime::ClientTime(_));
        if foreign_time(new.atime) || foreign_time(new.mtime) {
            return Err(Nfsstat3::NFS3ERR_PERM);
        }
        if new.atime == SetTime::ServerTime || new.mtime == SetTime::ServerTime {
            require(caller, attr, WRITE)?;
        }
    }
    plan_owner(caller, attr, new, &mut change)?;
    plan_mode(caller, attr, new, owner, &mut change)?;
    Ok(change)
}

/// Not -1, which chown(2) takes for "leave it" and which no file can belong to: as on Linux knfsd, it is no change.
fn is_id(id: &u32) -> bool {
    *id != u32::MAX
}

fn plan_owner(caller: &Caller<'_>, attr: &Fattr3, new: &Sattr3, change: &mut Change) -> Result<()> {
    let owns = caller.uid == attr.uid;
    if let Some(uid) = new.uid.filter(is_id) {
        let same = owns && uid == attr.uid;
        if !caller.is_root() && !same {
            return Err(Nfsstat3::NFS3ERR_PERM);
        }
        change.uid = Some(uid);
    }
    if let Some(gid) = new.gid.filter(is_id) {
        let own_group = owns && (gid == attr.gid || caller.in_group(gid));
        if !caller.is_root() && !own_group {
            return Err(Nfsstat3::NFS3ERR_PERM);
        }
        change.gid = Some(gid);
    }
    Ok(())
}

fn plan_mode(
    caller: &Caller<'_>,
    attr: &Fattr3,
    new: &Sattr3,
    owner: bool,
    change: &mut Change,
) -> Result<()> {
    let mut mode = attr.mode;
    // A symbolic link's mode means nothing and stays, as on Linux knfsd.
    if let Some(wanted) = new.mode.filter(|_| attr.ftype != Ftype3::NF3LNK) {
        if !owner {
            return Err(Nfsstat3::NFS3ERR_PERM);
        }
        mode = wanted & MODE_BITS;
        if !caller.is_root() && !caller.in_group(change.gid.unwrap_or(attr.gid)) {
            mode &= !SET_GID;
        }
    }
    let handed_over = change.uid.is_some() || change.gid.is_some();
    let written = change.size.is_some() && !caller.is_root();
    if attr.ftype != Ftype3::NF3DIR && (handed_over || written) {
        mode = without_set_id(mode);
    }
    if (new.mode.is_some() && attr.ftype != Ftype3::NF3LNK) || mode != attr.mode {
        change.mode = Some(mode);
    }
    Ok(())
}

/// A mode without the bits that lend an identity. Set-group-id without group execute is a mark for
/// mandatory locking on old systems, not a loan: it stays.
fn without_set_id(mode: u32) -> u32 {
    let mode = mode & !SET_UID;
    if mode & GROUP_EXECUTE != 0 {
        mode & !SET_GID
    } else {
        mode
    }
}

/// The mode after `caller` has written data.
pub fn mode_after_write(caller: &Caller<'_>, attr: &Fattr3) -> u32 {
    if caller.is_root() {
        attr.mode
    } else {
        without_set_id(attr.mode)
    }
}

/// Mode, owner and group of something new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Mode.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Mode, owner and group of what `caller` makes in `dir`. Only root chooses an owner; for others those in
/// `new` are ignored, as Linux knfsd does. Without a mode it is 0, as there.
pub fn identity_of_new(caller: &Caller<'_>, dir: &Fattr3, ftype: Ftype3, new: &Sattr3) -> Identity {
    let inherits = dir.mode & SET_GID != 0;
    let gid = if inherits { dir.gid } else { caller.gid };
    let mut mode = new.mode.unwrap_or(0) & MODE_BITS;
    if ftype == Ftype3::NF3LNK {
        mode = 0o777;
    }
    if !caller.is_root() && !caller.in_group(gid) {
        mode &= !SET_GID;
    }
    if inherits && ftype == Ftype3::NF3DIR {
        mode |= SET_GID;
    }
    if caller.is_root() {
        Identity {
            mode,
            uid: new.uid.filter(is_id).unwrap_or(0),
            gid: new.gid.filter(is_id).unwrap_or(gid),
        }
    } else {
        Identity {
            mode,
            uid: caller.uid,
            gid,
        }
    }
}

/// Times and size of something new. A size other than 0 is only for files.
pub fn change_of_new(ftype: Ftype3, new: &Sattr3, now: Nfstime3) -> Result<Change> {
    // Linux clients send a size with MKDIR and MKNOD never; others that do mean nothing by it.
    let size = new.size.filter(|_| ftype == Ftype3::NF3REG);
    if let Some(size) = size {
        check_size(ftype, size)?;
    }
    Ok(Change {
        size,
        atime: resolve_time(new.atime, now)?,
        mtime: resolve_time(new.mtime, now)?,
        ..Change::default()
    })
}

#[cfg(test)]
mod tests;
