//! What targets say about themselves. A kernel may append fields at any time: what follows those that are known is kept
//! in `rest`.

use super::words::{BadParams, Words};

/// The status of a target that has a type here.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(untagged)]
pub enum Status {
    /// `thin`.
    Thin(ThinStatus),
    /// `thin-pool`.
    ThinPool(PoolStatus),
    /// `cache`.
    Cache(CacheStatus),
    /// `dm-remap-v4`.
    Remap(RemapStatus),
    /// One of these that can say nothing but this: `Fail`, `Error`, or `-` (thin).
    Failed {
        /// Its word.
        failed: String,
    },
}

/// `<nr mapped sectors> <highest mapped sector>` (`thin-provisioning.rst`).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ThinStatus {
    /// Sectors that are in the pool.
    pub mapped_sectors: u64,
    /// The last one of them, if there are any.
    pub highest_sector: Option<u64>,
    /// What a newer kernel appends.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rest: Vec<String>,
}

/// `<transaction id> <used metadata blocks>/<total metadata blocks> <used data blocks>/<total data blocks>
/// <held metadata root> ro|rw|out_of_data_space [no_]discard_passdown [error|queue]_if_no_space needs_check|-
/// metadata_low_watermark` (`thin-provisioning.rst`).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PoolStatus {
    /// A number that volume managers keep there.
    pub transaction_id: u64,
    /// Blocks of metadata in use.
    pub used_metadata_blocks: u64,
    /// Blocks of metadata at all.
    pub total_metadata_blocks: u64,
    /// Blocks of data in use.
    pub used_data_blocks: u64,
    /// Blocks of data at all.
    pub total_data_blocks: u64,
    /// A root of the metadata that is held for reading, as a block.
    pub held_metadata_root: Option<u64>,
    /// `rw`, `ro` or `out_of_data_space`.
    pub mode: String,
    /// `discard_passdown`, `no_discard_passdown` or `ignore_discard`.
    pub discard: Option<String>,
    /// `error_if_no_space` or `queue_if_no_space`.
    pub no_space: Option<String>,
    /// Whether its metadata need a check (Linux 4.2 and later tell).
    pub needs_check: Option<bool>,
    /// So few free blocks of metadata raise an event.
    pub metadata_low_watermark: Option<u64>,
    /// What a newer kernel appends.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rest: Vec<String>,
}

/// `<metadata block size> <used>/<total metadata blocks> <cache block size> <used>/<total cache blocks> <read hits>
/// <read misses> <write hits> <write misses> <demotions> <promotions> <dirty> <#features> <features>* <#core args>
/// <core args>* <policy name> <#policy args> <policy args>* <cache metadata mode> needs_check|-` (`cache.rst`).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct CacheStatus {
    /// Sectors.
    pub metadata_block_size: u64,
    /// Blocks of metadata in use.
    pub used_metadata_blocks: u64,
    /// Blocks of metadata at all.
    pub total_metadata_blocks: u64,
    /// Sectors.
    pub cache_block_size: u64,
    /// Blocks in the cache.
    pub used_cache_blocks: u64,
    /// Blocks that have room in it.
    pub total_cache_blocks: u64,
    /// Reads of what was cached.
    pub read_hits: u64,
    /// Reads of what was not.
    pub read_misses: u64,
    /// Writes of what was cached.
    pub write_hits: u64,
    /// Writes of what was not.
    pub write_misses: u64,
    /// Blocks moved out of the cache.
    pub demotions: u64,
    /// Blocks moved into it.
    pub promotions: u64,
    /// Blocks that differ from the origin.
    pub dirty: u64,
    /// As in the table.
    pub features: Vec<String>,
    /// Keys and values in turn.
    pub core_args: Vec<String>,
    /// Name of the policy.
    pub policy: String,
    /// Keys and values in turn.
    pub policy_args: Vec<String>,
    /// `rw` or `ro`.
    pub metadata_mode: Option<String>,
    /// Whether its metadata need a check.
    pub needs_check: Option<bool>,
    /// What a newer kernel appends.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rest: Vec<String>,
}

/// `<remaps> <errors> <state> <protocol> <instance> <next_seq> <held> <fences>` (`kmod/dm-remap.rst`).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RemapStatus {
    /// Entries in the live table.
    pub remaps: u64,
    /// Failures of members.
    pub errors: u64,
    /// `ACTIVE`, `CLOSED` or `EXPIRED`.
    pub state: String,
    /// Of the messages.
    pub protocol: u64,
    /// 16 hexadecimal digits.
    pub instance: String,
    /// The number of the next error record.
    pub next_seq: u64,
    /// Pieces of failed writes that are held.
    pub held: u64,
    /// Fences in force.
    pub fences: u64,
    /// What a newer module appends.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rest: Vec<String>,
}

impl Status {
    /// Reads the status of a target of type `kind`; `None` for a type that has none here.
    pub fn parse(kind: &str, params: &str) -> Option<Result<Status, BadParams>> {
        let params = params.trim();
        let known = match kind {
            "thin" => |params: &str| ThinStatus::parse(params).map(Status::Thin),
            "thin-pool" => |params: &str| PoolStatus::parse(params).map(Status::ThinPool),
            "cache" => |params: &str| CacheStatus::parse(params).map(Status::Cache),
            "dm-remap-v4" => |params: &str| RemapStatus::parse(params).map(Status::Remap),
            _ => return None,
        };
        // dm-thin.c says “-” of a thin that has no pool.
        if ["Fail", "Error"].contains(&params) || (kind == "thin" && params == "-") {
            return Some(Ok(Status::Failed { failed: params.into() }));
        }
        Some(known(params))
    }
}

/// `-`, or a number.
fn maybe_number(words: &mut Words<'_>, what: &str) -> Result<Option<u64>, BadParams> {
    let word = words.word(what)?;
    if word == "-" { Ok(None) } else { words.as_number(word, what).map(Some) }
}

/// `needs_check`, or `-`; older kernels say nothing.
fn needs_check(words: &mut Words<'_>) -> Option<bool> {
    let told = matches!(words.peek(), Some("needs_check" | "-"));
    told.then(|| words.next() == Some("needs_check"))
}

impl ThinStatus {
    fn parse(params: &str) -> Result<Self, BadParams> {
        let mut words = Words::new("thin", params);
        let mapped_sectors = words.number("number of mapped sectors")?;
        let highest_sector = maybe_number(&mut words, "highest mapped sector")?;
        Ok(ThinStatus { mapped_sectors, highest_sector, rest: words.rest() })
    }
}

impl PoolStatus {
    fn parse(params: &str) -> Result<Self, BadParams> {
        let mut words = Words::new("thin-pool", params);
        let transaction_id = words.number("transaction id")?;
        let (used_metadata_blocks, total_metadata_blocks) = words.fraction("metadata blocks")?;
        let (used_data_blocks, total_data_blocks) = words.fraction("data blocks")?;
        let held_metadata_root = maybe_number(&mut words, "held metadata root")?;
        let mode = words.text("mode")?;
        let discard = words.next().map(str::to_owned);
        let no_space = words.next().map(str::to_owned);
        let needs_check = needs_check(&mut words);
        let watermark = words.peek().filter(|word| word.bytes().all(|c| c.is_ascii_digit()));
        let metadata_low_watermark = watermark.and_then(|word| word.parse().ok());
        if metadata_low_watermark.is_some() {
            words.next();
        }
        Ok(PoolStatus {
            transaction_id,
            used_metadata_blocks,
            total_metadata_blocks,
            used_data_blocks,
            total_data_blocks,
            held_metadata_root,
            mode,
            discard,
            no_space,
            needs_check,
            metadata_low_watermark,
            rest: words.rest(),
        })
    }
}

impl CacheStatus {
    fn parse(params: &str) -> Result<Self, BadParams> {
        let mut words = Words::new("cache", params);
        let metadata_block_size = words.number("metadata block size")?;
        let (used_metadata_blocks, total_metadata_blocks) = words.fraction("metadata blocks")?;
        let cache_block_size = words.number("cache block size")?;
        let (used_cache_blocks, total_cache_blocks) = words.fraction("cache blocks")?;
        Ok(CacheStatus {
            metadata_block_size,
            used_metadata_blocks,
            total_metadata_blocks,
            cache_block_size,
            used_cache_blocks,
            total_cache_blocks,
            read_hits: words.number("read hits")?,
            read_misses: words.number("read misses")?,
            write_hits: words.number("write hits")?,
            write_misses: words.number("write misses")?,
            demotions: words.number("demotions")?,
            promotions: words.number("promotions")?,
            dirty: words.number("dirty blocks")?,
            features: words.counted("feature")?,
            core_args: words.counted("core argument")?,
            policy: words.text("policy")?,
            policy_args: words.counted("policy argument")?,
            metadata_mode: words.next().map(str::to_owned),
            needs_check: needs_check(&mut words),
            rest: words.rest(),
        })
    }
}

impl RemapStatus {
    fn parse(params: &str) -> Result<Self, BadParams> {
        let mut words = Words::new("dm-remap-v4", params);
        Ok(RemapStatus {
            remaps: words.number("number of remaps")?,
            errors: words.number("number of errors")?,
            state: words.text("state")?,
            protocol: words.number("protocol")?,
            instance: words.text("instance")?,
            next_seq: words.number("next sequence number")?,
            held: words.number("number of held pieces")?,
            fences: words.number("number of fences")?,
            rest: words.rest(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json(kind: &str, params: &str) -> serde_json::Value {
        serde_json::to_value(Status::parse(kind, params).unwrap().unwrap()).unwrap()
    }

    const POOL: &str = "1 19/4096 3/1024 - rw discard_passdown queue_if_no_space - 1024";
    const CACHE: &str = "8 27/2048 128 5/64 37 12 0 3 0 5 0 2 metadata2 writethrough 2 migration_threshold 2048 smq 0 rw -";
    const REMAP: &str = "2 5 ACTIVE 1 00ff00ff00ff00ff 6 0 1";

    #[test]
    fn each_field_has_its_name() {
        assert_eq!(json("thin", "-")["failed"], "-");
        let thin = json("thin", "2048 8191");
        assert_eq!((thin["mapped_sectors"].as_u64(), thin["highest_sector"].as_u64()), (Some(2048), Some(8191)));
        assert!(json("thin", "0 -")["highest_sector"].is_null());

        let pool = json("thin-pool", POOL);
        assert_eq!((pool["used_metadata_blocks"].as_u64(), pool["total_data_blocks"].as_u64()), (Some(19), Some(1024)));
        assert_eq!((pool["mode"].as_str(), pool["needs_check"].as_bool()), (Some("rw"), Some(false)));
        assert_eq!(pool["metadata_low_watermark"], 1024);
        assert!(pool["held_metadata_root"].is_null());

        let cache = json("cache", CACHE);
        assert_eq!((cache["read_hits"].as_u64(), cache["promotions"].as_u64()), (Some(37), Some(5)));
        assert_eq!(cache["features"], serde_json::json!(["metadata2", "writethrough"]));
        assert_eq!(cache["core_args"], serde_json::json!(["migration_threshold", "2048"]));
        assert_eq!((cache["policy"].as_str(), cache["metadata_mode"].as_str()), (Some("smq"), Some("rw")));

        let remap = json("dm-remap-v4", REMAP);
        assert_eq!((remap["remaps"].as_u64(), remap["fences"].as_u64()), (Some(2), Some(1)));
        assert_eq!((remap["state"].as_str(), remap["instance"].as_str()), (Some("ACTIVE"), Some("00ff00ff00ff00ff")));
    }

    #[test]
    fn older_kernels_say_less() {
        let pool = json("thin-pool", "0 1/2 3/4 77 ro no_discard_passdown error_if_no_space");
        assert_eq!((pool["held_metadata_root"].as_u64(), pool["needs_check"].is_null()), (Some(77), true));
    }

    #[test]
    fn later_fields_are_kept() {
        for (kind, params) in [("thin", "0 -"), ("thin-pool", POOL), ("cache", CACHE), ("dm-remap-v4", REMAP)] {
            let longer = json(kind, &format!("{params} new 5"));
            assert_eq!(longer["rest"], serde_json::json!(["new", "5"]), "{kind}");
            let shorter = json(kind, params);
            for (field, value) in shorter.as_object().unwrap() {
                assert_eq!(&longer[field], value, "{kind} {field}");
            }
            assert_eq!(json(kind, "Fail")["failed"], "Fail");
        }
        assert_eq!(Status::parse("linear", ""), None);
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        for (kind, params) in [("thin", "0 -"), ("thin-pool", "1 1/2 3/4 - rw"), ("cache", CACHE), ("dm-remap-v4", REMAP)] {
            let words: Vec<&str> = params.split(' ').collect();
            // The last two words of a cache are those that old kernels do not have.
            let needed = if kind == "cache" { words.len() - 2 } else { words.len() };
            for end in 0..needed {
                assert!(Status::parse(kind, &words[..end].join(" ")).unwrap().is_err(), "{kind} {end}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_status_makes_a_panic(text in any::<String>(), numbers in "[0-9/ -]{0,200}") {
            for kind in ["thin", "thin-pool", "cache", "dm-remap-v4", "other"] {
                let _ = Status::parse(kind, &text);
                let _ = Status::parse(kind, &numbers);
            }
        }
    }
}
