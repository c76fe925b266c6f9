//! Settings of the daemon: `/usr/lib/remap-guardian/config.toml` < `/etc/remap-guardian/config.toml` <
//! `/etc/remap-guardian/config.d/*.toml` < `REMAP_GUARDIAN_…` in the environment. Every key has a default.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// All settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where the store lives.
    pub state_dir: PathBuf,
    /// Where the control socket lives.
    pub run_dir: PathBuf,
    /// Name of the policy in force.
    pub policy: String,
    /// Directories of policies, lowest priority first.
    pub policy_dirs: Vec<PathBuf>,
    /// How long a failed write waits for its cure, ms, 100 to 15000.
    pub hold_ms: u64,
    /// How long I/O waits for a device to be opened at boot, ms, 1000 to 600000.
    pub closed_ms: u64,
    /// How long the kernel trusts a silent daemon to cure what it holds, ms, 2000 to 60000.
    pub lease_ms: u64,
    /// Time between SMART readings, minutes, 1 to 10080.
    pub smart_minutes: u64,
    /// History older than this is pruned, days, 1 to 36500. The newest 1000 entries stay, and up to a tenth more time is given.
    pub history_days: u64,
    /// Entries of history that are kept, 1000 to 10000000; the oldest are pruned when there are a tenth more. One takes about 1 KB.
    pub history_entries: u64,
    /// What the daemon logs: error, warn, info, debug, trace, or a filter of the `tracing` crate.
    pub log: String,
    /// Loop devices can be members, recognised by their file. For trials and tests only: a file can be copied or replaced.
    pub loop_members: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            state_dir: "/var/lib/remap-guardian".into(),
            run_dir: "/run/remap-guardian".into(),
            policy: "balanced".into(),
            policy_dirs: vec!["/usr/lib/remap-guardian/policies".into(), "/etc/remap-guardian/policies".into()],
            hold_ms: 10_000,
            closed_ms: 90_000,
            lease_ms: 5_000,
            smart_minutes: 30,
            history_days: 3 * 365,
            history_entries: 100_000,
            log: "info".into(),
            loop_members: false,
        }
    }
}

/// What `notify` tells its command in the environment. The command may well call `remap-guardian`, for which these are no settings.
pub const TOLD: [&str; 3] = ["REMAP_GUARDIAN_SET", "REMAP_GUARDIAN_URGENCY", "REMAP_GUARDIAN_SENTENCE"];

/// Settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("settings: {0}")]
pub struct SettingsError(String);

impl Settings {
    /// Reads all layers below `root` (`/` outside tests) and the environment.
    pub fn load(root: &Path) -> Result<Settings, SettingsError> {
        let mut files = vec![root.join("usr/lib/remap-guardian/config.toml"), root.join("etc/remap-guardian/config.toml")];
        files.extend(drop_ins(&root.join("etc/remap-guardian/config.d")));
        let mut builder = config::Config::builder();
        for file in files.into_iter().filter(|file| file.exists()) {
            // Each for itself first: the merged whole no longer knows which file a mistake is in.
            let bad = |error: &dyn std::fmt::Display| SettingsError(format!("{}: {error}", file.display()));
            let text = std::fs::read_to_string(&file).map_err(|error| bad(&error))?;
            toml::from_str::<Settings>(&text).map_err(|error| bad(&error.to_string().trim_end()))?;
            builder = builder.add_source(config::File::from(file));
        }
        let variables = std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
        let settings = variables.filter(|(key, _)| !TOLD.contains(&key.as_str())).collect();
        builder = builder.add_source(
            config::Environment::with_prefix("REMAP_GUARDIAN")
                .source(Some(settings))
                .try_parsing(true)
                .list_separator(":")
                .with_list_parse_key("policy_dirs"),
        );
        let settings: Settings =
            builder.build().and_then(config::Config::try_deserialize).map_err(|error| in_environment(&error))?;
        settings.check().map_err(SettingsError)?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), String> {
        for (key, value, least, most) in [
            ("hold_ms", self.hold_ms, 100, 15_000),
            ("closed_ms", self.closed_ms, 1_000, 600_000),
            ("lease_ms", self.lease_ms, 2_000, 60_000),
            ("smart_minutes", self.smart_minutes, 1, 10_080),
            ("history_days", self.history_days, 1, 36_500),
            ("history_entries", self.history_entries, 1_000, 10_000_000),
        ] {
            if value < least || value > most {
                return Err(format!("{key} = {value} is not within {least} to {most}"));
            }
        }
        Ok(())
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("control")
    }

    /// The sled store.
    pub fn store(&self) -> PathBuf {
        self.state_dir.join("store")
    }
}

/// The files have been looked at one by one.
fn in_environment(error: &config::ConfigError) -> SettingsError {
    let text = error.to_string();
    let place = if text.contains("environment") { "" } else { " (a variable REMAP_GUARDIAN_… in the environment)" };
    SettingsError(text + place)
}

fn drop_ins(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|p| p.extension().is_some_and(|e| e == "toml"))
        .collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_override_in_order_and_mistakes_are_named() {
        let root = tempfile::tempdir().unwrap();
        let etc = root.path().join("etc/remap-guardian");
        std::fs::create_dir_all(etc.join("config.d")).unwrap();
        assert_eq!(Settings::load(root.path()).unwrap(), Settings::default());
        std::fs::write(etc.join("config.toml"), "hold_ms = 5000\nlease_ms = 3000\n").unwrap();
        std::fs::write(etc.join("config.d/10-a.toml"), "hold_ms = 6000\n").unwrap();
        let settings = Settings::load(root.path()).unwrap();
        assert_eq!((settings.hold_ms, settings.lease_ms), (6000, 3000));
        std::fs::write(etc.join("config.d/20-b.toml"), "hold_ms = 99\n").unwrap();
        assert!(Settings::load(root.path()).unwrap_err().to_string().contains("hold_ms = 99"));
        std::fs::write(etc.join("config.d/20-b.toml"), "hodl_ms = 1000\n").unwrap();
        assert!(Settings::load(root.path()).unwrap_err().to_string().contains("hodl_ms"));
    }
}
