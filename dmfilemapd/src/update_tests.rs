//! Updates on a model of the kernel's statistics that reads the same messages.

use super::*;
use crate::region::Counts;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    regions: BTreeMap<u32, Region>,
    /// Creations until one fails.
    creations: Option<usize>,
    /// The id that somebody else takes as soon as it is free.
    coveted: Option<u32>,
    /// Messages until somebody deletes a group, and its id.
    deletion: Option<(usize, u32)>,
}

/// As `dm_split_args` does.
fn split(message: &str) -> Vec<String> {
    let (mut words, mut word, mut letters) = (Vec::new(), String::new(), message.chars());
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => word.extend(letters.next()),
            blank if blank.is_ascii_whitespace() => words.extend((!word.is_empty()).then(|| std::mem::take(&mut word))),
            other => word.push(other),
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

impl Model {
    fn delete_group(&mut self, id: u32) -> bool {
        let regions: Vec<Region> = self.regions.values().cloned().collect();
        let group = Group::find(&regions, id);
        for region in group.iter().flat_map(|group| &group.members) {
            self.regions.remove(&region.id);
        }
        group.is_some()
    }
}

impl Kernel for Model {
    fn message(&mut self, message: &str) -> Result<String, Error> {
        match &mut self.deletion {
            // Once it was found.
            Some((0, id)) => {
                let id = *id;
                if self.delete_group(id) {
                    self.deletion = None;
                }
            }
            Some((left, _)) => *left -= 1,
            None => {}
        }
        let words = split(message);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let id = |text: &str| text.parse::<u32>().unwrap();
        match words[..] {
            ["@stats_list"] => Ok(self.regions.values().map(line).collect()),
            ["@stats_create", range, "/1", ref options @ .., program, aux] => {
                if let Some(left) = &mut self.creations {
                    *left = left.checked_sub(1).ok_or_else(|| Error::Kernel("no memory".into()))?;
                }
                let id = (0..).find(|id| !self.regions.contains_key(id)).unwrap();
                let (start, len) = range.split_once('+').unwrap();
                let extent = Extent { start: start.parse().unwrap(), len: len.parse().unwrap() };
                let counts = Counts {
                    precise: options.contains(&"precise_timestamps"),
                    histogram: options.iter().find_map(|option| option.strip_prefix("histogram:").map(str::to_owned)),
                };
                assert_eq!(options.first().map_or(0, |count| count.parse().unwrap()), options.len().saturating_sub(1));
                let (program, aux) = (program.to_owned(), aux.to_owned());
                self.regions.insert(id, Region { id, extent, step: extent.len, program, aux, counts });
                Ok(id.to_string())
            }
            ["@stats_delete", which] => {
                let gone = self.regions.remove(&id(which)).ok_or(Error::Kernel("no such region".into()))?;
                if self.coveted == Some(gone.id) {
                    let (program, aux) = ("other".to_owned(), "mine".to_owned());
                    self.regions.insert(gone.id, Region { program, aux, ..gone });
                }
                Ok(String::new())
            }
            ["@stats_set_aux", which, aux] => {
                let region = self.regions.get_mut(&id(which)).ok_or(Error::Kernel("no such region".into()))?;
                region.aux = aux.to_owned();
                Ok(String::new())
            }
            _ => panic!("the kernel knows no message {message:?}"),
        }
    }
}

fn line(region: &Region) -> String {
    let Region { id, extent, step, program, aux, counts } = region;
    let precise = if counts.precise { " precise_timestamps" } else { "" };
    let histogram = counts.histogram.as_ref().map(|bounds| format!(" histogram:{bounds}")).unwrap_or_default();
    format!("{id}: {extent} {step} {program} {aux}{precise}{histogram}\n")
}

fn extents(places: &BTreeSet<u64>) -> BTreeSet<Extent> {
    places.iter().map(|place| Extent { start: place / 4 * 8, len: 8 * (place % 4 + 1) }).collect()
}

const COUNTS: &str = "2 precise_timestamps histogram:10,20";

/// A group over `places`, made as libdm makes it, among `foreign` regions.
fn made(foreign: u32, places: &BTreeSet<u64>) -> (Model, u32) {
    let mut model = Model::default();
    for n in 0..foreign {
        model.message(&format!("@stats_create {}+8 /1 other mine", 1000 + n * 8)).unwrap();
    }
    let create = |extent| model.message(&format!("@stats_create {extent} /1 {COUNTS} dmstats -")).unwrap().parse().unwrap();
    let members: BTreeSet<u32> = extents(places).into_iter().map(create).collect();
    let first = *members.first().unwrap();
    set_aux(&mut model, first, &Descriptor::format("vm image", &members, "kept")).unwrap();
    (model, first)
}

fn bring(model: &mut Model, id: u32, wanted: &BTreeSet<Extent>) -> Result<Option<u32>, Error> {
    let group = Group::find(&list(model).unwrap(), id).unwrap();
    let plan = Plan::new(&group, wanted);
    apply(model, &group, &plan)
}

/// The group is what it should be, and nothing else is there but foreign regions.
fn check(model: &mut Model, id: u32, wanted: &BTreeSet<Extent>, foreign: usize) {
    let regions = list(model).unwrap();
    let group = Group::find(&regions, id).unwrap();
    assert_eq!(group.members.iter().map(|region| region.extent).collect::<BTreeSet<_>>(), *wanted);
    assert_eq!(group.members.len(), wanted.len());
    assert_eq!((group.alias.as_str(), group.user.as_str()), ("vm image", "kept"));
    let counts = Counts { precise: true, histogram: Some("10,20".into()) };
    assert!(group.members.iter().all(|region| region.counts == counts && region.program == "dmstats"));
    assert!(group.members.iter().all(|region| region.id == id || region.aux == "-"), "one leader");
    assert_eq!(regions.len(), wanted.len() + foreign);
    assert_eq!(regions.iter().filter(|region| region.program == "other" && region.aux == "mine").count(), foreign);
}

#[test]
fn a_growing_extent_keeps_the_groups_id() {
    let (mut model, id) = made(3, &[0].into());
    for place in 1..4 {
        let wanted = extents(&[place].into());
        assert_eq!(bring(&mut model, id, &wanted).unwrap(), Some(id));
        check(&mut model, id, &wanted, 3);
    }
}

#[test]
fn regions_that_stay_are_not_touched() {
    let (mut model, id) = made(0, &[0, 4, 8].into());
    let before = model.regions[&1].clone();
    bring(&mut model, id, &extents(&[4, 12].into())).unwrap();
    assert_eq!(Group::find(&list(&mut model).unwrap(), id).unwrap().members.len(), 2);
    assert_eq!(model.regions[&1], before);
}

#[test]
fn the_leader_may_have_to_change() {
    let (mut model, id) = made(1, &[0, 4].into());
    assert_eq!(bring(&mut model, id, &extents(&[4].into())).unwrap(), Some(2), "its extent is gone, nothing is new");
    // Somebody frees a lower id, which the kernel then gives to a region of ours.
    delete(&mut model, 0).unwrap();
    let wanted = extents(&[4, 8].into());
    assert_eq!(bring(&mut model, 2, &wanted).unwrap(), Some(0));
    check(&mut model, 0, &wanted, 0);
}

#[test]
fn a_lone_region_that_cannot_be_made_again_gives_the_group_a_new_id() {
    let (mut model, id) = made(1, &[0].into());
    model.creations = Some(1);
    let wanted = extents(&[3].into());
    assert_eq!(bring(&mut model, id, &wanted).unwrap(), Some(id + 1));
    check(&mut model, id + 1, &wanted, 1);
}

#[test]
fn an_id_that_somebody_else_was_given_is_left_to_them() {
    for next in [vec![3], vec![3, 8], vec![4, 8]] {
        let (mut model, id) = made(1, &[0, 4].into());
        model.coveted = Some(id);
        let wanted = extents(&next.into_iter().collect());
        let first = bring(&mut model, id, &wanted).unwrap().unwrap();
        assert!(first > id);
        check(&mut model, first, &wanted, 2);
    }
}

#[test]
fn an_empty_file_has_no_group() {
    let (mut model, id) = made(2, &[0, 4].into());
    assert_eq!(bring(&mut model, id, &BTreeSet::new()).unwrap(), None);
    assert_eq!(model.regions.len(), 2);
}

proptest! {
    #[test]
    fn a_group_follows_its_file(
        foreign in 0u32..4,
        first in prop::collection::btree_set(0u64..40, 1..8),
        steps in prop::collection::vec((prop::collection::btree_set(0u64..40, 1..8), any::<bool>()), 1..8),
    ) {
        let (mut model, mut id) = made(foreign, &first);
        let mut foreign = foreign as usize;
        for (places, free_a_lower_id) in steps {
            if free_a_lower_id && model.regions.remove(&(foreign as u32).wrapping_sub(1)).is_some_and(|r| r.program == "other") {
                foreign -= 1;
            }
            let wanted = extents(&places);
            id = bring(&mut model, id, &wanted).unwrap().unwrap();
            check(&mut model, id, &wanted, foreign);
            let group = Group::find(&list(&mut model).unwrap(), id).unwrap();
            prop_assert!(Plan::new(&group, &wanted).is_empty());
        }
    }

    #[test]
    fn a_region_that_cannot_be_made_changes_nothing_but_the_id(
        places in prop::collection::btree_set(0u64..40, 1..6),
        next in prop::collection::btree_set(0u64..40, 1..6),
        creations in 0usize..6,
    ) {
        let (mut model, id) = made(1, &places);
        let before = model.clone();
        model.creations = Some(creations);
        let wanted = extents(&next);
        match bring(&mut model, id, &wanted) {
            Ok(id) => check(&mut model, id.unwrap(), &wanted, 1),
            Err(_) => {
                model.creations = None;
                prop_assert!(model == before);
            }
        }
    }

    #[test]
    fn a_group_that_somebody_deletes_meanwhile_leaves_no_stray(
        places in prop::collection::btree_set(0u64..40, 1..6),
        next in prop::collection::btree_set(0u64..40, 0..6),
        free_a_lower_id in any::<bool>(),
        messages in 0usize..24,
    ) {
        let (mut model, id) = made(2, &places);
        if free_a_lower_id {
            delete(&mut model, 0).unwrap();
        }
        let wanted = extents(&next);
        let group = Group::find(&list(&mut model).unwrap(), id).unwrap();
        model.deletion = Some((messages, id));
        let result = apply(&mut model, &group, &Plan::new(&group, &wanted));
        if model.deletion.take().is_none() {
            prop_assert!(model.regions.values().all(|region| region.program == "other"), "{:?} {:?}", result, model);
        } else if let Some(id) = result.unwrap() {
            check(&mut model, id, &wanted, 2 - usize::from(free_a_lower_id));
        }
    }

    /// Also for a reader that comes in the middle of it, and after an end by force.
    #[test]
    fn a_group_is_always_there(
        places in prop::collection::btree_set(0u64..40, 1..6),
        next in prop::collection::btree_set(0u64..40, 1..6),
    ) {
        struct Watched(Model);
        impl Kernel for Watched {
            fn message(&mut self, message: &str) -> Result<String, Error> {
                let answer = self.0.message(message);
                let regions: Vec<Region> = self.0.regions.values().cloned().collect();
                let whole = |region: &Region| {
                    let Some(Descriptor { members, .. }) = Descriptor::parse(&region.aux) else { return false };
                    members.into_iter().flatten().all(|id| self.0.regions.contains_key(&id))
                };
                assert!(regions.iter().any(whole), "no whole group after {message}");
                answer
            }
        }
        let (model, id) = made(1, &places);
        let group = Group::find(&list(&mut model.clone()).unwrap(), id).unwrap();
        apply(&mut Watched(model), &group, &Plan::new(&group, &extents(&next))).unwrap();
    }
}
