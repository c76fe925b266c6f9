//! Verbs that only look.

use super::{chosen, print_json};
use crate::cli::text::table;
use crate::dm::{Error, Line, Mapper, Name, Status as Said, backing, look};
use comfy_table::ContentArrangement;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// What a device has; in a list of all, nothing if it has gone meanwhile.
fn of_all<T>(all: bool, answer: Result<Vec<T>, Error>) -> Result<Vec<T>, Error> {
    answer.or_else(|error| skipped(all, error).map(Option::unwrap_or_default))
}

/// Passes over a device in a list of all where nothing can be told of it.
fn skipped<T>(all: bool, error: Error) -> Result<Option<T>, Error> {
    match error {
        Error::Missing(_) if all => Ok(None),
        Error::NotAscii(_) if all => {
            tracing::warn!("{error}");
            Ok(None)
        }
        error => Err(error),
    }
}

/// Prints rows below a header, aligned; a row is never broken.
fn print_table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> anyhow::Result<()> {
    let mut shown = table(header);
    shown.set_content_arrangement(ContentArrangement::Disabled);
    shown.add_rows(rows);
    writeln!(std::io::stdout().lock(), "{}", shown.trim_fmt())?;
    Ok(())
}

/// Options of `dm table`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What is printed for one device is a table again: “dm create” and “dm reload” take it. Keys of encryption are shown as
zeros, which is no table to load.

Examples:
  remap-guardian dm table
  remap-guardian dm table part > /root/table
  remap-guardian dm table secret --show-keys --json")]
pub struct Table {
    /// Only this device
    device: Option<String>,
    /// The table that waits for the next resume
    #[arg(long)]
    inactive: bool,
    /// Show keys
    #[arg(long, alias = "showkeys")]
    show_keys: bool,
}

#[derive(serde::Serialize)]
struct TableRow<'a> {
    name: &'a Name,
    start: u64,
    length: u64,
    target: &'a str,
    params: String,
    fields: &'a crate::dm::Target,
}

impl Table {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<ExitCode> {
        let mapper = Mapper::new()?;
        let mut rows = Vec::new();
        for name in chosen(&mapper, self.device.as_ref())? {
            for mut line in of_all(self.device.is_none(), mapper.table(&name, self.inactive))? {
                if !self.show_keys {
                    line.target.hide_keys();
                }
                if json {
                    let Line { start, length, target } = &line;
                    let (kind, params) = (target.kind(), target.to_string());
                    print_json(&TableRow { name: &name, start: *start, length: *length, target: kind, params, fields: target })?;
                } else {
                    rows.push((name.to_string(), line));
                }
            }
        }
        if json {
            return Ok(ExitCode::SUCCESS);
        }
        let one = |line: &Line| {
            vec![line.start.to_string(), line.length.to_string(), line.target.kind().to_owned(), line.target.to_string()]
        };
        if self.device.is_some() {
            // The header is a comment to who reads the table.
            print_table(&["# start", "length", "target", "parameters"], rows.iter().map(|(_, line)| one(line)))?;
        } else {
            let named = |(name, line): &(String, Line)| std::iter::once(name.clone()).chain(one(line)).collect();
            print_table(&["name", "start", "length", "target", "parameters"], rows.iter().map(named))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Options of `dm status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The fields of thin, thin-pool, cache and dm-remap-v4 are shown by name when one device is asked for, and with --json.

Examples:
  remap-guardian dm status
  remap-guardian dm status pool --noflush --json")]
pub struct Status {
    /// Only this device
    device: Option<String>,
    /// Do not let targets write their metadata first
    #[arg(long)]
    noflush: bool,
}

#[derive(serde::Serialize)]
struct StatusRow<'a> {
    name: &'a Name,
    start: u64,
    length: u64,
    target: &'a str,
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    fields: Option<Said>,
}

impl Status {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<ExitCode> {
        let mapper = Mapper::new()?;
        let (mut rows, mut details) = (Vec::new(), Vec::new());
        for name in chosen(&mapper, self.device.as_ref())? {
            for (start, length, target, status) in of_all(self.device.is_none(), mapper.status(&name, self.noflush))? {
                let status = status.trim_end();
                // What a later kernel says in another way is still shown as it is.
                let fields = Said::parse(&target, status).and_then(Result::ok);
                if json {
                    print_json(&StatusRow { name: &name, start, length, target: &target, status, fields })?;
                    continue;
                }
                details.extend(fields.map(|fields| (format!("{target} at sector {start}"), fields)));
                rows.push(vec![name.to_string(), start.to_string(), length.to_string(), target, status.to_owned()]);
            }
        }
        if !json {
            print_table(&["name", "start", "length", "target", "status"], rows)?;
        }
        if self.device.is_some() {
            for (title, fields) in details {
                print_fields(&title, &fields)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints what a value has by name, one row each.
fn print_fields(title: &str, value: &impl serde::Serialize) -> anyhow::Result<()> {
    let value = serde_json::to_value(value)?;
    let shown = |value: &serde_json::Value| match value {
        serde_json::Value::Null => "-".to_owned(),
        serde_json::Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Array(words) => {
            words.iter().map(|word| word.as_str().map_or_else(|| word.to_string(), str::to_owned)).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    };
    let fields = value.as_object().into_iter().flatten();
    let rows = fields.map(|(name, value)| vec![format!("  {}", name.replace('_', " ")), shown(value)]);
    writeln!(std::io::stdout().lock(), "\n{title}:")?;
    print_table(&[], rows)
}

/// Options of `dm info`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status: 2 if there is no such device.

Examples:
  remap-guardian dm info part
  remap-guardian dm info --json | jq 'select(.suspended) | .name'")]
pub struct Info {
    /// Only this device
    device: Option<String>,
}

impl Info {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<ExitCode> {
        let mapper = Mapper::new()?;
        let mut all_there = true;
        for (n, name) in (0..).zip(chosen(&mapper, self.device.as_ref())?) {
            let info = match mapper.info(&name) {
                Err(Error::Missing(_)) if self.device.is_some() => look::Info::missing(&name),
                other => match other.map(Some).or_else(|error| skipped(self.device.is_none(), error))? {
                    Some(info) => info,
                    None => continue,
                },
            };
            all_there &= info.exists;
            if json {
                print_json(&info)?;
                continue;
            }
            if n > 0 {
                writeln!(std::io::stdout().lock())?;
            }
            print_info(&info)?;
        }
        Ok(if all_there { ExitCode::SUCCESS } else { ExitCode::from(2) })
    }
}

fn print_info(info: &look::Info) -> anyhow::Result<()> {
    let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let mut rows = vec![("name", info.name.to_string()), ("exists", yes(info.exists))];
    if info.exists {
        rows.extend([
            ("uuid", info.uuid.as_ref().map_or_else(|| "-".into(), ToString::to_string)),
            ("suspended", yes(info.suspended)),
            ("live table", yes(info.live_table)),
            ("inactive table", yes(info.inactive_table)),
            ("open count", info.open_count.to_string()),
            ("event number", info.event_nr.to_string()),
            ("major", info.major.to_string()),
            ("minor", info.minor.to_string()),
            ("read only", yes(info.read_only)),
            ("targets", info.target_count.to_string()),
        ]);
    }
    print_table(&[], rows.into_iter().map(|(what, value)| vec![what.to_owned(), value]))
}

/// Options of `dm list`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  remap-guardian dm list
  remap-guardian dm list --json | jq -r .name")]
pub struct List {}

impl List {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<ExitCode> {
        let mut devices = Mapper::new()?.list()?;
        devices.sort_by(|a, b| a.name.cmp(&b.name));
        if json {
            devices.iter().try_for_each(print_json)?;
            return Ok(ExitCode::SUCCESS);
        }
        if devices.is_empty() {
            writeln!(std::io::stdout().lock(), "there are no device-mapper devices")?;
            return Ok(ExitCode::SUCCESS);
        }
        let rows = devices.iter().map(|device| {
            let event = device.event_nr.map_or_else(|| "-".into(), |nr| nr.to_string());
            vec![device.name.to_string(), format!("{}:{}", device.major, device.minor), event]
        });
        print_table(&["name", "device", "event number"], rows)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Options of `dm exists`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status: 0 if it exists, 2 if not.

Example:
  remap-guardian dm exists part || remap-guardian dm create part /root/table")]
pub struct Exists {
    /// The device
    device: String,
}

impl Exists {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<ExitCode> {
        #[derive(serde::Serialize)]
        struct Answer<'a> {
            name: &'a str,
            exists: bool,
        }
        let mapper = Mapper::new()?;
        let name = mapper.find(&self.device)?;
        let exists = mapper.exists(&name)?;
        super::print_done(json, if exists { "yes" } else { "no" }, &Answer { name: name.as_str(), exists })?;
        Ok(if exists { ExitCode::SUCCESS } else { ExitCode::from(2) })
    }
}

/// Options of `dm deps`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  remap-guardian dm deps
  remap-guardian dm deps part --json | jq -r .device")]
pub struct Deps {
    /// Only this device
    device: Option<String>,
}

#[derive(serde::Serialize)]
struct Dep<'a> {
    name: &'a Name,
    major: u32,
    minor: u32,
    /// The kernel's name, and device-mapper's where it has one.
    device: Option<String>,
    mapped: Option<String>,
}

impl Deps {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<ExitCode> {
        let mapper = Mapper::new()?;
        let mut rows = Vec::new();
        for name in chosen(&mapper, self.device.as_ref())? {
            for devno @ (major, minor) in of_all(self.device.is_none(), mapper.deps(&name))? {
                let (device, mapped) = (backing::kernel_name(devno), backing::mapped_name(devno));
                if json {
                    print_json(&Dep { name: &name, major, minor, device, mapped })?;
                    continue;
                }
                let mapped = mapped.map(|mapped| format!(" ({mapped})")).unwrap_or_default();
                let device = device.unwrap_or_else(|| "-".into()) + &mapped;
                rows.push(vec![name.to_string(), format!("{major}:{minor}"), device]);
            }
        }
        if !json {
            print_table(&["name", "stands on", "which is"], rows)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Options of `dm devno`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  remap-guardian dm devno /dev/sdb
  remap-guardian dm devno part")]
pub struct Devno {
    /// A path to any block device, or the name of a device-mapper device
    device: String,
}

impl Devno {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<ExitCode> {
        #[derive(serde::Serialize)]
        struct Answer<'a> {
            device: &'a str,
            major: u32,
            minor: u32,
        }
        let device = self.device.as_str();
        let (major, minor) = if device.contains('/') {
            backing::devno(Path::new(device)).map_err(|why| anyhow::anyhow!("{device}: {why}"))?
        } else {
            let mapper = Mapper::new()?;
            mapper.info(&mapper.find(device)?)?.devno()
        };
        super::print_done(json, &format!("{major}:{minor}"), &Answer { device, major, minor })
    }
}

/// Options of `dm targets`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The kernel loads a target's module when a table needs it: what is not listed may still be there.

Example:
  remap-guardian dm targets")]
pub struct Targets {}

impl Targets {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<ExitCode> {
        let targets = Mapper::new()?.targets()?;
        if json {
            targets.iter().try_for_each(print_json)?;
            return Ok(ExitCode::SUCCESS);
        }
        let rows = targets.iter().map(|target| {
            let (major, minor, patch) = target.version;
            vec![target.name.clone(), format!("v{major}.{minor}.{patch}")]
        });
        print_table(&["target", "version"], rows)?;
        Ok(ExitCode::SUCCESS)
    }
}
