//! What `-o` may say: the options of nfs(5) that mean something to this client, by the same names and defaults.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

/// The transport: `proto=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proto {
    /// One connection.
    Tcp,
    /// Datagrams.
    Udp,
}

/// When a call is repeated, and whether it is ever given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// `hard`: never given up. Otherwise (`soft`) it fails with EIO after `retrans` repetitions.
    pub hard: bool,
    /// How long the first answer may take.
    pub timeo: Duration,
    /// Repetitions until the server is said not to respond.
    pub retrans: u32,
}

/// Whose locks other clients see: `local_lock=`, `nolock`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LocalLock {
    /// flock(2) stays on this mount.
    pub flock: bool,
    /// fcntl(2) stays on this mount.
    pub posix: bool,
}

/// For how long attributes are believed: `acregmin` and its fellows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caching {
    /// Of a file that changed just now.
    pub reg_min: Duration,
    /// Of a file that has not changed for long.
    pub reg_max: Duration,
    /// Of a directory that changed just now.
    pub dir_min: Duration,
    /// Of a directory that has not changed for long.
    pub dir_max: Duration,
}

/// Everything that `-o` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// `ro`: nothing can be changed.
    pub read_only: bool,
    /// `proto=`, `tcp`, `udp`.
    pub proto: Proto,
    /// `hard`, `soft`, `timeo=` (tenths of a second), `retrans=`.
    pub retry: Retry,
    /// `port=`: NFS; 0 or nothing means 2049.
    pub port: Option<u16>,
    /// `mountport=`; nothing means that the port mapper is asked.
    pub mount_port: Option<u16>,
    /// `nlmport=`, ours: the lock service; nothing means that the port mapper is asked.
    pub nlm_port: Option<u16>,
    /// `rsize=`: most bytes of a READ. Nothing means what the server prefers.
    pub rsize: Option<u32>,
    /// `wsize=`: most bytes of a WRITE.
    pub wsize: Option<u32>,
    /// `acregmin=` … `actimeo=`, `noac`.
    pub caching: Caching,
    /// `noac`, `sync`: a write is on the server before write(2) returns.
    pub sync: bool,
    /// `nocto`: opening a file does not ask for its attributes.
    pub close_to_open: bool,
    /// `nolock`, `local_lock=`.
    pub local_lock: LocalLock,
    /// `nlmtimeout=`: how long a call of a lock waits for its answer before it is sent again (and then longer each time).
    pub nlm_timeout: Duration,
    /// `clientaddr=`: from which of our addresses we call, and where the server's callbacks find us.
    pub client_addr: Option<IpAddr>,
}

impl Default for Options {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Options {
            read_only: false,
            proto: Proto::Tcp,
            retry: Retry {
                hard: true,
                timeo: seconds(60),
                retrans: 2,
            },
            port: None,
            mount_port: None,
            nlm_port: None,
            rsize: None,
            wsize: None,
            caching: Caching {
                reg_min: seconds(3),
                reg_max: seconds(60),
                dir_min: seconds(30),
                dir_max: seconds(60),
            },
            sync: false,
            close_to_open: true,
            local_lock: LocalLock::default(),
            nlm_timeout: seconds(10),
            client_addr: None,
        }
    }
}

/// An option that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// There is no such option.
    #[error("-o {0}: there is no such option; there are: {KNOWN}")]
    Unknown(String),
    /// Its value is not one.
    #[error("-o {option}={value}: {wanted} is expected")]
    Value {
        /// The option.
        option: String,
        /// What it was given.
        value: String,
        /// What it takes.
        wanted: &'static str,
    },
    /// It is known to nfs(5), but not to this client.
    #[error("-o {option}: this client speaks {what} only")]
    Unsupported {
        /// The option.
        option: String,
        /// What there is instead.
        what: &'static str,
    },
}

const KNOWN: &str = "hard, soft, timeo, retrans, proto, tcp, udp, port, mountport, nlmport, rsize, wsize, \
    acregmin, acregmax, acdirmin, acdirmax, actimeo, ac, noac, sync, async, cto, nocto, lock, nolock, local_lock, \
    nlmtimeout, clientaddr, ro, rw, vers, nfsvers, sec";

/// What is accepted and means nothing here, so that a line of fstab(5) can be used as it is.
const IGNORED: &[&str] = &[
    "defaults",
    "bg",
    "fg",
    "retry",
    "intr",
    "nointr",
    "noatime",
    "atime",
    "relatime",
    "nodiratime",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "exec",
    "noexec",
    "_netdev",
    "auto",
    "noauto",
    "mountproto",
    "mountvers",
    "noresvport",
    "resvport",
    "rdirplus",
    "nordirplus",
    "acl",
    "noacl",
    "sharecache",
    "nosharecache",
    "addr",
    "mountaddr",
    "mountvers",
];

impl FromStr for Options {
    type Err = OptionError;

    /// Reads `soft,timeo=50,nolock`. What comes later wins.
    fn from_str(text: &str) -> Result<Options, OptionError> {
        let mut options = Options::default();
        let mut timeo = None;
        for word in text.split(',').filter(|word| !word.is_empty()) {
            let (name, value) = word.split_once('=').map_or((word, None), |(n, v)| (n, Some(v)));
            let said = Said { name, value };
            match name {
                "timeo" => {
                    timeo = Some(Duration::from_millis(
                        100 * said.number::<u64>("tenths of a second")?.max(1),
                    ))
                }
                _ => options.set(&said)?,
            }
        }
        // The default depends on the transport, whichever option came first.
        options.retry.timeo = timeo.unwrap_or(match options.proto {
            Proto::Tcp => options.retry.timeo,
            Proto::Udp => Duration::from_millis(1100),
        });
        Ok(options)
    }
}

/// One option.
struct Said<'a> {
    name: &'a str,
    value: Option<&'a str>,
}

impl Said<'_> {
    fn wrong(&self, wanted: &'static str) -> OptionError {
        OptionError::Value {
            option: self.name.into(),
            value: self.value.unwrap_or_default().into(),
            wanted,
        }
    }

    fn number<N: FromStr>(&self, wanted: &'static str) -> Result<N, OptionError> {
        self.value
            .and_then(|value| value.parse().ok())
            .ok_or_else(|| self.wrong(wanted))
    }

    fn seconds(&self) -> Result<Duration, OptionError> {
        self.number::<u32>("a number of seconds")
            .map(|seconds| Duration::from_secs(seconds.into()))
    }

    fn port(&self) -> Result<Option<u16>, OptionError> {
        let port = self.number::<u16>("a port")?;
        Ok((port > 0).then_some(port))
    }

    /// A size of a transfer: a multiple of 4096, between 4 KiB and 1 MiB, rounded as nfs(5) says.
    fn size(&self) -> Result<Option<u32>, OptionError> {
        let size = self.number::<u32>("a number of bytes")?;
        Ok(Some((size & !4095).clamp(4096, 1 << 20)))
    }
}

impl Options {
    fn set(&mut self, said: &Said<'_>) -> Result<(), OptionError> {
        let only = |what| OptionError::Unsupported {
            option: match said.value {
                Some(value) => format!("{}={value}", said.name),
                None => said.name.into(),
            },
            what,
        };
        match said.name {
            "hard" => self.retry.hard = true,
            "soft" | "softerr" => self.retry.hard = false,
            "retrans" => self.retry.retrans = said.number("a number")?,
            "tcp" => self.proto = Proto::Tcp,
            "udp" => self.proto = Proto::Udp,
            "proto" => {
                self.proto = match said.value {
                    Some("tcp" | "tcp6") => Proto::Tcp,
                    Some("udp" | "udp6") => Proto::Udp,
                    _ => return Err(said.wrong("tcp or udp")),
                }
            }
            "port" => self.port = said.port()?,
            "mountport" => self.mount_port = said.port()?,
            "nlmport" => self.nlm_port = said.port()?,
            "rsize" => self.rsize = said.size()?,
            "wsize" => self.wsize = said.size()?,
            "acregmin" => self.caching.reg_min = said.seconds()?,
            "acregmax" => self.caching.reg_max = said.seconds()?,
            "acdirmin" => self.caching.dir_min = said.seconds()?,
            "acdirmax" => self.caching.dir_max = said.seconds()?,
            "actimeo" => self.caching = Caching::all(said.seconds()?),
            "ac" => self.caching = Options::default().caching,
            "noac" => {
                self.caching = Caching::all(Duration::ZERO);
                self.sync = true;
            }
            "sync" => self.sync = true,
            "async" => self.sync = false,
            "cto" => self.close_to_open = true,
            "nocto" => self.close_to_open = false,
            "lock" => self.local_lock = LocalLock::default(),
            "nolock" => {
                self.local_lock = LocalLock {
                    flock: true,
                    posix: true,
                }
            }
            "local_lock" => {
                let (flock, posix) = match said.value {
                    Some("none") => (false, false),
                    Some("all") => (true, true),
                    Some("flock") => (true, false),
                    Some("posix") => (false, true),
                    _ => return Err(said.wrong("none, all, flock or posix")),
                };
                self.local_lock = LocalLock { flock, posix };
            }
            "nlmtimeout" => {
                let wanted = "seconds, from 3 to 20";
                let seconds = said.number(wanted)?;
                if !(3..=20).contains(&seconds) {
                    return Err(said.wrong(wanted));
                }
                self.nlm_timeout = Duration::from_secs(seconds);
            }
            "clientaddr" => self.client_addr = Some(said.number("an address")?),
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "vers" | "nfsvers" if said.value == Some("3") => {}
            "vers" | "nfsvers" => return Err(only("NFS version 3")),
            "sec" if said.value == Some("sys") => {}
            "sec" => return Err(only("sec=sys")),
            name if IGNORED.contains(&name) => {}
            name => return Err(OptionError::Unknown(name.into())),
        }
        Ok(())
    }
}

impl Caching {
    fn all(time: Duration) -> Caching {
        Caching {
            reg_min: time,
            reg_max: time,
            dir_min: time,
            dir_max: time,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Options {
        text.parse().unwrap()
    }

    #[test]
    fn the_names_of_nfs_5() {
        let options =
            read("soft,timeo=50,retrans=3,port=2050,mountport=0,rsize=5000,wsize=9999999,nolock,ro");
        assert!(!options.retry.hard && options.read_only);
        assert_eq!(
            (options.retry.timeo, options.retry.retrans),
            (Duration::from_secs(5), 3)
        );
        assert_eq!((options.port, options.mount_port), (Some(2050), None));
        assert_eq!((options.rsize, options.wsize), (Some(4096), Some(1 << 20)));
        assert_eq!(
            options.local_lock,
            LocalLock {
                flock: true,
                posix: true
            }
        );
        assert_eq!(read("noac").caching, Caching::all(Duration::ZERO));
        assert_eq!(read("defaults,_netdev,vers=3,sec=sys"), Options::default());
        assert_eq!(read("nolock,lock"), Options::default(), "what comes later wins");
    }

    #[test]
    fn the_default_of_timeo_depends_on_the_transport() {
        assert_eq!(read("udp").retry.timeo, Duration::from_millis(1100));
        assert_eq!(read("timeo=7,udp").retry.timeo, Duration::from_millis(700));
        assert_eq!(read("").retry.timeo, Duration::from_secs(60));
    }

    #[test]
    fn what_cannot_be_says_what_would_be_right() {
        let error = |text: &str| text.parse::<Options>().unwrap_err().to_string();
        assert!(error("softt").starts_with("-o softt: there is no such option; there are: hard, soft"));
        assert_eq!(error("timeo=x"), "-o timeo=x: tenths of a second is expected");
        assert_eq!(
            error("vers=4.1"),
            "-o vers=4.1: this client speaks NFS version 3 only"
        );
        assert_eq!(
            error("local_lock=some"),
            "-o local_lock=some: none, all, flock or posix is expected"
        );
    }
}
