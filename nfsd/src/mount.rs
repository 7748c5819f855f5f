//! MOUNT: from a path to the handle of a directory. Version 3 (RFC 1813, appendix I), and versions 1 and 2
//! (RFC 1094, appendix A), which `showmount`, `umount` and old tools still speak.
//!
//! A handle of versions 1 and 2 has 32 bytes and belongs to NFSv2. Ours are longer and NFSv2 is not served, so MNT
//! of a path that could be mounted fails there with [`NO_V2`]; one that could not fails with its own error.
//!
//! What can be mounted is an export or any directory below one. Symbolic links on the way are not followed, and
//! ".." is refused: a path here is a name, not a walk.
//!
//! The mount list is what clients said; nothing depends on it. It is bounded, and forgets the oldest entry.

use crate::cx::{CallError, Caller, Cx};
use crate::export::{Export, Exports};
use crate::handle::{FileKey, Handle};
use parking_lot::Mutex;
use proto::mount::{
    DirPath, ExportNode, Exports as ExportList, Fhstatus, MNTPATHLEN, MountBody, MountList, MountProc,
    MountProc1, MountRes3, Mountstat3, Ppathcnf, V2, V3,
};
use proto::nfs3::{Ftype3, Nfsstat3};
use rpc::xdr::{Decode, Encode, Reader, Writer};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

/// The flavours that every export takes, best first: AUTH_SYS and AUTH_NONE (RFC 5531, section 8.2).
pub const FLAVORS: [u32; 2] = [1, 0];
/// The status of MNT in versions 1 and 2 for a path that can only be mounted in version 3: EINVAL.
///
/// Of the few statuses that the kernel's client of these versions knows (EPERM, ENOENT, EACCES, EINVAL), it is the
/// one that blames the request and not its sender: `mount` speaks of a wrong option, and `vers=2` is one.
pub const NO_V2: Mountstat3 = Mountstat3::MNT3ERR_INVAL;
/// Longest mount list.
pub const LIST_MAX: usize = 4096;

/// One line of the mount list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Who.
    pub peer: IpAddr,
    /// What, as it was asked for.
    pub path: Vec<u8>,
}

/// The MOUNT program.
#[derive(Debug)]
pub struct Mount {
    exports: Arc<Exports>,
    list: Mutex<VecDeque<Mounted>>,
}

impl Mount {
    /// Hands out handles of these exports.
    pub fn new(exports: Arc<Exports>) -> Mount {
        Mount {
            exports,
            list: Mutex::default(),
        }
    }

    /// Answers one call of version 1, 2 or 3 and appends the reply to `w`. Returns the status for the log; only
    /// MNT has one.
    ///
    /// Nothing is appended when it returns an error.
    pub fn call(
        &self,
        cx: &Cx<'_>,
        version: u32,
        procedure: u32,
        args: &[u8],
        w: &mut Writer,
    ) -> Result<Mountstat3, CallError> {
        let r = &mut Reader::new(args);
        if version != V3 {
            return self.call_1(cx, version, MountProc1(procedure), r, w);
        }
        match MountProc(procedure) {
            MountProc::MOUNTPROC3_NULL => {}
            MountProc::MOUNTPROC3_MNT => {
                let path = DirPath::decode(r)?;
                return Ok(self.put_mnt(self.mnt(cx, &path), w));
            }
            MountProc::MOUNTPROC3_DUMP => self.put_list(w),
            MountProc::MOUNTPROC3_UMNT => self.umnt(cx, &DirPath::decode(r)?),
            MountProc::MOUNTPROC3_UMNTALL => self.umntall(cx),
            MountProc::MOUNTPROC3_EXPORT => self.put_exports(w),
            _ => return Err(CallError::ProcUnavail),
        }
        Ok(Mountstat3::MNT3_OK)
    }

    /// Versions 1 and 2.
    fn call_1(
        &self,
        cx: &Cx<'_>,
        version: u32,
        procedure: MountProc1,
        r: &mut Reader<'_>,
        w: &mut Writer,
    ) -> Result<Mountstat3, CallError> {
        match procedure {
            MountProc1::MOUNTPROC_NULL => {}
            MountProc1::MOUNTPROC_MNT => {
                let status = self.find(cx, &plain(&DirPath::decode(r)?)).err().unwrap_or(NO_V2);
                Fhstatus::Err(status.0).encode(w);
                return Ok(status);
            }
            MountProc1::MOUNTPROC_DUMP => self.put_list(w),
            MountProc1::MOUNTPROC_UMNT => self.umnt(cx, &DirPath::decode(r)?),
            MountProc1::MOUNTPROC_UMNTALL => self.umntall(cx),
            MountProc1::MOUNTPROC_EXPORT | MountProc1::MOUNTPROC_EXPORTALL => self.put_exports(w),
            MountProc1::MOUNTPROC_PATHCONF if version == V2 => {
                self.pathconf(cx, &DirPath::decode(r)?).encode(w);
            }
            _ => return Err(CallError::ProcUnavail),
        }
        Ok(Mountstat3::MNT3_OK)
    }

    /// PATHCONF of version 2. Its answer has no status: all zeros for a path that cannot be mounted.
    fn pathconf(&self, cx: &Cx<'_>, path: &[u8]) -> Ppathcnf {
        let limits = match self.find(cx, &plain(path)) {
            Ok((export, _)) => export.store.limits(),
            Err(_) => return Ppathcnf::default(),
        };
        Ppathcnf {
            pc_link_max: limits.link_max,
            pc_max_canon: 255,
            pc_max_input: 255,
            pc_name_max: limits.name_max,
            pc_path_max: MNTPATHLEN as u32,
            pc_pipe_buf: 4096,
            ..Ppathcnf::default()
        }
    }

    /// Whether a MNT or PATHCONF of this path may wait for a disk.
    pub fn may_block(&self, procedure: u32, args: &[u8]) -> bool {
        matches!(
            MountProc1(procedure),
            MountProc1::MOUNTPROC_MNT | MountProc1::MOUNTPROC_PATHCONF
        ) && DirPath::decode(&mut Reader::new(args)).is_ok_and(|path| {
            self.exports
                .find(&plain(&path))
                .is_some_and(|(export, _)| export.store.may_block())
        })
    }

    /// MNT (RFC 1813, appendix I, section 5.2.1). The handle, and a line in the mount list.
    pub fn mnt(&self, cx: &Cx<'_>, path: &[u8]) -> Result<Handle, Mountstat3> {
        let path = plain(path);
        let (export, file) = self.find(cx, &path)?;
        let entry = Mounted {
            peer: cx.peer.to_canonical(),
            path: path.into_owned(),
        };
        let mut list = self.list.lock();
        if !list.contains(&entry) {
            if list.len() >= LIST_MAX {
                list.pop_front();
            }
            list.push_back(entry);
        }
        Ok(self.exports.seal(export, &file))
    }

    /// The directory that the caller means, if they may mount it.
    fn find(&self, cx: &Cx<'_>, path: &[u8]) -> Result<(&Export, FileKey), Mountstat3> {
        // Not NOENT: what is outside the exports is nobody's business, says Linux' rpc.mountd too.
        let (export, rest) = self.exports.find(path).ok_or(Mountstat3::MNT3ERR_ACCES)?;
        if !export.admits(cx.peer) {
            return Err(Mountstat3::MNT3ERR_ACCES);
        }
        Ok((export, walk(cx, export, rest)?))
    }

    /// UMNT (5.2.3): forgets that the caller mounted this.
    pub fn umnt(&self, cx: &Cx<'_>, path: &[u8]) {
        let (peer, path) = (cx.peer.to_canonical(), plain(path));
        self.list.lock().retain(|m| m.peer != peer || m.path != *path);
    }

    /// UMNTALL (5.2.4): forgets everything that the caller mounted.
    pub fn umntall(&self, cx: &Cx<'_>) {
        let peer = cx.peer.to_canonical();
        self.list.lock().retain(|m| m.peer != peer);
    }

    /// The mount list, oldest first.
    pub fn list(&self) -> Vec<Mounted> {
        self.list.lock().iter().cloned().collect()
    }

    fn put_mnt(&self, mounted: Result<Handle, Mountstat3>, w: &mut Writer) -> Mountstat3 {
        match mounted {
            Ok(handle) => {
                let ok = MountRes3::Ok {
                    fhandle: handle.as_bytes().into(),
                    auth_flavors: FLAVORS.to_vec(),
                };
                ok.encode(w);
                Mountstat3::MNT3_OK
            }
            Err(status) => {
                MountRes3::Err(status).encode(w);
                status
            }
        }
    }

    /// DUMP (5.2.2).
    fn put_list(&self, w: &mut Writer) {
        let list = self.list();
        let hosts: Vec<String> = list.iter().map(|m| m.peer.to_string()).collect();
        let bodies = list.iter().zip(&hosts).map(|(m, host)| MountBody {
            ml_hostname: host.as_str().into(),
            ml_directory: m.path.as_slice().into(),
        });
        MountList(bodies.collect()).encode(w);
    }

    /// EXPORT (5.2.5).
    fn put_exports(&self, w: &mut Writer) {
        let groups: Vec<Vec<String>> = self
            .exports
            .list()
            .iter()
            .map(|export| export.options.clients.iter().map(ToString::to_string).collect())
            .collect();
        let nodes = self
            .exports
            .list()
            .iter()
            .zip(&groups)
            .map(|(export, groups)| ExportNode {
                ex_dir: export.name.as_str().into(),
                ex_groups: groups.iter().map(|group| group.as_str().into()).collect(),
            });
        ExportList(nodes.collect()).encode(w);
    }
}

/// A failure of `procedure` with this status, for whoever wants a call to fail. Returns whether the procedure
/// can fail: only MNT can.
pub fn fail(procedure: u32, status: Mountstat3, w: &mut Writer) -> bool {
    let can_fail = MountProc(procedure) == MountProc::MOUNTPROC3_MNT;
    if can_fail {
        let status = match status {
            Mountstat3::MNT3_OK => Mountstat3::MNT3ERR_SERVERFAULT,
            other => other,
        };
        MountRes3::Err(status).encode(w);
    }
    can_fail
}

/// An absolute path as the mount list has it: without doubled slashes, `.`, and a slash at the end.
fn plain(path: &[u8]) -> Cow<'_, [u8]> {
    let needless = |part: &[u8]| matches!(part, b"" | b".");
    match path {
        [b'/', rest @ ..] if rest.split(|&b| b == b'/').any(needless) => {
            let parts = rest.split(|&b| b == b'/').filter(|part| !needless(part));
            let mut plain = parts.fold(Vec::new(), |mut plain, part| {
                plain.push(b'/');
                plain.extend(part);
                plain
            });
            if plain.is_empty() {
                plain.push(b'/');
            }
            Cow::Owned(plain)
        }
        _ => Cow::Borrowed(path),
    }
}

/// The directory at `path` below an export's root. mountd looks it up as root, whoever asks.
fn walk(cx: &Cx<'_>, export: &Export, path: &[u8]) -> Result<FileKey, Mountstat3> {
    let cx = cx.with_caller(Caller::ROOT);
    let mut file = export.store.root();
    for part in path
        .split(|&b| b == b'/')
        .filter(|part| !matches!(*part, b"" | b"."))
    {
        if part == b".." {
            return Err(Mountstat3::MNT3ERR_ACCES);
        }
        let found = export.store.lookup(&cx, &file, part).map_err(mount_status)?;
        if found.attr.ftype != Ftype3::NF3DIR {
            return Err(Mountstat3::MNT3ERR_NOTDIR);
        }
        file = found.file;
    }
    Ok(file)
}

fn mount_status(status: Nfsstat3) -> Mountstat3 {
    match status {
        Nfsstat3::NFS3ERR_PERM => Mountstat3::MNT3ERR_PERM,
        Nfsstat3::NFS3ERR_NOENT | Nfsstat3::NFS3ERR_STALE => Mountstat3::MNT3ERR_NOENT,
        Nfsstat3::NFS3ERR_ACCES => Mountstat3::MNT3ERR_ACCES,
        Nfsstat3::NFS3ERR_NOTDIR => Mountstat3::MNT3ERR_NOTDIR,
        Nfsstat3::NFS3ERR_INVAL => Mountstat3::MNT3ERR_INVAL,
        Nfsstat3::NFS3ERR_NAMETOOLONG => Mountstat3::MNT3ERR_NAMETOOLONG,
        _ => Mountstat3::MNT3ERR_IO,
    }
}

#[cfg(test)]
mod tests;
