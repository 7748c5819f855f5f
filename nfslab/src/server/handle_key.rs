//! The key of the file handles of real directories: kept over restarts, so that handles are too.

use anyhow::{Context, Result, anyhow, bail, ensure};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Bytes of a key.
pub const LEN: usize = 16;

/// A key that nobody knows, for handles that need not last.
///
/// # Errors
/// If the system has no random numbers.
pub fn random() -> Result<[u8; LEN]> {
    let mut key = [0; LEN];
    getrandom::fill(&mut key).context("the system gives no random numbers")?;
    Ok(key)
}

/// The key in this file, or in the user's state folder; made if there is none.
///
/// # Errors
/// If it can be neither read nor made, is no key, or others may read it.
pub fn load(path: Option<&Path>) -> Result<[u8; LEN]> {
    let path = match path {
        Some(path) => path.to_path_buf(),
        None => in_state_folder()?,
    };
    let loaded = match read(&path) {
        Ok(None) => make(&path).and_then(|()| read(&path)?.ok_or_else(|| anyhow!("it has gone again"))),
        Ok(Some(key)) => Ok(key),
        Err(error) => Err(error),
    };
    loaded.with_context(|| format!("the key of file handles, {} (--handle-key)", path.display()))
}

fn in_state_folder() -> Result<PathBuf> {
    let var = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
    };
    let state = var("XDG_STATE_HOME").or_else(|| var("HOME").map(|home| home.join(".local/state")));
    let state = state
        .context("neither XDG_STATE_HOME nor HOME is set: say with --handle-key FILE where to keep it")?;
    Ok(state.join("nfslab/handle-key"))
}

fn read(path: &Path) -> Result<Option<[u8; LEN]>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mode = std::fs::metadata(path)?.permissions().mode();
    ensure!(
        mode & 0o077 == 0,
        "others may read it (mode {:04o}), and could forge handles: chmod 600",
        mode & 0o7777
    );
    let key = u128::from_str_radix(text.trim(), 16).ok();
    match key.filter(|_| text.trim().len() == 2 * LEN) {
        Some(key) => Ok(Some(key.to_be_bytes())),
        None => bail!("expected {} hexadecimal digits", 2 * LEN),
    }
}

/// Written beside and then given its name, so that two servers that start at once agree on one.
fn make(path: &Path) -> Result<()> {
    let folder = path
        .parent()
        .filter(|f| !f.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?; // mode 0600
    writeln!(file, "{:032x}", u128::from_be_bytes(random()?))?;
    match file.persist_noclobber(path) {
        Err(error) if error.error.kind() != ErrorKind::AlreadyExists => Err(error.error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/nfslab/key");
        let key = load(Some(&path)).unwrap();
        assert_eq!(load(Some(&path)).unwrap(), key);
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = format!("{:#}", load(Some(&path)).unwrap_err());
        assert!(
            error.contains("0640") && error.contains("--handle-key"),
            "{error}"
        );
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "+f").unwrap();
        assert!(load(Some(&path)).is_err());
    }
}
