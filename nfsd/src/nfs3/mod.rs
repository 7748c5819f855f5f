//! NFS version 3 (RFC 1813): one function per procedure.
//!
//! [`Nfs3::call`] takes a procedure number and the bytes of its arguments, and writes the reply. The functions
//! behind it are typed and can be called by themselves. Each finds the file by its handle
//! ([`Exports::resolve_for`]), becomes the caller that the export sees, asks the store, and adds what the reply
//! wants besides: the attributes after a failure, the limits, the write verifier.
//!
//! The files follow the specification's groups: `attributes` (GETATTR, SETATTR, LOOKUP, ACCESS,
//! READLINK), `data` (READ, WRITE, COMMIT), `make` (CREATE, MKDIR, SYMLINK, MKNOD), `names` (REMOVE, RMDIR,
//! RENAME, LINK), `list` (READDIR, READDIRPLUS), `fs` (FSSTAT, FSINFO, PATHCONF).
//!
//! Arguments may be followed by further bytes: RFC 1813 is silent, and Linux knfsd ignores them.

mod attributes;
mod data;
mod describe;
mod fail;
mod fs;
mod list;
mod make;
mod names;

use crate::cx::{CallError, Cx};
use crate::export::{Exports, Squashed, Target};
use crate::handle::FileKey;
use crate::vfs::{Result, Vfs};
use bytes::Bytes;
use proto::nfs3::{NFS3_WRITEVERFSIZE, Nfs3Proc, Nfsstat3, PostOpAttr, Res3, WccData};
use rpc::xdr::{Decode, Encode, Reader, Writer};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub use data::ReadReply;
pub use fail::fail;

/// The NFSv3 program.
#[derive(Debug)]
pub struct Nfs3 {
    exports: Arc<Exports>,
    write_verf: AtomicU64,
}

/// A file, and the caller as its export sees them.
struct Opened<'a> {
    target: Target<'a>,
    squashed: Squashed<'a>,
    cx: &'a Cx<'a>,
}

impl<'a> Opened<'a> {
    fn store(&self) -> &'a dyn Vfs {
        self.target.store()
    }

    fn file(&self) -> &FileKey {
        &self.target.file
    }

    fn cx(&self) -> Cx<'_> {
        self.cx.with_caller(self.squashed.caller())
    }

    /// The attributes, for where they are optional.
    fn attr(&self) -> PostOpAttr {
        self.store().getattr(&self.cx(), self.file()).ok()
    }

    /// What a failed change leaves: nothing before, for nothing changed.
    fn wcc(&self) -> WccData {
        WccData {
            before: None,
            after: self.attr(),
        }
    }

    /// `NFS3ERR_ROFS` if nothing may be changed here.
    fn writable(&self) -> Result<()> {
        if self.target.export.options.read_only {
            Err(Nfsstat3::NFS3ERR_ROFS)
        } else {
            Ok(())
        }
    }
}

impl Nfs3 {
    /// Serves these exports. The verifier must differ from that of an earlier instance that may have lost
    /// unstable data (RFC 1813, section 3.3.7).
    pub fn new(exports: Arc<Exports>, write_verf: [u8; NFS3_WRITEVERFSIZE]) -> Nfs3 {
        Nfs3 {
            exports,
            write_verf: AtomicU64::new(u64::from_be_bytes(write_verf)),
        }
    }

    /// What is served.
    pub fn exports(&self) -> &Exports {
        &self.exports
    }

    /// The verifier that WRITE and COMMIT return.
    pub fn write_verf(&self) -> [u8; NFS3_WRITEVERFSIZE] {
        self.write_verf.load(Relaxed).to_be_bytes()
    }

    /// Sets another: clients then send again what they have not committed, as after a restart.
    pub fn set_write_verf(&self, verf: [u8; NFS3_WRITEVERFSIZE]) {
        self.write_verf.store(u64::from_be_bytes(verf), Relaxed);
    }

    /// A path for people to read. See [`Exports::path_of`].
    pub fn path_of(&self, fh: &[u8]) -> Option<Rc<str>> {
        self.exports.path_of(fh)
    }

    /// Whether a call with these arguments may wait for a disk. It looks no further than the first handle.
    pub fn may_block(&self, args: &[u8]) -> bool {
        let fh = Reader::new(args).opaque("nfs_fh3", proto::nfs3::NFS3_FHSIZE);
        fh.is_ok_and(|fh| self.exports.may_block(fh))
    }

    fn open<'a>(&'a self, cx: &'a Cx<'a>, fh: &[u8]) -> Result<Opened<'a>> {
        let target = self.exports.resolve_for(cx, fh)?;
        Ok(Opened {
            target,
            squashed: target.export.squash(&cx.caller),
            cx,
        })
    }

    /// Answers one call: decodes `args`, a part of `message`, and appends the reply to `w`. Returns the status for the log.
    ///
    /// # Panics
    /// If the arguments of a WRITE are not a part of the message.
    ///
    /// Nothing is appended when it returns an error.
    pub fn call(
        &self,
        cx: &Cx<'_>,
        procedure: u32,
        message: &Bytes,
        args: &[u8],
        w: &mut Writer,
    ) -> std::result::Result<Nfsstat3, CallError> {
        let r = &mut Reader::new(args);
        Ok(match Nfs3Proc(procedure) {
            Nfs3Proc::NFSPROC3_NULL => Nfsstat3::NFS3_OK,
            Nfs3Proc::NFSPROC3_GETATTR => put(w, &self.getattr(cx, get(r)?)),
            Nfs3Proc::NFSPROC3_SETATTR => put(w, &self.setattr(cx, &get(r)?)),
            Nfs3Proc::NFSPROC3_LOOKUP => self.lookup(cx, &get(r)?, w),
            Nfs3Proc::NFSPROC3_ACCESS => put(w, &self.access(cx, &get(r)?)),
            Nfs3Proc::NFSPROC3_READLINK => self.readlink(cx, get(r)?, w),
            Nfs3Proc::NFSPROC3_READ => self.read(cx, &get(r)?).encode_into(w),
            Nfs3Proc::NFSPROC3_WRITE => {
                let write: proto::nfs3::Write3Args<'_> = get(r)?;
                let data = message.slice_ref(&write.data);
                put(w, &self.write(cx, &write, data))
            }
            Nfs3Proc::NFSPROC3_CREATE => self.create(cx, &get(r)?, w),
            Nfs3Proc::NFSPROC3_MKDIR => self.mkdir(cx, &get(r)?, w),
            Nfs3Proc::NFSPROC3_SYMLINK => self.symlink(cx, &get(r)?, w),
            Nfs3Proc::NFSPROC3_MKNOD => self.mknod(cx, &get(r)?, w),
            Nfs3Proc::NFSPROC3_REMOVE => put(w, &self.remove(cx, &get(r)?)),
            Nfs3Proc::NFSPROC3_RMDIR => put(w, &self.rmdir(cx, &get(r)?)),
            Nfs3Proc::NFSPROC3_RENAME => put(w, &self.rename(cx, &get(r)?)),
            Nfs3Proc::NFSPROC3_LINK => put(w, &self.link(cx, &get(r)?)),
            Nfs3Proc::NFSPROC3_READDIR => self.readdir(cx, &get(r)?, w),
            Nfs3Proc::NFSPROC3_READDIRPLUS => self.readdirplus(cx, &get(r)?, w),
            Nfs3Proc::NFSPROC3_FSSTAT => put(w, &self.fsstat(cx, get(r)?)),
            Nfs3Proc::NFSPROC3_FSINFO => put(w, &self.fsinfo(cx, get(r)?)),
            Nfs3Proc::NFSPROC3_PATHCONF => put(w, &self.pathconf(cx, get(r)?)),
            Nfs3Proc::NFSPROC3_COMMIT => put(w, &self.commit(cx, &get(r)?)),
            _ => return Err(CallError::ProcUnavail),
        })
    }
}

fn get<'a, T: Decode<'a>>(r: &mut Reader<'a>) -> std::result::Result<T, CallError> {
    Ok(T::decode(r)?)
}

fn put<T: Encode, F: Encode>(w: &mut Writer, res: &Res3<T, F>) -> Nfsstat3 {
    res.encode(w);
    res.status()
}

#[cfg(test)]
mod tests;
