//! The server: five services, one process.
//!
//! ```text
//! listeners ── rpc::server ── dispatch (the hook for faults) ─┬─ nfsd: NFS and MOUNT
//!                                                             ├─ portmap
//!                                                             ├─ locks ── nlm ── callbacks to clients
//!                                                             └─ statd ── nsm
//! ```
//!
//! [`Node`] is what they share and what the control API acts on. `nlm` and `nsm` do not know each other:
//! [`locks`] carries "monitor this peer" from one to the other, [`statd`] carries "it has rebooted" back.
//!
//! Lock order: the lock service before everything else: whoever holds another lock does not ask for it.

mod callbacks;
mod config;
mod dispatch;
mod exports;
mod forge;
mod gates;
mod handle_key;
mod listeners;
mod locks;
mod look;
mod mishaps;
mod plan;
mod populate;
mod portmap;
mod repeated;
mod rules;
mod running;
mod statd;
mod stores;

pub use config::{Config, ControlAt, StatdAt, personalities};
pub use exports::{ExportSpec, StoreSpec};
pub use gates::Verdict;
pub use listeners::{MOUNT_PORT, NLM_PORT, NSM_PORT, Ports};
pub use populate::EXAMPLE as POPULATE_EXAMPLE;
pub use repeated::Drc;
pub use running::{Addresses, Server};

use crate::capture::Capture;
use crate::clock::Clock;
use crate::control::api::{BreakLocks, GraphView, LockPage, PeerView, ServiceView};
use crate::events::{EventLog, What};
use crate::journal::Journal;
use crate::metrics::Calls;
use anyhow::{Context, Result, anyhow, bail};
use arc_swap::ArcSwap;
use callbacks::Callbacks;
use dispatch::Door;
use faults::active::Active;
use faults::history::History;
use faults::journal::Replay;
use faults::rule::Rule;
use faults::{Condition, Conditions, Faults, Service};
use gates::Gates;
use listeners::Listeners;
use locks::Locks;
use nfsd::{Exports, Mount, Nfs3};
use parking_lot::Mutex;
use portmap::{Registry, System};
use proto::nfs3::{CreateHow3, Nfsstat3, Sattr3};
use repeated::Repeated;
use rpc::msg::Transport;
use statd::Statd;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What all services share.
pub struct Node {
    /// The server's clock.
    pub clock: Arc<Clock>,
    /// What happened.
    pub events: Arc<EventLog>,
    /// How many calls came and were answered.
    pub(crate) calls: Calls,
    me: Weak<Node>,
    faults: Arc<ArcSwap<Faults>>,
    /// For every hashed choice.
    seed: u64,
    gates: Gates,
    journal: Journal,
    /// Which calls there were.
    history: Mutex<History>,
    at_start: Conditions,
    /// How often the condition of each service was set.
    times_set: [AtomicU64; Service::ALL.len()],
    rules_at_start: Vec<Rule>,
    registry: Registry,
    /// The services that are part of this server.
    ours: BTreeSet<Service>,
    /// With `--ports portmap=system`: the port mapper of this host.
    system: Option<System>,
    exports: Arc<Exports>,
    nfs: Nfs3,
    mount: Mount,
    locks: Locks,
    statd: Statd,
    capture: Option<Arc<Capture>>,
    /// The answers to calls that must not be executed twice.
    repeated: Arc<Repeated>,
    /// Calls that may wait for a disk at one time.
    waiting: Arc<tokio::sync::Semaphore>,
    listeners: OnceLock<Listeners>,
    /// Serialises changes of conditions, each of which opens or closes sockets.
    changing: tokio::sync::Mutex<()>,
    /// The same for advances of a manual clock.
    advancing: tokio::sync::Mutex<()>,
    /// What goes on by itself: calls to clients, replies that are held back.
    tasks: TaskTracker,
    /// Ends it.
    stopping: CancellationToken,
}

/// The programs of each service: program, and its versions.
const fn programs(service: Service) -> (u32, &'static [u32]) {
    match service {
        Service::Portmap => (
            proto::portmap::PROGRAM,
            &[proto::portmap::V2, proto::rpcbind::V3, proto::rpcbind::V4],
        ),
        Service::Mount => (
            proto::mount::PROGRAM,
            &[proto::mount::V1, proto::mount::V2, proto::mount::V3],
        ),
        Service::Nfs => (proto::nfs3::PROGRAM, &[proto::nfs3::V3]),
        Service::Lockd => (
            proto::nlm::PROGRAM,
            &[proto::nlm::V1, proto::nlm::V3, proto::nlm::V4],
        ),
        Service::Statd => (proto::nsm::PROGRAM, &[proto::nsm::V1]),
    }
}

/// A number that no instance of this server has had before: nanoseconds of the wall clock.
fn verifier() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_nanos() as u64
}

impl Node {
    fn new(config: &Config) -> Result<Arc<Node>> {
        let clock = match config.virtual_time {
            true => Clock::manual(),
            false => Clock::default(),
        };
        let clock = Arc::new(clock);
        let events = Arc::new(EventLog::default());
        let capture = config.pcap.as_deref().map(|path| {
            let created = Capture::create(path);
            created.with_context(|| format!("cannot write the capture {} (--pcap)", path.display()))
        });
        let capture = capture.transpose()?.map(Arc::new);
        let exports = Arc::new(stores::exports(config)?);
        let verifier = verifier();
        let (personality, grace) = (config.personality.clone(), config.grace);
        let statd = Statd::new(clock.now(), config.state_dir.as_deref(), config.statd)?;
        let journal = Journal::new(config.seed, config.journal.as_deref())?;
        // About a millisecond each; they begin again after seven weeks.
        let instance = (verifier >> 20) as u32;
        let node = Arc::new_cyclic(|me| Node {
            me: me.clone(),
            faults: Arc::new(ArcSwap::from_pointee(Faults {
                conditions: config.conditions,
                rules: Arc::new(Active::new(
                    config.rules.clone(),
                    config.seed,
                    clock.now(),
                    config.replay.clone().map(Replay::new),
                )),
                ..Faults::default()
            })),
            seed: config.seed,
            gates: Gates::default(),
            journal,
            history: Mutex::default(),
            rules_at_start: config.rules.clone(),
            calls: Calls::default(),
            at_start: config.conditions,
            times_set: Default::default(),
            registry: Registry::default(),
            ours: config.services().collect(),
            system: config.ports.system_portmap().then(System::default),
            nfs: Nfs3::new(exports.clone(), verifier.to_be_bytes()),
            mount: Mount::new(exports.clone()),
            exports,
            locks: Locks::new(
                personality,
                grace,
                clock.now(),
                instance,
                Callbacks::new(capture.clone()),
            ),
            statd,
            capture,
            repeated: Arc::new(Repeated::new(&config.drc)),
            waiting: Arc::new(tokio::sync::Semaphore::new(dispatch::MAX_WAITING)),
            listeners: OnceLock::new(),
            changing: tokio::sync::Mutex::default(),
            advancing: tokio::sync::Mutex::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            clock,
            events,
        });
        Ok(node)
    }

    /// Has something go on by itself, until the server stops.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stopping = self.stopping.clone();
        self.tasks.spawn(async move {
            stopping.run_until_cancelled(task).await;
        });
    }

    /// Advances the server's clock. If that is a manual one, step by step, so that each timer of the protocols runs out
    /// at its own time.
    pub async fn advance(&self, by: Duration) {
        if !self.clock.is_manual() {
            return self.clock.advance(by);
        }
        let _alone = self.advancing.lock().await;
        let end = self.clock.now().saturating_add(by);
        let due = || {
            let timers = [
                self.clock.next_sleeper(),
                self.locks.next_wakeup(),
                self.statd.next_wakeup(),
            ];
            timers.into_iter().flatten().min().filter(|due| *due <= end)
        };
        while let Some(due) = due() {
            self.clock.advance(due.saturating_sub(self.clock.now()));
            self.locks.tick(self);
            self.statd.tick(self);
            self.clock.settled().await;
            // Whoever has just woken up goes on before the clock does.
            tokio::task::yield_now().await;
        }
        self.clock.advance(end.saturating_sub(self.clock.now()));
    }

    fn event(&self, what: What) {
        let event = self.events.add(self.clock.now(), what);
        let faults = self.faults.load();
        if faults.rules.watches_events() {
            faults.rules.observe(&event.names());
        }
    }

    fn door(&self, service: Service) -> Option<Arc<dyn rpc::server::Service>> {
        let node = self.me.upgrade()?;
        Some(Arc::new(Door::new(node, service)))
    }

    fn listeners(&self) -> Result<&Listeners> {
        self.listeners.get().context("the server has not started")
    }

    /// Enters a service with the port that its condition has the port mapper name, which need not be its own.
    fn register(&self, service: Service, port: u16, listeners: &Listeners) {
        let (program, versions) = programs(service);
        for address in listeners.registered() {
            let address = SocketAddr::new(address, port);
            for version in versions {
                for transport in [Transport::Tcp, Transport::Udp] {
                    self.registry
                        .register(service, program, *version, transport, address);
                }
            }
        }
    }

    /// Whether a service is part of this server, rather than the one of this host.
    fn is_ours(&self, service: Service) -> bool {
        self.ours.contains(&service)
    }

    /// The same with the port mapper of this host, if that is the one. Instead of naming port 0 it does not know the
    /// service, which is the same to those who ask.
    async fn register_with_system(&self, service: Service, port: u16) -> Result<()> {
        let (program, versions) = programs(service);
        match &self.system {
            Some(system) if port != 0 => system.register(program, versions, port).await,
            _ => Ok(()),
        }
    }

    async fn withdraw_from_system(&self, service: Service) {
        if let Some(system) = &self.system {
            system.withdraw(programs(service).0).await;
        }
    }

    /// Registers every service that listens with the port mapper of this host: all of them or none.
    async fn register_all_with_system(&self, conditions: &Conditions) -> Result<()> {
        let listeners = self.listeners()?;
        for (service, condition) in conditions.iter().filter(|(service, _)| self.is_ours(*service)) {
            let Some(port) = condition.registered(listeners.ports().get(service)) else {
                continue;
            };
            if let Err(error) = self.register_with_system(service, port).await {
                self.withdraw_all_from_system().await;
                return Err(error);
            }
        }
        Ok(())
    }

    async fn withdraw_all_from_system(&self) {
        for service in Service::ALL {
            self.withdraw_from_system(service).await;
        }
    }

    /// How each service is, and where it listens.
    pub fn services(&self) -> Vec<ServiceView> {
        let conditions = self.faults.load().conditions;
        let port = |service| self.listeners.get().map_or(0, |l| l.ports().get(service));
        let view = |(service, condition): (Service, Condition)| ServiceView {
            service: service.to_string(),
            condition: condition.to_string(),
            port: port(service),
        };
        conditions.iter().map(view).collect()
    }

    /// Sets how a service is: sockets, registration and the lock service's view of statd follow.
    ///
    /// # Errors
    /// If the service cannot be so, or is not part of this server, or if one that had no sockets cannot listen again.
    pub async fn set_condition(&self, service: Service, condition: Condition) -> Result<()> {
        let _alone = self.changing.lock().await;
        self.make(service, condition).await
    }

    /// The same for so long, by the server's clock; then the service is again as it was at the start, unless its
    /// condition has been set anew meanwhile.
    ///
    /// # Errors
    /// As [`set_condition`](Self::set_condition).
    pub async fn set_condition_for(
        &self,
        service: Service,
        condition: Condition,
        lasts: Duration,
    ) -> Result<()> {
        let until = self.clock.now().saturating_add(lasts);
        let set = {
            let _alone = self.changing.lock().await;
            self.make(service, condition).await?;
            self.times_set(service).load(Relaxed)
        };
        let node = self.me.upgrade().context("the server is stopping")?;
        self.spawn(async move {
            node.clock.sleep_until(Some(until)).await;
            let _alone = node.changing.lock().await;
            if node.times_set(service).load(Relaxed) == set
                && let Err(error) = node.make(service, node.at_start.get(service)).await
            {
                tracing::error!(%service, %error, "its condition should be over, and is not");
            }
        });
        Ok(())
    }

    fn times_set(&self, service: Service) -> &AtomicU64 {
        let [portmap, mount, nfs, lockd, statd] = &self.times_set;
        match service {
            Service::Portmap => portmap,
            Service::Mount => mount,
            Service::Nfs => nfs,
            Service::Lockd => lockd,
            Service::Statd => statd,
        }
    }

    /// [`set_condition`](Self::set_condition), for who has [`changing`](Self::changing).
    async fn make(&self, service: Service, condition: Condition) -> Result<()> {
        condition.check(service)?;
        let listeners = self.listeners()?;
        if service == Service::Portmap && self.system.is_some() {
            bail!("the port mapper is the system's (--ports portmap=system), and stays as it is");
        }
        if !self.is_ours(service) {
            bail!("statd is the system's (--statd system): stop, kill or start rpc.statd itself");
        }
        let own = listeners.ports().get(service);
        let before = self.faults.load().conditions.get(service).registered(own);
        let registered = condition.registered(own);
        if condition.listens() {
            let door = self.door(service).context("the server is stopping")?;
            listeners.open(service, door)?;
        }
        if registered.is_none() || registered != before {
            self.registry.withdraw(service);
            self.withdraw_from_system(service).await;
        }
        if let Some(port) = registered {
            self.register(service, port, listeners);
            self.register_with_system(service, port).await?;
        }
        self.set_in_faults(service, condition);
        self.times_set(service).fetch_add(1, Relaxed);
        if !condition.listens() {
            listeners.close(service).await;
            self.repeated.clear(service);
        }
        self.event(What::condition(service, condition));
        self.statd.conditions_changed(self);
        self.locks.conditions_changed(self, Some(service));
        Ok(())
    }

    /// Calls read the faults without a lock. Conditions are changed by one at a time ([`changing`](Self::changing)),
    /// rules by anybody.
    fn set_in_faults(&self, service: Service, condition: Condition) {
        self.faults.rcu(|faults| {
            let mut faults = Faults::clone(faults);
            faults.conditions.set(service, condition);
            faults.answered.restart(service);
            faults
        });
    }

    /// The lock service's peers.
    pub fn peers(&self) -> Vec<PeerView> {
        self.locks.peers()
    }

    /// Has the lock service no longer count a peer (a name or an address) as monitored; `None`: every one.
    /// How many there were.
    pub fn forget_peers(&self, name: Option<&str>) -> usize {
        self.locks.forget(self, name)
    }

    /// A page of the lock table, beginning behind `after`.
    pub fn locks(&self, after: Option<nlm::table::Cursor>, limit: usize) -> LockPage {
        self.locks.page(self, after, limit)
    }

    /// How many locks are held, and how many requests wait.
    pub fn lock_counts(&self) -> (usize, usize) {
        self.locks.counts()
    }

    /// Who waits for whom, with at most `limit` edges.
    pub fn lock_graph(&self, limit: usize) -> GraphView {
        self.locks.graph(self, limit)
    }

    /// The handle of a file, which is made if there is none. See [`Lab::make_file`](crate::lab::Lab::make_file).
    pub(crate) fn make_file(&self, path: &str) -> Result<Vec<u8>> {
        let failed = |status| anyhow!("making {path}: {status}");
        let (export, inside) = self.exports.find(path.as_bytes()).with_context(|| {
            format!("no export has {path}: expected a path in one of them, such as /lab/a")
        })?;
        let root = self
            .exports
            .root_handle(&export.name)
            .context("an export without a root")?;
        let target = self.exports.resolve(root.as_bytes()).map_err(failed)?;
        let cx = nfsd::Cx::local(nfsd::Caller::ROOT, stores::now());
        let mut names = inside
            .split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty())
            .peekable();
        let (store, mut file) = (target.store(), target.file);
        if names.peek().is_none() {
            bail!("{path} is an export: expected a path in it");
        }
        while let Some(name) = names.next() {
            file = match (store.lookup(&cx, &file, name), names.peek()) {
                (Err(Nfsstat3::NFS3ERR_NOENT), None) => {
                    let how = CreateHow3::Unchecked(Sattr3::default());
                    store.create(&cx, &file, name, &how).map_err(failed)?.file
                }
                (found, _) => found.map_err(failed)?.file,
            };
        }
        Ok(self.exports.seal(export, &file).as_bytes().to_vec())
    }

    /// Gives locks away as if they had been unlocked; their clients are not told. How many there were.
    pub fn break_locks(&self, which: &BreakLocks) -> usize {
        self.locks.break_locks(self, which)
    }

    /// Puts everything back: the conditions of the start, the file handles of the start, no locks (nobody's neither),
    /// none to be granted twice, nobody monitored, no answer remembered.
    ///
    /// # Errors
    /// If a service that was absent cannot listen again.
    pub async fn reset(&self) -> Result<()> {
        self.exports.renew_handles();
        self.locks.restart(self, None);
        self.statd.reset(self);
        self.repeated.clear_all();
        self.set_rules(self.rules_at_start.clone());
        self.gates.reset();
        self.history.lock().clear();
        self.journal.clear();
        for (service, condition) in self.at_start.iter() {
            if self.faults.load().conditions.get(service) != condition {
                self.set_condition(service, condition).await?;
            }
        }
        self.event(What::Reset);
        Ok(())
    }
}
