//! READ, WRITE, COMMIT.

use super::Nfs3;
use crate::cx::Cx;
use crate::vfs::{FILE_SIZE_MAX, ReadData};
use bytes::Bytes;
use proto::nfs3::{
    Commit3Args, Commit3Ok, Commit3Res, Nfsstat3, PostOpAttr, Read3Args, Res3, StableHow, WccData,
    Write3Args, Write3Ok, Write3Res,
};
use rpc::xdr::{Encode, Writer};

/// `READ3res` with its data in pieces, as they lie in the store.
#[derive(Debug, Clone)]
pub enum ReadReply {
    /// `READ3resok`.
    Ok(ReadData),
    /// `READ3resfail`.
    Err(Nfsstat3, PostOpAttr),
}

impl ReadReply {
    /// Writes it; large pieces are not copied.
    pub fn encode_into(self, w: &mut Writer) -> Nfsstat3 {
        match self {
            ReadReply::Ok(read) => {
                Nfsstat3::NFS3_OK.encode(w);
                Some(read.attr).encode(w);
                w.u32(read.count);
                w.bool(read.eof);
                w.opaque_parts(read.data);
                Nfsstat3::NFS3_OK
            }
            ReadReply::Err(status, attr) => {
                status.encode(w);
                attr.encode(w);
                status
            }
        }
    }
}

impl Nfs3 {
    /// READ (RFC 1813, section 3.3.6). A count over rtmax is cut down to it, which the RFC allows.
    pub fn read(&self, cx: &Cx<'_>, args: &Read3Args<'_>) -> ReadReply {
        let file = match self.open(cx, &args.file) {
            Ok(file) => file,
            Err(status) => return ReadReply::Err(status, None),
        };
        let count = args.count.min(cx.max_payload);
        match file.store().read(&file.cx(), file.file(), args.offset, count) {
            Ok(read) => ReadReply::Ok(read),
            Err(status) => ReadReply::Err(status, file.attr()),
        }
    }

    /// WRITE (RFC 1813, section 3.3.7).
    ///
    /// Where the RFC leaves room:
    /// - `count` and the data's length differ: `NFS3ERR_INVAL`. It asks for both to be the same and names this
    ///   status; Linux knfsd answers `GARBAGE_ARGS`, though the arguments can be decoded;
    /// - `stable` is no `stable_how`: `NFS3ERR_INVAL`;
    /// - more than wtmax: the first wtmax bytes are written, and `count` says so;
    /// - beyond the largest file: `NFS3ERR_FBIG`, nothing is written.
    pub fn write(&self, cx: &Cx<'_>, args: &Write3Args<'_>, mut data: Bytes) -> Write3Res {
        let file = match self.open(cx, &args.file) {
            Ok(file) => file,
            Err(status) => return Res3::Err(status, WccData::default()),
        };
        let agree = args.count as usize == data.len() && args.stable <= StableHow::FILE_SYNC;
        let written = if file.writable().is_err() {
            Err(Nfsstat3::NFS3ERR_ROFS)
        } else if !agree {
            Err(Nfsstat3::NFS3ERR_INVAL)
        } else if args.offset > FILE_SIZE_MAX {
            Err(Nfsstat3::NFS3ERR_FBIG)
        } else {
            data.truncate(cx.max_payload as usize);
            file.store()
                .write(&file.cx(), file.file(), args.offset, &data, args.stable)
        };
        match written {
            Ok(written) => Res3::Ok(Write3Ok {
                file_wcc: written.wcc,
                count: written.count,
                committed: written.committed,
                verf: self.write_verf(),
            }),
            Err(status) => Res3::Err(status, file.wcc()),
        }
    }

    /// COMMIT (RFC 1813, section 3.3.21).
    pub fn commit(&self, cx: &Cx<'_>, args: &Commit3Args<'_>) -> Commit3Res {
        let file = match self.open(cx, &args.file) {
            Ok(file) => file,
            Err(status) => return Res3::Err(status, WccData::default()),
        };
        match file
            .store()
            .commit(&file.cx(), file.file(), args.offset, args.count)
        {
            Ok(file_wcc) => Res3::Ok(Commit3Ok {
                file_wcc,
                verf: self.write_verf(),
            }),
            Err(status) => Res3::Err(status, file.wcc()),
        }
    }
}
