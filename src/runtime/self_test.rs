//! Self-tests that disks do by themselves, started when a policy has them due. When they were last started is in the store.

use super::daemon::{Daemon, Input, now};
use crate::model::{Member, SetId, TestKind};
use crate::sources::smart::SelfTest;
use std::collections::BTreeSet;

/// A self-test that is due.
#[derive(Clone, Debug)]
pub struct Due {
    set: SetId,
    member: Member,
    /// The name by which it is known when the disk was tested.
    disk: String,
    kind: TestKind,
}

/// What goes on.
#[derive(Default)]
pub(super) struct Tests {
    /// A daemon that does not know when disks were tested last starts none: that of the initramfs.
    may_start: bool,
    /// Sets one of whose disks is being asked.
    asked: BTreeSet<SetId>,
    /// Disks that refused, so that it is told once.
    refused: BTreeSet<String>,
}

impl Tests {
    pub(super) fn new(may_start: bool) -> Tests {
        Tests { may_start, ..Tests::default() }
    }
}

impl Daemon {
    /// After a reading of a member: a drive that was just read is awake, and said whether a test runs.
    pub(super) fn test_if_due(&mut self, set: SetId, member: Member, test: SelfTest) {
        let Some(serving) = self.serving.get(&set).filter(|_| self.tests.may_start) else { return };
        let policy = &self.policy_for(&serving.main).0.smart;
        let (short, long) = (policy.short_test_days, policy.long_test_days);
        // A test slows a disk down: one disk of a set at a time.
        let one_runs = self.smart.last.iter().any(|((of, _), reading)| *of == set && reading.self_test.running);
        if short + long == 0 || test.supported == Some(false) || one_runs || self.tests.asked.contains(&set) {
            return;
        }
        let Some(disk) = self.smart.disks.get(&(set, member)).cloned() else { return };
        let out = self.out.clone();
        let queued = self.store.try_queue(move |store| match store.test_times(&disk) {
            Ok(times) => {
                let due = times.due(now(), short, long).map(|kind| Due { set, member, disk, kind });
                due.into_iter().for_each(|due| drop(out.send(Input::TestDue(due))));
            }
            Err(error) => tracing::warn!(%member, %error, "no self-test is started"),
        });
        if let Err(full) = queued {
            tracing::debug!(%member, "no self-test is started now: {full}");
        }
    }

    pub(super) fn start_test(&mut self, due: Due) {
        let Some(device) = self.serving.get(&due.set).and_then(|serving| serving.member(due.member)) else { return };
        let (name, reader, out) = (device.disk.clone(), self.smart.reader.clone(), self.out.clone());
        // Another disk of the set may have been asked since.
        if !self.tests.asked.insert(due.set) {
            return;
        }
        tokio::spawn(async move {
            let scanned = reader.scan().await.unwrap_or_default();
            let started = reader.start_test(&name, &scanned, due.kind).await.map_err(|error| error.to_string());
            drop(out.send(Input::TestStarted(due, started)));
        });
    }

    pub(super) fn test_started(&mut self, due: Due, started: Result<(), String>) {
        self.tests.asked.remove(&due.set);
        let Due { set, member, disk, kind } = due;
        let what = kind.word();
        if let Err(why) = started {
            // It may only sleep: it is asked again after its next reading.
            if self.tests.refused.insert(disk.clone()) {
                tracing::warn!(%member, disk, why, "a {what} self-test was not started");
            }
            return;
        }
        self.tests.refused.remove(&disk);
        tracing::info!(%member, disk, "a {what} self-test was started");
        // Until its next reading says so.
        if let Some(reading) = self.smart.last.get_mut(&(set, member)) {
            reading.self_test.running = true;
        }
        self.store.queue(move |store| {
            let kept = store.test_times(&disk).and_then(|times| store.set_test_times(&disk, times.started(kind, now())));
            if let Err(error) = kept {
                tracing::warn!(%member, %error, "that a self-test was started is forgotten: it comes again too soon");
            }
        });
    }
}
