use super::*;
use crate::model::*;
use crate::policy::Policy;

const SET: SetId = SetId(uuid::Uuid::nil());

fn identity(sectors: u64) -> Identity {
    Identity { serial: "S".into(), sectors: Sectors(sectors), logical_block: 512, physical_block: 4096, ..Identity::default() }
}

/// An engine with one open set whose only spare has nothing ready.
fn engine(policy: Policy) -> Engine {
    let spare = identity(4096);
    let set = SetDescription {
        id: SET,
        name: SetName::new("data").unwrap(),
        main: identity(100_000),
        geometry: vec![geometry(&spare)],
        spares: vec![spare],
        secret: Secret([7; 16]),
        created: Millis(0),
    };
    let capacity = vec![set.geometry[0].data.len()];
    let mut engine = Engine::new();
    engine.apply(Millis(0), Event::Opened { set: Box::new(set), remaps: Vec::new(), capacity, policy: Box::new(policy) });
    engine
}

fn geometry(spare: &Identity) -> Geometry {
    Geometry {
        table_start: Sector(8),
        table_blocks: 5,
        data: Extent::new(Sector(88), Sectors(4000)).unwrap(),
        header_b: Sector(spare.sectors.0 - 8),
    }
}

fn observing() -> Policy {
    Policy {
        write_error: crate::policy::WriteError { action: Action::Observe, ..Policy::test_balanced().write_error },
        ..Policy::test_balanced()
    }
}

fn told(seq: u64, kind: TargetErrorKind) -> Event {
    let record = TargetError {
        seq,
        kind,
        op: Op::Write,
        member: Member::Main,
        main: Some(Extent::new(Sector(80), Sectors(1)).unwrap()),
        member_sector: Sector(80),
        class: ErrorClass::Medium,
        age_ms: 0,
        read_ahead: false,
    };
    Event::Errors { set: SET, records: vec![record], missed: 0 }
}

fn recorded(effects: &[Effect]) -> Vec<&What> {
    effects.iter().filter_map(|effect| if let Effect::Record(entry) = effect { Some(&entry.what) } else { None }).collect()
}

#[test]
fn a_write_that_policy_gives_up_is_one_entry_with_the_policys_reason() {
    let mut engine = engine(observing());
    let effects = engine.apply(Millis(1_000), told(1, TargetErrorKind::Held));
    let Some(Effect::Step { case, step: Step::GiveUp { .. }, .. }) = effects.first() else { panic!("{effects:?}") };
    let effects = engine.apply(Millis(1_010), Event::Done { set: SET, case: *case, outcome: Outcome::Released });
    let [What::NotRemapped { decision, .. }] = recorded(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(decision.rule, "balanced/write_error.action");
    // The target says so as well, a second later.
    assert_eq!(recorded(&engine.apply(Millis(2_000), told(2, TargetErrorKind::Released))), Vec::<&What>::new());
}

#[test]
fn a_write_that_the_kernel_gave_up_by_itself_is_told_with_the_reason() {
    for (kind, reason) in [(TargetErrorKind::Released, "not heard of"), (TargetErrorKind::Expired, "bound of the hold")] {
        let mut engine = engine(Policy::test_balanced());
        let effects = engine.apply(Millis(1_000), told(1, kind));
        let [What::NotRemapped { decision, .. }] = recorded(&effects)[..] else { panic!("{effects:?}") };
        assert!(decision.reason.contains(reason), "{kind:?}: {decision:?}");
    }
}

/// A read of one sector fails, and when it is tried again, too.
fn unread(policy: Policy) -> (Engine, Vec<Effect>) {
    let mut engine = engine(policy);
    let ready = vec![Extent::new(Sector(88), Sectors(64)).unwrap()];
    let free = Sectors(1000);
    engine.apply(Millis(1), Event::Reserved { set: SET, session: 1, spare: 0, extents: ready, free, untried: Sectors(0) });
    let mut event = told(1, TargetErrorKind::Failed);
    if let Event::Errors { records, .. } = &mut event {
        records[0].op = Op::Read;
    }
    let effects = engine.apply(Millis(2), event);
    let Some(Effect::Probe { case, .. }) = effects.first() else { panic!("it is not looked at: {effects:?}") };
    let outcome = Outcome::Probed { unreadable: vec![Sector(80), Sector(83), Sector(96)] };
    let effects = engine.apply(Millis(3), Event::Done { set: SET, case: *case, outcome });
    (engine, effects)
}

#[test]
fn a_block_that_does_not_read_moves_if_the_policy_says_so() {
    let remap = crate::policy::ReadError { action: Action::Remap };
    let (_, effects) = unread(Policy { read_error: remap, ..Policy::test_balanced() });
    assert!(matches!(recorded(&effects)[..], [What::Error { op: Op::Read, .. }]));
    let step = |effect: &Effect| match effect {
        Effect::Step { step: Step::Fence(extent), .. } => Some((extent.start().0, extent.len().0)),
        _ => None,
    };
    let fenced: Vec<_> = effects.iter().filter_map(step).collect();
    assert_eq!(fenced, [(80, 8), (96, 8)], "each block once");
}

#[test]
fn a_block_that_does_not_read_stays_where_it_is_otherwise() {
    let (engine, effects) = unread(Policy::test_balanced());
    assert!(matches!(effects[..], [Effect::Record(_)]), "{effects:?}");
    assert!(engine.set(SET).unwrap().is_settled());
}

#[test]
fn a_storm_stops_spending_and_says_so() {
    let mut engine = engine(Policy::test_balanced());
    let ready = vec![Extent::new(Sector(88), Sectors(64)).unwrap()];
    engine.apply(
        Millis(1),
        Event::Reserved { set: SET, session: 1, spare: 0, extents: ready, free: Sectors(1000), untried: Sectors(0) },
    );
    let alerts = |effects: &[Effect]| recorded(effects).iter().filter(|what| matches!(what, What::Alert { .. })).count();
    let mut alerted = 0;
    for seq in 0..64 {
        let mut event = told(seq, TargetErrorKind::Failed);
        if let Event::Errors { records, .. } = &mut event {
            records[0].class = ErrorClass::Transport;
        }
        alerted += alerts(&engine.apply(Millis(10 + seq), event));
    }
    assert_eq!(alerted, 1);
    let steps = |effects: &[Effect]| -> Vec<Step> {
        effects
            .iter()
            .filter_map(|effect| if let Effect::Step { step, .. } = effect { Some(step.clone()) } else { None })
            .collect()
    };
    let refused = engine.apply(Millis(100), told(65, TargetErrorKind::Held));
    assert!(matches!(steps(&refused)[..], [Step::GiveUp { .. }]), "{refused:?}");
    let Some(Effect::Step { case, .. }) = refused.last() else { panic!("{refused:?}") };
    engine.apply(Millis(101), Event::Done { set: SET, case: *case, outcome: Outcome::Released });
    assert_eq!(alerts(&engine.apply(Millis(60_072), Event::Tick)), 0);
    assert_eq!(alerts(&engine.apply(Millis(60_073), Event::Tick)), 1);
    let cured = engine.apply(Millis(60_100), told(66, TargetErrorKind::Held));
    assert!(matches!(steps(&cured)[..], [Step::Fence(_)]), "{cured:?}");
}

/// A block of main is served by the spare at 88, and there is more verified space.
fn served() -> Engine {
    let mut engine = engine(Policy::test_balanced());
    let ready = vec![Extent::new(Sector(88), Sectors(64)).unwrap()];
    engine.apply(
        Millis(1),
        Event::Reserved { set: SET, session: 1, spare: 0, extents: ready, free: Sectors(1000), untried: Sectors(0) },
    );
    let effects = engine.apply(Millis(2), told(1, TargetErrorKind::Held));
    move_to_the_end(&mut engine, &effects);
    assert_eq!(places(&engine), [(80, 88)]);
    engine
}

/// Lets the first case of these effects go through all its steps. What comes at the end.
fn move_to_the_end(engine: &mut Engine, effects: &[Effect]) -> Vec<Effect> {
    let started = effects.iter().find_map(|effect| match effect {
        Effect::Step { case, step: Step::Fence(_), .. } => Some(*case),
        _ => None,
    });
    let case = started.unwrap_or_else(|| panic!("nothing moves: {effects:?}"));
    let mut done = |outcome| engine.apply(Millis(3), Event::Done { set: SET, case, outcome });
    done(Outcome::Fenced(1));
    done(Outcome::Salvaged { saved: Sectors(8), lost: Vec::new(), marked: false });
    let effects = done(Outcome::Sealed);
    let [Effect::Step { step: Step::Commit(remap), .. }] = effects[..] else { panic!("{effects:?}") };
    done(Outcome::Committed(Remap { seq: 1 + remap.at.0, ..remap }));
    done(Outcome::Live)
}

fn places(engine: &Engine) -> Vec<(u64, u64)> {
    engine.set(SET).unwrap().remaps().map(|remap| (remap.main.start().0, remap.at.0)).collect()
}

fn on_the_spare(seq: u64, kind: TargetErrorKind, op: Op, at: u64) -> Event {
    let mut event = told(seq, kind);
    if let Event::Errors { records, .. } = &mut event {
        (records[0].member, records[0].member_sector, records[0].op) = (Member::Spare(0), Sector(at), op);
    }
    event
}

#[test]
fn what_a_spare_does_not_take_moves_on_it_and_the_old_place_is_given_up() {
    let mut engine = served();
    let effects = engine.apply(Millis(10), on_the_spare(2, TargetErrorKind::Failed, Op::Write, 88));
    assert!(matches!(recorded(&effects)[..], [What::Error { member: Member::Spare(0), .. }]), "{effects:?}");
    let ended = move_to_the_end(&mut engine, &effects);
    assert_eq!(places(&engine), [(80, 96)]);
    let [What::Relocated { from: Sector(88), .. }] = recorded(&ended)[..] else { panic!("{ended:?}") };
    let given_up = |effect: &Effect| matches!(effect, Effect::MarkBad { spare: 0, extent, .. } if extent.start() == Sector(88));
    assert!(ended.iter().any(given_up), "{ended:?}");
}

#[test]
fn a_write_that_waits_for_a_spare_that_failed_is_cured() {
    let mut engine = served();
    let effects = engine.apply(Millis(10), on_the_spare(2, TargetErrorKind::Held, Op::Write, 88));
    let ended = move_to_the_end(&mut engine, &effects);
    assert!(matches!(recorded(&ended)[..], [What::Relocated { .. }]), "{ended:?}");
}

#[test]
fn what_was_told_of_an_old_place_moves_nothing() {
    let mut engine = served();
    let effects = engine.apply(Millis(10), on_the_spare(2, TargetErrorKind::Held, Op::Write, 200));
    assert!(matches!(effects[..], [Effect::Retry { .. }]), "{effects:?}");
    let effects = engine.apply(Millis(11), on_the_spare(3, TargetErrorKind::Failed, Op::Write, 200));
    assert!(matches!(effects[..], [Effect::Record(_)]), "{effects:?}");
}

#[test]
fn a_spare_whose_sectors_do_not_read_keeps_them_unless_the_policy_moves_such() {
    let read = |policy: Policy| {
        let mut engine = served();
        engine.apply(Millis(9), Event::Policy { set: SET, policy: Box::new(policy) });
        let effects = engine.apply(Millis(10), on_the_spare(2, TargetErrorKind::Failed, Op::Read, 88));
        effects.iter().any(|effect| matches!(effect, Effect::Step { step: Step::Fence(_), .. }))
    };
    assert!(!read(Policy::test_balanced()));
    assert!(read(Policy { read_error: crate::policy::ReadError { action: Action::Remap }, ..Policy::test_balanced() }));
}

#[test]
fn without_other_space_of_that_spare_the_write_gets_its_error_with_the_reason() {
    let mut engine = served();
    let extent = Extent::new(Sector(80), Sectors(8)).unwrap();
    let set = engine.set(SET).unwrap();
    assert!(set.remaps().all(|remap| remap.main == extent));
    // All that is ready goes to other blocks.
    for at in 0..7 {
        let effects =
            engine.apply(Millis(4), Event::Asked { set: SET, extent: Extent::new(Sector(800 + at * 8), Sectors(8)).unwrap() });
        move_to_the_end(&mut engine, &effects);
    }
    let effects = engine.apply(Millis(10), on_the_spare(2, TargetErrorKind::Held, Op::Write, 88));
    assert!(effects.is_empty(), "new space is on its way: {effects:?}");
    let full = Event::Reserved { set: SET, session: 1, spare: 0, extents: Vec::new(), free: Sectors(0), untried: Sectors(0) };
    let effects = engine.apply(Millis(11), full);
    let given_up = effects.iter().find_map(|effect| match effect {
        Effect::Step { case, step: Step::GiveUp { .. }, .. } => Some(*case),
        _ => None,
    });
    let case = given_up.unwrap_or_else(|| panic!("{effects:?}"));
    let effects = engine.apply(Millis(11), Event::Done { set: SET, case, outcome: Outcome::Released });
    let [What::NotRemapped { decision, .. }] = recorded(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(decision.rule, "target/spare");
    assert!(places(&engine).contains(&(80, 88)));
}

#[test]
fn what_an_earlier_session_asked_for_is_not_handed_out() {
    let mut engine = engine(Policy::test_balanced());
    let extents = vec![Extent::new(Sector(88), Sectors(64)).unwrap()];
    let late = |session| Event::Reserved {
        set: SET,
        session,
        spare: 0,
        extents: extents.clone(),
        free: Sectors(1000),
        untried: Sectors(0),
    };
    let ready = |engine: &Engine| engine.set(SET).unwrap().status().spares[0].ready;
    engine.apply(Millis(1), late(0));
    assert_eq!(ready(&engine), Sectors(0));
    engine.apply(Millis(1), late(1));
    assert_eq!(ready(&engine), Sectors(64));
}

#[test]
fn a_write_that_meets_a_move_nobody_waited_for_is_waited_for() {
    let mut engine = served();
    let effects = engine.apply(Millis(10), on_the_spare(2, TargetErrorKind::Failed, Op::Write, 88));
    let effects_of_held = engine.apply(Millis(11), on_the_spare(3, TargetErrorKind::Held, Op::Write, 88));
    assert!(effects_of_held.is_empty(), "{effects_of_held:?}");
    let case = effects.iter().find_map(|effect| if let Effect::Step { case, .. } = effect { Some(*case) } else { None });
    let fenced = engine.apply(Millis(12), Event::Done { set: SET, case: case.unwrap(), outcome: Outcome::Fenced(1) });
    let [Effect::Step { step: Step::Salvage { covered, .. }, .. }] = &fenced[..] else { panic!("{fenced:?}") };
    assert_eq!(covered.len(), 1);
}

/// An engine whose main sectors 80 to 87 are on the spare at 88; a read of them failed, and nothing of them was lost.
fn remapped(action: Action) -> (Engine, Vec<Effect>) {
    let (mut engine, mut effects) = {
        let policy = Policy { read_error: crate::policy::ReadError { action }, ..Policy::test_balanced() };
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
    let ready = engine.set(SET).unwrap().status().spares[0].ready;
    let effects = engine.apply(Millis(15), asked_back());
    let (asked, told) = bring_back(&mut engine, effects, good);
    assert_eq!(asked, ["announce", "return", "seal", "unrecord", "remove_remap"]);
    assert!(matches!(told[..], [What::Unremapped { .. }]), "{told:?}");
    assert_eq!(engine.set(SET).unwrap().remaps().count(), 0);
    assert_eq!(engine.set(SET).unwrap().status().spares[0].ready, Sectors(ready.0 + 8), "its space is ready again");
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
