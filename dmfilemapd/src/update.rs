//! Brings a group's regions in step with a file's extents: a pure plan, and the messages that carry it out.
//!
//! A region cannot be resized, so an extent that grew is a new region. Regions whose extent is still there are left
//! alone with their counters.

use crate::Error;
use crate::extent::Extent;
use crate::group::{Descriptor, Group};
use crate::region::{Region, create_message, escaped};
use std::collections::{BTreeMap, BTreeSet};

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
/// New regions come first and stale ones go last: whenever this is interrupted, there is a group with all its regions,
/// under the old id or a new one.
///
/// # Errors
/// If the kernel refuses a message; what was made is taken back. When a region cannot be made, the group is as it was.
/// Other messages are refused only when somebody else deletes regions of the group at the same time.
pub fn apply(kernel: &mut impl Kernel, group: &Group, plan: &Plan) -> Result<Option<u32>, Error> {
    let mut made = BTreeMap::new();
    let result = carry_out(kernel, group, plan, &mut made);
    if result.is_err() {
        for id in made.into_keys() {
            // It may have gone with the group.
            let _ = delete(kernel, id);
        }
    }
    result
}

/// Notes in `made` what has to be taken back after an error.
fn carry_out(
    kernel: &mut impl Kernel,
    group: &Group,
    plan: &Plan,
    made: &mut BTreeMap<u32, Extent>,
) -> Result<Option<u32>, Error> {
    for extent in &plan.create {
        let id = create_region(kernel, group, *extent)?;
        made.insert(id, *extent);
        if plan.keep.contains(&id) || plan.stale.contains(&id) {
            return Err(Error::Kernel(format!("region {id} of the group was deleted meanwhile")));
        }
    }
    let leader = group.leader.id;
    let members: BTreeSet<u32> = plan.keep.iter().chain(made.keys()).copied().collect();
    let first = members.first().copied();
    if let Some(first) = first {
        set_leader(kernel, group, first, &members)?;
        if first != leader && members.contains(&leader) {
            set_aux(kernel, leader, "-")?;
        }
    }
    // The old leader last: until then an empty group can be found.
    for id in plan.stale.iter().rev() {
        delete(kernel, *id)?;
    }
    match (first, made.last_key_value()) {
        (Some(first), Some((&twin, &extent))) if first > leader => {
            take_over(kernel, group, (first, members), (twin, extent), made).map(Some)
        }
        _ => Ok(first),
    }
}

/// Gives the group the id of its old leader again, which has gone: the kernel gives a new region the lowest id that is
/// free, so `twin`, which was just made, is made again. If that cannot be done, the group stays as it is, with `first` as
/// its id.
fn take_over(
    kernel: &mut impl Kernel,
    group: &Group,
    (first, mut members): (u32, BTreeSet<u32>),
    (twin, extent): (u32, Extent),
    made: &mut BTreeMap<u32, Extent>,
) -> Result<u32, Error> {
    let Ok(id) = create_region(kernel, group, extent) else { return Ok(first) };
    if id > first {
        // Somebody else was given the old id.
        return delete(kernel, id).map(|()| first);
    }
    made.insert(id, extent);
    members.remove(&twin);
    members.insert(id);
    set_leader(kernel, group, id, &members)?;
    if first != twin {
        set_aux(kernel, first, "-")?;
    }
    delete(kernel, twin)?;
    Ok(id)
}

fn set_leader(kernel: &mut impl Kernel, group: &Group, id: u32, members: &BTreeSet<u32>) -> Result<(), Error> {
    set_aux(kernel, id, &Descriptor::format(&group.alias, members, &group.user))
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
