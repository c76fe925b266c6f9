//! Finds the files of a policy and merges them: later directories override single keys of earlier ones.

use super::file::Policy;
use std::path::{Path, PathBuf};

/// A policy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// No file of that name.
    #[error("there is no policy “{name}”: looked for {}", .looked.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(" and "))]
    Missing {
        /// The name asked for.
        name: String,
        /// Paths tried.
        looked: Vec<PathBuf>,
    },
    /// A file that cannot be read, or says something wrong.
    #[error("{}: {message}", .path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, with line and column where known.
        message: String,
    },
}

/// Loads policy `name` from `dirs`, lowest priority first (`/usr/lib/remap-guardian/policies`, `/etc/remap-guardian/policies`).
pub fn load(name: &str, dirs: &[PathBuf]) -> Result<Policy, PolicyError> {
    let looked: Vec<PathBuf> = dirs.iter().map(|dir| dir.join(format!("{name}.toml"))).collect();
    let plain = !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-".contains(&c));
    let found: Vec<&PathBuf> = looked.iter().filter(|path| plain && path.exists()).collect();
    let Some(last) = found.last() else {
        return Err(PolicyError::Missing { name: name.into(), looked });
    };
    let mut builder = config::Config::builder();
    for path in &found {
        builder = builder.add_source(config::File::from_str(&read_fragment(path)?, config::FileFormat::Toml));
    }
    let bad = |message: String| PolicyError::Bad { path: last.to_path_buf(), message };
    let merged = builder.build().map_err(|error| bad(error.to_string()))?;
    // By way of TOML's own types, whose errors name what is allowed.
    let merged: toml::Table = merged.try_deserialize().map_err(|error| bad(error.to_string()))?;
    let mut policy: Policy =
        merged.try_into().map_err(|error: toml::de::Error| bad(error.to_string().replace('\n', " ").trim().into()))?;
    policy.name = name.into();
    policy.check().map_err(bad)?;
    Ok(policy)
}

/// One file's text, after its syntax was checked with positions.
fn read_fragment(path: &Path) -> Result<String, PolicyError> {
    let bad = |message: String| PolicyError::Bad { path: path.to_path_buf(), message };
    let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
    toml::from_str::<toml::Table>(&text).map_err(|error| bad(error.to_string()))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Action;

    fn shipped() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("policies")
    }

    #[test]
    fn every_shipped_policy_loads() {
        for entry in std::fs::read_dir(shipped()).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            load(name, &[shipped()]).unwrap_or_else(|error| panic!("{error}"));
        }
    }

    #[test]
    fn a_later_directory_overrides_single_keys() {
        let etc = tempfile::tempdir().unwrap();
        std::fs::write(etc.path().join("balanced.toml"), "[write_error]\naction = \"observe\"\n").unwrap();
        let policy = load("balanced", &[shipped(), etc.path().into()]).unwrap();
        assert_eq!(policy.write_error.action, Action::Observe);
        assert_eq!(policy.spending.blocks_per_hour, 2048);
    }

    #[test]
    fn mistakes_name_the_file_and_the_key() {
        let etc = tempfile::tempdir().unwrap();
        for (text, expected) in [
            ("[write_error]\nactoin = \"remap\"\n", "actoin"),
            ("[write_error\n", "line 1"),
            ("[write_error]\nclasses = [\"timeout\"]\n", "timeout"),
            ("[spare]\nalert_percent = [0]\n", "alert_percent"),
            ("[spending]\nblocks_per_hour = -1\n", "blocks_per_hour"),
        ] {
            std::fs::write(etc.path().join("balanced.toml"), text).unwrap();
            let error = load("balanced", &[shipped(), etc.path().into()]).unwrap_err().to_string();
            assert!(error.contains("balanced.toml") && error.contains(expected), "{text:?} gave {error}");
        }
        for name in ["nonesuch", "../balanced", ""] {
            assert!(matches!(load(name, &[shipped()]), Err(PolicyError::Missing { .. })), "{name}");
        }
    }
}
