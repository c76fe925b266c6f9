//! Verbs that change a device.

use super::print_done;
use crate::dm::change::{self, Load};
use crate::dm::{Info, Mapper, Name, Table, Uuid};
use anyhow::Context;
use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::process::ExitCode;

/// Where a table comes from.
#[derive(Debug, clap::Args)]
struct TableSource {
    /// A file that holds the table; without it and --table it is read from standard input
    #[arg(value_name = "FILE", conflicts_with = "table")]
    file: Option<PathBuf>,
    /// A line of the table; repeat for more. Everybody can see it in the list of processes: no place for a key
    #[arg(long, value_name = "LINE")]
    table: Vec<String>,
}

impl TableSource {
    fn read(&self) -> anyhow::Result<Table> {
        let mut bytes = Vec::new();
        let from = match &self.file {
            _ if !self.table.is_empty() => return Ok(self.table.join("\n").parse::<Table>().map_err(crate::dm::Error::from)?),
            Some(file) => {
                bytes = std::fs::read(file).with_context(|| format!("the table {}", file.display()))?;
                file.display().to_string()
            }
            None => {
                let mut input = std::io::stdin().lock();
                anyhow::ensure!(!input.is_terminal(), "no table was given\n  next: use --table, a file, or standard input");
                input.read_to_end(&mut bytes).context("the table from standard input")?;
                "standard input".into()
            }
        };
        let text = String::from_utf8(bytes).with_context(|| format!("{from} is no table"))?;
        text.parse().with_context(|| from)
    }
}

/// Options of `dm create`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A table has lines START LENGTH TARGET PARAMETERS; start and length are sectors of 512 bytes. /dev/mapper/NAME is there
when this returns, with --notable only after a table was put into force; if it fails, no device is left.

Examples:
  remap-guardian dm create part --table '0 2048 linear /dev/sdb 4096'
  remap-guardian dm create two --uuid MINE-1 --table '0 8 linear /dev/sdb 0' --table '8 8 error'
  remap-guardian dm table part | remap-guardian dm create copy --read-only
  remap-guardian dm create later --notable")]
pub struct Create {
    /// Name of the device
    name: Name,
    #[command(flatten)]
    table: TableSource,
    /// Make it without a table: “dm reload” gives it one
    #[arg(long, conflicts_with_all = ["file", "table"])]
    notable: bool,
    /// Its UUID, up to 128 characters; made up if none is given
    #[arg(long)]
    uuid: Option<Uuid>,
    /// Nobody may write to it
    #[arg(long, alias = "readonly")]
    read_only: bool,
}

impl Create {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<ExitCode> {
        let table = if self.notable { None } else { Some(self.table.read()?) };
        let info = Mapper::new()?.create(&self.name, self.uuid.as_ref(), table.as_ref(), self.read_only)?;
        let without = if self.notable { ", without a table" } else { "" };
        let path = if self.notable { "" } else { "/dev/mapper/" };
        print_done(json, &format!("{path}{} is {}:{}{without}", self.name, info.major, info.minor), &info)
    }
}

/// Options of `dm reload`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
I/O waits while the tables change places. If the new table cannot be put into force, the old one stays. A device that is
suspended gets its table with the next resume; --inactive is like “dmsetup reload”.

Examples:
  remap-guardian dm reload part --table '0 4096 linear /dev/sdb 4096'
  remap-guardian dm reload part --inactive /root/table")]
pub struct Reload {
    /// The device
    device: String,
    #[command(flatten)]
    table: TableSource,
    /// Only load it; “dm resume” puts it into force
    #[arg(long)]
    inactive: bool,
    /// Nobody may write to the device
    #[arg(long, alias = "readonly")]
    read_only: bool,
}

impl Reload {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<ExitCode> {
        let mapper = Mapper::new()?;
        let name = mapper.find(&self.device)?;
        let how = Load { read_only: self.read_only, inactive: self.inactive };
        let info = mapper.reload(&name, &self.table.read()?, how)?;
        let sentence = match info.inactive_table {
            true => format!("{name} has a new table that is not in force yet: remap-guardian dm resume {name}"),
            false => format!("{name} has its new table"),
        };
        print_done(json, &sentence, &info)
    }
}

/// Options of `dm rename`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A device that has a UUID keeps it for its life.

Examples:
  remap-guardian dm rename part whole
  remap-guardian dm rename part --new-uuid MINE-2")]
pub struct Rename {
    /// The device
    device: String,
    /// Its new name
    #[arg(required_unless_present = "new_uuid")]
    new: Option<Name>,
    /// The UUID of a device that has none
    #[arg(long, value_name = "UUID")]
    new_uuid: Option<Uuid>,
}

impl Rename {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<ExitCode> {
        let mapper = Mapper::new()?;
        let name = mapper.find(&self.device)?;
        let info = mapper.rename(&name, self.new.as_ref(), self.new_uuid.as_ref())?;
        let uuid = self.new_uuid.as_ref().map(|uuid| format!(", with UUID {uuid}")).unwrap_or_default();
        print_done(json, &format!("{name} is now {}{uuid}", info.name), &info)
    }
}

/// Options of `dm remove`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  remap-guardian dm remove part")]
pub struct Remove {
    /// The device
    device: String,
}

impl Remove {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<ExitCode> {
        let mapper = Mapper::new()?;
        let name = mapper.find(&self.device)?;
        mapper.remove(&name)?;
        print_done(json, &format!("{name} has gone"), &Info::missing(&name))
    }
}

/// Options of `dm suspend`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
I/O that is under way is done first, and a file system on the device is frozen. Whoever uses the device then waits until
“dm resume”.

Examples:
  remap-guardian dm suspend part
  remap-guardian dm suspend part --noflush --nolockfs")]
pub struct Suspend {
    /// The device
    device: String,
    /// Do not wait for I/O that is under way
    #[arg(long)]
    noflush: bool,
    /// Do not freeze a file system
    #[arg(long)]
    nolockfs: bool,
}

impl Suspend {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<ExitCode> {
        let mapper = Mapper::new()?;
        let name = mapper.find(&self.device)?;
        let how = change::Suspend { no_flush: self.noflush, no_lockfs: self.nolockfs };
        let info = mapper.suspend(&name, how)?;
        print_done(json, &format!("{name} is suspended: I/O to it waits"), &info)
    }
}

/// Options of `dm resume`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  remap-guardian dm resume part")]
pub struct Resume {
    /// The device
    device: String,
}

impl Resume {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<ExitCode> {
        let mapper = Mapper::new()?;
        let name = mapper.find(&self.device)?;
        let info = mapper.resume(&name)?;
        print_done(json, &format!("{name} goes on"), &info)
    }
}

/// Options of `dm message`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The reply of the target, if there is one, is printed.

Examples:
  remap-guardian dm message pool 0 create_thin 0
  remap-guardian dm message data 0 health")]
pub struct Message {
    /// The device
    device: String,
    /// A sector of the target that is meant
    sector: u64,
    /// The message, in one word or several
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    message: Vec<String>,
}

#[derive(serde::Serialize)]
struct Reply<'a> {
    name: &'a Name,
    reply: Option<String>,
}

impl Message {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<ExitCode> {
        use std::io::Write;
        let mapper = Mapper::new()?;
        let name = mapper.find(&self.device)?;
        let reply = mapper.message(&name, self.sector, &self.message.join(" "))?;
        if json {
            super::print_json(&Reply { name: &name, reply })?;
        } else if let Some(reply) = reply {
            writeln!(std::io::stdout().lock(), "{}", reply.trim_end_matches('\n'))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
