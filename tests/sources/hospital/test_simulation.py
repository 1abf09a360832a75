"""The simulator: what it declares can be found again in what it draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from wardround.sources.hospital.catalogue import load_catalogue
from wardround.sources.hospital.chunk import Chunk, Ragged, long_tail, spread
from wardround.sources.hospital.codes import rare_chronic, rare_diagnoses
from wardround.sources.hospital.course import severity_at
from wardround.sources.hospital.dictionaries import LABS
from wardround.sources.hospital.encounters import HOUR, visits_before
from wardround.sources.hospital.measure import SIGNS
from wardround.sources.hospital.population import DAY, YEAR, year_of

Table = Callable[[str], pl.DataFrame]

#: Codes that a chronic and an acute condition have in common.
SHARED_CODES = {
    code
    for acute in load_catalogue().acute
    for chronic in load_catalogue().chronic
    for code in {*acute.icd9, *acute.icd10} & {*chronic.icd9, *chronic.icd10}
}


def logistic(features: np.ndarray, outcome: np.ndarray) -> np.ndarray:
    """Coefficients of an unpenalised logistic regression, the intercept last."""
    model = LogisticRegression(C=np.inf, max_iter=500).fit(features, outcome)
    return np.append(model.coef_[0], model.intercept_)


def across(chunks: list[Chunk], of: Callable[[Chunk], Any]) -> np.ndarray:
    return np.concatenate([np.asarray(of(chunk)) for chunk in chunks])


def having(chunk: Chunk, real: np.ndarray) -> np.ndarray:
    """What every patient of a chunk has at a real time."""
    p = chunk.patients
    return p.has(np.arange(len(p)), real + p.shift)


def burden_of(chunk: Chunk) -> np.ndarray:
    """Summed log-odds of admission of what each encounter's patient has."""
    return chunk.encounters.chronic @ np.array([c.hospital for c in chunk.catalogue.chronic])


# Patients.


def test_prevalence_age_and_risk_factors_are_those_declared(many: list[Chunk]) -> None:
    catalogue = load_catalogue()
    names = [c.name for c in catalogue.chronic]
    chronic = across(many, lambda c: having(c, c.patients.first))
    decades = across(
        many, lambda c: year_of(c.patients.first + c.patients.shift) - c.patients.birth_year - 65
    )
    for number, condition in enumerate(catalogue.chronic):
        if chronic[:, number].sum() < 1_000:
            continue
        others = chronic[:, [names.index(other) for other in condition.risk]]
        found = logistic(np.column_stack([decades / 10, others]), chronic[:, number])
        declared = [condition.per_decade, *condition.risk.values()]
        assert found[:-1] == pytest.approx(declared, abs=0.2), condition.name
        assert expit(found[-1]) == pytest.approx(condition.prevalence, rel=0.15), condition.name


def test_conditions_begin_at_the_declared_rates(many: list[Chunk]) -> None:
    """Onsets beside those expected of the hazards, month by month of the time without them."""
    catalogue = load_catalogue()
    names = [c.name for c in catalogue.chronic]
    begun = np.zeros(len(names))
    expected = np.zeros((len(names), 2))  # of the younger and the older
    younger = np.zeros(len(names))
    for chunk in many:
        p = chunk.patients
        start = p.first + p.shift
        onset = (p.onset - start[:, None]) / YEAR
        age = year_of(start) - p.birth_year
        assert (onset[np.isfinite(onset)] < ((p.last - p.first) / YEAR).max()).all()
        for month in range(9 * 12):
            at = (month + 0.5) / 12
            seen = at < (p.last - p.first) / YEAR
            for number, c in enumerate(catalogue.chronic):
                rate = np.log(c.onset) + c.per_decade * (age + at - 65) / 10
                for other, odds in c.risk.items():
                    rate = rate + odds * (onset[:, names.index(other)] <= at)
                due = np.exp(rate) * (seen & (onset[:, number] > at)) / 12
                expected[number] += due[age < 60].sum(), due[age >= 60].sum()
        new = (onset > 0) & np.isfinite(onset)
        begun += new.sum(axis=0)
        younger += new[age < 60].sum(axis=0)
    for found, due in ((younger, expected[:, 0]), (begun - younger, expected[:, 1])):
        assert np.all(np.abs(found - due) < 4 * np.sqrt(due) + 0.06 * due), dict(
            zip(names, np.round(found / due, 2), strict=True)
        )
    assert begun.sum() > 0.8 * 40_000, "about one a patient"


def test_what_an_encounter_shows_is_what_the_patient_has_by_then(
    table: Table, oracle: Table
) -> None:
    coded = (
        table("hosp/diagnoses_icd")
        .join(table("hosp/admissions").select("hadm_id", "admittime", "edregtime"), on="hadm_id")
        .with_columns(start=pl.coalesce("edregtime", "admittime"))
        .join(oracle("patients"), on="subject_id")
    )
    rare = {code for version in (9, 10) for code in rare_diagnoses(version)}
    rare |= set(rare_chronic()[0])
    later = 0
    for condition in load_catalogue().chronic:
        own = sorted({*condition.icd9, *condition.icd10} - rare - SHARED_CODES)
        rows = coded.filter(pl.col("icd_code").is_in(own))
        assert (len(rows) or not own) and (rows[condition.name] <= rows["start"]).all(), (
            condition.name
        )
        later += rows.filter(pl.col(condition.name) > pl.col("observed_from")).height
    assert later > 1_000, "codes of conditions that began under observation"
    drugs = table("hosp/prescriptions").filter(drug="Donepezil")
    drugs = drugs.join(oracle("patients"), on="subject_id")
    assert len(drugs) > 50 and (drugs["dementia"] <= drugs["starttime"]).all()


def test_patients_come_more_often_once_they_are_ill(many: list[Chunk]) -> None:
    """Encounters a year before and after an onset that moves the rate of visits by 1."""
    names = [c.name for c in load_catalogue().chronic]
    for name, least in (("alcohol_use", 1.4), ("cirrhosis", 1.1)):
        column, rates = names.index(name), []
        for chunk in many:
            p, e = chunk.patients, chunk.encounters
            onset, start, end = p.onset[:, column], p.first + p.shift, p.last + p.shift
            end = np.minimum(end, chunk.death)
            new = (onset > start) & (onset < end)
            sick = e.chronic[:, column]
            mine = new[e.patient]
            rates.append(
                [
                    (mine & ~sick).sum(),
                    (onset - start)[new].sum() / YEAR,
                    (mine & sick).sum(),
                    (end - onset)[new].sum() / YEAR,
                ]
            )
        before, years_before, after, years_after = np.sum(rates, axis=0)
        assert after / years_after > least * before / years_before, name


def test_adults_of_an_adult_hospital_and_a_few_others(many: list[Chunk]) -> None:
    age = across(
        many,
        lambda c: year_of(c.encounters.start) - c.patients.birth_year[c.encounters.patient],
    )
    assert 0.0005 < (age < 18).mean() < 0.01 and age.min() >= 8 and age.max() <= 101
    female = across(many, lambda c: c.patients.female)
    assert 0.5 < female.mean() < 0.56
    shown = across(many, lambda c: c.patients.subject_id)
    assert len(np.unique(shown)) == len(shown)


def test_nobody_is_shown_older_than_91(table: Table) -> None:
    ages = table("hosp/patients")["anchor_age"]
    assert 90 not in set(ages) and ages.max() == 91


# Encounters.


def test_every_patient_has_an_encounter(many: list[Chunk]) -> None:
    for chunk in many:
        assert set(chunk.encounters.patient) == set(range(len(chunk.patients)))


def test_the_order_of_events(many: list[Chunk]) -> None:
    for chunk in many:
        e = chunk.encounters
        visit, icu, inside = chunk.visit, chunk.in_icu, e.admitted
        assert (e.start[visit] < e.leave[visit]).all()
        assert (e.admit[inside] < e.discharge[inside]).all()
        assert (e.leave <= e.end).all()
        assert not (icu & ~inside).any()
        assert (e.admit[icu] < e.icu_in[icu]).all() and (e.icu_in[icu] < e.icu_out[icu]).all()
        assert (e.icu_out[icu] <= e.discharge[icu]).all()
        assert (e.death[e.died] == e.discharge[e.died]).all()
        assert (e.death[e.died_in_ed] == e.leave[e.died_in_ed]).all()
        assert not (e.died & e.died_in_ed).any() and not (e.died_in_ed & inside).any()
        same = e.patient[1:] == e.patient[:-1]
        assert (e.start[1:] > e.end[:-1])[same].all(), "no encounter begins in another"
        assert not np.isfinite(e.death[:-1])[same].any(), "death is the last that happens"


def test_critical_is_death_or_the_icu_within_12_hours(many: list[Chunk]) -> None:
    for chunk in many:
        e = chunk.encounters
        soon = chunk.in_icu & (e.icu_in <= e.leave + 12 * HOUR)
        assert np.array_equal(e.critical, chunk.visit & (e.died | e.died_in_ed | soon))


def test_returns_come_within_72_hours_of_a_discharge_home(many: list[Chunk]) -> None:
    for chunk in many:
        e = chunk.encounters
        following = np.flatnonzero(e.is_return)
        before = following - 1
        assert (e.patient[following] == e.patient[before]).all() and e.returns[before].all()
        assert (e.start[following] - e.leave[before] <= 72 * HOUR).all()
        assert (e.acute[following] == e.acute[before]).all()
        assert not e.admitted[e.returns].any() and e.returns.sum() == len(following)


def test_visits_before_counts_as_by_hand() -> None:
    rng = np.random.default_rng(0)
    patient = np.sort(rng.integers(0, 40, 300))
    start = rng.integers(0, 1_000, 300) * DAY + 5_000_000_000.0
    order = np.lexsort((start, patient))
    patient, start = patient[order], start[order]
    counted = rng.random(300) < 0.7
    by_hand = [
        sum(
            counted[j] and patient[j] == patient[i] and 0 < start[i] - start[j] <= 365 * DAY
            for j in range(300)
        )
        for i in range(300)
    ]
    assert visits_before(patient, start, counted, 365 * DAY).tolist() == by_hand


def test_outcomes_are_as_frequent_as_in_the_benchmark(many: list[Chunk]) -> None:
    """47.3 %, 5.9 % and 4.5 % in MIMIC-IV-ED."""
    visit = across(many, lambda c: c.visit)
    admitted = across(many, lambda c: c.encounters.admitted)[visit]
    critical = across(many, lambda c: c.encounters.critical)[visit]
    returns = across(many, lambda c: c.encounters.returns)[visit]
    assert 0.40 < admitted.mean() < 0.50
    assert 0.04 < critical.mean() < 0.08
    assert 0.03 < returns[~admitted].mean() < 0.06


def test_hospitalisation_rises_with_chronic_burden(many: list[Chunk]) -> None:
    visit = across(many, lambda c: c.visit)
    burden = across(many, burden_of)[visit]
    admitted = across(many, lambda c: c.encounters.admitted)[visit]
    group = np.digitize(burden, [0.5, 1.5, 3.0])
    rates = [admitted[group == number].mean() for number in range(4)]
    assert np.all(np.diff(rates) > 0.05) and rates[3] > 2 * rates[0]


def test_earlier_diagnoses_tell_who_is_hospitalised(table: Table) -> None:
    """The burden shows in the codes of earlier admissions, as a model could read them."""
    catalogue = load_catalogue()
    weight = {
        code: c.hospital for c in catalogue.chronic for code in [*c.icd9, *c.icd10] if c.hospital
    }
    coded = (
        table("hosp/diagnoses_icd")
        .with_columns(burden=pl.col("icd_code").replace_strict(weight, default=0.0))
        .join(table("hosp/admissions").select("hadm_id", "dischtime"), on="hadm_id")
        .group_by("subject_id", "hadm_id", "dischtime")
        .agg(pl.col("burden").sum())
        .sort("dischtime")
    )
    visits = (
        table("ed/edstays")
        .sort("intime")
        .join_asof(
            coded,
            left_on="intime",
            right_on="dischtime",
            by="subject_id",
            suffix="_past",
            check_sortedness=False,
        )
        .drop_nulls("burden")
    )
    assert len(visits) > 1_000
    rates = [
        visits.filter(pl.col("burden").is_between(low, high))["hadm_id"].is_not_null().mean()
        for low, high in ((0, 0.5), (0.5, 2), (2, 99))
    ]
    assert rates[0] + 0.05 < rates[1] < rates[2] - 0.1


def test_patients_differ_beyond_what_is_written(many: list[Chunk]) -> None:
    """The outcome of the visit before tells more than all that a record could show."""
    logits, before, frailty, admitted = [], [], [], []
    for chunk in many:
        e = chunk.encounters
        visit = np.flatnonzero(chunk.visit)
        same = e.patient[visit[1:]] == e.patient[visit[:-1]]
        now, last = visit[1:][same], visit[:-1][same]
        burden = burden_of(chunk)[now]
        age = year_of(e.start[now]) - chunk.patients.birth_year[e.patient[now]]
        logits.append(np.column_stack([e.severity[now], burden, age / 10]))
        before.append(e.admitted[last])
        frailty.append(chunk.patients.frailty[e.patient[now]])
        admitted.append(e.admitted[now])
    shown, past = np.concatenate(logits), np.concatenate(before)
    outcome, hidden = np.concatenate(admitted), np.concatenate(frailty)
    assert logistic(np.column_stack([past, shown]), outcome)[0] > 0.8
    assert abs(logistic(np.column_stack([past, hidden, shown]), outcome)[0]) < 0.2


def test_returns_rise_with_visits_in_the_year_before(table: Table) -> None:
    visits = table("ed/edstays").sort("subject_id", "intime")
    earlier = (
        visits.with_columns(one=pl.lit(1), at=pl.col("intime"))
        .rolling("intime", period="365d", closed="left", group_by="subject_id")
        .agg(pl.col("one").sum().alias("n_ed_365d"))
    )
    counts = visits.hstack(earlier.select("n_ed_365d")).with_columns(
        returned=(pl.col("intime").shift(-1).over("subject_id") - pl.col("outtime"))
        <= pl.duration(hours=72)
    )
    home = counts.filter(pl.col("hadm_id").is_null()).with_columns(
        pl.col("returned").fill_null(False)
    )
    few, some = (
        home.filter(pl.col("n_ed_365d").is_between(low, high))["returned"].mean()
        for low, high in ((0, 0), (2, 99))
    )
    assert some > 1.8 * few > 0


def test_return_risk_by_visits_in_the_year_before(many: list[Chunk]) -> None:
    rates: dict[int, list[bool]] = {0: [], 1: [], 2: [], 4: []}
    for chunk in many:
        e = chunk.encounters
        earlier = visits_before(e.patient, e.start, chunk.visit, 365 * DAY)
        home = chunk.visit & ~e.admitted & ~e.died_in_ed & ~e.is_return
        for least, most in ((0, 0), (1, 1), (2, 3), (4, 99)):
            rates[least] += e.returns[home & (earlier >= least) & (earlier <= most)].tolist()
    means = [float(np.mean(group)) for group in rates.values()]
    assert np.all(np.diff(means) > 0.005) and means[-1] > 3 * means[0]


def test_patients_come_with_what_they_came_with_before(many: list[Chunk]) -> None:
    same, by_chance = [], []
    for chunk in many:
        e = chunk.encounters
        visit = np.flatnonzero(chunk.visit & ~e.is_return)
        again = e.patient[visit[1:]] == e.patient[visit[:-1]]
        same.append((e.acute[visit[1:]] == e.acute[visit[:-1]])[again])
        share = np.bincount(e.acute[visit]) / len(visit)
        by_chance.append((share**2).sum())
    assert np.concatenate(same).mean() > 2 * np.mean(by_chance)


# What is measured.


def test_vital_signs_move_with_severity(table: Table, oracle: Table) -> None:
    triage = table("ed/triage").join(oracle("visits"), on="stay_id")
    seen = triage.drop_nulls(list(SIGNS)).filter(
        pl.col("temperature") > 50,
        pl.col("heartrate") < 300,
        pl.col("dbp") < 200,
        pl.col("o2sat") > 0,
    )
    for name, (_, sd, slope) in SIGNS.items():
        values, severity = seen[name].to_numpy(), seen["severity"].to_numpy()
        found = np.polyfit(severity, values, 1)[0]
        assert np.sign(found) == np.sign(slope) and abs(found) > 0.7 * abs(slope), name
        assert 0.7 * sd < values.std() < 2.2 * sd, name


def test_acuity_moves_with_severity(table: Table, oracle: Table) -> None:
    triage = table("ed/triage").join(oracle("visits"), on="stay_id").drop_nulls("acuity")
    levels = (
        triage.group_by("acuity")
        .agg(pl.len(), pl.col("severity").mean(), pl.col("critical").mean())
        .sort("acuity")
    )
    assert levels["acuity"].to_list() == [1, 2, 3, 4, 5]
    assert levels["severity"].is_sorted(descending=True)
    assert levels["critical"].head(4).is_sorted(descending=True)
    assert levels["critical"][4] < levels["critical"][2]
    share = levels["len"] / levels["len"].sum()
    assert share.arg_max() == 2 and share.min() > 0.02


def test_the_path_of_severity(many: list[Chunk]) -> None:
    """By hand, at the turning points of each kind of stay."""
    catalogue = load_catalogue()
    course = catalogue.course
    for chunk in many[:3]:
        e = chunk.encounters
        everything = np.arange(len(chunk))

        def ill(at: np.ndarray, rows: np.ndarray, chunk: Chunk = chunk) -> np.ndarray:
            return severity_at(catalogue, chunk.encounters, rows, at[rows])

        late = chunk.in_icu & ~e.critical
        home = np.flatnonzero(e.admitted & ~e.died & ~late)
        assert np.allclose(ill(e.start, everything), e.severity), "the ED sees the severity drawn"
        rate = e.pace * np.array([a.recovery for a in catalogue.acute])[e.acute]
        for days in (0.0, 1.0, 5.0):
            rest = np.minimum(course.recovered, e.severity)
            expected = rest + (e.severity - rest) * np.exp(-rate * days)
            assert np.allclose(ill(e.admit + days * DAY, home), expected[home])
        dying = np.flatnonzero(e.died)
        assert np.allclose(ill(e.death, dying), e.severity[dying] + course.death_rise)
        slow = dying[e.death[dying] - course.death_hours * HOUR > e.leave[dying]]
        half = e.death - course.death_hours / 2 * HOUR
        assert len(slow) and np.allclose(
            ill(half, slow), (e.severity + course.death_rise / 2)[slow]
        )
        sent = np.flatnonzero(late)
        assert np.allclose(ill(e.icu_in, sent), e.severity[sent] + course.icu_rise)
        assert (ill(e.icu_in + DAY, sent) <= ill(e.icu_in, sent)).all()


#: Items, and which way they move with illness.
WORSE = {220045: 1, 220210: 1, 220277: -1, 220179: -1, 223901: -1}


def test_charted_values_worsen_before_death_and_recover_in_survivors(table: Table) -> None:
    stays = (
        table("icu/icustays")
        .join(table("hosp/admissions"), on="hadm_id")
        .filter(pl.col("los") > 1.5)
        .select("stay_id", "intime", "outtime", "deathtime")
    )
    charted = table("icu/chartevents").join(stays, on="stay_id")
    start, end = pl.col("charttime") - pl.col("intime"), pl.col("outtime") - pl.col("charttime")
    day = pl.duration(hours=12)
    moved = (
        charted.with_columns(
            part=pl.when(start < day).then(pl.lit("first")).when(end < day).then(pl.lit("last"))
        )
        .drop_nulls("part")
        .group_by("itemid", died=pl.col("deathtime").is_not_null())
        .agg(
            change=pl.col("valuenum").filter(part="last").mean()
            - pl.col("valuenum").filter(part="first").mean()
        )
    )
    for item, direction in WORSE.items():
        change = {r["died"]: r["change"] * direction for r in moved.filter(itemid=item).to_dicts()}
        assert change[True] > 0 > change[False], item


def test_laboratory_values_worsen_before_death_and_recover_in_survivors(table: Table) -> None:
    """Last day less first day of a stay, in standard deviations, illness upwards."""
    worse = {"wbc": 1, "urea": 1, "lactate": 1, "bicarbonate": -1}
    stays = table("hosp/admissions").select("hadm_id", "admittime", "dischtime", "deathtime")
    first = pl.col("charttime") < pl.col("admittime") + pl.duration(hours=24)
    last = pl.col("charttime") > pl.col("dischtime") - pl.duration(hours=24)
    results = (
        table("hosp/labevents")
        .join(stays, on="hadm_id")
        .filter(pl.col("dischtime") - pl.col("admittime") > pl.duration(days=2.5))
        .with_columns(part=pl.when(first).then(pl.lit("first")).when(last).then(pl.lit("last")))
    )
    changes: dict[bool, list[float]] = {True: [], False: []}
    for name, direction in worse.items():
        lab = LABS[name]
        value = pl.col("valuenum").log() if lab.skewed else pl.col("valuenum")
        by_stay = (
            results.filter(itemid=lab.itemid)
            .group_by("hadm_id", died=pl.col("deathtime").is_not_null())
            .agg(
                (value.filter(part="last").mean() - value.filter(part="first").mean()).alias(
                    "moved"
                )
            )
            .drop_nulls()
        )
        for died, moved in by_stay.select("died", "moved").iter_rows():
            changes[died].append(direction * moved / lab.sd)
    assert len(changes[True]) > 50
    assert np.mean(changes[True]) > 0.15 and np.mean(changes[False]) < -0.15


def test_vasopressors_follow_the_course(table: Table) -> None:
    """They run at the end of the stays of the dying, and at the beginning of the survivors'."""
    stays = table("icu/icustays").join(table("hosp/admissions"), on="hadm_id")
    stays = stays.filter(pl.col("los") > 1.5)
    runs = (
        table("icu/inputevents")
        .filter(itemid=221906)
        .join(stays.select("stay_id", "intime", "outtime", "deathtime"), on="stay_id")
        .with_columns(
            part=(pl.col("starttime") - pl.col("intime")) / (pl.col("outtime") - pl.col("intime")),
            died=pl.col("deathtime").is_not_null(),
        )
    )
    share = {died: group["part"].mean() for (died,), group in runs.group_by("died")}
    assert share[False] < 0.4 < 0.5 < share[True]


def test_a_late_transfer_to_the_icu_is_seen_coming(many: list[Chunk]) -> None:
    for chunk in many[:2]:
        e = chunk.encounters
        late = np.flatnonzero(chunk.in_icu & ~e.critical & chunk.visit)
        before = [chunk.severity(late, e.icu_in[late] - hours * HOUR) for hours in (12, 6, 0)]
        assert len(late) > 10 and (np.diff(np.stack(before), axis=0) > 0.2).mean() > 0.9


def test_laboratory_values_show_chronic_conditions(table: Table, oracle: Table) -> None:
    values = (
        table("hosp/labevents")
        .select("subject_id", "itemid", "valuenum", "charttime")
        .drop_nulls()
        .join(oracle("patients"), on="subject_id")
    )
    for condition in load_catalogue().chronic:
        for name, shift in condition.labs.items():
            lab = LABS[name]
            results = values.filter(pl.col("itemid") == lab.itemid)
            measured = results["valuenum"].to_numpy()
            if lab.skewed:
                measured = np.log(np.maximum(measured, 10.0**-lab.decimals))
            has = (results[condition.name] <= results["charttime"]).fill_null(False).to_numpy()
            found = (measured[has].mean() - measured[~has].mean()) / lab.sd
            assert found * np.sign(shift) > 0.5 * abs(shift), (condition.name, name)


def test_diagnoses_drugs_and_complaints_are_the_conditions_own(table: Table, oracle: Table) -> None:
    catalogue = load_catalogue()
    states = oracle("patients")
    coded = table("hosp/diagnoses_icd").select("subject_id", "icd_code").unique()
    last = table("hosp/admissions").group_by("subject_id").agg(pl.col("admittime").max())
    admitted = states.join(last, on="subject_id")
    for condition in catalogue.chronic:
        codes = coded.filter(pl.col("icd_code").is_in([*condition.icd9, *condition.icd10]))
        with_code = set(codes["subject_id"])
        present = pl.col(condition.name) < pl.col("admittime")
        has = admitted.filter(present)["subject_id"].to_list()
        has_not = admitted.filter(~present.fill_null(False))["subject_id"].to_list()
        assert np.mean([s in with_code for s in has]) > 0.75, condition.name
        assert np.mean([s in with_code for s in has_not]) < 0.12, condition.name
    phrases = {a.name: {*a.phrases, "___"} for a in catalogue.acute}
    said = table("ed/triage").join(oracle("visits"), on="stay_id")
    assert all(c in phrases[a] for c, a in said.select("chiefcomplaint", "condition").iter_rows())
    drugs = table("ed/pyxis").join(oracle("visits"), on="stay_id").filter(name="Naloxone")
    assert set(drugs["condition"]) == {"overdose"}


def test_infections_are_cultured(table: Table, oracle: Table) -> None:
    infections = [a.name for a in load_catalogue().acute if a.infection]
    cultured = set(table("hosp/microbiologyevents")["hadm_id"])
    stays = table("ed/edstays").drop_nulls("hadm_id").join(oracle("visits"), on="stay_id")
    rates = {
        infected: group["hadm_id"].is_in(list(cultured)).mean()
        for (infected,), group in stays.group_by(pl.col("condition").is_in(infections))
    }
    assert rates[True] > 0.7 and rates[False] < 0.15
    germs = table("hosp/microbiologyevents")["org_name"]
    assert 0.1 < germs.is_not_null().mean() < 0.8


def test_body_mass_shows_obesity(table: Table, oracle: Table) -> None:
    measured = (
        table("hosp/omr")
        .filter(pl.col("result_name") == "BMI (kg/m2)")
        .join(oracle("patients"), on="subject_id")
        .with_columns(
            pl.col("result_value").cast(pl.Float64),
            obese=(pl.col("obesity").dt.date() <= pl.col("chartdate")).fill_null(False),
        )
    )
    mean = {k: g["result_value"].mean() for (k,), g in measured.group_by("obese")}
    assert mean[True] - mean[False] == pytest.approx(9, abs=1)


# Helpers that draw.


def test_long_tail_is_zipfs() -> None:
    rank = long_tail(np.random.default_rng(0), 1_000, 400_000)
    counts = np.bincount(rank, minlength=1_000)
    expected = 400_000 * np.diff(np.log(np.arange(1, 1_002))) / np.log(1_001)
    assert rank.max() == 999
    assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))


def test_ragged_lists() -> None:
    lists = Ragged([["a"], [], ["b", "c"]])
    owner, value = lists.expand(np.array([2, 1, 0, 2]))
    assert owner.tolist() == [0, 0, 2, 3, 3]
    assert value.tolist() == ["b", "c", "a", "b", "c"]
    picked = lists.pick(np.full(200, 2), np.random.default_rng(0))
    assert set(picked) == {"b", "c"}
    assert [x.tolist() for x in spread(np.array([2, 0, 1]))] == [[0, 0, 2], [0, 1, 0]]
