"""The oracle: its risks are the true ones, and no model could do better."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from wardround.evaluation import auroc
from wardround.sources.hospital import oracle as oracle_module
from wardround.sources.hospital.catalogue import load_catalogue
from wardround.sources.hospital.chunk import Chunk

Table = Callable[[str], pl.DataFrame]

RISKS = {
    "hospitalised": "risk_hospitalisation",
    "critical": "risk_critical",
    "returned": "risk_return",
}


@pytest.fixture(scope="module")
def risks(many: list[Chunk]) -> pl.DataFrame:
    """Risks and outcomes of some 60,000 visits."""
    return pl.concat(oracle_module.visit_risks(chunk) for chunk in many)


def deviation(outcome: np.ndarray, risk: np.ndarray) -> float:
    """How many standard errors more happened than was expected, each drawn by its own risk."""
    return float((outcome.sum() - risk.sum()) / np.sqrt((risk * (1 - risk)).sum()))


@pytest.mark.parametrize(("outcome", "risk"), RISKS.items())
def test_calibrated_overall_and_in_tenths(outcome: str, risk: str, risks: pl.DataFrame) -> None:
    known = risks.drop_nulls(risk).sort(risk)
    happened, expected = known[outcome].to_numpy(), known[risk].to_numpy()
    assert len(known) > 20_000 and expected.min() > 0 and expected.max() < 1
    assert abs(deviation(happened, expected)) < 3.5
    tenths = np.array_split(np.arange(len(known)), 10)
    off = [deviation(happened[rows], expected[rows]) for rows in tenths]
    assert max(map(abs, off)) < 3.5
    assert np.mean(np.square(off)) < 3, "as binomial draws scatter"


@pytest.mark.parametrize(("outcome", "risk"), RISKS.items())
def test_calibrated_in_the_files(outcome: str, risk: str, oracle: Table, table: Table) -> None:
    """Against what the files say, not the oracle's own outcomes."""
    visits = table("ed/edstays").sort("subject_id", "intime")
    follows = pl.col("intime").shift(-1).over("subject_id") - pl.col("outtime")
    icu = table("icu/icustays").group_by("hadm_id").agg(icu_in=pl.col("intime").min())
    died = table("hosp/admissions").select("hadm_id", "hospital_expire_flag")
    known = (
        visits.with_columns(back=(follows <= pl.duration(hours=72)).fill_null(False))
        .join(icu, on="hadm_id", how="left")
        .join(died, on="hadm_id", how="left")
        .with_columns(
            hospitalised=pl.col("hadm_id").is_not_null(),
            critical=(pl.col("icu_in") <= pl.col("outtime") + pl.duration(hours=12)).fill_null(
                False
            )
            | (pl.col("hospital_expire_flag") == 1).fill_null(False)
            | (pl.col("disposition") == "EXPIRED"),
            returned=pl.col("back") & pl.col("hadm_id").is_null(),
        )
        .join(oracle("visits").select("stay_id", risk), on="stay_id")
        .drop_nulls(risk)
    )
    assert len(known) > 2_000
    assert abs(deviation(known[outcome].to_numpy(), known[risk].to_numpy())) < 3


@pytest.mark.parametrize(
    ("outcome", "low", "high"),
    [("hospitalised", 0.90, 0.96), ("critical", 0.88, 0.95), ("returned", 0.68, 0.78)],
)
def test_discriminates(outcome: str, low: float, high: float, risks: pl.DataFrame) -> None:
    known = risks.drop_nulls(RISKS[outcome])
    assert low < auroc(known[outcome].to_numpy(), known[RISKS[outcome]].to_numpy()) < high


@pytest.mark.parametrize(("outcome", "risk"), RISKS.items())
def test_better_than_the_triage_nurse(outcome: str, risk: str, oracle: Table, table: Table) -> None:
    both = oracle("visits").join(table("ed/triage"), on="stay_id").drop_nulls([risk, "acuity"])
    happened = both[outcome].to_numpy()
    nurse = auroc(happened, -both["acuity"].to_numpy())
    assert auroc(happened, both[risk].to_numpy()) > nurse + 0.05
    if outcome != "returned":
        assert nurse > 0.58


@pytest.mark.parametrize(("outcome", "risk"), RISKS.items())
def test_nothing_latent_adds_to_it(outcome: str, risk: str, risks: pl.DataFrame) -> None:
    """A model of the risk, the severity and the frailty themselves ranks no better."""
    known = risks.drop_nulls(risk)
    features = known.select(risk, "severity", "frailty").to_numpy()
    happened = known[outcome].to_numpy()
    train = (known["subject_id"] % 2 == 0).to_numpy()
    model = HistGradientBoostingClassifier(max_iter=30, max_depth=4, random_state=0)
    model.fit(features[train], happened[train])
    learned = auroc(happened[~train], model.predict_proba(features[~train])[:, 1])
    best = auroc(happened[~train], features[~train, 0])
    assert learned < best + 0.003


def test_risks_stand_where_they_apply(oracle: Table, table: Table) -> None:
    visits = oracle("visits")
    assert set(visits["stay_id"]) <= set(table("ed/edstays")["stay_id"])
    earlier = oracle("edge_cases").filter(pl.col("case") == "shared_admission")
    assert len(visits) + len(earlier) == len(table("ed/edstays"))
    for risk in ("risk_hospitalisation", "risk_critical"):
        assert visits[risk].null_count() == 0
    assert (visits["risk_hospitalisation"] > 0.98 * visits["risk_critical"]).all()
    home = visits.drop_nulls("risk_return")
    assert not home["hospitalised"].any()
    gone = oracle("edge_cases").filter(pl.col("case") == "died_in_ed")
    assert home.join(gone, on="stay_id", how="semi").is_empty()


def test_edge_cases_are_labelled(oracle: Table, table: Table) -> None:
    edges = oracle("edge_cases")
    assert set(edges["case"]) == {
        *("shared_admission", "same_day_death", "died_in_ed", "longer_than_a_day"),
        *("icu_before_leaving", "late_icu"),
    }
    visits = table("ed/edstays").select("stay_id", "hadm_id", "outtime", "disposition")
    joined = edges.join(visits, on="stay_id", how="left")
    assert (joined["hospitalised"] == joined["hadm_id"].is_not_null()).all()
    expired = joined.filter(pl.col("case") == "died_in_ed")
    assert (expired["disposition"] == "EXPIRED").all() and expired["critical"].all()
    icu = table("icu/icustays").select("hadm_id", "intime").rename({"intime": "icu_in"})
    hours = joined.join(icu, on="hadm_id").with_columns(
        wait=(pl.col("icu_in") - pl.col("outtime")).dt.total_seconds() / 3600
    )
    assert (hours.filter(pl.col("case") == "icu_before_leaving")["wait"] < 0).all()
    late = hours.filter(pl.col("case") == "late_icu")
    assert (late["wait"] > 12).all() and not late["critical"].any()


def test_states_are_every_patients(oracle: Table, table: Table) -> None:
    states = oracle("patients")
    assert states["subject_id"].to_list() == table("hosp/patients")["subject_id"].to_list()
    assert states.columns[:4] == ["subject_id", "frailty", "observed_from", "observed_to"]
    assert states.columns[4:] == [c.name for c in load_catalogue().chronic]
    died = states.join(table("hosp/patients").select("subject_id", "dod"), on="subject_id")
    for name in states.columns[4:]:
        onset = states[name]
        assert onset.dtype == states["observed_from"].dtype and onset.null_count() > 0
        assert (onset < states["observed_to"]).all(), "null where it never began"
        assert (died[name].dt.date() <= died["dod"]).all()
        assert (onset < states["observed_from"]).any() and (onset > states["observed_from"]).any()
    assert abs(states["frailty"].mean()) < 0.1 and states["frailty"].std() == pytest.approx(
        1, abs=0.1
    )
