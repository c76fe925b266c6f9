//! Reads that wait: what becomes of them, and what history says.

use super::tests::{SET, engine, recorded};
use super::*;
use crate::model::*;
use crate::policy::{Policy, ReadError};

fn policy(action: Action) -> Policy {
    Policy { read_error: ReadError { action, hold: true }, ..Policy::test_balanced() }
}

fn extent(start: u64, len: u64) -> Extent {
    Extent::new(Sector(start), Sectors(len)).unwrap()
}

fn told(kind: TargetErrorKind, class: ErrorClass, start: u64, len: u64) -> Event {
    let main = Some(extent(start, len));
    let (member, member_sector) = (Member::Main, Sector(start));
    let record = TargetError { seq: 1, kind, op: Op::Read, member, main, member_sector, class, age_ms: 0, read_ahead: false };
    Event::Errors { set: SET, records: vec![record], missed: 0 }
}

fn waits(class: ErrorClass, start: u64, len: u64) -> Event {
    told(TargetErrorKind::Held, class, start, len)
}

fn probe(effects: &[Effect]) -> (CaseId, Extent) {
    let [Effect::Probe { case, extent, .. }] = effects else { panic!("{effects:?}") };
    (*case, *extent)
}

fn probed(case: CaseId, unreadable: &[u64]) -> Event {
    let unreadable = unreadable.iter().map(|at| Sector(*at)).collect();
    Event::Done { set: SET, case, outcome: Outcome::Probed { unreadable } }
}

fn retry(extent: Extent) -> Effect {
    Effect::Retry { set: SET, extent }
}

fn release(extent: Extent) -> Effect {
    Effect::ReleaseReads { set: SET, extent }
}

/// Space to move to.
fn ready(engine: &mut Engine) {
    let event = Event::Reserved {
        set: SET,
        session: 1,
        spare: 0,
        extents: vec![extent(88, 64)],
        free: Sectors(1000),
        untried: Sectors(0),
    };
    engine.apply(Millis(0), event);
}

#[test]
fn a_read_whose_sectors_read_when_they_are_tried_again_is_driven_again() {
    let mut engine = engine(policy(Action::Observe));
    let (case, tried) = probe(&engine.apply(Millis(1_000), waits(ErrorClass::Medium, 80, 8)));
    assert_eq!(tried, extent(80, 8));
    let effects = engine.apply(Millis(1_500), probed(case, &[]));
    assert!(effects.contains(&retry(extent(80, 8))), "{effects:?}");
    let [What::Error { meaning, unreadable, .. }] = recorded(&effects)[..] else { panic!("{effects:?}") };
    assert!(meaning.contains("waited") && unreadable.is_empty(), "{meaning}");
}

#[test]
fn of_a_read_that_waits_only_the_blocks_that_do_not_read_get_their_error() {
    let mut engine = engine(policy(Action::Observe));
    let (case, _) = probe(&engine.apply(Millis(1_000), waits(ErrorClass::Medium, 80, 24)));
    let effects = engine.apply(Millis(1_500), probed(case, &[89]));
    let moves = |effect: &&Effect| matches!(effect, Effect::Retry { .. } | Effect::ReleaseReads { .. });
    let moves: Vec<_> = effects.iter().filter(moves).cloned().collect();
    assert_eq!(moves, [release(extent(88, 8)), retry(extent(80, 8)), retry(extent(96, 8))]);
    assert!(matches!(recorded(&effects)[..], [What::Error { .. }]), "{effects:?}");
    // The target says so, too. History has it already, and nothing is looked at again.
    for (start, len) in [(88, 8), (89, 1)] {
        assert_eq!(engine.apply(Millis(2_000), told(TargetErrorKind::Released, ErrorClass::Medium, start, len)), []);
    }
    assert_eq!(engine.set(SET).unwrap().status(Millis(0)).counters.read_errors, 2);
    // The sound blocks beside it are looked at when they fail.
    probe(&engine.apply(Millis(2_000), waits(ErrorClass::Medium, 80, 8)));
    assert_eq!(engine.apply(Millis(2_000), waits(ErrorClass::Medium, 88, 8)), [release(extent(88, 8))]);
}

#[test]
fn what_has_been_shown_not_to_read_is_not_tried_again_for_each_read() {
    let mut engine = engine(policy(Action::Observe));
    let (case, _) = probe(&engine.apply(Millis(1_000), waits(ErrorClass::Medium, 80, 8)));
    engine.apply(Millis(1_500), probed(case, &[80]));
    for at in [2_000, 40_000] {
        assert_eq!(engine.apply(Millis(at), waits(ErrorClass::Medium, 80, 8)), [release(extent(80, 8))]);
        engine.apply(Millis(at), told(TargetErrorKind::Released, ErrorClass::Medium, 80, 8));
    }
    // A minute later it may.
    probe(&engine.apply(Millis(62_000), waits(ErrorClass::Medium, 80, 8)));
}

#[test]
fn what_reads_now_and_then_is_tried_again_three_times_a_minute_and_told_once() {
    let mut engine = engine(policy(Action::Observe));
    let mut entries = 0;
    for look in 0..3 {
        let (case, _) = probe(&engine.apply(Millis(1_000 + look), waits(ErrorClass::Medium, 80, 8)));
        let effects = engine.apply(Millis(1_000 + look), probed(case, &[]));
        assert!(effects.contains(&retry(extent(80, 8))), "{effects:?}");
        entries += recorded(&effects).len();
    }
    assert_eq!(entries, 1);
    assert_eq!(engine.apply(Millis(2_000), waits(ErrorClass::Medium, 80, 8)), [release(extent(80, 8))]);
}

#[test]
fn a_read_that_comes_during_the_look_waits_for_the_same_one() {
    let mut engine = engine(policy(Action::Observe));
    let (case, _) = probe(&engine.apply(Millis(1_000), told(TargetErrorKind::Failed, ErrorClass::Medium, 80, 8)));
    assert_eq!(engine.apply(Millis(1_001), waits(ErrorClass::Medium, 80, 8)), []);
    assert!(engine.apply(Millis(1_500), probed(case, &[])).contains(&retry(extent(80, 8))));
}

#[test]
fn a_look_that_fails_answers_who_waits() {
    let mut engine = engine(policy(Action::Observe));
    let (case, _) = probe(&engine.apply(Millis(1_000), waits(ErrorClass::Medium, 80, 8)));
    let outcome = Outcome::Failed("the disk is gone".into());
    let effects = engine.apply(Millis(1_500), Event::Done { set: SET, case, outcome });
    assert!(effects.contains(&release(extent(80, 8))), "{effects:?}");
    let [What::Error { meaning, .. }] = recorded(&effects)[..] else { panic!("{effects:?}") };
    assert!(meaning.contains("got the error"), "{meaning}");
}

#[test]
fn what_reads_again_does_not_wait_for_its_move() {
    let mut engine = engine(policy(Action::Rewrite));
    ready(&mut engine);
    let (case, _) = probe(&engine.apply(Millis(1_000), waits(ErrorClass::Medium, 80, 8)));
    let effects = engine.apply(Millis(1_500), probed(case, &[]));
    assert!(effects.contains(&retry(extent(80, 8))), "{effects:?}");
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Step { step: Step::Fence(_), .. })), "{effects:?}");
}

#[test]
fn a_read_that_met_its_bound_is_not_told_as_one_that_got_its_data() {
    let mut engine = engine(policy(Action::Observe));
    let (case, _) = probe(&engine.apply(Millis(1_000), waits(ErrorClass::Medium, 80, 8)));
    assert_eq!(engine.apply(Millis(11_000), told(TargetErrorKind::Expired, ErrorClass::Medium, 80, 8)), []);
    let effects = engine.apply(Millis(12_000), probed(case, &[]));
    let [What::Error { meaning, .. }] = recorded(&effects)[..] else { panic!("{effects:?}") };
    assert!(meaning.contains("got the error"), "{meaning}");
}

#[test]
fn beyond_a_few_looks_no_read_waits_for_one() {
    let mut engine = engine(policy(Action::Observe));
    for place in 0..4 {
        probe(&engine.apply(Millis(1_000), waits(ErrorClass::Medium, 800 + place * 80, 8)));
    }
    assert_eq!(engine.apply(Millis(1_000), waits(ErrorClass::Medium, 80, 8)), [release(extent(80, 8))]);
}

#[test]
fn a_read_that_waits_brings_no_content() {
    for action in [Action::Remap, Action::Rewrite] {
        let mut engine = engine(policy(action));
        ready(&mut engine);
        let (case, _) = probe(&engine.apply(Millis(1_000), waits(ErrorClass::Medium, 80, 24)));
        let effects = engine.apply(Millis(1_500), probed(case, &[89]));
        let fence = |effect: &Effect| match effect {
            Effect::Step { case, step: Step::Fence(extent), .. } => Some((*case, *extent)),
            _ => None,
        };
        let (case, moved) = effects.iter().find_map(fence).unwrap_or_else(|| panic!("{effects:?}"));
        assert_eq!(moved, extent(88, 8));
        // It waits for the move, which drives it again; the others do not.
        assert!(effects.contains(&retry(extent(80, 8))) && effects.contains(&retry(extent(96, 8))), "{effects:?}");
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::ReleaseReads { .. })), "{effects:?}");
        let effects = engine.apply(Millis(1_600), Event::Done { set: SET, case, outcome: Outcome::Fenced(7) });
        let [Effect::Step { step: Step::Salvage { covered, .. }, .. }] = &effects[..] else { panic!("{effects:?}") };
        assert!(covered.is_empty(), "{covered:?}");
    }
}

#[test]
fn a_block_that_a_remap_serves_by_now_is_read_there() {
    let mut engine = engine(policy(Action::Remap));
    ready(&mut engine);
    let (case, _) = probe(&engine.apply(Millis(1_000), waits(ErrorClass::Medium, 80, 8)));
    let effects = engine.apply(Millis(1_500), probed(case, &[80]));
    super::tests::move_to_the_end(&mut engine, &effects);
    assert_eq!(engine.apply(Millis(3_000), waits(ErrorClass::Medium, 80, 8)), [retry(extent(80, 8))]);
}

#[test]
fn a_read_and_a_write_that_wait_side_by_side_are_two_faults() {
    let mut engine = engine(policy(Action::Observe));
    ready(&mut engine);
    let Event::Errors { mut records, .. } = waits(ErrorClass::Medium, 80, 8) else { unreachable!() };
    records.push(TargetError { op: Op::Write, main: Some(extent(88, 8)), ..records[0].clone() });
    let effects = engine.apply(Millis(1_000), Event::Errors { set: SET, records, missed: 0 });
    let fenced =
        effects.iter().any(|effect| matches!(effect, Effect::Step { step: Step::Fence(of), .. } if *of == extent(88, 8)));
    let probed = effects.iter().any(|effect| matches!(effect, Effect::Probe { extent: of, .. } if *of == extent(80, 8)));
    assert!(fenced && probed, "{effects:?}");
}

#[test]
fn in_a_storm_no_read_waits() {
    let mut engine = engine(policy(Action::Remap));
    let Event::Errors { records, .. } = told(TargetErrorKind::Failed, ErrorClass::Transport, 800, 8) else { unreachable!() };
    engine.apply(Millis(900), Event::Errors { set: SET, records: vec![records[0].clone(); 100], missed: 0 });
    assert_eq!(engine.apply(Millis(1_000), waits(ErrorClass::Medium, 80, 8)), [release(extent(80, 8))]);
}

#[test]
fn the_bound_of_the_hold_is_told_as_the_error_that_it_is() {
    let mut engine = engine(policy(Action::Observe));
    let effects = engine.apply(Millis(1_000), told(TargetErrorKind::Expired, ErrorClass::Medium, 80, 8));
    let (case, _) = probe(&effects);
    let effects = engine.apply(Millis(1_500), probed(case, &[80]));
    let [What::Error { meaning, .. }] = recorded(&effects)[..] else { panic!("{effects:?}") };
    assert!(meaning.contains("got the error"), "{meaning}");
    assert_eq!(engine.set(SET).unwrap().status(Millis(0)).counters.read_errors, 1);
}
