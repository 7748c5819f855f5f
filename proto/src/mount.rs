//! MOUNT, program 100005 version 3 (RFC 1813, appendix I): turns the name of an export into the file
//! handle of its root.

use crate::nfs3::NfsFh3;
use rpc::xdr::{self, Decode, Encode, Opaque, Reader, Writer};
use rpc::{xdr_enum, xdr_struct};

/// Program number.
pub const PROGRAM: u32 = 100_005;
/// The version that belongs to NFSv3.
pub const V3: u32 = 3;
/// `MNTPATHLEN`: the longest path, in bytes.
pub const MNTPATHLEN: usize = 1024;
/// `MNTNAMLEN`: the longest host or group name, in bytes.
pub const MNTNAMLEN: usize = 255;

/// `dirpath`.
pub type DirPath<'a> = Opaque<'a, MNTPATHLEN>;
/// `name`.
pub type Name<'a> = Opaque<'a, MNTNAMLEN>;

xdr_enum! {
    /// The procedures.
    pub enum MountProc {
        /// Does nothing.
        MOUNTPROC3_NULL = 0,
        /// Mount an export.
        MOUNTPROC3_MNT = 1,
        /// Who has mounted what?
        MOUNTPROC3_DUMP = 2,
        /// Forget that I mounted it.
        MOUNTPROC3_UMNT = 3,
        /// Forget everything that I mounted.
        MOUNTPROC3_UMNTALL = 4,
        /// What can be mounted?
        MOUNTPROC3_EXPORT = 5,
    }
}

xdr_enum! {
    /// `mountstat3`.
    pub enum Mountstat3 {
        /// No error.
        MNT3_OK = 0,
        /// Not owner.
        MNT3ERR_PERM = 1,
        /// No such file or directory.
        MNT3ERR_NOENT = 2,
        /// I/O error.
        MNT3ERR_IO = 5,
        /// Permission denied.
        MNT3ERR_ACCES = 13,
        /// Not a directory.
        MNT3ERR_NOTDIR = 20,
        /// Invalid argument.
        MNT3ERR_INVAL = 22,
        /// Name too long.
        MNT3ERR_NAMETOOLONG = 63,
        /// Operation not supported.
        MNT3ERR_NOTSUPP = 10004,
        /// A failure on the server.
        MNT3ERR_SERVERFAULT = 10006,
    }
}

/// `mountres3`: the root's handle and the credential flavours that the export takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountRes3<'a> {
    /// `MNT3_OK`.
    Ok {
        /// Handle of the export's root.
        fhandle: NfsFh3<'a>,
        /// Accepted flavours, best first.
        auth_flavors: Vec<u32>,
    },
    /// Anything else.
    Err(Mountstat3),
}

impl Encode for MountRes3<'_> {
    fn encode(&self, w: &mut Writer) {
        match self {
            MountRes3::Ok {
                fhandle,
                auth_flavors,
            } => {
                Mountstat3::MNT3_OK.encode(w);
                fhandle.encode(w);
                xdr::encode_array(w, auth_flavors);
            }
            MountRes3::Err(stat) => stat.encode(w),
        }
    }
}

impl<'a> Decode<'a> for MountRes3<'a> {
    fn decode(r: &mut Reader<'a>) -> xdr::Result<Self> {
        Ok(match Mountstat3::decode(r)? {
            Mountstat3::MNT3_OK => MountRes3::Ok {
                fhandle: Decode::decode(r)?,
                auth_flavors: xdr::decode_array(r, "auth_flavors", 64)?,
            },
            stat => MountRes3::Err(stat),
        })
    }
}

xdr_struct! {
    /// `mountbody`: one line of the mount list.
    pub struct MountBody<'a> {
        /// Who mounted.
        ml_hostname: Name<'a>,
        /// What.
        ml_directory: DirPath<'a>,
    }
}

/// `mountlist`: the answer to DUMP, a linked list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MountList<'a>(pub Vec<MountBody<'a>>);

impl Encode for MountList<'_> {
    fn encode(&self, w: &mut Writer) {
        for body in &self.0 {
            w.bool(true);
            body.encode(w);
        }
        w.bool(false);
    }
}

impl<'a> Decode<'a> for MountList<'a> {
    fn decode(r: &mut Reader<'a>) -> xdr::Result<Self> {
        let mut list = Vec::new();
        while let Some(body) = Option::<MountBody<'a>>::decode(r)? {
            list.push(body);
        }
        Ok(MountList(list))
    }
}

/// `exportnode`: one export and the groups that may mount it (none: everyone).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportNode<'a> {
    /// The export's name.
    pub ex_dir: DirPath<'a>,
    /// Who may mount it.
    pub ex_groups: Vec<Name<'a>>,
}

/// `exports`: the answer to EXPORT, a linked list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exports<'a>(pub Vec<ExportNode<'a>>);

impl Encode for Exports<'_> {
    fn encode(&self, w: &mut Writer) {
        for node in &self.0 {
            w.bool(true);
            node.ex_dir.encode(w);
            for group in &node.ex_groups {
                w.bool(true);
                group.encode(w);
            }
            w.bool(false);
        }
        w.bool(false);
    }
}

impl<'a> Decode<'a> for Exports<'a> {
    fn decode(r: &mut Reader<'a>) -> xdr::Result<Self> {
        let mut list = Vec::new();
        while r.bool("exports")? {
            let ex_dir = Decode::decode(r)?;
            let mut ex_groups = Vec::new();
            while let Some(group) = Option::<Name<'a>>::decode(r)? {
                ex_groups.push(group);
            }
            list.push(ExportNode { ex_dir, ex_groups });
        }
        Ok(Exports(list))
    }
}
