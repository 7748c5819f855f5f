//! From `HOST:/EXPORT` to a file handle: names, port mapper, MOUNT (RFC 1813, appendix I).

use crate::line::{Line, LineError, Place, Settings, Who, ask_port};
use crate::locks::Locks;
use crate::nfs::{Fh, Nfs};
use crate::options::{Options, Retry};
use anyhow::{Context, Result, anyhow, bail};
use proto::mount::{DirPath, Exports, MountProc, MountRes3, Mountstat3};
use rpc::xdr::{self, Opaque};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

/// For MOUNT, which need not be repeated for ever: a person waits for it.
const IMPATIENT: Retry = Retry {
    hard: false,
    timeo: Duration::from_secs(5),
    retrans: 2,
};

/// `HOST:/EXPORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Name or address of the server.
    pub host: String,
    /// The path that it exports, or one below.
    pub path: String,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Target, String> {
        let wrong = || format!("{text:?} is not HOST:/EXPORT, such as server:/lab or [::1]:/lab");
        let (host, path) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once("]:").ok_or_else(wrong)?,
            None => text
                .split_once(":/")
                .map(|(host, _)| (host, &text[host.len() + 1..]))
                .ok_or_else(wrong)?,
        };
        if host.is_empty() || !path.starts_with('/') {
            return Err(wrong());
        }
        Ok(Target {
            host: host.into(),
            path: path.into(),
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.path),
            false => write!(f, "{}:{}", self.host, self.path),
        }
    }
}

/// A server that gave us the handle of an export.
pub struct Mounted {
    /// What was asked for.
    pub target: Target,
    /// The server's address.
    pub server: IpAddr,
    /// Ours, towards it.
    pub from: Option<IpAddr>,
    /// Our name.
    pub machine: String,
    /// Its NFS program.
    pub nfs: Nfs,
    /// The export's root.
    pub root: Fh,
    mount: Line,
}

impl Mounted {
    /// Finds the server and asks it for the export.
    ///
    /// # Errors
    /// What failed (name, address, port mapper, MOUNT, NFS), the likely cause, and what mends it.
    pub async fn new(target: Target, options: &Options) -> Result<Mounted> {
        let server = resolve(&target.host).await?;
        let from = options.client_addr.or_else(|| own_loopback(server));
        let machine = machine_name();
        let mount = match options.mount_port {
            Some(port) => Place::At((server, port).into()),
            None => {
                let program = (proto::mount::PROGRAM, proto::mount::V3);
                let port = ask_port(server, from, program, options.proto).await.with_context(|| {
                    format!("cannot mount {target}: where its MOUNT program is must be known (or give -o mountport=N)")
                })?;
                Place::At((server, port).into())
            }
        };
        let settings = |service, place, program, retry| Settings {
            name: target.host.clone(),
            service,
            place,
            program,
            proto: options.proto,
            retry,
            once: retry == IMPATIENT,
            from,
            machine: machine.clone(),
        };
        let program = (proto::mount::PROGRAM, proto::mount::V3);
        let mount = Line::new(settings("mount", mount, program, IMPATIENT));
        let root = ask_root(&mount, &target).await?;
        let nfs = SocketAddr::new(server, options.port.unwrap_or(proto::nfs3::NFS_PORT));
        let program = (proto::nfs3::PROGRAM, proto::nfs3::V3);
        let probe = Line::new(settings("nfs", Place::At(nfs), program, IMPATIENT));
        Nfs::new(probe).null(&Who::default()).await.with_context(|| {
            format!("cannot mount {target}: no NFS at {nfs} (-o port=N if it is elsewhere)")
        })?;
        let nfs = Nfs::new(Line::new(settings("nfs", Place::At(nfs), program, options.retry)));
        Ok(Mounted {
            target,
            server,
            from,
            machine,
            nfs,
            root,
            mount,
        })
    }

    /// Locks on the server's files: its lock manager, and our services that it calls.
    ///
    /// # Errors
    /// Our services cannot be started.
    pub async fn locks(&self, options: &Options) -> Result<Locks> {
        let place = match options.nlm_port {
            Some(port) => Place::At((self.server, port).into()),
            None => Place::Asked(self.server),
        };
        let settings = Settings {
            name: self.target.host.clone(),
            service: "lockd",
            place,
            program: (proto::nlm::PROGRAM, proto::nlm::V4),
            proto: options.proto,
            // As in Linux: `soft` says nothing of locks.
            retry: Retry {
                hard: true,
                timeo: options.nlm_timeout,
                // Sent again after 1, 3 and 6 times that, and the third time the server is said not to respond: after
                // 60 s, as lockd does.
                retrans: 2,
            },
            once: false,
            from: self.from,
            machine: self.machine.clone(),
        };
        let address = self
            .from
            .or_else(|| self.nfs.line().local().map(|local| local.ip()));
        let address = address.ok_or_else(|| anyhow!("our own address is not known"))?;
        Locks::new(Line::new(settings), self.server, address, &self.machine).await
    }

    /// Tells the server that the export is no longer mounted; it need not answer.
    pub async fn unmounted(&self) {
        let path: DirPath<'_> = Opaque(self.target.path.as_bytes());
        let who = Who::default();
        let call = self.mount.call(&who, MountProc::MOUNTPROC3_UMNT.0, &path);
        let _ = tokio::time::timeout(Duration::from_secs(2), call).await;
    }
}

async fn resolve(host: &str) -> Result<IpAddr> {
    let found = tokio::net::lookup_host((host, 0)).await;
    let mut found = found.with_context(|| format!("the server's name {host:?} cannot be resolved"))?;
    let first = found.next().map(|address| address.ip());
    first.ok_or_else(|| anyhow!("the server's name {host:?} has no address"))
}

/// A server on this host has its port mapper where the callbacks of a client at the same address would be asked for. In
/// 127.0.0.0/8 every client can have an address of its own.
fn own_loopback(server: IpAddr) -> Option<IpAddr> {
    let IpAddr::V4(server) = server else { return None };
    let pid = std::process::id().to_le_bytes();
    let [low, high, ..] = pid;
    server
        .is_loopback()
        .then(|| Ipv4Addr::new(127, 77, high, low.max(1)).into())
}

/// The name of this host, by which the lock service knows us.
fn machine_name() -> String {
    let name = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| "localhost".into())
}

async fn ask_root(mount: &Line, target: &Target) -> Result<Fh> {
    let path: DirPath<'_> = Opaque(target.path.as_bytes());
    let who = Who::default();
    let reply = match mount.call(&who, MountProc::MOUNTPROC3_MNT.0, &path).await {
        Err(LineError::TimedOut(_)) => bail!(
            "cannot mount {target}: the server's MOUNT program does not answer (`rpcinfo -T tcp {} mount 3`)",
            target.host
        ),
        reply => reply.with_context(|| format!("cannot mount {target}: MOUNT"))?,
    };
    let host = &target.host;
    match xdr::from_bytes::<MountRes3<'_>>(&reply).context("the answer of MOUNT cannot be read")? {
        MountRes3::Ok { fhandle, .. } => Ok(Fh::new(&fhandle)),
        MountRes3::Err(status @ (Mountstat3::MNT3ERR_ACCES | Mountstat3::MNT3ERR_PERM)) => bail!(
            "{host} refuses {} to this client ({status}): it is exported to others, or not at all. {}",
            target.path,
            exported(mount).await
        ),
        MountRes3::Err(status @ (Mountstat3::MNT3ERR_NOENT | Mountstat3::MNT3ERR_NOTDIR)) => bail!(
            "{host} has no directory {} to mount ({status}). {}",
            target.path,
            exported(mount).await
        ),
        MountRes3::Err(status) => bail!("{host} cannot mount {}: {status}", target.path),
    }
}

/// What the server exports, for a message.
async fn exported(mount: &Line) -> String {
    let answer = mount
        .call(&Who::default(), MountProc::MOUNTPROC3_EXPORT.0, &())
        .await;
    let Ok(reply) = answer else {
        return "Which exports it has it does not say".into();
    };
    match xdr::from_bytes::<Exports<'_>>(&reply) {
        Ok(Exports(list)) if !list.is_empty() => {
            let paths: Vec<String> = list.iter().map(|node| node.ex_dir.to_string()).collect();
            format!("It exports {}", paths.join(", "))
        }
        _ => "It exports nothing".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_export() {
        let read = |text: &str| text.parse::<Target>().map(|target| (target.host, target.path));
        assert_eq!(read("a:/b/c"), Ok(("a".into(), "/b/c".into())));
        assert_eq!(read("[::1]:/"), Ok(("::1".into(), "/".into())));
        for wrong in ["a", ":/b", "a:b", "[::1]/b", "", "[::1]:b"] {
            assert!(read(wrong).unwrap_err().contains("HOST:/EXPORT"), "{wrong}");
        }
    }
}
