//! Un-remap: in which order, what ends it, and what it leaves.

use super::tests::{SET, move_to_the_end, on_the_spare, recorded, told, unread};
use super::*;
use crate::model::*;
use crate::policy::Policy;

/// An engine whose main sectors 80 to 87 are on the spare at 88; a read of them failed, and nothing of them was lost.
fn remapped(action: Action) -> (Engine, Vec<Effect>) {
    let (mut engine, mut effects) = {
        let policy = Policy { read_error: crate::policy::ReadError { action, hold: false }, ..Policy::test_balanced() };
        unread(policy)
    };
    let mut last = Vec::new();
    let mut seq = 0;
    // The first of the two blocks that moved; the other one is given no answers.
    let mut of = None;
    while let Some((case, step)) = effects.iter().find_map(|effect| match effect {
        Effect::Step { case, step, .. } if of.is_none_or(|of| of == *case) => Some((*case, step.clone())),
        _ => None,
    }) {
        of = Some(case);
        let outcome = match step {
            Step::Fence(_) => Outcome::Fenced(7),
            Step::Salvage { .. } => Outcome::Salvaged { saved: Sectors(8), lost: Vec::new(), marked: false },
            Step::Seal(_) => Outcome::Sealed,
            Step::Commit(remap) => {
                seq += 1;
                Outcome::Committed(Remap { seq, ..remap })
            }
            Step::AddRemap { .. } => Outcome::Live,
            other => panic!("{other:?}"),
        };
        effects = engine.apply(Millis(10), Event::Done { set: SET, case, outcome });
        last = effects.clone();
    }
    (engine, last)
}

/// Answers until nothing more is asked; gives what was asked, in words, and what was recorded.
fn bring_back(engine: &mut Engine, mut effects: Vec<Effect>, answer: impl Fn(&str) -> Outcome) -> (Vec<String>, Vec<What>) {
    let (mut asked, mut told) = (Vec::new(), Vec::new());
    loop {
        told.extend(recorded(&effects).into_iter().cloned());
        let next = effects.iter().find_map(|effect| match effect {
            Effect::Announce { case, .. } => Some((*case, "announce")),
            Effect::Return { case, .. } => Some((*case, "return")),
            Effect::Step { case, step: Step::Seal(_), .. } => Some((*case, "seal")),
            Effect::Step { case, step: Step::Unrecord(_), .. } => Some((*case, "unrecord")),
            Effect::Step { case, step: Step::RemoveRemap { .. }, .. } => Some((*case, "remove_remap")),
            Effect::Step { case, step: Step::Lift(_), .. } => Some((*case, "lift")),
            _ => None,
        });
        let Some((case, word)) = next else { return (asked, told) };
        asked.push(word.to_string());
        effects = engine.apply(Millis(20), Event::Done { set: SET, case, outcome: answer(word) });
    }
}

fn good(word: &str) -> Outcome {
    match word {
        "announce" => Outcome::Announced,
        "return" => Outcome::BroughtBack(9),
        "seal" => Outcome::Sealed,
        "unrecord" => Outcome::Committed(Remap {
            main: Extent::new(Sector(80), Sectors(8)).unwrap(),
            spare: 0,
            at: Sector(88),
            flags: RemapFlags::default(),
            seq: 2,
        }),
        "remove_remap" => Outcome::Unmapped { free: true },
        "lift" => Outcome::Released,
        other => panic!("{other}"),
    }
}

fn asked_back() -> Event {
    Event::AskedBack { set: SET, extent: Extent::new(Sector(84), Sectors(1)).unwrap() }
}

#[test]
fn what_goes_back_is_written_down_copied_and_sealed_before_its_record_goes() {
    let (mut engine, _) = remapped(Action::Remap);
    assert_eq!(engine.set(SET).unwrap().remaps().count(), 1);
    let ready = engine.set(SET).unwrap().status(Millis(0)).spares[0].ready;
    let effects = engine.apply(Millis(15), asked_back());
    let (asked, told) = bring_back(&mut engine, effects, good);
    assert_eq!(asked, ["announce", "return", "seal", "unrecord", "remove_remap"]);
    assert!(matches!(told[..], [What::Unremapped { .. }]), "{told:?}");
    assert_eq!(engine.set(SET).unwrap().remaps().count(), 0);
    assert_eq!(engine.set(SET).unwrap().status(Millis(0)).spares[0].ready, Sectors(ready.0 + 8), "its space is ready again");
}

#[test]
fn a_device_that_is_taken_over_from_ourselves_keeps_its_storm_and_what_is_to_go_back() {
    let (mut engine, _) = remapped(Action::Remap);
    let effects = engine.apply(Millis(15), asked_back());
    assert!(matches!(effects[..], [Effect::Announce { .. }]), "{effects:?}");
    let mut event = told(100, TargetErrorKind::Failed);
    if let Event::Errors { records, .. } = &mut event {
        records[0].class = ErrorClass::Transport;
        *records = vec![records[0].clone(); 64];
    }
    engine.apply(Millis(16), event);
    let state = engine.set(SET).unwrap();
    let (set, remaps) = (Box::new(state.desc.clone()), state.remaps.values().copied().collect());
    let (capacity, policy) = (vec![state.spares[0].capacity], Box::new(state.policy.clone()));
    let effects = engine.apply(Millis(20), Event::Opened { set, remaps, capacity, policy });
    let state = engine.set(SET).unwrap();
    assert!(state.storm.errors() >= 64 && state.counters.cured == 1);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Announce { .. })), "{effects:?}");
}

#[test]
fn what_cannot_go_back_stays_and_says_why() {
    let failing = ["announce", "return", "seal", "unrecord"];
    for (index, failing) in failing.into_iter().enumerate() {
        let (mut engine, _) = remapped(Action::Remap);
        let effects = engine.apply(Millis(15), asked_back());
        let answer = |word: &str| match word {
            "unrecord" if word == failing => Outcome::NotCommitted("why".into()),
            word if word == failing => Outcome::Failed("why".into()),
            word => good(word),
        };
        let (asked, told) = bring_back(&mut engine, effects, answer);
        let lifted = index > 1;
        assert_eq!((asked.len(), asked.last().unwrap() == "lift"), (index + 1 + usize::from(lifted), lifted), "{asked:?}");
        assert!(matches!(&told[..], [What::StaysRemapped { reason, .. }] if reason == "why"), "{told:?}");
        assert_eq!(engine.set(SET).unwrap().remaps().count(), 1);
    }
}

#[test]
fn a_policy_that_rewrites_sends_back_what_was_saved_as_a_whole() {
    let (mut engine, effects) = remapped(Action::Rewrite);
    let (asked, told) = bring_back(&mut engine, effects, good);
    assert_eq!(asked.first().map(String::as_str), Some("announce"), "{asked:?}");
    assert!(told.iter().any(|what| matches!(what, What::Unremapped { .. })), "{told:?}");
    let (_, effects) = remapped(Action::Remap);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Announce { .. })));
}

/// The engine of [`remapped`], asked to bring its remap back; with the case.
fn announcing() -> (Engine, CaseId) {
    let (mut engine, _) = remapped(Action::Remap);
    let effects = engine.apply(Millis(15), asked_back());
    let [Effect::Announce { case, .. }] = effects[..] else { panic!("{effects:?}") };
    (engine, case)
}

#[test]
fn a_write_that_waits_is_not_kept_waiting_by_what_is_to_go_back() {
    let (mut engine, case) = announcing();
    let effects = engine.apply(Millis(20), on_the_spare(3, TargetErrorKind::Held, Op::Write, 88));
    assert!(matches!(recorded(&effects)[..], [What::StaysRemapped { reason, .. }] if reason == CALLED_OFF), "{effects:?}");
    // The store's answer comes late.
    assert_eq!(engine.apply(Millis(21), Event::Done { set: SET, case, outcome: Outcome::Announced }), []);
    let ended = move_to_the_end(&mut engine, &effects);
    assert!(recorded(&ended).iter().any(|what| matches!(what, What::Relocated { .. })), "{ended:?}");
}

#[test]
fn what_is_to_be_returned_is_called_off_for_a_write_that_waits() {
    let (mut engine, case) = announcing();
    engine.apply(Millis(16), Event::Done { set: SET, case, outcome: Outcome::Announced });
    let held = || on_the_spare(3, TargetErrorKind::Held, Op::Write, 88);
    let effects = engine.apply(Millis(20), held());
    assert_eq!(effects, [Effect::CallOff { set: SET, case }]);
    let effects = engine.apply(Millis(20), Event::Done { set: SET, case, outcome: Outcome::Failed(CALLED_OFF.into()) });
    assert!(matches!(recorded(&effects)[..], [What::StaysRemapped { .. }]), "{effects:?}");
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Retry { .. })), "{effects:?}");
    let effects = engine.apply(Millis(21), held());
    let fences = |effect: &Effect| matches!(effect, Effect::Step { step: Step::Fence(_), .. });
    assert!(effects.iter().any(fences), "{effects:?}");
}

#[test]
fn a_store_that_does_not_answer_ends_what_is_to_go_back() {
    let (mut engine, _) = announcing();
    assert_eq!(recorded(&engine.apply(Millis(30_014), Event::Tick)), Vec::<&What>::new());
    let effects = engine.apply(Millis(30_015), Event::Tick);
    assert!(matches!(recorded(&effects)[..], [What::StaysRemapped { reason, .. }] if reason.contains("30 s")), "{effects:?}");
    let effects = engine.apply(Millis(30_016), asked_back());
    assert!(matches!(effects[..], [Effect::Announce { .. }]), "{effects:?}");
}
