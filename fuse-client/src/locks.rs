//! Carries out what [`nlm::client`] wants done: calls to the server's lock manager, answers to those who wait, time.

use crate::dev::{Conflict, FileLock, LockHolder, LockKind, Notifier};
use crate::host::{Callbacks, Host};
use crate::line::{Line, LineError, Who};
use crate::nfs::Fh;
use ::nlm::client::{
    Answered, Api, Call, CallId, Config, Effect, Effects, Failure, Holder, LockClient, Procedure, Refused,
    RequestId, reply_of_test,
};
use ::nlm::range::Range;
use ::nlm::request::{Reply, Request};
use anyhow::Result;
use bytes::Bytes;
use nix::errno::Errno;
use parking_lot::Mutex;
use proto::nlm::{self, NlmProc};
use rpc::msg::RpcError;
use rpc::xdr;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

/// So many holders may be remembered that have no locks.
const IDLE_HOLDERS: usize = 64;
/// How long locks may take to be given back at the end.
const LAST_UNLOCKS: Duration = Duration::from_secs(5);

type Outcome = Result<Answered, Refused>;

/// The locks of a mount.
#[derive(Clone)]
pub struct Locks {
    inner: Arc<Inner>,
    /// The services end with the last of these.
    host: Arc<tokio::sync::Mutex<Option<Host>>>,
    _end: Arc<DropGuard>,
}

struct Inner {
    me: Weak<Inner>,
    line: Line,
    server: IpAddr,
    start: Instant,
    state: Mutex<State>,
    /// The next date may have changed.
    wake: Notify,
    notifier: Mutex<Option<Notifier>>,
    runtime: tokio::runtime::Handle,
}

struct State {
    client: LockClient,
    fx: Effects,
    waiting: BTreeMap<RequestId, oneshot::Sender<Outcome>>,
    /// As whom calls for a holder are made. Of those who have nothing any more some are left, no more than the others and
    /// [`IDLE_HOLDERS`].
    who: BTreeMap<Holder, Who>,
    /// The server's NSM state number, once it told.
    server_state: Option<i32>,
}

fn range(lock: FileLock) -> Result<Range, Errno> {
    Range::new(lock.start, lock.end.min(FileLock::EOF)).ok_or(Errno::EINVAL)
}

fn holder(holder: LockHolder) -> Holder {
    Holder {
        number: holder.number,
        api: if holder.flock { Api::Flock } else { Api::Posix },
    }
}

fn errno(refused: Refused) -> Errno {
    Errno::from_raw(refused.errno())
}

impl Locks {
    /// Locks on files of a server whose lock manager is at the end of `line`, by one of `machine`, whom callbacks reach at
    /// `address`.
    ///
    /// # Errors
    /// Our own services cannot be started.
    pub async fn new(line: Line, server: IpAddr, address: IpAddr, machine: &str) -> Result<Locks> {
        let mut config = Config::new(machine);
        // Not those of the kernel's own client, which counts from 0, nor those of another mount.
        config.first_svid = (1 << 30) | ((std::process::id() & 0xffff) << 14) as i32;
        let mut client = LockClient::new(config);
        client.set_state(state_number());
        let inner = Arc::new_cyclic(|me| Inner {
            me: me.clone(),
            line,
            server,
            start: Instant::now(),
            state: Mutex::new(State {
                client,
                fx: Effects::new(),
                waiting: BTreeMap::new(),
                who: BTreeMap::new(),
                server_state: None,
            }),
            wake: Notify::new(),
            notifier: Mutex::new(None),
            runtime: tokio::runtime::Handle::current(),
        });
        let host = Host::new(address, inner.clone()).await?;
        let end = CancellationToken::new();
        tokio::spawn(end.clone().run_until_cancelled_owned(keep_time(inner.clone())));
        Ok(Locks {
            inner,
            host: Arc::new(tokio::sync::Mutex::new(Some(host))),
            _end: Arc::new(end.drop_guard()),
        })
    }

    /// From here on the kernel is told when its copy of a file may be out of date.
    pub fn notify(&self, notifier: Notifier) {
        *self.inner.notifier.lock() = Some(notifier);
    }

    /// F_GETLK.
    ///
    /// # Errors
    /// As fcntl(2).
    pub async fn test(
        &self,
        who: &Who,
        fh: &Fh,
        by: LockHolder,
        lock: FileLock,
        interrupted: &CancellationToken,
    ) -> Result<Conflict, Errno> {
        let (range, exclusive) = (range(lock)?, lock.kind == LockKind::Write);
        let answered = self.ask(who, holder(by), interrupted, |client, _, fx| {
            client.test(fh.bytes(), holder(by), range, exclusive, fx)
        });
        let free = FileLock {
            kind: LockKind::Unlock,
            ..lock
        };
        match answered.await.map_err(errno)? {
            Answered::Done | Answered::Tested(None) => Ok(Conflict { lock: free, pid: 0 }),
            Answered::Tested(Some(other)) => Ok(Conflict {
                lock: FileLock {
                    start: other.range.start(),
                    end: other.range.last(),
                    kind: if other.kind.is_exclusive() {
                        LockKind::Write
                    } else {
                        LockKind::Read
                    },
                },
                pid: 0,
            }),
        }
    }

    /// F_SETLK, F_SETLKW, flock(2) for a lock.
    ///
    /// # Errors
    /// As fcntl(2); EINTR when `interrupted` says so.
    pub async fn lock(
        &self,
        who: &Who,
        fh: &Fh,
        by: LockHolder,
        lock: FileLock,
        wait: bool,
        interrupted: &CancellationToken,
    ) -> Result<(), Errno> {
        let (range, exclusive) = (range(lock)?, lock.kind == LockKind::Write);
        let asked = self.ask(who, holder(by), interrupted, |client, now, fx| {
            client.lock(now, fh.bytes(), holder(by), range, exclusive, wait, fx)
        });
        asked.await.map(|_| ()).map_err(errno)
    }

    /// The same to give it back.
    ///
    /// # Errors
    /// As fcntl(2).
    pub async fn unlock(&self, who: &Who, fh: &Fh, by: LockHolder, lock: FileLock) -> Result<(), Errno> {
        let range = range(lock)?;
        let never = CancellationToken::new();
        let asked = self.ask(who, holder(by), &never, |client, _, fx| {
            client.unlock(fh.bytes(), holder(by), range, fx)
        });
        asked.await.map(|_| ()).map_err(errno)
    }

    /// Everything that a holder has on a file: it was closed.
    pub async fn release(&self, who: &Who, fh: &Fh, number: u64, flock: bool) {
        let by = Holder {
            number,
            api: if flock { Api::Flock } else { Api::Posix },
        };
        let never = CancellationToken::new();
        let asked = self.ask(who, by, &never, |client, _, fx| {
            client.release(fh.bytes(), by, fx)
        });
        // What it could not give back was told of; close(2) does not fail for it.
        let _ = asked.await;
    }

    /// Asks, waits, and gives up when it is interrupted.
    async fn ask(
        &self,
        who: &Who,
        by: Holder,
        interrupted: &CancellationToken,
        ask: impl FnOnce(&mut LockClient, Duration, &mut Effects) -> RequestId,
    ) -> Outcome {
        let (tell, mut told) = oneshot::channel();
        let request = self.inner.with(|state, now| {
            if state.who.len() >= 2 * state.client.holders() + IDLE_HOLDERS {
                state.who.retain(|holder, _| state.client.knows(holder));
            }
            state.who.insert(by, who.clone());
            let request = ask(&mut state.client, now, &mut state.fx);
            state.waiting.insert(request, tell);
            request
        });
        let outcome = tokio::select! {
            biased;
            outcome = &mut told => outcome,
            () = interrupted.cancelled() => {
                self.inner.with(|state, _| state.client.interrupt(request, &mut state.fx));
                told.await
            }
        };
        outcome.unwrap_or(Err(Refused::Io))
    }

    /// Somebody else may have changed the file before we had the lock: the kernel is to ask for its data again.
    pub async fn invalidate(&self, nodeid: u64) {
        let Some(notifier) = self.inner.notifier.lock().clone() else {
            return;
        };
        // It may have to wait for pages that are being read.
        let _ = tokio::task::spawn_blocking(move || notifier.invalidate(nodeid, 0, 0)).await;
    }

    /// Waits until the server has what is being given back, and takes our services down.
    pub async fn close(&self) {
        let idle = async {
            while !self.inner.state.lock().client.is_idle() {
                self.inner.wake.notified().await;
            }
        };
        if tokio::time::timeout(LAST_UNLOCKS, idle).await.is_err() {
            tracing::warn!("the server did not answer UNLOCK: locks of this mount may be left there");
        }
        if let Some(host) = self.host.lock().await.take() {
            host.close().await;
        }
    }
}

/// Our NSM state number: odd, and higher at every start, without a disk (XNFS C702, chapter 12).
fn state_number() -> i32 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    (now.as_secs() & 0x7fff_ffff) as i32 | 1
}

/// Calls [`LockClient::tick`] when it is due.
async fn keep_time(inner: Arc<Inner>) {
    loop {
        let next = inner.state.lock().client.next_wakeup();
        let timer = async {
            match next {
                Some(at) => tokio::time::sleep_until((inner.start + at).into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = inner.wake.notified() => {}
            () = timer => inner.with(|state, now| state.client.tick(now, &mut state.fx)),
        }
    }
}

impl Inner {
    /// Lets the client do something, and does what it wants done.
    fn with<R>(&self, act: impl FnOnce(&mut State, Duration) -> R) -> R {
        let mut state = self.state.lock();
        let result = act(&mut state, self.start.elapsed());
        let State { fx, waiting, who, .. } = &mut *state;
        for effect in fx.drain() {
            match effect {
                Effect::Call { id, call } => {
                    let who = who.get(&call.holder).cloned().unwrap_or_default();
                    if let Some(this) = self.me.upgrade() {
                        self.runtime.spawn(async move { this.call(who, id, &call).await });
                    }
                }
                Effect::Answer { request, result } => {
                    if let Some(waiting) = waiting.remove(&request) {
                        let _ = waiting.send(result);
                    }
                }
                Effect::Event(event) => tracing::warn!("lockd: {event}"),
            }
        }
        drop(state);
        self.wake.notify_waiters();
        self.wake.notify_one();
        result
    }

    async fn call(&self, who: Who, id: CallId, call: &Call) {
        let cookie = id.0.to_be_bytes();
        let request = call.request(cookie.as_slice().into());
        let procedure = match call.procedure {
            Procedure::Test => NlmProc::NLM_TEST,
            Procedure::Lock { .. } => NlmProc::NLM_LOCK,
            Procedure::Cancel { .. } => NlmProc::NLM_CANCEL,
            Procedure::Unlock => NlmProc::NLM_UNLOCK,
        };
        let reply = match &request {
            Request::Test(args) => self.line.call(&who, procedure.0, args).await,
            Request::Lock(args) => self.line.call(&who, procedure.0, args).await,
            Request::Cancel(args) => self.line.call(&who, procedure.0, args).await,
            Request::Unlock(args) => self.line.call(&who, procedure.0, args).await,
            _ => return,
        };
        let reply = match reply {
            Ok(reply) => decode(procedure, &reply),
            Err(LineError::Closed) => return,
            Err(LineError::Refused(RpcError::Auth(_))) => Err(Failure::Access),
            Err(_) => Err(Failure::Io),
        };
        self.with(|state, now| state.client.replied(now, id, reply, &mut state.fx));
    }
}

fn decode(procedure: NlmProc, reply: &Bytes) -> Result<Reply, Failure> {
    match procedure {
        NlmProc::NLM_TEST => xdr::from_bytes(reply)
            .map(|res| reply_of_test(&res))
            .map_err(|_| Failure::Io),
        _ => xdr::from_bytes::<nlm::Res<'_>>(reply)
            .map(|res| Reply::Stat(res.stat))
            .map_err(|_| Failure::Io),
    }
}

impl Callbacks for Inner {
    fn granted(&self, from: IpAddr, args: &nlm::TestArgs<'_>) -> bool {
        from == self.server
            && self.with(|state, now| {
                state
                    .client
                    .granted(now, &args.alock, args.exclusive, &mut state.fx)
            })
    }

    fn answer_granted(&self, res: &nlm::Res<'_>) {
        let Some(this) = self.me.upgrade() else { return };
        let (cookie, stat) = (Bytes::copy_from_slice(res.cookie.0), res.stat);
        self.runtime.spawn(async move {
            let res = nlm::Res {
                cookie: (&*cookie).into(),
                stat,
            };
            // Lost, it is as if the server had never asked: it will again.
            let _ = this
                .line
                .call(&Who::default(), NlmProc::NLM_GRANTED_RES.0, &res)
                .await;
        });
    }

    fn notified(&self, from: IpAddr, name: &[u8], number: i32) {
        if from != self.server {
            tracing::info!(
                "SM_NOTIFY of {}, which we do not know",
                String::from_utf8_lossy(name)
            );
            return;
        }
        self.with(|state, _| {
            // sm-notify repeats itself until it is answered, and may be answered late.
            if state.server_state.replace(number) != Some(number) {
                state.client.server_rebooted(&mut state.fx);
            }
        });
    }
}
