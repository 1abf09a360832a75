"""What the maps say of single rows, on sources written by hand."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import duckdb
import polars as pl
import pytest
from rich.console import Console

from wardround.errors import WardroundError
from wardround.sources.mimic import IngestReport, TableReport, format_report, ingest_mimic
from wardround.sources.mimic import ingest as ingest_module
from wardround.sources.mimic.compile import CompiledTable
from wardround.sources.mimic.engine import compile_sql
from wardround.sources.mimic.mapping import load_map
from wardround.store import PatientStore, open_store

ADMISSION = {
    "hadm_id": 10,
    "admittime": "2150-03-01 08:00:00",
    "dischtime": "2150-03-05 12:00:00",
    "admission_type": "URGENT",
    "discharge_location": "HOME",
    "hospital_expire_flag": 0,
}
NOON = "2150-03-02 12:00:00"
MIDNIGHT = "23:59:59.999999"
Ingest = Callable[..., tuple[IngestReport, PatientStore]]


@pytest.fixture
def ingest(source, tmp_path) -> Ingest:
    """Write the tables, and ingest them."""

    def run(rows: dict[str, list[dict[str, object]]], **options):
        store = tmp_path / "store"
        report = ingest_mimic([source(rows)], store, overwrite=True, **options)
        return report, open_store(store)

    return run


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def known(store: PatientStore, code: str) -> list[datetime | None]:
    rows = store.events().filter(pl.col("code").str.starts_with(code)).sort("time").collect()
    return rows["available_time"].to_list()


def settled(ledger: TableReport) -> bool:
    return ledger.rows == ledger.kept + ledger.empty + sum(ledger.rejected.values())


# When a row is known -------------------------------------------------------------------------


def test_an_ed_visit_of_an_admission_is_not_known_before_it(ingest):
    """Visits without an admission have no such row: at triage, having one is the label."""
    visit = {"edregtime": "2150-03-01 05:00:00", "edouttime": "2150-03-01 09:30:00"}
    _, store = ingest({"hosp/admissions": [{**ADMISSION, **visit}]})
    assert known(store, "ED_REGISTRATION") == [at(ADMISSION["admittime"])]
    assert known(store, "ED_OUT") == [at(visit["edouttime"])]
    triage = pl.DataFrame({"subject_id": [1], "prediction_time": [at("2150-03-01 05:10:00")]})
    seen = store.known_at(triage).collect()["code"].to_list()
    assert seen == ["GENDER//F", "MEDS_BIRTH"]


def test_a_lab_without_a_store_time_waits_for_the_end_of_its_day(ingest):
    rows = [
        {"itemid": 1, "charttime": NOON, "storetime": "", "value": "7", "valuenum": 7},
        {"itemid": 1, "charttime": "2150-03-03 12:00:00", "storetime": "2150-03-03 13:00:00"},
    ]
    report, store = ingest({"hosp/labevents": rows})
    assert known(store, "LAB//") == [at(f"2150-03-02 {MIDNIGHT}"), at("2150-03-03 13:00:00")]
    assert report.tables["hosp/labevents"].unfiled == {"result": 1}


def test_a_culture_that_nobody_filed_is_never_known(ingest):
    culture = {"test_itemid": 90, "test_name": "ACID FAST CULTURE", "chartdate": "2150-03-02"}
    rows = [
        {**culture, "charttime": NOON},
        {**culture, "chartdate": "2150-03-03", "storedate": "2150-03-04"},
        {**culture, "chartdate": "2150-03-05", "storetime": "2150-03-05 09:00:00"},
    ]
    report, store = ingest({"hosp/microbiologyevents": rows})
    assert known(store, "MICROBIOLOGY//TEST//") == [
        None,
        at(f"2150-03-04 {MIDNIGHT}"),
        at("2150-03-05 09:00:00"),
    ]
    assert report.tables["hosp/microbiologyevents"].unfiled == {"test": 1}
    end = pl.DataFrame({"subject_id": [1], "prediction_time": [at("2199-01-01")]})
    seen = store.known_at(end, codes=pl.col("code").str.starts_with("MICRO")).collect()
    assert len(seen) == 2, "the store's rule agrees: null is never"
    assert store.codes().filter(code="MICROBIOLOGY//TEST//90//UNK").collect()[
        "description"
    ].to_list() == ["ACID FAST CULTURE"]


def test_date_ness_comes_through_a_derived_time():
    """A bare date is over at its end, whether the event has it by itself or by `derive`."""
    table = load_map(
        """
        module: m
        tables:
          t:
            times: [exact]
            dates: [day]
            derive: {when: {first: [exact, day]}}
            events: {a: {code: A, time: when}, b: {code: B, time: day}}
        """,
        "m.yaml",
    ).tables["t"]
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE subjects AS SELECT 1::BIGINT subject_id")
        connection.execute(
            "CREATE TABLE t AS SELECT '1' subject_id, '2150-03-02' AS day, exact "
            "FROM (VALUES (NULL), ('2150-03-02 07:00:00')) AS rows(exact)"
        )
        names = {c: c if c in ("subject_id", "day", "exact") else None for c in table.columns}
        rows = connection.sql(compile_sql(CompiledTable("t", table, names, {}).staged())).pl()
    found = rows.sort("code", "available_time")["available_time"].to_list()
    end = at(f"2150-03-02 {MIDNIGHT}")
    assert found == [at("2150-03-02 07:00:00"), end, end, end]


def test_what_stands_in_the_chart_without_a_store_time(ingest):
    """A device's value at once, what somebody typed at the end of its day."""
    stay = {"stay_id": 5, "hadm_id": 10, "itemid": 1}
    _, store = ingest(
        {
            "icu/chartevents": [{**stay, "charttime": NOON, "valuenum": 80}],
            "icu/outputevents": [{**stay, "charttime": NOON, "value": 100}],
        }
    )
    assert known(store, "LAB//") == [at(NOON)]
    assert known(store, "SUBJECT_FLUID_OUTPUT//") == [at(f"2150-03-02 {MIDNIGHT}")]


def test_a_bill_is_known_when_its_day_and_its_stay_are_over(ingest):
    bill = {"hadm_id": 10, "hcpcs_cd": "G0378", "short_description": "Hospital observation"}
    rows = [{**bill, "chartdate": day} for day in ("2150-03-02", "2150-03-05", "2150-03-07")]
    _, store = ingest({"hosp/admissions": [ADMISSION], "hosp/hcpcsevents": rows})
    assert known(store, "HCPCS//") == [
        at(ADMISSION["dischtime"]),
        at(f"2150-03-05 {MIDNIGHT}"),
        at(f"2150-03-07 {MIDNIGHT}"),
    ]


ORDERED = {
    "pharmacy_id": 7,
    "starttime": "2150-03-02 10:00:00",
    "stoptime": "2150-03-02 11:00:00",
    "drug": "Heparin",
    "ndc": "00338004904",
    "dose_val_rx": "5000",
    "dose_unit_rx": "UNIT",
}


def test_a_prescription_is_not_known_before_it_was_entered(ingest):
    entered = {"pharmacy_id": 7, "entertime": NOON, "medication": "Heparin"}
    entered |= {name: ORDERED[name] for name in ("starttime", "stoptime")}
    report, store = ingest({"hosp/prescriptions": [ORDERED], "hosp/pharmacy": [entered]})
    for code in ("PRESCRIPTION//START", "PRESCRIPTION//STOP", "NDC//"):
        assert known(store, code) == [at(NOON)], code
    assert known(store, "MEDICATION//START") == known(store, "MEDICATION//STOP") == [at(NOON)]
    assert report.tables["hosp/prescriptions"].unfiled == {}
    others = {**entered, "pharmacy_id": 8}
    report, store = ingest({"hosp/prescriptions": [ORDERED], "hosp/pharmacy": [others]})
    assert known(store, "PRESCRIPTION//") == [at(f"2150-03-02 {MIDNIGHT}")] * 2
    assert report.tables["hosp/prescriptions"].unfiled == {"start": 1, "ndc": 1, "stop": 1}


def test_without_the_pharmacy_a_prescription_waits_for_the_end_of_its_day(ingest):
    report, store = ingest({"hosp/prescriptions": [ORDERED]})
    assert known(store, "PRESCRIPTION//") == [at(f"2150-03-02 {MIDNIGHT}")] * 2
    assert "hosp/pharmacy" in report.missing


# What becomes an event -----------------------------------------------------------------------


def test_products_stand_beside_their_prescription(ingest):
    """The doors to drug databases; "0" is MIMIC's word for none."""
    rows = [ORDERED, {**ORDERED, "ndc": "0"}, {**ORDERED, "ndc": ""}]
    report, store = ingest({"hosp/prescriptions": rows})
    products = store.events().filter(pl.col("code").str.starts_with("NDC//")).collect().to_dicts()
    ((row),) = products
    assert row["code"] == "NDC//00338004904"
    assert (row["time"], row["numeric_value"], row["text_value"]) == (
        at(ORDERED["starttime"]),
        5000,
        "UNIT",
    )
    assert report.tables["hosp/prescriptions"].events == {"start": 3, "ndc": 1, "stop": 3}


def test_the_years_that_a_patient_was_seen_in(ingest):
    patient = {"gender": "F", "anchor_age": 50, "anchor_year": 2150}
    _, store = ingest({"hosp/patients": [{**patient, "anchor_year_group": "2014 - 2016"}]})
    first = store.events().collect().to_dicts()[:2]
    assert [row["code"] for row in first] == ["GENDER//F", "ANCHOR_YEAR_GROUP//2014 - 2016"]
    assert all(row["time"] is None for row in first)


@pytest.mark.parametrize(
    ("value", "text"),
    [("7", None), ("7.0", None), ("16777216", None), ("16777217", "16777217"), ("> 7", "> 7")],
)
def test_text_stays_where_the_number_is_not_the_same(value, text, ingest):
    """float32 has no 16777217."""
    row = {"itemid": 1, "charttime": NOON, "value": value, "valuenum": value.removeprefix("> ")}
    _, store = ingest({"hosp/labevents": [row]})
    (found,) = store.events().filter(pl.col("code").str.starts_with("LAB")).collect().to_dicts()
    assert found["text_value"] == text


# Times that are missing or wrong -------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "row", "time", "reason"),
    [
        ("hosp/labevents", {"itemid": 1, "value": "7"}, "charttime", "charttime is missing"),
        ("hosp/transfers", {"eventtype": "admit"}, "intime", "intime is missing"),
        ("hosp/diagnoses_icd", {"icd_code": "I10", "icd_version": 10}, "", "dischtime is missing"),
        ("hosp/drgcodes", {"drg_type": "APR", "drg_code": "021"}, "", "dischtime is missing"),
        ("hosp/hcpcsevents", {"hcpcs_cd": "G0378"}, "chartdate", "chartdate is missing"),
        ("hosp/prescriptions", {"drug": "Heparin"}, "starttime", "starttime is missing"),
        ("hosp/microbiologyevents", {"test_itemid": 1}, "chartdate", "no charttime or chartdate"),
        ("icu/chartevents", {"itemid": 1, "valuenum": 7}, "charttime", "charttime is missing"),
        ("ed/vitalsign", {"stay_id": 5, "sbp": 120}, "charttime", "charttime is missing"),
    ],
)
def test_a_row_without_its_time_is_rejected_for_that(table, row, time, reason, ingest):
    """Of three rows one has no time; where the admission gives it, that has no end."""
    of = {} if table.startswith("ed/") else {"hadm_id": 10}
    whole = {**row, **of, **({time: NOON} if time else {})}
    lost = {**row, **({"hadm_id": 11} if of else {})}
    open_end = {**ADMISSION, "hadm_id": 11, "dischtime": ""}
    report, _ = ingest({"hosp/admissions": [ADMISSION, open_end], table: [whole, lost, whole]})
    ledger = report.tables[table]
    assert (ledger.rejected, ledger.first_row) == ({reason: 1}, {reason: 3})
    assert (ledger.kept, ledger.empty) == (2, 0)
    assert settled(ledger)


def test_an_event_without_its_time_is_counted(ingest):
    rows = [ORDERED, {**ORDERED, "starttime": ""}, {**ORDERED, "stoptime": ""}]
    report, store = ingest({"hosp/prescriptions": rows})
    ledger = report.tables["hosp/prescriptions"]
    assert (ledger.kept, ledger.rejected) == (3, {})
    assert ledger.events == {"start": 2, "ndc": 2, "stop": 2}
    assert ledger.untimed == {"start": 1, "ndc": 1, "stop": 1}
    assert settled(ledger)
    assert len(store.events().filter(pl.col("time").is_not_null()).collect()) == 1 + 6
    assert "1 start not there for want of its time" in ledger.notes


def test_what_did_not_happen_is_no_missing_time(ingest):
    """Most patients are alive, and most admissions do not come from the ED."""
    report, _ = ingest({"hosp/admissions": [ADMISSION]})
    assert report.tables["hosp/patients"].untimed == {}
    assert report.tables["hosp/admissions"].untimed == {}


def test_a_row_that_says_nothing_is_empty(ingest):
    rows = [{"stay_id": 5, "charttime": NOON}, {"stay_id": 5}, {"stay_id": 5, "sbp": 120}]
    rows[2]["charttime"] = NOON
    report, _ = ingest({"ed/vitalsign": rows})
    ledger = report.tables["ed/vitalsign"]
    assert (ledger.kept, ledger.empty, ledger.rejected) == (1, 2, {})


@pytest.mark.parametrize(
    ("deathtime", "end"),
    [
        ("2150-03-01 20:00:00", "2150-03-01 20:00:00"),
        ("", ADMISSION["admittime"]),
        ("2150-03-01 07:00:00", ADMISSION["admittime"]),
    ],
)
def test_the_dead_who_were_discharged_at_midnight_keep_their_admission(deathtime, end, ingest):
    dead = {**ADMISSION, "dischtime": "2150-03-01 00:00:00", "deathtime": deathtime}
    dead |= {"hospital_expire_flag": 1, "discharge_location": "DIED"}
    diagnosis = {"hadm_id": 10, "icd_code": "I10", "icd_version": 10}
    report, store = ingest({"hosp/admissions": [dead], "hosp/diagnoses_icd": [diagnosis]})
    (stay,) = store.stays().collect().to_dicts()
    assert (stay["end"], stay["died"]) == (at(end), True)
    for code in ("HOSPITAL_DISCHARGE//DIED", "DIAGNOSIS//ICD//10//I10"):
        assert known(store, code) == [at(end)]
    ledger = report.tables["hosp/admissions"]
    assert (ledger.kept, ledger.mended, ledger.rejected) == (1, 1, {})
    assert "1 with a mended end" in ledger.notes


def test_a_death_is_not_known_from_a_discharge_at_the_midnight_before(ingest):
    dead = {**ADMISSION, "dischtime": "2150-03-09 00:00:00", "deathtime": "2150-03-09 21:00:00"}
    dead |= {"hospital_expire_flag": 1, "discharge_location": "DIED"}
    report, store = ingest({"hosp/admissions": [dead]})
    assert store.stays().collect()["end"].to_list() == [at("2150-03-09 21:00:00")]
    assert known(store, "HOSPITAL_DISCHARGE//DIED") == [at("2150-03-09 21:00:00")]
    assert report.tables["hosp/admissions"].mended == 1
    # Discharged after death, as by a clerk in the morning: left as it is.
    late = {**dead, "dischtime": "2150-03-10 08:00:00"}
    report, store = ingest({"hosp/admissions": [late]})
    assert store.stays().collect()["end"].to_list() == [at("2150-03-10 08:00:00")]
    assert report.tables["hosp/admissions"].mended == 0


def test_the_living_who_left_before_they_came_are_rejected(ingest):
    wrong = {**ADMISSION, "hadm_id": 11, "dischtime": "2150-03-01 00:00:00"}
    report, store = ingest({"hosp/admissions": [ADMISSION, wrong]})
    ledger = report.tables["hosp/admissions"]
    assert ledger.rejected == {"dischtime is before admittime": 1}
    assert (ledger.mended, len(store.stays().collect())) == (0, 1)


# Descriptions --------------------------------------------------------------------------------


def test_a_code_with_several_descriptions_gets_none(ingest):
    bills = [{"hadm_id": 10, "chartdate": NOON, "short_description": s} for s in ("Stent", "Scan")]
    texts = [("1", "Stent", "One stent"), ("2", "Stent", "Two stents"), ("3", "Scan", "A scan")]
    names = ("code", "short_description", "long_description")
    _, store = ingest(
        {
            "hosp/admissions": [ADMISSION],
            "hosp/hcpcsevents": bills,
            "hosp/d_hcpcs": [dict(zip(names, text, strict=True)) for text in texts],
        }
    )
    codes = dict(store.codes().select("code", "description").collect().iter_rows())
    assert (codes["HCPCS//Stent"], codes["HCPCS//Scan"]) == (None, "A scan")


# What the source is --------------------------------------------------------------------------

OPEN = "## ODC Open Database License (ODbL)\n"
CREDENTIALED = "PhysioNet Credentialed Health Data License 1.5.0\n"


def test_a_release_that_is_guessed_is_called_so(ingest):
    report, store = ingest({"hosp/admissions": [ADMISSION]})
    assert (report.source, report.access) == ("mimic-iv", "credentialed")
    assert store.provenance["source_version"] == "2.2 (inferred from its columns)"


def test_a_synthetic_hospital_says_what_it_is(hospital):
    found = hospital.store.provenance
    assert (found["source"], found["access"]) == ("synthetic-hospital", "synthetic")
    assert found["source_version"].startswith("wardround ")
    named = json.loads((hospital.store.path / "metadata/dataset.json").read_text())
    assert named["dataset_name"] == "Synthetic hospital"


@pytest.mark.parametrize(
    ("first", "second", "access"),
    [
        ({"LICENSE.txt": OPEN}, {"LICENSE.txt": OPEN}, "open"),
        ({"LICENSE.txt": OPEN}, {"LICENSE.txt": CREDENTIALED}, "credentialed"),
        ({"LICENSE.txt": OPEN}, {}, "credentialed"),
        ({"SYNTHETIC.json": "{}"}, {"SYNTHETIC.json": "{}"}, "synthetic"),
        ({"SYNTHETIC.json": "{}"}, {"LICENSE.txt": OPEN}, "open"),
        ({"SYNTHETIC.json": "{}"}, {}, "credentialed"),
        ({"demo_subject_id.csv": "subject_id\n1\n"}, {}, "open"),
        ({"demo_subject_id.csv": "subject_id\n2\n"}, {}, "credentialed"),
        ({"demo_subject_id.csv": "subject_id\n1\n"}, {"LICENSE.txt": CREDENTIALED}, "credentialed"),
    ],
)
def test_the_strictest_terms_of_all_folders_hold(first, second, access, source, tmp_path):
    folder = source({"hosp/labevents": [{"itemid": 1, "charttime": NOON}]})
    other = tmp_path / "other"
    (other / "hosp").mkdir(parents=True)
    (folder / "hosp/labevents.csv").rename(other / "hosp/labevents.csv")
    for place, files in ((folder, first), (other, second)):
        for name, text in files.items():
            (place / name).write_text(text)
    assert ingest_mimic([folder, other], tmp_path / "store").access == access


# What is read --------------------------------------------------------------------------------

TABLES = {
    "hosp/admissions": [ADMISSION],
    "hosp/labevents": [{"itemid": 1, "charttime": NOON}],
    "hosp/diagnoses_icd": [{"hadm_id": 10, "icd_code": "I10", "icd_version": 10}],
    "ed/edstays": [{"stay_id": 5, "intime": NOON}],
    "ed/triage": [{"stay_id": 5, "sbp": 120}],
    "icu/chartevents": [{"itemid": 1, "charttime": NOON}],
}


def test_chosen_tables_alone_are_read(ingest):
    chosen = ["hosp/patients", "ed"]
    report, store = ingest({**TABLES, "ed/extra": [{"x": 1}]}, tables=chosen)
    assert list(report.tables) == ["hosp/patients", "ed/edstays", "ed/triage"]
    assert {"hosp/labevents", "icu/chartevents", "icu/icustays"} < set(report.left_out)
    assert not set(report.left_out) & {"hosp/patients", "ed/triage", *report.missing}
    assert store.provenance["left_out"] == report.left_out
    assert "icu/chartevents" not in store.provenance["files"]
    assert report.unread == ["ed/extra"]
    terminal = Console(width=80, record=True)
    terminal.print(format_report(report))
    text = " ".join(terminal.export_text().split())
    assert "│ hosp/patients │" in text, "a narrow terminal cuts no name"
    assert "Not read, as no map has it: ed/extra" in text
    assert "Left out by choice: hosp/admissions" in text


def test_the_ed_alone_is_the_ed_of_the_whole(ingest):
    parts = pl.col("code").str.starts_with("ED//")
    whole = ingest(TABLES)[1].events().filter(parts).collect()
    chosen = ingest(TABLES, tables=["hosp/patients", "ed/edstays", "ed/triage"])[1]
    assert chosen.events().filter(parts).collect().equals(whole)


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (["hosp", "hosp/labevent"], "no table 'hosp/labevent' to choose; .* hosp/labevents"),
        (["icu", "emergency"], r"no table 'emergency' to choose; .*\(hosp, ed, icu, note\)"),
        (["ed"], "hosp/patients is required; add it to the chosen tables"),
        ([], "hosp/patients is required; add it to the chosen tables"),
        (
            ["hosp/patients", "hosp/diagnoses_icd"],
            "needs the table admissions .* is left out; add hosp/admissions to the chosen tables",
        ),
    ],
)
def test_a_choice_that_cannot_be_is_refused(chosen, said, ingest, tmp_path):
    with pytest.raises(WardroundError, match=said):
        ingest(TABLES, tables=chosen)
    assert not (tmp_path / "store").exists()


def test_a_damaged_file_is_told_before_all_blocks_are_written(source, tmp_path, monkeypatch):
    """A wrong checksum: the engine reads such a file to its end, the hash finds it."""
    folder = source(
        {
            "hosp/patients": [
                {"subject_id": n, "gender": "F", "anchor_age": 50, "anchor_year": 2150}
                for n in range(1, 200)
            ]
        }
    )
    plain = folder / "hosp/patients.csv"
    content = bytearray(gzip.compress(plain.read_bytes()))
    content[-8] ^= 1
    plain.with_suffix(".csv.gz").write_bytes(content)
    plain.unlink()
    written = []

    class Writer(ingest_module.StoreWriter):
        def write_shard(self, name, events):
            written.append(name)

    monkeypatch.setattr(ingest_module, "StoreWriter", Writer)
    with pytest.raises(WardroundError, match="not a whole gzip file"):
        ingest_mimic([folder], tmp_path / "store", subjects_per_block=1)
    assert len(written) < 100
    assert [path.name for path in Path(tmp_path).iterdir()] == ["source"]


def test_rows_of_one_moment_stand_as_in_their_file_however_long_it_is(ingest) -> None:
    # The engine reads a long file in buffers, and a join holds back what little is left of one.
    lab = {
        "hadm_id": 10,
        "itemid": 50912,
        "charttime": NOON,
        "storetime": NOON,
        "valueuom": "mg/dL",
    }
    count = 130_000
    rows = [{**lab, "valuenum": n} for n in range(count)]
    _, store = ingest({"hosp/admissions": [ADMISSION], "hosp/labevents": rows}, threads=2)
    assert (store.path.parent / "source/hosp/labevents.csv").stat().st_size > 8_000_000
    found = store.events().filter(pl.col("code").str.starts_with("LAB//")).collect()
    assert found["numeric_value"].to_list() == [float(n) for n in range(count)]
