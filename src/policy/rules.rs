//! Every rule that a decision can name, and what it means. `policy explain` tells it.

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// As decisions name it, after the policy's name.
    pub name: &'static str,
    /// The key that it comes from, if it comes from one.
    pub key: Option<&'static str>,
    /// What it says.
    pub meaning: &'static str,
}

/// All of them.
pub const RULES: [Rule; 16] = [
    Rule {
        name: "write_error",
        key: Some("write_error.action"),
        meaning: "a write failed, the failing blocks were found by writing them again one by one, and the policy moves such blocks to \
                  the spare while the write waits",
    },
    Rule {
        name: "write_error.action",
        key: Some("write_error.action"),
        meaning: "the policy only watches: the application got the error that it would have got without us",
    },
    Rule {
        name: "write_error.classes",
        key: Some("write_error.classes"),
        meaning: "an error of this class says nothing about the medium, so moving the block would spend spare space for nothing",
    },
    Rule {
        name: "storm.errors_per_minute",
        key: Some("storm.errors_per_minute"),
        meaning: "so many errors that say nothing about the medium came within a minute that a cable, a controller or the power must be \
                  failing; until a minute passes without one, no error is believed to be the medium's",
    },
    Rule {
        name: "spending.blocks_per_hour",
        key: Some("spending.blocks_per_hour"),
        meaning: "so many blocks moved in the last hour that more of it looks like a failing controller or a dying disk rather than bad \
                  sectors; the error went to the application",
    },
    Rule {
        name: "spending.blocks_per_day",
        key: Some("spending.blocks_per_day"),
        meaning: "so many blocks moved in the last 24 hours that the disk should be replaced; the error went to the application",
    },
    Rule {
        name: "read_error",
        key: None,
        meaning: "what cannot be read cannot be copied: the sectors fail until they are written again, and move then if they must",
    },
    Rule {
        name: "read_error.action",
        key: Some("read_error.action"),
        meaning: "sectors did not read, also when they were tried again one by one, and the policy moves such blocks: what still \
                  reads of them moves along, the rest is marked lost and fails until it is written again. With “rewrite” a block that \
                  was saved as a whole goes back to main at once, which writes it anew there and costs no spare space",
    },
    Rule {
        name: "scrub",
        key: None,
        meaning: "a scrub found the sectors before an application did; what cannot be read cannot be copied: they fail until they are \
                  written again, and move then if they must",
    },
    Rule {
        name: "drive",
        key: None,
        meaning: "the drive's own logs (SMART) call the sectors bad, and a trial showed that they do not read; what cannot be read \
                  cannot be copied: they fail until they are written again, and move then if they must",
    },
    Rule {
        name: "smart.growth_per_week",
        key: Some("smart.growth_per_week"),
        meaning: "a counter of the drive itself (SMART) grew by so much within a week that it no longer looks harmless; nothing moves for \
                  that, but the drive should be looked at",
    },
    Rule { name: "operator/unremap", key: None, meaning: "somebody asked for it by “remap-guardian unremap”" },
    Rule { name: "operator/missing", key: None, meaning: "somebody gave a spare up by “remap-guardian restore --missing”" },
    Rule { name: "operator", key: None, meaning: "somebody asked for it by “remap-guardian remap”" },
    Rule {
        name: "target/hold",
        key: None,
        meaning: "the kernel holds a failed write for a bounded time (hold_ms in the settings), and only while it hears of the daemon \
                  (lease_ms); no cure was ready in time, so the application got its error",
    },
    Rule {
        name: "target/spare",
        key: None,
        meaning: "the sectors are on a spare already, it was the spare that failed, and it has no other verified space ready",
    },
];

impl Rule {
    /// The rule that a decision names.
    pub fn of(decision: &str) -> Option<&'static Rule> {
        let after_policy = decision.split_once('/').map_or(decision, |(_, rule)| rule);
        RULES.iter().find(|rule| rule.name == decision || rule.name == after_policy)
    }
}
