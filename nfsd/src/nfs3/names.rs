//! REMOVE, RMDIR, RENAME, LINK.

use super::{Nfs3, Opened};
use crate::cx::Cx;
use crate::vfs::Result;
use proto::nfs3::{
    Link3Args, Link3Res, Link3Wcc, Nfsstat3, Remove3Args, Remove3Res, Rename3Args, Rename3Res, Rename3Wcc,
    Res3, WccData,
};

impl Nfs3 {
    /// REMOVE (RFC 1813, section 3.3.12).
    pub fn remove(&self, cx: &Cx<'_>, args: &Remove3Args<'_>) -> Remove3Res {
        self.take_away(cx, &args.dir, |dir| {
            dir.store().remove(&dir.cx(), dir.file(), &args.name)
        })
    }

    /// RMDIR (RFC 1813, section 3.3.13).
    pub fn rmdir(&self, cx: &Cx<'_>, args: &Remove3Args<'_>) -> Remove3Res {
        self.take_away(cx, &args.dir, |dir| {
            dir.store().rmdir(&dir.cx(), dir.file(), &args.name)
        })
    }

    fn take_away(
        &self,
        cx: &Cx<'_>,
        dir: &[u8],
        take: impl FnOnce(&Opened<'_>) -> Result<WccData>,
    ) -> Remove3Res {
        let dir = match self.open(cx, dir) {
            Ok(dir) => dir,
            Err(status) => return Res3::Err(status, WccData::default()),
        };
        match dir.writable().and_then(|()| take(&dir)) {
            Ok(wcc) => Res3::Ok(wcc),
            Err(status) => Res3::Err(status, dir.wcc()),
        }
    }

    /// RENAME (RFC 1813, section 3.3.14). Between two exports: `NFS3ERR_XDEV`.
    pub fn rename(&self, cx: &Cx<'_>, args: &Rename3Args<'_>) -> Rename3Res {
        let (from, to) = match (self.open(cx, &args.from.dir), self.open(cx, &args.to.dir)) {
            (Ok(from), Ok(to)) => (from, to),
            (Err(status), _) | (_, Err(status)) => return Res3::Err(status, Rename3Wcc::default()),
        };
        match rename(&from, &args.from.name, &to, &args.to.name) {
            Ok(wcc) => Res3::Ok(wcc),
            Err(status) => Res3::Err(
                status,
                Rename3Wcc {
                    fromdir_wcc: from.wcc(),
                    todir_wcc: to.wcc(),
                },
            ),
        }
    }

    /// LINK (RFC 1813, section 3.3.15). Between two exports: `NFS3ERR_XDEV`.
    pub fn link(&self, cx: &Cx<'_>, args: &Link3Args<'_>) -> Link3Res {
        let (file, dir) = match (self.open(cx, &args.file), self.open(cx, &args.link.dir)) {
            (Ok(file), Ok(dir)) => (file, dir),
            (Err(status), _) | (_, Err(status)) => return Res3::Err(status, Link3Wcc::default()),
        };
        match link(&file, &dir, &args.link.name) {
            Ok(wcc) => Res3::Ok(wcc),
            Err(status) => Res3::Err(
                status,
                Link3Wcc {
                    file_attributes: file.attr(),
                    linkdir_wcc: dir.wcc(),
                },
            ),
        }
    }
}

fn same_export(a: &Opened<'_>, b: &Opened<'_>) -> Result<()> {
    a.writable()?;
    b.writable()?;
    if a.target.export.id == b.target.export.id {
        Ok(())
    } else {
        Err(Nfsstat3::NFS3ERR_XDEV)
    }
}

fn rename(from: &Opened<'_>, from_name: &[u8], to: &Opened<'_>, to_name: &[u8]) -> Result<Rename3Wcc> {
    same_export(from, to)?;
    from.store()
        .rename(&from.cx(), from.file(), from_name, to.file(), to_name)
}

fn link(file: &Opened<'_>, dir: &Opened<'_>, name: &[u8]) -> Result<Link3Wcc> {
    same_export(file, dir)?;
    dir.store().link(&dir.cx(), file.file(), dir.file(), name)
}
