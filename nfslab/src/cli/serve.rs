//! `nfslab serve`.

use super::{Done, Exit, OrExit, Stop, runtime};
use crate::control::client::Endpoint;
use crate::server::{
    Config, ControlAt, Drc, ExportSpec, POPULATE_EXAMPLE, Ports, Server, StatdAt, personalities,
};
use anyhow::{Context, Result, anyhow};
use clap::Args;
use faults::journal::Journal;
use faults::rule::{Rule, RuleFile};
use rpc::server::Limits;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Flags of `nfslab serve`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{POPULATE_EXAMPLE}"))]
pub struct Serve {
    /// An address to listen on; repeatable. Every service has the same port on all of them. :: is every address,
    /// of IPv4 too; 0.0.0.0 every one of IPv4.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1")]
    bind: Vec<IpAddr>,
    /// What can be mounted: a name; mem for a tree in memory, or a directory that begins with '/' or '.' (as root);
    /// and options. Repeatable. The options: ro, rw, root_squash, no_root_squash (the default), all_squash,
    /// anonuid=N and anongid=N (65534) as in exports(5); for a tree in memory max_bytes=SIZE (4G) and max_files=N
    /// (1048576), beyond which NFS3ERR_NOSPC is answered, or with dquot NFS3ERR_DQUOT;
    /// clients=NETWORK+NETWORK… (addresses or address/prefix) for who may mount and use it.
    #[arg(
        long = "export",
        value_name = "NAME=mem|DIR[,OPTION…]",
        default_value = "/lab=mem"
    )]
    exports: Vec<ExportSpec>,
    /// standard (NFS 2049, MOUNT 20048, NLM 32803, NSM 32765, portmap 111), auto (free ones), or a list such
    /// as nfs=2049,portmap=0 in which what is left out is standard and 0 is a free port. With portmap=system the
    /// programs are registered with the rpcbind of this host.
    #[arg(long, value_name = "PORTS", default_value = "standard")]
    ports: Ports,
    /// The HTTP control API: ADDR:PORT, unix:PATH or none.
    #[arg(long, value_name = "WHERE", default_value = Endpoint::DEFAULT)]
    control: ControlAt,
    /// How the lock service behaves where servers differ.
    #[arg(long, value_name = "NAME", default_value = "linux-6.1")]
    personality: String,
    /// For every hashed choice.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// NLM grace period after the start.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    grace: u64,
    /// Fill every export that is empty from FILE; see below.
    #[arg(long, value_name = "FILE")]
    populate: Option<PathBuf>,
    /// The key of the file handles of exported directories, so that they survive a restart. Made if there is none.
    /// [default: nfslab/handle-key in $XDG_STATE_HOME or ~/.local/state]
    #[arg(long, value_name = "FILE")]
    handle_key: Option<PathBuf>,
    /// Close a TCP connection on which no call has come for so long (up to twice that), as Linux does; 0: never.
    #[arg(long, value_name = "DURATION", default_value = "6m", value_parser = humantime::parse_duration)]
    idle_timeout: Duration,
    /// The programs with a duplicate request cache, which answers a repeated call as before: a list of nfs, mount,
    /// lockd, statd and portmap, or none. Linux has one for nfs.
    #[arg(long, value_name = "PROGRAMS", default_value_t = Drc::default())]
    drc: Drc,
    /// Which status monitor watches the lock service's peers: the one in this server, or with system the rpc.statd of
    /// this host, by real calls. That one is found through rpcbind, and finds us there: with --ports portmap=system
    /// and --bind 0.0.0.0 (or 127.0.0.1) only.
    #[arg(long, value_name = "WHOSE", value_enum, default_value = "builtin")]
    statd: StatdAt,
    /// The status monitor's state number and list are kept in DIR, as rpc.statd keeps them in /var/lib/nfs: each
    /// start is then a reboot of which whoever was watched is told (SM_NOTIFY); --grace gives them the time to take
    /// their locks again. Without it nothing is kept, and nobody is told.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Rules to start with (TOML): which calls meet which fault. See `nfslab rule --help`.
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// Write every decision of the rules to FILE, as JSON lines.
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Take the decisions from a journal instead, and end with exit code 1 at the first call that is not as in it.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Record every RPC as pcapng, with what was done to it.
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// Write the addresses taken to FILE (JSON) once every listener accepts.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  nfslab serve --ports auto --ready-file /tmp/nfslab.json
  nfslab serve --bind 10.0.0.5 --export /a=mem --export /b=mem
  nfslab serve --bind 10.0.0.5 --bind 2001:db8::5
  nfslab serve --export /lab=mem,root_squash,max_bytes=1G,clients=10.0.0.0/8+192.168.1.5
  nfslab serve --export /data=/srv/data             (a real directory, as root)
  mount -t nfs -o vers=3,tcp 127.0.0.1:/lab /mnt      (with the standard ports, as root)

The control API on a running server (curl http://127.0.0.1:9049/v1/…):
  GET /v1/services   PUT /v1/services/statd {\"condition\": \"absent\"}
  GET /v1/peers      DELETE /v1/peers[/NAME]
  POST /v1/node/reboot {\"grace\": \"50s\", \"notify\": \"all\"}   POST /v1/node/stale-handles
  POST /v1/locks/forget {\"all\": true}            POST /v1/locks/leak {\"path\": \"/lab/f\", \"for\": \"30s\"}
  POST /v1/locks/double-grant {\"path\": \"/lab/f\"}            POST /v1/peers/NAME/reboot
  GET /v1/locks      GET /v1/events[?after=N&follow=true]
  GET /v1/rules      PUT /v1/rules (TOML)   POST /v1/rules/explain
  GET /v1/gates      POST /v1/gates/NAME {\"release\": \"go\"}
  POST /v1/verify    GET /v1/journal
  GET /v1/clock      POST /v1/clock {\"advance\": \"60s\"}
  POST /v1/reset     GET /healthz   GET /version
  GET /metrics       GET /openapi.json  (all of it, described)";

/// The rules of a file.
fn read_rules(path: &Path) -> Result<Vec<Rule>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {} (--rules)", path.display()))?;
    let rules = RuleFile::parse(&text).and_then(RuleFile::into_rules);
    rules
        .map_err(anyhow::Error::msg)
        .with_context(|| format!("in {}", path.display()))
}

/// A journal that was written with `--journal`.
pub(super) fn read_journal(path: &Path) -> Result<Journal> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read {} (--replay)", path.display()))?;
    Journal::parse(&text)
        .map_err(anyhow::Error::msg)
        .with_context(|| format!("in {}", path.display()))
}

impl Serve {
    pub fn main(self) -> Done {
        let unknown = || {
            anyhow!(
                "--personality '{}' is not known: there are {}",
                self.personality,
                personalities()
            )
        };
        let config = Config {
            bind: self.bind,
            personality: nlm::personality::Personality::by_name(&self.personality)
                .ok_or_else(unknown)
                .or_exit(Exit::Usage)?,
            exports: self.exports,
            ports: self.ports,
            control: self.control,
            seed: self.seed,
            grace: Duration::from_secs(self.grace),
            limits: Limits {
                idle: Some(self.idle_timeout).filter(|idle| !idle.is_zero()),
                ..Limits::default()
            },
            drc: self.drc,
            rules: self
                .rules
                .as_deref()
                .map_or(Ok(vec![]), read_rules)
                .or_exit(Exit::Usage)?,
            journal: self.journal,
            replay: self
                .replay
                .as_deref()
                .map(read_journal)
                .transpose()
                .or_exit(Exit::Usage)?,
            pcap: self.pcap,
            ready_file: self.ready_file,
            handle_key: self.handle_key,
            statd: self.statd,
            state_dir: self.state_dir,
            populate: self.populate,
            ..Config::default()
        };
        allow_descriptors();
        runtime()?.block_on(async {
            let mut stop = Stop::listen()?;
            let server = Server::start(config).await.or_exit(Exit::Failed)?;
            eprintln!("{}", server.greeting());
            let node = server.node().clone();
            let differs = tokio::select! {
                () = stop.told() => None,
                differs = node.differs() => Some(differs),
            };
            server.stop().await;
            match differs {
                Some(differs) => {
                    Err(anyhow!("the run is not as in the journal: {differs}")).or_exit(Exit::Failed)
                }
                None => Ok(Exit::Passed),
            }
        })
    }
}

/// Takes as many descriptors as the process may have: each connection needs one, and the usual limit of 1024 is for
/// programs that use select(2). That it fails is logged; the server is then as large as it can be.
fn allow_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it was");
    }
}
