//! Keeps the maps of the partitions on an open device in step with its partition table.

use super::daemon::Daemon;
use crate::actuate::partitions;
use crate::dm::udev;
use crate::model::{SetId, SetName};
use crate::sources::partition_table;
use std::sync::{Mutex, PoisonError};

/// One at a time: two would make the same map.
static ONE: Mutex<()> = Mutex::new(());

/// Reads the partition table of an open device and makes the maps follow it. What cannot be read changes nothing.
pub fn follow(set: SetId, name: &SetName) {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let table = match partition_table::read(&udev::node(name.as_str())) {
        Ok(Some(table)) => table,
        Ok(None) => return,
        Err(error) => return tracing::warn!(set = %name, "its partition table cannot be read: {error}"),
    };
    match partitions::follow(set, name, &table) {
        Ok(said) => said.iter().for_each(|line| tracing::info!(set = %name, "{line}")),
        Err(error) => tracing::warn!(set = %name, "its partitions cannot be used: {error}"),
    }
}

impl Daemon {
    /// Looks at the partitions of a set that is served, in the background; `then` is called when that is done.
    pub(super) fn follow_partitions(&self, set: SetId, then: impl FnOnce() + Send + 'static) {
        let name = self.serving.get(&set).map(|serving| serving.desc.name.clone());
        tokio::task::spawn_blocking(move || {
            if let Some(name) = name {
                follow(set, &name);
            }
            then();
        });
    }
}
