//! `nfslab kernel` and `nfslab doctor`.

use super::output::{json, table};
use super::{Done, Exit, OrExit, Output, run::Steps};
use clap::Subcommand;
use vm::Cache;
use vm::kernels::{self, Series};

/// `nfslab kernel`.
#[derive(Debug, Subcommand)]
pub enum KernelCommand {
    /// Which series there are, and which are in the cache.
    List,
    /// Bring the newest kernel of each SERIES into the cache, and the programs that guests need.
    #[command(after_help = "Examples:\n  nfslab kernel fetch 6.1\n  nfslab kernel fetch 5.10 6.12 7.3")]
    Fetch {
        /// 5.10, 6.1, 6.12 …
        #[arg(required = true)]
        series: Vec<Series>,
        /// Ask for a newer one even if the cache has one.
        #[arg(long)]
        refresh: bool,
    },
}

impl KernelCommand {
    pub fn main(self, output: Output) -> Done {
        let cache = Cache::open().or_exit(Exit::Broken)?;
        match self {
            KernelCommand::List => {
                let listed = kernels::list(&cache).or_exit(Exit::Broken)?;
                let version = |k: &kernels::Kernel| k.version.clone();
                let rows: Vec<_> = listed
                    .iter()
                    .map(|l| {
                        vec![
                            l.series.to_string(),
                            l.cached.as_ref().map_or("-".to_owned(), version),
                        ]
                    })
                    .collect();
                match output {
                    Output::Json => json(
                        &rows
                            .iter()
                            .map(|r| serde_json::json!({"series": r.first(), "cached": r.get(1)}))
                            .collect::<Vec<_>>(),
                    ),
                    Output::Text => table(&["SERIES", "CACHED"], &rows),
                }
            }
            KernelCommand::Fetch { series, refresh } => {
                let steps = Steps::new();
                vm::userland::Userland::fetch(&cache, &vm::userland::Extras::default(), &steps)
                    .or_exit(Exit::Skipped)?;
                for series in series {
                    let fetch = if refresh { kernels::refresh } else { kernels::fetch };
                    let kernel = fetch(&cache, series, &steps).or_exit(Exit::Skipped)?;
                    println!("{series}  {}", kernel.version);
                }
            }
        }
        Ok(Exit::Passed)
    }
}

/// Examines the machine; exit code 77 if guests cannot be booted on it.
pub fn doctor(output: Output) -> Done {
    let cache = Cache::open().or_exit(Exit::Broken)?;
    let findings = vm::doctor::examine(&cache);
    let fit = findings.iter().all(|f| f.ok || f.optional);
    match output {
        Output::Json => json(&findings),
        Output::Text => {
            let rows: Vec<_> = findings
                .iter()
                .map(|f| {
                    let verdict = match (f.ok, f.optional) {
                        (true, _) => "ok",
                        (false, true) => "no (not needed)",
                        (false, false) => "MISSING",
                    };
                    let mend = f.mend.as_ref().map_or(String::new(), |mend| format!(" → {mend}"));
                    let detail = f.detail.lines().collect::<Vec<_>>().join(" ");
                    vec![f.what.clone(), verdict.to_owned(), format!("{detail}{mend}")]
                })
                .collect();
            table(&["WHAT", "", "SEEN"], &rows);
        }
    }
    Ok(if fit { Exit::Passed } else { Exit::Skipped })
}
