//! A client as a child process: QEMU, or our own executable. Its console, the
//! line to its agent, its life and its end.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use nix::sys::signal::Signal;
use shared_child::SharedChild;
use tokio::sync::oneshot;

use crate::error::{Context, Error, Result};

/// The child's descriptor of the line to the agent.
pub(crate) const LINK_FD: i32 = 4;

/// How long a killed child is waited for.
const LONGEST_DEATH: Duration = Duration::from_secs(2);

/// The process: this child of ours, and no other that its number may come to
/// mean.
pub(crate) struct Process {
    child: SharedChild,
    ended: Mutex<bool>,
    changed: Condvar,
}

impl Process {
    /// Ends it as a power failure would.
    pub(crate) fn kill(&self) {
        let _ = self.child.kill();
    }

    /// Ends it, and returns when it is gone, which takes milliseconds: only
    /// then is its TAP device free again.
    pub(crate) fn kill_and_wait(&self) {
        self.kill();
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        drop(
            self.changed
                .wait_timeout_while(ended, LONGEST_DEATH, |ended| !*ended),
        );
    }

    fn wait(&self) -> String {
        let status = self
            .child
            .wait()
            .map_or_else(|e| e.to_string(), |s| s.to_string());
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
        status
    }
}

/// A client that runs.
pub(crate) struct Running {
    pub(crate) child: Arc<Process>,
    /// Its console.
    pub(crate) console: UnixStream,
    /// The protocol.
    pub(crate) link: UnixStream,
    /// Tells how it ended.
    pub(crate) ended: oneshot::Receiver<String>,
}

/// Starts `command`, called `what` in errors: with nothing to read, its errors
/// kept for the end, the link as [`LINK_FD`], and the descriptors that
/// `console` makes of its end of the console. It ends when we do.
pub(crate) fn start(
    name: &str,
    what: &'static str,
    mut command: Command,
    console: impl FnOnce(UnixStream) -> Result<Vec<(OwnedFd, i32)>>,
) -> Result<Running> {
    let pair = || UnixStream::pair().context(|| format!("creating a socket pair for {what}"));
    let (ours, theirs) = pair()?;
    let (link, link_theirs) = pair()?;
    let complaints =
        tempfile::tempfile().context(|| format!("creating a file for the messages of {what}"))?;
    let stderr = complaints
        .try_clone()
        .context(|| "duplicating a descriptor".into())?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
    let mut descriptors = console(theirs)?;
    descriptors.push((link_theirs.into(), LINK_FD));
    let mappings = descriptors
        .into_iter()
        .map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd })
        .collect();
    command.fd_mappings(mappings).map_err(|e| Error::Io {
        action: format!("handing descriptors to {what}"),
        cause: io::Error::other(e.to_string()),
    })?;
    dies_with_us(&mut command, Signal::SIGKILL);
    let (child, ended) = watch(name, what, command, complaints)?;
    Ok(Running {
        child,
        console: ours,
        link,
        ended,
    })
}

/// The kernel tells the child when the *thread* that started it ends. So a
/// thread of its own starts it and stays until it has ended: a runtime's
/// threads come and go.
fn watch(
    name: &str,
    what: &'static str,
    mut command: Command,
    complaints: File,
) -> Result<(Arc<Process>, oneshot::Receiver<String>)> {
    let (tell_started, started) = std::sync::mpsc::channel();
    let (tell_ended, ended) = oneshot::channel();
    let life = move || {
        let child = SharedChild::spawn(&mut command);
        let child = child.map(|child| {
            Arc::new(Process {
                child,
                ended: Mutex::new(false),
                changed: Condvar::new(),
            })
        });
        // Our copies of the child's descriptors go with it: only when every
        // one is closed do we see the end of the console.
        drop(command);
        let waiting = child.as_ref().ok().cloned();
        let _ = tell_started.send(child);
        if let Some(child) = waiting {
            let status = child.wait();
            let _ = tell_ended.send(format!("{what} ended ({status}){}", said(complaints)));
        }
    };
    thread::Builder::new()
        .name(format!("client-{name}"))
        .spawn(life)
        .context(|| format!("starting a thread for {what}"))?;
    let child = started
        .recv()
        .map_err(|_| io::Error::other("its thread ended"))
        .and_then(|c| c);
    Ok((child.context(|| format!("starting {what}"))?, ended))
}

/// Has the kernel send the child a signal when the thread that starts it ends.
pub fn dies_with_us(command: &mut Command, signal: Signal) {
    let us = std::process::id();
    let prepare = move || {
        // SAFETY: two plain system calls, allowed between fork and exec.
        unsafe {
            if libc::prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_int) < 0 {
                return Err(io::Error::last_os_error());
            }
            // We may have died before the call. (0: we are outside of its namespace of processes.)
            let parent = libc::getppid();
            if parent != us.cast_signed() && parent != 0 {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only and allocates nothing.
    unsafe { command.pre_exec(prepare) };
}

/// What it wrote, for an error's text.
fn said(mut complaints: File) -> String {
    let mut text = String::new();
    let read = complaints
        .seek(SeekFrom::Start(0))
        .and_then(|_| complaints.take(4096).read_to_string(&mut text));
    match read {
        Ok(_) if !text.trim().is_empty() => format!(": {}", text.trim().replace('\n', "; ")),
        _ => String::new(),
    }
}
