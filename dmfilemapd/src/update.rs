//! Brings a group's regions in step with a file's extents: a pure plan, and the messages that carry it out.
//!
//! A region cannot be resized, so an extent that grew is a new region. Regions whose extent is still there are left
//! alone with their counters.

use crate::Error;
use crate::extent::Extent;
use crate::group::{Descriptor, Group};
use crate::region::{Region, create_message, escaped};
use std::collections::BTreeSet;

/// Takes messages for the statistics of one device.
pub trait Kernel {
    /// Sends a message; gives the answer, empty if there is none.
    ///
    /// # Errors
    /// If the kernel refuses it.
    fn message(&mut self, message: &str) -> Result<String, Error>;
}

/// All regions of the device.
///
/// # Errors
/// If the device does not answer.
pub fn list(kernel: &mut impl Kernel) -> Result<Vec<Region>, Error> {
    // A line that is no region can only be part of foreign aux data: no region of ours is lost with it.
    Ok(kernel.message("@stats_list")?.lines().filter_map(Region::parse).collect())
}

/// What has to change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Ids of the regions that stay.
    pub keep: BTreeSet<u32>,
    /// Ids of the regions that go.
    pub stale: BTreeSet<u32>,
    /// Extents that need a region.
    pub create: Vec<Extent>,
}

impl Plan {
    /// Compares a group with the extents that it should have.
    pub fn new(group: &Group, wanted: &BTreeSet<Extent>) -> Plan {
        let mut missing = wanted.clone();
        let (keep, stale): (Vec<_>, Vec<_>) = group.members.iter().partition(|region| missing.remove(&region.extent));
        let ids = |regions: Vec<&Region>| regions.into_iter().map(|region| region.id).collect();
        Plan { keep: ids(keep), stale: ids(stale), create: missing.into_iter().collect() }
    }

    /// Whether the group is in step.
    pub fn is_empty(&self) -> bool {
        self.stale.is_empty() && self.create.is_empty()
    }
}

/// Carries out a plan. Gives the group's id afterwards: that of its lowest region, `None` if it has none.
///
/// # Errors
/// If the kernel refuses a message. When a region cannot be made, those made before are taken back, and the group is as
/// it was — or without that region, if the old leader had to go first.
pub fn apply(kernel: &mut impl Kernel, group: &Group, plan: &Plan) -> Result<Option<u32>, Error> {
    let leader = group.leader.id;
    let mut stale = plan.stale.clone();
    let mut create = plan.create.clone();
    // The kernel gives a new region the lowest id that is free: made right after the leader has gone, it takes over the
    // leader's id, and the group keeps its name.
    let successor = if stale.contains(&leader) { create.pop() } else { None };

    let mut members = plan.keep.clone();
    for extent in create {
        match create_region(kernel, group, extent) {
            Ok(id) => members.insert(id),
            Err(error) => {
                for id in members.difference(&plan.keep) {
                    delete(kernel, *id)?;
                }
                return Err(error);
            }
        };
    }
    let mut failed = None;
    if let Some(extent) = successor {
        delete(kernel, leader)?;
        stale.remove(&leader);
        match create_region(kernel, group, extent) {
            Ok(id) => drop(members.insert(id)),
            Err(error) => failed = Some(error),
        }
    }
    let first = members.first().copied();
    if let Some(first) = first {
        set_aux(kernel, first, &Descriptor::format(&group.alias, &members, &group.user))?;
        if first != leader && members.contains(&leader) {
            set_aux(kernel, leader, "-")?;
        }
    }
    // The old leader last: until then the group can be found.
    for id in stale.into_iter().rev() {
        delete(kernel, id)?;
    }
    failed.map_or(Ok(first), Err)
}

fn create_region(kernel: &mut impl Kernel, group: &Group, extent: Extent) -> Result<u32, Error> {
    let answer = kernel.message(&create_message(extent, &group.leader.counts, &group.leader.program))?;
    answer.trim().parse().map_err(|_| Error::Kernel(format!("the kernel gave a new region the id “{}”", answer.trim())))
}

fn delete(kernel: &mut impl Kernel, id: u32) -> Result<(), Error> {
    kernel.message(&format!("@stats_delete {id}")).map(drop)
}

fn set_aux(kernel: &mut impl Kernel, id: u32, aux: &str) -> Result<(), Error> {
    kernel.message(&format!("@stats_set_aux {id} {}", escaped(aux))).map(drop)
}

#[cfg(test)]
#[path = "update_tests.rs"]
mod tests;
