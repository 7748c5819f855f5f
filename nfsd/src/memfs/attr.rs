//! Operations on one file that exists: attributes, data, and listing a directory.

use super::inode::{Body, Inode, apply, atime_is_due, changed, modified};
use super::{MemFs, ROOT_INO, dir};
use crate::cx::Cx;
use crate::handle::FileKey;
use crate::perm;
use crate::vfs::{
    self, DirEntry, DirPosition, DirSink, FILE_SIZE_MAX, Found, NameUse, Pieces, ReadData, Result, Written,
};
use bytes::Bytes;
use proto::nfs3::{Fattr3, Nfsstat3, Nfstime3, Sattr3, StableHow, WccData};
use std::sync::Arc;

impl MemFs {
    /// SETATTR.
    pub(super) fn set_attributes(
        &self,
        cx: &Cx<'_>,
        file: &FileKey,
        new: &Sattr3,
        guard: Option<Nfstime3>,
    ) -> Result<WccData> {
        let inode = self.inode(file)?;
        let (wcc, _dropped) = {
            let mut guarded = inode.write()?;
            let state = &mut *guarded;
            if guard.is_some_and(|ctime| ctime != state.attr.ctime) {
                return Err(Nfsstat3::NFS3ERR_NOT_SYNC);
            }
            let change = perm::plan_setattr(&cx.caller, &state.attr, new, cx.now())?;
            let before = vfs::wcc_attr(&state.attr);
            let mut dropped = None;
            if let Some(size) = change.size {
                dropped = self.resize(&mut state.attr, &mut state.body, size)?;
            }
            if !change.is_empty() {
                apply(&mut state.attr, &change);
                changed(&mut state.attr, cx.now());
            }
            (vfs::wcc(before, &state.attr), dropped)
        };
        Ok(wcc)
    }

    /// Sets a file's size. Growing is free: the new part is a hole.
    pub(super) fn resize(
        &self,
        attr: &mut Fattr3,
        body: &mut Body,
        size: u64,
    ) -> Result<Option<super::content::Dropped>> {
        let content = body.file_mut()?;
        let dropped = (size < attr.size).then(|| {
            let (freed, dropped) = content.truncate(size);
            attr.used -= freed;
            self.space.free_bytes(freed);
            dropped
        });
        attr.size = size;
        Ok(dropped)
    }

    /// LOOKUP.
    pub(super) fn find(&self, cx: &Cx<'_>, dir: &FileKey, name: &[u8]) -> Result<Found> {
        vfs::check_name(name, NameUse::Find)?;
        let dir = self.inode(dir)?;
        let (dir_attr, found) = {
            let state = dir.read()?;
            let entries = state.body.dir()?;
            perm::require(&cx.caller, &state.attr, perm::EXECUTE)?;
            let found = match name {
                b"." => dir.clone(),
                b".." => self.by_ino(state.place.as_ref().map_or(ROOT_INO, |place| place.dir))?,
                _ => entries.get(name).cloned().ok_or(Nfsstat3::NFS3ERR_NOENT)?,
            };
            (state.attr, found)
        };
        // Gone between the two locks: then there was no such entry.
        let attr = found.attr().map_err(|_| Nfsstat3::NFS3ERR_NOENT)?;
        Ok(Found {
            file: self.key(found.ino),
            attr,
            dir_attr,
        })
    }

    /// READLINK. Like Linux knfsd it asks for no permission: whoever could look the link up may follow it.
    pub(super) fn read_symlink(&self, cx: &Cx<'_>, file: &FileKey) -> Result<(Bytes, Fattr3)> {
        let inode = self.inode(file)?;
        let (text, attr) = {
            let state = inode.read()?;
            match &state.body {
                Body::Symlink(text) => (text.clone(), state.attr),
                _ => return Err(Nfsstat3::NFS3ERR_INVAL),
            }
        };
        Ok((text, accessed(&inode, attr, cx.now())))
    }

    /// READ.
    pub(super) fn read_data(&self, cx: &Cx<'_>, file: &FileKey, offset: u64, count: u32) -> Result<ReadData> {
        let inode = self.inode(file)?;
        let mut data = Pieces::new();
        let (attr, count) = {
            let state = inode.read()?;
            let content = state.body.file()?;
            perm::may_read(&cx.caller, &state.attr)?;
            let there = state.attr.size.saturating_sub(offset);
            let count = u64::from(count).min(there) as u32;
            content.read(offset, count as usize, &mut data);
            (state.attr, count)
        };
        Ok(ReadData {
            attr: accessed(&inode, attr, cx.now()),
            count,
            eof: offset.saturating_add(u64::from(count)) >= attr.size,
            data,
        })
    }

    /// WRITE. All or nothing: without room for the whole, `NFS3ERR_NOSPC`.
    pub(super) fn write_data(
        &self,
        cx: &Cx<'_>,
        file: &FileKey,
        offset: u64,
        data: &Bytes,
        stable: StableHow,
    ) -> Result<Written> {
        let inode = self.inode(file)?;
        let mut guarded = inode.write()?;
        let state = &mut *guarded;
        let content = state.body.file_mut()?;
        perm::may_write(&cx.caller, &state.attr)?;
        let before = vfs::wcc_attr(&state.attr);
        if !data.is_empty() {
            let end = offset
                .checked_add(data.len() as u64)
                .filter(|&end| end <= FILE_SIZE_MAX)
                .ok_or(Nfsstat3::NFS3ERR_FBIG)?;
            let growth = content.growth(offset, data.len());
            self.space.take_bytes(growth)?;
            content.write(offset, data);
            state.attr.used += growth;
            state.attr.size = state.attr.size.max(end);
            state.attr.mode = perm::mode_after_write(&cx.caller, &state.attr);
            modified(&mut state.attr, cx.now());
        }
        Ok(Written {
            wcc: vfs::wcc(before, &state.attr),
            count: data.len() as u32,
            committed: stable,
        })
    }

    /// COMMIT: there is nothing to do but to answer.
    pub(super) fn commit_data(&self, cx: &Cx<'_>, file: &FileKey) -> Result<WccData> {
        let inode = self.inode(file)?;
        let state = inode.read()?;
        state.body.file()?;
        perm::may_write(&cx.caller, &state.attr)?;
        Ok(vfs::wcc(vfs::wcc_attr(&state.attr), &state.attr))
    }

    /// READDIR and READDIRPLUS. Without the right to search the directory there are no handles and
    /// attributes in it, as there would be none by LOOKUP.
    pub(super) fn list(
        &self,
        cx: &Cx<'_>,
        dir: &FileKey,
        from: DirPosition,
        plus: bool,
        sink: &mut dyn DirSink,
    ) -> Result<bool> {
        let inode = self.inode(dir)?;
        // The parent's attributes are wanted for "..". They are taken first, because locks go downwards.
        let parent = if from.cookie < dir::DOT_DOT {
            self.parent(&inode)?
        } else {
            inode.clone()
        };
        let parent_attr = parent.attr()?;
        let (eof, attr) = {
            let state = inode.read()?;
            let entries = state.body.dir()?;
            perm::require(&cx.caller, &state.attr, perm::READ)?;
            let plus = plus && perm::permits(&cx.caller, &state.attr, perm::EXECUTE);
            let verifier = self.cookie_verifier(inode.ino);
            if from.cookie != 0 {
                // Quirk(linux 5.10): after its cache was invalidated in mid-listing the client goes on with the
                // cookie and a verifier of zeros.
                let foreign = from.verifier != 0 && from.verifier != verifier;
                if foreign || !entries.has_issued(from.cookie) {
                    return Err(Nfsstat3::NFS3ERR_BAD_COOKIE);
                }
            }
            sink.start(&state.attr, verifier);
            let mut give = |name: &[u8], cookie, ino, attr: Option<Fattr3>| {
                sink.entry(&DirEntry {
                    fileid: ino,
                    name,
                    cookie,
                    plus: attr.filter(|_| plus).map(|attr| (self.key(ino), attr)),
                })
            };
            let dots = [
                (&b"."[..], dir::DOT, inode.ino, state.attr),
                (&b".."[..], dir::DOT_DOT, parent.ino, parent_attr),
            ];
            let all = dots
                .into_iter()
                .filter(|&(_, cookie, ..)| cookie > from.cookie)
                .all(|(name, cookie, ino, attr)| give(name, cookie, ino, Some(attr)))
                && entries.after(from.cookie).all(|(cookie, entry)| {
                    let attr = if plus { entry.inode.attr().ok() } else { None };
                    give(&entry.name, cookie, entry.inode.ino, attr)
                });
            (all, state.attr)
        };
        accessed(&inode, attr, cx.now());
        Ok(eof)
    }

    /// The directory above; the root's is the root.
    fn parent(&self, dir: &Arc<Inode>) -> Result<Arc<Inode>> {
        let above = dir.read()?.place.as_ref().map(|place| place.dir);
        match above {
            Some(ino) if dir.is_dir() => self.by_ino(ino),
            _ => Ok(dir.clone()),
        }
    }

    /// Belongs to one directory of one instance. Not 0, which clients send that have none.
    fn cookie_verifier(&self, ino: u64) -> u64 {
        (self.generation.rotate_left(32) ^ ino.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1
    }

    /// One of the file's paths.
    pub(super) fn path(&self, file: &FileKey) -> Option<Vec<u8>> {
        /// Deeper ones are cut off at the top: this is for people to read.
        const DEPTH_MAX: usize = 1000;
        let mut inode = self.inode(file).ok()?;
        let mut parts = Vec::new();
        while inode.ino != ROOT_INO && parts.len() < DEPTH_MAX {
            let place = inode.read().ok()?.place.clone()?;
            inode = self.by_ino(place.dir).ok()?;
            parts.push(place.name);
        }
        let mut path = Vec::new();
        for part in parts.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(part);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        Some(path)
    }
}

/// Records a read at `now` if it is worth it; returns the attributes as they are then.
fn accessed(inode: &Inode, attr: Fattr3, now: Nfstime3) -> Fattr3 {
    if !atime_is_due(&attr, now) {
        return attr;
    }
    match inode.write() {
        Ok(mut state) => {
            state.attr.atime = state.attr.atime.max(now);
            state.attr
        }
        Err(_) => attr,
    }
}
