//! The procedures of NFS version 3 (RFC 1813, section 3.3), each as a method. Results are owned; failures are the
//! server's status or what went wrong on the way. `NFS3ERR_JUKEBOX` never comes out: the call is made again, as every
//! kernel does (section 2.6).

use crate::line::{Line, LineError, Who};
use bytes::Bytes;
use nix::errno::Errno;
use proto::nfs3::{
    Access3Args, Access3Ok, Commit3Args, Commit3Ok, Create3Args, Create3Res, CreateHow3, DirList3,
    Diropargs3, Entryplus3, Fattr3, Fsinfo3Ok, Fsstat3Ok, Ftype3, Link3Args, Link3Wcc, Lookup3Ok, Mkdir3Args,
    Mknod3Args, MknodData3, NFS3_COOKIEVERFSIZE, NFS3_FHSIZE, NFS3_WRITEVERFSIZE, Nfs3Proc, NfsFh3, Nfsstat3,
    Pathconf3Ok, PostOpAttr, Read3Args, Read3Ok, Readdirplus3Args, Readlink3Ok, Rename3Args, Rename3Wcc,
    Res3, Sattr3, Setattr3Args, StableHow, Symlink3Args, WccData, Write3Ok,
};
use rpc::msg::RpcError;
use rpc::xdr::{self, Decode, DecodeError, Encode, Opaque, Writer};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// After this a call that was answered `NFS3ERR_JUKEBOX` is made again. Linux has the same.
const JUKEBOX_PAUSE: Duration = Duration::from_secs(5);

/// A file handle of the server's.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fh(Arc<[u8]>);

impl Fh {
    /// The handle that the server gave; at most [`NFS3_FHSIZE`] bytes.
    pub fn new(fh: &NfsFh3<'_>) -> Fh {
        Fh(fh.0.into())
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn wire(&self) -> NfsFh3<'_> {
        Opaque::<NFS3_FHSIZE>(&self.0)
    }
}

impl fmt::Debug for Fh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.wire())
    }
}

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum NfsError {
    /// The server's status.
    #[error("{0}")]
    Status(Nfsstat3),
    /// There was no answer that can be used.
    #[error(transparent)]
    Line(#[from] LineError),
}

impl From<DecodeError> for NfsError {
    fn from(error: DecodeError) -> Self {
        NfsError::Line(error.into())
    }
}

impl NfsError {
    /// What a program is told, as Linux tells it.
    pub fn errno(&self) -> Errno {
        match self {
            NfsError::Status(status) => errno_of(*status),
            NfsError::Line(LineError::TimedOut(_)) => Errno::ETIMEDOUT,
            NfsError::Line(LineError::Refused(RpcError::Auth(_))) => Errno::EACCES,
            NfsError::Line(LineError::Refused(RpcError::ProcUnavail)) => Errno::EOPNOTSUPP,
            NfsError::Line(_) => Errno::EIO,
        }
    }

    /// Whether it is this status.
    pub fn is(&self, status: Nfsstat3) -> bool {
        matches!(self, NfsError::Status(its) if *its == status)
    }
}

/// The numbers of RFC 1813 below 10000 are those of errno on most systems; here each is named.
fn errno_of(status: Nfsstat3) -> Errno {
    match status {
        Nfsstat3::NFS3ERR_PERM => Errno::EPERM,
        Nfsstat3::NFS3ERR_NOENT => Errno::ENOENT,
        Nfsstat3::NFS3ERR_NXIO => Errno::ENXIO,
        Nfsstat3::NFS3ERR_ACCES => Errno::EACCES,
        Nfsstat3::NFS3ERR_EXIST => Errno::EEXIST,
        Nfsstat3::NFS3ERR_XDEV => Errno::EXDEV,
        Nfsstat3::NFS3ERR_NODEV => Errno::ENODEV,
        Nfsstat3::NFS3ERR_NOTDIR => Errno::ENOTDIR,
        Nfsstat3::NFS3ERR_ISDIR => Errno::EISDIR,
        Nfsstat3::NFS3ERR_INVAL => Errno::EINVAL,
        Nfsstat3::NFS3ERR_FBIG => Errno::EFBIG,
        Nfsstat3::NFS3ERR_NOSPC => Errno::ENOSPC,
        Nfsstat3::NFS3ERR_ROFS => Errno::EROFS,
        Nfsstat3::NFS3ERR_MLINK => Errno::EMLINK,
        Nfsstat3::NFS3ERR_NAMETOOLONG => Errno::ENAMETOOLONG,
        Nfsstat3::NFS3ERR_NOTEMPTY => Errno::ENOTEMPTY,
        Nfsstat3::NFS3ERR_DQUOT => Errno::EDQUOT,
        Nfsstat3::NFS3ERR_STALE | Nfsstat3::NFS3ERR_BADHANDLE => Errno::ESTALE,
        Nfsstat3::NFS3ERR_REMOTE => Errno::EREMOTE,
        Nfsstat3::NFS3ERR_NOTSUPP => Errno::EOPNOTSUPP,
        _ => Errno::EIO,
    }
}

/// What an operation came to.
pub type Result<T> = std::result::Result<T, NfsError>;

/// What LOOKUP, CREATE and their like found or made.
#[derive(Debug, Clone)]
pub struct Found {
    /// The handle. CREATE may leave it out.
    pub fh: Option<Fh>,
    /// The attributes, if the server sent them.
    pub attr: PostOpAttr,
    /// Those of the directory, after the operation.
    pub dir: PostOpAttr,
}

/// What READ brought.
#[derive(Debug, Clone)]
pub struct ReadData {
    /// The bytes: a part of the reply.
    pub data: Bytes,
    /// Whether they reach the end of the file.
    pub eof: bool,
    /// The file's attributes.
    pub attr: PostOpAttr,
}

/// A write verifier: another one means that unstable data may be lost (RFC 1813, section 3.3.7).
pub type WriteVerf = [u8; NFS3_WRITEVERFSIZE];

/// An entry of a directory.
#[derive(Debug, Clone)]
pub struct DirEntry {
    /// Number of the file.
    pub fileid: u64,
    /// Name.
    pub name: Vec<u8>,
    /// Where to go on behind it.
    pub cookie: u64,
    /// Attributes, if the server sent them.
    pub attr: PostOpAttr,
    /// Handle, if the server sent it.
    pub fh: Option<Fh>,
}

/// A part of a directory.
#[derive(Debug, Clone)]
pub struct DirPart {
    /// The directory's attributes.
    pub attr: PostOpAttr,
    /// Which its cookies belong to.
    pub verf: [u8; NFS3_COOKIEVERFSIZE],
    /// The entries.
    pub entries: Vec<DirEntry>,
    /// Whether these were the last.
    pub eof: bool,
}

/// `WRITE3args` with the data sent from where they lie.
struct WriteArgs<'a> {
    fh: &'a Fh,
    offset: u64,
    stable: StableHow,
    data: &'a [Bytes],
}

impl Encode for WriteArgs<'_> {
    fn encode(&self, w: &mut Writer) {
        self.fh.wire().encode(w);
        w.u64(self.offset);
        w.u32(self.data.iter().map(Bytes::len).sum::<usize>() as u32);
        self.stable.encode(w);
        w.opaque_parts(self.data.iter().cloned());
    }
}

/// The NFS program of a server.
#[derive(Clone)]
pub struct Nfs {
    line: Line,
}

/// The result out of a reply, or the status.
fn result<'a, T: Decode<'a>, F: Decode<'a>>(reply: &'a Bytes) -> Result<T> {
    match xdr::from_bytes::<Res3<T, F>>(reply)? {
        Res3::Ok(result) => Ok(result),
        Res3::Err(status, _) => Err(NfsError::Status(status)),
    }
}

fn place<'a>(dir: &'a Fh, name: &'a [u8]) -> Diropargs3<'a> {
    Diropargs3 {
        dir: dir.wire(),
        name: Opaque(name),
    }
}

impl Nfs {
    /// Through this line.
    pub fn new(line: Line) -> Nfs {
        Nfs { line }
    }

    /// The line.
    pub fn line(&self) -> &Line {
        &self.line
    }

    async fn call(&self, who: &Who, procedure: Nfs3Proc, args: &(dyn Encode + Sync)) -> Result<Bytes> {
        loop {
            let reply = self.line.call(who, procedure.0, args).await?;
            let jukebox = Nfsstat3::NFS3ERR_JUKEBOX.0.to_be_bytes();
            if !reply.starts_with(&jukebox) {
                return Ok(reply);
            }
            tokio::time::sleep(JUKEBOX_PAUSE).await;
        }
    }

    /// `NFSPROC3_NULL`.
    pub async fn null(&self, who: &Who) -> Result<()> {
        self.line.call(who, Nfs3Proc::NFSPROC3_NULL.0, &()).await?;
        Ok(())
    }

    /// `NFSPROC3_GETATTR`.
    pub async fn getattr(&self, who: &Who, fh: &Fh) -> Result<Fattr3> {
        let reply = self.call(who, Nfs3Proc::NFSPROC3_GETATTR, &fh.wire()).await?;
        result::<Fattr3, ()>(&reply)
    }

    /// `NFSPROC3_SETATTR`; the attributes afterwards.
    pub async fn setattr(&self, who: &Who, fh: &Fh, new: Sattr3) -> Result<PostOpAttr> {
        let args = Setattr3Args {
            object: fh.wire(),
            new_attributes: new,
            guard: None,
        };
        let reply = self.call(who, Nfs3Proc::NFSPROC3_SETATTR, &args).await?;
        Ok(result::<WccData, WccData>(&reply)?.after)
    }

    /// `NFSPROC3_LOOKUP`.
    pub async fn lookup(&self, who: &Who, dir: &Fh, name: &[u8]) -> Result<Found> {
        let reply = self
            .call(who, Nfs3Proc::NFSPROC3_LOOKUP, &place(dir, name))
            .await?;
        let found = result::<Lookup3Ok<'_>, PostOpAttr>(&reply)?;
        Ok(Found {
            fh: Some(Fh::new(&found.object)),
            attr: found.obj_attributes,
            dir: found.dir_attributes,
        })
    }

    /// `NFSPROC3_ACCESS`: which of the rights there are, and the attributes.
    pub async fn access(&self, who: &Who, fh: &Fh, access: u32) -> Result<(u32, PostOpAttr)> {
        let args = Access3Args {
            object: fh.wire(),
            access,
        };
        let reply = self.call(who, Nfs3Proc::NFSPROC3_ACCESS, &args).await?;
        let answer = result::<Access3Ok, PostOpAttr>(&reply)?;
        Ok((answer.access, answer.obj_attributes))
    }

    /// `NFSPROC3_READLINK`.
    pub async fn readlink(&self, who: &Who, fh: &Fh) -> Result<Vec<u8>> {
        let reply = self.call(who, Nfs3Proc::NFSPROC3_READLINK, &fh.wire()).await?;
        Ok(result::<Readlink3Ok<'_>, PostOpAttr>(&reply)?.data.0.to_vec())
    }

    /// `NFSPROC3_READ`.
    pub async fn read(&self, who: &Who, fh: &Fh, offset: u64, count: u32) -> Result<ReadData> {
        let args = Read3Args {
            file: fh.wire(),
            offset,
            count,
        };
        let reply = self.call(who, Nfs3Proc::NFSPROC3_READ, &args).await?;
        let read = result::<Read3Ok<'_>, PostOpAttr>(&reply)?;
        let data = read.data.0.get(..count as usize).unwrap_or(read.data.0);
        Ok(ReadData {
            data: reply.slice_ref(data),
            eof: read.eof,
            attr: read.file_attributes,
        })
    }

    /// `NFSPROC3_WRITE`.
    pub async fn write(
        &self,
        who: &Who,
        fh: &Fh,
        offset: u64,
        data: &[Bytes],
        stable: StableHow,
    ) -> Result<Write3Ok> {
        let args = WriteArgs {
            fh,
            offset,
            stable,
            data,
        };
        let reply = self.call(who, Nfs3Proc::NFSPROC3_WRITE, &args).await?;
        result::<Write3Ok, WccData>(&reply)
    }

    /// `NFSPROC3_COMMIT` of the whole file.
    pub async fn commit(&self, who: &Who, fh: &Fh) -> Result<Commit3Ok> {
        let args = Commit3Args {
            file: fh.wire(),
            offset: 0,
            count: 0,
        };
        let reply = self.call(who, Nfs3Proc::NFSPROC3_COMMIT, &args).await?;
        result::<Commit3Ok, WccData>(&reply)
    }

    async fn make(&self, who: &Who, procedure: Nfs3Proc, args: &(dyn Encode + Sync)) -> Result<Found> {
        let reply = self.call(who, procedure, args).await?;
        match xdr::from_bytes::<Create3Res<'_>>(&reply)? {
            Res3::Ok(made) => Ok(Found {
                fh: made.obj.as_ref().map(Fh::new),
                attr: made.obj_attributes,
                dir: made.dir_wcc.after,
            }),
            Res3::Err(status, _) => Err(NfsError::Status(status)),
        }
    }

    /// `NFSPROC3_CREATE`.
    pub async fn create(&self, who: &Who, dir: &Fh, name: &[u8], how: CreateHow3) -> Result<Found> {
        let where_ = place(dir, name);
        self.make(who, Nfs3Proc::NFSPROC3_CREATE, &Create3Args { where_, how })
            .await
    }

    /// `NFSPROC3_MKDIR`.
    pub async fn mkdir(&self, who: &Who, dir: &Fh, name: &[u8], attributes: Sattr3) -> Result<Found> {
        let where_ = place(dir, name);
        let args = Mkdir3Args { where_, attributes };
        self.make(who, Nfs3Proc::NFSPROC3_MKDIR, &args).await
    }

    /// `NFSPROC3_SYMLINK`.
    pub async fn symlink(
        &self,
        who: &Who,
        dir: &Fh,
        name: &[u8],
        text: &[u8],
        attributes: Sattr3,
    ) -> Result<Found> {
        let args = Symlink3Args {
            where_: place(dir, name),
            symlink_attributes: attributes,
            symlink_data: Opaque(text),
        };
        self.make(who, Nfs3Proc::NFSPROC3_SYMLINK, &args).await
    }

    /// `NFSPROC3_MKNOD`.
    pub async fn mknod(&self, who: &Who, dir: &Fh, name: &[u8], what: MknodData3) -> Result<Found> {
        let where_ = place(dir, name);
        self.make(who, Nfs3Proc::NFSPROC3_MKNOD, &Mknod3Args { where_, what })
            .await
    }

    /// `NFSPROC3_REMOVE`; the directory's attributes afterwards.
    pub async fn remove(&self, who: &Who, dir: &Fh, name: &[u8]) -> Result<PostOpAttr> {
        let reply = self
            .call(who, Nfs3Proc::NFSPROC3_REMOVE, &place(dir, name))
            .await?;
        Ok(result::<WccData, WccData>(&reply)?.after)
    }

    /// `NFSPROC3_RMDIR`; the directory's attributes afterwards.
    pub async fn rmdir(&self, who: &Who, dir: &Fh, name: &[u8]) -> Result<PostOpAttr> {
        let reply = self
            .call(who, Nfs3Proc::NFSPROC3_RMDIR, &place(dir, name))
            .await?;
        Ok(result::<WccData, WccData>(&reply)?.after)
    }

    /// `NFSPROC3_RENAME`; the attributes of both directories afterwards.
    pub async fn rename(
        &self,
        who: &Who,
        from: (&Fh, &[u8]),
        to: (&Fh, &[u8]),
    ) -> Result<(PostOpAttr, PostOpAttr)> {
        let args = Rename3Args {
            from: place(from.0, from.1),
            to: place(to.0, to.1),
        };
        let reply = self.call(who, Nfs3Proc::NFSPROC3_RENAME, &args).await?;
        let wcc = result::<Rename3Wcc, Rename3Wcc>(&reply)?;
        Ok((wcc.fromdir_wcc.after, wcc.todir_wcc.after))
    }

    /// `NFSPROC3_LINK`; the attributes of the file and of the directory afterwards.
    pub async fn link(&self, who: &Who, file: &Fh, to: (&Fh, &[u8])) -> Result<(PostOpAttr, PostOpAttr)> {
        let args = Link3Args {
            file: file.wire(),
            link: place(to.0, to.1),
        };
        let reply = self.call(who, Nfs3Proc::NFSPROC3_LINK, &args).await?;
        let wcc = result::<Link3Wcc, Link3Wcc>(&reply)?;
        Ok((wcc.file_attributes, wcc.linkdir_wcc.after))
    }

    /// `NFSPROC3_READDIRPLUS` behind `cookie`, at most `bytes` of reply.
    pub async fn readdirplus(
        &self,
        who: &Who,
        dir: &Fh,
        cookie: u64,
        verf: [u8; NFS3_COOKIEVERFSIZE],
        bytes: u32,
    ) -> Result<DirPart> {
        let args = Readdirplus3Args {
            dir: dir.wire(),
            cookie,
            cookieverf: verf,
            dircount: bytes,
            maxcount: bytes,
        };
        let reply = self.call(who, Nfs3Proc::NFSPROC3_READDIRPLUS, &args).await?;
        let list = result::<DirList3<Entryplus3<'_>>, PostOpAttr>(&reply)?;
        let entry = |entry: &Entryplus3<'_>| DirEntry {
            fileid: entry.fileid,
            name: entry.name.0.to_vec(),
            cookie: entry.cookie,
            attr: entry.name_attributes,
            fh: entry.name_handle.as_ref().map(Fh::new),
        };
        Ok(DirPart {
            attr: list.dir_attributes,
            verf: list.cookieverf,
            entries: list.entries.iter().map(entry).collect(),
            eof: list.eof,
        })
    }

    /// `NFSPROC3_FSSTAT`.
    pub async fn fsstat(&self, who: &Who, root: &Fh) -> Result<Fsstat3Ok> {
        let reply = self.call(who, Nfs3Proc::NFSPROC3_FSSTAT, &root.wire()).await?;
        result::<Fsstat3Ok, PostOpAttr>(&reply)
    }

    /// `NFSPROC3_FSINFO`.
    pub async fn fsinfo(&self, who: &Who, root: &Fh) -> Result<Fsinfo3Ok> {
        let reply = self.call(who, Nfs3Proc::NFSPROC3_FSINFO, &root.wire()).await?;
        result::<Fsinfo3Ok, PostOpAttr>(&reply)
    }

    /// `NFSPROC3_PATHCONF`.
    pub async fn pathconf(&self, who: &Who, fh: &Fh) -> Result<Pathconf3Ok> {
        let reply = self.call(who, Nfs3Proc::NFSPROC3_PATHCONF, &fh.wire()).await?;
        result::<Pathconf3Ok, PostOpAttr>(&reply)
    }
}

/// Whether a type has a device number.
pub fn is_device(ftype: Ftype3) -> bool {
    matches!(ftype, Ftype3::NF3CHR | Ftype3::NF3BLK)
}
