//! The control socket: how the command line talks to the daemon.
//!
//! The wire form is that of Varlink (<https://varlink.org/Method-Call>): JSON objects that end in a NUL
//! byte, `{"method": …, "parameters": …}` and `{"parameters": …}` or `{"error": …, "parameters": …}`.

pub mod client;
pub mod server;

use crate::edge::{TargetStatus, Usage};
use crate::engine::SetStatus;
use crate::model::surface::Area;
use crate::model::{Entry, Extent, Member, Millis, Sample, ScrubProgress, Sectors, SetName, TestTimes};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The largest message, bytes.
pub const MAX_MESSAGE: usize = 16 << 20;

/// The longest answer that a client reads, bytes: a history of a million entries.
pub const MAX_ANSWER: usize = 1 << 30;

/// Ranges of a map that are looked at, at most.
pub const MOST_AREAS: usize = 10_000;

/// Sectors of a map that are looked at, at most: 4 GiB. Who has more to look at scrubs.
pub const MOST_SECTORS: Sectors = Sectors(8 << 20);

/// What becomes of sectors that are known on a spare and whose spare lacks them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// The spare is an older one, and there is no other: they fail until they are written
    Lost,
    /// They had gone back to main, and only this machine does not know: main serves them
    Main,
}

/// What the command line asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", content = "parameters")]
pub enum Request {
    /// How are the sets?
    #[serde(rename = "io.remap_guardian.Status")]
    Status {
        /// Only this one.
        name: Option<SetName>,
    },
    /// What happened?
    #[serde(rename = "io.remap_guardian.History")]
    History {
        /// Only this set.
        name: Option<SetName>,
        /// Entries at or after this.
        since: Millis,
        /// At most this many, the newest.
        limit: usize,
    },
    /// What has happened since?
    #[serde(rename = "io.remap_guardian.News")]
    News {
        /// The number of the last known entry; without it only the newest number is told.
        after: Option<u64>,
    },
    /// Does the chain of the history hold?
    #[serde(rename = "io.remap_guardian.Verify")]
    Verify,
    /// Take the oldest entries out of the history; without both, what exceeds the settings.
    #[serde(rename = "io.remap_guardian.Prune")]
    Prune {
        /// All that is older than this.
        before: Option<Millis>,
        /// All but so many, the newest.
        keep: Option<u64>,
    },
    /// Make a set and open it.
    #[serde(rename = "io.remap_guardian.Create")]
    Create {
        /// Its name.
        name: SetName,
        /// The disk to protect.
        main: PathBuf,
        /// The spares.
        spares: Vec<PathBuf>,
        /// Take a spare that holds something.
        overwrite_spare: bool,
    },
    /// Make another disk a spare of a set that is closed.
    #[serde(rename = "io.remap_guardian.AddSpare")]
    AddSpare {
        /// The set, by name or id.
        name: SetName,
        /// The new spare.
        spare: PathBuf,
        /// Take it although it holds something.
        overwrite_spare: bool,
    },
    /// Look for sets on the disks now and open those that are complete.
    #[serde(rename = "io.remap_guardian.Restore")]
    Restore {
        /// Only this one.
        name: Option<SetName>,
    },
    /// Make spares anew whose headers are all lost, from what this machine knows.
    #[serde(rename = "io.remap_guardian.Rebuild")]
    Rebuild {
        /// The set, by name or id.
        name: SetName,
        /// Do it; else only say what would be written.
        sure: bool,
    },
    /// Decide about sectors that are known on a spare and whose spare lacks them.
    #[serde(rename = "io.remap_guardian.Missing")]
    Missing {
        /// The set, by name or id.
        name: SetName,
        /// What becomes of them.
        missing: Missing,
        /// Do it; else only say what would be done.
        sure: bool,
    },
    /// Open main without its spare: what had moved there fails.
    #[serde(rename = "io.remap_guardian.Degrade")]
    Degrade {
        /// The set, by name or id.
        name: SetName,
        /// Let writes through to main.
        read_write: bool,
    },
    /// Give up a set that is not open.
    #[serde(rename = "io.remap_guardian.Forget")]
    Forget {
        /// The set, by name or id.
        name: SetName,
        /// Do it; else only say what would be done.
        sure: bool,
    },
    /// Read every sector of a set, slowly, to find bad ones.
    #[serde(rename = "io.remap_guardian.Scrub")]
    Scrub {
        /// The set.
        name: SetName,
        /// What to do.
        order: ScrubOrder,
    },
    /// What do the drives say of themselves, and how did that change?
    #[serde(rename = "io.remap_guardian.Smart")]
    Smart {
        /// Only this set.
        name: Option<SetName>,
    },
    /// What is known of each sector of a set?
    #[serde(rename = "io.remap_guardian.Map")]
    Map {
        /// The set.
        name: SetName,
    },
    /// Read what a map of ddrescue calls bad. The answer comes when that is done.
    #[serde(rename = "io.remap_guardian.ImportMap")]
    ImportMap {
        /// The set.
        name: SetName,
        /// Ranges of main, in order, none overlapping another: at most [`MOST_AREAS`], together at most [`MOST_SECTORS`].
        areas: Vec<Extent>,
    },
    /// Record what the engine sees.
    #[serde(rename = "io.remap_guardian.Record")]
    Record {
        /// What to do.
        order: RecordOrder,
    },
    /// Read the policies anew.
    #[serde(rename = "io.remap_guardian.Reload")]
    Reload,
    /// Move what spares serve of a range back to main.
    #[serde(rename = "io.remap_guardian.Unremap")]
    Unremap {
        /// The set.
        name: SetName,
        /// The range on main; all of it without one.
        extent: Option<Extent>,
    },
    /// Move a range to the spare.
    #[serde(rename = "io.remap_guardian.Remap")]
    Remap {
        /// The set.
        name: SetName,
        /// The range on main.
        extent: Extent,
    },
}

/// What is to be done about a set's scrub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScrubOrder {
    /// Begin, or go on with one that was stopped.
    Begin,
    /// Begin at the first sector.
    Anew,
    /// Stop.
    Stop,
    /// Only tell how far it is.
    Look,
}

/// What is to be done about a recording. One that nobody asks for its lines ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordOrder {
    /// Begin one.
    Begin,
    /// Tell what it has seen since.
    More(u64),
    /// End it.
    End(u64),
}

/// The daemon's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Reply {
    /// It went wrong.
    Error(Failure),
    /// It went well.
    Ok {
        /// The answer, by request.
        parameters: serde_json::Value,
    },
}

/// An error reply.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// `io.remap_guardian.Failed`.
    pub error: String,
    /// What happened and what to do.
    pub parameters: Reason,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reason {
    /// What is wrong; names the input.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

impl Reason {
    /// A reason with the next step.
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Reason {
        Reason { message: message.into(), hint: Some(hint.into()) }
    }
}

impl From<String> for Reason {
    fn from(message: String) -> Reason {
        Reason { message, hint: None }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  next: {hint}"),
            None => Ok(()),
        }
    }
}

impl From<Result<serde_json::Value, Reason>> for Reply {
    fn from(result: Result<serde_json::Value, Reason>) -> Reply {
        match result {
            Ok(parameters) => Reply::Ok { parameters },
            Err(parameters) => Reply::Error(Failure { error: "io.remap_guardian.Failed".into(), parameters }),
        }
    }
}

/// Answer to `Status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Version of the daemon; empty when it does not run.
    pub daemon: String,
    /// The policy for sets that no other policy asks for.
    pub policy: String,
    /// Every known set.
    pub sets: Vec<SetReport>,
}

/// One set in a status report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetReport {
    /// Its name.
    pub name: SetName,
    /// Its identity.
    pub id: String,
    /// `open`, or why it is not.
    pub state: String,
    /// The kernel's names of its whole disks, main's first; empty when it is not open.
    #[serde(default)]
    pub disks: Vec<String>,
    /// Main, in words.
    pub main: String,
    /// Spares, in words.
    pub spares: Vec<String>,
    /// The daemon's view, when open.
    pub status: Option<SetStatus>,
    /// The policy in force, when open.
    #[serde(default)]
    pub policy: Option<InForce>,
    /// The scrub, if there has been one.
    #[serde(default)]
    pub scrub: Option<ScrubProgress>,
    /// The kernel's view, when open.
    pub target: Option<TargetReport>,
    /// The allocator's view, per spare.
    pub usage: Vec<Usage>,
}

/// A policy that is in force for a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    /// Its name.
    pub name: String,
    /// Why it is this one, in words.
    pub why: String,
}

/// The kernel's counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetReport {
    /// `ACTIVE`, `CLOSED`, `EXPIRED`.
    pub state: String,
    /// Live remaps.
    pub remaps: u64,
    /// Errors counted.
    pub errors: u64,
    /// Pieces of writes that wait.
    pub held: u64,
}

impl From<TargetStatus> for TargetReport {
    fn from(status: TargetStatus) -> TargetReport {
        TargetReport { state: status.state, remaps: status.remaps, errors: status.errors, held: status.held }
    }
}

/// Answer to `History`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryReport {
    /// Oldest first.
    pub entries: Vec<Entry>,
}

/// Answer to `News`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewsReport {
    /// Entries after the one that was asked for, oldest first, at most 1000.
    pub entries: Vec<Entry>,
    /// The number to ask with next.
    pub last: u64,
}

/// Answer to `Scrub`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScrubReport {
    /// How far it is; none if there has been none.
    pub scrub: Option<ScrubProgress>,
}

/// Answer to `Smart`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SmartReport {
    /// The disks of the open sets, main's first.
    pub disks: Vec<DiskReport>,
}

/// One disk in a SMART report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskReport {
    /// The set.
    pub set: SetName,
    /// What it is to the set.
    pub member: Member,
    /// The kernel's name of the whole disk.
    pub disk: String,
    /// The last reading in one line, or why there is none.
    pub reading: String,
    /// Places that the drive calls bad.
    pub calls_bad: Vec<Named>,
    /// When its self-tests were last started by the daemon.
    pub tests: TestTimes,
    /// What it counted, oldest first.
    pub samples: Vec<Sample>,
}

/// A place that a drive names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Logical block of the drive, as it counts them.
    pub lba: u64,
    /// The log that names it, in words.
    pub log: String,
}

/// Answer to `Map`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MapReport {
    /// Size of the device.
    pub sectors: Sectors,
    /// All of it, in order.
    pub areas: Vec<Area>,
}

/// Answer to `ImportMap`, in blocks of the set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportReport {
    /// Blocks on main that the map calls bad.
    pub blocks: u64,
    /// Those of them that do not read.
    pub bad_blocks: u64,
    /// Others that a spare serves already.
    pub on_spare: u64,
}

/// Answer to `Record`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordReport {
    /// Number of the recording.
    pub recording: u64,
    /// Lines of the trace, in order.
    pub lines: Vec<String>,
    /// How many lines were lost, if this many were.
    pub lost: u64,
}

/// Answer to `Create`, `Prune`, `Restore`, `Rebuild`, `Degrade`, `Forget`, `Reload` and `Remap`: lines for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Said {
    /// What was done.
    pub lines: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_varlink_form() {
        let text = serde_json::to_string(&Request::Status { name: None }).unwrap();
        assert_eq!(text, r#"{"method":"io.remap_guardian.Status","parameters":{"name":null}}"#);
        let request: Request = serde_json::from_str(
            r#"{"method":"io.remap_guardian.Remap","parameters":{"name":"d","extent":{"start":8,"len":8}}}"#,
        )
        .unwrap();
        assert!(matches!(request, Request::Remap { .. }));
    }

    #[test]
    fn replies_are_told_apart() {
        let failed: Reply = Err::<serde_json::Value, _>(Reason::new("no", "try")).into();
        for reply in [failed, Ok::<_, Reason>(serde_json::json!({"lines": []})).into()] {
            let text = serde_json::to_string(&reply).unwrap();
            assert_eq!(serde_json::from_str::<Reply>(&text).unwrap(), reply);
        }
    }
}
