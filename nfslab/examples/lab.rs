//! A minute's freeze in milliseconds: a client asks for a lock while the server's statd is absent, and is answered when
//! lockd gives up waiting for statd, a minute later on a clock that moves only when told to.
//!
//! `cargo run -p nfslab --example lab`

use anyhow::{Context, Result};
use nfslab::lab::{Condition, Lab, Service};
use proto::nlm::{self, LockArgs, Nlm4Lock, Nlm4Stat, NlmProc, Res};
use rpc::client::{Client, Target};
use rpc::xdr;
use std::time::Duration;

/// Real time.
const PATIENCE: Duration = Duration::from_secs(10);

/// NLM_LOCK of a whole file, exclusive and without waiting.
async fn lock(lockd: &Client, file: &[u8]) -> Result<Nlm4Stat> {
    let args = LockArgs {
        cookie: "c".into(),
        block: false,
        exclusive: true,
        alock: Nlm4Lock {
            caller_name: "web1".into(),
            fh: file.into(),
            oh: "1@web1".into(),
            svid: 1,
            l_offset: 0,
            l_len: 0,
        },
        reclaim: false,
        state: 1,
    };
    let target = Target::new(nlm::PROGRAM, nlm::V4, NlmProc::NLM_LOCK.0);
    let reply = lockd.call(target, &args, PATIENCE).await?;
    Ok(xdr::from_bytes::<Res<'_>>(&reply)?.stat)
}

/// Freezes a LOCK, and says what came of it.
pub async fn freeze() -> Result<String> {
    let lab = Lab::builder()
        .virtual_time()
        .service(Service::Statd, Condition::Absent)
        .start()
        .await?;
    let file = lab.make_file("/lab/session")?;
    let web1 = lab.connect(Service::Lockd, [127, 0, 0, 2]).await?;
    let asked = tokio::spawn(async move { lock(&web1, &file).await });
    lab.wait_for(|event| event.kind() == "lockd/upcall-started")
        .await?;
    // Now lockd stands still, for every client. Nothing will change before the clock moves.
    assert!(!asked.is_finished());

    lab.advance(Duration::from_secs(62)).await;
    let status = asked.await??;
    let answered = lab.wait_for(|event| event.kind() == "reply").await?;
    let peer = lab.peers().pop().context("the lock service knows nobody")?;
    lab.stop().await;
    Ok(format!(
        "{status} after {:.1} s of the server's time; monitored by: {}",
        answered.at_ms / 1000.0,
        peer.monitored
    ))
}

/// What `cargo run` does.
#[tokio::main]
pub async fn main() -> Result<()> {
    let start = std::time::Instant::now();
    println!("{}", freeze().await?);
    println!("and after {:?} of ours", start.elapsed());
    Ok(())
}
