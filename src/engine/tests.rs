use super::*;
use crate::model::*;
use crate::policy::Policy;

pub(super) const SET: SetId = SetId(uuid::Uuid::nil());

fn identity(sectors: u64) -> Identity {
    Identity { serial: "S".into(), sectors: Sectors(sectors), logical_block: 512, physical_block: 4096, ..Identity::default() }
}

/// An engine with one open set whose only spare has nothing ready.
pub(super) fn engine(policy: Policy) -> Engine {
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

pub(super) fn told(seq: u64, kind: TargetErrorKind) -> Event {
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

#[test]
fn a_failed_flush_starts_a_scrub_once_an_hour() {
    let mut engine = engine(Policy::test_balanced());
    let mut seq = 0;
    let mut scrubs = |at: u64, op: Op, class: ErrorClass| {
        seq += 1;
        let mut event = told(seq, TargetErrorKind::Failed);
        if let Event::Errors { records, .. } = &mut event {
            records[0] = TargetError { op, class, main: None, ..records[0].clone() };
        }
        engine.apply(Millis(at), event).contains(&Effect::Scrub { set: SET })
    };
    assert!(!scrubs(1_000, Op::Flush, ErrorClass::Transport), "it says nothing about a medium");
    assert!(!scrubs(2_000, Op::Discard, ErrorClass::Medium), "nothing was lost");
    assert!(scrubs(3_000, Op::Flush, ErrorClass::Ioerr));
    assert!(!scrubs(3_602_000, Op::Flush, ErrorClass::Ioerr), "it is not an hour ago");
    assert!(scrubs(3_603_000, Op::Flush, ErrorClass::Medium));
}

#[test]
fn a_flush_that_is_repeated_is_told_once_an_hour() {
    let mut engine = engine(Policy::test_balanced());
    let mut told = |at: u64| {
        let event = Event::FlushAgain { set: SET, member: Member::Spare(0), text: "kernel: ata1.00: …".into() };
        let effects = engine.apply(Millis(at), event);
        let alerts = recorded(&effects).iter().filter(|what| matches!(what, What::Alert { .. })).count();
        (alerts, effects.contains(&Effect::Scrub { set: SET }))
    };
    assert_eq!(told(1_000), (1, true));
    assert_eq!(told(3_600_000), (0, false));
    assert_eq!(told(3_601_000), (1, true));
}

pub(super) fn recorded(effects: &[Effect]) -> Vec<&What> {
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

#[test]
fn evidence_is_what_the_application_met_and_not_what_our_trials_of_it_met() {
    let noted = |sector: u64, len: u64| {
        let (by, op, class) = (Teller::Tracepoint, Some(Op::Read), ErrorClass::Medium);
        let failed = Some(FailedRequest { by, op, class, len: Sectors(len), read_ahead: false });
        Event::Noted { set: SET, member: Member::Main, sector: Some(Sector(sector)), text: format!("{sector}+{len}"), failed }
    };
    let mut engine = engine(Policy::test_balanced());
    engine.apply(Millis(1), noted(80, 8));
    let mut event = told(1, TargetErrorKind::Failed);
    if let Event::Errors { records, .. } = &mut event {
        records[0].op = Op::Read;
    }
    let effects = engine.apply(Millis(2), event);
    let Some(Effect::Probe { case, .. }) = effects.first() else { panic!("it is not looked at: {effects:?}") };
    for sector in 80..88 {
        engine.apply(Millis(3), noted(sector, 1));
    }
    let outcome = Outcome::Probed { unreadable: vec![Sector(80)] };
    let effects = engine.apply(Millis(4), Event::Done { set: SET, case: *case, outcome });
    let [What::Error { evidence, .. }] = recorded(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(evidence[0], "80+8");
}

/// A read of one sector fails, and when it is tried again, too.
pub(super) fn unread(policy: Policy) -> (Engine, Vec<Effect>) {
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
    let remap = crate::policy::ReadError { action: Action::Remap, hold: false };
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

#[test]
fn errors_of_others_at_the_same_port_are_part_of_a_storm_and_are_named() {
    let mut engine = engine(Policy::test_balanced());
    let worse = vec!["CRC errors of the link: 3 → 5".into()];
    engine.apply(Millis(5), Event::Smart { set: SET, member: Member::Main, summary: String::new(), worse });
    let mut event = told(1, TargetErrorKind::Failed);
    if let Event::Errors { records, .. } = &mut event {
        records[0].class = ErrorClass::Transport;
    }
    engine.apply(Millis(10), event);
    let limit = Policy::test_balanced().storm.errors_per_minute;
    let near = |n: u64| Event::Nearby { set: SET, text: format!("at the same port: line {n}") };
    let alerts: Vec<_> = (2..=limit).map(|n| engine.apply(Millis(10 + n), near(n))).collect();
    let (last, before) = alerts.split_last().unwrap();
    assert!(before.iter().all(Vec::is_empty), "{before:?}");
    let [What::Alert { message }] = recorded(last)[..] else { panic!("{last:?}") };
    assert!(message.contains(&format!("at the same port: line {limit}")) && message.contains("SMART of main: CRC"), "{message}");
    let refused = engine.apply(Millis(100), told(65, TargetErrorKind::Held));
    assert!(matches!(refused.first(), Some(Effect::Step { step: Step::GiveUp { .. }, .. })), "{refused:?}");
}

#[test]
fn every_count_of_the_link_is_named_in_a_storm_for_a_day_and_no_other_count_is() {
    const DAY: u64 = 24 * 3_600_000;
    for ((counter, _), at) in Counter::ALL.into_iter().flat_map(|counter| [(counter, 5 + DAY - 1), (counter, 5 + DAY)]) {
        let mut engine = engine(Policy::test_balanced());
        let change = format!("{}: 3 → 5", counter.words());
        let event = Event::Smart { set: SET, member: Member::Main, summary: String::new(), worse: vec![change.clone()] };
        let told = engine.apply(Millis(5), event);
        assert!(matches!(recorded(&told)[..], [What::Smart { member: Member::Main, change: of }] if *of == change), "{told:?}");
        let near = |_| engine.apply(Millis(at), Event::Nearby { set: SET, text: "at the same port".into() });
        let last = (0..Policy::test_balanced().storm.errors_per_minute).map(near).last().unwrap();
        let [What::Alert { message }] = recorded(&last)[..] else { panic!("{last:?}") };
        let is_named = message.contains(&format!("SMART of main: {change}"));
        assert_eq!(is_named, counter.tells_of_link() && at < 5 + DAY, "{message}");
    }
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
pub(super) fn move_to_the_end(engine: &mut Engine, effects: &[Effect]) -> Vec<Effect> {
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

pub(super) fn on_the_spare(seq: u64, kind: TargetErrorKind, op: Op, at: u64) -> Event {
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
    assert!(read(Policy {
        read_error: crate::policy::ReadError { action: Action::Remap, hold: false },
        ..Policy::test_balanced()
    }));
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
    let ready = |engine: &Engine| engine.set(SET).unwrap().status(Millis(0)).spares[0].ready;
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

#[test]
fn a_place_that_the_drive_calls_bad_and_that_does_not_read_is_probed_and_told() {
    let mut engine = engine(Policy::test_balanced());
    let state = engine.set(SET).unwrap();
    let extent = |start, len| Extent::new(Sector(start), Sectors(len)).unwrap();
    let parts = state.parts_on(Member::Main, extent(83, 1));
    assert_eq!(parts, [Part { member: Member::Main, at: extent(80, 8), main: extent(80, 8) }], "a whole block");
    assert_eq!(state.parts_on(Member::Main, extent(200_000, 1)), [], "beyond its end");
    assert_eq!(state.parts_on(Member::Spare(0), extent(100, 1)), [], "nothing is served from there");
    let effects = engine.apply(Millis(1_000), Event::Found { set: SET, part: parts[0], by: Finder::Drive });
    let [Effect::Probe { case, extent: probed, .. }] = effects[..] else { panic!("{effects:?}") };
    assert_eq!(probed, extent(80, 8));
    let outcome = Outcome::Probed { unreadable: vec![Sector(83)] };
    let effects = engine.apply(Millis(1_010), Event::Done { set: SET, case, outcome });
    let [What::Error { unreadable, meaning, .. }] = recorded(&effects)[..] else { panic!("{effects:?}") };
    assert!(unreadable == &[Sector(83)] && meaning.contains("the drive itself calls it bad"), "{meaning}");
    assert_eq!(engine.set(SET).unwrap().status(Millis(0)).counters.read_errors, 0, "no application met it");
}

#[test]
fn an_alert_says_when_the_spare_will_be_full_if_that_can_be_told() {
    const DAY: u64 = 24 * 3_600_000;
    let spent =
        |days: std::ops::Range<u64>| days.map(|day| Spent { spare: 0, ago_ms: day * DAY, sectors: 8 }).collect::<Vec<_>>();
    let message = |known_ms, spent| {
        let mut engine = engine(Policy {
            spare: crate::policy::Spare { alert_percent: vec![1], ..Policy::test_balanced().spare },
            ..Policy::test_balanced()
        });
        engine.apply(Millis(5), Event::Spent { set: SET, known_ms, spent });
        let state = engine.sets.get_mut(&SET).unwrap();
        (state.spares[0].in_use, state.spares[0].free) = (Sectors(400), Some(Sectors(320)));
        let Some(Effect::Record(entry)) = state.usage_alert(Millis(10), 0) else { panic!("no alert") };
        assert_eq!(state.status(Millis(10)).spares[0].forecast.is_some(), entry.what.sentence().contains("full in about"));
        entry.what.sentence()
    };
    // Of seven days with 8 sectors each the first is just more than a week ago: 320 more last for 46 days.
    let told = message(30 * DAY, spent(1..8));
    assert!(told.ends_with("at the rate of the last 7 days it is full in about 46 days"), "{told}");
    assert!(message(30 * DAY, spent(1..2)).ends_with("add another"), "one day is no rate");
    assert!(message(DAY / 2, spent(0..8)).ends_with("add another"), "too little is known");
}

/// When the spare is tended by ticks from `from` on.
fn tended_at(engine: &mut Engine, from: u64) -> Option<u64> {
    let tends = |effects: Vec<Effect>| effects.contains(&Effect::Tend { set: SET, spare: 0 });
    (from..from + 5_000_000).step_by(1_000).find(|at| tends(engine.apply(Millis(*at), Event::Tick)))
}

fn after_tend(engine: &mut Engine, at: u64, tended: Tended) -> u64 {
    engine.apply(Millis(at), Event::Tended { set: SET, spare: Some((0, tended)), news: Vec::new() });
    tended_at(engine, at).unwrap() - at
}

#[test]
fn a_spare_that_takes_no_write_is_tended_ever_more_rarely_unless_a_seal_waits_for_it() {
    let mut engine = engine(Policy::test_balanced());
    let at = tended_at(&mut engine, 0).unwrap();
    assert_eq!(tended_at(&mut engine, at), None, "one is under way");
    let failed = |sealed| Tended::Failed { sealed };
    let mut waits = |tended: Tended, times: usize| -> Vec<u64> {
        (0..times).map(|_| after_tend(&mut engine, 10_000_000, tended) / 1_000).collect()
    };
    assert_eq!(waits(Tended::Mended, 2), [0, 0]);
    assert_eq!(waits(failed(false), 9), [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]);
    assert_eq!(waits(Tended::Well, 2), [30, 30]);
    assert_eq!(waits(failed(true), 5), [1, 2, 4, 8, 8]);
}

#[test]
fn no_spare_is_tended_while_a_write_waits() {
    let mut engine = engine(Policy::test_balanced());
    let ready = vec![Extent::new(Sector(88), Sectors(64)).unwrap()];
    // It waits for spare space, then for its cure.
    engine.apply(Millis(1), told(1, TargetErrorKind::Held));
    assert_eq!(tended_at(&mut engine, 2), None);
    let reserved = Event::Reserved { set: SET, session: 1, spare: 0, extents: ready, free: Sectors(0), untried: Sectors(0) };
    let effects = engine.apply(Millis(3), reserved);
    let Some(Effect::Step { case, .. }) = effects.first() else { panic!("{effects:?}") };
    assert_eq!(tended_at(&mut engine, 4), None);
    engine.apply(Millis(5), Event::Done { set: SET, case: *case, outcome: Outcome::Failed("no fence".into()) });
    engine.apply(Millis(6), Event::Done { set: SET, case: *case, outcome: Outcome::Released });
    assert_eq!(tended_at(&mut engine, 7), Some(7));
}

#[test]
fn what_was_spent_before_counts_and_what_went_back_does_not() {
    const HOUR: u64 = 3_600_000;
    let now = Millis(100 * HOUR);
    let mut engine = engine(Policy::test_balanced());
    engine.sets.get_mut(&SET).unwrap().count_spent(now, 5);
    let spent = |hours: u64, sectors: i64| Spent { spare: 0, ago_ms: hours * HOUR + HOUR / 2, sectors };
    let spent = vec![spent(30, 800), spent(0, 16), spent(5, 7), spent(6, 80), spent(4, -16)];
    engine.apply(now, Event::Spent { set: SET, known_ms: 40 * HOUR, spent });
    let state = engine.sets.get_mut(&SET).unwrap();
    // Of the 11 blocks that were spent by then, two came back.
    let blocks = |state: &SetState| state.spent.iter().map(|(_, blocks)| *blocks).collect::<Vec<_>>();
    assert_eq!(blocks(state), [9, 2, 5]);
    state.count_spent(now, -6);
    assert_eq!(blocks(state), [9, 1]);
    state.count_spent(now, -100);
    assert_eq!(blocks(state), [0; 0]);
}

#[test]
fn what_is_tried_again_is_not_cured_by_its_old_word() {
    let mut engine = engine(Policy::test_balanced());
    let Event::Errors { records, .. } = told(1, TargetErrorKind::Held) else { unreachable!() };
    let effects = engine.apply(Millis(1), Event::Errors { set: SET, records, missed: 3 });
    assert!(matches!(effects[..], [Effect::Retry { .. }]), "{effects:?}");
    assert!(engine.set(SET).unwrap().status(Millis(1)).cases.is_empty());
}

#[test]
fn no_more_than_some_looks_wait_for_a_disk_and_every_error_is_told() {
    let mut engine = engine(Policy::test_balanced());
    let Event::Errors { records, .. } = told(1, TargetErrorKind::Failed) else { unreachable!() };
    let failed = |place: u64| {
        let main = Some(Extent::new(Sector(80 + place * 80), Sectors(8)).unwrap());
        TargetError { seq: place, op: Op::Read, main, ..records[0].clone() }
    };
    let event = Event::Errors { set: SET, records: (0..100).map(failed).collect(), missed: 0 };
    let effects = engine.apply(Millis(1), event);
    let looks = effects.iter().filter(|effect| matches!(effect, Effect::Probe { .. })).count();
    assert_eq!((looks, recorded(&effects).len()), (64, 36));
}
