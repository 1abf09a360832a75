"""The files: MIMIC-IV's columns, keys and times, and what is wrong with them on purpose."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from wardround.ontology.tables import code_table
from wardround.sources.hospital.catalogue import load_catalogue
from wardround.sources.hospital.codes import rare_chronic
from wardround.sources.hospital.dictionaries import LABS, RARE_CHARTS, RARE_LABS
from wardround.sources.hospital.files import TableFiles, columns
from wardround.sources.hospital.formulary import formulary

Table = Callable[[str], pl.DataFrame]

#: What v3.1 spells in another way than the demo, which is v2.2.
SPELT_SINCE = {"ORIGINALAMOUNT": "originalamount", "ORIGINALRATE": "originalrate"}
#: Columns whose values together are unique in MIMIC-IV.
KEYS = {
    "hosp/patients": ["subject_id"],
    "hosp/admissions": ["hadm_id"],
    "hosp/transfers": ["transfer_id"],
    "hosp/services": ["hadm_id", "transfertime"],
    "hosp/diagnoses_icd": ["hadm_id", "seq_num"],
    "hosp/procedures_icd": ["hadm_id", "seq_num"],
    "hosp/drgcodes": ["hadm_id", "drg_type"],
    "hosp/hcpcsevents": ["hadm_id", "seq_num"],
    "hosp/omr": ["subject_id", "chartdate", "seq_num", "result_name"],
    "hosp/labevents": ["labevent_id"],
    "hosp/microbiologyevents": ["microevent_id"],
    "hosp/pharmacy": ["pharmacy_id"],
    "hosp/prescriptions": ["pharmacy_id", "drug_type", "drug"],
    "hosp/poe": ["poe_id"],
    "hosp/poe_detail": ["poe_id", "field_name"],
    "hosp/emar": ["emar_id"],
    "hosp/emar_detail": ["emar_id", "parent_field_ordinal"],
    "hosp/provider": ["provider_id"],
    "hosp/d_hcpcs": ["code"],
    "hosp/d_labitems": ["itemid"],
    "hosp/d_icd_diagnoses": ["icd_code", "icd_version"],
    "hosp/d_icd_procedures": ["icd_code", "icd_version"],
    "icu/icustays": ["stay_id"],
    "icu/d_items": ["itemid"],
    "icu/caregiver": ["caregiver_id"],
    "ed/edstays": ["stay_id"],
    "ed/triage": ["stay_id"],
    "ed/vitalsign": ["stay_id", "charttime"],
    "ed/medrecon": ["stay_id", "name"],
    "ed/pyxis": ["stay_id", "med_rn", "gsn_rn"],
    "ed/diagnosis": ["stay_id", "seq_num"],
}
#: Tables by the dictionary that explains one of their columns.
EXPLAINED = {
    ("hosp/d_labitems", "itemid"): ["hosp/labevents"],
    ("icu/d_items", "itemid"): [
        *("icu/chartevents", "icu/inputevents", "icu/ingredientevents", "icu/outputevents"),
        *("icu/procedureevents", "icu/datetimeevents"),
    ],
    ("hosp/d_icd_diagnoses", "icd_version,icd_code"): ["hosp/diagnoses_icd", "ed/diagnosis"],
    ("hosp/d_icd_procedures", "icd_version,icd_code"): ["hosp/procedures_icd"],
    ("hosp/d_hcpcs", "hcpcs_cd"): ["hosp/hcpcsevents"],
    ("hosp/pharmacy", "pharmacy_id"): ["hosp/prescriptions", "hosp/emar", "hosp/emar_detail"],
    ("hosp/poe", "poe_id"): ["hosp/pharmacy", "hosp/prescriptions", "hosp/emar", "hosp/poe_detail"],
    ("hosp/emar", "emar_id"): ["hosp/emar_detail"],
}


def of_ed(name: str) -> bool:
    return name.startswith("ed/")


def missing_from(rows: pl.DataFrame, named: list[str], there: pl.DataFrame) -> pl.DataFrame:
    """Rows that refer to what is not there."""
    return rows.drop_nulls(named[-1]).join(there, on=named, how="anti")


@pytest.mark.parametrize("name", sorted(columns()))
def test_columns_are_mimics(name: str, shared_data: Path, table: Table) -> None:
    assert table(name).columns == columns()[name]
    places = ["mimic-iv-demo/2.2", "mimic-iv-demo/2.2-reconstructed", "mimic-iv-ed-demo/*"]
    found = [p for place in places for p in shared_data.glob(f"{place}/{name}.csv.gz")]
    assert found, f"the demo has no {name}"
    with gzip.open(found[0], "rt") as stream:
        header = stream.readline().strip().split(",")
    assert columns()[name] == [SPELT_SINCE.get(column, column) for column in header]


def test_every_table_has_rows_and_they_are_counted(files: Path, table: Table) -> None:
    about = json.loads((files / "SYNTHETIC.json").read_text())
    assert about["rows"] == {name: len(table(name)) for name in columns(notes=True)}
    assert min(about["rows"].values()) > 0


@pytest.mark.parametrize("name", ["hosp/d_labitems", "icu/d_items"])
def test_items_are_mimics_own(name: str, shared_data: Path, table: Table) -> None:
    real = pl.read_csv(shared_data / f"mimic-iv-demo/2.2/{name}.csv.gz").select(columns()[name])
    bounds = ["lownormalvalue", "highnormalvalue"]
    ours = table(name).drop(bounds, strict=False).sort("itemid")
    same = real.drop(bounds, strict=False).join(ours, on="itemid", how="semi").sort("itemid")
    assert ours.to_dicts() == same.to_dicts()


def test_results_are_in_the_units_of_the_demo(shared_data: Path, table: Table) -> None:
    def usual(frame: pl.DataFrame) -> dict[int, str | None]:
        units = frame.group_by("itemid").agg(pl.col("valueuom").drop_nulls().mode().first())
        return dict(units.iter_rows())

    path = shared_data / "mimic-iv-demo/2.2/hosp/labevents.csv.gz"
    real = usual(pl.read_csv(path, columns=["itemid", "valueuom"]))
    ours = usual(table("hosp/labevents"))
    assert ours == {item: real[item] for item in ours}


@pytest.mark.parametrize("name", sorted(KEYS))
def test_keys_are_unique(name: str, table: Table) -> None:
    assert not table(name).select(KEYS[name]).is_duplicated().any()


@pytest.mark.parametrize("name", sorted(columns()))
def test_what_rows_refer_to_is_there(name: str, table: Table) -> None:
    rows = table(name)
    if "subject_id" in rows.columns:
        assert missing_from(rows, ["subject_id"], table("hosp/patients")).is_empty()
    if "hadm_id" in rows.columns:
        assert missing_from(rows, ["subject_id", "hadm_id"], table("hosp/admissions")).is_empty()
    if "stay_id" in rows.columns:
        stays = table("ed/edstays" if of_ed(name) else "icu/icustays")
        assert missing_from(rows, ["subject_id", "stay_id"], stays).is_empty()
    for column in {"order_provider_id", "admit_provider_id", "enter_provider_id"} & set(
        rows.columns
    ):
        known = table("hosp/provider").rename({"provider_id": column})
        assert missing_from(rows, [column], known).is_empty()
    if "caregiver_id" in rows.columns:
        assert missing_from(rows, ["caregiver_id"], table("icu/caregiver")).is_empty()
    for (dictionary, named), tables in EXPLAINED.items():
        if name in tables:
            there = table(dictionary).rename({"code": "hcpcs_cd"}, strict=False)
            assert missing_from(rows, named.split(","), there).is_empty(), dictionary


def test_items_are_in_the_table_that_the_dictionary_names(table: Table) -> None:
    links = dict(table("icu/d_items").select("itemid", "linksto").iter_rows())
    for name in EXPLAINED["icu/d_items", "itemid"]:
        items = table(name)["itemid"].unique()
        assert {links[item] for item in items} == {name.removeprefix("icu/")}


def test_the_catalogues_codes_are_official(table: Table) -> None:
    catalogue = load_catalogue()
    expired = {"N183", "K859", "R51"}  # billable in the hospital's years, split since
    for version, field in ((9, "icd9"), (10, "icd10")):
        billable = set(code_table(version).filter("billable")["code"])
        used = {c for a in [*catalogue.chronic, *catalogue.acute] for c in getattr(a, field)}
        assert used - billable <= expired
    for version, field in ((9, "procedures9"), (10, "procedures10")):
        known = set(code_table(version, "procedure").filter("billable")["code"])
        assert {c for a in catalogue.acute for c in getattr(a, field)} <= known


def test_stays_lie_within_stays(table: Table) -> None:
    admissions = table("hosp/admissions")
    icu = table("icu/icustays").join(admissions, on="hadm_id")
    assert icu.filter(
        (pl.col("intime") < pl.col("admittime")) | (pl.col("outtime") > pl.col("dischtime"))
    ).is_empty()
    days = (icu["outtime"] - icu["intime"]).dt.total_seconds() / 86_400
    assert np.allclose(icu["los"], days, atol=1e-4)
    visits = table("ed/edstays").join(admissions, on="hadm_id")
    assert visits.filter(
        (pl.col("intime") >= pl.col("admittime")) | (pl.col("outtime") > pl.col("dischtime"))
    ).is_empty()
    for stays, start, end in (
        (admissions, "admittime", "dischtime"),
        (table("ed/edstays"), "intime", "outtime"),
        (table("icu/icustays"), "intime", "outtime"),
    ):
        assert (stays[start] < stays[end]).all()
        follows = pl.col(start).shift(-1).over("subject_id")
        overlaps = stays.sort("subject_id", start).filter(follows < pl.col(end))
        assert overlaps.is_empty()


def test_patients_move_without_a_gap(table: Table) -> None:
    moves = table("hosp/transfers").filter(pl.col("eventtype") != "ED").sort("hadm_id", "intime")
    by_stay = moves.group_by("hadm_id").agg(
        first=pl.col("eventtype").first(),
        last=pl.col("eventtype").last(),
        gaps=(pl.col("outtime").shift(1) != pl.col("intime")).sum(),
        start=pl.col("intime").first(),
        end=pl.col("intime").last(),
    )
    joined = by_stay.join(table("hosp/admissions"), on="hadm_id", how="right")
    assert (joined["first"] == "admit").all() and (joined["last"] == "discharge").all()
    assert joined["gaps"].sum() == 0
    assert (joined["start"] == joined["admittime"]).all()
    assert (joined["end"] == joined["dischtime"]).all()


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("icu/chartevents", "charttime"),
        ("icu/outputevents", "charttime"),
        ("icu/datetimeevents", "charttime"),
        ("icu/inputevents", "starttime"),
        ("icu/inputevents", "endtime"),
        ("icu/procedureevents", "starttime"),
        ("icu/procedureevents", "endtime"),
        ("ed/vitalsign", "charttime"),
        ("ed/pyxis", "charttime"),
        ("ed/medrecon", "charttime"),
    ],
)
def test_events_of_a_unit_lie_within_its_stays(name: str, column: str, table: Table) -> None:
    stays = table("ed/edstays" if of_ed(name) else "icu/icustays")
    joined = table(name).join(stays.select("stay_id", "hadm_id", "intime", "outtime"), on="stay_id")
    outside = joined.filter(~pl.col(column).is_between("intime", "outtime"))
    if name == "icu/chartevents":  # minutes after death, which ends the stay
        died = table("hosp/admissions").drop_nulls("deathtime").select("hadm_id", "deathtime")
        outside = outside.join(died, on="hadm_id", how="left").filter(
            ~pl.col(column).is_between("deathtime", pl.col("deathtime") + timedelta(minutes=20))
        )
    assert outside.is_empty()


def test_results_are_stored_after_they_are_drawn(table: Table) -> None:
    for name in ("hosp/labevents", "hosp/microbiologyevents", "icu/chartevents", "hosp/emar"):
        known = table(name).drop_nulls(["charttime", "storetime"])
        assert (known["storetime"] > known["charttime"]).all(), name
    orders = table("hosp/prescriptions")
    assert (orders["stoptime"] >= orders["starttime"]).all()


# What is wrong on purpose: section 3 of the design, and the triage benchmark's pitfalls.


def test_impossible_values_at_triage(table: Table) -> None:
    triage = table("ed/triage")
    celsius = triage.filter(pl.col("temperature") < 50)
    assert 0.003 < len(celsius) / len(triage) < 0.02
    assert celsius["temperature"].is_between(32, 42).all()
    for impossible in (
        pl.col("heartrate") == 9999,
        pl.col("o2sat") == 0,
        pl.col("dbp") > pl.col("sbp") + 100,
    ):
        assert 0 < len(triage.filter(impossible)) < 0.01 * len(triage)
    pain = triage["pain"].drop_nulls()
    assert {"8-9", "unable", *map(str, range(11))} <= set(pain)
    assert 0.005 < (~pain.str.contains(r"^\d+$")).mean() < 0.05
    gaps = {name: triage[name].null_count() / len(triage) for name in triage.columns[2:-1]}
    assert 0.01 < min(gaps.values()) < max(gaps.values()) < 0.08


def test_visits_of_more_than_a_day(table: Table, oracle: Table) -> None:
    visits = table("ed/edstays")
    longer = visits.filter(pl.col("outtime") - pl.col("intime") > timedelta(days=1))
    assert 0.01 < len(longer) / len(visits) < 0.05
    edges = oracle("edge_cases").filter(pl.col("case") == "longer_than_a_day")
    assert set(longer["stay_id"]) == set(edges["stay_id"])


def test_two_visits_of_one_admission(table: Table, oracle: Table) -> None:
    visits = table("ed/edstays").drop_nulls("hadm_id").sort("intime")
    pairs = visits.group_by("hadm_id", maintain_order=True).agg("stay_id", "outtime", "intime")
    pairs = pairs.filter(pl.col("stay_id").list.len() == 2)
    assert len(pairs) > 5
    edges = oracle("edge_cases").filter(pl.col("case") == "shared_admission")
    assert set(edges["stay_id"]) == set(pairs["stay_id"].list.first())
    assert (pairs["outtime"].list.first() < pairs["intime"].list.last()).all()


def test_death_at_home_on_the_day_of_discharge(table: Table, oracle: Table) -> None:
    left = table("hosp/admissions").join(table("hosp/patients"), on="subject_id")
    same_day = left.filter(
        pl.col("hospital_expire_flag") == 0, pl.col("dischtime").dt.date() == pl.col("dod")
    )
    assert len(same_day) > 5 and same_day["deathtime"].null_count() == len(same_day)
    edges = oracle("edge_cases").filter(pl.col("case") == "same_day_death")
    visits = table("ed/edstays").join(same_day, on="hadm_id", how="semi")
    assert set(edges["stay_id"]) <= set(visits["stay_id"])
    died = left.filter(pl.col("hospital_expire_flag") == 1)
    assert (died["deathtime"] == died["dischtime"]).all()
    assert (died["deathtime"].dt.date() == died["dod"]).all()


def test_units_are_missing(table: Table) -> None:
    labs = table("hosp/labevents")
    with_unit = labs.filter(pl.col("itemid") != LABS["inr"].itemid)
    assert 0.003 < with_unit["valueuom"].is_null().mean() < 0.03
    assert table("icu/chartevents")["valueuom"].null_count() > 0


def test_rows_are_duplicated(table: Table) -> None:
    labs, charts = table("hosp/labevents").drop("labevent_id"), table("icu/chartevents")
    for rows in (labs, charts):
        extra = len(rows) - rows.n_unique()
        assert 0.0005 < extra / len(rows) < 0.003


@pytest.mark.parametrize("name", ["hosp/labevents", "hosp/emar", "icu/chartevents"])
def test_events_after_death_by_minutes(name: str, table: Table) -> None:
    died = table("hosp/admissions").drop_nulls("deathtime").select("hadm_id", "deathtime")
    rows = table(name).select("hadm_id", "charttime").join(died, on="hadm_id")
    late = rows.filter(pl.col("charttime") > pl.col("deathtime"))
    assert late["hadm_id"].n_unique() > 0.1 * rows["hadm_id"].n_unique()
    assert (late["charttime"] - late["deathtime"]).max() < timedelta(hours=1)


def test_nothing_else_happens_to_the_dead(table: Table) -> None:
    dead = table("hosp/patients").drop_nulls("dod").select("subject_id", "dod")
    for name, column in (
        *(("hosp/admissions", "admittime"), ("ed/edstays", "intime"), ("hosp/omr", "chartdate")),
        *(("hosp/labevents", "charttime"), ("hosp/emar", "charttime"), ("hosp/poe", "ordertime")),
    ):
        rows = table(name).join(dead, on="subject_id")
        assert len(rows) and (rows[column].cast(pl.Date) <= rows["dod"] + timedelta(days=1)).all()
    assert 0.02 < len(dead) / len(table("hosp/patients")) < 0.3


def test_icd_10_begins_in_october_2015(table: Table, chunks: list[Any]) -> None:
    real = pl.concat(
        pl.DataFrame(
            {
                "hadm_id": chunk.hadm_id,
                "stay_id": chunk.ed_stay_id,
                "real": chunk.encounters.start
                - chunk.patients.shift[chunk.encounters.patient].astype(np.int64),
            }
        )
        for chunk in chunks
    )
    change = (datetime(2015, 10, 1) - datetime(1970, 1, 1)).total_seconds()
    for name, key in (
        ("hosp/diagnoses_icd", "hadm_id"),
        ("hosp/procedures_icd", "hadm_id"),
        ("ed/diagnosis", "stay_id"),
    ):
        coded = table(name).join(real.drop_nulls(key), on=key)
        assert len(coded) == len(table(name)) and set(coded["icd_version"]) == {9, 10}
        assert coded.filter((pl.col("icd_version") == 9) != (pl.col("real") < change)).is_empty()


def test_versions_agree_with_the_anchor_years(table: Table) -> None:
    """As a user sees it, who knows real time to three years (and a year's turn) alone."""
    coded = (
        table("hosp/diagnoses_icd")
        .join(table("hosp/admissions"), on="hadm_id")
        .join(table("hosp/patients"), on="subject_id")
        .with_columns(first=pl.col("anchor_year_group").str.head(4).cast(pl.Int64))
        .with_columns(
            earliest=pl.col("first") + pl.col("admittime").dt.year() - pl.col("anchor_year") - 1
        )
        .with_columns(latest=pl.col("earliest") + 4)
    )
    for version, certain in ((9, pl.col("latest") < 2015), (10, pl.col("earliest") > 2015)):
        rows = coded.filter(certain)
        assert len(rows) > 1000 and (rows["icd_version"] == version).all()


def test_dates_are_shifted_for_each_patient(table: Table, chunks: list[Any]) -> None:
    times = table("hosp/admissions")["admittime"]
    assert datetime(2105, 1, 1) < times.min() and times.max() < datetime(2205, 1, 1)
    for chunk in chunks:
        days = chunk.patients.shift / 86_400
        assert (days == np.floor(days)).all()
        assert len(np.unique(days)) > 0.9 * len(days)
        real = chunk.encounters.start - chunk.patients.shift[chunk.encounters.patient]
        years = real.astype("datetime64[s]").astype("datetime64[Y]").astype(int) + 1970
        assert set(years) == set(range(2008, 2023))


def test_some_times_are_dates_alone(table: Table) -> None:
    for name, column in (
        *(("hosp/patients", "dod"), ("hosp/omr", "chartdate")),
        *(("hosp/procedures_icd", "chartdate"), ("hosp/hcpcsevents", "chartdate")),
    ):
        assert isinstance(table(name)[column].drop_nulls()[0], date)
        assert table(name).schema[column] == pl.Date
    cultures = table("hosp/microbiologyevents")
    assert 0.05 < cultures["charttime"].is_null().mean() < 0.2
    assert set(cultures["chartdate"].dt.time()) == {time(0)}


def test_what_could_identify_is_blanked(table: Table) -> None:
    assert "___" in set(table("ed/triage")["chiefcomplaint"])
    assert "___" in set(table("hosp/labevents")["value"])


# The long tail.


def test_diagnoses_have_a_long_tail(table: Table) -> None:
    counts = table("hosp/diagnoses_icd").group_by("icd_version", "icd_code").len()
    for version in (9, 10):
        size = counts.filter(pl.col("icd_version") == version)["len"].sort(descending=True)
        assert len(size) > 1000 and 0.3 < (size == 1).mean() < 0.8
        rank = np.arange(1, len(size) + 1)
        middle = slice(4, 300)
        slope = np.polyfit(np.log(rank[middle]), np.log(size.to_numpy()[middle]), 1)[0]
        assert -2 < slope < -1, "between Zipf's law and a little steeper"


def test_rare_drugs_tests_and_charts_get_rarer_by_rank(table: Table, chunks: list[Any]) -> None:
    drugs = dict(table("hosp/prescriptions")["drug"].value_counts().iter_rows())
    labs = dict(table("hosp/labevents")["itemid"].value_counts().iter_rows())
    charts = dict(table("icu/chartevents")["itemid"].value_counts().iter_rows())
    for counts in (
        [drugs.get(name, 0) for name in chunks[0].rare_drugs],
        [labs.get(lab.itemid, 0) for lab in RARE_LABS],
        [charts.get(chart.itemid, 0) for chart in RARE_CHARTS],
    ):
        often = counts[:60]
        rank = np.arange(1, len(often) + 1)
        slope = np.polyfit(np.log(rank), np.log(often), 1)[0]
        assert -1.2 < slope < -0.5
        assert max(counts) == counts[0] > 15 * np.mean(counts[-20:]) > 0


def test_the_formulary_is_long_and_numbered(table: Table) -> None:
    products = formulary().products
    assert len(products.select("drug", "route", "form", "strength").unique()) == len(products)
    assert len(products) >= 1_000 and len(formulary().drugs) >= 500
    assert products["gsn"].is_unique().all() and products["ndc"].is_unique().all()
    assert products["gsn"].str.contains(r"^\d{6}$").all()
    assert products["ndc"].str.contains(r"^\d{11}$").all()
    assert products.null_count().sum_horizontal().item() == 0
    ordered = table("hosp/prescriptions").select(
        "drug", "route", "prod_strength", "gsn", pl.col("ndc").cast(pl.Int64)
    )
    known = products.select(
        "drug",
        "route",
        pl.col("gsn").cast(pl.Int64),
        pl.col("ndc").cast(pl.Int64),
        prod_strength=pl.format("{} {}", "strength", "form"),
    )
    assert ordered.join(known, on=known.columns, how="anti").is_empty()
    assert ordered.n_unique() > 600, "of 3,000 patients"


def test_a_patients_drug_is_the_same_product_everywhere(table: Table) -> None:
    used = [
        table(name).select("subject_id", pl.col(column).alias("drug"), "gsn").drop_nulls()
        for name, column in (("hosp/prescriptions", "drug"), ("ed/medrecon", "name"))
    ]
    assert used[0].group_by("subject_id", "drug").agg(pl.col("gsn").n_unique())["gsn"].max() == 1
    both = used[0].unique().join(used[1].unique(), on=["subject_id", "drug"])
    assert len(both) > 1_000 and (both["gsn"] == both["gsn_right"]).all()


def test_there_are_many_items(table: Table) -> None:
    assert len(table("hosp/d_labitems")) >= 150
    assert table("hosp/d_labitems")["fluid"].n_unique() > 3
    fluid = dict(table("hosp/d_labitems").select("itemid", "fluid").iter_rows())
    drawn = table("hosp/labevents").with_columns(
        fluid=pl.col("itemid").replace_strict(fluid, return_dtype=pl.String)
    )
    assert drawn.group_by("specimen_id").agg(pl.col("fluid").n_unique())["fluid"].max() == 1
    charted = table("icu/d_items").filter(linksto="chartevents")["itemid"]
    assert len(charted) >= 100
    assert table("icu/chartevents")["itemid"].n_unique() > 100


def test_rare_diagnoses_stay_with_a_patient(table: Table) -> None:
    """A rare code of one admission is far likelier in the patient's next than in another's."""
    nine, ten = rare_chronic()
    same = dict(zip(nine, ten, strict=True))
    coded = (
        table("hosp/diagnoses_icd")
        .join(table("hosp/admissions").select("hadm_id", "admittime"), on="hadm_id")
        .with_columns(code=pl.col("icd_code").replace(same))
        .filter(pl.col("code").is_in(ten.tolist()))
    )
    common = coded["code"].value_counts(sort=True)["code"].head(50)
    rare = coded.filter(~pl.col("code").is_in(common.to_list()))
    stays = (
        table("hosp/admissions")
        .sort("admittime")
        .with_columns(following=pl.col("hadm_id").shift(-1).over("subject_id"))
    )
    follows = rare.join(stays.select("hadm_id", "following").drop_nulls(), on="hadm_id")
    again = follows.join(
        rare.select(pl.col("hadm_id").alias("following"), "code"),
        on=["following", "code"],
        how="semi",
    )
    assert len(follows) > 500 and 0.25 < len(again) / len(follows) < 0.9


def test_procedures_have_a_long_tail(table: Table) -> None:
    done = table("hosp/procedures_icd")
    counts = done.group_by("icd_version", "icd_code").len()
    assert len(counts) > 250 and (counts["len"] == 1).mean() > 0.2
    titles = table("hosp/d_icd_procedures")
    for version in (9, 10):
        known = code_table(version, "procedure").rename({"code": "icd_code"})
        ours = titles.filter(icd_version=version).join(known, on="icd_code")
        assert (ours["long_title"] == ours["title"]).all() and len(ours) > 450


# Small things.


def test_planned_admissions_have_a_planned_reason(table: Table, chunks: list[Any]) -> None:
    planned = [c for c in load_catalogue().acute if c.elective]
    assert len(planned) >= 10
    main = table("hosp/diagnoses_icd").filter(seq_num=1)
    kinds = table("hosp/admissions").select("hadm_id", "admission_type")
    elective = main.join(
        kinds.filter(pl.col("admission_type").is_in(["ELECTIVE", "SURGICAL SAME DAY ADMISSION"])),
        on="hadm_id",
    )
    own = {code for c in planned for code in [*c.icd9, *c.icd10]}
    assert len(elective) > 500 and elective["icd_code"].is_in(sorted(own)).all()
    for chunk in chunks:
        reasons = np.array([c.weight for c in load_catalogue().acute])
        assert (reasons[chunk.encounters.acute[chunk.visit]] > 0).all()


def test_every_visit_is_a_transfer(table: Table) -> None:
    visits = table("ed/edstays").select("subject_id", "hadm_id", "stay_id", "intime", "outtime")
    moves = table("hosp/transfers").filter(eventtype="ED").rename({"transfer_id": "stay_id"})
    assert visits.sort("stay_id").equals(moves.select(visits.columns).sort("stay_id"))


def test_orders_of_the_icu_are_told_apart(table: Table) -> None:
    orders = pl.concat(
        table(name).select("orderid") for name in ("icu/inputevents", "icu/procedureevents")
    )
    assert orders["orderid"].is_unique().all()
    mixed = table("icu/ingredientevents").join(table("icu/inputevents"), on=["orderid", "stay_id"])
    assert len(mixed) == len(table("icu/ingredientevents"))


def test_vital_signs_are_as_precise_as_nurses_write_them(table: Table) -> None:
    for name in ("ed/triage", "ed/vitalsign"):
        signs = table(name)
        for sign in ("heartrate", "resprate", "o2sat", "sbp", "dbp"):
            values = signs[sign].drop_nulls().cast(pl.Float64)
            assert (values == values.round()).all(), (name, sign)
        tenths = signs["temperature"].drop_nulls() * 10
        assert np.allclose(tenths, tenths.round())


# Writing.


def test_a_table_that_nothing_is_written_to_has_its_header(tmp_path: Path) -> None:
    with TableFiles(tmp_path) as out:
        out.write("hosp/patients", pl.DataFrame({"gender": ["F"], "subject_id": [7]}))
    assert out.rows["hosp/patients"] == 1 and out.rows["icu/icustays"] == 0
    for name, names in columns().items():
        lines = gzip.decompress((tmp_path / f"{name}.csv.gz").read_bytes()).decode().splitlines()
        assert lines[0] == ",".join(names)
        assert lines[1:] == (["7,F,,,,"] if name == "hosp/patients" else [])


def test_a_column_that_mimic_has_not_is_refused(tmp_path: Path) -> None:
    with TableFiles(tmp_path) as out, pytest.raises(KeyError, match=r"no column height"):
        out.write("hosp/patients", pl.DataFrame({"height": [180]}))
