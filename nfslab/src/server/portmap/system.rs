//! `--ports portmap=system`: where rpcbind of this host has port 111, our programs are registered there.

use super::ip_proto;
use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use proto::portmap::{Mapping, PMAP_PORT, PROGRAM, PmapProc, V2};
use rpc::client::{Client, Identity, Options, Target};
use rpc::msg::Transport;
use rpc::xdr;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// How long the system's port mapper may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The port mapper of this host.
#[derive(Debug)]
pub struct System {
    at: SocketAddr,
    /// What we have registered there: program and version.
    registered: Mutex<BTreeSet<(u32, u32)>>,
}

impl Default for System {
    /// Where it always is.
    fn default() -> Self {
        System::at((Ipv4Addr::LOCALHOST, PMAP_PORT).into())
    }
}

impl System {
    /// One at another address.
    pub fn at(at: SocketAddr) -> System {
        System {
            at,
            registered: Mutex::default(),
        }
    }

    /// SET for both transports of each version; nothing if that has been done.
    ///
    /// # Errors
    /// If no port mapper answers, or if it has another registration already; then none of these versions stays.
    pub async fn register(&self, program: u32, versions: &[u32], port: u16) -> Result<()> {
        let registered = |version: &u32| self.registered.lock().contains(&(program, *version));
        if versions.iter().all(registered) {
            return Ok(());
        }
        let client = connect(self.at).await?;
        for &version in versions {
            for transport in [Transport::Tcp, Transport::Udp] {
                let mapping = Mapping {
                    prog: program,
                    vers: version,
                    prot: ip_proto(transport),
                    port: port.into(),
                };
                if call(&client, PmapProc::PMAPPROC_SET, mapping).await? {
                    self.registered.lock().insert((program, version));
                    continue;
                }
                self.withdraw(program).await;
                bail!(
                    "the system's port mapper has program {program} version {version} already (--ports \
                     portmap=system): end the other server, or remove a stale entry with `rpcinfo -d {program} \
                     {version}`"
                );
            }
        }
        Ok(())
    }

    /// UNSET of what [`register`](Self::register) has set for a program. That it fails is logged.
    pub async fn withdraw(&self, program: u32) {
        let ours: Vec<(u32, u32)> = {
            let mut registered = self.registered.lock();
            let ours = registered.iter().filter(|(prog, _)| *prog == program).copied();
            let ours = ours.collect();
            registered.retain(|(prog, _)| *prog != program);
            ours
        };
        for (prog, vers) in ours {
            let mapping = Mapping {
                prog,
                vers,
                prot: ip_proto(Transport::Tcp),
                port: 0,
            };
            let unset = async { call(&connect(self.at).await?, PmapProc::PMAPPROC_UNSET, mapping).await };
            if let Err(error) = unset.await {
                tracing::warn!(prog, vers, %error, "still registered with the system's port mapper");
            }
        }
    }
}

async fn connect(mapper: SocketAddr) -> Result<Client> {
    let options = Options {
        from: None,
        identity: Identity::None,
        first_xid: std::process::id(),
        patience: PATIENCE,
        tap: None,
    };
    let connected = Client::connect(Transport::Tcp, mapper, options).await;
    connected.with_context(|| {
        format!("no port mapper of the system answers on {mapper} (--ports portmap=system): start rpcbind")
    })
}

async fn call(client: &Client, procedure: PmapProc, mapping: Mapping) -> Result<bool> {
    let target = Target::new(PROGRAM, V2, procedure.0);
    let answer = client.call(target, &mapping, PATIENCE).await;
    let answer = answer.context("the system's port mapper does not answer")?;
    Ok(xdr::from_bytes(&answer)?)
}
