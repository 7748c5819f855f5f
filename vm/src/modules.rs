//! The kernel modules that an NFS client needs, with what those depend on, in
//! an order in which they can be loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::elf;
use crate::error::{Context, Error, Result, read};

/// What a guest needs beyond what its kernel has built in.
const WANTED: [&str; 7] = [
    "virtio_pci",
    LINK_MODULE,
    "virtio_net",
    "sunrpc",
    "lockd",
    "nfs",
    "nfsv3",
];

/// The one that brings the line to the host: early, so that the host can hear of
/// trouble with the others.
pub(crate) const LINK_MODULE: &str = "virtio_console";

/// A module, unpacked, ready for `finit_module`.
pub(crate) struct Module {
    pub(crate) name: String,
    pub(crate) image: Vec<u8>,
}

/// A kernel's folder of modules.
struct Library {
    files: BTreeMap<String, PathBuf>,
    /// What the kernel has built in, if its package says so: since 7.2 none
    /// does, and what has no file must be taken for built in.
    builtin: Option<BTreeSet<String>>,
}

/// The modules to load, each after everything it depends on: the usual ones, then these further ones.
pub(crate) fn load_order(dir: &Path, further: &[String]) -> Result<Vec<Module>> {
    let library = Library::open(dir)?;
    let mut order = Vec::new();
    for name in WANTED.into_iter().chain(further.iter().map(String::as_str)) {
        library.add(name, &mut order, 0)?;
    }
    Ok(order)
}

impl Library {
    fn open(dir: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        let mut folders = vec![dir.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)
                .context(|| format!("listing {}", folder.display()))?
                .flatten()
            {
                let path = entry.path();
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    folders.push(path);
                } else if let Some(name) = module_name(&path) {
                    files.insert(name, path);
                }
            }
        }
        let builtin = fs::read_to_string(dir.join("modules.builtin")).ok();
        let names = |text: String| text.lines().filter_map(|l| module_name(Path::new(l))).collect();
        Ok(Self {
            files,
            builtin: builtin.map(names),
        })
    }

    fn add(&self, name: &str, order: &mut Vec<Module>, depth: usize) -> Result<()> {
        /// Real chains are five deep; a circle would be a broken package.
        const DEEPEST: usize = 32;
        let name = name.replace('-', "_");
        let built_in = match &self.builtin {
            Some(names) => names.contains(&name),
            None => !self.files.contains_key(&name),
        };
        if built_in || order.iter().any(|m| m.name == name) {
            return Ok(());
        }
        let path = self
            .files
            .get(&name)
            .filter(|_| depth < DEEPEST)
            .ok_or_else(|| Error::Missing {
                what: format!("kernel module {name}"),
                mend: "the kernel package is incomplete: remove its folder from the cache and fetch it again"
                    .into(),
            })?;
        let image = unpacked(path)?;
        for needed in elf::module_depends(&path.display().to_string(), &image)? {
            self.add(&needed, order, depth + 1)?;
        }
        order.push(Module { name, image });
        Ok(())
    }
}

/// `kernel/net/sunrpc/auth-x.ko.xz` → `auth_x`
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (stem, rest) = file.split_once(".ko")?;
    matches!(rest, "" | ".xz" | ".zst").then(|| stem.replace('-', "_"))
}

/// Kernels differ in what they can unpack themselves, so we always do.
fn unpacked(path: &Path) -> Result<Vec<u8>> {
    let data = read(path)?;
    let mut image = Vec::new();
    let what = || format!("unpacking {}", path.display());
    match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => {
            liblzma::read::XzDecoder::new(&*data)
                .read_to_end(&mut image)
                .context(what)?;
        }
        Some("zst") => {
            zstd::Decoder::new(&*data)
                .and_then(|mut d| d.read_to_end(&mut image))
                .context(what)?;
        }
        _ => return Ok(data),
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normal() {
        let name = |p: &str| module_name(Path::new(p));
        assert_eq!(name("kernel/net/sunrpc/auth-x.ko.xz").as_deref(), Some("auth_x"));
        assert_eq!(name("kernel/fs/nfs/nfs.ko").as_deref(), Some("nfs"));
        assert_eq!(name("modules.order"), None);
        assert_eq!(name("a.ko.gz"), None);
    }

    /// The smallest file that has a `.modinfo`: an ELF header, the section's
    /// bytes, the section names, three section headers.
    fn fake_module(depends: &str) -> Vec<u8> {
        let info = format!("license=GPL\0depends={depends}\0name=x\0");
        let names = b"\0.modinfo\0.shstrtab\0";
        let mut out = vec![0u8; 64];
        out[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        out.extend(info.as_bytes());
        out.extend(names);
        let sections_at = out.len() as u64;
        out[16] = 1;
        out[18] = 62;
        out[20] = 1;
        out[40..48].copy_from_slice(&sections_at.to_le_bytes());
        for (at, value) in [(52, 64u16), (58, 64), (60, 3), (62, 2)] {
            out[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        let mut section = |name: u32, kind: u32, offset: usize, size: usize| {
            let mut header = [0u8; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[4..8].copy_from_slice(&kind.to_le_bytes());
            header[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(size as u64).to_le_bytes());
            out.extend(header);
        };
        section(0, 0, 0, 0);
        section(1, 1, 64, info.len());
        section(10, 3, 64 + info.len(), names.len());
        out
    }

    fn library(modules: &[(&str, &str)], builtin: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("kernel")).unwrap();
        for (name, depends) in modules {
            fs::write(dir.path().join(format!("kernel/{name}.ko")), fake_module(depends)).unwrap();
        }
        fs::write(dir.path().join("modules.builtin"), builtin).unwrap();
        dir
    }

    #[test]
    fn everything_comes_after_what_it_needs_and_only_once() {
        let dir = library(
            &[
                ("virtio_console", ""),
                ("virtio-net", "net_failover"),
                ("net_failover", "failover"),
                ("failover", ""),
                ("sunrpc", ""),
                ("grace", ""),
                ("lockd", "grace,sunrpc"),
                ("nfs", "lockd,sunrpc"),
                ("nfsv3", "nfs,lockd,sunrpc"),
                ("nfsd", "lockd,nfs_acl"),
                ("nfs_acl", ""),
            ],
            "kernel/drivers/virtio/virtio_pci.ko\n",
        );
        let order = |further: &[String]| -> Vec<String> {
            let modules = load_order(dir.path(), further).unwrap();
            modules.into_iter().map(|m| m.name).collect()
        };
        let expected = [
            "virtio_console",
            "failover",
            "net_failover",
            "virtio_net",
            "sunrpc",
            "grace",
            "lockd",
            "nfs",
            "nfsv3",
        ];
        assert_eq!(order(&[]), expected);
        let further = order(&["nfsd".to_owned()]);
        assert_eq!(further, [&expected[..], &["nfs_acl", "nfsd"]].concat());
    }

    #[test]
    fn a_missing_module_and_a_circle_are_errors_with_a_name() {
        let dir = library(&[("virtio_pci", "virtio")], "");
        assert!(
            load_order(dir.path(), &[])
                .err()
                .unwrap()
                .to_string()
                .contains("kernel module virtio")
        );
        let dir = library(&[("virtio_pci", "virtio"), ("virtio", "virtio_pci")], "");
        assert!(load_order(dir.path(), &[]).is_err());
    }
}
