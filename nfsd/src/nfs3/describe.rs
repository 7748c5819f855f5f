//! A call in a few words, for logs and timelines.

use super::Nfs3;
use proto::nfs3::{
    Access3Args, Commit3Args, Create3Args, CreateHow3, Diropargs3, Link3Args, Mkdir3Args, Mknod3Args,
    Nfs3Proc, NfsFh3, Read3Args, Readdir3Args, Readdirplus3Args, Rename3Args, Setattr3Args, Symlink3Args,
    Write3Args, access,
};
use rpc::xdr::{self, Decode, Reader};

impl Nfs3 {
    /// For people: `READ /lab/w1.dat offset 0 count 4096`. Whatever the arguments are, there is an answer.
    pub fn describe(&self, procedure: u32, args: &[u8]) -> String {
        let proc = Nfs3Proc(procedure);
        let name = match proc.name() {
            Some(name) => name.trim_start_matches("NFSPROC3_").to_string(),
            None => format!("procedure {procedure}"),
        };
        match self.describe_args(proc, &mut Reader::new(args)) {
            Ok(text) if text.is_empty() => name,
            Ok(text) => format!("{name} {text}"),
            Err(error) => format!("{name} with garbage: {error}"),
        }
    }

    fn describe_args(&self, proc: Nfs3Proc, r: &mut Reader<'_>) -> xdr::Result<String> {
        Ok(match proc {
            Nfs3Proc::NFSPROC3_GETATTR
            | Nfs3Proc::NFSPROC3_READLINK
            | Nfs3Proc::NFSPROC3_FSSTAT
            | Nfs3Proc::NFSPROC3_FSINFO
            | Nfs3Proc::NFSPROC3_PATHCONF => self.file(&NfsFh3::decode(r)?),
            Nfs3Proc::NFSPROC3_LOOKUP | Nfs3Proc::NFSPROC3_REMOVE | Nfs3Proc::NFSPROC3_RMDIR => {
                self.entry(&Diropargs3::decode(r)?)
            }
            Nfs3Proc::NFSPROC3_SETATTR => self.setattr_text(&Setattr3Args::decode(r)?),
            Nfs3Proc::NFSPROC3_ACCESS => {
                let args = Access3Args::decode(r)?;
                format!("{} {}", self.file(&args.object), rights(args.access))
            }
            Nfs3Proc::NFSPROC3_READ => {
                let args = Read3Args::decode(r)?;
                format!(
                    "{} offset {} count {}",
                    self.file(&args.file),
                    args.offset,
                    args.count
                )
            }
            Nfs3Proc::NFSPROC3_WRITE => {
                let args = Write3Args::decode(r)?;
                let file = self.file(&args.file);
                format!(
                    "{file} offset {} count {} {}",
                    args.offset, args.count, args.stable
                )
            }
            Nfs3Proc::NFSPROC3_COMMIT => {
                let args = Commit3Args::decode(r)?;
                format!(
                    "{} offset {} count {}",
                    self.file(&args.file),
                    args.offset,
                    args.count
                )
            }
            Nfs3Proc::NFSPROC3_CREATE => {
                let args = Create3Args::decode(r)?;
                let how = match args.how {
                    CreateHow3::Unchecked(_) => "unchecked",
                    CreateHow3::Guarded(_) => "guarded",
                    CreateHow3::Exclusive(_) => "exclusive",
                };
                format!("{} {how}", self.entry(&args.where_))
            }
            Nfs3Proc::NFSPROC3_MKDIR => self.entry(&Mkdir3Args::decode(r)?.where_),
            Nfs3Proc::NFSPROC3_MKNOD => self.entry(&Mknod3Args::decode(r)?.where_),
            Nfs3Proc::NFSPROC3_SYMLINK => {
                let args = Symlink3Args::decode(r)?;
                format!("{} to {}", self.entry(&args.where_), args.symlink_data)
            }
            Nfs3Proc::NFSPROC3_RENAME => {
                let args = Rename3Args::decode(r)?;
                format!("{} to {}", self.entry(&args.from), self.entry(&args.to))
            }
            Nfs3Proc::NFSPROC3_LINK => {
                let args = Link3Args::decode(r)?;
                format!("{} as {}", self.file(&args.file), self.entry(&args.link))
            }
            Nfs3Proc::NFSPROC3_READDIR => {
                let args = Readdir3Args::decode(r)?;
                format!(
                    "{} cookie {} count {}",
                    self.file(&args.dir),
                    args.cookie,
                    args.count
                )
            }
            Nfs3Proc::NFSPROC3_READDIRPLUS => {
                let args = Readdirplus3Args::decode(r)?;
                format!(
                    "{} cookie {} maxcount {}",
                    self.file(&args.dir),
                    args.cookie,
                    args.maxcount
                )
            }
            _ => String::new(),
        })
    }

    fn file(&self, fh: &[u8]) -> String {
        match (self.path_of(fh), self.exports.resolve(fh)) {
            (Some(path), _) => path.to_string(),
            (None, Ok(_)) => "(a file without a name)".to_string(),
            (None, Err(_)) => "(a handle that is not ours)".to_string(),
        }
    }

    fn entry(&self, args: &Diropargs3<'_>) -> String {
        let dir = self.file(&args.dir);
        format!("{}/{}", dir.trim_end_matches('/'), args.name)
    }

    fn setattr_text(&self, args: &Setattr3Args<'_>) -> String {
        let mut text = self.file(&args.object);
        let new = &args.new_attributes;
        for (what, value) in [
            ("uid", new.uid.map(u64::from)),
            ("gid", new.gid.map(u64::from)),
            ("size", new.size),
        ] {
            if let Some(value) = value {
                text.push_str(&format!(" {what} {value}"));
            }
        }
        if let Some(mode) = new.mode {
            text.push_str(&format!(" mode {mode:o}"));
        }
        text
    }
}

fn rights(wanted: u32) -> String {
    let names = [
        (access::READ, "read"),
        (access::LOOKUP, "lookup"),
        (access::MODIFY, "modify"),
        (access::EXTEND, "extend"),
        (access::DELETE, "delete"),
        (access::EXECUTE, "execute"),
    ];
    let wanted: Vec<&str> = names
        .iter()
        .filter(|(bit, _)| wanted & bit != 0)
        .map(|&(_, name)| name)
        .collect();
    wanted.join("+")
}
