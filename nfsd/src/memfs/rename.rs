//! RENAME (RFC 1813, section 3.3.14), in one step for every observer.
//!
//! Where the RFC has one status for an unsuitable target, `NFS3ERR_EXIST`, this answers as POSIX and Linux
//! knfsd do: `NFS3ERR_NOTEMPTY`, `NFS3ERR_NOTDIR`, `NFS3ERR_ISDIR`. Applications look for those.

use super::MemFs;
use super::dir::entry_cost;
use super::inode::{Inode, Place, State, changed, modified};
use super::names::{Gone, grow, shrink};
use crate::cx::Cx;
use crate::handle::FileKey;
use crate::perm;
use crate::vfs::{self, NameUse, Result};
use proto::nfs3::{Nfsstat3, Rename3Wcc};
use std::sync::Arc;

/// One end of a RENAME: the directory, locked, and the name in it.
struct End<'a> {
    dir: &'a Inode,
    name: &'a [u8],
}

/// What the entries cost, in bytes. Only the difference is taken, so that a full store can still rename.
struct Cost {
    /// The old name's.
    taken: u64,
    /// The new name's; 0 if its entry is there already.
    added: u64,
}

impl Cost {
    fn new(from: &End<'_>, to: &End<'_>, replaces: bool) -> Cost {
        Cost {
            taken: entry_cost(from.name),
            added: if replaces { 0 } else { entry_cost(to.name) },
        }
    }

    fn to_take(&self) -> u64 {
        self.added.saturating_sub(self.taken)
    }

    fn to_free(&self) -> u64 {
        self.taken.saturating_sub(self.added)
    }
}

impl MemFs {
    /// RENAME.
    pub(super) fn rename_entry(
        &self,
        cx: &Cx<'_>,
        (from_dir, from_name): (&FileKey, &[u8]),
        (to_dir, to_name): (&FileKey, &[u8]),
    ) -> Result<Rename3Wcc> {
        vfs::check_name(from_name, NameUse::Rename)?;
        vfs::check_name(to_name, NameUse::Rename)?;
        let (from_dir, to_dir) = (self.inode(from_dir)?, self.inode(to_dir)?);
        if !from_dir.is_dir() || !to_dir.is_dir() {
            return Err(Nfsstat3::NFS3ERR_NOTDIR);
        }
        let from = End {
            dir: &from_dir,
            name: from_name,
        };
        let to = End {
            dir: &to_dir,
            name: to_name,
        };
        if from_dir.ino == to_dir.ino {
            self.rename_within(cx, &from, &to)
        } else {
            self.rename_across(cx, &from, &to)
        }
    }

    /// Within one directory: the shape of the tree stays.
    fn rename_within(&self, cx: &Cx<'_>, from: &End<'_>, to: &End<'_>) -> Result<Rename3Wcc> {
        let mut state = from.dir.write()?;
        let before = vfs::wcc_attr(&state.attr);
        let (source, target) = ends(cx, &state, from.name, &state, to.name)?;
        let mut gone = None;
        if !is_same(&source, target.as_ref()) {
            perm::may_take_away(&cx.caller, &state.attr, &source.attr()?)?;
            let cost = Cost::new(from, to, target.is_some());
            gone = self.replace(cx, &source, to, &state, target.as_ref(), &cost)?;
            state.body.dir_mut()?.remove(from.name);
            self.settle(cx, &source, to, &mut state)?;
            grow(&mut state.attr, cost.added);
            shrink(&mut state.attr, cost.taken);
            self.space.free_bytes(cost.to_free());
            if target.is_some_and(|t| t.is_dir()) {
                state.attr.nlink -= 1;
            }
            modified(&mut state.attr, cx.now());
        }
        let wcc = vfs::wcc(before, &state.attr);
        drop(state);
        self.bury(gone);
        Ok(Rename3Wcc {
            fromdir_wcc: wcc,
            todir_wcc: wcc,
        })
    }

    /// From one directory into another.
    fn rename_across(&self, cx: &Cx<'_>, from: &End<'_>, to: &End<'_>) -> Result<Rename3Wcc> {
        let _shape = self.moving.lock();
        let above_from = self.ancestors(from.dir)?;
        let above_to = self.ancestors(to.dir)?;
        let (mut from_state, mut to_state);
        if above_to.contains(&from.dir.ino) {
            from_state = from.dir.write()?;
            to_state = to.dir.write()?;
        } else {
            to_state = to.dir.write()?;
            from_state = from.dir.write()?;
        }
        let before = (vfs::wcc_attr(&from_state.attr), vfs::wcc_attr(&to_state.attr));
        let (source, target) = ends(cx, &from_state, from.name, &to_state, to.name)?;
        if above_to.contains(&source.ino) {
            return Err(Nfsstat3::NFS3ERR_INVAL);
        }
        if target.as_ref().is_some_and(|t| above_from.contains(&t.ino)) {
            return Err(Nfsstat3::NFS3ERR_NOTEMPTY);
        }
        let mut gone = None;
        if !is_same(&source, target.as_ref()) {
            let attr = source.attr()?;
            perm::may_take_away(&cx.caller, &from_state.attr, &attr)?;
            if source.is_dir() {
                // Its ".." changes.
                perm::require(&cx.caller, &attr, perm::WRITE)?;
            }
            let cost = Cost::new(from, to, target.is_some());
            gone = self.replace(cx, &source, to, &to_state, target.as_ref(), &cost)?;
            from_state.body.dir_mut()?.remove(from.name);
            self.settle(cx, &source, to, &mut to_state)?;
            shrink(&mut from_state.attr, cost.taken);
            grow(&mut to_state.attr, cost.added);
            self.space.free_bytes(cost.to_free());
            if source.is_dir() {
                from_state.attr.nlink -= 1;
                to_state.attr.nlink += u32::from(target.is_none());
            }
            modified(&mut from_state.attr, cx.now());
            modified(&mut to_state.attr, cx.now());
        }
        let wcc = Rename3Wcc {
            fromdir_wcc: vfs::wcc(before.0, &from_state.attr),
            todir_wcc: vfs::wcc(before.1, &to_state.attr),
        };
        drop((from_state, to_state));
        self.bury(gone);
        Ok(wcc)
    }

    /// All that can fail: the rights, the room for the new entry, and the target's own consent.
    fn replace(
        &self,
        cx: &Cx<'_>,
        source: &Inode,
        to: &End<'_>,
        to_state: &State,
        target: Option<&Arc<Inode>>,
        cost: &Cost,
    ) -> Result<Option<Gone>> {
        perm::may_add(&cx.caller, &to_state.attr)?;
        let Some(target) = target else {
            self.space.take_bytes(cost.to_take())?;
            return Ok(None);
        };
        match (source.is_dir(), target.is_dir()) {
            (true, false) => Err(Nfsstat3::NFS3ERR_NOTDIR),
            (false, true) => Err(Nfsstat3::NFS3ERR_ISDIR),
            _ => self.unlink(cx, &to_state.attr, target, to.dir.ino, to.name),
        }
    }

    /// Puts the source under its new name.
    fn settle(&self, cx: &Cx<'_>, source: &Arc<Inode>, to: &End<'_>, to_state: &mut State) -> Result<()> {
        let name: Arc<[u8]> = to.name.into();
        to_state.body.dir_mut()?.set(name.clone(), source.clone());
        let mut state = source.write()?;
        state.place = Some(Place {
            dir: to.dir.ino,
            name,
        });
        self.path_changed();
        changed(&mut state.attr, cx.now());
        Ok(())
    }
}

/// The file to be renamed, and the one that has the new name already.
fn ends(
    cx: &Cx<'_>,
    from: &State,
    from_name: &[u8],
    to: &State,
    to_name: &[u8],
) -> Result<(Arc<Inode>, Option<Arc<Inode>>)> {
    perm::require(&cx.caller, &from.attr, perm::EXECUTE)?;
    perm::require(&cx.caller, &to.attr, perm::EXECUTE)?;
    let source = from.body.dir()?.get(from_name).ok_or(Nfsstat3::NFS3ERR_NOENT)?;
    Ok((source.clone(), to.body.dir()?.get(to_name).cloned()))
}

/// Two names of one file: RENAME does nothing and succeeds, as POSIX wants it.
fn is_same(source: &Arc<Inode>, target: Option<&Arc<Inode>>) -> bool {
    target.is_some_and(|target| Arc::ptr_eq(source, target))
}
