//! The guest's programs: Debian's own, unpacked into a folder of the cache.
//! Nothing is installed on this machine.
//!
//! [`Userland::fetch`] brings the packages; which files of them go into a guest
//! is decided here too, and [`crate::initramfs`] packs them with the libraries
//! they need.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::apt::{Apt, Release, with_libraries};
use crate::cache::Cache;
use crate::error::{Context, Result};
use crate::kernels::{BOOKWORM, TRIXIE};
use crate::progress::Progress;

/// What every guest has.
const PACKAGES: [&str; 10] = [
    "bash",
    "busybox-static",
    "dash",
    "mount",
    "netbase",
    "nfs-common",
    "procps",
    "rpcbind",
    "strace",
    "util-linux",
];

/// The programs of them that go into the guest, wherever their package puts
/// them. busybox provides the rest. (Its own shell would prefer its own `ps`
/// and `mount` to these; hence dash.)
const PROGRAMS: [&str; 18] = [
    "bash",
    "busybox",
    "dash",
    "dmesg",
    "flock",
    "mount",
    "mount.nfs",
    "ps",
    "rpc.statd",
    "rpcbind",
    "rpcinfo",
    "setpriv",
    "showmount",
    "sm-notify",
    "strace",
    "umount",
    "umount.nfs",
    "sysctl",
];

/// Files of them that programs look for.
const DATA: [&str; 4] = ["etc/netconfig", "etc/protocols", "etc/services", "etc/rpc"];

/// What a guest has beyond the usual tools.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Extras {
    /// Further Debian packages.
    pub packages: Vec<ExtraPackage>,
    /// Programs of this machine.
    pub host_files: Vec<HostFile>,
    /// Further kernel modules, loaded at boot after those that every guest has: `nfsd`.
    pub modules: Vec<String>,
}

/// A Debian package for the guest, with the libraries it depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExtraPackage {
    /// Its name: `fio`.
    pub name: String,
    /// Files or whole folders of it: `usr/bin/fio`, `usr/lib/git-core`. Given
    /// none, the program of the package's name, wherever it lies.
    pub paths: Vec<String>,
}

impl ExtraPackage {
    /// The program of the same name as its package.
    pub fn program(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            paths: Vec::new(),
        }
    }

    fn paths(&self, root: &Path) -> Vec<String> {
        match self.paths.as_slice() {
            // What is not there is named where it is to be packed.
            [] => vec![find_program(root, &self.name).unwrap_or_else(|| format!("usr/bin/{}", self.name))],
            given => given.iter().map(|p| p.trim_matches('/').to_owned()).collect(),
        }
    }
}

/// A file of this machine for the guest. If it is an ELF program, its
/// libraries come with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostFile {
    /// Where it lies here.
    pub source: PathBuf,
    /// Where it shall lie there: `/usr/bin/pjdfstest`.
    pub target: String,
}

/// Programs for guests, unpacked in the cache.
#[derive(Clone, Debug)]
pub struct Userland {
    sysroot: PathBuf,
    extras: Extras,
    key: String,
}

impl Userland {
    /// The usual tools, and these extras. Asks the network only if this set is
    /// not in the cache yet.
    pub fn fetch(cache: &Cache, extras: &Extras, progress: &dyn Progress) -> Result<Self> {
        let release = host_release();
        let mut packages: Vec<String> = PACKAGES.map(str::to_owned).to_vec();
        packages.extend(extras.packages.iter().map(|e| e.name.clone()));
        packages.sort();
        packages.dedup();
        let set = digest(&format!("{} {packages:?}", release.name));
        let sysroot = cache.build_dir(&format!("userland/{}-{set}", release.name), |dir| {
            let apt = Apt::open(cache, release)?;
            progress.step(&format!("reading the package index of {}", release.name));
            apt.update()?;
            let index = apt.packages(|_| true)?;
            let chosen = with_libraries(&index, &packages)?;
            apt.unpack(&chosen, dir, dir, progress)?;
            for unneeded in [
                "usr/share/doc",
                "usr/share/man",
                "usr/share/locale",
                "usr/share/info",
            ] {
                let _ = fs::remove_dir_all(dir.join(unneeded));
            }
            Ok(())
        })?;
        let key = digest(&format!("{} {extras:?}", sysroot.display()));
        Ok(Self {
            sysroot,
            extras: extras.clone(),
            key,
        })
    }

    /// Whether [`Userland::fetch`] would need no network.
    pub fn is_cached(cache: &Cache) -> bool {
        let packages: Vec<String> = PACKAGES.map(str::to_owned).to_vec();
        let release = host_release();
        let set = digest(&format!("{} {packages:?}", release.name));
        cache.path(format!("userland/{}-{set}", release.name)).is_dir()
    }

    /// Tells two sets of programs apart.
    pub(crate) fn key(&self) -> String {
        let stamps: Vec<String> = self
            .extras
            .host_files
            .iter()
            .map(|f| identity(&f.source))
            .collect();
        format!("{} {stamps:?}", self.key)
    }

    /// Kernel modules beyond the usual ones.
    pub(crate) fn modules(&self) -> &[String] {
        &self.extras.modules
    }

    /// The folder in which the packages are unpacked.
    pub(crate) fn sysroot(&self) -> &Path {
        &self.sysroot
    }

    /// The files to pack: (where it lies here, where it shall lie there).
    pub(crate) fn files(&self) -> Result<Vec<(PathBuf, String)>> {
        let mut files = Vec::new();
        for path in PROGRAMS
            .iter()
            .filter_map(|name| find_program(&self.sysroot, name))
        {
            files.push((self.sysroot.join(&path), path));
        }
        for path in DATA.iter().filter(|p| self.sysroot.join(p).is_file()) {
            files.push((self.sysroot.join(path), (*path).to_owned()));
        }
        for package in &self.extras.packages {
            for path in package.paths(&self.sysroot) {
                collect(&self.sysroot, &path, &mut files)?;
            }
        }
        for file in &self.extras.host_files {
            files.push((file.source.clone(), file.target.trim_matches('/').to_owned()));
        }
        Ok(files)
    }

    /// The commands that busybox answers to.
    pub(crate) fn applets(&self) -> Result<Vec<String>> {
        let found = ["bin", "usr/bin"].map(|d| self.sysroot.join(d).join("busybox"));
        let busybox = found.iter().find(|p| p.is_file()).unwrap_or(&found[0]);
        let output = std::process::Command::new(busybox)
            .arg("--list")
            .output()
            .context(|| format!("running {}", busybox.display()))?;
        Ok(String::from_utf8_lossy(&output.stdout)
            .split_whitespace()
            .map(str::to_owned)
            .collect())
    }
}

/// Where a program lies in a root.
fn find_program(root: &Path, name: &str) -> Option<String> {
    let found = ["usr/bin", "usr/sbin", "bin", "sbin"].map(|d| format!("{d}/{name}"));
    found.into_iter().find(|p| root.join(p).is_file())
}

/// A file, or everything under a folder.
fn collect(root: &Path, path: &str, into: &mut Vec<(PathBuf, String)>) -> Result<()> {
    let here = root.join(path);
    let meta = fs::symlink_metadata(&here).context(|| {
        format!("looking for {path} in the unpacked packages (ExtraPackage::paths names what to take)")
    })?;
    if !meta.is_dir() {
        into.push((here, path.to_owned()));
        return Ok(());
    }
    for entry in fs::read_dir(&here)
        .context(|| format!("listing {}", here.display()))?
        .flatten()
    {
        collect(
            root,
            &format!("{path}/{}", entry.file_name().to_string_lossy()),
            into,
        )?;
    }
    Ok(())
}

/// The release this machine runs, as far as we know it: the guest then has the
/// same C library as our own program.
fn host_release() -> &'static Release {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    match text.lines().find_map(|l| l.strip_prefix("VERSION_CODENAME=")) {
        Some("trixie") => &TRIXIE,
        _ => &BOOKWORM,
    }
}

/// A short name for a long text.
pub(crate) fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes())
        .iter()
        .take(8)
        .fold(String::new(), |mut out, byte| {
            let _ = write!(out, "{byte:02x}");
            out
        })
}

/// Tells whether a file changed, without reading it: a program with its debug
/// information is large, and this is asked at every boot.
pub(crate) fn identity(path: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    match fs::metadata(path) {
        Ok(m) => format!(
            "{} {} {} {} {}",
            path.display(),
            m.dev(),
            m.ino(),
            m.size(),
            m.mtime_nsec() + m.mtime()
        ),
        Err(e) => format!("{} {e}", path.display()),
    }
}
