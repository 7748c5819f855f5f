//! Plays a transcript against one server: every case becomes a line of text.

use crate::peer::{Listener, Outcome, Peer};
use crate::reply::{self, Told};
use crate::transcript::{Action, Case, Transcript};
use crate::words::{self, Variables};
use proto::nlm::NlmProc;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Every transcript finds `$root`, the export's, and `$dir`, a directory of its own in it that anyone may use.
const PRELUDE: &str = "
mount: MOUNT3.MNT \"/lab\" -> $root
directory: MKDIR $root NAME sattr(mode=0777) -> $dir
";

/// Two calls, the last of which says whether the grace period goes on.
const ASKED: &str = "
a file: CREATE $dir \"file\" 0 sattr(mode=0666) -> $f
a test: NLM4.TEST \"ck\" 1 \"peer\" $f \"owner\" 1 0L 0L
";

/// How long the end of the grace period may take once it was asked for.
const LONGEST_GRACE: Duration = Duration::from_secs(30);

/// What a server answered, one line for each case.
pub fn play(
    transcript: &Transcript,
    server: IpAddr,
    listener: &mut Listener,
    from: IpAddr,
    runtime: &tokio::runtime::Handle,
) -> Result<Vec<String>, String> {
    let mut player = Player::start(&transcript.name, server, listener, from, runtime)?;
    transcript.cases.iter().map(|case| player.case(case)).collect()
}

/// Asks for a lock until the answer is no longer that the grace period goes on.
pub fn await_end_of_grace(
    server: IpAddr,
    listener: &mut Listener,
    from: IpAddr,
    runtime: &tokio::runtime::Handle,
) -> Result<(), String> {
    let asked = Transcript::parse("grace-ends", ASKED)?;
    let mut player = Player::start(&asked.name, server, listener, from, runtime)?;
    let deadline = Instant::now() + LONGEST_GRACE;
    loop {
        let answers: Vec<String> = asked
            .cases
            .iter()
            .map(|case| player.case(case))
            .collect::<Result<_, _>>()?;
        match answers.last() {
            Some(last) if !last.contains("GRACE") => return Ok(()),
            last if Instant::now() > deadline => {
                return Err(format!("{server}: {last:?} after {LONGEST_GRACE:?}"));
            }
            _ => {}
        }
    }
}

/// A transcript under way against one server.
pub struct Player<'a> {
    peer: Peer,
    server: IpAddr,
    listener: &'a mut Listener,
    variables: Variables,
}

impl<'a> Player<'a> {
    /// Makes the transcript's directory.
    pub fn start(
        name: &str,
        server: IpAddr,
        listener: &'a mut Listener,
        from: IpAddr,
        runtime: &tokio::runtime::Handle,
    ) -> Result<Player<'a>, String> {
        let mut player = Player {
            peer: Peer::new(from, server, runtime.clone()),
            server,
            listener,
            variables: Variables::new(),
        };
        let prelude = PRELUDE.replace("NAME", &format!("\"{name}\""));
        for case in &Transcript::parse("prelude", &prelude)?.cases {
            let text = player.case(case)?;
            if !text.contains("OK") {
                return Err(format!("{} of {server}: {text}", case.name));
            }
        }
        Ok(player)
    }

    /// What it answers to one case.
    pub fn case(&mut self, case: &Case) -> Result<String, String> {
        let told = match case.action {
            Action::Call(program, version, procedure) => {
                let args = match words::bytes(&case.words, &self.variables) {
                    Ok(args) => args,
                    // A reply that should have brought a variable did not: that differs already.
                    Err(problem) => return Ok(format!("NOT SENT: {problem}")),
                };
                let target = (program, version, procedure);
                let outcome = self.peer.call(target, &case.caller, args);
                outcome.map(|outcome| match outcome {
                    Outcome::Reply(message) => reply::tell(program, version, procedure, &message),
                    Outcome::Closed => plain("connection closed"),
                    Outcome::Silence => plain("no reply"),
                })
            }
            Action::Callback => Ok(self.callback(case)),
        };
        let told = told.or_else(|error: io::Error| match error.kind() {
            io::ErrorKind::ConnectionRefused => Ok(plain("connection refused")),
            _ => Err(format!("{}: {error}", case.name)),
        })?;
        if let Some(name) = &case.into {
            for (field, value) in told.brought {
                let variable = match field.as_str() {
                    "" => name.clone(),
                    field => format!("{name}.{field}"),
                };
                self.variables.insert(variable, value);
            }
        }
        Ok(told.text)
    }

    fn callback(&mut self, case: &Case) -> Told {
        let patience = Duration::from_secs(case.caller.patience);
        let procedure = case.words.first().and_then(|name| NlmProc::from_name(name));
        let procedure = procedure.map(|procedure| procedure.0);
        match self.listener.next(self.server, procedure, patience) {
            Some(callback) => reply::tell_callback(callback.version, callback.procedure, &callback.args),
            None => plain("no call came"),
        }
    }
}

fn plain(text: &str) -> Told {
    Told {
        text: text.into(),
        ..Told::default()
    }
}
