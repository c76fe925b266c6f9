//! The list of main devices, by which udev keeps a raw main from being mounted by accident.
//!
//! Main carries no mark of ours, so a udev rule cannot see what it is; the spares' headers tell the daemon, and the daemon tells
//! udev by this list. It is kept in `/etc`, beside what mounts file systems: it must be readable before anything is mounted, and
//! goes into the initramfs as it is. Only the daemon writes it; what the disks say is written over what it says.

use crate::edge::FoundDevice;
use crate::model::{Identity, SetDescription, SetId, SetName};
use crate::sources::tool::run;
use serde::{Deserialize, Serialize};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Where the list is.
pub const LIST: &str = "/etc/remap-guardian/mains.toml";

const HEAD: &str = "\
# The main devices of the sets that this machine knows. udev names no file system on them: they are used
# through /dev/mapper/<name> only. Written by remap-guardian; “remap-guardian forget NAME” takes an entry out.
";

/// How long udev may take to work through the events that a change of the list makes.
const SETTLE: Duration = Duration::from_secs(20);

/// One change of the list at a time.
static WRITER: Mutex<()> = Mutex::new(());

/// A main device, with the set that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shielded {
    /// Name of the set.
    pub name: SetName,
    /// The set.
    pub set: SetId,
    /// The device.
    pub main: Identity,
}

impl Shielded {
    /// Whether the device is this main, or a partition of it. Its size does not count: a main that was resized opens no more, but
    /// is no more to be mounted than before.
    pub fn is(&self, found: &Identity) -> bool {
        let main = &self.main;
        if !main.partition.is_empty() && main.partition != found.partition {
            return false;
        }
        let pairs = [(&main.serial, &found.serial), (&main.wwn, &found.wwn)];
        let differ = pairs.iter().any(|(ours, theirs)| !ours.is_empty() && !theirs.is_empty() && ours != theirs);
        let same = !main.partition.is_empty() || pairs.iter().any(|(ours, theirs)| !ours.is_empty() && ours == theirs);
        same && !differ
    }
}

#[derive(Default, Serialize, Deserialize)]
struct List {
    #[serde(default)]
    main: Vec<Shielded>,
}

/// Reads the list; where there is none, nothing is shielded.
pub fn read(path: impl AsRef<Path>) -> io::Result<Vec<Shielded>> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let list: List = toml::from_str(&text).map_err(|error| io::Error::new(ErrorKind::InvalidData, error.to_string()))?;
    Ok(list.main)
}

/// Replaces the list in one step.
fn write(path: &Path, main: Vec<Shielded>) -> io::Result<()> {
    let text = toml::to_string(&List { main }).map_err(io::Error::other)?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(dir)?;
    let mut part = PathBuf::from(path).into_os_string();
    part.push(".part");
    let mut file = std::fs::File::create(&part)?;
    file.write_all(HEAD.as_bytes())?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&part, path)?;
    std::fs::File::open(dir)?.sync_all()
}

/// Adds sets to the list, and has udev look again at the devices that are theirs. Nothing happens if they are in it already.
pub fn raise(path: impl AsRef<Path>, sets: &[&SetDescription], devices: &[FoundDevice]) {
    change(path.as_ref(), devices, |list| {
        for set in sets {
            list.retain(|old| old.set != set.id);
            list.push(Shielded { name: set.name.clone(), set: set.id, main: set.main.clone() });
        }
    });
}

/// Takes a set from the list, and has udev look again at the devices that were its main.
pub fn lift(path: impl AsRef<Path>, set: SetId, devices: &[FoundDevice]) {
    change(path.as_ref(), devices, |list| list.retain(|old| old.set != set));
}

fn change(path: &Path, devices: &[FoundDevice], edit: impl FnOnce(&mut Vec<Shielded>)) {
    let _one = WRITER.lock().unwrap_or_else(PoisonError::into_inner);
    let before = read(path).unwrap_or_else(|error| {
        // What the disks say is all there is then.
        tracing::warn!("{}: {error}; it is written anew", path.display());
        Vec::new()
    });
    let mut after = before.clone();
    edit(&mut after);
    after.sort_by_key(|entry| entry.set);
    if after == before {
        return;
    }
    let changed: Vec<&Shielded> = before
        .iter()
        .filter(|entry| !after.contains(entry))
        .chain(after.iter().filter(|entry| !before.contains(entry)))
        .collect();
    let concerned: Vec<&str> = devices
        .iter()
        .filter(|device| changed.iter().any(|entry| entry.is(&device.identity)))
        .map(|device| device.name.as_str())
        .collect();
    if let Err(error) = write(path, after.clone()) {
        return tracing::warn!("{}: {error}: udev still takes a main device for a plain disk", path.display());
    }
    if let Err(error) = look_again(&concerned) {
        tracing::warn!("udev did not look again at {}: {error}", concerned.join(", "));
    }
}

/// Has udev work through its rules again for these devices, and waits for it, so that links are right when this returns.
fn look_again(names: &[&str]) -> Result<(), String> {
    if names.is_empty() || !crate::dm::udev::runs() {
        return Ok(());
    }
    let paths = names.iter().map(|name| format!("/sys/class/block/{name}"));
    let mut command = Command::new("udevadm");
    command.args(["trigger", "--settle", "--action=change"]).args(paths);
    match run(&mut command, SETTLE) {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("udevadm: {}", output.status)),
        Err(why) => Err(format!("udevadm {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Millis, Secret, Sectors};

    fn identity(serial: &str, wwn: &str, partition: &str) -> Identity {
        let text = str::to_owned;
        Identity { serial: text(serial), wwn: text(wwn), partition: text(partition), sectors: Sectors(64), ..Identity::default() }
    }

    fn set(id: u128, main: Identity) -> SetDescription {
        SetDescription {
            id: SetId(uuid::Uuid::from_u128(id)),
            name: SetName::new(format!("s{id}")).unwrap(),
            main,
            spares: Vec::new(),
            secret: Secret([7; 16]),
            geometry: Vec::new(),
            created: Millis(0),
        }
    }

    #[test]
    fn a_main_is_known_whatever_its_size() {
        let of = |main: Identity| Shielded { name: SetName::new("data").unwrap(), set: SetId(uuid::Uuid::nil()), main };
        let whole = of(identity("S1", "W1", ""));
        assert!(whole.is(&identity("S1", "W1", "")) && whole.is(&identity("S1", "W1", "p-1")), "its partitions too");
        assert!(whole.is(&Identity { sectors: Sectors(65), ..identity("S1", "W1", "") }), "it was resized");
        assert!(whole.is(&identity("S1", "", "")), "its WWN is not known yet");
        assert!(!whole.is(&identity("S1", "W2", "")), "another namespace of the drive");
        assert!(!whole.is(&identity("S2", "", "")) && !whole.is(&identity("", "", "")));
        let part = of(identity("S1", "", "p-1"));
        assert!(
            part.is(&identity("S1", "W1", "p-1")) && !part.is(&identity("S1", "W1", "")) && !part.is(&identity("S1", "", "p-2"))
        );
    }

    #[test]
    fn the_list_is_kept_and_holds_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/mains.toml");
        assert_eq!(read(&path).unwrap(), []);
        let (one, two) = (set(1, identity("S1", "", "")), set(2, identity("S2", "", "p")));
        raise(&path, &[&two, &one], &[]);
        raise(&path, &[&one], &[]);
        let list = read(&path).unwrap();
        assert_eq!(list.iter().map(|entry| entry.set).collect::<Vec<_>>(), [one.id, two.id]);
        assert_eq!(list[1].main, two.main);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# The main devices") && !text.contains("secret") && !text.contains("7, 7"), "{text}");
        lift(&path, one.id, &[]);
        assert_eq!(read(&path).unwrap().len(), 1);
        std::fs::write(&path, "main = 3").unwrap();
        assert!(read(&path).is_err());
        raise(&path, &[&one], &[]);
        assert_eq!(read(&path).unwrap().len(), 1, "written anew from what the disks say");
    }
}
