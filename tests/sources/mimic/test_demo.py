"""MIMIC-IV's open demo in the store: every row of every table is there, or counted as absent."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import meds
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from wardround.errors import WardroundError
from wardround.sources.mimic import ingest_mimic
from wardround.store import open_store

#: What gives a code: a row of the table with all of these columns filled.
ORIGINS: dict[str, list[tuple[str, list[str]]]] = {
    "GENDER//": [("hosp/patients", ["gender"])],
    "ANCHOR_YEAR_GROUP//": [("hosp/patients", ["anchor_year_group"])],
    "MEDS_BIRTH": [("hosp/patients", ["anchor_year"])],
    "MEDS_DEATH": [("hosp/patients", ["dod"])],
    "ED_REGISTRATION": [("hosp/admissions", ["edregtime"])],
    "ED_OUT": [("hosp/admissions", ["edouttime"])],
    "HOSPITAL_ADMISSION//": [("hosp/admissions", [])],
    "HOSPITAL_DISCHARGE//": [("hosp/admissions", ["dischtime"])],
    "INSURANCE//": [("hosp/admissions", ["insurance"])],
    "LANGUAGE//": [("hosp/admissions", ["language"])],
    "MARITAL_STATUS//": [("hosp/admissions", ["marital_status"])],
    "RACE//": [("hosp/admissions", ["race"]), ("ed/edstays", ["race"])],
    "TRANSFER_TO//": [("hosp/transfers", [])],
    "SERVICE//": [("hosp/services", [])],
    "DIAGNOSIS//ICD//": [("hosp/diagnoses_icd", [])],
    "PROCEDURE//ICD//": [("hosp/procedures_icd", [])],
    "DRG//": [("hosp/drgcodes", [])],
    "HCPCS//": [("hosp/hcpcsevents", [])],
    "LAB//RESULT//": [("hosp/labevents", [])],
    "MICROBIOLOGY//TEST//": [("hosp/microbiologyevents", ["test_itemid"])],
    "MICROBIOLOGY//ORGANISM//": [("hosp/microbiologyevents", ["org_itemid"])],
    "MICROBIOLOGY//SUSCEPTIBILITY//": [("hosp/microbiologyevents", ["ab_itemid"])],
    "PRESCRIPTION//START//": [("hosp/prescriptions", ["starttime"])],
    "NDC//": [("hosp/prescriptions", ["starttime", "ndc"])],
    "PRESCRIPTION//STOP//": [("hosp/prescriptions", ["stoptime"])],
    "MEDICATION//DOSE//": [("hosp/emar_detail", ["dose_given"])],
    "MEDICATION//": [
        ("hosp/emar", ["charttime"]),
        ("hosp/emar_detail", ["dose_given"]),
        ("hosp/pharmacy", ["starttime"]),
        ("hosp/pharmacy", ["stoptime"]),
    ],
    "ORDER//": [("hosp/poe", [])],
    "Weight (Lbs)": [("hosp/omr", ["result_value"])],
    "ED//ARRIVAL//": [("ed/edstays", [])],
    "ED//DEPARTURE//": [("ed/edstays", ["outtime"])],
    "ED//DIAGNOSIS//ICD//": [("ed/diagnosis", [])],
    "ED//MEDRECON//": [("ed/medrecon", [])],
    "ED//PYXIS//": [("ed/pyxis", [])],
    **{
        f"ED//{table.upper()}//{column.upper()}": [(f"ed/{table}", [column])]
        for table, columns in {
            "triage": "temperature heartrate resprate o2sat sbp dbp pain acuity chiefcomplaint",
            "vitalsign": "temperature heartrate resprate o2sat sbp dbp rhythm pain",
        }.items()
        for column in columns.split()
    },
    "ICU_ADMISSION//": [("icu/icustays", [])],
    "ICU_DISCHARGE//": [("icu/icustays", ["outtime"])],
    "LAB//": [("icu/chartevents", []), ("hosp/labevents", [])],
    "DATETIME//": [("icu/datetimeevents", [])],
    "INFUSION_START//": [("icu/inputevents", [])],
    "INFUSION_END//": [("icu/inputevents", [])],
    "SUBJECT_WEIGHT_AT_INFUSION//KG": [("icu/inputevents", ["patientweight"])],
    "INGREDIENT_START//": [("icu/ingredientevents", [])],
    "INGREDIENT_END//": [("icu/ingredientevents", [])],
    "SUBJECT_FLUID_OUTPUT//": [("icu/outputevents", [])],
    "PROCEDURE//START//": [("icu/procedureevents", [])],
    "PROCEDURE//END//": [("icu/procedureevents", ["endtime"])],
}
TABLES = {
    "hosp": (
        "patients admissions transfers services diagnoses_icd procedures_icd drgcodes hcpcsevents "
        "labevents microbiologyevents prescriptions pharmacy emar emar_detail poe omr"
    ),
    "ed": "edstays triage vitalsign pyxis medrecon diagnosis",
    "icu": (
        "icustays chartevents datetimeevents inputevents ingredientevents outputevents "
        "procedureevents"
    ),
}


@pytest.fixture(scope="module")
def report(demo):
    return json.loads((demo.path / "ingest-report.json").read_text())


@pytest.fixture(scope="module")
def events(demo):
    return demo.events().collect()


def test_subjects_and_stays(demo, report):
    splits = demo.splits()
    assert splits["subject_id"].n_unique() == len(splits) == 100
    assert dict(demo.stays().collect()["kind"].value_counts().iter_rows()) == {
        "hospital": 275,
        "icu": 140,
        "ed": 222,
    }
    assert report["stays"] == {"hospital": 275, "icu": 140, "ed": 222}
    assert report["duplicate_stays"] == 0
    assert demo.access == "open", "the demo's licence lies beside it"
    assert demo.provenance["source"] == "mimic-iv-demo"
    assert demo.provenance["source_version"] == "2.2"
    named = json.loads((demo.path / "metadata/dataset.json").read_text())
    assert named["dataset_name"] == "MIMIC-IV Clinical Database Demo"


def test_every_stay_has_the_ids_and_times_of_its_row(demo, demo_rows):
    stays = demo.stays().collect()
    for kind, table, id_name, start, end in [
        ("hospital", "hosp/admissions", "hadm_id", "admittime", "dischtime"),
        ("icu", "icu/icustays", "stay_id", "intime", "outtime"),
        ("ed", "ed/edstays", "stay_id", "intime", "outtime"),
    ]:
        listed = {
            # Four of the dead are listed as discharged at the midnight before they died.
            (
                int(row["subject_id"]),
                int(row[id_name]),
                row[start],
                max(row[end], row.get("deathtime") or ""),
            )
            for row in demo_rows(table)
        }
        columns = ["subject_id", "stay_id"]
        times = [pl.col(c).dt.strftime("%Y-%m-%d %H:%M:%S") for c in ("start", "end")]
        stored = stays.filter(kind=kind).select(*columns, *times)
        assert set(stored.iter_rows()) == listed


@pytest.mark.parametrize("module", TABLES)
def test_rows_in_are_rows_out_and_counted_rejects(module, report, demo_rows):
    tables = [f"{module}/{table}" for table in TABLES[module].split()]
    assert tables == [name for name in report["tables"] if name.startswith(module)]
    for table in tables:
        ledger = report["tables"][table]
        rejected = sum(ledger["rejected"].values())
        assert ledger["rows"] == len(demo_rows(table)), table
        assert ledger["rows"] == ledger["kept"] + ledger["empty"] + rejected, table
        assert rejected == 0, f"{table}: the demo is clean, but {ledger['rejected']}"
        assert set(ledger["first_row"]) == set(ledger["rejected"])
        assert ledger["mended"] == (4 if table == "hosp/admissions" else 0)
    assert report["missing"] == report["left_out"] == []
    assert report["unread"] == ["hosp/poe_detail", "hosp/provider", "icu/caregiver"]


def test_what_lacks_a_time_is_counted(report, demo_rows):
    """Ends that nobody wrote, and rows of which nobody wrote when they were filed."""
    untimed = {name: t["untimed"] for name, t in report["tables"].items() if t["untimed"]}
    unfiled = {name: t["unfiled"] for name, t in report["tables"].items() if t["unfiled"]}
    empty = {
        (table, column): sum(not row[column] for row in demo_rows(table))
        for table, column in [
            *(("hosp/prescriptions", "stoptime"), ("hosp/pharmacy", "stoptime")),
            *(("hosp/labevents", "storetime"), ("hosp/microbiologyevents", "storetime")),
            ("icu/chartevents", "storetime"),
        ]
    }
    assert untimed == {
        "hosp/prescriptions": {"stop": empty["hosp/prescriptions", "stoptime"]},
        "hosp/pharmacy": {"stop": empty["hosp/pharmacy", "stoptime"]},
    }
    assert unfiled == {
        "hosp/labevents": {"result": empty["hosp/labevents", "storetime"]},
        "hosp/microbiologyevents": {"test": empty["hosp/microbiologyevents", "storetime"]},
        "icu/chartevents": {"event": empty["icu/chartevents", "storetime"]},
    }
    assert list(empty.values()) == [14, 81, 992, 16, 668_862]


def test_only_rows_that_say_nothing_are_empty(report, demo_rows):
    empty = {name: t["empty"] for name, t in report["tables"].items() if t["empty"]}
    doses = sum(not row["dose_given"].strip() for row in demo_rows("hosp/emar_detail"))
    vitals = ("temperature", "heartrate", "resprate", "o2sat", "sbp", "dbp", "rhythm", "pain")
    silent = sum(not any(row[v] for v in vitals) for row in demo_rows("ed/vitalsign"))
    assert empty == {"hosp/emar_detail": doses, "ed/vitalsign": silent}
    assert (doses, silent) == (39363, 1)


def test_every_code_counts_the_rows_that_have_it(events, demo_rows, report):
    read: dict[str, list[dict[str, str]]] = {}
    for prefix, origins in ORIGINS.items():
        expected = 0
        for table, columns in origins:
            rows = read.setdefault(table, demo_rows(table))
            if prefix == "NDC//":
                rows = [row for row in rows if row["ndc"] != "0"]
            if prefix == "Weight (Lbs)":
                rows = [row for row in rows if row["result_name"] == prefix]
            expected += sum(all(row[column].strip() for column in columns) for row in rows)
        found = int(events["code"].str.starts_with(prefix).sum())
        assert found == expected, f"{prefix}: {found:,} events, {expected:,} rows"
    omr = {row["result_name"] for row in read["hosp/omr"]}
    families = tuple({*ORIGINS, *omr})
    unexplained = events.filter(
        ~pl.any_horizontal(pl.col("code").str.starts_with(f) for f in families)
    )
    assert unexplained.is_empty(), unexplained["code"].unique().to_list()[:10]
    assert (
        report["events"]
        == len(events)
        == sum(sum(ledger["events"].values()) for ledger in report["tables"].values())
    )


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


#: Read off the CSV files by eye: code, subject, then what else must stand in the row.
SPOTS = {
    "a lab value, its unit, and the storetime at which it was known": (
        "LAB//RESULT//50912//mg/dL",
        10014354,
        {
            "time": at("2148-08-16 00:00:00"),
            "numeric_value": np.float32(1.8),
            "text_value": None,
            "available_time": at("2148-08-16 01:47:00"),
            "hadm_id": 29600294,
        },
    ),
    "a troponin drawn at nine and filed at 11:13, its text masked by the publisher": (
        "LAB//RESULT//51003//ng/mL",
        10023117,
        {
            "time": at("2175-03-25 09:00:00"),
            "numeric_value": np.float32(0.16),
            "text_value": "___",
            "available_time": at("2175-03-25 11:13:00"),
            "hadm_id": 21133938,
        },
    ),
    "the admission that a patient's race, insurance and language come with": (
        "RACE//BLACK/CAPE VERDEAN",
        10004235,
        {"time": at("2196-02-24 14:38:00"), "hadm_id": 24181354},
    ),
    "insurance": (
        "INSURANCE//Medicaid",
        10009628,
        {"time": at("2153-09-17 17:08:00"), "available_time": at("2153-09-17 17:08:00")},
    ),
    "no marital status where the file has none, a language where it has a question mark": (
        "LANGUAGE//?",
        10009628,
        {"time": at("2153-09-17 17:08:00"), "hadm_id": 25926192},
    ),
    "an admission": (
        "HOSPITAL_ADMISSION//URGENT//TRANSFER FROM HOSPITAL",
        10004235,
        {"time": at("2196-02-24 14:38:00"), "stay_id": None},
    ),
    "a diagnosis, known at discharge": (
        "DIAGNOSIS//ICD//9//5723",
        10000032,
        {
            "time": at("2180-05-07 17:15:00"),
            "available_time": at("2180-05-07 17:15:00"),
            "hadm_id": 22595853,
        },
    ),
    "a death in hospital at its minute": (
        "MEDS_DEATH",
        10007818,
        {"time": at("2146-07-12 20:50:00"), "available_time": at("2146-07-12 20:50:00")},
    ),
    "a death known by its day alone, told when the day is over": (
        "MEDS_DEATH",
        10000032,
        {
            "time": at("2180-09-09 00:00:00"),
            "available_time": at("2180-09-09 23:59:59.999999"),
        },
    ),
    "birth on the first of January of anchor_year - anchor_age": (
        "MEDS_BIRTH",
        10003400,
        {"time": at("2062-01-01 00:00:00")},
    ),
    "sex": ("GENDER//F", 10003400, {"time": None, "available_time": None}),
    "a procedure, coded at discharge, with its day as text": (
        "PROCEDURE//ICD//9//3961",
        10011398,
        {"text_value": "2146-12-15 00:00:00", "hadm_id": 27505812},
    ),
    "a drug as prescribed": (
        "PRESCRIPTION//START//Fentanyl Citrate",
        10027602,
        {"time": at("2201-10-30 12:00:00"), "hadm_id": 28166872},
    ),
    "the product of a prescription, its dose and unit": (
        "NDC//68084008901",
        10001725,
        {
            "time": at("2110-04-11 15:00:00"),
            "numeric_value": np.float32(1),
            "text_value": "mg",
            "available_time": at("2110-04-11 15:16:42"),
        },
    ),
    "an ED visit before an admission, known when the patient is admitted": (
        "ED_REGISTRATION",
        10004235,
        {"time": at("2196-02-24 12:15:00"), "available_time": at("2196-02-24 14:38:00")},
    ),
    "a bill of the stay's first day, known at discharge": (
        "HCPCS//Cardiovascular",
        10004457,
        {"time": at("2140-09-17"), "available_time": at("2140-09-18 12:40:00")},
    ),
    "a drug as dispensed, known when the pharmacy entered it": (
        "MEDICATION//START//Midazolam",
        10027602,
        {
            "time": at("2201-10-30 12:00:00"),
            "available_time": at("2201-10-30 12:32:11"),
            "hadm_id": 28166872,
        },
    ),
    "a drug as given, with no outcome written": (
        "MEDICATION//Magnesium Sulfate//UNK",
        10005909,
        {"time": at("2144-10-31 05:56:00"), "hadm_id": 20199380},
    ),
    "an organism's susceptibility, three days after the swab": (
        "MICROBIOLOGY//SUSCEPTIBILITY//80023//90027//S",
        10005817,
        {
            "time": at("2135-01-08 15:30:00"),
            "available_time": at("2135-01-12 10:47:00"),
            "numeric_value": np.float32(0.5),
            "text_value": "RIFAMPIN",
        },
    ),
    "a day's weight, known when the day is over": (
        "Weight (Lbs)",
        10011398,
        {
            "time": at("2147-01-22 00:00:00"),
            "numeric_value": np.float32(127),
            "available_time": at("2147-01-22 23:59:59.999999"),
        },
    ),
    "a chart event, unit in its code": (
        "LAB//226512//kg",
        10000032,
        {
            "time": at("2180-07-23 12:36:00"),
            "numeric_value": np.float32(39.4),
            "hadm_id": 29079034,
            "stay_id": 39553978,
        },
    ),
    "a date in the chart": (
        "DATETIME//225343",
        10002428,
        {"time": at("2156-05-15 10:50:00"), "text_value": "2156-05-11 00:00:00"},
    ),
    "an infusion charted a minute ahead of its end": (
        "INFUSION_END//225798",
        10005817,
        {
            "time": at("2132-12-16 19:51:00"),
            "available_time": at("2132-12-16 19:51:00"),
            "numeric_value": np.float32(1),
            "text_value": "dose",
        },
    ),
    "urine charted before its hour is known at its hour": (
        "SUBJECT_FLUID_OUTPUT//226583//ml",
        10002428,
        {
            "time": at("2156-05-15 18:00:00"),
            "available_time": at("2156-05-15 18:00:00"),
            "numeric_value": np.float32(600),
        },
    ),
    "an ICU stay": (
        "ICU_ADMISSION//Neuro Stepdown",
        10018328,
        {"time": at("2154-04-24 23:03:44"), "stay_id": 31269608},
    ),
    "a triage vital at the visit's start, its admission unsaid": (
        "ED//TRIAGE//SBP",
        10000032,
        {
            "time": at("2180-05-06 19:17:00"),
            "numeric_value": np.float32(106),
            "hadm_id": None,
            "stay_id": 33258284,
        },
    ),
    "why the patient came": (
        "ED//TRIAGE//CHIEFCOMPLAINT",
        10000032,
        {"time": at("2180-05-06 19:17:00"), "text_value": "Abd pain, Abdominal distention"},
    ),
    "a vital sign at its minute": (
        "ED//VITALSIGN//SBP",
        10000032,
        {
            "time": at("2180-07-22 16:43:00"),
            "numeric_value": np.float32(76),
            "stay_id": 32952584,
        },
    ),
    "how the visit ended, known when it had": (
        "ED//DEPARTURE//ADMITTED",
        10000032,
        {"time": at("2180-05-06 23:30:00"), "hadm_id": None, "stay_id": 33258284},
    ),
}


@pytest.mark.parametrize("what", SPOTS)
def test_spot(what, events):
    code, subject, expected = SPOTS[what]
    rows = events.filter(pl.col("subject_id") == subject, pl.col("code") == code).to_dicts()
    found = [{name: row[name] for name in expected} for row in rows]
    assert expected in found, f"{len(rows)} rows of {subject} with {code}: {found[:5]}"


def test_codes_of_a_stay_are_known_at_its_end(events, demo_rows):
    ended = {
        row["hadm_id"]: max(row["dischtime"], row["deathtime"])
        for row in demo_rows("hosp/admissions")
    }
    for table, prefix in [
        ("diagnoses_icd", "DIAGNOSIS//ICD"),
        ("procedures_icd", "PROCEDURE//ICD"),
    ]:
        expected = sorted(
            (
                int(row["subject_id"]),
                at(ended[row["hadm_id"]]),
                f"{prefix}//{row['icd_version']}//{row['icd_code']}",
            )
            for row in demo_rows(f"hosp/{table}")
        )
        rows = events.filter(pl.col("code").str.starts_with(f"{prefix}//"))
        assert sorted(rows.select("subject_id", "available_time", "code").iter_rows()) == expected
    left = {row["stay_id"]: row["outtime"] for row in demo_rows("ed/edstays")}
    expected = sorted(
        (int(row["stay_id"]), at(left[row["stay_id"]])) for row in demo_rows("ed/diagnosis")
    )
    rows = events.filter(pl.col("code").str.starts_with("ED//DIAGNOSIS//"))
    assert sorted(rows.select("stay_id", "available_time").iter_rows()) == expected


def test_every_lab_is_known_when_it_was_filed(events, demo_rows):
    """All 107,727: time, the later of charttime and storetime, and the value as float32.

    992 have no storetime, and are known when the day is over.
    """
    expected = sorted(
        (
            int(row["subject_id"]),
            at(row["charttime"]),
            max(
                at(row["storetime"] or f"{row['charttime'][:10]} 23:59:59.999999"),
                at(row["charttime"]),
            ),
            f"LAB//RESULT//{row['itemid']}//{row['valueuom'] or 'UNK'}",
            float(np.float32(row["valuenum"])) if row["valuenum"] else -1e30,
            int(row["hadm_id"] or 0),
        )
        for row in demo_rows("hosp/labevents")
    )
    rows = events.filter(pl.col("code").str.starts_with("LAB//RESULT//")).select(
        "subject_id",
        "time",
        "available_time",
        "code",
        pl.col("numeric_value").cast(pl.Float64).fill_null(-1e30),
        pl.col("hadm_id").fill_null(0),
    )
    assert sorted(rows.iter_rows()) == expected


def test_nothing_is_known_before_it_happened(events):
    assert events.filter(pl.col("available_time") < pl.col("time")).is_empty()
    never = events.filter(pl.col("available_time").is_null() & pl.col("time").is_not_null())
    assert len(never) == 16, "cultures of which nobody wrote when they were told"
    assert never["code"].str.starts_with("MICROBIOLOGY//TEST//").all()
    static = events.filter(pl.col("time").is_null())
    assert set(static["code"].str.split("//").list.first()) == {"GENDER", "ANCHOR_YEAR_GROUP"}
    assert static["available_time"].null_count() == len(static)


def test_a_prescription_is_known_when_the_pharmacy_had_entered_it(events, demo_rows):
    entered = {row["pharmacy_id"]: at(row["entertime"]) for row in demo_rows("hosp/pharmacy")}
    rows = demo_rows("hosp/prescriptions")
    for code, column in [("PRESCRIPTION//START", "starttime"), ("PRESCRIPTION//STOP", "stoptime")]:
        expected = sorted(
            (
                int(row["subject_id"]),
                at(row[column]),
                max(entered[row["pharmacy_id"]], at(row[column])),
            )
            for row in rows
            if row[column]
        )
        found = events.filter(pl.col("code").str.starts_with(code))
        assert sorted(found.select("subject_id", "time", "available_time").iter_rows()) == expected


def test_who_died_is_read_from_the_discharge(demo, demo_rows):
    died = {
        int(r["hadm_id"]) for r in demo_rows("hosp/admissions") if r["hospital_expire_flag"] == "1"
    }
    stays = demo.stays().collect()
    assert set(stays.filter(kind="hospital", died=True)["stay_id"]) == died
    assert len(died) == 15
    in_icu = stays.filter(kind="icu", died=True)
    assert set(in_icu["hadm_id"]) <= died
    assert in_icu.filter(~pl.col("death_time").is_between("start", "end")).is_empty()


def test_codes_are_described_by_the_sources_dictionaries(demo):
    codes = {row["code"]: row for row in demo.codes().collect().to_dicts()}
    assert codes["LAB//RESULT//50912//mg/dL"]["description"] == "Creatinine"
    assert codes["LAB//226512//kg"]["description"] == "Admission Weight (Kg)"
    assert codes["MICROBIOLOGY//ORGANISM//80002"]["description"] == "ESCHERICHIA COLI"
    of_microbiology = [row for code, row in codes.items() if code.startswith("MICROBIOLOGY//")]
    assert len(of_microbiology) == 502
    assert all(row["description"] for row in of_microbiology)
    assert codes["HCPCS//Cardiovascular"]["description"] is None, "many texts, none of them right"
    ascites = codes["DIAGNOSIS//ICD//9//5715"]
    assert ascites["description"] == "Cirrhosis of liver without mention of alcohol"
    assert ascites["parent_codes"] == ["ICD9CM/571.5"]
    counts = demo.events().group_by("code").agg(n=pl.len().cast(pl.Int64)).collect()
    assert dict(counts.iter_rows()) == {code: row["count"] for code, row in codes.items()}


def test_it_is_a_valid_meds_dataset(demo):
    for shard in demo.shards:
        meds.DataSchema.validate(pq.read_table(demo.path / "data" / f"{shard}.parquet"))
    meds.CodeMetadataSchema.validate(pq.read_table(demo.path / "metadata/codes.parquet"))
    meds.SubjectSplitSchema.validate(pq.read_table(demo.path / "metadata/subject_splits.parquet"))
    demo.verify()


def test_meds_reader_reads_it(demo, tmp_path):
    meds_reader = pytest.importorskip("meds_reader")
    converter = Path(sys.executable).with_name("meds_reader_convert")
    subprocess.run(
        [converter, demo.path, tmp_path / "reader", "--num_threads", "2"],
        check=True,
        capture_output=True,
    )
    with meds_reader.SubjectDatabase(str(tmp_path / "reader"), num_threads=1) as database:
        assert len(database) == 100
        stored = demo.events().filter(subject_id=10000032).collect()
        events = database[10000032].events
        assert [e.code for e in events] == stored["code"].to_list()
        assert [e.hadm_id for e in events] == stored["hadm_id"].to_list()


@pytest.fixture
def linked(demo_sources, tmp_path):
    """A source with some of the demo's tables."""

    def link(*tables: str) -> Path:
        for table in tables:
            (path,) = (p for folder in demo_sources for p in folder.glob(f"{table}.csv.gz"))
            place = tmp_path / "source" / f"{table}.csv.gz"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(path)
        return tmp_path / "source"

    return link


@pytest.mark.parametrize(
    "tables",
    [
        ["hosp/patients"],
        ["hosp/patients", "hosp/omr"],
        ["hosp/patients", "ed/edstays", "ed/triage"],
        ["hosp/patients", "icu/icustays", "icu/outputevents"],
        ["hosp/patients", "hosp/admissions", "hosp/diagnoses_icd", "hosp/d_icd_diagnoses"],
    ],
    ids=lambda tables: "+".join(t.split("/")[1] for t in tables),
)
def test_any_subset_of_tables_is_a_store(tables, linked, tmp_path, events):
    report = ingest_mimic([linked(*tables)], tmp_path / "store")
    all_tables = {f"{module}/{name}" for module, names in TABLES.items() for name in names.split()}
    dictionaries = {
        *("hosp/d_labitems", "hosp/d_icd_diagnoses", "hosp/d_icd_procedures", "hosp/d_hcpcs"),
        "icu/d_items",
    }
    assert set(report.missing) == (all_tables | dictionaries) - set(tables)
    assert list(report.tables) == [t for t in tables if t in all_tables]
    store = open_store(tmp_path / "store")
    here = store.events().collect()
    codes = here["code"].unique()
    there = events.filter(pl.col("code").is_in(codes.implode()))
    # A race comes with admissions and with ED stays; without admissions, the 31 deaths are known
    # by their days alone.
    apart = ["RACE//"] if "hosp/admissions" in tables else ["RACE//", "MEDS_DEATH"]
    told = pl.any_horizontal(pl.col("code").str.starts_with(code) for code in apart)
    same, as_whole = (f.filter(~told).sort(f.columns) for f in (here, there))
    assert same.equals(as_whole)
    assert int((here["code"] == "MEDS_DEATH").sum()) == 31


def test_what_is_required_is_named(linked, tmp_path):
    with pytest.raises(WardroundError, match=r"hosp/patients\.csv\.gz is required and not in"):
        ingest_mimic([linked("hosp/admissions", "hosp/labevents")], tmp_path / "store")
    assert not list(tmp_path.glob("*store*"))


@pytest.mark.parametrize(
    ("table", "needs"),
    [
        ("hosp/diagnoses_icd", "admissions"),
        ("hosp/emar_detail", "emar"),
        ("ed/triage", "edstays"),
    ],
)
def test_what_a_table_needs_is_named(table, needs, linked, tmp_path):
    with pytest.raises(WardroundError, match=rf"{table}\.csv\.gz needs the table {needs} "):
        ingest_mimic([linked("hosp/patients", table)], tmp_path / "store")
    assert not list(tmp_path.glob("*store*"))


def test_a_table_given_twice_is_refused(demo_sources, tmp_path):
    with pytest.raises(WardroundError, match=r"hosp/patients is there twice: .* leave one"):
        ingest_mimic([demo_sources[0], demo_sources[0].parent / "2.2"], tmp_path / "store")
