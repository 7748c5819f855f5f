//! `nfslab mount`: an export of an NFSv3 server on a directory, without the kernel's NFS client.

use super::{Done, Exit, OrExit, Stop, runtime};
use anyhow::anyhow;
use clap::Args;
use fuse_client::mount::Mount as Export;
use fuse_client::options::Options;
use fuse_client::target::Target;
use std::io::Write;
use std::path::PathBuf;

/// Flags of `nfslab mount`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  nfslab mount server:/lab /mnt\n  \
                        nfslab mount -o soft,timeo=50,nolock 127.0.0.1:/lab /mnt\n  \
                        nfslab mount -o port=2050,mountport=2051,nlmport=2052 127.0.0.1:/lab /mnt\n\n\
                        It stays in the foreground until Ctrl-C, SIGTERM or `umount DIR`. The options are those of \
                        nfs(5), and more: nlmport=N does without the server's port mapper, nlmtimeout=SECONDS \
                        (3 to 20, 10 unless said) is the sysctl fs.nfs.nlm_timeout. NFSLAB_LOG=info tells more.")]
pub struct Mount {
    /// What to mount: HOST:/EXPORT.
    #[arg(value_name = "EXPORT")]
    target: Target,
    /// Where.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Options, separated by commas, with the names of nfs(5).
    #[arg(short = 'o', long = "options", value_name = "OPTIONS", default_value = "")]
    options: Options,
}

impl Mount {
    pub fn main(self) -> Done {
        let runtime = runtime()?;
        runtime.block_on(async {
            let mut stop = Stop::listen()?;
            let mounting = Export::new(self.target, &self.dir, &self.options);
            let export = tokio::select! {
                export = mounting => export.or_exit(Exit::Failed)?,
                () = stop.told() => return Err(anyhow!("given up")).or_exit(Exit::Failed),
            };
            println!("{} is on {}", export.target(), self.dir.display());
            let _ = std::io::stdout().flush();
            tokio::select! {
                () = export.ended() => {}
                () = stop.told() => {}
            }
            let unmounting = export.unmount();
            tokio::pin!(unmounting);
            tokio::select! {
                done = &mut unmounting => done.or_exit(Exit::Failed)?,
                () = stop.told() => return Err(anyhow!("ended while it was still in use")).or_exit(Exit::Failed),
            }
            Ok(Exit::Passed)
        })
    }
}
