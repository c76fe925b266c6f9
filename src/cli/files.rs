//! `remap-guardian files`.

mod check;
mod report;

use crate::config::Settings;
use crate::control::client::{self, CallError};
use crate::control::{NewsReport, Request, StatusReport};
use crate::sources::file_map::FileMap;
use anyhow::{Context, bail, ensure};
use check::Finding;
use report::{Happening, happenings};
use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Between two questions to the daemon.
const PAUSE: Duration = Duration::from_millis(250);
/// How often the blocks of a file that keeps changing are looked up: that writes it out.
const MAP_PAUSE: Duration = Duration::from_secs(1);
/// How long no file may be at the path: some programs replace a file in two steps.
const TOLERANCE: Duration = Duration::from_secs(1);

/// Options of `files`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Tell at once when a sector under a file goes bad
    Watch(WatchArgs),
}

/// Options of `files watch`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The file has to be on a file system on /dev/mapper/NAME, or on a partition or linear volume of it.
First all its blocks are read once, past the page cache and at most 32 MiB a second; then it is told
of errors and cures as the daemon sees them, with the bytes of the file, until the file is gone.

Examples:
  remap-guardian files watch /srv/data/vm.img
  remap-guardian files watch --json /srv/data/vm.img | jq 'select(.event == \"bad\")'

With --json every line is one object; .event is watching, bad, healed, checked, daemon or ended.")]
pub struct WatchArgs {
    /// The file
    path: PathBuf,
    /// Do not read its blocks at the start
    #[arg(long)]
    no_check: bool,
}

/// Runs the verb.
pub fn main(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    let Verb::Watch(args) = &args.verb;
    let path = std::path::absolute(&args.path).with_context(|| format!("{}", args.path.display()))?;
    let (map, seen) = look(&path)?;
    let name = serving(&map, settings).with_context(|| format!("{}", path.display()))?;
    let news: NewsReport = client::call(&settings.socket(), &Request::News { after: None })?;
    let bytes = map.pieces.iter().map(|piece| piece.at.len().bytes()).sum();
    Happening::Watching { path: &path, set: &name, bytes, places: map.pieces.len() }.tell(json)?;
    let findings = if args.no_check { None } else { Some(check::start(&map)?) };
    let now = Instant::now();
    let mut watch = Watch { path, name, map, seen, mapped: now, last: news.last, findings, absent: None, silent: false, json };
    watch.run(settings)?;
    Ok(ExitCode::SUCCESS)
}

/// What changes when the file gets other blocks, or is another one.
type Seen = (u64, u64, u64, u64, (i64, i64));

fn seen(metadata: &Metadata) -> Seen {
    let changed = (metadata.st_ctime(), metadata.st_ctime_nsec());
    (metadata.st_dev(), metadata.st_ino(), metadata.st_size(), metadata.st_blocks(), changed)
}

fn look(path: &Path) -> anyhow::Result<(FileMap, Seen)> {
    let metadata = std::fs::metadata(path).with_context(|| format!("{}", path.display()))?;
    // Before it is opened: opening a pipe would wait.
    ensure!(metadata.is_file(), "{}: not a regular file", path.display());
    let file = File::open(path).with_context(|| format!("{}", path.display()))?;
    let seen = seen(&file.metadata()?);
    let map = FileMap::of(&file).with_context(|| format!("{}", path.display()))?;
    Ok((map, seen))
}

/// The name of the file's set, if the daemon serves it.
fn serving(map: &FileMap, settings: &Settings) -> anyhow::Result<String> {
    let report: StatusReport = client::call(&settings.socket(), &Request::Status { name: None })?;
    let id = map.set.to_string();
    match report.sets.into_iter().find(|set| set.id == id) {
        Some(set) if set.status.is_some() => Ok(set.name.to_string()),
        Some(set) => bail!("the daemon does not serve “{0}”: {1}\n  next: remap-guardian restore {0}", set.name, set.state),
        None => bail!("the daemon does not know {}\n  next: remap-guardian restore", map.device.display()),
    }
}

struct Watch {
    path: PathBuf,
    name: String,
    map: FileMap,
    seen: Seen,
    mapped: Instant,
    /// Number of the last history entry that was looked at.
    last: u64,
    findings: Option<Receiver<Finding>>,
    /// Since when no file is at the path.
    absent: Option<Instant>,
    /// The daemon does not answer.
    silent: bool,
    json: bool,
}

impl Watch {
    fn run(&mut self, settings: &Settings) -> anyhow::Result<()> {
        loop {
            self.hear_of_the_check()?;
            let news = self.news(settings)?;
            if !self.follow(!news.is_empty())? {
                return Happening::Ended { path: &self.path, reason: "no file is there any more" }.tell(self.json);
            }
            for entry in news.iter().filter(|entry| entry.set == self.map.set) {
                for happening in happenings(&self.path, &self.name, &self.map, entry) {
                    happening.tell(self.json)?;
                }
            }
        }
    }

    /// Waits a moment, and tells what the check finds meanwhile.
    fn hear_of_the_check(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + PAUSE;
        while let Some(findings) = &self.findings {
            match findings.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Finding::Bad(sectors)) => {
                    for bytes in self.map.bytes(&sectors) {
                        Happening::found(&self.path, &self.name, bytes, sectors).tell(self.json)?;
                    }
                }
                Ok(Finding::Done { bytes, bad, stopped }) => {
                    Happening::Checked { path: &self.path, bytes, bad, stopped: stopped.as_deref() }.tell(self.json)?;
                }
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => self.findings = None,
            }
        }
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
        Ok(())
    }

    /// What the daemon has written to history since the last time. One that is restarted is waited for.
    fn news(&mut self, settings: &Settings) -> anyhow::Result<Vec<crate::model::Entry>> {
        match client::call::<NewsReport>(&settings.socket(), &Request::News { after: Some(self.last) }) {
            Ok(news) => {
                if std::mem::take(&mut self.silent) {
                    Happening::Daemon { answers: true, why: None }.tell(self.json)?;
                }
                self.last = news.last;
                Ok(news.entries)
            }
            Err(error @ CallError::Denied(_)) => Err(error.into()),
            Err(error) => {
                if !std::mem::replace(&mut self.silent, true) {
                    Happening::Daemon { answers: false, why: Some(error.to_string()) }.tell(self.json)?;
                }
                Ok(Vec::new())
            }
        }
    }

    /// Looks where the file is now, at once if that is `needed`. False if it is gone.
    fn follow(&mut self, needed: bool) -> anyhow::Result<bool> {
        let metadata = match std::fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(self.absent.get_or_insert_with(Instant::now).elapsed() < TOLERANCE);
            }
            Err(error) => return Err(error).with_context(|| format!("{}", self.path.display())),
        };
        self.absent = None;
        if seen(&metadata) != self.seen && (needed || self.mapped.elapsed() >= MAP_PAUSE) {
            let (map, seen) = match look(&self.path) {
                Err(error) if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::NotFound) => {
                    return Ok(true);
                }
                looked => looked?,
            };
            ensure!(map.set == self.map.set, "{} is on another set now: watch it anew", self.path.display());
            (self.map, self.seen, self.mapped) = (map, seen, Instant::now());
        }
        Ok(true)
    }
}
