//! Telling whoever waits what is going on, without knowing how it is shown.

/// Receives what long work is doing. The command line draws bars, a test
/// prints nothing.
pub trait Progress: Send + Sync {
    /// A new step began, in words: "downloading linux-image-… (27 MB)".
    fn step(&self, what: &str);
}

/// Says nothing.
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _what: &str) {}
}

/// One line per step on standard error.
pub struct Stderr;

impl Progress for Stderr {
    fn step(&self, what: &str) {
        eprintln!("{what}");
    }
}
