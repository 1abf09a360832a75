"""The ETHOS preset against the same rules worked out a second time, straight from a store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from wardround.ontology import crosswalk
from wardround.ontology.atc import atc_codes
from wardround.store import PatientStore
from wardround.views.timeline import Tokeniser

VITALS = ("TEMPERATURE", "HEARTRATE", "RESPRATE", "O2SAT")
COLUMNS = ("subject_id", "time", "code", "bins")


def known_events(store: PatientStore) -> pl.DataFrame:
    """Dated rows that were ever known, by when they were."""
    return (
        store.events()
        .filter(pl.col("time").is_not_null() & pl.col("available_time").is_not_null())
        .with_columns(time=pl.max_horizontal("time", "available_time"), charted="time")
        .with_columns(value=pl.col("numeric_value").cast(pl.Float64))
        .collect()
    )


def expected_events(store: PatientStore, train: list[int]) -> pl.DataFrame:
    """`COLUMNS` of every event of the ETHOS preset, but for pain, whose texts are read."""
    events = known_events(store)
    code = pl.col("code")

    def part(index: int) -> pl.Expr:
        return code.str.split("//").list.get(index, null_on_oob=True)

    def plain(rows: pl.DataFrame, name: pl.Expr) -> pl.DataFrame:
        return rows.with_columns(code=name, bins=pl.lit([], pl.List(pl.Int64))).select(COLUMNS)

    def upper(text: pl.Expr) -> pl.Expr:
        return text.str.to_uppercase().str.replace_all(" ", "_")

    def starting(prefix: str) -> pl.DataFrame:
        return events.filter(code.str.starts_with(prefix))

    def binned(rows: pl.DataFrame, name: str, *columns: str) -> pl.DataFrame:
        bins = []
        for column in columns:
            learned = rows.filter(pl.col("subject_id").is_in(train))[column].to_numpy()
            breaks = np.unique(np.quantile(learned, np.arange(1, 10) / 10))
            values = rows[column].to_numpy()
            bins.append(1 + (values[:, None] > breaks).sum(1))
        pairs = pl.Series(np.stack(bins, 1).tolist(), dtype=pl.List(pl.Int64))
        return rows.with_columns(code=pl.lit(name), bins=pairs).select(COLUMNS)

    parts = []
    # Labs
    labs = starting("LAB//RESULT//").filter(pl.col("value").is_not_null())
    ranked = (
        labs.filter(pl.col("subject_id").is_in(train))
        .group_by("code")
        .len()
        .sort(["len", "code"], descending=[True, False])
    )
    for lab in ranked["code"].head(200):
        name = "LAB//" + lab.removeprefix("LAB//RESULT//")
        parts.append(binned(labs.filter(code == lab), name, "value"))
    # Vital signs
    for vital in VITALS:
        rows = events.filter(
            code.is_in([f"ED//TRIAGE//{vital}", f"ED//VITALSIGN//{vital}"])
        ).drop_nulls("value")
        parts.append(binned(rows, f"VITAL//{vital}", "value"))
    pressures = []
    for kind in ("TRIAGE", "VITALSIGN"):
        # The sources write both of one row of a table: the k-th of a visit and time is one.
        keys = ["subject_id", "stay_id", "charted", "time", "k"]
        systolic, diastolic = (
            events.filter(code == f"ED//{kind}//{which}").with_columns(
                k=pl.int_range(pl.len()).over("subject_id", "stay_id", "charted", "time")
            )
            for which in ("SBP", "DBP")
        )
        pressures.append(
            systolic.join(diastolic.select(*keys, low="value"), on=keys).select(
                "subject_id", "time", "value", "low"
            )
        )
    office = starting("Blood Pressure").select(
        "subject_id",
        "time",
        value=pl.col("text_value").str.split("/").list.get(0).cast(pl.Float64),
        low=pl.col("text_value").str.split("/").list.get(1).cast(pl.Float64),
    )
    pressures.append(office)
    parts.append(binned(pl.concat(pressures), "VITAL//BLOOD_PRESSURE", "value", "low"))
    acuity = events.filter(code == "ED//TRIAGE//ACUITY").drop_nulls("value")
    level = pl.concat_list(pl.col("value").cast(pl.Int64))
    parts.append(acuity.with_columns(code=pl.lit("ACUITY"), bins=level).select(COLUMNS))
    bmi = events.filter((code == "BMI (kg/m2)") & pl.col("value").is_between(10, 100))
    parts.append(binned(bmi, "BMI", "value"))
    # Stays
    admissions = starting("HOSPITAL_ADMISSION//").with_columns(kind=part(1))
    group = (
        pl.when(pl.col("kind").is_in(["EW EMER.", "DIRECT EMER.", "URGENT"]))
        .then(pl.lit("EMERGENCY"))
        .when(pl.col("kind").is_in(["ELECTIVE", "SURGICAL SAME DAY ADMISSION"]))
        .then(pl.lit("SCHEDULED"))
        .otherwise(pl.lit("OBSERVATION"))
    )
    parts.append(plain(admissions, pl.lit("HOSPITAL_ADMISSION ADMISSION_TYPE//") + group))
    payers = starting("INSURANCE//")
    parts.append(plain(payers, "INSURANCE//" + upper(part(1))))
    uninsured = admissions.join(payers, on=["subject_id", "time"], how="anti")
    parts.append(plain(uninsured, pl.lit("INSURANCE//UNK")))
    discharges = starting("HOSPITAL_DISCHARGE//")
    place = pl.when(
        part(1).is_in(
            [
                "HEALTHCARE FACILITY",
                "SKILLED NURSING FACILITY",
                "REHAB",
                "CHRONIC/LONG TERM ACUTE CARE",
                "OTHER FACILITY",
            ]
        )
    )
    place = place.then(pl.lit("HEALTHCARE_FACILITY")).otherwise(upper(part(1)))
    parts.append(plain(discharges, pl.lit("HOSPITAL_DISCHARGE DISCHARGE_LOCATION//") + place))
    drgs = starting("DRG//HCFA//")
    parts.append(plain(drgs, "DRG//" + part(2).str.strip_chars_start("0")))
    ungrouped = discharges.join(drgs, on=["subject_id", "time"], how="anti")
    parts.append(plain(ungrouped, pl.lit("DRG//UNKNOWN")))
    units = starting("ICU_ADMISSION//").with_columns(
        unit=pl.coalesce(part(1).str.extract(r"\((.+)\)"), upper(part(1)))
    )
    unit = upper(pl.col("unit"))
    parts.append(plain(units, pl.lit("ICU_ADMISSION ICU_TYPE//") + unit))
    parts.append(plain(starting("ICU_DISCHARGE//"), pl.lit("ICU_DISCHARGE")))
    moves = starting("TRANSFER_TO//").filter(part(1).is_in(["admit", "transfer"]))
    parts.append(plain(moves, "TRANSFER//" + upper(part(1))))
    parts.append(plain(starting("MEDS_DEATH"), code))
    visits = starting("ED//ARRIVAL//")
    parts.append(plain(visits, "ED_ARRIVAL ED_TRANSPORT//" + upper(part(2))))
    leavings = starting("ED//DEPARTURE//")
    parts.append(plain(leavings, "ED_DEPARTURE ED_DISPOSITION//" + upper(part(2))))
    # Codes
    billed = events.filter(code.str.contains("DIAGNOSIS//ICD//")).with_columns(
        icd_version=code.str.extract(r"//ICD//(\d+)//").cast(pl.Int64),
        icd_code=code.str.extract(r"//ICD//\d+//(.+)$"),
    )
    mapped = billed.join(crosswalk(billed, 10), on=["icd_code", "icd_version"])
    parts.append(plain(mapped.drop_nulls("target"), "ICD//CM//" + pl.col("target")))
    procedures = starting("PROCEDURE//ICD//10//")
    parts.append(plain(procedures, "ICD//PCS//" + part(3)))
    hcpcs = starting("HCPCS//").filter(code != "HCPCS//UNK")
    parts.append(plain(hcpcs, "HCPCS//" + upper(part(1))))
    given = events.filter(
        (code.str.starts_with("MEDICATION//") & code.str.ends_with("//Administered"))
        | code.str.starts_with("ED//PYXIS//")
    ).with_columns(
        name=code.str.replace("^(MEDICATION|ED//PYXIS)//", "").str.replace("//Administered$", "")
    )
    atc = atc_codes(given["name"])
    parts.append(plain(given.join(atc, on="name"), "ATC//" + pl.col("atc_code")))
    own = given.join(atc, on="name", how="anti").filter(pl.col("name") != "UNK")
    own = own.with_columns(name=upper(pl.col("name")))
    often = own.filter(pl.col("subject_id").is_in(train)).group_by("name").len()
    often = often.filter(pl.col("len") >= 20)
    parts.append(plain(own.join(often, on="name", how="semi"), "DRUG//" + pl.col("name")))
    return pl.concat(parts).sort(COLUMNS)


def check_round_trip(store: PatientStore, folder: Path) -> None:
    """Decoded events are those of an independent query, each with its time and bins."""
    everyone = store.splits()["subject_id"].to_list()
    tokeniser = Tokeniser.fit(store, subjects=everyone)
    decoded = tokeniser.decode(tokeniser.write(store, folder))
    pain = decoded.filter(pl.col("code") == "VITAL//PAIN")
    charted = known_events(store).filter(
        pl.col("code").str.contains("^ED//(TRIAGE|VITALSIGN)//PAIN$")
        & pl.col("value").is_between(0, 10)
    )
    assert len(pain) >= len(charted) > 0
    found = decoded.filter(pl.col("code") != "VITAL//PAIN").select(COLUMNS).sort(COLUMNS)
    expected = expected_events(store, everyone)
    by_code = [frame.group_by("code").len().sort("code") for frame in (found, expected)]
    assert by_code[0].equals(by_code[1])
    assert found.equals(expected.cast(found.schema))  # type: ignore[arg-type]
    rows = store.events().with_row_index("event").collect()
    source = decoded.join(rows, left_on="event", right_on=pl.col("event").cast(pl.Int64))
    assert len(source) == len(decoded)
    assert (source["subject_id"] == source["subject_id_right"]).all()
    assert (source["time"] >= source["time_right"]).all()


def test_decoding_gives_the_events_of_the_hospital(hospital: Any, tmp_path: Path) -> None:
    check_round_trip(hospital.store, tmp_path / "timelines")


def test_decoding_gives_the_events_of_the_demo(demo: PatientStore, tmp_path: Path) -> None:
    check_round_trip(demo, tmp_path / "timelines")


def test_stays_of_the_demo_are_counted(demo: PatientStore, tmp_path: Path) -> None:
    timelines = Tokeniser.fit(demo).write(demo, tmp_path / "timelines")
    stays = dict(demo.stays().group_by("kind").len().collect().iter_rows())
    vocabulary = timelines.vocabulary
    counts = np.bincount(timelines.tokens, minlength=len(vocabulary))
    for token, kind in (
        ("HOSPITAL_ADMISSION", "hospital"),
        ("HOSPITAL_DISCHARGE", "hospital"),
        ("ICU_ADMISSION", "icu"),
        ("ICU_DISCHARGE", "icu"),
        ("ED_ARRIVAL", "ed"),
        ("ED_DEPARTURE", "ed"),
    ):
        assert counts[vocabulary.id(token)] == stays[kind], token
    assert counts[vocabulary.ids(["ADMISSION_TYPE//*"])].sum() == stays["hospital"]
    assert counts[vocabulary.ids(["ICU_TYPE//*"])].sum() <= stays["icu"]
    assert counts[vocabulary.ids(["DRG//*"])].sum() == stays["hospital"]
    died = demo.events().filter(pl.col("code") == "MEDS_DEATH").collect()
    assert counts[vocabulary.id("MEDS_DEATH")] == len(died)
    assert counts[vocabulary.id("TIMELINE_END")] == len(timelines)
    report = json.loads((tmp_path / "timelines" / "report.json").read_text())
    reasons = {(row["rule"], row["reason"]): row["rows"] for row in report}
    labs = demo.events().filter(pl.col("code").str.starts_with("LAB//RESULT//")).collect()
    told = [rows for (rule, _), rows in reasons.items() if rule == "lab"]
    assert counts[vocabulary.ids(["LAB//*"])].sum() + sum(told) == len(labs)
    assert reasons[("lab", "no value")] == labs["numeric_value"].null_count()
