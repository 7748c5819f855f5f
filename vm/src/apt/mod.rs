//! Packages from a Debian suite, without touching the system's own apt.
//!
//! apt runs with its own configuration, sources, lists and an empty package
//! database, all inside our cache: it works as an ordinary user, sees no
//! installed package, and none of the machine's hooks run. What it brings is
//! verified by it against the Debian archive keyring as usual.

mod deb822;
mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub use sources::Mirror;

use crate::cache::Cache;
use crate::error::{Context, Error, Result, find_program};
use crate::progress::Progress;

/// The Debian archive keyring, where its package puts it: a newer name first.
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.pgp",
    "/usr/share/keyrings/debian-archive-keyring.gpg",
];

/// The suites of one Debian release that we read together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Release {
    /// Names the folder in the cache.
    pub(crate) name: &'static str,
    /// Suites of the main archive.
    pub(crate) main: &'static [&'static str],
    /// Suites of the security archive.
    pub(crate) security: &'static [&'static str],
}

/// A release's packages, through an apt of its own.
pub(crate) struct Apt {
    dir: PathBuf,
    config: PathBuf,
    _lock: crate::cache::CacheLock,
}

/// What the index says of a package's newest version.
#[derive(Clone, Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) depends: Vec<String>,
    pub(crate) size: u64,
    pub(crate) is_library: bool,
}

impl Apt {
    /// Prepares an apt for this release. Holds a lock: apt's folders take one
    /// user at a time.
    pub(crate) fn open(cache: &Cache, release: &Release) -> Result<Self> {
        find_program(
            "apt-get",
            "apt (this machine needs to be a Debian or a relative of it)",
        )?;
        find_program("dpkg-deb", "dpkg")?;
        let lock = cache.lock(&format!("apt-{}", release.name))?;
        let dir = cache.dir(format!("apt/{}", release.name))?;
        for sub in ["lists/partial", "cache/archives/partial", "state", "log"] {
            fs::create_dir_all(dir.join(sub)).context(|| format!("creating {sub} in {}", dir.display()))?;
        }
        let config = dir.join("apt.conf");
        let write = |name: &str, text: String| {
            fs::write(dir.join(name), text).context(|| format!("writing {name} in {}", dir.display()))
        };
        write("status", String::new())?;
        write(
            "sources.list",
            source_lines(release, &Mirror::detect()?, keyring()?),
        )?;
        write("apt.conf", configuration(&dir))?;
        Ok(Self {
            dir,
            config,
            _lock: lock,
        })
    }

    /// Brings the index up to date.
    pub(crate) fn update(&self) -> Result<()> {
        let result = run(self
            .command("apt-get")
            .args(["-q", "update", "-o", "APT::Update::Error-Mode=any"]));
        result.map_err(|e| match e {
            Error::Program { stderr, .. } if stderr.contains("NO_PUBKEY") => Error::Missing {
                what: format!(
                    "the archive's signing key ({})",
                    stderr.lines().next().unwrap_or_default()
                ),
                mend: "apt-get update && apt-get install --only-upgrade debian-archive-keyring".into(),
            },
            Error::Program {
                program,
                status,
                stderr,
            } => Error::Program {
                program,
                status,
                stderr: format!("{stderr}\nNFSLAB_MIRROR can name another Debian archive"),
            },
            other => other,
        })
    }

    /// The newest version of every package whose name is wanted.
    pub(crate) fn packages(&self, wanted: impl Fn(&str) -> bool) -> Result<BTreeMap<String, Package>> {
        let mut child = self
            .command("apt-cache")
            .arg("dumpavail")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context(|| "running apt-cache".into())?;
        let mut found = BTreeMap::new();
        let mut reader = deb822::Reader::new(|key| {
            matches!(
                key,
                "Package" | "Version" | "Depends" | "Pre-Depends" | "Size" | "Section"
            )
        });
        if let Some(out) = child.stdout.take() {
            for line in BufReader::new(out).split(b'\n') {
                let line = line.context(|| "reading the package index".into())?;
                let Some(stanza) = reader.line(&String::from_utf8_lossy(&line)) else {
                    continue;
                };
                if let Some(package) = Package::from_stanza(&stanza).filter(|p| wanted(&p.name)) {
                    found.insert(package.name.clone(), package);
                }
            }
        }
        let status = child.wait().context(|| "waiting for apt-cache".into())?;
        if !status.success() {
            return Err(Error::Program {
                program: "apt-cache dumpavail".into(),
                status: status.to_string(),
                stderr: format!("its configuration is {}", self.config.display()),
            });
        }
        Ok(found)
    }

    /// Downloads packages into `into` and unpacks them all in `root`.
    pub(crate) fn unpack(
        &self,
        packages: &[&Package],
        into: &Path,
        root: &Path,
        progress: &dyn Progress,
    ) -> Result<()> {
        let bytes: u64 = packages.iter().map(|p| p.size).sum();
        let what = match packages {
            [one] => one.name.clone(),
            many => format!("{} packages", many.len()),
        };
        progress.step(&format!("downloading {what} ({} MB)", bytes.div_ceil(1_000_000)));
        let names = packages.iter().map(|p| format!("{}={}", p.name, p.version));
        run(self
            .command("apt-get")
            .args(["-q", "download"])
            .args(names)
            .current_dir(into))?;
        progress.step(&format!("unpacking {what}"));
        let mut debs: Vec<PathBuf> = fs::read_dir(into)
            .context(|| format!("listing {}", into.display()))?
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|e| e == "deb"))
            .collect();
        debs.sort();
        for deb in &debs {
            run(Command::new("dpkg-deb").arg("-x").arg(deb).arg(root))?;
            let _ = fs::remove_file(deb);
        }
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("LC_ALL", "C")
            .env_remove("APT_CONFIG")
            .current_dir(&self.dir)
            .arg("-c")
            .arg(&self.config);
        command
    }
}

impl Package {
    fn from_stanza(stanza: &deb822::Stanza) -> Option<Self> {
        let mut depends = Vec::new();
        for key in ["Pre-Depends", "Depends"] {
            depends.extend(
                stanza
                    .get(key)
                    .map(String::as_str)
                    .unwrap_or_default()
                    .split(',')
                    .filter_map(first_choice),
            );
        }
        Some(Self {
            name: stanza.get("Package")?.clone(),
            version: stanza.get("Version")?.clone(),
            depends,
            size: stanza
                .get("Size")
                .and_then(|s| s.parse().ok())
                .unwrap_or_default(),
            is_library: stanza
                .get("Section")
                .is_some_and(|s| s.rsplit('/').next() == Some("libs")),
        })
    }
}

/// `libc6 (>= 2.36) | other` → `libc6`
fn first_choice(dependency: &str) -> Option<String> {
    let name = dependency.split(['|', '(', '[', ':']).next()?.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// The packages, and every library that they need. A dependency that is no
/// library (adduser, python3) is left out: the guest has no package system.
pub(crate) fn with_libraries<'a>(
    index: &'a BTreeMap<String, Package>,
    roots: &[String],
) -> Result<Vec<&'a Package>> {
    let mut seen = BTreeSet::new();
    let mut queue: Vec<&str> = roots.iter().map(String::as_str).collect();
    let mut chosen = Vec::new();
    while let Some(name) = queue.pop() {
        if !seen.insert(name.to_owned()) {
            continue;
        }
        match index.get(name) {
            Some(package) => {
                let is_library = |name: &&String| index.get(*name).is_some_and(|p| p.is_library);
                queue.extend(package.depends.iter().filter(is_library).map(String::as_str));
                chosen.push(package);
            }
            None if roots.iter().any(|r| r == name) => {
                return Err(Error::Missing {
                    what: format!("package {name} in the suite's index"),
                    mend: "check the spelling, and that the mirror carries this machine's release".into(),
                });
            }
            None => {}
        }
    }
    Ok(chosen)
}

fn source_lines(release: &Release, mirror: &Mirror, keyring: Option<&str>) -> String {
    let signed = keyring.map(|k| format!(" signed-by={k}")).unwrap_or_default();
    let line =
        |uri: &str, suite: &str| format!("deb [arch=amd64 target=Packages{signed}] {uri} {suite} main\n");
    let main = release.main.iter().map(|suite| line(&mirror.main, suite));
    main.chain(release.security.iter().map(|suite| line(&mirror.security, suite)))
        .collect()
}

fn keyring() -> Result<Option<&'static str>> {
    if let Some(found) = KEYRINGS.into_iter().find(|k| Path::new(k).is_file()) {
        return Ok(Some(found));
    }
    // A machine may have the keys in apt's own folder instead.
    let trusted = fs::read_dir("/etc/apt/trusted.gpg.d")
        .into_iter()
        .flatten()
        .flatten();
    if trusted
        .into_iter()
        .any(|e| e.file_name().to_string_lossy().starts_with("debian-archive"))
    {
        return Ok(None);
    }
    Err(Error::Missing {
        what: "the keyring of the Debian archive".into(),
        mend: "apt-get install debian-archive-keyring".into(),
    })
}

/// The machine's settings (a proxy, say) stay; its folders, pins and hooks do
/// not.
fn configuration(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "#clear APT::Update::Pre-Invoke;\n#clear APT::Update::Post-Invoke;\n\
         #clear APT::Update::Post-Invoke-Success;\n#clear APT::Architectures;\n\
         Dir::Etc::SourceList \"{dir}/sources.list\";\n\
         Dir::Etc::SourceParts \"/dev/null\";\n\
         Dir::Etc::Preferences \"/dev/null\";\n\
         Dir::Etc::PreferencesParts \"/dev/null\";\n\
         Dir::State \"{dir}/state\";\n\
         Dir::State::Lists \"{dir}/lists\";\n\
         Dir::State::Status \"{dir}/status\";\n\
         Dir::Cache \"{dir}/cache\";\n\
         Dir::Cache::Archives \"archives\";\n\
         Dir::Cache::PkgCache \"pkgcache.bin\";\n\
         Dir::Cache::SrcPkgCache \"srcpkgcache.bin\";\n\
         Dir::Log \"{dir}/log\";\n\
         APT::Architecture \"amd64\";\n\
         APT::Sandbox::User \"root\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::Retries \"3\";\n\
         Acquire::http::Timeout \"30\";\n"
    )
}

/// Runs a program to its end; its standard error goes into the error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let words = std::iter::once(command.get_program()).chain(command.get_args().filter(|a| !a.is_empty()));
    let mut words = words.map(|w| w.to_string_lossy().into_owned());
    let mut name = words.next().unwrap_or_default();
    if let Some(verb) = words.find(|w| matches!(w.as_str(), "update" | "download" | "-x")) {
        name = format!("{name} {verb}");
    }
    let output = command
        .stdin(Stdio::null())
        .output()
        .context(|| format!("running {name}"))?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = stderr.lines().filter(|l| !l.trim().is_empty()).collect();
    let last = lines.get(lines.len().saturating_sub(8)..).unwrap_or_default();
    Err(Error::Program {
        program: name,
        status: output.status.to_string(),
        stderr: last.join("\n"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_keep_the_first_choice_only() {
        let stanza = &deb822::stanzas(
            "Package: nfs-common\nVersion: 1:2.6\nPre-Depends: init-system-helpers (>= 1.54~)\n\
             Depends: libc6 (>= 2.36), libwrap0:any (>= 7), python3 | python\nSize: 12\n",
        )[0];
        let package = Package::from_stanza(stanza).unwrap();
        assert_eq!(
            package.depends,
            ["init-system-helpers", "libc6", "libwrap0", "python3"]
        );
        assert_eq!(package.size, 12);
    }

    #[test]
    fn libraries_are_followed_and_programs_are_not() {
        let package = |name: &str, depends: &[&str]| Package {
            name: name.into(),
            version: "1".into(),
            depends: depends.iter().map(|d| (*d).to_owned()).collect(),
            size: 0,
            is_library: name.starts_with("lib"),
        };
        let index: BTreeMap<_, _> = [
            package("rpcbind", &["libtirpc3", "adduser"]),
            package("libtirpc3", &["libkrb5", "libgone"]),
            package("libkrb5", &["libtirpc3"]),
            package("adduser", &["passwd"]),
        ]
        .map(|p| (p.name.clone(), p))
        .into();
        let names = |roots: &[&str]| {
            let roots: Vec<String> = roots.iter().map(|r| (*r).to_owned()).collect();
            with_libraries(&index, &roots).map(|c| c.iter().map(|p| p.name.clone()).collect::<Vec<_>>())
        };
        assert_eq!(names(&["rpcbind"]).unwrap(), ["rpcbind", "libtirpc3", "libkrb5"]);
        assert!(names(&["rpcbinb"]).unwrap_err().to_string().contains("rpcbinb"));
    }
}
