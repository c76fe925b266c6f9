//! How much an entry of the history matters to a person.

use super::{ScrubSummary, What};

/// How soon somebody should look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// All is as it should be: a cure that saved everything is, too.
    Notice,
    /// A disk gets worse, or data was lost that may still be elsewhere.
    Warning,
    /// An application got an error or a device is not there, or soon will: look now.
    Alarm,
}

impl Urgency {
    /// All of them, the least urgent first.
    pub const ALL: [Urgency; 3] = [Urgency::Notice, Urgency::Warning, Urgency::Alarm];

    /// Its name.
    pub fn word(self) -> &'static str {
        match self {
            Urgency::Notice => "notice",
            Urgency::Warning => "warning",
            Urgency::Alarm => "alarm",
        }
    }

    /// What has this name.
    pub fn of(word: &str) -> Option<Urgency> {
        Urgency::ALL.into_iter().find(|urgency| urgency.word() == word)
    }
}

impl What {
    /// How soon somebody should look.
    pub fn urgency(&self) -> Urgency {
        match self {
            What::NotRestored { .. } | What::NotRemapped { .. } | What::Alert { .. } => Urgency::Alarm,
            What::Error { .. } | What::Smart { .. } | What::Trend { .. } | What::Relocated { .. } | What::FileSystem { .. } => {
                Urgency::Warning
            }
            What::Remapped { lost, .. } if !lost.is_empty() => Urgency::Warning,
            What::Scrubbed(ScrubSummary { bad_blocks: 1.., .. }) => Urgency::Warning,
            What::Pruned { broken, .. } if !broken.is_empty() => Urgency::Warning,
            What::Adopted { mended, .. } if !mended.is_empty() => Urgency::Warning,
            What::Created { .. }
            | What::Restored { .. }
            | What::Adopted { .. }
            | What::Forgotten { .. }
            | What::Remapped { .. }
            | What::Unremapped { .. }
            | What::StaysRemapped { .. }
            | What::Pruned { .. }
            | What::SpareAdded { .. }
            | What::Scrubbed(_) => Urgency::Notice,
        }
    }
}
