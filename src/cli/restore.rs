//! `remap-guardian restore`.

use super::text::confirm;
use crate::config::Settings;
use crate::control::{Missing, Request, Said, client};
use crate::model::SetName;
use std::process::ExitCode;

/// Options of `restore`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
At boot and when a disk arrives the daemon does this by itself.

With --from-history a spare that has lost both its headers is made anew on the same disk: headers from what this machine
knows of the set, the table from the spare itself, and for table blocks that are lost from the store. It says first what
it will write and asks; where nobody can be asked it needs --yes, and the exit status is 2 without.

With --missing it is decided about sectors that this machine knows on a spare and whose spare lacks them: a spare that is
older than it should be, as a copy or a restored image is. With “lost” they fail until they are written. “main” is right only
if they went back to main elsewhere, or if this machine's own records were restored from a backup. Both ask, as above. What
an older spare still serves is as old as the spare itself, which nobody can tell from it: better is the right spare.

Examples:
  remap-guardian restore
  remap-guardian restore data
  remap-guardian restore data --from-history
  remap-guardian restore data --missing lost")]
pub struct Args {
    /// Only this set
    name: Option<SetName>,
    /// First make spares anew whose headers are all lost
    #[arg(long, requires = "name", group = "first")]
    from_history: bool,
    /// First decide what becomes of sectors that an older spare lacks
    #[arg(long, requires = "name", group = "first")]
    missing: Option<Missing>,
    /// Do it without asking
    #[arg(long, requires = "first")]
    yes: bool,
}

/// Asks the daemon to look at the disks now.
pub fn main(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    let name = args.name.clone();
    let first = |sure| match (args.from_history, args.missing, name.clone()) {
        (true, _, Some(name)) => Some(Request::Rebuild { name, sure }),
        (_, Some(missing), Some(name)) => Some(Request::Missing { name, missing, sure }),
        _ => None,
    };
    let mut lines = Vec::new();
    if let (Some(ask), Some(order)) = (first(false), first(true)) {
        if !args.yes {
            let mut would: Said = client::call(&settings.socket(), &ask)?;
            if json || !std::io::IsTerminal::is_terminal(&std::io::stdin()) {
                would.lines.push("nothing was done; to do it, repeat with --yes".into());
            }
            super::print_said(&would, json)?;
            if json || !confirm("Write this?")? {
                return Ok(ExitCode::from(2));
            }
        }
        lines = client::call::<Said>(&settings.socket(), &order)?.lines;
    }
    let said: Said = match client::call(&settings.socket(), &Request::Restore { name: args.name.clone() }) {
        Ok(said) => said,
        Err(error) => {
            if !lines.is_empty() {
                super::print_said(&Said { lines }, json)?;
            }
            return Err(error.into());
        }
    };
    lines.extend(said.lines);
    super::print_said(&Said { lines }, json)
}
