//! KVM, if it really works; else emulation (TCG).
//!
//! That `/dev/kvm` exists and opens proves nothing: inside another virtual
//! machine a guest may then hang after its first lines, or QEMU abort. So the
//! first guest of a machine is booted with KVM as a trial, and the verdict is
//! kept until the machine itself boots again.

use std::fs::{self, OpenOptions};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::guest::{GuestConfig, try_boot};
use crate::qemu::Engine;

/// With KVM the agent greets well within a second.
const TRIAL_DEADLINE: Duration = Duration::from_secs(5);

const DEVICE: &str = "/dev/kvm";
const VERDICT: &str = "kvm-verdict.json";

/// How a guest's processor is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// KVM if a trial boot succeeds, else TCG.
    #[default]
    Auto,
    /// KVM, untried.
    Kvm,
    /// Emulation.
    Tcg,
}

/// What a trial showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Which boot of this machine it holds for.
    boot_id: String,
    /// Whether a guest booted.
    pub works: bool,
    /// What was seen.
    pub detail: String,
}

impl Verdict {
    /// The remembered verdict, if it is of this boot of this machine.
    pub fn remembered(cache: &Cache) -> Option<Self> {
        let verdict: Self = serde_json::from_slice(&fs::read(cache.path(VERDICT)).ok()?).ok()?;
        (verdict.boot_id == boot_id()).then_some(verdict)
    }

    fn new(works: bool, detail: String) -> Self {
        Self {
            boot_id: boot_id(),
            works,
            detail,
        }
    }
}

/// The engine for a guest.
pub(crate) async fn choose(config: &GuestConfig, cache: &Cache) -> Result<Engine> {
    match config.accel {
        Accel::Kvm => Ok(Engine::Kvm),
        Accel::Tcg => Ok(Engine::Tcg),
        Accel::Auto if verdict(config, cache).await?.works => Ok(Engine::Kvm),
        Accel::Auto => Ok(Engine::Tcg),
    }
}

/// Whether KVM works here: remembered, or found out by booting this guest.
pub async fn verdict(config: &GuestConfig, cache: &Cache) -> Result<Verdict> {
    // Cheap, and may change at any time: not remembered.
    if let Err(e) = OpenOptions::new().read(true).write(true).open(DEVICE) {
        return Ok(Verdict::new(false, format!("{DEVICE} cannot be opened: {e}")));
    }
    if let Some(verdict) = Verdict::remembered(cache) {
        return Ok(verdict);
    }
    let mut trial = GuestConfig::new("kvm-trial", 1, config.kernel.clone(), config.userland.clone());
    trial.agent.clone_from(&config.agent);
    trial.boot_deadline = TRIAL_DEADLINE;
    let verdict = match try_boot(&trial, cache, Engine::Kvm).await {
        Ok(time) => Verdict::new(
            true,
            format!("a guest greeted {} ms after power-on", time.as_millis()),
        ),
        Err(Error::Boot { problem, .. }) => Verdict::new(false, format!("a trial boot failed: {problem}")),
        Err(other) => return Err(other),
    };
    tracing::info!(
        "KVM {}: {}",
        if verdict.works { "works" } else { "does not work" },
        verdict.detail
    );
    let text = serde_json::to_vec(&verdict).map_err(|e| Error::Malformed {
        what: "the KVM verdict".into(),
        problem: e.to_string(),
    })?;
    cache.write(VERDICT, &text)?;
    Ok(verdict)
}

/// Changes when the machine boots.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_of_another_boot_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        assert_eq!(Verdict::remembered(&cache), None);
        let mut verdict = Verdict::new(true, "seen".into());
        cache
            .write(VERDICT, &serde_json::to_vec(&verdict).unwrap())
            .unwrap();
        assert_eq!(Verdict::remembered(&cache), Some(verdict.clone()));
        verdict.boot_id = "another".into();
        cache
            .write(VERDICT, &serde_json::to_vec(&verdict).unwrap())
            .unwrap();
        assert_eq!(Verdict::remembered(&cache), None);
    }
}
