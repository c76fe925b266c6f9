//! `remap-guardian notify`: a command of the administrator for each new entry of the history that is urgent enough.
//!
//! It is a client and no part of the daemon: what the command does, opens and waits for cannot keep a cure waiting.

use super::history::line_of_json;
use crate::config::{Settings, TOLD};
use crate::control::client::{self, CallError};
use crate::control::{NewsReport, Request};
use crate::model::{Entry, Urgency};
use anyhow::{Context, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use std::ffi::OsString;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// Between two questions to the daemon.
const PAUSE: Duration = Duration::from_secs(2);
/// After a command that failed, at first and at most.
const RETRY: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(600)];

/// Options of `notify`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The command gets the entry as a line of JSON on its standard input, as “history --json” prints it,
and REMAP_GUARDIAN_SET, REMAP_GUARDIAN_URGENCY and REMAP_GUARDIAN_SENTENCE in its environment. If it
fails it is run again with the same entry, after 5 s, later after up to 10 min; the others wait. The
number of the last entry is kept in a file, so that none is missed while nobody listens; one may come
twice after a crash. The first time it begins with what happens from then on.

Examples:
  remap-guardian notify --least alarm wall
  remap-guardian notify -- sh -c 'mail -s \"$REMAP_GUARDIAN_SENTENCE\" root'
  systemctl enable --now remap-guardian-notify    # runs /etc/remap-guardian/notify")]
pub struct Args {
    /// Only entries at least so urgent
    #[arg(long, value_parser = urgency(), default_value = "warning")]
    least: Urgency,
    /// Where the number of the last entry is kept [default: “notified” beside the store]
    #[arg(long, value_name = "FILE")]
    place: Option<PathBuf>,
    /// Tell of what is new and end; a command that fails is not run again
    #[arg(long)]
    once: bool,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

fn urgency() -> impl TypedValueParser<Value = Urgency> {
    PossibleValuesParser::new(Urgency::ALL.map(Urgency::word)).map(|word| Urgency::of(&word).expect("one of them"))
}

/// Runs the command for what is new, until it is stopped.
pub fn main(args: &Args, settings: &Settings) -> anyhow::Result<ExitCode> {
    let file = args.place.clone().unwrap_or_else(|| settings.state_dir.join("notified"));
    let mut place = load(&file)?;
    let (mut retry, mut silent) = (RETRY[0], false);
    loop {
        let news: NewsReport = match client::call(&settings.socket(), &Request::News { after: place }) {
            Ok(news) => news,
            Err(error @ CallError::NotRunning(_)) if !args.once => {
                if !std::mem::replace(&mut silent, true) {
                    eprintln!("remap-guardian: {error}; it is waited for");
                }
                sleep(PAUSE);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        silent = false;
        for entry in &news.entries {
            if entry.what.urgency() >= args.least {
                if let Err(error) = tell(&args.command, entry) {
                    if args.once {
                        return Err(error);
                    }
                    eprintln!("remap-guardian: {error:#}; entry {} is told again in {} s", entry.number, retry.as_secs());
                    break;
                }
            }
            keep(&file, entry.number)?;
            (place, retry) = (Some(entry.number), RETRY[0]);
        }
        let told = news.entries.last().is_none_or(|last| place == Some(last.number));
        if told && place != Some(news.last) {
            keep(&file, news.last)?;
            place = Some(news.last);
        }
        if args.once && news.entries.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        if told {
            sleep(if news.entries.is_empty() { PAUSE } else { Duration::ZERO });
        } else {
            sleep(retry);
            retry = (retry * 2).min(RETRY[1]);
        }
    }
}

/// Runs the command for one entry.
fn tell(command: &[OsString], entry: &Entry) -> anyhow::Result<()> {
    let name = command[0].to_string_lossy();
    let mut child = Command::new(&command[0])
        .args(&command[1..])
        .envs(TOLD.into_iter().zip([entry.name.to_string(), entry.what.urgency().word().into(), entry.what.sentence()]))
        .stdin(Stdio::piped())
        .spawn()
        .with_context(|| format!("{name} cannot be run"))?;
    let line = line_of_json(entry)? + "\n";
    // One that does not read it may have ended already.
    match child.stdin.take().map_or(Ok(()), |mut input| input.write_all(line.as_bytes())) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    let status = child.wait()?;
    if status.success() { Ok(()) } else { bail!("{name} ended with {status}") }
}

fn load(file: &Path) -> anyhow::Result<Option<u64>> {
    match fs::read_to_string(file) {
        Ok(text) => {
            let number = text.trim().parse();
            let hint = || {
                format!(
                    "{}: not the number of an entry\n  next: remove it, to begin with what happens from now on",
                    file.display()
                )
            };
            Ok(Some(number.with_context(hint)?))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("{}", file.display())),
    }
}

fn keep(file: &Path, number: u64) -> anyhow::Result<()> {
    let new = file.with_extension("new");
    let write = || {
        fs::write(&new, format!("{number}\n"))?;
        fs::rename(&new, file)
    };
    write().with_context(|| format!("{}: the number of the last entry cannot be kept", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Millis, SetId, SetName, What};

    fn entry() -> Entry {
        let what = What::Alert { message: "look".into() };
        Entry { number: 7, at: Millis(1), set: SetId(uuid::Uuid::nil()), name: SetName::new("data").unwrap(), what }
    }

    fn shell(script: &str) -> Vec<OsString> {
        ["sh", "-c", script].map(OsString::from).to_vec()
    }

    #[test]
    fn a_command_gets_the_entry_in_both_ways() {
        let script = r#"read -r line; [ "$REMAP_GUARDIAN_SET/$REMAP_GUARDIAN_URGENCY/$REMAP_GUARDIAN_SENTENCE" = "data/alarm/ALERT: look" ] &&
            case $line in *'"kind":"alert"'*'"number":7'*) ;; *) exit 9 ;; esac"#;
        tell(&shell(script), &entry()).unwrap();
    }

    #[test]
    fn a_command_that_fails_or_is_not_there_is_named() {
        let failed = tell(&shell("exit 3"), &entry()).unwrap_err();
        assert!(format!("{failed:#}").contains("sh ended with exit status: 3"), "{failed:#}");
        let missing = tell(&["/nonexistent/tool".into()], &entry()).unwrap_err();
        assert!(format!("{missing:#}").contains("/nonexistent/tool cannot be run"), "{missing:#}");
    }

    #[test]
    fn a_place_is_kept_and_what_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("notified");
        assert_eq!(load(&file).unwrap(), None);
        keep(&file, 42).unwrap();
        assert_eq!(load(&file).unwrap(), Some(42));
        fs::write(&file, "x").unwrap();
        assert!(format!("{:#}", load(&file).unwrap_err()).contains("remove it"));
    }
}
