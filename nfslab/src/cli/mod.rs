//! The command line: one file per group of commands.
//!
//! Results go to standard output, progress and errors to standard error. Exit codes are those of [`Exit`].

mod control;
mod journal;
mod kernels;
mod mount;
mod output;
mod rules;
mod run;
mod serve;
mod shell;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use std::io::IsTerminal;
use std::process::ExitCode;

/// Exit codes, the same for every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done, or every check passed.
    Passed = 0,
    /// A check failed, or a running server refused.
    Failed = 1,
    /// The command line or a file is wrong.
    Usage = 2,
    /// The machine lacks something.
    Skipped = 77,
    /// nfslab itself failed.
    Broken = 99,
}

/// An NFSv3 server made to be tested against, with real Linux kernels as its clients.
///
/// It speaks NFS, MOUNT, portmap, NLM and NSM in one process, suffers on command what the lock protocols can
/// suffer, and shows what happens.
#[derive(Debug, Parser)]
#[command(name = "nfslab", version, max_term_width = 110, after_help = EXAMPLES)]
struct Cli {
    /// How results are printed.
    #[arg(long, global = true, value_enum, default_value = "text", value_name = "FORM")]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  nfslab run scenarios/frozen-processes.toml    freeze a real kernel in flock(), and free it
  nfslab serve --ports auto                     a server on free ports
  nfslab service statd absent                   … whose statd is not running, from now on
  nfslab node reboot --grace 50s                … and which reboots now
  nfslab lock list                              what is locked there, and who waits
  nfslab shell --kernel 6.12                    a guest with the export mounted, to look around
  nfslab mount server:/lab /mnt                 an export through FUSE, without the kernel's NFS client
  nfslab doctor                                 what this machine can do, and what to mend

Exit codes: 0 passed, 1 failed, 2 wrong usage, 77 the machine lacks something, 99 nfslab itself failed.";

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a server until it is told to stop (SIGTERM, SIGINT).
    Serve(Box<serve::Serve>),
    /// Mount an export through FUSE, without the kernel's NFS client.
    Mount(mount::Mount),
    /// Run scenario files: server, real kernel clients, faults, checks, report.
    Run(run::Run),
    /// The client kernels in the cache, and how they come there.
    #[command(
        subcommand,
        after_help = "Examples:\n  nfslab kernel list\n  nfslab kernel fetch 6.1"
    )]
    Kernel(kernels::KernelCommand),
    /// An interactive guest with the export mounted.
    Shell(shell::Shell),
    /// What this machine can and cannot do, and the mend for each.
    #[command(after_help = "Examples:\n  nfslab doctor\n  nfslab doctor --output json")]
    Doctor,
    /// How the services of a running server are: list them, or set one.
    Service(control::Service),
    /// The clients that the lock service of a running server knows.
    Peer(control::Peer),
    /// The lock table of a running server.
    Lock(control::Lock),
    /// What can happen to a running server as a whole: a reboot, stale file handles.
    Node(control::NodeEvents),
    /// What has happened on a running server.
    Events(control::EventsCommand),
    /// The clock of a running server.
    Clock(control::Clock),
    /// The rules of a running server: which calls meet which fault.
    Rule(rules::Rule),
    /// Gates at which calls wait until they are let go.
    Gate(rules::Gate),
    /// Show journals of decisions, or compare those of two runs.
    Journal(journal::Journal),
    /// Check that the calls so far are as expected, and that every rule was done.
    Verify(rules::Verify),
    /// Put a running server back as it was at the start: services, rules, gates, locks, monitored peers, file handles.
    Reset(control::Reset),
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            let help = !error.use_stderr();
            return ExitCode::from(if help { Exit::Passed } else { Exit::Usage } as u8);
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("NFSLAB_LOG")
                .unwrap_or_else(|_| "warn,fuser=error".into()),
        )
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let done = match cli.command {
        Command::Serve(command) => command.main(),
        Command::Mount(command) => command.main(),
        Command::Run(command) => command.main(cli.output),
        Command::Kernel(command) => command.main(cli.output),
        Command::Shell(command) => command.main(),
        Command::Doctor => kernels::doctor(cli.output),
        Command::Service(command) => command.main(cli.output),
        Command::Peer(command) => command.main(cli.output),
        Command::Lock(command) => command.main(cli.output),
        Command::Node(command) => command.main(cli.output),
        Command::Events(command) => command.main(cli.output),
        Command::Clock(command) => command.main(cli.output),
        Command::Rule(command) => command.main(cli.output),
        Command::Gate(command) => command.main(cli.output),
        Command::Journal(command) => command.main(cli.output),
        Command::Verify(command) => command.main(cli.output),
        Command::Reset(command) => command.main(cli.output),
    };
    let exit = done.unwrap_or_else(|Stopped { exit, error }| {
        eprintln!("nfslab: {error:#}");
        exit
    });
    ExitCode::from(exit as u8)
}

/// Why a command ended early, and with which code.
#[derive(Debug)]
struct Stopped {
    exit: Exit,
    error: anyhow::Error,
}

type Done = Result<Exit, Stopped>;

/// Says which exit code an error means.
trait OrExit<T> {
    fn or_exit(self, exit: Exit) -> Result<T, Stopped>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> Result<T, Stopped> {
        self.map_err(|error| Stopped {
            exit,
            error: error.into(),
        })
    }
}

/// The runtime of one command.
fn runtime() -> Result<tokio::runtime::Runtime, Stopped> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .or_exit(Exit::Broken)
}

/// The wish of the user or the system that the process end: SIGINT or SIGTERM.
struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Stop {
    /// From here on the signals do not end the process by themselves. Comes before anything that must be
    /// cleaned up, and before anybody is told that we are ready.
    fn listen() -> Result<Stop, Stopped> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Stop {
            interrupt: signal(SignalKind::interrupt()).or_exit(Exit::Broken)?,
            terminate: signal(SignalKind::terminate()).or_exit(Exit::Broken)?,
        })
    }

    /// Completes when one of them comes.
    async fn told(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// Its own, or those of the group to which it belongs.
    #[test]
    fn every_command_has_an_example_in_its_help() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            let help = command.clone().render_long_help().to_string();
            assert!(
                help.contains("Example") && help.contains(&format!("nfslab {name}")),
                "{name}"
            );
        }
    }
}
