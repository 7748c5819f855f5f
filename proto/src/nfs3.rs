//! NFS version 3, program 100003 (RFC 1813): arguments and results of the 22 procedures.
//!
//! Arguments and results borrow what they can from the record. Where RFC 1813 writes a union of a status,
//! a result and a failure, this module has [`Res3`]. Weak cache consistency data ([`WccData`]) and
//! attributes after the operation ([`PostOpAttr`]) are optional everywhere, as section 2.6 says.
//!
//! File names are bytes, at most as long as the record: a name over 255 bytes must reach the handler, which
//! answers `NFS3ERR_NAMETOOLONG`; cutting it off here would turn it into `GARBAGE_ARGS`.

use rpc::xdr::{self, Decode, DecodeErrorKind, Encode, Opaque, RECORD, Reader, Writer};
use rpc::{xdr_enum, xdr_struct};

/// Program number.
pub const PROGRAM: u32 = 100_003;
/// This version.
pub const V3: u32 = 3;
/// Where NFS is found by default.
pub const NFS_PORT: u16 = 2049;

/// `NFS3_FHSIZE`: the longest file handle, in bytes.
pub const NFS3_FHSIZE: usize = 64;
/// `NFS3_COOKIEVERFSIZE`, in bytes.
pub const NFS3_COOKIEVERFSIZE: usize = 8;
/// `NFS3_CREATEVERFSIZE`, in bytes.
pub const NFS3_CREATEVERFSIZE: usize = 8;
/// `NFS3_WRITEVERFSIZE`, in bytes.
pub const NFS3_WRITEVERFSIZE: usize = 8;

/// `nfs_fh3`: names a file for as long as it exists.
pub type NfsFh3<'a> = Opaque<'a, NFS3_FHSIZE>;
/// `filename3`.
pub type Filename3<'a> = Opaque<'a, RECORD>;
/// `nfspath3`: the text of a symbolic link.
pub type Nfspath3<'a> = Opaque<'a, RECORD>;

xdr_enum! {
    /// The procedures.
    pub enum Nfs3Proc {
        /// Does nothing.
        NFSPROC3_NULL = 0,
        /// Attributes of a file.
        NFSPROC3_GETATTR = 1,
        /// Set them.
        NFSPROC3_SETATTR = 2,
        /// Name to handle.
        NFSPROC3_LOOKUP = 3,
        /// What may I do?
        NFSPROC3_ACCESS = 4,
        /// Text of a symbolic link.
        NFSPROC3_READLINK = 5,
        /// Read.
        NFSPROC3_READ = 6,
        /// Write.
        NFSPROC3_WRITE = 7,
        /// Make a regular file.
        NFSPROC3_CREATE = 8,
        /// Make a directory.
        NFSPROC3_MKDIR = 9,
        /// Make a symbolic link.
        NFSPROC3_SYMLINK = 10,
        /// Make a device, socket or pipe.
        NFSPROC3_MKNOD = 11,
        /// Remove a file.
        NFSPROC3_REMOVE = 12,
        /// Remove a directory.
        NFSPROC3_RMDIR = 13,
        /// Rename.
        NFSPROC3_RENAME = 14,
        /// Make a hard link.
        NFSPROC3_LINK = 15,
        /// List a directory.
        NFSPROC3_READDIR = 16,
        /// List it with attributes and handles.
        NFSPROC3_READDIRPLUS = 17,
        /// Space and inodes.
        NFSPROC3_FSSTAT = 18,
        /// Limits and preferred sizes.
        NFSPROC3_FSINFO = 19,
        /// POSIX limits.
        NFSPROC3_PATHCONF = 20,
        /// Make written data stable.
        NFSPROC3_COMMIT = 21,
    }
}

xdr_enum! {
    /// `nfsstat3` (RFC 1813, section 2.6).
    pub enum Nfsstat3 {
        /// Done.
        NFS3_OK = 0,
        /// Not owner.
        NFS3ERR_PERM = 1,
        /// No such file or directory.
        NFS3ERR_NOENT = 2,
        /// I/O error.
        NFS3ERR_IO = 5,
        /// No such device or address.
        NFS3ERR_NXIO = 6,
        /// Permission denied.
        NFS3ERR_ACCES = 13,
        /// File exists.
        NFS3ERR_EXIST = 17,
        /// Hard link across devices.
        NFS3ERR_XDEV = 18,
        /// No such device.
        NFS3ERR_NODEV = 19,
        /// Not a directory.
        NFS3ERR_NOTDIR = 20,
        /// Is a directory.
        NFS3ERR_ISDIR = 21,
        /// Invalid argument.
        NFS3ERR_INVAL = 22,
        /// File too large.
        NFS3ERR_FBIG = 27,
        /// No space left.
        NFS3ERR_NOSPC = 28,
        /// Read-only file system.
        NFS3ERR_ROFS = 30,
        /// Too many hard links.
        NFS3ERR_MLINK = 31,
        /// Name too long.
        NFS3ERR_NAMETOOLONG = 63,
        /// Directory not empty.
        NFS3ERR_NOTEMPTY = 66,
        /// Quota exceeded.
        NFS3ERR_DQUOT = 69,
        /// The handle's file is gone.
        NFS3ERR_STALE = 70,
        /// Too many levels of remote in path.
        NFS3ERR_REMOTE = 71,
        /// The handle is not one of ours.
        NFS3ERR_BADHANDLE = 10001,
        /// The guard of SETATTR does not match.
        NFS3ERR_NOT_SYNC = 10002,
        /// The directory cookie is stale.
        NFS3ERR_BAD_COOKIE = 10003,
        /// Operation not supported.
        NFS3ERR_NOTSUPP = 10004,
        /// Buffer too small.
        NFS3ERR_TOOSMALL = 10005,
        /// A failure on the server.
        NFS3ERR_SERVERFAULT = 10006,
        /// That type of object cannot be made.
        NFS3ERR_BADTYPE = 10007,
        /// Started, not finished: ask again later.
        NFS3ERR_JUKEBOX = 10008,
    }
}

xdr_enum! {
    /// `ftype3`.
    pub enum Ftype3 {
        /// Regular file.
        NF3REG = 1,
        /// Directory.
        NF3DIR = 2,
        /// Block device.
        NF3BLK = 3,
        /// Character device.
        NF3CHR = 4,
        /// Symbolic link.
        NF3LNK = 5,
        /// Socket.
        NF3SOCK = 6,
        /// Named pipe.
        NF3FIFO = 7,
    }
}

xdr_enum! {
    /// `stable_how`: how safe data must be before WRITE is answered.
    pub enum StableHow {
        /// In memory will do; COMMIT follows.
        UNSTABLE = 0,
        /// Data on stable storage.
        DATA_SYNC = 1,
        /// Data and attributes on stable storage.
        FILE_SYNC = 2,
    }
}

xdr_enum! {
    /// `time_how`.
    pub enum TimeHow {
        /// Leave it.
        DONT_CHANGE = 0,
        /// The server's present time.
        SET_TO_SERVER_TIME = 1,
        /// The time given.
        SET_TO_CLIENT_TIME = 2,
    }
}

xdr_enum! {
    /// `createmode3`.
    pub enum CreateMode3 {
        /// An existing file will do.
        UNCHECKED = 0,
        /// An existing file is an error.
        GUARDED = 1,
        /// As guarded, but a repeated request finds its own file by the verifier.
        EXCLUSIVE = 2,
    }
}

/// ACCESS bits (RFC 1813, section 3.3.4).
pub mod access {
    /// Read data or list a directory.
    pub const READ: u32 = 0x01;
    /// Look up a name in a directory.
    pub const LOOKUP: u32 = 0x02;
    /// Rewrite data or change directory entries.
    pub const MODIFY: u32 = 0x04;
    /// Write new data or add directory entries.
    pub const EXTEND: u32 = 0x08;
    /// Delete a directory entry.
    pub const DELETE: u32 = 0x10;
    /// Execute a file.
    pub const EXECUTE: u32 = 0x20;
    /// Every bit that the specification names.
    pub const ALL: u32 = 0x3f;
}

/// FSINFO properties (RFC 1813, section 3.3.19).
pub mod fsf3 {
    /// Hard links are supported.
    pub const LINK: u32 = 0x01;
    /// Symbolic links are supported.
    pub const SYMLINK: u32 = 0x02;
    /// PATHCONF is the same for all files.
    pub const HOMOGENEOUS: u32 = 0x08;
    /// Times can be set.
    pub const CANSETTIME: u32 = 0x10;
}

xdr_struct! {
    /// `nfstime3`: seconds and nanoseconds since 1970.
    #[derive(Default, PartialOrd, Ord, Hash)]
    pub struct Nfstime3 {
        /// Seconds.
        seconds: u32,
        /// Nanoseconds, below 1,000,000,000.
        nseconds: u32,
    }
}

xdr_struct! {
    /// `specdata3`: device numbers.
    #[derive(Default)]
    pub struct Specdata3 {
        /// Major.
        specdata1: u32,
        /// Minor.
        specdata2: u32,
    }
}

xdr_struct! {
    /// `fattr3`: all attributes of a file.
    pub struct Fattr3 {
        /// Type.
        ftype: Ftype3,
        /// Permission bits, set-id bits and the sticky bit.
        mode: u32,
        /// Hard links.
        nlink: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Size in bytes.
        size: u64,
        /// Bytes on disk.
        used: u64,
        /// Device numbers.
        rdev: Specdata3,
        /// File system id.
        fsid: u64,
        /// Unique number within the file system.
        fileid: u64,
        /// Last access.
        atime: Nfstime3,
        /// Last change of the data.
        mtime: Nfstime3,
        /// Last change of the attributes.
        ctime: Nfstime3,
    }
}

/// `post_op_attr`.
pub type PostOpAttr = Option<Fattr3>;
/// `post_op_fh3`.
pub type PostOpFh3<'a> = Option<NfsFh3<'a>>;

xdr_struct! {
    /// `wcc_attr`: what a client needs to see whether its cache was still right.
    pub struct WccAttr {
        /// Size in bytes.
        size: u64,
        /// Last change of the data.
        mtime: Nfstime3,
        /// Last change of the attributes.
        ctime: Nfstime3,
    }
}

xdr_struct! {
    /// `wcc_data`: a file's attributes before and after the operation.
    #[derive(Default)]
    pub struct WccData {
        /// Before, taken in the same instant as the change.
        before: Option<WccAttr>,
        /// After.
        after: PostOpAttr,
    }
}

/// `set_atime` and `set_mtime`. An unknown `time_how` cannot be decoded: the union has no such arm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SetTime {
    /// Leave it.
    #[default]
    DontChange,
    /// The server's present time.
    ServerTime,
    /// This time.
    ClientTime(Nfstime3),
}

impl Decode<'_> for SetTime {
    fn decode(r: &mut Reader<'_>) -> xdr::Result<Self> {
        let before = r.clone();
        match TimeHow::decode(r)? {
            TimeHow::DONT_CHANGE => Ok(SetTime::DontChange),
            TimeHow::SET_TO_SERVER_TIME => Ok(SetTime::ServerTime),
            TimeHow::SET_TO_CLIENT_TIME => Nfstime3::decode(r).map(SetTime::ClientTime),
            TimeHow(v) => Err(before.error("time_how", DecodeErrorKind::NoArm(v))),
        }
    }
}

impl Encode for SetTime {
    fn encode(&self, w: &mut Writer) {
        match self {
            SetTime::DontChange => TimeHow::DONT_CHANGE.encode(w),
            SetTime::ServerTime => TimeHow::SET_TO_SERVER_TIME.encode(w),
            SetTime::ClientTime(t) => {
                TimeHow::SET_TO_CLIENT_TIME.encode(w);
                t.encode(w);
            }
        }
    }
}

xdr_struct! {
    /// `sattr3`: the attributes to set; those that are `None` stay.
    #[derive(Default)]
    pub struct Sattr3 {
        /// Permission bits.
        mode: Option<u32>,
        /// Owner.
        uid: Option<u32>,
        /// Group.
        gid: Option<u32>,
        /// Size: truncates or extends.
        size: Option<u64>,
        /// Last access.
        atime: SetTime,
        /// Last change.
        mtime: SetTime,
    }
}

xdr_struct! {
    /// `diropargs3`: a name in a directory.
    pub struct Diropargs3<'a> {
        /// The directory.
        dir: NfsFh3<'a>,
        /// The name.
        name: Filename3<'a>,
    }
}

/// Status, then the result if it is `NFS3_OK` and the failure's data if not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Res3<T, F> {
    /// `NFS3_OK`.
    Ok(T),
    /// Any other status.
    Err(Nfsstat3, F),
}

impl<T, F> Res3<T, F> {
    /// The status on the wire.
    pub fn status(&self) -> Nfsstat3 {
        match self {
            Res3::Ok(_) => Nfsstat3::NFS3_OK,
            Res3::Err(status, _) => *status,
        }
    }
}

impl<T: Encode, F: Encode> Encode for Res3<T, F> {
    fn encode(&self, w: &mut Writer) {
        self.status().encode(w);
        match self {
            Res3::Ok(ok) => ok.encode(w),
            Res3::Err(_, fail) => fail.encode(w),
        }
    }
}

impl<'a, T: Decode<'a>, F: Decode<'a>> Decode<'a> for Res3<T, F> {
    fn decode(r: &mut Reader<'a>) -> xdr::Result<Self> {
        Ok(match Nfsstat3::decode(r)? {
            Nfsstat3::NFS3_OK => Res3::Ok(T::decode(r)?),
            status => Res3::Err(status, F::decode(r)?),
        })
    }
}

// --- GETATTR, SETATTR ---------------------------------------------------------------------------------

/// `GETATTR3args`: only the handle.
pub type Getattr3Args<'a> = NfsFh3<'a>;
/// `GETATTR3res`.
pub type Getattr3Res = Res3<Fattr3, ()>;

xdr_struct! {
    /// `SETATTR3args` (RFC 1813, section 3.3.2).
    pub struct Setattr3Args<'a> {
        /// The file.
        object: NfsFh3<'a>,
        /// What to set.
        new_attributes: Sattr3,
        /// Only if the file's ctime is this.
        guard: Option<Nfstime3>,
    }
}
/// `SETATTR3res`.
pub type Setattr3Res = Res3<WccData, WccData>;

// --- LOOKUP, ACCESS, READLINK -------------------------------------------------------------------------

xdr_struct! {
    /// `LOOKUP3resok` (RFC 1813, section 3.3.3).
    pub struct Lookup3Ok<'a> {
        /// The handle found.
        object: NfsFh3<'a>,
        /// Its attributes.
        obj_attributes: PostOpAttr,
        /// The directory's.
        dir_attributes: PostOpAttr,
    }
}
/// `LOOKUP3res`.
pub type Lookup3Res<'a> = Res3<Lookup3Ok<'a>, PostOpAttr>;

xdr_struct! {
    /// `ACCESS3args` (RFC 1813, section 3.3.4).
    pub struct Access3Args<'a> {
        /// The file.
        object: NfsFh3<'a>,
        /// The rights asked about; see [`access`].
        access: u32,
    }
}

xdr_struct! {
    /// `ACCESS3resok`.
    pub struct Access3Ok {
        /// The file's attributes.
        obj_attributes: PostOpAttr,
        /// The rights that are there, among those asked about.
        access: u32,
    }
}
/// `ACCESS3res`.
pub type Access3Res = Res3<Access3Ok, PostOpAttr>;

xdr_struct! {
    /// `READLINK3resok` (RFC 1813, section 3.3.5).
    pub struct Readlink3Ok<'a> {
        /// The link's attributes.
        symlink_attributes: PostOpAttr,
        /// Its text.
        data: Nfspath3<'a>,
    }
}
/// `READLINK3res`.
pub type Readlink3Res<'a> = Res3<Readlink3Ok<'a>, PostOpAttr>;

// --- READ, WRITE, COMMIT ------------------------------------------------------------------------------

xdr_struct! {
    /// `READ3args` (RFC 1813, section 3.3.6).
    pub struct Read3Args<'a> {
        /// The file.
        file: NfsFh3<'a>,
        /// First byte.
        offset: u64,
        /// Number of bytes wanted.
        count: u32,
    }
}

xdr_struct! {
    /// `READ3resok`, with the data borrowed from the record. A server that has the data in pieces writes
    /// the same fields with [`Writer::opaque_parts`].
    pub struct Read3Ok<'a> {
        /// The file's attributes.
        file_attributes: PostOpAttr,
        /// Bytes in `data`.
        count: u32,
        /// Whether they reach the end of the file.
        eof: bool,
        /// The bytes.
        data: Opaque<'a, RECORD>,
    }
}
/// `READ3res`.
pub type Read3Res<'a> = Res3<Read3Ok<'a>, PostOpAttr>;

xdr_struct! {
    /// `WRITE3args` (RFC 1813, section 3.3.7).
    pub struct Write3Args<'a> {
        /// The file.
        file: NfsFh3<'a>,
        /// Where the first byte goes.
        offset: u64,
        /// Number of bytes to write, which should be `data`'s length.
        count: u32,
        /// How safe they must be before the answer.
        stable: StableHow,
        /// The bytes.
        data: Opaque<'a, RECORD>,
    }
}

xdr_struct! {
    /// `WRITE3resok`.
    pub struct Write3Ok {
        /// The file before and after.
        file_wcc: WccData,
        /// Bytes written.
        count: u32,
        /// How safe they are.
        committed: StableHow,
        /// Changes when the server may have lost unstable data.
        verf: [u8; NFS3_WRITEVERFSIZE],
    }
}
/// `WRITE3res`.
pub type Write3Res = Res3<Write3Ok, WccData>;

xdr_struct! {
    /// `COMMIT3args` (RFC 1813, section 3.3.21).
    pub struct Commit3Args<'a> {
        /// The file.
        file: NfsFh3<'a>,
        /// First byte.
        offset: u64,
        /// Number of bytes; 0 means to the end.
        count: u32,
    }
}

xdr_struct! {
    /// `COMMIT3resok`.
    pub struct Commit3Ok {
        /// The file before and after.
        file_wcc: WccData,
        /// As in [`Write3Ok`].
        verf: [u8; NFS3_WRITEVERFSIZE],
    }
}
/// `COMMIT3res`.
pub type Commit3Res = Res3<Commit3Ok, WccData>;

// --- CREATE, MKDIR, SYMLINK, MKNOD --------------------------------------------------------------------

/// `createhow3`. An unknown mode cannot be decoded: the union has no such arm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreateHow3 {
    /// An existing file will do.
    Unchecked(Sattr3),
    /// An existing file is an error.
    Guarded(Sattr3),
    /// Made once, however often the request comes.
    Exclusive([u8; NFS3_CREATEVERFSIZE]),
}

impl Decode<'_> for CreateHow3 {
    fn decode(r: &mut Reader<'_>) -> xdr::Result<Self> {
        let before = r.clone();
        match CreateMode3::decode(r)? {
            CreateMode3::UNCHECKED => Sattr3::decode(r).map(CreateHow3::Unchecked),
            CreateMode3::GUARDED => Sattr3::decode(r).map(CreateHow3::Guarded),
            CreateMode3::EXCLUSIVE => Decode::decode(r).map(CreateHow3::Exclusive),
            CreateMode3(v) => Err(before.error("createmode3", DecodeErrorKind::NoArm(v))),
        }
    }
}

impl Encode for CreateHow3 {
    fn encode(&self, w: &mut Writer) {
        match self {
            CreateHow3::Unchecked(attributes) => {
                CreateMode3::UNCHECKED.encode(w);
                attributes.encode(w);
            }
            CreateHow3::Guarded(attributes) => {
                CreateMode3::GUARDED.encode(w);
                attributes.encode(w);
            }
            CreateHow3::Exclusive(verf) => {
                CreateMode3::EXCLUSIVE.encode(w);
                verf.encode(w);
            }
        }
    }
}

xdr_struct! {
    /// `CREATE3args` (RFC 1813, section 3.3.8).
    pub struct Create3Args<'a> {
        /// Where, and under which name.
        where_: Diropargs3<'a>,
        /// What if it is there already.
        how: CreateHow3,
    }
}

xdr_struct! {
    /// The result of CREATE, MKDIR, SYMLINK and MKNOD.
    pub struct Create3Ok<'a> {
        /// The new object's handle.
        obj: PostOpFh3<'a>,
        /// Its attributes.
        obj_attributes: PostOpAttr,
        /// The directory before and after.
        dir_wcc: WccData,
    }
}
/// `CREATE3res`, `MKDIR3res`, `SYMLINK3res` and `MKNOD3res`.
pub type Create3Res<'a> = Res3<Create3Ok<'a>, WccData>;

xdr_struct! {
    /// `MKDIR3args` (RFC 1813, section 3.3.9).
    pub struct Mkdir3Args<'a> {
        /// Where, and under which name.
        where_: Diropargs3<'a>,
        /// Its attributes.
        attributes: Sattr3,
    }
}

xdr_struct! {
    /// `SYMLINK3args` (RFC 1813, section 3.3.10).
    pub struct Symlink3Args<'a> {
        /// Where, and under which name.
        where_: Diropargs3<'a>,
        /// The link's own attributes.
        symlink_attributes: Sattr3,
        /// Its text.
        symlink_data: Nfspath3<'a>,
    }
}

/// `mknoddata3`. Types without data of their own keep their raw value: the handler answers
/// `NFS3ERR_BADTYPE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MknodData3 {
    /// A device: `NF3CHR` or `NF3BLK`.
    Device(Ftype3, Sattr3, Specdata3),
    /// `NF3SOCK` or `NF3FIFO`.
    Pipe(Ftype3, Sattr3),
    /// Anything else carries nothing.
    Other(Ftype3),
}

impl Decode<'_> for MknodData3 {
    fn decode(r: &mut Reader<'_>) -> xdr::Result<Self> {
        Ok(match Ftype3::decode(r)? {
            t @ (Ftype3::NF3CHR | Ftype3::NF3BLK) => {
                MknodData3::Device(t, Decode::decode(r)?, Decode::decode(r)?)
            }
            t @ (Ftype3::NF3SOCK | Ftype3::NF3FIFO) => MknodData3::Pipe(t, Decode::decode(r)?),
            t => MknodData3::Other(t),
        })
    }
}

impl Encode for MknodData3 {
    fn encode(&self, w: &mut Writer) {
        match self {
            MknodData3::Device(t, attributes, spec) => {
                t.encode(w);
                attributes.encode(w);
                spec.encode(w);
            }
            MknodData3::Pipe(t, attributes) => {
                t.encode(w);
                attributes.encode(w);
            }
            MknodData3::Other(t) => t.encode(w),
        }
    }
}

xdr_struct! {
    /// `MKNOD3args` (RFC 1813, section 3.3.11).
    pub struct Mknod3Args<'a> {
        /// Where, and under which name.
        where_: Diropargs3<'a>,
        /// What.
        what: MknodData3,
    }
}

// --- REMOVE, RMDIR, RENAME, LINK ----------------------------------------------------------------------

/// `REMOVE3args` and `RMDIR3args` (RFC 1813, sections 3.3.12 and 3.3.13).
pub type Remove3Args<'a> = Diropargs3<'a>;
/// `REMOVE3res` and `RMDIR3res`.
pub type Remove3Res = Res3<WccData, WccData>;

xdr_struct! {
    /// `RENAME3args` (RFC 1813, section 3.3.14).
    pub struct Rename3Args<'a> {
        /// The old name.
        from: Diropargs3<'a>,
        /// The new one.
        to: Diropargs3<'a>,
    }
}

xdr_struct! {
    /// Both directories of a RENAME before and after.
    #[derive(Default)]
    pub struct Rename3Wcc {
        /// The old name's.
        fromdir_wcc: WccData,
        /// The new name's.
        todir_wcc: WccData,
    }
}
/// `RENAME3res`.
pub type Rename3Res = Res3<Rename3Wcc, Rename3Wcc>;

xdr_struct! {
    /// `LINK3args` (RFC 1813, section 3.3.15).
    pub struct Link3Args<'a> {
        /// The file.
        file: NfsFh3<'a>,
        /// Its additional name.
        link: Diropargs3<'a>,
    }
}

xdr_struct! {
    /// The result of LINK, good or bad.
    #[derive(Default)]
    pub struct Link3Wcc {
        /// The file's attributes.
        file_attributes: PostOpAttr,
        /// The directory before and after.
        linkdir_wcc: WccData,
    }
}
/// `LINK3res`.
pub type Link3Res = Res3<Link3Wcc, Link3Wcc>;

// --- READDIR, READDIRPLUS -----------------------------------------------------------------------------

xdr_struct! {
    /// `READDIR3args` (RFC 1813, section 3.3.16).
    pub struct Readdir3Args<'a> {
        /// The directory.
        dir: NfsFh3<'a>,
        /// Where to go on; 0 at first.
        cookie: u64,
        /// Which the cookie belongs to.
        cookieverf: [u8; NFS3_COOKIEVERFSIZE],
        /// Limit of the result in bytes.
        count: u32,
    }
}

xdr_struct! {
    /// `entry3`, without the pointer to the next.
    pub struct Entry3<'a> {
        /// The file's number.
        fileid: u64,
        /// Its name.
        name: Filename3<'a>,
        /// Where to go on behind it.
        cookie: u64,
    }
}

/// `READDIR3resok`: attributes, verifier, the entries as a linked list, and whether these were the last.
/// A server that fills a reply up to a limit writes the same fields one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirList3<E> {
    /// The directory's attributes.
    pub dir_attributes: PostOpAttr,
    /// Which the cookies belong to.
    pub cookieverf: [u8; NFS3_COOKIEVERFSIZE],
    /// The entries.
    pub entries: Vec<E>,
    /// Whether these were the last.
    pub eof: bool,
}

impl<E: Encode> Encode for DirList3<E> {
    fn encode(&self, w: &mut Writer) {
        self.dir_attributes.encode(w);
        self.cookieverf.encode(w);
        for entry in &self.entries {
            w.bool(true);
            entry.encode(w);
        }
        w.bool(false);
        w.bool(self.eof);
    }
}

impl<'a, E: Decode<'a>> Decode<'a> for DirList3<E> {
    fn decode(r: &mut Reader<'a>) -> xdr::Result<Self> {
        let dir_attributes = Decode::decode(r)?;
        let cookieverf = Decode::decode(r)?;
        let mut entries = Vec::new();
        while let Some(entry) = Option::<E>::decode(r)? {
            entries.push(entry);
        }
        Ok(DirList3 {
            dir_attributes,
            cookieverf,
            entries,
            eof: Decode::decode(r)?,
        })
    }
}
/// `READDIR3res`.
pub type Readdir3Res<'a> = Res3<DirList3<Entry3<'a>>, PostOpAttr>;

xdr_struct! {
    /// `READDIRPLUS3args` (RFC 1813, section 3.3.17).
    pub struct Readdirplus3Args<'a> {
        /// The directory.
        dir: NfsFh3<'a>,
        /// Where to go on; 0 at first.
        cookie: u64,
        /// Which the cookie belongs to.
        cookieverf: [u8; NFS3_COOKIEVERFSIZE],
        /// Limit of names, numbers and cookies in bytes.
        dircount: u32,
        /// Limit of the whole result in bytes.
        maxcount: u32,
    }
}

xdr_struct! {
    /// `entryplus3`, without the pointer to the next.
    pub struct Entryplus3<'a> {
        /// The file's number.
        fileid: u64,
        /// Its name.
        name: Filename3<'a>,
        /// Where to go on behind it.
        cookie: u64,
        /// Its attributes.
        name_attributes: PostOpAttr,
        /// Its handle.
        name_handle: PostOpFh3<'a>,
    }
}
/// `READDIRPLUS3res`.
pub type Readdirplus3Res<'a> = Res3<DirList3<Entryplus3<'a>>, PostOpAttr>;

// --- FSSTAT, FSINFO, PATHCONF -------------------------------------------------------------------------

xdr_struct! {
    /// `FSSTAT3resok` (RFC 1813, section 3.3.18).
    pub struct Fsstat3Ok {
        /// The root's attributes.
        obj_attributes: PostOpAttr,
        /// Size in bytes.
        tbytes: u64,
        /// Free bytes.
        fbytes: u64,
        /// Free bytes for the caller.
        abytes: u64,
        /// Inodes.
        tfiles: u64,
        /// Free inodes.
        ffiles: u64,
        /// Free inodes for the caller.
        afiles: u64,
        /// Seconds for which this will not change.
        invarsec: u32,
    }
}
/// `FSSTAT3res`.
pub type Fsstat3Res = Res3<Fsstat3Ok, PostOpAttr>;

xdr_struct! {
    /// `FSINFO3resok` (RFC 1813, section 3.3.19).
    pub struct Fsinfo3Ok {
        /// The root's attributes.
        obj_attributes: PostOpAttr,
        /// Largest READ.
        rtmax: u32,
        /// Preferred READ.
        rtpref: u32,
        /// READ sizes should be a multiple of this.
        rtmult: u32,
        /// Largest WRITE.
        wtmax: u32,
        /// Preferred WRITE.
        wtpref: u32,
        /// WRITE sizes should be a multiple of this.
        wtmult: u32,
        /// Preferred READDIR.
        dtpref: u32,
        /// Largest file.
        maxfilesize: u64,
        /// Granularity of times.
        time_delta: Nfstime3,
        /// See [`fsf3`].
        properties: u32,
    }
}
/// `FSINFO3res`.
pub type Fsinfo3Res = Res3<Fsinfo3Ok, PostOpAttr>;

xdr_struct! {
    /// `PATHCONF3resok` (RFC 1813, section 3.3.20).
    pub struct Pathconf3Ok {
        /// The file's attributes.
        obj_attributes: PostOpAttr,
        /// Most hard links.
        linkmax: u32,
        /// Longest name.
        name_max: u32,
        /// Longer names are refused rather than cut off.
        no_trunc: bool,
        /// Only root may give files away.
        chown_restricted: bool,
        /// Names that differ by case only are the same.
        case_insensitive: bool,
        /// Names keep their case.
        case_preserving: bool,
    }
}
/// `PATHCONF3res`.
pub type Pathconf3Res = Res3<Pathconf3Ok, PostOpAttr>;
