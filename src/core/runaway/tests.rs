use proptest::prelude::*;

use super::*;

const RULE: Runaway = Runaway { by: RunawayBy::Agent, action: RunawayAction::Warn, factor: 10 };
const LIMIT: Scale = Scale { limit: 100_000, window_ms: None };
const SECOND: i64 = 1_000;

/// An hour in which agents spend 20 a minute each, in four calls, with an outcome a minute.
fn usual_hour(agents: &[&str]) -> (Watch, i64) {
    let mut watch = Watch::default();
    for quarter in 0..240 {
        for agent in agents {
            watch.spent(agent, 5, quarter * 15 * SECOND);
            if quarter % 4 == 0 {
                watch.outcomes(agent, 1, quarter * 15 * SECOND);
            }
        }
        assert_eq!(watch.look(&RULE, LIMIT, quarter * 15 * SECOND), [], "at quarter {quarter}");
    }
    (watch, 3_600 * SECOND)
}

/// The agent makes a call each second from now on; after how many seconds it is found to run.
fn seconds_until_found(watch: &mut Watch, agent: &str, each: i128, outcomes: u64, now: i64) -> Option<(i64, Running)> {
    (1..=300).find_map(|second| {
        let at = now + second * SECOND;
        watch.spent(agent, each, at);
        watch.outcomes(agent, outcomes, at);
        watch.look(&RULE, LIMIT, at).into_iter().find(|r| r.value == agent).map(|running| (second, running))
    })
}

#[test]
fn an_agent_that_spends_many_times_what_it_did_is_found_within_seconds() {
    let (mut watch, now) = usual_hour(&["a", "b"]);
    let (seconds, running) = seconds_until_found(&mut watch, "a", 100, 0, now).expect("found");
    assert!(seconds <= 15, "after {seconds} s");
    assert_eq!((running.usual, running.basis, running.allowance), (20, Basis::Past, 60));
}

#[test]
fn who_brings_as_many_more_outcomes_is_busy_and_who_spends_little_of_the_limit_is_no_matter() {
    let (mut watch, now) = usual_hour(&["a"]);
    assert_eq!(seconds_until_found(&mut watch.clone(), "a", 100, 5, now), None, "20 a piece, as ever");
    assert_eq!(watch.look(&RULE, LIMIT, now), []);
    for second in 1..=300 {
        watch.spent("a", 4, now + second * SECOND);
        assert_eq!(watch.look(&RULE, Scale { limit: 10_000_000, window_ms: None }, now + second * SECOND), []);
    }
}

#[test]
fn who_spends_as_ever_and_brings_nothing_any_more_is_found_and_has_stopped_with_the_next_outcome_or_when_it_is_silent() {
    let (watch, now) = usual_hour(&["a"]);
    // As ever: five each quarter of a minute, an outcome a minute; from now on none.
    let go_on = |watch: &mut Watch, seconds: std::ops::Range<i64>, outcomes: bool| -> Option<(i64, Running)> {
        seconds.step_by(15).find_map(|second| {
            let at = now + second * SECOND;
            watch.spent("a", 5, at);
            if outcomes && second % 60 == 0 {
                watch.outcomes("a", 1, at);
            }
            watch.look(&RULE, LIMIT, at).pop().map(|running| (second, running))
        })
    };
    assert_eq!(go_on(&mut watch.clone(), 0..7_200, true), None);
    let mut dry = watch.clone();
    let (seconds, running) = go_on(&mut dry, 0..7_200, false).expect("found");
    // The limit makes a thousand worth a word, without the dearest call; fifteen were spent since the last outcome.
    assert_eq!((seconds, running.drought), (197 * 15, Some(Drought { spent: 1_005, usual: 20 })));
    assert_eq!((running.usual, running.allowance), (20, 60), "no slower than ever while it is throttled");
    let last = |watch: &mut Watch, seconds: i64| watch.look(&RULE, LIMIT, now + seconds * SECOND);
    let (mut silent, mut mended) = (dry.clone(), dry);
    let calm_after = |watch: &mut Watch| (0..1_200).find(|second| last(watch, seconds + second).is_empty());
    let calm = calm_after(&mut silent).expect("calm");
    assert!((350..=380).contains(&calm), "a minute until nothing was spent of late, and five of calm: {calm}");
    mended.outcomes("a", 1, now + seconds * SECOND);
    assert_eq!(calm_after(&mut mended), Some(300), "as soon as it brings something");
    let (again, _) = go_on(&mut mended, seconds + 600..20_000, false).expect("found");
    assert!((again - seconds - 600 - 200 * 15).abs() <= 60, "nobody gets used to it: {again}");
}

#[test]
fn a_new_agent_is_measured_by_its_peers_and_where_there_are_none_by_the_limit() {
    let (mut watch, now) = usual_hour(&["a", "b", "c"]);
    assert_eq!(seconds_until_found(&mut watch.clone(), "new", 3, 0, now), None, "nine times a peer's rate");
    let (_, running) = seconds_until_found(&mut watch, "new", 100, 0, now).expect("found");
    assert_eq!(running.basis, Basis::Peers);
    let mut alone = Watch::default();
    assert_eq!(seconds_until_found(&mut alone.clone(), "first", 30, 0, 0), None, "nine thousand in five minutes are no tenth");
    let (seconds, running) = seconds_until_found(&mut alone, "first", 200, 0, 0).expect("found");
    assert_eq!((seconds, running.basis), (50, Basis::Limit), "a tenth of the limit");
}

#[test]
fn in_a_long_window_a_small_part_of_the_limit_is_worth_a_word() {
    // A month's limit that twenty a minute use a twentieth of: 400 use it up.
    let month = Scale { limit: 17_280_000, window_ms: Some(30 * 24 * 60 * MINUTE_MS) };
    assert_eq!((month.material(), month.usual_without_past()), (2_000, 2_000));
    let (watch, now) = usual_hour(&["a"]);
    let found = |each: i128| {
        let mut watch = watch.clone();
        (1..=300).any(|second| {
            watch.spent("a", each, now + second * SECOND);
            !watch.look(&RULE, month, now + second * SECOND).is_empty()
        })
    };
    assert!(found(20) && !found(5));
}

#[test]
fn one_dear_call_is_no_loop() {
    let (mut watch, now) = usual_hour(&["a"]);
    for second in 0..120 {
        if second == 1 {
            watch.spent("a", 50_000, now + SECOND);
        } else if second % 15 == 0 {
            watch.spent("a", 5, now + second * SECOND);
        }
        assert_eq!(watch.look(&RULE, LIMIT, now + second * SECOND), []);
    }
}

#[test]
fn it_has_run_once_it_was_calm_for_five_minutes_and_nobody_gets_used_to_it() {
    let (mut watch, now) = usual_hour(&["a"]);
    let (seconds, _) = seconds_until_found(&mut watch, "a", 100, 0, now).expect("found");
    let mut at = now + seconds * SECOND;
    for _ in 0..30 * 60 {
        at += SECOND;
        watch.spent("a", 100, at);
        let running = watch.look(&RULE, LIMIT, at);
        assert_eq!(running.first().map(|r| r.usual), Some(20));
    }
    let stopped = at;
    while !watch.look(&RULE, LIMIT, at).is_empty() {
        at += 5 * SECOND;
    }
    let calm = (at - stopped) / SECOND;
    assert!((300..=370).contains(&calm), "{calm}");
    // Who is held back spends nothing, and has not stopped for all that.
    let mut held = watch.clone();
    let (found_after, _) = seconds_until_found(&mut held, "a", 100, 0, at).expect("found");
    for second in found_after..3_600 {
        held.refused("a", at + second * SECOND);
        assert_eq!(held.look(&RULE, LIMIT, at + second * SECOND).len(), 1);
    }
    // It is as quick to see the next.
    assert!(seconds_until_found(&mut watch, "a", 100, 0, at).expect("found").0 <= 15);
}

#[test]
fn a_budget_remembers_so_many_values_and_forgets_the_silent_first() {
    let mut watch = Watch::default();
    for n in 0..2 * MAX_VALUES {
        watch.spent(&format!("s{n}"), 1, n as i64);
    }
    assert_eq!(watch.0.len(), MAX_VALUES);
    assert!(watch.0.contains_key(&format!("s{}", 2 * MAX_VALUES - 1)) && !watch.0.contains_key("s0"));
}

proptest! {
    #[test]
    fn nobody_runs_who_never_spends_ten_times_its_usual_minute(
        calls in prop::collection::vec((5..9i128, 1..20i64), 100..600),
    ) {
        // Calls of similar cost, one each second to twenty: a minute costs at most 60 · 8 and its median at least 3 · 5 …
        let (mut watch, mut at) = (Watch::default(), 0);
        for (amount, pause) in calls {
            at += pause * SECOND;
            watch.spent("a", amount, at);
            for running in watch.look(&RULE, Scale { limit: 1_000, window_ms: None }, at) {
                // … so whoever is found did spend ten times as much.
                prop_assert!(running.per_minute >= 10 * running.usual);
            }
        }
    }
}
