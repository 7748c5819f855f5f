//! FSSTAT, FSINFO, PATHCONF: what the file system is like.

use super::{Nfs3, Opened};
use crate::cx::Cx;
use crate::vfs::Result;
use proto::nfs3::{
    Fattr3, Fsinfo3Ok, Fsinfo3Res, Fsstat3Ok, Fsstat3Res, NfsFh3, Pathconf3Ok, Pathconf3Res, PostOpAttr,
    Res3, fsf3,
};

/// READ and WRITE sizes are best a multiple of this.
const BLOCK: u32 = 4096;
/// The READDIR size we like best, in bytes.
const READDIR_PREFERRED: u32 = 32 << 10;

impl Nfs3 {
    /// FSSTAT (RFC 1813, section 3.3.18).
    pub fn fsstat(&self, cx: &Cx<'_>, fsroot: NfsFh3<'_>) -> Fsstat3Res {
        self.about(cx, fsroot, |opened, attr| {
            let space = opened.store().space(&opened.cx(), opened.file())?;
            Ok(Fsstat3Ok {
                obj_attributes: Some(attr),
                tbytes: space.total_bytes,
                fbytes: space.free_bytes,
                abytes: space.available_bytes,
                tfiles: space.total_files,
                ffiles: space.free_files,
                afiles: space.available_files,
                invarsec: 0,
            })
        })
    }

    /// FSINFO (RFC 1813, section 3.3.19). The sizes are those that the call's own transport carries.
    pub fn fsinfo(&self, cx: &Cx<'_>, fsroot: NfsFh3<'_>) -> Fsinfo3Res {
        self.about(cx, fsroot, |opened, attr| {
            let limits = opened.store().limits();
            Ok(Fsinfo3Ok {
                obj_attributes: Some(attr),
                rtmax: cx.max_payload,
                rtpref: cx.max_payload,
                rtmult: BLOCK,
                wtmax: cx.max_payload,
                wtpref: cx.max_payload,
                wtmult: BLOCK,
                dtpref: READDIR_PREFERRED.min(cx.max_payload),
                maxfilesize: limits.file_size_max,
                time_delta: limits.time_delta,
                properties: fsf3::LINK | fsf3::SYMLINK | fsf3::HOMOGENEOUS | fsf3::CANSETTIME,
            })
        })
    }

    /// PATHCONF (RFC 1813, section 3.3.20).
    pub fn pathconf(&self, cx: &Cx<'_>, object: NfsFh3<'_>) -> Pathconf3Res {
        self.about(cx, object, |opened, attr| {
            let limits = opened.store().limits();
            Ok(Pathconf3Ok {
                obj_attributes: Some(attr),
                linkmax: limits.link_max,
                name_max: limits.name_max,
                no_trunc: true,
                chown_restricted: true,
                case_insensitive: false,
                case_preserving: true,
            })
        })
    }

    fn about<T>(
        &self,
        cx: &Cx<'_>,
        fh: NfsFh3<'_>,
        tell: impl FnOnce(&Opened<'_>, Fattr3) -> Result<T>,
    ) -> Res3<T, PostOpAttr> {
        let told = self.open(cx, &fh).and_then(|opened| {
            let attr = opened.store().getattr(&opened.cx(), opened.file())?;
            tell(&opened, attr)
        });
        match told {
            Ok(ok) => Res3::Ok(ok),
            Err(status) => Res3::Err(status, None),
        }
    }
}
