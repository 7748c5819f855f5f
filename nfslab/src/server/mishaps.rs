//! What happens to the server as a whole, or to its lock table, because somebody wants it to: a reboot without the end of
//! the process, stale handles, locks that are lost, leaked or granted twice, peers that are declared rebooted.

use super::{Node, verifier};
use crate::control::api::{
    BreakLocks, DoubleGrant, DoubleGrantView, LeakLock, LeakView, NodeView, Reboot, StaleHandles,
};
use crate::events::{What, ms};
use anyhow::{Context, Result, anyhow, bail};
use faults::Service;
use nfsd::handle::Handle;
use nlm::table::Fh;
use nsm::monitor::Tell;

impl Node {
    /// The server reboots, as far as a client can tell, and the process goes on. Connections are closed, and nothing is
    /// answered for a moment, in which others cannot take the ports. Locks, share reservations, requests that wait, calls
    /// under way and remembered answers are gone; the write verifier and the state number are new. Then the services come
    /// back, a grace period begins, and whoever was monitored is told, or not. Conditions of services stay as they are.
    ///
    /// # Errors
    /// If it is to tell with the statd of this host, or if there are too many open files.
    pub async fn reboot(&self, how: Reboot) -> Result<NodeView> {
        let _alone = self.changing.lock().await;
        let listeners = self.listeners()?;
        if !self.is_ours(Service::Statd) && how.tell.as_ref().is_some_and(|tell| *tell != Tell::Nobody) {
            bail!(
                "statd is the system's (--statd system), and tells nobody of a reboot that was none: expected notify \
                 none; to tell them all the same, run sm-notify -f"
            );
        }
        let conditions = self.faults.load().conditions;
        let up = |service: &Service| self.is_ours(*service) && conditions.get(*service).listens();
        let mut down = Vec::new();
        for service in Service::ALL.into_iter().filter(up) {
            down.push((service, listeners.suspend(service).await));
        }
        let tell = match self.is_ours(Service::Statd) {
            true => how.tell.unwrap_or_default(),
            false => Tell::Nobody,
        };
        let told = match &tell {
            Tell::All => "clients that were monitored are told".to_owned(),
            Tell::Nobody => "no client is told".to_owned(),
            Tell::As(name) => {
                format!("clients that were monitored are told that \"{name}\" has, which they may not know")
            }
        };
        self.event(What::Node {
            step: "rebooted",
            text: format!("the server reboots: all that it knew of locks and calls is gone; {told}"),
        });
        self.locks.restart(self, how.grace);
        let state = self.statd.restart(self.clock.now(), tell);
        self.repeated.clear_all();
        self.nfs.set_write_verf(verifier().to_be_bytes());
        let mut opened = Ok(());
        for (service, sockets) in down {
            let door = self.door(service).context("the server is stopping")?;
            opened = opened.and(match sockets {
                Some(sockets) => listeners.serve(service, sockets, door),
                None => listeners.open(service, door),
            });
        }
        // Not before: whoever is told comes back at once.
        self.statd.begin(self);
        opened.context("after the reboot")?;
        Ok(NodeView {
            state,
            now_ms: ms(self.clock.now()),
        })
    }

    /// Every file handle that was given out is stale from now on; every file has a new one, under the same fileid. If it
    /// is for some time only, the handles of the start are good again after it, unless they have gone stale anew meanwhile.
    ///
    /// # Errors
    /// If that is no time.
    pub fn stale_handles(&self, how: &StaleHandles) -> Result<NodeView> {
        let until = how.lasts()?.map(|lasts| self.clock.now().saturating_add(lasts));
        let epoch = self.exports.expire_handles();
        self.event(What::Node {
            step: "handles-stale",
            text: "every file handle given out so far is stale: clients get ESTALE until they mount again"
                .to_owned(),
        });
        if let (Some(until), Some(node)) = (until, self.me.upgrade()) {
            self.spawn(async move {
                node.clock.sleep_until(Some(until)).await;
                if node.exports.renew_handles_after(epoch) {
                    node.event(What::Node {
                        step: "handles-good",
                        text: "the file handles of the start are good again; those given out meanwhile are stale"
                            .to_owned(),
                    });
                }
            });
        }
        Ok(NodeView {
            state: None,
            now_ms: ms(self.clock.now()),
        })
    }

    /// A peer (a name or an address) counts as rebooted: its locks go, as after its SM_NOTIFY. How many are meant.
    pub fn reboot_peer(&self, name: &str) -> usize {
        let meant = self.locks.peers_meant(name);
        if meant == 0 {
            return 0;
        }
        self.event(What::Node {
            step: "peer-rebooted",
            text: format!(
                "{} is declared rebooted, whether it has or not",
                name.escape_debug()
            ),
        });
        self.locks.declare_rebooted(self, name);
        meant
    }

    /// Loses locks; neither their clients are told, nor who waits for them. How many there were.
    pub fn forget_locks(&self, which: &BreakLocks) -> usize {
        self.locks.forget_locks(self, which)
    }

    /// Enters a lock of nobody.
    ///
    /// # Errors
    /// If there is no such file, or if somebody's lock is in the way.
    pub fn leak_lock(&self, which: &LeakLock) -> Result<LeakView> {
        let (range, kind, lasts) = which.parse()?;
        let (handle, path) = self.file(&which.path)?;
        let svid = self.locks.leak(self, as_fh(&handle)?, (range, kind), lasts);
        let svid = svid.map_err(|error| anyhow!("{path}: {error}; `nfslab lock list` shows it"))?;
        Ok(LeakView {
            path,
            name: nlm::service::ORPHAN.to_owned(),
            svid,
        })
    }

    /// Has the next locks on a file granted although they conflict.
    ///
    /// # Errors
    /// If there is no such file, or if it is to last for what is no time.
    pub fn double_grant(&self, which: &DoubleGrant) -> Result<DoubleGrantView> {
        let lasts = which.lasts()?;
        let (handle, path) = self.file(&which.path)?;
        self.locks.double_grant(self, as_fh(&handle)?, which.count, lasts);
        Ok(DoubleGrantView {
            path,
            count: which.count,
        })
    }

    /// The file at a path, by its handle, and how the lock table calls it.
    fn file(&self, path: &str) -> Result<(Handle, String)> {
        let found = self.exports.handle_at(path.as_bytes());
        let handle = found.map_err(|status| {
            let exports: Vec<_> = self.exports.list().iter().map(|e| e.name.as_str()).collect();
            anyhow!(
                "no file {path} ({status}): expected the path of one in {}, such as {}/f",
                exports.join(", "),
                exports.first().unwrap_or(&"/lab")
            )
        })?;
        let known = self.exports.path_of(handle.as_bytes());
        Ok((
            handle,
            known.map_or_else(|| path.to_owned(), |known| known.to_string()),
        ))
    }
}

fn as_fh(handle: &Handle) -> Result<Fh<'_>> {
    Fh::new(handle.as_bytes()).context("the file's handle is too long for NLM")
}
