//! `remap-guardian policy`.

use super::text::table;
use crate::config::Settings;
use crate::control::client::{self, CallError};
use crate::control::{Request, Said, SetReport, StatusReport};
use crate::model::{Decision, Entry, SetName, What};
use crate::policy::{Loaded, Policies, Policy, Rule};
use anyhow::Context;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Verbs of `policy`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Policies are TOML files in /usr/lib/remap-guardian/policies, single keys of which /etc/remap-guardian/policies/NAME.toml
and NAME.d/*.toml override.

Examples:
  remap-guardian policy list
  remap-guardian policy show balanced
  remap-guardian policy check && remap-guardian policy reload
  remap-guardian policy explain 17")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List the policies, and which set follows which
    List,
    /// Check all files; say what is wrong, with file and line
    Check,
    /// Show every value that is in force, and the file it is from
    Show(ShowArgs),
    /// Explain the decision behind an entry of the history
    Explain(ExplainArgs),
    /// Make the daemon read the files anew; broken ones are refused, and the old ones stay
    Reload,
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// A policy; the default one if none is given
    policy: Option<String>,
    /// The policy that this set follows
    #[arg(long, conflicts_with = "policy", value_name = "NAME")]
    set: Option<SetName>,
}

#[derive(Debug, clap::Args)]
struct ExplainArgs {
    /// Number of the entry, as “history” shows it
    entry: u64,
}

/// Runs a verb.
pub fn main(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    match &args.verb {
        Verb::List => list(&load(settings)?, &open_sets(settings)?, json, &mut out)?,
        Verb::Check => check(&load(settings)?, &settings.policy_dirs, json, &mut out)?,
        Verb::Show(which) => show(&load(settings)?, which, settings, json, &mut out)?,
        Verb::Explain(which) => explain(&load(settings)?, which.entry, settings, json, &mut out)?,
        Verb::Reload => {
            drop(out);
            let said: Said = client::call(&settings.socket(), &Request::Reload)?;
            return super::print_said(&said, json);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// With the policy that each would be for.
fn drop_in_folders(dir: &Path) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut folders: Vec<_> = entries
        .filter_map(|path| Some((path.file_name()?.to_str()?.strip_suffix(".d")?.to_owned(), path)))
        .filter(|(_, path)| path.is_dir())
        .collect();
    folders.sort();
    folders
}

fn load(settings: &Settings) -> anyhow::Result<Policies> {
    Policies::load(&settings.policy, &settings.policy_dirs).context("policy")
}

/// The sets that the daemon serves; none if it does not run.
fn open_sets(settings: &Settings) -> anyhow::Result<Vec<SetReport>> {
    match client::call::<StatusReport>(&settings.socket(), &Request::Status { name: None }) {
        Ok(report) => Ok(report.sets),
        Err(CallError::NotRunning(_)) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

fn list(policies: &Policies, sets: &[SetReport], json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let default = &policies.default().policy.name;
    let followers = |policy: &Policy| -> Vec<&SetReport> {
        sets.iter().filter(|set| set.policy.as_ref().is_some_and(|in_force| in_force.name == policy.name)).collect()
    };
    if json {
        let all: Vec<Value> = policies
            .all()
            .map(|Loaded { policy, files, .. }| {
                let sets: Vec<_> = followers(policy).iter().map(|set| set.name.as_str().to_owned()).collect();
                json!({"name": policy.name, "description": policy.description, "default": policy.name == *default, "files": files, "sets": sets})
            })
            .collect();
        return Ok(writeln!(out, "{}", Value::from(all))?);
    }
    let mut rows = table(&["policy", "followed by", "description"]);
    for Loaded { policy, .. } in policies.all() {
        let mut sets: Vec<String> = followers(policy).iter().map(|set| set.name.to_string()).collect();
        if policy.name == *default {
            sets.push("(default)".into());
        }
        rows.add_row([policy.name.clone(), sets.join(" "), policy.description.clone()]);
    }
    Ok(writeln!(out, "{}", rows.trim_fmt())?)
}

fn check(policies: &Policies, dirs: &[PathBuf], json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    if let Some(folder) = dirs.iter().flat_map(|dir| drop_in_folders(dir)).find(|(name, _)| policies.get(name).is_none()) {
        anyhow::bail!("policy: {}: there is no policy “{}”, so nothing reads what is in it", folder.1.display(), folder.0);
    }
    if json {
        let names: Vec<&str> = policies.all().map(|loaded| loaded.policy.name.as_str()).collect();
        return Ok(writeln!(out, "{}", json!({"good": names}))?);
    }
    for Loaded { policy, files, .. } in policies.all() {
        let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        writeln!(out, "{}: good ({})", policy.name, files.join(", "))?;
    }
    Ok(())
}

fn show(policies: &Policies, which: &ShowArgs, settings: &Settings, json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let followed = match &which.set {
        None => None,
        Some(name) => {
            let report: StatusReport = client::call(&settings.socket(), &Request::Status { name: Some(name.clone()) })?;
            let in_force = report.sets.into_iter().find_map(|set| set.policy);
            Some(in_force.with_context(|| {
                format!("“{name}” is not open, so it follows no policy\n  next: remap-guardian status {name}")
            })?)
        }
    };
    let name = followed.as_ref().map(|in_force| &in_force.name).or(which.policy.as_ref());
    let loaded = match name {
        None => policies.default(),
        Some(name) => policies
            .get(name)
            .with_context(|| format!("there is no policy “{name}”\n  next: see the known ones: remap-guardian policy list"))?,
    };
    let values = leaves("", &serde_json::to_value(&loaded.policy)?);
    let values: Vec<_> = values.into_iter().filter(|(key, _)| key != "name").collect();
    let origin = |key: &str| loaded.origin.get(key).map(|path| path.display().to_string());
    if json {
        let values: Vec<Value> =
            values.iter().map(|(key, value)| json!({"key": key, "value": value, "from": origin(key)})).collect();
        let shown =
            json!({"name": loaded.policy.name, "followed_because": followed.map(|in_force| in_force.why), "values": values});
        return Ok(writeln!(out, "{shown}")?);
    }
    writeln!(out, "{}{}\n", loaded.policy.name, followed.map(|in_force| format!(": {}", in_force.why)).unwrap_or_default())?;
    let mut rows = table(&["key", "value", "from"]);
    for (key, value) in values {
        let from = origin(&key).unwrap_or_else(|| "built in".into());
        rows.add_row([key, value.to_string(), from]);
    }
    Ok(writeln!(out, "{}", rows.trim_fmt())?)
}

/// Values by key with dots; an array is one value.
fn leaves(prefix: &str, value: &Value) -> Vec<(String, Value)> {
    match value {
        Value::Object(object) => {
            let dot = if prefix.is_empty() { "" } else { "." };
            object.iter().flat_map(|(key, value)| leaves(&format!("{prefix}{dot}{key}"), value)).collect()
        }
        other => vec![(prefix.to_owned(), other.clone())],
    }
}

fn explain(policies: &Policies, number: u64, settings: &Settings, json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let entry = super::history::entry(settings, number)?
        .with_context(|| format!("the history has no entry {number}\n  next: see the numbers: remap-guardian history"))?;
    let Some(decision) = decision_of(&entry) else {
        anyhow::bail!(
            "entry {number} tells of no decision: {}\n  next: explain one that says “healed”, “NOT healed” or “back on main”",
            entry.what.sentence()
        );
    };
    let rule = Rule::of(&decision.rule);
    let policy = decision.rule.split_once('/').and_then(|(name, _)| policies.get(name));
    let now = rule.and_then(|rule| rule.key).zip(policy).and_then(|(key, loaded)| {
        let values = leaves("", &serde_json::to_value(&loaded.policy).ok()?);
        let value = values.into_iter().find(|(known, _)| known == key)?.1;
        Some((key, value, loaded.origin.get(key).map(|path| path.display().to_string())))
    });
    if json {
        let now = now.map(|(key, value, from)| json!({"key": key, "value": value, "from": from}));
        let explained = json!({"entry": entry, "decision": decision, "meaning": rule.map(|rule| rule.meaning), "now": now});
        return Ok(writeln!(out, "{explained}")?);
    }
    super::history::show(&entry, out)?;
    writeln!(out)?;
    let mut rows = table(&[]);
    rows.add_row(["rule", &decision.rule]);
    rows.add_row(["it means", rule.map_or("this version does not know that rule", |rule| rule.meaning)]);
    rows.add_row(["then", &decision.reason]);
    if let Some((key, value, from)) = now {
        rows.add_row(["now".to_owned(), format!("{key} = {value} ({})", from.unwrap_or_else(|| "built in".into()))]);
    }
    Ok(writeln!(out, "{}", rows.trim_fmt())?)
}

fn decision_of(entry: &Entry) -> Option<&Decision> {
    match &entry.what {
        What::Remapped { decision, .. }
        | What::NotRemapped { decision, .. }
        | What::Relocated { decision, .. }
        | What::Unremapped { decision, .. }
        | What::StaysRemapped { decision, .. }
        | What::Trend { decision, .. } => Some(decision),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::RULES;

    #[test]
    fn values_have_keys_with_dots() {
        let value = json!({"a": {"b": 1, "c": [1, 2]}, "d": "x"});
        let expected = [("a.b", json!(1)), ("a.c", json!([1, 2])), ("d", json!("x"))].map(|(key, value)| (key.to_owned(), value));
        assert_eq!(leaves("", &value), expected);
    }

    #[test]
    fn the_keys_of_rules_are_keys_of_policies() {
        let dirs = [std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("policies")];
        let policies = Policies::load("balanced", &dirs).unwrap();
        let keys = leaves("", &serde_json::to_value(&policies.default().policy).unwrap());
        for key in RULES.iter().filter_map(|rule| rule.key) {
            assert!(keys.iter().any(|(known, _)| known == key), "{key}");
        }
    }
}
