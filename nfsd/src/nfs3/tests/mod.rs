//! Calls as they come from the wire, and the replies decoded.

use super::*;
use crate::cx::Caller;
use crate::dirfs::DirFs;
use crate::export::{Export, ExportOptions};
use crate::memfs::{MemConfig, MemFs};
use crate::tree::Tree;
use proto::nfs3::*;
use rpc::xdr::{from_bytes, to_bytes};
use std::sync::atomic::AtomicU32;

mod hostile;
mod memory;
mod oracle;

/// What every store must do (the files in `each`), on the store in memory.
#[path = "each"]
mod on_memfs {
    use super::*;

    fn lab() -> Lab {
        lab_with(ExportOptions::default())
    }

    fn lab_with(options: ExportOptions) -> Lab {
        mem_lab(&MemConfig::default(), options)
    }

    mod attributes;
    mod data;
    mod list;
    mod make;
    mod names;
}

/// The same on a real directory.
#[expect(
    clippy::duplicate_mod,
    reason = "the tests are the same, what they get from super is not"
)]
#[path = "each"]
mod on_dirfs {
    use super::*;

    fn lab() -> Lab {
        lab_with(ExportOptions::default())
    }

    fn lab_with(options: ExportOptions) -> Lab {
        dir_lab(options)
    }

    mod attributes;
    mod data;
    mod list;
    mod make;
    mod names;
}

/// A server of one store, as one user at a time sees it.
struct Lab {
    nfs: Nfs3,
    fs: Arc<dyn Vfs>,
    /// The real directory, if it is one.
    folder: Option<tempfile::TempDir>,
    caller: Caller<'static>,
    clock_s: AtomicU32,
}

const USER: Caller<'static> = Caller {
    uid: 1000,
    gid: 100,
    groups: &[200u32.to_be_bytes()],
};
const OTHER: Caller<'static> = Caller {
    uid: 1001,
    gid: 101,
    groups: &[],
};
const VERF: [u8; 8] = *b"verifier";

fn mem_lab(config: &MemConfig, options: ExportOptions) -> Lab {
    lab_of(Arc::new(MemFs::new(config)), None, options)
}

/// A real directory that everyone may use; memory, if this process may not.
fn dir_lab(options: ExportOptions) -> Lab {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o1777)).unwrap();
    match DirFs::open(folder.path(), 1) {
        Ok(fs) => lab_of(Arc::new(fs), Some(folder), options),
        Err(error @ crate::DirError::Privilege) => {
            println!("skipped, on the store in memory instead: {error}");
            mem_lab(&MemConfig::default(), options)
        }
        Err(error) => panic!("{error}"),
    }
}

fn lab_of(fs: Arc<dyn Vfs>, folder: Option<tempfile::TempDir>, options: ExportOptions) -> Lab {
    let export = Export::new(1, "/lab", fs.clone()).with_options(options);
    let exports = Arc::new(Exports::new(&[9; 16], vec![export]).unwrap());
    Lab {
        nfs: Nfs3::new(exports, VERF),
        fs,
        folder,
        caller: Caller::ROOT,
        clock_s: AtomicU32::new(1_000_000),
    }
}

impl Lab {
    fn by(mut self, caller: Caller<'static>) -> Lab {
        self.caller = caller;
        self
    }

    fn now(&self) -> Nfstime3 {
        Nfstime3 {
            seconds: self.clock_s.load(Relaxed),
            nseconds: 0,
        }
    }

    /// The time goes on by a second with every call.
    fn call(&self, proc: Nfs3Proc, args: &impl Encode) -> Bytes {
        self.clock_s.fetch_add(1, Relaxed);
        let cx = Cx::local(self.caller, self.now());
        let mut w = Writer::new();
        let args = to_bytes(args);
        let status = self.nfs.call(&cx, proc.0, &args, &args, &mut w).unwrap();
        let reply = w.into_bytes();
        assert_eq!(
            Nfsstat3::decode(&mut Reader::new(&reply)),
            Ok(status),
            "{proc} told the log something else"
        );
        reply
    }

    fn status(&self, proc: Nfs3Proc, args: &impl Encode) -> Nfsstat3 {
        from_bytes_prefix(&self.call(proc, args))
    }

    fn root(&self) -> Vec<u8> {
        self.nfs
            .exports()
            .root_handle("/lab")
            .unwrap()
            .as_bytes()
            .to_vec()
    }

    fn fh(&self, path: &str) -> Vec<u8> {
        let key = self.fs.at(path).unwrap();
        self.nfs
            .exports()
            .seal(&self.nfs.exports().list()[0], &key)
            .as_bytes()
            .to_vec()
    }

    fn attr(&self, fh: &[u8]) -> Fattr3 {
        match from_bytes(&self.call(Nfs3Proc::NFSPROC3_GETATTR, &NfsFh3::from(fh))).unwrap() {
            Getattr3Res::Ok(attr) => attr,
            Getattr3Res::Err(status, ()) => panic!("GETATTR: {status}"),
        }
    }

    /// Makes a file as the present caller and returns its handle.
    fn file(&self, dir: &[u8], name: &str, mode: u32) -> Vec<u8> {
        let how = CreateHow3::Guarded(with_mode(mode));
        made(&self.call(Nfs3Proc::NFSPROC3_CREATE, &create_args(dir, name, how))).0
    }

    fn dir(&self, dir: &[u8], name: &str, mode: u32) -> Vec<u8> {
        let args = Mkdir3Args {
            where_: at(dir, name),
            attributes: with_mode(mode),
        };
        made(&self.call(Nfs3Proc::NFSPROC3_MKDIR, &args)).0
    }

    fn lookup(&self, dir: &[u8], name: &str) -> Result<Vec<u8>> {
        match from_bytes(&self.call(Nfs3Proc::NFSPROC3_LOOKUP, &at(dir, name))).unwrap() {
            Lookup3Res::Ok(ok) => Ok(ok.object.to_vec()),
            Lookup3Res::Err(status, _) => Err(status),
        }
    }

    fn write(&self, fh: &[u8], offset: u64, data: &[u8]) -> Write3Res {
        let args = Write3Args {
            file: fh.into(),
            offset,
            count: data.len() as u32,
            stable: StableHow::UNSTABLE,
            data: data.into(),
        };
        from_bytes(&self.call(Nfs3Proc::NFSPROC3_WRITE, &args)).unwrap()
    }

    fn read(&self, fh: &[u8], offset: u64, count: u32) -> Result<(Vec<u8>, bool)> {
        let args = Read3Args {
            file: fh.into(),
            offset,
            count,
        };
        match from_bytes(&self.call(Nfs3Proc::NFSPROC3_READ, &args)).unwrap() {
            Read3Res::Ok(ok) => {
                assert_eq!(ok.count as usize, ok.data.len());
                Ok((ok.data.to_vec(), ok.eof))
            }
            Read3Res::Err(status, _) => Err(status),
        }
    }

    fn setattr(&self, fh: &[u8], set: impl FnOnce(&mut Sattr3)) -> Setattr3Res {
        let mut new_attributes = Sattr3::default();
        set(&mut new_attributes);
        let args = Setattr3Args {
            object: fh.into(),
            new_attributes,
            guard: None,
        };
        from_bytes(&self.call(Nfs3Proc::NFSPROC3_SETATTR, &args)).unwrap()
    }

    fn remove(&self, dir: &[u8], name: &str) -> Nfsstat3 {
        self.status(Nfs3Proc::NFSPROC3_REMOVE, &at(dir, name))
    }

    fn rename(&self, from: (&[u8], &str), to: (&[u8], &str)) -> Nfsstat3 {
        let args = Rename3Args {
            from: at(from.0, from.1),
            to: at(to.0, to.1),
        };
        self.status(Nfs3Proc::NFSPROC3_RENAME, &args)
    }
}

/// The status at the beginning of a reply.
fn from_bytes_prefix(reply: &[u8]) -> Nfsstat3 {
    Nfsstat3::decode(&mut Reader::new(reply)).unwrap()
}

fn at<'a>(dir: &'a [u8], name: &'a str) -> Diropargs3<'a> {
    Diropargs3 {
        dir: dir.into(),
        name: name.into(),
    }
}

fn with_mode(mode: u32) -> Sattr3 {
    Sattr3 {
        mode: Some(mode),
        ..Sattr3::default()
    }
}

fn create_args<'a>(dir: &'a [u8], name: &'a str, how: CreateHow3) -> Create3Args<'a> {
    Create3Args {
        where_: at(dir, name),
        how,
    }
}

/// Handle, attributes and the directory's WCC data of a reply that must be good.
fn made(reply: &[u8]) -> (Vec<u8>, Fattr3, WccData) {
    match from_bytes::<Create3Res<'_>>(reply).unwrap() {
        Create3Res::Ok(ok) => (ok.obj.unwrap().to_vec(), ok.obj_attributes.unwrap(), ok.dir_wcc),
        Create3Res::Err(status, _) => panic!("not made: {status}"),
    }
}

fn link(lab: &Lab, file: &[u8], dir: &[u8], name: &str) -> Link3Res {
    let args = Link3Args {
        file: file.into(),
        link: at(dir, name),
    };
    from_bytes(&lab.call(Nfs3Proc::NFSPROC3_LINK, &args)).unwrap()
}

fn create(lab: &Lab, name: &str, how: CreateHow3) -> Result<(Vec<u8>, Fattr3, WccData)> {
    let root = lab.root();
    let reply = lab.call(Nfs3Proc::NFSPROC3_CREATE, &create_args(&root, name, how));
    match from_bytes_prefix(&reply) {
        Nfsstat3::NFS3_OK => Ok(made(&reply)),
        status => Err(status),
    }
}
