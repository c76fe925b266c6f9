//! How libdm keeps groups: the region with the lowest id of a group, its leader, carries the group in its aux data, as
//! `DMS_GROUP=<alias>:<member list>#<aux data of its own>`.

use crate::region::Region;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;

const TAG: &str = "DMS_GROUP=";
/// How nothing is written.
const NONE: &str = "-";

/// What a leader's aux data say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The group's name, as it is written: newer versions of libdm put it in quotes, older ones do not. Empty for none.
    pub alias: String,
    /// The ids of its regions, as ranges.
    pub members: Vec<RangeInclusive<u32>>,
    /// What else the leader carries.
    pub user: String,
}

impl Descriptor {
    /// Reads aux data; `None` if they describe no group.
    pub fn parse(aux: &str) -> Option<Descriptor> {
        let text = aux.strip_prefix(TAG)?;
        let whole = |alias: &str| !alias.starts_with('"') || (alias.len() > 1 && alias.ends_with('"'));
        // An alias may hold anything, also what looks like its end: the first end that a list follows is taken.
        text.match_indices(':').filter(|(end, _)| whole(&text[..*end])).find_map(|(end, _)| {
            let rest = &text[end + 1..];
            let (list, user) = rest.split_once('#').unwrap_or((rest, NONE));
            Some(Descriptor { alias: text[..end].to_owned(), members: parse_list(list)?, user: user.to_owned() })
        })
    }

    /// The aux data for a group of `members`.
    pub fn format(alias: &str, members: &BTreeSet<u32>, user: &str) -> String {
        format!("{TAG}{alias}:{}#{}", format_list(members), if user.is_empty() { NONE } else { user })
    }
}

/// Reads a list like `0-2,5`.
fn parse_list(list: &str) -> Option<Vec<RangeInclusive<u32>>> {
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (first <= last).then_some(first..=last)
    };
    list.split(',').map(range).collect()
}

fn format_list(ids: &BTreeSet<u32>) -> String {
    let mut ranges: Vec<RangeInclusive<u32>> = Vec::new();
    for &id in ids {
        match ranges.last_mut() {
            Some(last) if last.end().checked_add(1) == Some(id) => *last = *last.start()..=id,
            _ => ranges.push(id..=id),
        }
    }
    let text = |range: &RangeInclusive<u32>| match range.start() == range.end() {
        true => range.start().to_string(),
        false => format!("{}-{}", range.start(), range.end()),
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}

/// A group, with the regions of it that exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name, as it is written.
    pub alias: String,
    /// What else its leader carries.
    pub user: String,
    /// Its leader: new regions count as this one does.
    pub leader: Region,
    /// All its regions, the leader among them.
    pub members: Vec<Region>,
}

impl Group {
    /// Finds a group among all regions of a device.
    pub fn find(regions: &[Region], id: u32) -> Option<Group> {
        let leader = regions.iter().find(|region| region.id == id)?.clone();
        let Descriptor { alias, members, user } = Descriptor::parse(&leader.aux)?;
        // The group's id is its lowest member: another one is no group to libdm either.
        if members.iter().map(RangeInclusive::start).min() != Some(&id) {
            return None;
        }
        let belongs = |region: &&Region| members.iter().any(|range| range.contains(&region.id));
        let members = regions.iter().filter(belongs).cloned().collect();
        Some(Group { alias, user, leader, members })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(aux: &str) -> Option<(String, Vec<RangeInclusive<u32>>, String)> {
        Descriptor::parse(aux).map(|found| (found.alias, found.members, found.user))
    }

    #[test]
    fn descriptors_of_libdm_are_read() {
        assert_eq!(parsed("DMS_GROUP=vm.img:0-2,5#-"), Some(("vm.img".into(), vec![0..=2, 5..=5], "-".into())));
        assert_eq!(parsed("DMS_GROUP=\"vm img\":0#-"), Some(("\"vm img\"".into(), vec![0..=0], "-".into())));
        assert_eq!(parsed("DMS_GROUP=:7#mine #1"), Some((String::new(), vec![7..=7], "mine #1".into())));
        assert_eq!(parsed("DMS_GROUP=a:1"), Some(("a".into(), vec![1..=1], "-".into())));
        assert_eq!(parsed("DMS_GROUP=\"a:1#b\":3#-").unwrap().0, "\"a:1#b\"");
        assert_eq!(parsed("DMS_GROUP=a:b:3#-").unwrap().0, "a:b");
        for bad in [
            "",
            "-",
            "DMS_GROUP=",
            "DMS_GROUP=\"a:1#-",
            "DMS_GROUP=\":1#-",
            "DMS_GROUP=:#-",
            "DMS_GROUP=:2-1#-",
            "DMS_GROUP=:1,#-",
        ] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }

    #[test]
    fn lists_are_short() {
        assert_eq!(format_list(&[0, 1, 2, 5, 7, 8].into()), "0-2,5,7-8");
        assert_eq!(format_list(&[u32::MAX].into()), u32::MAX.to_string());
    }

    #[test]
    fn a_group_is_named_by_its_first_region() {
        let line = |id: u32, aux: &str| Region::parse(&format!("{id}: {}+8 8 dmstats {aux}", id * 8)).unwrap();
        let regions = [line(0, "-"), line(1, "DMS_GROUP=\"f\":1,3-9#-"), line(2, "-"), line(3, "-"), line(4, "DMS_GROUP=:3-4#-")];
        let group = Group::find(&regions, 1).unwrap();
        assert_eq!(group.members.iter().map(|region| region.id).collect::<Vec<_>>(), [1, 3, 4], "those that exist");
        for none in [0, 3, 4, 9] {
            assert_eq!(Group::find(&regions, none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            alias in "|[a-z :#.]*[a-z]|\"[^\"]*\"", ids in prop::collection::btree_set(0u32..40, 1..20), user in "[^ ]+",
        ) {
            let found = Descriptor::parse(&Descriptor::format(&alias, &ids, &user)).unwrap();
            prop_assert_eq!(found.members.into_iter().flatten().collect::<BTreeSet<u32>>(), ids);
            prop_assert_eq!((found.alias, found.user), (alias, user));
        }

        #[test]
        fn no_descriptor_makes_a_panic(text in any::<String>()) {
            let _ = Descriptor::parse(&format!("{TAG}{text}"));
            let _ = Descriptor::parse(&format!("{TAG}\"{text}\":{text}#{text}"));
        }
    }
}
