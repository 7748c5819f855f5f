//! What the host asked for, done.

use std::io;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use super::{Agent, files, power_off};
use crate::protocol::{Answer, Call, Request};

impl Agent {
    /// Carries a call out and answers it.
    pub(super) fn answer(self: Arc<Self>, call: Call) {
        let id = call.id;
        let answer = match call.request {
            Request::Setup(setup) => self.clone().setup(&setup).map(|()| Answer::Done),
            Request::Exec {
                script,
                deadline_ms,
                limit,
            } => {
                let deadline = Duration::from_millis(deadline_ms);
                text(
                    self.children
                        .run(&mut shell(&script), deadline, limit)
                        .map(Answer::Output),
                )
            }
            Request::Spawn { label, argv } => self.clone().spawn_argv(&label, &argv),
            Request::Signal { label, signal } => self.children.signal(&label, signal).map(|()| Answer::Done),
            Request::Processes => Ok(Answer::Processes(self.processes())),
            Request::Put {
                path,
                mode,
                offset,
                data,
            } => text(files::put(&path, mode, offset, &data.0)).map_err(|e| format!("{path}: {e}")),
            Request::Get { path, offset } => {
                text(files::get(&path, offset)).map_err(|e| format!("{path}: {e}"))
            }
            Request::Shell { rows, columns } => text(self.clone().shell(rows, columns)),
            Request::PowerOff => {
                self.link.reply(id, Answer::Done);
                power_off()
            }
        };
        self.link.reply(id, answer.unwrap_or_else(Answer::Error));
    }

    fn spawn_argv(self: Arc<Self>, label: &str, argv: &[String]) -> Result<Answer, String> {
        let (program, arguments) = argv.split_first().ok_or("an empty command")?;
        let mut command = Command::new(program);
        command.args(arguments).current_dir("/");
        self.spawn(label, &mut command)
            .map(Answer::Pid)
            .map_err(|e| format!("starting {program}: {e}"))
    }

    /// A shell on the console, which is its controlling terminal.
    fn shell(self: Arc<Self>, rows: u16, columns: u16) -> io::Result<Answer> {
        let console = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/ttyS0")?;
        let size = format!("stty rows {rows} cols {columns} sane; exec bash -l");
        let mut command = Command::new("sh");
        command.args(["-c", &size]).current_dir("/root");
        self.spawn_on_terminal("shell", &mut command, &console)
            .map(Answer::Pid)
    }
}

/// A shell that runs this script.
pub(super) fn shell(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).current_dir("/");
    command
}

fn text<T>(result: io::Result<T>) -> Result<T, String> {
    result.map_err(|e| e.to_string())
}
