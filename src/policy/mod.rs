//! Policy: what to do with a fault. `decide` is pure: no clock, no I/O.

mod choose;
mod disk;
mod file;
mod load;
mod rules;

pub use choose::Policies;
pub use disk::Disk;
pub use file::{Match, Policy, ReadError, Scrub, Smart, Spare, Spending, Storm, WriteError};
pub use load::{Loaded, PolicyError};
pub use rules::{RULES, Rule};

use crate::model::{Action, Decision, Fault, Op, Sectors};

/// What has been spent and what is left, as policy needs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Cure blocks moved in the last hour.
    pub blocks_last_hour: u64,
    /// Cure blocks moved in the last 24 hours.
    pub blocks_last_day: u64,
    /// Cure blocks that this fault would take.
    pub blocks_wanted: u64,
    /// Errors in the storm that is under way; 0 if none is.
    pub storm: u64,
    /// Verified sectors that are ready on the spares.
    pub ready: Sectors,
}

/// Decides about one fault. A failed read is one only once its sectors were tried again, one by one, and did not read.
pub fn decide(policy: &Policy, ledger: &Ledger, fault: &Fault) -> Decision {
    let answer = |action, rule: &str, reason: String| Decision { action, rule: format!("{}/{rule}", policy.name), reason };
    match fault.op {
        Op::Read if policy.read_error.action.moves() => {}
        Op::Write if policy.write_error.action == Action::Observe => {
            return answer(Action::Observe, "write_error.action", "this policy only observes".into());
        }
        Op::Write if !policy.write_error.classes.contains(&fault.class) => {
            let reason = format!("errors of class {} never cost a spare under this policy", fault.class);
            return answer(Action::Observe, "write_error.classes", reason);
        }
        Op::Write => {}
        op => {
            let reason = format!("a failed {op} is recorded; the sectors heal when they are next written");
            return answer(Action::Observe, "read_error", reason);
        }
    }
    if ledger.storm > 0 {
        let reason = format!("a storm is under way: {} errors that say nothing about the medium", ledger.storm);
        return answer(Action::Observe, "storm.errors_per_minute", reason);
    }
    for (what, spent, limit) in [
        ("blocks_per_hour", ledger.blocks_last_hour, policy.spending.blocks_per_hour),
        ("blocks_per_day", ledger.blocks_last_day, policy.spending.blocks_per_day),
    ] {
        if spent.saturating_add(ledger.blocks_wanted) > limit {
            let reason = format!("{} more blocks would exceed {what} = {limit} ({spent} spent)", ledger.blocks_wanted);
            return answer(Action::Observe, &format!("spending.{what}"), reason);
        }
    }
    if fault.op == Op::Read {
        let reason = match policy.read_error.action {
            Action::Rewrite => "this block failed to read: it moves to the spare, and back again if nothing of it was lost",
            _ => "sectors of this block do not read, also when they are tried again",
        };
        return answer(policy.read_error.action, "read_error.action", reason.into());
    }
    let reason = format!("an error on write ({}), narrowed to this block", fault.class);
    answer(Action::Remap, "write_error", reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::*;

    fn policy() -> Policy {
        Policy::test_balanced()
    }

    fn fault(op: Op, class: ErrorClass) -> Fault {
        Fault {
            set: SetId(uuid::Uuid::nil()),
            member: Member::Main,
            op,
            extent: Extent::new(Sector(8), Sectors(8)).unwrap(),
            class,
            held: true,
            covered: Vec::new(),
            late: false,
            at: Millis(0),
        }
    }

    /// Decides, and sees to it that the rule can be explained.
    fn decide(policy: &Policy, ledger: &Ledger, fault: &Fault) -> Decision {
        let decision = super::decide(policy, ledger, fault);
        assert!(Rule::of(&decision.rule).is_some(), "{}", decision.rule);
        decision
    }

    fn one_block() -> Ledger {
        Ledger { blocks_wanted: 1, ready: Sectors(8), ..Ledger::default() }
    }

    #[test]
    fn only_the_medium_costs_a_spare() {
        for class in [ErrorClass::Medium, ErrorClass::Ioerr, ErrorClass::Target] {
            assert_eq!(decide(&policy(), &one_block(), &fault(Op::Write, class)).action, Action::Remap);
        }
        for class in [ErrorClass::Transport, ErrorClass::Timeout, ErrorClass::Nospc, ErrorClass::Other] {
            let decision = decide(&policy(), &one_block(), &fault(Op::Write, class));
            assert_eq!((decision.action, decision.rule.as_str()), (Action::Observe, "balanced/write_error.classes"));
        }
    }

    #[test]
    fn observing_is_a_rule_of_its_own() {
        let mut policy = policy();
        policy.write_error.action = Action::Observe;
        let decision = decide(&policy, &one_block(), &fault(Op::Write, ErrorClass::Medium));
        assert_eq!((decision.action, decision.rule.as_str()), (Action::Observe, "balanced/write_error.action"));
        for rule in ["operator", "target/spare", "target/hold", "read_error"] {
            assert!(Rule::of(rule).is_some(), "{rule}");
        }
        assert_eq!(Rule::of("balanced/nonsense"), None);
    }

    #[test]
    fn reads_are_only_recorded() {
        assert_eq!(decide(&policy(), &one_block(), &fault(Op::Read, ErrorClass::Medium)).action, Action::Observe);
    }

    #[test]
    fn nothing_is_spent_in_a_storm() {
        let ledger = Ledger { storm: 1, ..one_block() };
        let decision = decide(&policy(), &ledger, &fault(Op::Write, ErrorClass::Medium));
        assert_eq!((decision.action, decision.rule.as_str()), (Action::Observe, "balanced/storm.errors_per_minute"));
    }

    #[test]
    fn spending_is_bounded_to_the_block() {
        let mut policy = policy();
        policy.spending.blocks_per_hour = 10;
        let with = |spent| Ledger { blocks_last_hour: spent, ..one_block() };
        assert_eq!(decide(&policy, &with(9), &fault(Op::Write, ErrorClass::Medium)).action, Action::Remap);
        let refused = decide(&policy, &with(10), &fault(Op::Write, ErrorClass::Medium));
        assert_eq!((refused.action, refused.rule.as_str()), (Action::Observe, "balanced/spending.blocks_per_hour"));
        assert!(refused.reason.contains("10 spent"), "{}", refused.reason);
    }

    #[test]
    fn a_day_has_a_bound_of_its_own() {
        let mut policy = policy();
        policy.spending.blocks_per_day = 20;
        let with = |spent| Ledger { blocks_last_day: spent, ..one_block() };
        assert_eq!(decide(&policy, &with(19), &fault(Op::Write, ErrorClass::Medium)).action, Action::Remap);
        let refused = decide(&policy, &with(20), &fault(Op::Write, ErrorClass::Medium));
        assert_eq!((refused.action, refused.rule.as_str()), (Action::Observe, "balanced/spending.blocks_per_day"));
    }
}
