"""Our demo beside the MEDS version of it that PhysioNet publishes; every difference has a cause.

The table in docs/mimic-iv-meds-comparison.md is read and checked here. "Theirs" is the file with
all 100 subjects, whose codes and times equal the official shards where those exist (20 subjects);
text, units and admission ids are compared on these.
"""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest

from wardround.sources.mimic.mapping import load_maps

PAGE = Path(__file__).parents[3] / "docs" / "mimic-iv-meds-comparison.md"
#: Families in the order in which a code is tried: their name in the page, and a pattern.
FAMILIES = {
    "lab results": r"^LAB//(RESULT//|5)",
    "chart events": r"^LAB//2",
    "drug orders, start": r"^MEDICATION//START//",
    "drug orders, stop": r"^MEDICATION//STOP//",
    "doses given": r"^MEDICATION//DOSE//",
    "drugs given": r"^MEDICATION//",
    "infusions, start": r"^INFUSION_START//",
    "infusions, end": r"^INFUSION_END//",
    "weight at infusion": r"^SUBJECT_WEIGHT_AT_INFUSION//",
    "fluid output": r"^SUBJECT_FLUID_OUTPUT//",
    "diagnoses": r"^DIAGNOSIS//",
    "procedures, billed": r"^PROCEDURE//ICD//",
    "procedures, start": r"^PROCEDURE//START//",
    "procedures, end": r"^PROCEDURE//END//",
    "DRG": r"^DRG//",
    "HCPCS": r"^HCPCS//",
    "admissions": r"^HOSPITAL_ADMISSION//",
    "discharges": r"^HOSPITAL_DISCHARGE//",
    "transfers": r"^TRANSFER_TO//",
    "ICU admissions": r"^ICU_ADMISSION//",
    "ICU discharges": r"^ICU_DISCHARGE//",
    "ED registrations": r"^ED_REGISTRATION$",
    "ED departures": r"^ED_OUT$",
    "sex": r"^GENDER//",
    "years of the first visit": r"^ANCHOR_YEAR_GROUP//",
    "births": r"^MEDS_BIRTH$",
    "deaths": r"^MEDS_DEATH$",
    "blood pressure, outpatient": r"^Blood Pressure",
    "weight, outpatient": r"^Weight \(Lbs\)$",
    "BMI, outpatient": r"^BMI \(kg/m2\)$",
    "height, outpatient": r"^Height \(Inches\)$",
    "insurance": r"^INSURANCE//",
    "language": r"^LANGUAGE//",
    "marital status": r"^MARITAL_STATUS//",
    "race": r"^RACE//",
    "services": r"^SERVICE//",
    "microbiology": r"^MICROBIOLOGY//",
    "prescriptions": r"^PRESCRIPTION//",
    "products prescribed": r"^NDC//",
    "orders": r"^ORDER//",
    "dates charted": r"^DATETIME//",
    "ingredients": r"^INGREDIENT_(START|END)//",
    "ED module": r"^ED//",
}
#: Theirs keeps one of several rows that are alike in subject, time, code and these columns.
COLLAPSED = {
    "lab results": ("hosp/labevents", "charttime", "itemid valueuom value valuenum priority"),
    "drug orders, start": (
        "hosp/pharmacy",
        "starttime",
        "medication route frequency doses_per_24_hrs poe_id",
    ),
    "drug orders, stop": ("hosp/pharmacy", "stoptime", "medication poe_id"),
    "weight at infusion": ("icu/inputevents", "starttime", "patientweight"),
    "procedures, start": ("icu/procedureevents", "starttime", "itemid hadm_id stay_id"),
    "procedures, end": ("icu/procedureevents", "endtime", "itemid hadm_id stay_id"),
    "HCPCS": ("hosp/hcpcsevents", "chartdate", "short_description hadm_id"),
    "ED registrations": ("hosp/admissions", "edregtime", ""),
    "ED departures": ("hosp/admissions", "edouttime", ""),
    "weight, outpatient": ("hosp/omr", "chartdate", "result_name result_value"),
    "BMI, outpatient": ("hosp/omr", "chartdate", "result_name result_value"),
    "height, outpatient": ("hosp/omr", "chartdate", "result_name result_value"),
}
#: The same rows on both sides, once ours are told in their terms.
EQUAL = (
    *("chart events", "drugs given", "infusions, start", "infusions, end", "fluid output"),
    *("diagnoses", "procedures, billed", "DRG", "admissions", "discharges", "transfers"),
    *("ICU admissions", "ICU discharges", "sex", "births", "deaths", "blood pressure, outpatient"),
)
KEY = ["subject_id", "time", "code"]


def _family() -> pl.Expr:
    chain = pl.when(False).then(None)
    for name, pattern in FAMILIES.items():
        chain = chain.when(pl.col("code").str.contains(pattern)).then(pl.lit(name))
    return chain.otherwise(None)


@pytest.fixture(scope="module")
def theirs(shared_data):
    path = shared_data / "mimic-iv-demo-meds/quickstart-all-subjects"
    path = path / "mimic_iv_demo_meds_events.parquet"
    if not path.is_file():
        pytest.skip(f"no published MEDS demo at {path}")
    return pl.read_parquet(path).with_columns(family=_family())


@pytest.fixture(scope="module")
def official(shared_data):
    """PhysioNet's own shards: tuning and held_out. Its train shard is not among our files."""
    folder = shared_data / "mimic-iv-demo-meds/0.0.1/data"
    if not folder.is_dir():
        pytest.skip(f"no published MEDS demo at {folder}")
    shards = [pl.read_parquet(folder / f"{split}/0.parquet") for split in ("tuning", "held_out")]
    return pl.concat(shards).with_columns(family=_family())


@pytest.fixture(scope="module")
def whole(demo):
    return demo.events().collect().with_columns(family=_family())


@pytest.fixture(scope="module")
def early_discharges(demo_rows):
    """Of the dead whom the file discharges before they died: subject, our time, the file's."""
    rows = [
        (int(row["subject_id"]), row["deathtime"], row["dischtime"])
        for row in demo_rows("hosp/admissions")
        if row["hospital_expire_flag"] == "1" and row["deathtime"] > row["dischtime"]
    ]
    frame = pl.DataFrame(rows, schema=["subject_id", "time", "listed"], orient="row")
    times = pl.col("time", "listed").str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us")
    return frame.with_columns(times)


@pytest.fixture(scope="module")
def ours(whole, early_discharges):
    """Our events in their terms: where a code is spelled or a time is chosen in another way."""
    code, family = pl.col("code"), pl.col("family")
    # DRG numbers went through an integer there; a lab's code has no RESULT.
    plain = code.str.replace(r"^(DRG//[^/]+//)0+(\d)", "$1$2").str.replace(
        "^LAB//RESULT//", "LAB//"
    )
    # Theirs has a billed procedure at the day it was done, which is our row's text.
    day = pl.col("text_value").str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False, time_unit="us")
    at_discharge = family.is_in(["discharges", "diagnoses", "DRG"])
    return whole.join(
        early_discharges, on=["subject_id", "time"], how="left", maintain_order="left"
    ).with_columns(
        code=plain,
        time=pl.when(family == "procedures, billed")
        .then(day)
        .when(at_discharge)
        .then(pl.coalesce("listed", "time"))
        .otherwise("time"),
    )


@pytest.fixture(scope="module")
def ours_of_20(ours, official):
    return ours.filter(pl.col("subject_id").is_in(official["subject_id"].unique().implode()))


def multiset(frame: pl.DataFrame, family: str, columns: list[str]) -> pl.DataFrame:
    rows = frame.filter(family=family).select(columns)
    return rows.group_by(columns).len().sort(columns)


def page_table() -> dict[str, tuple[int, int]]:
    """The page's figures: family to (ours, theirs)."""
    rows = re.findall(r"^\| ([^|]+) \| `[^|]+ \| ([\d,]+) \| ([\d,]+) \|", PAGE.read_text(), re.M)
    return {name: (int(a.replace(",", "")), int(b.replace(",", ""))) for name, a, b in rows}


def test_the_page_tells_the_counts_of_every_family(whole, theirs):
    assert whole["family"].null_count() == theirs["family"].null_count() == 0
    counted = {
        name: (
            int((whole["family"] == name).sum()),
            int((theirs["family"] == name).sum()),
        )
        for name in FAMILIES
    }
    assert page_table() == counted
    assert sum(a for a, _ in counted.values()) == 1_143_837
    assert sum(b for _, b in counted.values()) == 916_166


def test_every_family_is_equal_collapsed_or_ours_alone(theirs):
    alone = {name for name in FAMILIES if not (theirs["family"] == name).any()}
    explained = [*EQUAL, *COLLAPSED, *alone]
    assert sorted(explained) == sorted(FAMILIES)


def test_the_file_of_all_subjects_is_the_official_one_where_that_exists(theirs, official):
    here = theirs.filter(pl.col("subject_id").is_in(official["subject_id"].unique().implode()))
    columns = [*KEY, "value"]
    assert len(here) == 112_174
    same = official.rename({"numeric_value": "value"}).select(columns).sort(columns)
    assert here.select(columns).sort(columns).equals(same)


@pytest.mark.parametrize("family", EQUAL)
def test_equal_rows(family, ours, theirs):
    assert multiset(ours, family, KEY).equals(multiset(theirs, family, KEY))


@pytest.mark.parametrize("family", COLLAPSED)
def test_theirs_keeps_one_of_rows_that_are_alike(family, ours, theirs, demo_rows):
    """The files' distinct rows are theirs, all rows are ours, and no key is on one side alone."""
    table, time, columns = COLLAPSED[family]
    rows = [row for row in demo_rows(table) if row[time]]
    if table == "hosp/omr":
        rows = [row for row in rows if re.match(FAMILIES[family], row["result_name"])]
    distinct = {(row["subject_id"], row[time], *(row[c] for c in columns.split())) for row in rows}
    mine, other = (multiset(frame, family, KEY) for frame in (ours, theirs))
    assert mine["len"].sum() == len(rows)
    assert other["len"].sum() == len(distinct)
    assert len(rows) > len(distinct)
    assert mine.select(KEY).equals(other.select(KEY))
    assert (mine["len"] >= other["len"]).all()


@pytest.mark.parametrize("family", ["infusions, start", "infusions, end", "fluid output"])
def test_equal_numbers_of_all_subjects(family, ours, theirs):
    columns = [*KEY, "value"]
    renamed = ours.rename({"numeric_value": "value"})
    assert multiset(renamed, family, columns).equals(multiset(theirs, family, columns))


@pytest.mark.parametrize("family", ["lab results", "chart events"])
def test_equal_values_and_texts(family, ours_of_20, official):
    """Ours leaves out text that only repeats the number; no value is on one side alone."""
    number = pl.col("text_value").str.strip_chars().cast(pl.Float64, strict=False)
    repeats = (number.cast(pl.Float32) == pl.col("numeric_value")).fill_null(False)
    told = official.with_columns(text_value=pl.when(~repeats).then("text_value"))
    columns = [*KEY, "numeric_value", "text_value"]
    mine, other = (multiset(frame, family, columns) for frame in (ours_of_20, told))
    assert mine.select(columns).equals(other.select(columns))
    assert (mine["len"] >= other["len"]).all()


@pytest.mark.parametrize(
    "family",
    [
        *("drugs given", "infusions, start", "infusions, end", "fluid output", "diagnoses"),
        *("procedures, billed", "DRG", "admissions", "discharges", "transfers"),
        *("ICU admissions", "ICU discharges"),
    ],
)
def test_equal_admission_ids(family, ours_of_20, official):
    columns = [*KEY, "hadm_id"]
    assert multiset(ours_of_20, family, columns).equals(multiset(official, family, columns))


@pytest.mark.parametrize("family", ["infusions, start", "infusions, end"])
def test_units_of_infusions_are_our_text(family, ours_of_20, official):
    """Theirs has units for both; an infusion without a rate has none for its start."""
    columns = [*KEY, "unit"]
    mine = multiset(ours_of_20.rename({"text_value": "unit"}), family, columns)
    assert mine.equals(multiset(official, family, columns))


@pytest.mark.parametrize("family", ["weight, outpatient", "BMI, outpatient", "height, outpatient"])
def test_outpatient_numbers_are_text_there(family, ours_of_20, official):
    rows = official.filter(family=family)
    assert rows["numeric_value"].null_count() == len(rows) > 0
    read = rows.with_columns(numeric_value=pl.col("text_value").cast(pl.Float64).cast(pl.Float32))
    columns = [*KEY, "numeric_value"]
    mine, other = multiset(ours_of_20, family, columns), multiset(read, family, columns)
    assert mine.select(columns).equals(other.select(columns))


@pytest.mark.parametrize(
    ("family", "column"),
    [
        ("insurance", "insurance"),
        ("language", "language"),
        ("marital status", "marital_status"),
        ("race", "race"),
    ],
)
def test_what_theirs_keeps_beside_the_admission_is_a_code_of_ours(
    family, column, ours_of_20, official
):
    admissions = official.filter(pl.col("family") == "admissions", pl.col(column).is_not_null())
    spelled = admissions.select(
        "subject_id", "time", "hadm_id", code=column.upper() + "//" + pl.col(column)
    )
    columns = [*KEY, "hadm_id"]
    mine = ours_of_20.filter(
        pl.col("family") == family,
        pl.col("hadm_id").is_not_null(),  # a race with none is that of an ED stay
    ).select(columns)
    assert mine.sort(columns).equals(spelled.select(columns).sort(columns))


def test_what_only_theirs_has(official):
    """Columns that ours leaves in the source files."""
    kept = {*KEY, "numeric_value", "text_value", "hadm_id", "family"}
    elsewhere = {"insurance", "language", "marital_status", "race", "icustay_id", "unit", "route"}
    assert set(official.columns) - kept - elsewhere == {
        *("drg_severity", "drg_mortality", "emar_id", "emar_seq", "priority", "frequency"),
        *("doses_per_24_hrs", "poe_id", "order_id", "link_order_id"),
        *("ordercategorydescription", "statusdescription"),
    }


def test_the_page_tells_what_ours_leaves_in_the_files(demo_rows):
    rows = re.findall(r"^\| ((?:hosp|ed|icu)/\w+) \| ([\w, ]+) \|$", PAGE.read_text(), re.M)
    found = {}
    for name, module in load_maps().items():
        for table, spec in module.tables.items():
            if not spec.events:
                continue  # the demo has no notes
            kept = {column for event in spec.events.values() for column in event.columns}
            kept |= {c for rule in spec.derive.values() for names in rule.values() for c in names}
            kept |= set(spec.stay.model_dump(exclude={"died"}).values()) if spec.stay else set()
            kept |= {spec.stay.died.column} if spec.stay and spec.stay.died else set()
            for dictionary in module.dictionaries:
                if dictionary.table == table:
                    kept |= {*dictionary.keys, dictionary.text}
            header = [column.lower() for column in demo_rows(f"{name}/{table}")[0]]
            ids = {"subject_id", "hadm_id", "stay_id"}
            left = [column for column in header if column not in kept | ids]
            if left:
                found[f"{name}/{table}"] = left
    assert {table: columns.split(", ") for table, columns in rows} == found


def test_theirs_shows_a_result_before_anyone_knew_it(whole, theirs, official):
    """Why ours has a second time: a lab counts from when it was filed, not from the drawing."""
    labs = whole.filter(family="lab results")
    late = labs.filter(pl.col("available_time") > pl.col("time"))
    assert (len(late), len(labs)) == (107_490, 107_727)
    assert "available_time" not in official.columns
    billed = whole.filter(family="procedures, billed")
    day = billed["text_value"].str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us")
    assert int((billed["available_time"] > day).sum()) == 718, "4 are dated after the discharge"


def test_the_dead_leave_when_they_die(whole, early_discharges):
    left = whole.filter(pl.col("code") == "HOSPITAL_DISCHARGE//DIED")
    assert len(left) == 15
    moved = left.join(early_discharges, on=["subject_id", "time"])
    assert len(moved) == len(early_discharges) == 4
    early = (moved["time"] - moved["listed"]).dt.total_minutes() / 60
    assert (round(early.min()), round(early.max())) == (21, 23)


def test_the_page_tells_what_was_collapsed(whole, theirs):
    rows = re.findall(r"^\| ([^|`]+) \| [^|`]+ \| ([\d,]+) \|$", PAGE.read_text(), re.M)
    dropped = {
        name: int((whole["family"] == name).sum()) - int((theirs["family"] == name).sum())
        for name in COLLAPSED
    }
    assert {name: int(count.replace(",", "")) for name, count in rows} == dropped


def test_figures_in_the_text(whole):
    labs = whole.filter(family="lab results")
    delay = (labs["available_time"] - labs["time"]).dt.total_minutes().median()
    zeros = whole.filter(pl.col("code").str.contains(r"^DRG//[^/]+//0"))
    assert (delay, len(zeros)) == (65, 48)
    text = " ".join(PAGE.read_text().split())
    assert f"by {delay:.0f} minutes in the middle one" in text
    assert f"{len(zeros)} of the 454 numbers have leading zeros" in text
    for figure in ("1,143,837 events", "916,166 rows", "112,174 rows", "107,490 of 107,727"):
        assert figure in text
    alone = len(FAMILIES) - len(EQUAL) - len(COLLAPSED)
    assert f"{len(EQUAL)} families hold the same rows" in text
    assert f"In {len(COLLAPSED)}, theirs keeps" in text
    assert f"{alone} are ours alone" in text
