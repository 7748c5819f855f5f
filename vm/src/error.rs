//! What can go wrong between here and a running guest.
//!
//! Every message says what, where, and how to mend it, since the usual cause
//! is a machine that lacks something.

use std::path::PathBuf;
use std::time::Duration;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the kernel lab.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine lacks something; `mend` says how to get it.
    #[error("{what} not found: {mend}")]
    Missing {
        /// What is lacking.
        what: String,
        /// How to get it.
        mend: String,
    },
    /// The operating system refused.
    #[error("{action}: {cause}")]
    Io {
        /// What was tried, and on what.
        action: String,
        /// The refusal.
        cause: std::io::Error,
    },
    /// A program that we ran failed.
    #[error("{program} failed ({status}): {stderr}")]
    Program {
        /// Its name and first argument.
        program: String,
        /// Its exit status.
        status: String,
        /// The end of what it wrote to standard error.
        stderr: String,
    },
    /// A text that we read is not what it should be.
    #[error("{what}: {problem}")]
    Malformed {
        /// What was read.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No package of this series can be had.
    #[error("kernel series {series}: {problem}")]
    NoKernel {
        /// The series asked for.
        series: String,
        /// Why, and what would be right.
        problem: String,
    },
    /// The network namespace or a TAP device could not be set up.
    #[error("network: {problem}: {cause}\n{mend}")]
    Network {
        /// What was tried.
        problem: String,
        /// The refusal.
        cause: std::io::Error,
        /// How to get it.
        mend: String,
    },
    /// The guest did not come up.
    #[error("guest {guest} did not boot: {problem}{}", tail(.console))]
    Boot {
        /// The guest's name.
        guest: String,
        /// What happened instead.
        problem: String,
        /// The last lines of its console.
        console: Vec<String>,
    },
    /// The guest is gone: panicked, powered off, or killed.
    #[error("guest {guest} is gone: {problem}{}", tail(.console))]
    Gone {
        /// The guest's name.
        guest: String,
        /// How it went.
        problem: String,
        /// The last lines of its console.
        console: Vec<String>,
    },
    /// The guest did not answer in time.
    #[error("guest {guest}: {what} did not finish within {deadline:?}")]
    Deadline {
        /// The guest's name.
        guest: String,
        /// What was asked of it.
        what: String,
        /// How long we waited.
        deadline: Duration,
    },
    /// The guest answered that it cannot.
    #[error("guest {guest}: {what}: {problem}")]
    Refused {
        /// The guest's name.
        guest: String,
        /// What was asked of it.
        what: String,
        /// Its answer.
        problem: String,
    },
}

fn tail(console: &[String]) -> String {
    match console {
        [] => "\nits console is empty".to_owned(),
        lines => format!("\nlast lines of its console:\n  {}", lines.join("\n  ")),
    }
}

/// Adds what was tried to an [`std::io::Error`].
pub(crate) trait Context<T> {
    /// `action` reads like "reading /etc/apt/sources.list".
    fn context(self, action: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, action: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::Io {
            action: action(),
            cause: e.into(),
        })
    }
}

/// Reads a file, naming it in the error.
pub(crate) fn read(path: &std::path::Path) -> Result<Vec<u8>> {
    std::fs::read(path).context(|| format!("reading {}", path.display()))
}

/// Finds a program in PATH, and in the two folders that an ordinary user's
/// PATH lacks.
pub(crate) fn find_program(name: &str, package: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| Error::Missing {
            what: name.to_owned(),
            mend: format!("apt-get install {package}"),
        })
}
