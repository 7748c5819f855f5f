//! What can be mounted, as it is written: `--export NAME=STORE[,OPTION…]`. The stores are opened in
//! [`stores`](super::stores).

use nfsd::{ExportOptions, MemConfig, Squash};
use proto::nfs3::Nfsstat3;
use std::path::PathBuf;
use std::str::FromStr;

/// What may follow the store, for messages. Names are those of exports(5) where it has them.
const OPTIONS: &str = "ro, rw, root_squash, no_root_squash, all_squash, anonuid=N, anongid=N, max_bytes=SIZE \
     (as in 1G), max_files=N, dquot, clients=NETWORK+NETWORK…";

/// What is behind an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreSpec {
    /// A tree in memory, empty at the start and gone at the end.
    Mem,
    /// A real directory.
    Dir(PathBuf),
}

/// An export on the command line: `NAME=STORE[,OPTION…]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportSpec {
    /// The name by which it is mounted: an absolute path.
    pub name: String,
    /// What is behind it.
    pub store: StoreSpec,
    /// To whom and as whom.
    pub options: ExportOptions,
    /// `max_bytes`: how much a tree in memory takes.
    pub max_bytes: u64,
    /// `max_files`: of how many files, directories and links.
    pub max_files: u64,
    /// What is answered beyond that: NFS3ERR_NOSPC, or with `dquot` NFS3ERR_DQUOT.
    pub when_full: Nfsstat3,
}

impl ExportSpec {
    /// A tree in memory, for everyone, with the usual limits.
    pub fn mem(name: &str) -> ExportSpec {
        let MemConfig {
            max_bytes,
            max_files,
            when_full,
            ..
        } = MemConfig::default();
        ExportSpec {
            name: name.to_owned(),
            store: StoreSpec::Mem,
            options: ExportOptions::default(),
            max_bytes,
            max_files,
            when_full,
        }
    }

    /// Takes one of [`OPTIONS`].
    fn option(&mut self, text: &str) -> Result<(), String> {
        let options = &mut self.options;
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        match (name, value) {
            ("ro", None) => options.read_only = true,
            ("rw", None) => options.read_only = false,
            ("root_squash", None) => options.squash = Squash::Root,
            ("no_root_squash", None) => options.squash = Squash::None,
            ("all_squash", None) => options.squash = Squash::All,
            ("dquot", None) => self.when_full = Nfsstat3::NFS3ERR_DQUOT,
            ("anonuid", Some(value)) => options.anon_uid = number(text, value)?,
            ("anongid", Some(value)) => options.anon_gid = number(text, value)?,
            ("max_files", Some(value)) => self.max_files = number(text, value)?,
            ("max_bytes", Some(value)) => {
                let wrong = || format!("'{text}': expected a size such as 4096, 64K, 512M or 1G");
                self.max_bytes = size(value).ok_or_else(wrong)?;
            }
            ("clients", Some(value)) => {
                let networks = value.split('+').map(str::parse).collect::<Result<_, String>>();
                options.clients = networks.map_err(|error| format!("'{text}': {error}"))?;
            }
            _ => return Err(format!("'{text}' is not an option: expected {OPTIONS}")),
        }
        Ok(())
    }
}

fn number<T: FromStr>(text: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("'{text}': expected a number"))
}

/// A number of bytes: digits, then nothing, K, M, G or T (powers of 1024).
fn size(text: &str) -> Option<u64> {
    let shift = match text.chars().last()? {
        'K' => 10,
        'M' => 20,
        'G' => 30,
        'T' => 40,
        _ => return text.parse().ok(),
    };
    let digits = text.get(..text.len() - 1)?;
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

impl FromStr for ExportSpec {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, rest) = text.split_once('=').ok_or_else(|| {
            format!(
                "'{text}' is not an export: expected NAME=mem or NAME=DIR, as in /lab=mem or /data=/srv/data"
            )
        })?;
        if !name.starts_with('/') || name.len() > proto::mount::MNTPATHLEN {
            return Err(format!(
                "'{name}' is not a name for an export: it must begin with '/', as in /lab=mem"
            ));
        }
        let mut parts = rest.split(',');
        let mut spec = ExportSpec::mem(name);
        spec.store = match parts.next().unwrap_or_default() {
            "mem" => StoreSpec::Mem,
            dir if dir.starts_with(['/', '.']) => StoreSpec::Dir(dir.into()),
            store => {
                return Err(format!(
                    "cannot export '{store}': expected mem (a tree in memory), or a directory that begins with \
                     '/' or '.' and has no comma in its name"
                ));
            }
        };
        for part in parts {
            spec.option(part)
                .map_err(|error| format!("export {name}: {error}"))?;
        }
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_as_documented() {
        let spec: ExportSpec = "/lab=mem,ro,root_squash,anonuid=7,anongid=8,max_bytes=1G,max_files=10,dquot,\
                                clients=10.0.0.0/8+192.168.1.5+fd00::/8"
            .parse()
            .unwrap();
        assert!(spec.options.read_only);
        assert_eq!(spec.options.squash, Squash::Root);
        assert_eq!((spec.options.anon_uid, spec.options.anon_gid), (7, 8));
        assert_eq!((spec.max_bytes, spec.max_files), (1 << 30, 10));
        assert_eq!(spec.when_full, Nfsstat3::NFS3ERR_DQUOT);
        let clients: Vec<_> = spec.options.clients.iter().map(ToString::to_string).collect();
        assert_eq!(clients, ["10.0.0.0/8", "192.168.1.5", "fd00::/8"]);
        assert_eq!("/lab=mem".parse(), Ok(ExportSpec::mem("/lab")));
        let all: ExportSpec = "/lab=mem,all_squash".parse().unwrap();
        assert_eq!(all.options.squash, Squash::All);
    }

    #[test]
    fn a_store_is_memory_or_a_directory() {
        let store = |text: &str| text.parse::<ExportSpec>().unwrap().store;
        assert_eq!(store("/a=mem"), StoreSpec::Mem);
        assert_eq!(store("/a=./mem"), StoreSpec::Dir("./mem".into()));
        assert_eq!(store("/a=/srv/x=y,ro"), StoreSpec::Dir("/srv/x=y".into()));
    }

    #[test]
    fn sizes() {
        assert_eq!(size("4096"), Some(4096));
        assert_eq!(size("64K"), Some(65_536));
        assert_eq!(size("2T"), Some(2 << 40));
        for wrong in ["", "K", "1k", "-1", "1.5G", "99999999T", "1é"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_what_would_be_right() {
        for (text, parts) in [
            ("/lab", ["NAME=mem", "/lab"]),
            ("lab=mem", ["'lab'", "/lab=mem"]),
            ("/lab=disk", ["'disk'", "mem"]),
            ("/lab=mem,sync", ["'sync'", "root_squash"]),
            ("/lab=mem,", ["''", "clients=NETWORK"]),
            ("/lab=mem,ro=1", ["'ro=1'", "ro, rw"]),
            ("/lab=mem,anonuid=nobody", ["'anonuid=nobody'", "number"]),
            ("/lab=mem,anonuid", ["'anonuid'", "anonuid=N"]),
            ("/lab=mem,max_bytes=much", ["'max_bytes=much'", "1G"]),
            ("/lab=mem,clients=10.0.0.0/33", ["10.0.0.0/33", "address/prefix"]),
            ("/lab=mem,clients=web1", ["web1", "address/prefix"]),
        ] {
            let error = text.parse::<ExportSpec>().unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{text}: {error}");
        }
    }
}
