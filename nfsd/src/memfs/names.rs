//! Names come and go: CREATE, MKDIR, SYMLINK, MKNOD, LINK, REMOVE, RMDIR.
//!
//! Each locks the directory for the whole operation and the file below it for its own part.

use super::content::{Content, Dropped};
use super::dir::{Directory, entry_cost};
use super::inode::{Body, Inode, Place, State, apply, changed, modified};
use super::{LINK_MAX, MemFs};
use crate::cx::Cx;
use crate::handle::FileKey;
use crate::perm;
use crate::vfs::{self, Made, NameUse, NewNode, Result, SYMLINK_MAX};
use bytes::Bytes;
use proto::nfs3::{
    CreateHow3, Fattr3, Ftype3, Link3Wcc, NFS3_CREATEVERFSIZE, Nfsstat3, Sattr3, Specdata3, WccData,
};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Something about to be made.
struct Blueprint<'a> {
    name: &'a [u8],
    ftype: Ftype3,
    body: Body,
    size: u64,
    rdev: Specdata3,
    attributes: &'a Sattr3,
    create_verf: Option<[u8; NFS3_CREATEVERFSIZE]>,
}

impl MemFs {
    /// CREATE.
    pub(super) fn create_file(
        &self,
        cx: &Cx<'_>,
        dir: &FileKey,
        name: &[u8],
        how: &CreateHow3,
    ) -> Result<Made> {
        vfs::check_name(name, NameUse::Make)?;
        let dir = self.inode(dir)?;
        let mut state = dir.write()?;
        perm_search(cx, &state)?;
        if let Some(existing) = state.body.dir()?.get(name) {
            let (attr, _dropped) = self.reuse(cx, existing, how)?;
            return Ok(Made {
                file: self.key(existing.ino),
                attr,
                dir_wcc: vfs::wcc(vfs::wcc_attr(&state.attr), &state.attr),
            });
        }
        let nothing = Sattr3::default();
        let (attributes, create_verf) = match how {
            CreateHow3::Unchecked(attributes) | CreateHow3::Guarded(attributes) => (attributes, None),
            CreateHow3::Exclusive(verf) => (&nothing, Some(*verf)),
        };
        let blueprint = Blueprint {
            name,
            ftype: Ftype3::NF3REG,
            body: Body::File(Content::default()),
            size: 0,
            rdev: Specdata3::default(),
            attributes,
            create_verf,
        };
        self.add(cx, &dir, &mut state, blueprint)
    }

    /// CREATE of a name that exists (RFC 1813, section 3.3.8): unchecked takes a regular file and sets its size
    /// if one is given, and nothing else; exclusive takes the file that the same request made before.
    fn reuse(&self, cx: &Cx<'_>, existing: &Inode, how: &CreateHow3) -> Result<(Fattr3, Option<Dropped>)> {
        const EXIST: Nfsstat3 = Nfsstat3::NFS3ERR_EXIST;
        if existing.ftype != Ftype3::NF3REG {
            return Err(EXIST);
        }
        let mut guarded = existing.write()?;
        let state = &mut *guarded;
        match how {
            CreateHow3::Unchecked(Sattr3 { size: Some(size), .. }) => {
                let new = Sattr3 {
                    size: Some(*size),
                    ..Sattr3::default()
                };
                let change = perm::plan_setattr(&cx.caller, &state.attr, &new, cx.now())?;
                let dropped = self.resize(&mut state.attr, &mut state.body, *size)?;
                apply(&mut state.attr, &change);
                changed(&mut state.attr, cx.now());
                Ok((state.attr, dropped))
            }
            CreateHow3::Unchecked(_) => Ok((state.attr, None)),
            CreateHow3::Exclusive(verf) if state.create_verf == Some(*verf) => Ok((state.attr, None)),
            CreateHow3::Guarded(_) | CreateHow3::Exclusive(_) => Err(EXIST),
        }
    }

    /// MKDIR, SYMLINK, MKNOD.
    pub(super) fn make_node(
        &self,
        cx: &Cx<'_>,
        dir: &FileKey,
        name: &[u8],
        node: &NewNode<'_>,
        attributes: &Sattr3,
    ) -> Result<Made> {
        vfs::check_name(name, NameUse::Make)?;
        let (body, size, rdev) = match node {
            NewNode::Directory => (
                Body::Directory(Box::new(Directory::new())),
                0,
                Specdata3::default(),
            ),
            NewNode::Symlink(text) => {
                check_symlink(text)?;
                let body = Body::Symlink(Bytes::copy_from_slice(text));
                (body, text.len() as u64, Specdata3::default())
            }
            NewNode::Device(_, rdev) => (Body::Node, 0, *rdev),
            NewNode::Pipe(_) => (Body::Node, 0, Specdata3::default()),
        };
        let dir = self.inode(dir)?;
        let mut state = dir.write()?;
        perm_search(cx, &state)?;
        if state.body.dir()?.get(name).is_some() {
            return Err(Nfsstat3::NFS3ERR_EXIST);
        }
        let blueprint = Blueprint {
            name,
            ftype: node.ftype(),
            body,
            size,
            rdev,
            attributes,
            create_verf: None,
        };
        self.add(cx, &dir, &mut state, blueprint)
    }

    /// Makes a file under a name that is free.
    fn add(&self, cx: &Cx<'_>, dir: &Inode, state: &mut State, new: Blueprint<'_>) -> Result<Made> {
        perm::may_add(&cx.caller, &state.attr)?;
        let identity = perm::identity_of_new(&cx.caller, &state.attr, new.ftype, new.attributes);
        let change = perm::change_of_new(new.ftype, new.attributes, cx.now())?;
        // A link's text is counted here; a file has no data yet, whatever its size.
        let cost = entry_cost(new.name);
        self.space.take_file(cost + new.size)?;

        let before = vfs::wcc_attr(&state.attr);
        let name: Arc<[u8]> = new.name.into();
        let mut attr = Fattr3 {
            ftype: new.ftype,
            mode: identity.mode,
            nlink: if new.ftype == Ftype3::NF3DIR { 2 } else { 1 },
            uid: identity.uid,
            gid: identity.gid,
            size: change.size.unwrap_or(new.size),
            used: new.size,
            rdev: new.rdev,
            fsid: self.fsid,
            fileid: self.next_ino.fetch_add(1, Relaxed),
            atime: cx.now(),
            mtime: cx.now(),
            ctime: cx.now(),
        };
        apply(&mut attr, &change);
        let inode = Arc::new(Inode::new(State {
            attr,
            body: new.body,
            place: Some(Place {
                dir: dir.ino,
                name: name.clone(),
            }),
            create_verf: new.create_verf,
        }));
        self.table.insert(attr.fileid, inode.clone());
        state.body.dir_mut()?.set(name, inode);
        grow(&mut state.attr, cost);
        if new.ftype == Ftype3::NF3DIR {
            state.attr.nlink += 1;
        }
        modified(&mut state.attr, cx.now());
        Ok(Made {
            file: self.key(attr.fileid),
            attr,
            dir_wcc: vfs::wcc(before, &state.attr),
        })
    }

    /// LINK. To a directory: `NFS3ERR_ISDIR`, as Linux knfsd.
    pub(super) fn add_link(
        &self,
        cx: &Cx<'_>,
        file: &FileKey,
        dir: &FileKey,
        name: &[u8],
    ) -> Result<Link3Wcc> {
        vfs::check_name(name, NameUse::Make)?;
        let file = self.inode(file)?;
        if file.is_dir() {
            return Err(Nfsstat3::NFS3ERR_ISDIR);
        }
        let dir = self.inode(dir)?;
        if !dir.is_dir() {
            return Err(Nfsstat3::NFS3ERR_NOTDIR);
        }
        let mut guarded = dir.write()?;
        let state = &mut *guarded;
        perm_search(cx, state)?;
        let entries = state.body.dir_mut()?;
        if entries.get(name).is_some() {
            return Err(Nfsstat3::NFS3ERR_EXIST);
        }
        perm::may_add(&cx.caller, &state.attr)?;
        let mut linked = file.write()?;
        if linked.attr.nlink >= LINK_MAX {
            return Err(Nfsstat3::NFS3ERR_MLINK);
        }
        let cost = entry_cost(name);
        self.space.take_bytes(cost)?;
        let before = vfs::wcc_attr(&state.attr);
        let name: Arc<[u8]> = name.into();
        entries.set(name.clone(), file.clone());
        linked.attr.nlink += 1;
        linked.place = Some(Place { dir: dir.ino, name });
        self.path_changed();
        changed(&mut linked.attr, cx.now());
        let file_attributes = Some(linked.attr);
        drop(linked);
        grow(&mut state.attr, cost);
        modified(&mut state.attr, cx.now());
        Ok(Link3Wcc {
            file_attributes,
            linkdir_wcc: vfs::wcc(before, &state.attr),
        })
    }

    /// REMOVE, and RMDIR if `directory`. REMOVE of a directory is `NFS3ERR_ISDIR`, as everywhere but in the
    /// RFC's list.
    pub(super) fn take_away(
        &self,
        cx: &Cx<'_>,
        dir: &FileKey,
        name: &[u8],
        directory: bool,
    ) -> Result<WccData> {
        let dir = self.inode(dir)?;
        let mut guarded = dir.write()?;
        let state = &mut *guarded;
        perm_search(cx, state)?;
        let entries = state.body.dir_mut()?;
        let victim = entries.get(name).cloned().ok_or(Nfsstat3::NFS3ERR_NOENT)?;
        match (directory, victim.is_dir()) {
            (true, false) => return Err(Nfsstat3::NFS3ERR_NOTDIR),
            (false, true) => return Err(Nfsstat3::NFS3ERR_ISDIR),
            _ => {}
        }
        let before = vfs::wcc_attr(&state.attr);
        let gone = self.unlink(cx, &state.attr, &victim, dir.ino, name)?;
        entries.remove(name);
        if directory {
            state.attr.nlink -= 1;
        }
        let cost = entry_cost(name);
        self.space.free_bytes(cost);
        shrink(&mut state.attr, cost);
        modified(&mut state.attr, cx.now());
        let wcc = vfs::wcc(before, &state.attr);
        drop(guarded);
        self.bury(gone);
        Ok(wcc)
    }

    /// Takes one of its names from a file in `dir`, whose lock the caller holds and whose entry it then removes
    /// or replaces. `NFS3ERR_NOTEMPTY` if it is a directory with entries.
    pub(super) fn unlink(
        &self,
        cx: &Cx<'_>,
        dir: &Fattr3,
        victim: &Arc<Inode>,
        dir_ino: u64,
        name: &[u8],
    ) -> Result<Option<Gone>> {
        let mut guarded = victim.write()?;
        let state = &mut *guarded;
        perm::may_take_away(&cx.caller, dir, &state.attr)?;
        if let Body::Directory(entries) = &state.body {
            if !entries.is_empty() {
                return Err(Nfsstat3::NFS3ERR_NOTEMPTY);
            }
            state.attr.nlink = 0;
        } else {
            state.attr.nlink -= 1;
        }
        changed(&mut state.attr, cx.now());
        if state.attr.nlink > 0 {
            let named = |place: &Place| place.dir == dir_ino && *place.name == *name;
            state.place = state.place.take().filter(|place| !named(place));
            self.path_changed();
            return Ok(None);
        }
        Ok(Some(Gone {
            ino: victim.ino,
            used: state.attr.used,
            _body: std::mem::replace(&mut state.body, Body::Node),
        }))
    }

    /// Forgets a file that has no name any more. To be called without locks: this frees its data.
    pub(super) fn bury(&self, gone: Option<Gone>) {
        if let Some(gone) = gone {
            self.table.remove(&gone.ino);
            self.path_changed();
            self.space.free_file(gone.used);
        }
    }
}

/// A file after its last name.
#[must_use = "its space must be given back"]
pub(super) struct Gone {
    ino: u64,
    used: u64,
    _body: Body,
}

/// The directory must be one, and searchable, before anything about its names is told.
fn perm_search(cx: &Cx<'_>, dir: &State) -> Result<()> {
    dir.body.dir()?;
    perm::require(&cx.caller, &dir.attr, perm::EXECUTE)
}

/// Adds an entry's cost to its directory.
pub(super) fn grow(dir: &mut Fattr3, cost: u64) {
    dir.used += cost;
    dir.size += cost;
}

/// Takes an entry's cost from its directory.
pub(super) fn shrink(dir: &mut Fattr3, cost: u64) {
    dir.used -= cost;
    dir.size -= cost;
}

/// A link's text: as Linux, neither empty nor longer than a path, and without NUL.
fn check_symlink(text: &[u8]) -> Result<()> {
    match text {
        [] => Err(Nfsstat3::NFS3ERR_INVAL),
        _ if text.len() > SYMLINK_MAX => Err(Nfsstat3::NFS3ERR_NAMETOOLONG),
        _ if text.contains(&0) => Err(Nfsstat3::NFS3ERR_INVAL),
        _ => Ok(()),
    }
}
