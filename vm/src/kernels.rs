//! Which kernels there are, and how they come into the cache.
//!
//! Debian carries a whole series as packages. The newest of a series is taken
//! from the suite's index when it is first wanted, and stays: a kernel that is
//! in the cache is used without asking the network. (`refresh` asks again.)
//!
//! Two layouts exist. Up to 6.18 one package holds `/boot/vmlinuz-V` and
//! `/lib/modules/V`; since 7.2 there are `linux-binary-V`, with the image at
//! `/usr/lib/modules/V/vmlinuz`, and `linux-modules-V`, with `.ko.xz`.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::apt::{Apt, Package, Release};
use crate::cache::Cache;
use crate::error::{Context, Error, Result};
use crate::progress::Progress;

const FLAVOUR: &str = "-cloud-amd64";

pub(crate) const BOOKWORM: Release = Release {
    name: "bookworm",
    main: &["bookworm", "bookworm-updates"],
    security: &["bookworm-security"],
};
const BULLSEYE: Release = Release {
    name: "bullseye-security",
    main: &[],
    security: &["bullseye-security"],
};
pub(crate) const TRIXIE: Release = Release {
    name: "trixie",
    main: &["trixie", "trixie-updates"],
    security: &["trixie-security"],
};
const BACKPORTS: Release = Release {
    name: "trixie-backports",
    main: &["trixie-backports"],
    security: &[],
};

/// A kernel series: `6.1`, `6.12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Series {
    major: u32,
    minor: u32,
}

impl Series {
    /// The release whose suites carry this series.
    fn release(self) -> &'static Release {
        match (self.major, self.minor) {
            (5, _) => &BULLSEYE,
            (6, 0..=11) => &BOOKWORM,
            (6, 12..=15) => &TRIXIE,
            _ => &BACKPORTS,
        }
    }

    /// Whether a version such as `6.1.0-56` is of this series. The whole
    /// number counts: 6.12 is not of 6.1.
    fn matches(self, version: &str) -> bool {
        let mut numbers = version.split(|c: char| !c.is_ascii_digit());
        let mut next = || numbers.next().and_then(|n| n.parse().ok());
        next() == Some(self.major) && next() == Some(self.minor)
    }
}

impl FromStr for Series {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::NoKernel {
            series: text.to_owned(),
            problem: "expected two numbers with a dot between, such as 6.1 or 6.12".into(),
        };
        let (major, minor) = text.trim().split_once('.').ok_or_else(wrong)?;
        Ok(Self {
            major: major.parse().map_err(|_| wrong())?,
            minor: minor.parse().map_err(|_| wrong())?,
        })
    }
}

impl TryFrom<String> for Series {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Series> for String {
    fn from(series: Series) -> Self {
        series.to_string()
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A kernel that lies in the cache, ready to boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kernel {
    /// The series it was fetched for.
    pub series: Series,
    /// Debian's version: `6.1.192-2`.
    pub version: String,
    /// What `uname -r` says in it: `6.1.0-56-cloud-amd64`.
    pub release: String,
    /// The image to boot.
    pub vmlinuz: PathBuf,
    /// The folder with its modules (`…/lib/modules/RELEASE`).
    pub modules_dir: PathBuf,
}

/// A line of `nfslab kernel list`.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// The series.
    pub series: Series,
    /// The kernel in the cache, if it is there.
    pub cached: Option<Kernel>,
    /// The newest version in the index, where we have read it.
    pub newest: Option<String>,
}

/// What lies beside an unpacked kernel, to find it again.
#[derive(Serialize, Deserialize)]
struct Manifest {
    series: Series,
    version: String,
    release: String,
    vmlinuz: PathBuf,
    modules: PathBuf,
}

/// The packages that together are one kernel.
#[derive(Clone, Debug)]
struct Candidate {
    release: String,
    packages: Vec<Package>,
}

/// The series known to be carried, oldest first: what `list` shows when it has
/// not asked the network.
pub fn known_series() -> Vec<Series> {
    [
        (5, 10),
        (6, 1),
        (6, 12),
        (6, 16),
        (6, 17),
        (6, 18),
        (7, 2),
        (7, 3),
    ]
    .map(|(major, minor)| Series { major, minor })
    .to_vec()
}

/// What is in the cache, and what is known to be fetchable. No network.
pub fn list(cache: &Cache) -> Result<Vec<Listed>> {
    let mut all: BTreeSet<Series> = known_series().into_iter().collect();
    for entry in fs::read_dir(cache.dir("kernels")?)
        .context(|| "listing the cached kernels".into())?
        .flatten()
    {
        all.extend(entry.file_name().to_string_lossy().parse::<Series>());
    }
    Ok(all
        .into_iter()
        .map(|series| Listed {
            series,
            cached: cached(cache, series),
            newest: None,
        })
        .collect())
}

/// Like [`list`], after asking the archive for every series that it carries.
pub fn list_remote(cache: &Cache, progress: &dyn Progress) -> Result<Vec<Listed>> {
    let mut all: BTreeMap<Series, Listed> = list(cache)?.into_iter().map(|l| (l.series, l)).collect();
    for release in [&BULLSEYE, &BOOKWORM, &TRIXIE, &BACKPORTS] {
        let index = read_index(cache, release, progress)?;
        for series in index
            .keys()
            .filter_map(|name| series_of(name))
            .filter(|s| s.release().name == release.name)
        {
            let Some(newest) = newest(&index, series) else {
                continue;
            };
            let listed = all.entry(series).or_insert_with(|| Listed {
                series,
                cached: cached(cache, series),
                newest: None,
            });
            listed.newest = newest.packages.first().map(|p| p.version.clone());
        }
    }
    Ok(all.into_values().collect())
}

/// The kernel of this series, fetched if it is not in the cache yet.
pub fn fetch(cache: &Cache, series: Series, progress: &dyn Progress) -> Result<Kernel> {
    if let Some(kernel) = cached(cache, series) {
        return Ok(kernel);
    }
    // Another process may be fetching it just now.
    let _lock = cache.lock(&format!("kernel-{series}"))?;
    match cached(cache, series) {
        Some(kernel) => Ok(kernel),
        None => refresh(cache, series, progress),
    }
}

/// The newest kernel of this series, from the archive.
pub fn refresh(cache: &Cache, series: Series, progress: &dyn Progress) -> Result<Kernel> {
    let release = series.release();
    let apt = Apt::open(cache, release)?;
    progress.step(&format!("reading the package index of {}", release.name));
    apt.update()?;
    let index = apt.packages(is_kernel_package)?;
    let candidate = newest(&index, series).ok_or_else(|| Error::NoKernel {
        series: series.to_string(),
        problem: format!(
            "no usable kernel of it in {}; known series are {}",
            release.name,
            names(&known_series())
        ),
    })?;
    let home = format!("kernels/{series}/{}", candidate.release);
    cache.build_dir(&home, |dir| unpack(&apt, &candidate, series, dir, progress))?;
    cache.write(&format!("kernels/{series}/current"), candidate.release.as_bytes())?;
    cached(cache, series).ok_or_else(|| Error::Malformed {
        what: cache.path(&home).display().to_string(),
        problem: "the kernel just unpacked cannot be read back; remove the folder and try again".into(),
    })
}

/// The kernel in the cache, if it is there and whole.
pub fn cached(cache: &Cache, series: Series) -> Option<Kernel> {
    let home = cache.path(format!("kernels/{series}"));
    let release = fs::read_to_string(home.join("current")).ok()?;
    let dir = home.join(release.trim());
    let manifest: Manifest = serde_json::from_slice(&fs::read(dir.join("manifest.json")).ok()?).ok()?;
    let kernel = Kernel {
        series,
        version: manifest.version,
        release: manifest.release,
        vmlinuz: dir.join(manifest.vmlinuz),
        modules_dir: dir.join(manifest.modules),
    };
    (kernel.vmlinuz.is_file() && kernel.modules_dir.is_dir()).then_some(kernel)
}

fn read_index(
    cache: &Cache,
    release: &Release,
    progress: &dyn Progress,
) -> Result<BTreeMap<String, Package>> {
    progress.step(&format!("reading the package index of {}", release.name));
    let apt = Apt::open(cache, release)?;
    apt.update()?;
    apt.packages(is_kernel_package)
}

fn unpack(
    apt: &Apt,
    candidate: &Candidate,
    series: Series,
    dir: &Path,
    progress: &dyn Progress,
) -> Result<()> {
    let packages: Vec<&Package> = candidate.packages.iter().collect();
    apt.unpack(&packages, dir, dir, progress)?;
    for unneeded in ["usr/share", "boot/System.map"] {
        let _ = fs::remove_dir_all(dir.join(unneeded));
    }
    let release = &candidate.release;
    let first = |choices: [String; 2]| {
        choices
            .into_iter()
            .map(PathBuf::from)
            .find(|c| dir.join(c).exists())
    };
    let vmlinuz = first([
        format!("boot/vmlinuz-{release}"),
        format!("usr/lib/modules/{release}/vmlinuz"),
    ]);
    let modules = first([
        format!("lib/modules/{release}"),
        format!("usr/lib/modules/{release}"),
    ]);
    let (Some(vmlinuz), Some(modules)) = (vmlinuz, modules) else {
        return Err(Error::NoKernel {
            series: series.to_string(),
            problem: format!("package {release} has no image or no modules where they are expected"),
        });
    };
    let version = candidate
        .packages
        .first()
        .map(|p| p.version.clone())
        .unwrap_or_default();
    let manifest = Manifest {
        series,
        version,
        release: release.clone(),
        vmlinuz,
        modules,
    };
    let text = serde_json::to_vec_pretty(&manifest).map_err(|e| Error::Malformed {
        what: "kernel manifest".into(),
        problem: e.to_string(),
    })?;
    fs::write(dir.join("manifest.json"), text).context(|| format!("writing a manifest in {}", dir.display()))
}

fn is_kernel_package(name: &str) -> bool {
    kernel_release(name).is_some()
}

/// `linux-image-6.1.0-56-cloud-amd64` → (`image`, `6.1.0-56-cloud-amd64`).
/// Names without a full version (`linux-image-6.12-cloud-amd64`) are only
/// pointers to others.
fn kernel_release(name: &str) -> Option<(&str, &str)> {
    let (kind, release) = name.strip_prefix("linux-")?.split_once('-')?;
    let version = release.strip_suffix(FLAVOUR)?;
    let is_full = version.starts_with(|c: char| c.is_ascii_digit()) && version.matches('.').count() >= 2;
    (matches!(kind, "image" | "binary" | "modules") && is_full).then_some((kind, release))
}

fn series_of(package: &str) -> Option<Series> {
    let (_, release) = kernel_release(package)?;
    let mut parts = release.splitn(3, '.');
    format!("{}.{}", parts.next()?, parts.next()?).parse().ok()
}

/// The newest kernel of the series of which everything is there.
fn newest(index: &BTreeMap<String, Package>, series: Series) -> Option<Candidate> {
    let get = |kind: &str, release: &str| index.get(&format!("linux-{kind}-{release}")).cloned();
    let releases = index
        .keys()
        .filter_map(|name| kernel_release(name))
        .filter(|(kind, _)| *kind == "image");
    let candidates = releases
        .filter(|(_, release)| series.matches(release))
        .filter_map(|(_, release)| {
            let packages = match get("binary", release) {
                // The image package is empty then, and the modules may be gone.
                Some(binary) => vec![binary, get("modules", release)?],
                None => vec![get("image", release)?],
            };
            Some(Candidate {
                release: release.to_owned(),
                packages,
            })
        });
    candidates.max_by(|a, b| compare_versions(&a.release, &b.release))
}

/// Compares the numbers in two versions one by one: 6.12.9 is before 6.12.10.
fn compare_versions(a: &str, b: &str) -> Ordering {
    let numbers = |v: &str| -> Vec<u64> {
        v.split(|c: char| !c.is_ascii_digit())
            .filter_map(|n| n.parse().ok())
            .collect()
    };
    numbers(a).cmp(&numbers(b))
}

fn names(series: &[Series]) -> String {
    series
        .iter()
        .map(Series::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(text: &str) -> Series {
        text.parse().unwrap()
    }

    fn index(names: &[&str]) -> BTreeMap<String, Package> {
        let package = |name: &&str| Package {
            name: (*name).to_owned(),
            version: "1".into(),
            depends: vec![],
            size: 1,
            is_library: false,
        };
        names.iter().map(|n| ((*n).to_owned(), package(n))).collect()
    }

    fn pick(names: &[&str], wanted: &str) -> Option<String> {
        newest(&index(names), series(wanted)).map(|c| c.release)
    }

    #[test]
    fn a_series_is_not_a_prefix() {
        let all = [
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
        ];
        assert_eq!(pick(&all, "6.1").as_deref(), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(pick(&all, "6.12").as_deref(), Some("6.12.117+deb12-cloud-amd64"));
        assert_eq!(pick(&all, "6.11"), None);
        assert!(!series("6.1").matches("6.12.1") && series("6.1").matches("6.1.0-9"));
    }

    #[test]
    fn newest_counts_numbers_not_letters() {
        let all = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
        ];
        assert_eq!(pick(&all, "6.1").as_deref(), Some("6.1.0-56-cloud-amd64"));
    }

    #[test]
    fn pointers_and_other_flavours_are_no_kernels() {
        for name in [
            "linux-image-6.12-cloud-amd64",
            "linux-image-cloud-amd64",
            "linux-image-6.1.0-56-amd64",
            "linux-headers-6.1.0-56-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64-dbg",
        ] {
            assert!(!is_kernel_package(name), "{name}");
        }
    }

    #[test]
    fn a_split_kernel_needs_its_modules() {
        let with = [
            "linux-image-7.3.4-cloud-amd64",
            "linux-binary-7.3.4-cloud-amd64",
            "linux-modules-7.3.4-cloud-amd64",
        ];
        let found = newest(&index(&with), series("7.3")).unwrap();
        assert_eq!(found.packages.len(), 2);
        assert!(found.packages.iter().all(|p| !p.name.contains("image")));
        assert_eq!(pick(&with[..2], "7.3"), None);
    }

    #[test]
    fn a_wrong_series_says_what_would_be_right() {
        for text in ["6", "six.one", "6.1.2", ""] {
            assert!(
                text.parse::<Series>()
                    .unwrap_err()
                    .to_string()
                    .contains("such as 6.1"),
                "{text}"
            );
        }
    }
}
