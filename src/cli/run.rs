//! `remap-guardian run`: the daemon.

use crate::config::Settings;
use std::io::IsTerminal;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

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
    // The journal adds the time itself.
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        log.init();
    } else {
        log.with_ansi(false).without_time().init();
    }
    let early = args.early;
    let settings = match early {
        false => settings,
        true => match crate::runtime::begin(settings)? {
            Some(settings) => settings,
            None => return Ok(ExitCode::SUCCESS),
        },
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(crate::runtime::run(settings, early))?;
    Ok(ExitCode::SUCCESS)
}
