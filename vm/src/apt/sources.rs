//! Which Debian mirror this machine uses, read from its own apt sources.
//!
//! Both formats are understood: one line per source (`sources.list`), and the
//! stanzas of deb822 (`*.sources`). No host name is written in this code: what
//! the machine can reach is what its owner configured.

use std::path::Path;

use crate::error::{Error, Result};

/// Release names that Debian's own archive carries, and third parties rarely
/// use together with a path ending in `debian` and a component `main`.
const RELEASES: [&str; 12] = [
    "buster",
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
    "sid",
    "stable",
    "oldstable",
    "oldoldstable",
    "testing",
    "unstable",
];

/// Where packages come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Address of the main archive: `…/debian`.
    pub main: String,
    /// Address of the security archive: `…/debian-security`.
    pub security: String,
}

/// One archive that the machine's apt knows.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    uri: String,
    suite: String,
    components: Vec<String>,
}

impl Mirror {
    /// `NFSLAB_MIRROR` if set (one address, or two: main and security), else
    /// what the machine's apt uses.
    pub fn detect() -> Result<Self> {
        if let Some(set) = std::env::var("NFSLAB_MIRROR")
            .ok()
            .filter(|v| !v.trim().is_empty())
        {
            return Self::from_setting(&set);
        }
        Self::from_apt(Path::new("/etc/apt"))
    }

    fn from_setting(text: &str) -> Result<Self> {
        let words: Vec<&str> = text.split_whitespace().map(|w| w.trim_end_matches('/')).collect();
        match words.as_slice() {
            [main] if main.contains(':') => Ok(Self {
                main: (*main).to_owned(),
                security: security_beside(main),
            }),
            [main, security] if main.contains(':') && security.contains(':') => Ok(Self {
                main: (*main).to_owned(),
                security: (*security).to_owned(),
            }),
            _ => Err(Error::Malformed {
                what: format!("NFSLAB_MIRROR={text:?}"),
                problem: "expected one address such as scheme://host/debian, or two: main and security"
                    .into(),
            }),
        }
    }

    fn from_apt(etc: &Path) -> Result<Self> {
        let mut entries = Vec::new();
        let mut files = vec![etc.join("sources.list")];
        if let Ok(dir) = std::fs::read_dir(etc.join("sources.list.d")) {
            files.extend(dir.flatten().map(|e| e.path()));
        }
        files.sort();
        for file in files {
            let Ok(text) = std::fs::read_to_string(&file) else {
                continue;
            };
            match file.extension().and_then(|e| e.to_str()) {
                Some("list") => entries.extend(parse_list(&text)),
                Some("sources") => entries.extend(parse_deb822(&text)),
                _ => {}
            }
        }
        Self::choose(&entries).ok_or_else(|| Error::Missing {
            what: format!("a Debian mirror in {}", etc.display()),
            mend: "set NFSLAB_MIRROR to the address of a Debian archive that this machine can reach".into(),
        })
    }

    fn choose(entries: &[Entry]) -> Option<Self> {
        let debian = |e: &&Entry| e.components.iter().any(|c| c == "main") && is_debian_suite(&e.suite);
        let is_security = |e: &Entry| e.suite.ends_with("-security") || e.suite.ends_with("/updates");
        let pick = |security: bool, ending: &str| {
            let fits = entries
                .iter()
                .filter(debian)
                .filter(|e| is_security(e) == security);
            fits.clone()
                .find(|e| e.uri.ends_with(ending))
                .or_else(|| fits.clone().next())
                .map(|e| e.uri.clone())
        };
        let main = pick(false, "/debian")?;
        let security = pick(true, "-security").unwrap_or_else(|| security_beside(&main));
        Some(Self { main, security })
    }
}

/// Mirrors keep the security archive beside the main one.
fn security_beside(main: &str) -> String {
    format!("{}-security", main.trim_end_matches('/'))
}

fn is_debian_suite(suite: &str) -> bool {
    let base = suite.split(['-', '/']).next().unwrap_or(suite);
    let rest = suite.strip_prefix(base).unwrap_or_default();
    RELEASES.contains(&base)
        && matches!(
            rest,
            "" | "-updates" | "-security" | "/updates" | "-backports" | "-proposed-updates"
        )
}

/// `deb [options] uri suite component…`
fn parse_list(text: &str) -> Vec<Entry> {
    text.lines().filter_map(parse_list_line).collect()
}

fn parse_list_line(line: &str) -> Option<Entry> {
    let line = line.split('#').next()?.trim().strip_prefix("deb")?;
    let line = line.strip_prefix([' ', '\t'])?.trim_start();
    let line = match line.strip_prefix('[') {
        Some(options) => options.split_once(']')?.1,
        None => line,
    };
    let mut words = line.split_whitespace();
    let uri = words.next()?.trim_end_matches('/').to_owned();
    let suite = words.next()?.to_owned();
    (!uri.starts_with("cdrom:")).then(|| Entry {
        uri,
        suite,
        components: words.map(str::to_owned).collect(),
    })
}

/// Stanzas of `Types`, `URIs`, `Suites`, `Components`, apart by blank lines.
fn parse_deb822(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    for stanza in super::deb822::stanzas(text) {
        let words = |key: &str| {
            stanza
                .get(key)
                .map(|v| v.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
                .unwrap_or_default()
        };
        let disabled = stanza
            .get("Enabled")
            .is_some_and(|v| matches!(v.trim(), "no" | "false" | "0"));
        if disabled || !words("Types").iter().any(|t| t == "deb") {
            continue;
        }
        for uri in words("URIs") {
            for suite in words("Suites") {
                let uri = uri.trim_end_matches('/').to_owned();
                entries.push(Entry {
                    uri,
                    suite,
                    components: words("Components"),
                });
            }
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(main: &str, security: &str) -> Option<Mirror> {
        Some(Mirror {
            main: main.into(),
            security: security.into(),
        })
    }

    #[test]
    fn one_line_format() {
        let entries = parse_list(
            "# deb http://old.example/debian bookworm main\n\
             deb-src http://src.example/debian bookworm main\n\
             deb cdrom:[Debian GNU/Linux 12]/ bookworm main\n\
             deb [arch=amd64 signed-by=/k.gpg] https://apt.example/sdk cloud-sdk-bookworm main\n\
             deb https://vendor.example/linux/debian bookworm stable\n\
             deb https://third.example/apt bookworm main\n\
             deb [trusted=yes] http://m.example/debian/ bookworm main contrib # ours\n\
             deb http://m.example/debian-security bookworm-security main\n",
        );
        assert_eq!(
            Mirror::choose(&entries),
            mirror("http://m.example/debian", "http://m.example/debian-security")
        );
    }

    #[test]
    fn deb822_format() {
        let entries = parse_deb822(
            "Types: deb\n# a remark in between\nURIs: http://m.example/debian\nSuites: bookworm bookworm-updates\n\
             Components: main\nSigned-By:\n -----BEGIN PGP\n .\n -----END\n\n\
             Types: deb\nEnabled: no\nURIs: http://off.example/debian-security\nSuites: bookworm-security\nComponents: main\n\n\
             Types: deb deb-src\nURIs:\n http://s.example/debian-security\nSuites: bookworm-security\nComponents: main non-free\n",
        );
        assert_eq!(
            Mirror::choose(&entries),
            mirror("http://m.example/debian", "http://s.example/debian-security")
        );
    }

    #[test]
    fn security_is_derived_when_not_configured() {
        let entries = parse_list("deb http://m.example/debian trixie main");
        assert_eq!(
            Mirror::choose(&entries),
            mirror("http://m.example/debian", "http://m.example/debian-security")
        );
    }

    #[test]
    fn a_foreign_distribution_is_no_mirror() {
        assert_eq!(
            Mirror::choose(&parse_list("deb http://u.example/ubuntu noble main universe")),
            None
        );
    }

    #[test]
    fn the_setting_takes_one_address_or_two() {
        assert_eq!(
            Mirror::from_setting("http://m.example/debian/").ok(),
            mirror("http://m.example/debian", "http://m.example/debian-security")
        );
        assert_eq!(
            Mirror::from_setting("http://a/d http://b/s").ok(),
            mirror("http://a/d", "http://b/s")
        );
        assert!(Mirror::from_setting("just-a-host").is_err());
    }
}
