//! Finds the files of a policy and merges them: later ones override single keys of earlier ones.
//!
//! Lowest first: `<dir>/<name>.toml` and then `<dir>/<name>.d/*.toml` in alphabetical order, for each directory
//! (`/usr/lib/remap-guardian/policies`, then `/etc/remap-guardian/policies`).

use super::file::{Fragment, Policy};
use std::collections::BTreeMap;
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

/// A policy, and which file each of its values is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The policy.
    pub policy: Policy,
    /// File by key, with dots: `spending.blocks_per_hour`.
    pub origin: BTreeMap<String, PathBuf>,
    /// All files, lowest first.
    pub files: Vec<PathBuf>,
}

/// Loads policy `name` from `dirs`, lowest priority first.
pub fn load(name: &str, dirs: &[PathBuf]) -> Result<Loaded, PolicyError> {
    let looked: Vec<PathBuf> = dirs.iter().map(|dir| dir.join(format!("{name}.toml"))).collect();
    if !is_name(name) || !looked.iter().any(|path| path.exists()) {
        return Err(PolicyError::Missing { name: name.into(), looked });
    }
    let of_dir = |(dir, main): (&PathBuf, &PathBuf)| {
        let own = main.exists().then(|| main.clone());
        own.into_iter().chain(tomls(&dir.join(format!("{name}.d")))).collect::<Vec<_>>()
    };
    let files: Vec<PathBuf> = dirs.iter().zip(&looked).flat_map(of_dir).collect();
    merge(name, files)
}

/// Can a policy be called so?
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-".contains(&c))
}

/// The `.toml` files of a directory, sorted; none if it is not there. Hidden ones are what editors leave.
pub(super) fn tomls(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries
        .filter(|path| path.extension().is_some_and(|end| end == "toml"))
        .filter(|path| !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")))
        .collect();
    files.sort();
    files
}

fn merge(name: &str, files: Vec<PathBuf>) -> Result<Loaded, PolicyError> {
    let mut builder = config::Config::builder();
    let mut origin = BTreeMap::new();
    for path in &files {
        let (text, table) = read_fragment(path)?;
        for key in leaves(&table) {
            origin.insert(key, path.clone());
        }
        builder = builder.add_source(config::File::from_str(&text, config::FileFormat::Toml));
    }
    let last = files.last().cloned().unwrap_or_default();
    let bad = |message: String| PolicyError::Bad { path: last.clone(), message };
    let merged = builder.build().map_err(|error| bad(error.to_string()))?;
    // By way of TOML's own types, whose errors name what is missing.
    let merged: toml::Table = merged.try_deserialize().map_err(|error| bad(error.to_string()))?;
    let mut policy: Policy = merged.try_into().map_err(|error: toml::de::Error| bad(one_line(&error)))?;
    policy.name = name.into();
    policy.check().map_err(|wrong| PolicyError::Bad {
        path: origin.get(wrong.key).cloned().unwrap_or(last.clone()),
        message: format!("{}: {}", wrong.key, wrong.why),
    })?;
    Ok(Loaded { policy, origin, files })
}

/// One file, after its keys and types were checked with positions.
fn read_fragment(path: &Path) -> Result<(String, toml::Table), PolicyError> {
    let bad = |message: String| PolicyError::Bad { path: path.to_path_buf(), message };
    let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
    toml::from_str::<Fragment>(&text).map_err(|error| bad(error.to_string().trim_end().into()))?;
    let table = toml::from_str::<toml::Table>(&text).map_err(|error| bad(error.to_string()))?;
    Ok((text, table))
}

fn one_line(error: &toml::de::Error) -> String {
    error.to_string().replace('\n', " ").trim().into()
}

/// Keys with dots; an array is one value.
fn leaves(table: &toml::Table) -> Vec<String> {
    let of_entry = |(key, value): (&String, &toml::Value)| match value {
        toml::Value::Table(inner) => leaves(inner).into_iter().map(|below| format!("{key}.{below}")).collect(),
        _ => vec![key.clone()],
    };
    table.iter().flat_map(of_entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Action;

    fn shipped() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("policies")
    }

    fn etc(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn every_shipped_policy_loads_and_says_everything_itself() {
        for path in tomls(&shipped()) {
            let name = path.file_stem().unwrap().to_str().unwrap();
            let loaded = load(name, &[shipped()]).unwrap_or_else(|error| panic!("{error}"));
            assert!(loaded.origin.values().all(|file| *file == path), "{name}");
        }
    }

    #[test]
    fn later_files_override_single_keys_and_their_origin_is_known() {
        let etc = etc(&[
            ("balanced.toml", "[write_error]\naction = \"observe\"\n"),
            ("balanced.d/20-b.toml", "[spending]\nblocks_per_hour = 7\n"),
            ("balanced.d/10-a.toml", "[spending]\nblocks_per_hour = 6\nblocks_per_day = 60\n"),
        ]);
        let Loaded { policy, origin, files } = load("balanced", &[shipped(), etc.path().into()]).unwrap();
        assert_eq!(policy.write_error.action, Action::Observe);
        assert_eq!((policy.spending.blocks_per_hour, policy.spending.blocks_per_day), (7, 60));
        let from = |key: &str| origin[key].file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(from("spending.blocks_per_hour"), "20-b.toml");
        assert_eq!(from("spending.blocks_per_day"), "10-a.toml");
        assert_eq!(origin["write_error.classes"], shipped().join("balanced.toml"));
        assert_eq!(files.len(), 4);
    }

    #[test]
    fn mistakes_name_the_file_the_line_and_the_key() {
        for (text, expected) in [
            ("[write_error]\nactoin = \"remap\"\n", ["line 2", "actoin"]),
            ("[write_error\n", ["line 1", ""]),
            ("[write_error]\nclasses = [\"timeout\"]\n", ["write_error.classes", "timeout"]),
            ("[spare]\nalert_percent = [0]\n", ["spare.alert_percent", "0 is not"]),
            ("\n\n[spending]\nblocks_per_hour = -1\n", ["line 4", "-1"]),
            ("[smart]\nlong_test_days = 3651\n", ["smart.long_test_days", "3651 is more"]),
            ("[smart]\nshort_tests = 7\n", ["line 2", "short_tests"]),
            ("[[match]]\n", ["match", "without a key"]),
            ("[[match]]\nmodel = \"a[\"\n", ["match", "a["]),
            ("[[match]]\nvendor = \"x\"\n", ["line 2", "vendor"]),
        ] {
            for name in ["balanced.toml", "balanced.d/50-mine.toml"] {
                let etc = etc(&[(name, text)]);
                let error = load("balanced", &[shipped(), etc.path().into()]).unwrap_err().to_string();
                let named = error.starts_with(&etc.path().join(name).display().to_string());
                assert!(named && expected.iter().all(|part| error.contains(part)), "{text:?} gave {error}");
            }
        }
        for name in ["nonesuch", "../balanced", ""] {
            assert!(matches!(load(name, &[shipped()]), Err(PolicyError::Missing { .. })), "{name}");
        }
    }

    #[test]
    fn a_policy_of_ones_own_has_to_be_complete() {
        let etc = etc(&[("mine.toml", "description = \"mine\"\n")]);
        let error = load("mine", &[shipped(), etc.path().into()]).unwrap_err().to_string();
        assert!(error.contains("mine.toml") && error.contains("write_error"), "{error}");
    }
}
