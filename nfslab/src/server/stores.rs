//! The stores behind the exports: trees in memory, and real directories.

use super::exports::{ExportSpec, StoreSpec};
use super::{Config, handle_key, populate};
use anyhow::{Context, Result, anyhow};
use nfsd::{DirFs, Export, Exports, MemConfig, MemFs, Vfs};
use proto::nfs3::Nfstime3;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The number of a real directory's export, in its handles and as its fsid: from its name, so that it stays the same
/// whatever else is exported. The upper bit tells it from those of trees in memory, which are counted.
fn stable_id(name: &str) -> u32 {
    // FNV-1a, 32 bits.
    let hash = |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    name.trim_end_matches('/').bytes().fold(0x811c_9dc5, hash) | 0x8000_0000
}

/// The stores behind the exports.
///
/// The key of the file handles is random, so that nobody can forge one, and with a real directory among the exports it is
/// kept, so that its handles survive. No choice depends on a handle's bytes, so that a run repeats all the same. The
/// generation of trees in memory follows from the time: a restart loses them, and clients must see that.
pub(super) fn exports(config: &Config) -> Result<Exports> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seeds = config
        .populate
        .as_deref()
        .map(populate::Populate::read)
        .transpose()?;
    let mut list = Vec::new();
    for (export, number) in config.exports.iter().zip(1u32..) {
        let (id, store): (u32, Arc<dyn Vfs>) = match &export.store {
            StoreSpec::Mem => (number, Arc::new(tree(export, number, now))),
            StoreSpec::Dir(dir) => {
                let id = stable_id(&export.name);
                let opened = DirFs::open(dir, id.into()).map_err(|error| anyhow!("{error}"));
                let opened = opened
                    .with_context(|| format!("cannot export {} (--export {})", dir.display(), export.name))?;
                (id, Arc::new(opened))
            }
        };
        if let Some(seeds) = &seeds {
            let filled = seeds.fill(&*store, config.seed, time(now));
            filled.with_context(|| format!("filling {} (--populate)", export.name))?;
        }
        list.push(Export::new(id, &export.name, store).with_options(export.options.clone()));
    }
    let lasting = config.exports.iter().any(|export| export.store != StoreSpec::Mem);
    let key = if lasting {
        handle_key::load(config.handle_key.as_deref())?
    } else {
        handle_key::random()?
    };
    Ok(Exports::new(&key, list)?)
}

/// Wall time, as files have it.
pub(super) fn now() -> Nfstime3 {
    time(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn tree(export: &ExportSpec, number: u32, now: Duration) -> MemFs {
    MemFs::new(&MemConfig {
        fsid: number.into(),
        generation: now.as_nanos() as u64,
        max_bytes: export.max_bytes,
        max_files: export.max_files,
        when_full: export.when_full,
        now: time(now),
        ..MemConfig::default()
    })
}

fn time(now: Duration) -> Nfstime3 {
    Nfstime3 {
        seconds: now.as_secs() as u32,
        nseconds: now.subsec_nanos(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_cannot_be_exported_is_named() {
        let config = Config {
            exports: vec!["/data=/no/such/dir".parse().unwrap()],
            ..Config::default()
        };
        let error = format!("{:#}", exports(&config).unwrap_err());
        assert!(
            error.contains("/no/such/dir") && error.contains("No such file"),
            "{error}"
        );
    }
}
