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
from wardround.sources.hospital.dictionaries import LABS
from wardround.sources.hospital.encounters import HOUR, visits_before
from wardround.sources.hospital.measure import SIGNS
from wardround.sources.hospital.population import DAY, year_of

Table = Callable[[str], pl.DataFrame]


def logistic(features: np.ndarray, outcome: np.ndarray) -> np.ndarray:
    """Coefficients of an unpenalised logistic regression, the intercept last."""
    model = LogisticRegression(C=np.inf, max_iter=500).fit(features, outcome)
    return np.append(model.coef_[0], model.intercept_)


def across(chunks: list[Chunk], of: Callable[[Chunk], Any]) -> np.ndarray:
    return np.concatenate([np.asarray(of(chunk)) for chunk in chunks])


# Patients.


def test_prevalence_age_and_risk_factors_are_those_declared(many: list[Chunk]) -> None:
    catalogue = load_catalogue()
    names = [c.name for c in catalogue.chronic]
    chronic = across(many, lambda c: c.patients.chronic)
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
    burden = across(many, lambda c: c.patients.hospital_burden[c.encounters.patient])[visit]
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
        burden = chunk.patients.hospital_burden[e.patient[now]]
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
    assert levels["critical"].is_sorted(descending=True)
    share = levels["len"] / levels["len"].sum()
    assert share.arg_max() == 2 and share.min() > 0.02


def test_the_dying_stay_ill_and_survivors_recover(table: Table) -> None:
    died = table("hosp/admissions").select("hadm_id", "hospital_expire_flag")
    beats = (
        table("icu/chartevents")
        .filter(pl.col("itemid") == 220045)
        .join(table("icu/icustays").select("stay_id", "intime"), on="stay_id")
        .join(died, on="hadm_id")
        .with_columns(day=(pl.col("charttime") - pl.col("intime")).dt.total_days())
    )
    mean = {
        key: group["valuenum"].mean()
        for key, group in beats.filter(pl.col("day").is_in([0, 3])).group_by(
            "hospital_expire_flag", "day"
        )
    }
    assert mean[0, 3] < mean[0, 0] - 2 and mean[1, 3] > mean[1, 0] - 4
    assert mean[1, 3] > mean[0, 3] + 5


def test_laboratory_values_show_chronic_conditions(table: Table, oracle: Table) -> None:
    values = (
        table("hosp/labevents")
        .select("subject_id", "itemid", "valuenum")
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
            has = results[condition.name].to_numpy()
            found = (measured[has].mean() - measured[~has].mean()) / lab.sd
            assert found * np.sign(shift) > 0.5 * abs(shift), (condition.name, name)


def test_diagnoses_drugs_and_complaints_are_the_conditions_own(table: Table, oracle: Table) -> None:
    catalogue = load_catalogue()
    states = oracle("patients")
    coded = table("hosp/diagnoses_icd").select("subject_id", "icd_code").unique()
    admitted = states.join(table("hosp/admissions"), on="subject_id", how="semi")
    for condition in catalogue.chronic:
        codes = coded.filter(pl.col("icd_code").is_in([*condition.icd9, *condition.icd10]))
        with_code = set(codes["subject_id"])
        has = admitted.filter(pl.col(condition.name))["subject_id"].to_list()
        has_not = admitted.filter(~pl.col(condition.name))["subject_id"].to_list()
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
        .with_columns(pl.col("result_value").cast(pl.Float64))
    )
    mean = {k: g["result_value"].mean() for (k,), g in measured.group_by("obesity")}
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
