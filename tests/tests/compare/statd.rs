//! What Linux' lockd does when its host has no status monitor: not compared, but measured, because our
//! personalities are made after it. It takes a minute: `cargo test -p nfslab-tests --test compare -- --statd-absent`.

use crate::Any;
use crate::knfsd::Parts;
use crate::peer::Listener;
use crate::play;
use crate::transcript::Transcript;
use std::time::Instant;
use vm::net::{self, Namespace};

/// Each LOCK may wait for a whole upcall.
const LOCKS: &str = "
let lk(svid) = \"peer\" $f \"owner\" svid 0L 0L
a file: CREATE $dir \"file\" 0 sattr(mode=0666) -> $f
the first LOCK: @wait:120 NLM4.LOCK \"ck\" 0 1 lk(1) 0 1
the same again: @wait:120 NLM4.LOCK \"ck\" 0 1 lk(1) 0 1
another owner's: @wait:120 NLM4.LOCK \"ck\" 0 1 lk(2) 0 1
over UDP: @udp @wait:120 NLM4.LOCK \"ck\" 0 1 lk(1) 0 1
UNLOCK: NLM4.UNLOCK \"ck\" lk(1)
after the UNLOCK: @wait:120 NLM4.LOCK \"ck\" 0 1 lk(3) 0 1
";

/// Prints how long each of some LOCKs took, and its answer.
pub fn measure(parts: &Parts, namespace: Namespace, runtime: &tokio::runtime::Runtime) -> Any<()> {
    let knfsd = runtime.block_on(parts.start(namespace, false))?;
    runtime.block_on(knfsd.end_grace())?;
    let from = net::SERVER.into();
    let mut listener = Listener::start(from)?;
    let transcript = Transcript::parse("statd", LOCKS)?;
    play::await_end_of_grace(knfsd.address(), &mut listener, from, runtime.handle())?;
    let mut player = play::Player::start("statd", knfsd.address(), &mut listener, from, runtime.handle())?;
    for case in &transcript.cases {
        let begun = Instant::now();
        let text = player.case(case)?;
        println!("{:>7.2} s  {}: {text}", begun.elapsed().as_secs_f64(), case.name);
    }
    runtime.block_on(knfsd.stop())?;
    Ok(())
}
