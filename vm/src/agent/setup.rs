//! From a bare kernel to an NFS client: name, network, daemons, mounts.
//!
//! The order matters. The loopback device has its address before rpcbind
//! starts, rpcbind runs before rpc.statd registers with it, and the NLM timeout
//! is written before the first mount starts lockd.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::MsFlags;

use super::{Agent, here};
use crate::ifconfig;
use crate::protocol::{Addresses, Fixture, Message, Mount, Setup};

/// What a daemon or a mount may print.
const LIMIT: usize = 16 << 10;

impl Agent {
    /// Makes the guest what the host asked for.
    pub(super) fn setup(self: Arc<Self>, setup: &Setup) -> Result<(), String> {
        let until = Instant::now() + Duration::from_millis(setup.deadline_ms);
        name(setup)?;
        if here::is_here() {
            return self.setup_here(setup, until);
        }
        ifconfig::up("lo").map_err(|e| format!("bringing up lo: {e}"))?;
        if let Some(addresses) = &setup.network {
            network(addresses)?;
        }
        if let Some(seconds) = setup.nlm_timeout {
            let file = "/proc/sys/fs/nfs/nlm_timeout";
            fs::write(file, seconds.to_string()).map_err(|e| format!("writing {seconds} to {file}: {e}"))?;
        }
        self.daemons(setup.fixture, until)?;
        self.clone()
            .stream_kernel_log()
            .map_err(|e| format!("reading /dev/kmsg: {e}"))?;
        for mount in &setup.mounts {
            self.mount(mount, until)?;
            self.link.send(&Message::Mounted {
                target: mount.target.clone(),
            });
        }
        Ok(())
    }

    fn daemons(&self, fixture: Fixture, until: Instant) -> Result<(), String> {
        // Both return when they are ready, and go on in the background.
        if fixture.rpcbind {
            self.expect(&mut Command::new("rpcbind"), "rpcbind", until)?;
        }
        if fixture.statd {
            self.expect(Command::new("rpc.statd").arg("--no-notify"), "rpc.statd", until)?;
        }
        Ok(())
    }

    fn mount(&self, mount: &Mount, until: Instant) -> Result<(), String> {
        fs::create_dir_all(&mount.target).map_err(|e| format!("creating {}: {e}", mount.target))?;
        let what = format!(
            "mounting {} on {} with {}",
            mount.source, mount.target, mount.options
        );
        if mount.direct {
            return direct(mount, until).map_err(|e| format!("{what}: {e}"));
        }
        // Otherwise it tries for two minutes, silently.
        let retry = if mount.options.contains("retry=") {
            ""
        } else {
            ",retry=0"
        };
        let mut command = Command::new("mount.nfs");
        command.args([
            &mount.source,
            &mount.target,
            "-o",
            &format!("{}{retry}", mount.options),
        ]);
        self.expect(&mut command, &what, until)
    }

    /// Runs a program that must succeed.
    fn expect(&self, command: &mut Command, what: &str, until: Instant) -> Result<(), String> {
        let left = until.saturating_duration_since(Instant::now());
        let output = self
            .children
            .run(command, left, LIMIT)
            .map_err(|e| format!("{what}: {e}"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = [output.stdout.trim(), output.stderr.trim()].join(" ");
        Err(format!("{what}: {}: {}", output.status, said.trim()))
    }
}

fn name(setup: &Setup) -> Result<(), String> {
    let name = &setup.hostname;
    nix::unistd::sethostname(name).map_err(|e| format!("setting the name {name}: {e}"))?;
    let mut hosts = "127.0.0.1 localhost\n".to_owned();
    match &setup.network {
        Some(a) => hosts.push_str(&format!("{} {name}\n{} server\n", a.guest, a.server)),
        None => hosts.push_str(&format!("127.0.1.1 {name}\n")),
    }
    fs::write("/etc/hosts", hosts).map_err(|e| format!("writing /etc/hosts: {e}"))
}

fn network(addresses: &Addresses) -> Result<(), String> {
    let device = device().ok_or("there is no network device: virtio_net found none")?;
    let Addresses { guest, prefix, .. } = addresses;
    let result = ifconfig::set_address(&device, *guest, *prefix).and_then(|()| ifconfig::up(&device));
    result.map_err(|e| format!("giving {device} the address {guest}/{prefix}: {e}"))
}

/// The first network device that is not the loopback.
fn device() -> Option<String> {
    let entries = fs::read_dir("/sys/class/net").ok()?.flatten();
    entries
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|n| n != "lo")
        .min()
}

/// The mount system call, in a thread that may hang without hanging us.
fn direct(mount: &Mount, until: Instant) -> Result<(), String> {
    let (host, _) = mount.source.split_once(':').ok_or("expected SERVER:/PATH")?;
    let address: Ipv4Addr = host
        .parse()
        .map_err(|_| format!("{host} is no IPv4 address, which a direct mount needs"))?;
    let data = format!("{},addr={address}", mount.options);
    let (tell, told) = channel();
    let mount = mount.clone();
    let call = move || {
        let result = nix::mount::mount(
            Some(mount.source.as_str()),
            mount.target.as_str(),
            Some("nfs"),
            MsFlags::empty(),
            Some(data.as_str()),
        );
        let _ = tell.send(result);
    };
    thread::Builder::new()
        .spawn(call)
        .map_err(|e| format!("no thread for it: {e}"))?;
    match told.recv_timeout(until.saturating_duration_since(Instant::now())) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("the kernel did not finish within the deadline".into()),
    }
}
