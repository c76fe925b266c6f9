//! The words of the field as types: sectors, extents, members, faults, remaps, decisions, history.
//! Depends on nothing else in the crate.

pub mod chain;
pub mod decision;
pub mod fault;
pub mod history;
pub mod remap;
pub mod scrub;
mod sentence;
pub mod set;
pub mod smart;
pub mod surface;
pub mod trend;
pub mod units;
mod urgency;

pub use chain::{Breach, Broken, ChainReport, ChainWalk, Cut, Pruned, Stamp};
pub use decision::{Action, Decision};
pub use fault::{ErrorClass, FailedRequest, Fault, Member, Op, TargetError, TargetErrorKind, Teller};
pub use history::{Entry, Told, What};
pub use remap::{Remap, RemapFlags};
pub use scrub::{ScrubProgress, ScrubState, ScrubSummary};
pub use set::{Geometry, Identity, Secret, SetDescription, SetId, SetName};
pub use smart::{Counter, Finder};
pub use trend::{Growth, Sample, TestKind, TestTimes};
pub use units::{Extent, ExtentError, Millis, Sector, Sectors};
pub use urgency::Urgency;
