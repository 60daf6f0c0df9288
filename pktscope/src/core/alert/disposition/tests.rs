//! Dispositions against the faults of the store they replace.

use super::*;

const DAY: i64 = 86_400 * 1_000_000_000;
const NOW: WallTime = WallTime(400 * DAY);

fn record(fingerprint: Option<&str>, verdict: Verdict) -> Record {
    Record {
        rule: Some(RuleId::Beaconing),
        verdict,
        scope: Scope::Detection(fingerprint.map(Into::into)),
        at: None,
        analyst: "ann".into(),
        note: "".into(),
    }
}

fn dispositions() -> Dispositions {
    Dispositions::new(DispositionSettings::default())
}

fn apply(all: &mut Dispositions, record: &Record, now: WallTime) -> Outcome {
    all.apply(record, now, |_| Vec::new()).remove(0)
}

fn counts(all: &Dispositions, now: WallTime) -> (u32, u32, u32) {
    let summary = all.summary(RuleId::Beaconing, now);
    (summary.true_positives, summary.false_positives, summary.benign_true_positives)
}

#[test]
fn the_ratio_needs_its_sample_and_its_numerator() {
    let mut all = dispositions();
    for n in 0..4 {
        apply(&mut all, &record(Some(&n.to_string()), Verdict::FalsePositive), NOW);
    }
    assert_eq!(all.summary(RuleId::Beaconing, NOW).false_positive_ratio, None);
    apply(&mut all, &record(Some("4"), Verdict::BenignTruePositive), NOW);
    assert_eq!(all.summary(RuleId::Beaconing, NOW).false_positive_ratio, Some(0.8));
    let settings = DispositionSettings { numerator: Numerator::FalseAndBenign, ..DispositionSettings::default() };
    let mut wide = Dispositions::new(settings);
    wide.restore(&all.snapshot().records, NOW);
    assert_eq!(wide.summary(RuleId::Beaconing, NOW).false_positive_ratio, Some(1.0));
}

#[test]
fn fault_22_a_re_read_counts_once_with_and_without_ids() {
    let mut all = dispositions();
    let table = [
        record(None, Verdict::FalsePositive),
        Record { at: Some(WallTime(NOW.0 - 5)), ..record(None, Verdict::FalsePositive) },
        record(Some("7"), Verdict::FalsePositive),
        Record { scope: Scope::Incident("i".into()), ..record(None, Verdict::FalsePositive) },
    ];
    for (read, day) in (0..20).enumerate() {
        let now = WallTime(NOW.0 + day * DAY);
        for record in &table {
            let expected = if read == 0 { Outcome::Accepted } else { Outcome::Duplicate };
            assert_eq!(apply(&mut all, record, now), expected);
        }
    }
    assert_eq!(counts(&all, NOW), (0, 4, 0));
}

#[test]
fn fault_23_a_changed_verdict_takes_the_place_of_the_old_one() {
    let mut all = dispositions();
    apply(&mut all, &record(Some("7"), Verdict::TruePositive), NOW);
    let later = WallTime(NOW.0 + 1);
    let outcome = apply(&mut all, &record(Some("7"), Verdict::FalsePositive), later);
    assert_eq!(outcome, Outcome::Replaced(Verdict::TruePositive));
    assert_eq!(counts(&all, later), (0, 1, 0));
    let stale = Record { at: Some(WallTime(NOW.0 - DAY)), ..record(Some("7"), Verdict::TruePositive) };
    assert_eq!(apply(&mut all, &stale, later), Outcome::Duplicate, "an older verdict does not come back");
}

#[test]
fn fault_23_two_verdicts_of_one_second_without_ids_are_one_changed_verdict() {
    let mut all = dispositions();
    let at = Some(NOW);
    apply(&mut all, &Record { at, ..record(None, Verdict::TruePositive) }, NOW);
    let second = apply(&mut all, &Record { at, ..record(None, Verdict::FalsePositive) }, NOW);
    assert_eq!((second, counts(&all, NOW)), (Outcome::Replaced(Verdict::TruePositive), (0, 1, 0)));
}

#[test]
fn fault_24_the_future_is_now_and_ages_like_everything_else() {
    let mut all = dispositions();
    let future = Record { at: Some(WallTime(NOW.0 + 3_650 * DAY)), ..record(Some("f"), Verdict::FalsePositive) };
    assert_eq!(apply(&mut all, &future, NOW), Outcome::Accepted);
    assert_eq!(all.snapshot().records[0].at, NOW);
    all.prune(WallTime(NOW.0 + 32 * DAY));
    assert_eq!(all.size().0, 0);
}

#[test]
fn fault_25_another_bucket_width_restores_the_same_counts_and_ages_them() {
    let hourly = DispositionSettings { bucket: Duration::from_secs(3_600), ..DispositionSettings::default() };
    for (from, to) in [(hourly, DispositionSettings::default()), (DispositionSettings::default(), hourly)] {
        let mut before = Dispositions::new(from);
        (0..6).for_each(|n: i32| drop(apply(&mut before, &record(Some(&n.to_string()), Verdict::FalsePositive), NOW)));
        let snapshot = before.snapshot();
        assert_eq!(snapshot.bucket, from.bucket);
        let mut after = Dispositions::new(to);
        after.restore(&snapshot.records, NOW);
        assert_eq!(counts(&after, NOW), (0, 6, 0));
        assert_eq!(counts(&after, WallTime(NOW.0 + 32 * DAY)), (0, 0, 0));
    }
}

#[test]
fn fault_26_older_than_the_window_is_said_so_and_rules_are_the_known_ones() {
    let mut all = dispositions();
    let old = Record { at: Some(WallTime(NOW.0 - 31 * DAY)), ..record(Some("o"), Verdict::FalsePositive) };
    for _ in 0..3 {
        assert_eq!(apply(&mut all, &old, NOW), Outcome::Rejected(Rejection::TooOld));
    }
    let nameless = Record { rule: None, ..record(Some("n"), Verdict::FalsePositive) };
    assert_eq!(apply(&mut all, &nameless, NOW), Outcome::Rejected(Rejection::NoRule));
    let long = Record { note: "x".repeat(MAX_NOTE_BYTES + 1).into(), ..record(Some("l"), Verdict::FalsePositive) };
    assert_eq!(apply(&mut all, &long, NOW), Outcome::Rejected(Rejection::NoteTooLong));
    assert_eq!(all.summaries(NOW).len(), RuleId::ALL.len());
}

#[test]
fn fault_27_the_summary_has_a_clock_and_needs_no_prune() {
    let mut all = dispositions();
    (0..6).for_each(|n: i32| drop(apply(&mut all, &record(Some(&n.to_string()), Verdict::FalsePositive), NOW)));
    assert_eq!(counts(&all, WallTime(NOW.0 + 29 * DAY)), (0, 6, 0));
    assert_eq!(counts(&all, WallTime(NOW.0 + 32 * DAY)), (0, 0, 0));
}

#[test]
fn fault_27_the_bound_drops_the_oldest_memory_and_keeps_the_counts() {
    let settings = DispositionSettings { max_records: 100, ..DispositionSettings::default() };
    let mut all = Dispositions::new(settings);
    (0..1_000).for_each(|n: i32| drop(apply(&mut all, &record(Some(&n.to_string()), Verdict::FalsePositive), NOW)));
    assert!(all.size().0 <= 100 && all.size().1 >= 900);
    assert_eq!(counts(&all, NOW), (0, 1_000, 0));
}

#[test]
fn an_incident_counts_for_each_of_its_rules() {
    let mut all = dispositions();
    let about = Record { rule: None, scope: Scope::Incident("i".into()), ..record(None, Verdict::TruePositive) };
    let rules = |_: &str| vec![RuleId::Beaconing, RuleId::NewProcessDest];
    assert_eq!(all.apply(&about, NOW, rules), [Outcome::Accepted, Outcome::Accepted]);
    assert_eq!(all.apply(&about, NOW, rules), [Outcome::Duplicate, Outcome::Duplicate]);
    let unknown = all.apply(&about, NOW, |_| Vec::new());
    assert_eq!(unknown, [Outcome::Rejected(Rejection::UnknownIncident("i".into()))]);
}

#[test]
fn the_key_is_fnv_1a_as_published() {
    let digest = |bytes: &[u8]| {
        bytes.iter().fold(Fnv::new(), |mut fnv, byte| {
            fnv.0 = (fnv.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
            fnv
        })
    };
    // http://www.isthe.com/chongo/src/fnv/test_fnv.c: FNV-1a 64 of "a".
    assert_eq!(digest(b"a").0, 0xaf63_dc4c_8601_ec8c);
}
