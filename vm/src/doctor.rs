//! What this machine can and cannot do for a kernel lab, and the mend for each.

use std::fs::OpenOptions;
use std::process::{Command, Stdio};

use serde::Serialize;

use crate::accel::Verdict;
use crate::apt::Mirror;
use crate::cache::Cache;
use crate::error::find_program;
use crate::{net, qemu};

/// Kernel, programs and images of two or three series.
const WANTED_MB: u64 = 1000;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about.
    pub what: String,
    /// Whether it is as it should be.
    pub ok: bool,
    /// Whether guests can do without it.
    pub optional: bool,
    /// What was seen.
    pub detail: String,
    /// What to do, if it is not.
    pub mend: Option<String>,
}

impl Finding {
    fn needed(what: &str, seen: Result<String, (String, String)>) -> Self {
        let (ok, detail, mend) = match seen {
            Ok(detail) => (true, detail, None),
            Err((detail, mend)) => (false, detail, Some(mend)),
        };
        Self {
            what: what.to_owned(),
            ok,
            optional: false,
            detail,
            mend,
        }
    }

    fn optional(what: &str, seen: Result<String, (String, String)>) -> Self {
        Self {
            optional: true,
            ..Self::needed(what, seen)
        }
    }
}

/// Looks at everything. Does not boot: whether KVM works is what the last boot
/// showed (`accel::verdict` finds out).
pub fn examine(cache: &Cache) -> Vec<Finding> {
    vec![
        Finding::needed("QEMU", qemu_version()),
        Finding::optional("KVM", kvm(cache)),
        Finding::needed("/dev/net/tun", tun()),
        Finding::needed("network namespace", namespace()),
        Finding::needed("apt", tool("apt-get", "apt")),
        Finding::needed("dpkg-deb", tool("dpkg-deb", "dpkg")),
        Finding::optional("strip", tool("strip", "binutils")),
        Finding::needed("Debian mirror", mirror()),
        Finding::needed("disk space", space(cache)),
        Finding::optional("FUSE", fuse()),
        Finding::optional("overlayfs", overlay()),
        Finding::optional("port 111", portmapper()),
        Finding::optional("tshark", tool("tshark", "tshark")),
    ]
}

/// For `nfslab mount` and `nfslab run --client fuse`.
fn fuse() -> Result<String, (String, String)> {
    let open = OpenOptions::new().read(true).write(true).open("/dev/fuse");
    match (open, nix::unistd::geteuid().is_root()) {
        (Ok(_), true) => Ok("/dev/fuse opens, and we are root: `nfslab mount` works".to_owned()),
        (Ok(_), false) => Err((
            "/dev/fuse opens, but only root may mount".to_owned(),
            "run `nfslab mount` and `nfslab run --client fuse` as root".to_owned(),
        )),
        (Err(e), _) => Err((
            format!("/dev/fuse cannot be opened: {e}"),
            "modprobe fuse; in a container: --device /dev/fuse --cap-add SYS_ADMIN".to_owned(),
        )),
    }
}

/// For `nfslab run --client fuse`.
fn overlay() -> Result<String, (String, String)> {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    match known.split_whitespace().any(|word| word == "overlay") {
        true => Ok("the kernel has it".to_owned()),
        false => Err((
            "the kernel does not list it".to_owned(),
            "modprobe overlay; `nfslab run --client fuse` needs it".to_owned(),
        )),
    }
}

/// For `nfslab serve` on its standard ports.
fn portmapper() -> Result<String, (String, String)> {
    match std::net::TcpListener::bind(("127.0.0.1", 111)) {
        Ok(_) => Ok("free on 127.0.0.1".to_owned()),
        Err(e) => Err((
            format!("cannot be had on 127.0.0.1: {e}"),
            "`nfslab serve --ports standard,portmap=system` registers with the port mapper that has it; \
             `--ports auto` takes free ports; below 1024 needs root"
                .to_owned(),
        )),
    }
}

fn qemu_version() -> Result<String, (String, String)> {
    let program =
        qemu::program().map_err(|e| (e.to_string(), "apt-get install qemu-system-x86".to_owned()))?;
    let output = Command::new(&program)
        .arg("--version")
        .stderr(Stdio::null())
        .output();
    let output = output.map_err(|e| {
        (
            format!("{}: {e}", program.display()),
            "reinstall qemu-system-x86".to_owned(),
        )
    })?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned())
}

fn kvm(cache: &Cache) -> Result<String, (String, String)> {
    let slower = "guests run emulated, which takes seconds longer; to have KVM, run on a machine (or a virtual one \
                  with nested virtualisation) where /dev/kvm works for this user";
    if let Err(e) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        return Err((format!("/dev/kvm cannot be opened: {e}"), slower.to_owned()));
    }
    match Verdict::remembered(cache) {
        Some(v) if v.works => Ok(v.detail),
        Some(v) => Err((v.detail, slower.to_owned())),
        None => Ok("/dev/kvm opens; whether it works, the first guest will show".to_owned()),
    }
}

fn tun() -> Result<String, (String, String)> {
    match OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Ok("opens".to_owned()),
        Err(e) => Err((
            e.to_string(),
            "modprobe tun; if it is there and refused, run as root or chmod 666 /dev/net/tun".to_owned(),
        )),
    }
}

fn namespace() -> Result<String, (String, String)> {
    match net::try_in_child() {
        Ok(()) => Ok("a namespace with a TAP device can be made".to_owned()),
        Err(e) => Err((e.to_string(), net::MEND.to_owned())),
    }
}

fn tool(program: &str, package: &str) -> Result<String, (String, String)> {
    match find_program(program, package) {
        Ok(path) => Ok(path.display().to_string()),
        Err(_) => Err(("not found".to_owned(), format!("apt-get install {package}"))),
    }
}

fn mirror() -> Result<String, (String, String)> {
    match Mirror::detect() {
        Ok(mirror) => Ok(format!("{} and {}", mirror.main, mirror.security)),
        Err(e) => Err((e.to_string(), "set NFSLAB_MIRROR to a Debian archive".to_owned())),
    }
}

fn space(cache: &Cache) -> Result<String, (String, String)> {
    let root = cache.root();
    let mend = || {
        format!(
            "make room in {}, or set NFSLAB_CACHE to another folder",
            root.display()
        )
    };
    let stat = nix::sys::statvfs::statvfs(root).map_err(|e| (e.to_string(), mend()))?;
    let free_mb = stat.blocks_available() * stat.fragment_size() / 1_000_000;
    let detail = format!("{free_mb} MB free in {}", root.display());
    if free_mb >= WANTED_MB {
        Ok(detail)
    } else {
        Err((detail, mend()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_wrong_has_a_mend() {
        let dir = tempfile::tempdir().unwrap();
        let findings = examine(&Cache::at(dir.path()).unwrap());
        assert!(findings.len() >= 13);
        for finding in findings {
            assert!(!finding.detail.is_empty(), "{finding:?}");
            assert_eq!(finding.ok, finding.mend.is_none(), "{finding:?}");
        }
    }
}
