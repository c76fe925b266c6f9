//! `remap-guardian run`: the daemon.

use crate::actuate::announced::quiesce;
use crate::config::Settings;
use crate::memory;
use crate::runtime::{self, Log};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// Stack of a thread of tokio. All of it is locked in memory.
const STACK: usize = 512 << 10;

/// How long the end waits for a flush of a member that is under way.
const LAST_FLUSH: Duration = Duration::from_secs(10);

/// Options of `run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to log: error, warn, info, debug, trace; overrides the setting “log”
    #[arg(long)]
    log: Option<String>,
    /// For an initramfs and the end of a shutdown: goes to the background, keeps its state in /run, and is spared by systemd
    #[arg(long, hide = true)]
    early: bool,
}

/// Runs the daemon until SIGTERM.
pub fn main(args: &Args, settings: Settings) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(rustix::process::geteuid().is_root(), "the daemon needs root\n  next: systemctl start remap-guardian");
    let wanted = args.log.as_ref().unwrap_or(&settings.log);
    let filter = EnvFilter::try_new(wanted).map_err(|error| anyhow::anyhow!("log = {wanted}: {error}"))?;
    let settings = match args.early {
        false => settings,
        true => match runtime::begin(settings)? {
            Some(settings) => settings,
            None => return Ok(ExitCode::SUCCESS),
        },
    };
    // Before any thread is started.
    let not_held = memory::hold();
    let lines = Log::start(std::io::stderr())?;
    // The journal adds the time itself.
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_writer(lines.clone());
    if std::io::stderr().is_terminal() {
        log.init();
    } else {
        log.with_ansi(false).without_time().init();
    }
    for why in not_held {
        tracing::warn!("a cure may have to wait for a disk that is failing itself: {why}");
    }
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_stack_size(STACK).enable_all().build()?;
    let ended = tokio.block_on(runtime::run(settings, args.early));
    if !quiesce(LAST_FLUSH) {
        tracing::warn!("a member takes long for a flush; an application may be told that one of its own failed");
    }
    // What still looks at a slow disk ends with the process, as far as it can.
    tokio.shutdown_background();
    lines.flush();
    ended.map(|()| ExitCode::SUCCESS)
}
