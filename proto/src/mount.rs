//! MOUNT, program 100005: turns the name of an export into the file handle of its root. Version 3 (RFC 1813,
//! appendix I), and versions 1 and 2 (RFC 1094, appendix A; XNFS C702 has their later procedures), whose lists
//! are the same on the wire.

use crate::nfs3::NfsFh3;
use rpc::xdr::{self, Decode, Encode, Opaque, Reader, Writer};
use rpc::{xdr_enum, xdr_struct};

/// Program number.
pub const PROGRAM: u32 = 100_005;
/// The version that belongs to NFSv2.
pub const V1: u32 = 1;
/// The same with PATHCONF.
pub const V2: u32 = 2;
/// The version that belongs to NFSv3.
pub const V3: u32 = 3;
/// `FHSIZE`: every handle of versions 1 and 2 has this many bytes (RFC 1094, section 2.3.3).
pub const FHSIZE: usize = 32;
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
    /// The procedures of versions 1 and 2.
    pub enum MountProc1 {
        /// Does nothing.
        MOUNTPROC_NULL = 0,
        /// Mount an export.
        MOUNTPROC_MNT = 1,
        /// Who has mounted what?
        MOUNTPROC_DUMP = 2,
        /// Forget that I mounted it.
        MOUNTPROC_UMNT = 3,
        /// Forget everything that I mounted.
        MOUNTPROC_UMNTALL = 4,
        /// What can be mounted?
        MOUNTPROC_EXPORT = 5,
        /// The same.
        MOUNTPROC_EXPORTALL = 6,
        /// What are the limits there? Version 2 only.
        MOUNTPROC_PATHCONF = 7,
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

/// `fhstatus`: the answer to MNT in versions 1 and 2 (RFC 1094, section A.4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fhstatus {
    /// The handle.
    Ok([u8; FHSIZE]),
    /// Any other status: an error number of Unix, not 0.
    Err(u32),
}

impl Encode for Fhstatus {
    fn encode(&self, w: &mut Writer) {
        match self {
            Fhstatus::Ok(handle) => {
                w.u32(0);
                handle.encode(w);
            }
            Fhstatus::Err(status) => w.u32(*status),
        }
    }
}

impl<'a> Decode<'a> for Fhstatus {
    fn decode(r: &mut Reader<'a>) -> xdr::Result<Self> {
        Ok(match r.u32("fhstatus")? {
            0 => Fhstatus::Ok(Decode::decode(r)?),
            status => Fhstatus::Err(status),
        })
    }
}

xdr_struct! {
    /// `ppathcnf`: the answer to PATHCONF of version 2 (XNFS C702, chapter 8). Its shorts and bytes take a word each.
    pub struct Ppathcnf {
        /// Most links to a file.
        pc_link_max: u32,
        /// Longest line of a terminal.
        pc_max_canon: u32,
        /// Longest input of a terminal.
        pc_max_input: u32,
        /// Longest name.
        pc_name_max: u32,
        /// Longest path.
        pc_path_max: u32,
        /// Bytes that a pipe takes as one.
        pc_pipe_buf: u32,
        /// The character that stands for none.
        pc_vdisable: u32,
        /// Padding.
        pc_xxx: u32,
        /// Which of the above have no value: first half.
        pc_mask_low: u32,
        /// Second half.
        pc_mask_high: u32,
    }
}

impl Default for Ppathcnf {
    /// All zeros.
    fn default() -> Self {
        Ppathcnf {
            pc_link_max: 0,
            pc_max_canon: 0,
            pc_max_input: 0,
            pc_name_max: 0,
            pc_path_max: 0,
            pc_pipe_buf: 0,
            pc_vdisable: 0,
            pc_xxx: 0,
            pc_mask_low: 0,
            pc_mask_high: 0,
        }
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
