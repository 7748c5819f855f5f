//! The server that is compared with: Linux' own, in a guest. Its export is an ext4 on a RAM disk.

use nfslab_tests::nfslab_binary;
use std::net::IpAddr;
use std::time::Duration;
use vm::kernels::{self, Kernel};
use vm::net::Namespace;
use vm::{Cache, ExtraPackage, Extras, Guest, GuestConfig, Result, Stderr, Userland};

/// How long anything in the guest may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// The route is to [`vm::net::PEERS`]. lockd's grace period is longer than what is played in it; NFSv4's, which counts for locks of NFSv3 too though
/// NFSv4 is not served, is as short as it can be.
const START: &str = "
set -e
ip route add 10.77.1.0/24 via 10.77.0.1
mount -t nfsd nfsd /proc/fs/nfsd
mke2fs -q -F -t ext4 -b 4096 -m 0 /dev/ram0
mkdir -p /lab /var/lib/nfs/v4recovery
mount -t ext4 /dev/ram0 /lab
rmdir /lab/lost+found
chmod 1777 /lab
: > /etc/exports
: > /var/lib/nfs/etab
: > /var/lib/nfs/rmtab
echo 240 > /proc/sys/fs/nfs/nlm_grace_period
echo 10 > /proc/fs/nfsd/nfsv4gracetime
exportfs -o rw,no_root_squash,insecure,no_subtree_check,fsid=1 '*:/lab'
rpc.mountd
rpc.nfsd -V 3 -N 4 4
";

/// Ends lockd's grace period, and NFSv4's where the kernel can: 7.3 has to wait.
const END_GRACE: &str = "
echo Y > /proc/fs/lockd/nlm_end_grace
echo Y > /proc/fs/nfsd/v4_end_grace || true
";

/// What the guest is made of.
pub struct Parts {
    cache: Cache,
    kernel: Kernel,
    userland: Userland,
}

/// Linux' server, running.
pub struct Knfsd {
    guest: Guest,
}

impl Parts {
    /// Brings them into the cache. Needs the network, so it comes before the namespace is entered.
    pub fn fetch(series: &str) -> Result<Parts> {
        let cache = Cache::open()?;
        let kernel = kernels::fetch(&cache, series.parse()?, &Stderr)?;
        let package = |name: &str, paths: &[&str]| ExtraPackage {
            name: name.into(),
            paths: paths.iter().map(|p| (*p).to_owned()).collect(),
        };
        let extras = Extras {
            packages: vec![
                package(
                    "nfs-kernel-server",
                    &["usr/sbin/exportfs", "usr/sbin/rpc.nfsd", "usr/sbin/rpc.mountd"],
                ),
                package("e2fsprogs", &["sbin/mke2fs"]),
            ],
            host_files: Vec::new(),
            modules: ["brd", "ext4", "nfsd"].map(str::to_owned).to_vec(),
        };
        let userland = Userland::fetch(&cache, &extras, &Stderr)?;
        Ok(Parts {
            cache,
            kernel,
            userland,
        })
    }

    /// The kernel's release.
    pub fn release(&self) -> &str {
        &self.kernel.release
    }

    /// Boots it and starts its server, which is then in its grace period. `statd` says whether the guest has a
    /// status monitor.
    pub async fn start(&self, namespace: Namespace, statd: bool) -> Result<Knfsd> {
        let mut config = GuestConfig::new("knfsd", 1, self.kernel.clone(), self.userland.clone());
        config.agent = Some(nfslab_binary());
        config.network = Some(namespace);
        config.fixture.statd = statd;
        config.boot_deadline = DEADLINE;
        let guest = Guest::boot(config, &self.cache).await?;
        let knfsd = Knfsd { guest };
        knfsd.run("starting knfsd", START).await?;
        Ok(knfsd)
    }
}

impl Knfsd {
    /// Where it is.
    pub fn address(&self) -> IpAddr {
        self.guest.address().into()
    }

    /// Lets clients take locks that they did not have before. Locks may be refused for some seconds still.
    pub async fn end_grace(&self) -> Result<()> {
        self.run("ending the grace period", END_GRACE).await.map(drop)
    }

    /// Runs a script in the guest that must succeed; what it printed.
    pub async fn run(&self, what: &str, script: &str) -> Result<String> {
        let output = self.guest.exec(script, DEADLINE).await?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(vm::Error::Refused {
            guest: self.guest.name().to_owned(),
            what: what.to_owned(),
            problem: format!("{}: {} {}", output.status, output.stdout, output.stderr),
        })
    }

    /// Switches it off.
    pub async fn stop(self) -> Result<()> {
        self.guest.shutdown().await
    }
}
