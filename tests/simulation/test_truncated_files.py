"""No prefix changes when the future is cut off the CSV files themselves.

The store's truncation test deletes rows by `available_time`, and so trusts the event maps. Here
each table is cut by a rule of its own, read in anew and tokenised by the same tokeniser.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from wardround.simulation.predictions import along, place, prefixes, starts
from wardround.simulation.tasks import load_timeline_task, timeline_tasks
from wardround.sources.mimic import ingest_mimic
from wardround.store import PatientStore, open_store
from wardround.systems.ethos_ares.config import RUNNING
from wardround.systems.ethos_ares.prepared import LATER
from wardround.views.sofa import first_day_sofa
from wardround.views.timeline import Timelines, Tokeniser

MODULES = ("hosp", "icu", "ed")
WINDOW = 512
#: Every task, and once more those that are asked during the stay as well.
ASKED = (*timeline_tasks(), *(name + LATER for name in RUNNING))

# When a row is known ----------------------------------------------------------------------------


def at(column: str) -> pl.Expr:
    return pl.col(column).str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us")


def end_of(column: str) -> pl.Expr:
    """The last moment of a day: what has a date alone may have happened until then."""
    day = pl.col(column).str.head(10).str.to_datetime("%Y-%m-%d", time_unit="us")
    return day + timedelta(days=1, microseconds=-1)


def filed(happened: str) -> pl.Expr:
    """When a row had happened and was stored; where no storage is told, the end of its day."""
    return pl.max_horizontal(at(happened), pl.coalesce(at("storetime"), end_of(happened)))


def last(*times: pl.Expr) -> pl.Expr:
    """The last of several times; never if one of them never comes."""
    return pl.when(pl.all_horizontal(t.is_not_null() for t in times)).then(pl.max_horizontal(times))


def ending(time: str, *columns: str) -> dict[str, pl.Expr]:
    """A time is known when it comes, and so are columns that depend on it."""
    return dict.fromkeys((time, *columns), at(time))


ALWAYS, NEVER = pl.col("cut"), pl.lit(None, pl.Datetime("us"))
# Some of the dead are listed as discharged at the midnight before: they leave when they die.
DIED = pl.when(pl.col("hospital_expire_flag") == "1").then(at("deathtime"))
LEFT = pl.max_horizontal(at("dischtime"), DIED)
# An order is known when it is entered, maybe for days to come, and maybe ended before it starts.
ORDERED = pl.coalesce(at("entertime"), end_of("starttime"))


@dataclass(frozen=True)
class Rule:
    """How a table is cut.

    Attributes:
        known: since when a row is known; null is never.
        of: the row belongs to a row of this other table, whose times (`LINKS`) it may use.
        until: since when a column of it is known; until then it is blanked.
    """

    known: pl.Expr
    of: str | None = None
    until: dict[str, pl.Expr] = field(default_factory=dict)


RULES = {
    # Year and age of the de-identification say nothing of the future. A date of death has no hour.
    "hosp/patients": Rule(ALWAYS, until={"dod": end_of("dod")}),
    # Type, origin, insurance and the like are taken for those of the registration.
    "hosp/admissions": Rule(
        at("admittime"),
        until={
            **dict.fromkeys(("dischtime", "discharge_location", "hospital_expire_flag"), LEFT),
            **ending("deathtime"),
            **ending("edregtime"),
            **ending("edouttime"),
        },
    ),
    "hosp/transfers": Rule(at("intime"), until=ending("outtime")),
    "hosp/services": Rule(at("transfertime")),
    # Coded for the bill from the notes of the whole stay: nothing of it is there before the end.
    "hosp/diagnoses_icd": Rule(pl.col("discharged"), of="hosp/admissions"),
    "hosp/procedures_icd": Rule(pl.col("discharged"), of="hosp/admissions"),
    "hosp/drgcodes": Rule(pl.col("discharged"), of="hosp/admissions"),
    "hosp/hcpcsevents": Rule(last(end_of("chartdate"), pl.col("discharged")), of="hosp/admissions"),
    # storetime is when the laboratory's system had the result.
    "hosp/labevents": Rule(filed("charttime")),
    # Cultures grow for days, so that one whose filing is not told is never known.
    "hosp/microbiologyevents": Rule(
        last(
            pl.coalesce(at("charttime"), end_of("chartdate")),
            pl.coalesce(at("storetime"), end_of("storedate")),
        )
    ),
    # The table has no time of entry: it is that of the pharmacy's row. A stop is a plan at first.
    "hosp/prescriptions": Rule(
        ORDERED, of="hosp/pharmacy", until=ending("starttime") | ending("stoptime")
    ),
    "hosp/pharmacy": Rule(
        ORDERED,
        until={
            **ending("starttime"),
            **ending("stoptime", "status"),
            **ending("verifiedtime"),
            **ending("expirationdate"),
        },
    ),
    "hosp/emar": Rule(filed("charttime"), until=ending("scheduletime")),
    "hosp/emar_detail": Rule(pl.col("given"), of="hosp/emar"),
    # What became of an order, and which one ended it, has no time.
    "hosp/poe": Rule(
        at("ordertime"), until={"order_status": NEVER, "discontinued_by_poe_id": NEVER}
    ),
    "hosp/poe_detail": Rule(pl.col("ordered"), of="hosp/poe"),
    "hosp/omr": Rule(end_of("chartdate")),
    "icu/icustays": Rule(at("intime"), until=ending("outtime", "last_careunit", "los")),
    # storetime is when staff typed a value in or validated it: without one, a device charted it.
    "icu/chartevents": Rule(pl.max_horizontal(at("charttime"), at("storetime"))),
    "icu/datetimeevents": Rule(filed("charttime")),
    "icu/outputevents": Rule(filed("charttime")),
    # Rate and weight are those of the start; the amount is what had run in by the end.
    "icu/inputevents": Rule(
        filed("starttime"),
        until=ending("endtime", "amount", "totalamount", "statusdescription", "continueinnextdept"),
    ),
    "icu/ingredientevents": Rule(
        filed("starttime"), until=ending("endtime", "amount", "statusdescription")
    ),
    # The value is the duration.
    "icu/procedureevents": Rule(
        filed("starttime"),
        until=ending("endtime", "value", "statusdescription", "continueinnextdept"),
    ),
    "ed/edstays": Rule(at("intime"), until=ending("outtime", "disposition")),
    # Triage has no time of its own; it is the first that is done with who arrives.
    "ed/triage": Rule(pl.col("arrived"), of="ed/edstays"),
    "ed/vitalsign": Rule(at("charttime")),
    "ed/pyxis": Rule(at("charttime")),
    "ed/medrecon": Rule(at("charttime")),
    # Coded for the bill, as those of an admission.
    "ed/diagnosis": Rule(pl.col("departed"), of="ed/edstays"),
}
#: Tables without patients, which stay whole.
WHOLE = (
    *("hosp/d_hcpcs", "hosp/d_icd_diagnoses", "hosp/d_icd_procedures", "hosp/d_labitems"),
    *("hosp/provider", "icu/caregiver", "icu/d_items"),
)
#: What rows take from the row that they belong to: by which key, and its times under new names.
LINKS: dict[str, tuple[str, dict[str, pl.Expr]]] = {
    "hosp/admissions": ("hadm_id", {"discharged": LEFT}),
    "hosp/emar": ("emar_id", {"given": RULES["hosp/emar"].known}),
    "hosp/pharmacy": ("pharmacy_id", {"entertime": pl.col("entertime")}),
    "hosp/poe": ("poe_id", {"ordered": RULES["hosp/poe"].known}),
    "ed/edstays": ("stay_id", {"arrived": at("intime"), "departed": at("outtime")}),
}
#: Ids of stays, by module. On a row from before the stay, one tells that the stay will come.
STAY_IDS = {
    "hosp": {"hadm_id": "hosp/admissions"},
    "icu": {"hadm_id": "hosp/admissions", "stay_id": "icu/icustays"},
    "ed": {"hadm_id": "hosp/admissions", "stay_id": "ed/edstays"},
}

# Cutting files ----------------------------------------------------------------------------------


def find_files(folders: Sequence[Path]) -> dict[str, Path]:
    """Every table, by a name such as `ed/edstays`."""
    paths = [
        path for one in folders for module in MODULES for path in (one / module).glob("*.csv*")
    ]
    return {f"{path.parent.name}/{path.name.split('.csv')[0]}": path for path in sorted(paths)}


def read(path: Path) -> pl.DataFrame:
    """A table as text."""
    return pl.read_csv(path, infer_schema=False).rename(str.lower)


def join(
    rows: pl.DataFrame, other: pl.DataFrame, key: str, times: dict[str, pl.Expr]
) -> pl.DataFrame:
    """Add times of the other table's row with the same key."""
    times_by_key = other.select(key, **times).unique(key, keep="first")
    return rows.join(times_by_key, on=key, how="left", maintain_order="left")


def cut_table(name: str, files: dict[str, Path], cuts: pl.DataFrame) -> pl.DataFrame:
    """The rows and cells that were known at their subject's cut; no rows of other subjects."""
    rule, table = RULES[name], read(files[name])
    rows = table.join(cuts, on="subject_id", how="left", maintain_order="left")
    until = dict(rule.until)
    for key, stays in STAY_IDS[name.split("/")[0]].items():
        if key in table.columns:
            begins = f"{key} begins"
            rows = join(rows, read(files[stays]), key, {begins: RULES[stays].known})
            until[key] = pl.col(begins)
    if rule.of:
        rows = join(rows, read(files[rule.of]), *LINKS[rule.of])
    known = {
        column: pl.when(time <= pl.col("cut")).then(column)
        for column, time in until.items()
        if column in table.columns  # early releases lack some
    }
    return rows.filter(rule.known <= pl.col("cut")).with_columns(**known).select(table.columns)


def cut_files(folders: Sequence[Path], cuts: pl.DataFrame, to: Path) -> None:
    """Write all tables anew. `cuts`: `subject_id`, `cut`."""
    files = find_files(folders)
    unruled = sorted(set(files) - set(RULES) - set(WHOLE))
    assert not unruled, f"say in RULES since when rows of {', '.join(unruled)} are known"
    as_text = cuts.with_columns(pl.col("subject_id").cast(pl.String))
    for name, path in files.items():
        table = read(path) if name in WHOLE else cut_table(name, files, as_text)
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        table.write_csv(to / f"{name}.csv")


# Predictions, and a cut at one of each subject's ------------------------------------------------


def all_predictions(store: PatientStore, timelines: Timelines) -> pl.DataFrame:
    """Every prediction: `asked` (a task), `subject_id`, `prediction_time`, `token_index`."""

    def rows() -> Iterator[tuple[str, pl.DataFrame]]:
        for name in timeline_tasks():
            task = load_timeline_task(name)
            frame = starts(task, store, timelines).frame
            yield name, frame
            if name in RUNNING:
                yield name + LATER, along(task, frame, timelines).filter(pl.col("elapsed") > 0)

    keys = ("subject_id", "prediction_time", "token_index")
    return pl.concat([frame.select(pl.lit(name).alias("asked"), *keys) for name, frame in rows()])


def draw_cuts(predictions: pl.DataFrame) -> pl.DataFrame:
    """One prediction time of each subject: of the task that the subjects before have least."""
    rng = np.random.default_rng(0)
    drawn: Counter[str] = Counter()
    cuts = {}
    for subject in rng.permutation(predictions["subject_id"].unique().sort()):
        rows = predictions.filter(pl.col("subject_id") == subject)
        rarest = min(rows["asked"].unique(maintain_order=True), key=drawn.__getitem__)
        times = rows.filter(pl.col("asked") == rarest)["prediction_time"]
        cuts[int(subject)] = cut = times[int(rng.integers(len(times)))]
        drawn.update(rows.filter(pl.col("prediction_time") == cut)["asked"])
    frame = pl.DataFrame({"subject_id": list(cuts), "cut": list(cuts.values())})
    return frame.sort("subject_id")


@dataclass(frozen=True)
class Source:
    """Records whole and cut, and the predictions that are made at the cuts."""

    whole: PatientStore
    cut: PatientStore
    files: Path
    tokeniser: Tokeniser
    timelines: Timelines
    cuts: pl.DataFrame
    asked: pl.DataFrame


def fit(store: PatientStore, *, paper_compat: bool = False) -> Tokeniser:
    subjects = store.splits()["subject_id"]
    return Tokeniser.fit(
        store, subjects=subjects, derived=first_day_sofa, paper_compat=paper_compat
    )


def build(store: PatientStore, folders: Sequence[Path], to: Path) -> None:
    timelines = fit(store).write(store, to / "timelines", derived=first_day_sofa)
    predictions = all_predictions(store, timelines)
    cuts = draw_cuts(predictions)
    at_cuts = predictions.join(cuts, on="subject_id").filter(
        pl.col("prediction_time") == pl.col("cut")
    )
    at_cuts.write_parquet(to / "asked.parquet")
    cuts.write_parquet(to / "cuts.parquet")
    cut_files(folders, cuts, to / "files")
    ingest_mimic([to / "files"], to / "store")


@pytest.fixture(scope="session", params=["hospital", "demo"])
def source(request: pytest.FixtureRequest, once: Any) -> Source:
    if request.param == "hospital":
        hospital = request.getfixturevalue("hospital")
        store, folders = hospital.store, [hospital.files]
    else:
        folders = request.getfixturevalue("demo_sources")
        store = request.getfixturevalue("demo")
    folder = once(f"truncated-{request.param}", partial(build, store, folders))
    return Source(
        store,
        open_store(folder / "store"),
        folder / "files",
        Tokeniser.load(folder / "timelines"),
        Timelines.open(folder / "timelines"),
        pl.read_parquet(folder / "cuts.parquet"),
        pl.read_parquet(folder / "asked.parquet"),
    )


# Comparing --------------------------------------------------------------------------------------


def known_tokens(timelines: Timelines, cuts: pl.DataFrame) -> list[list[str]]:
    """What is known at each cut: static context then and where the window begins, and tokens."""
    rows = cuts.rename({"cut": "prediction_time"})
    subjects = timelines.positions(rows["subject_id"].to_numpy())
    contexts = timelines.contexts(subjects, rows["prediction_time"].to_numpy())
    known = prefixes(1.0, rows, timelines, window=WINDOW)
    names = timelines.vocabulary.tokens
    return [
        [names[token] for token in (*context, *prefix.context, *prefix.tokens)]
        for context, prefix in zip(contexts, known, strict=True)
    ]


def differences(source: Source, tokeniser: Tokeniser, derived: Any, to: Path) -> list[str]:
    """Where what is known of the whole records is not what is known of the cut ones."""
    subjects = source.cuts["subject_id"]
    whole, cut = (
        known_tokens(
            tokeniser.write(store, to / name, subjects=subjects, derived=derived), source.cuts
        )
        for name, store in (("whole", source.whole), ("cut", source.cut))
    )
    asked = dict(source.asked.group_by("subject_id").agg("asked").iter_rows())
    found = []
    for (subject, time), a, b in zip(source.cuts.iter_rows(), whole, cut, strict=True):
        if a != b:
            a, b = [*a, "the end"], [*b, "the end"]
            n, first, other = next(
                (n, x, y) for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y
            )
            found.append(
                f"{', '.join(asked[subject])}: subject {subject} at {time}: token {n}, static "
                f"ones counted, is {first}, and {other} without the future"
            )
    return found


def known_rows(store: PatientStore, cuts: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """What features are made of: events and stays as known at each cut."""
    rows = cuts.rename({"cut": "prediction_time"})
    return {"events": store.known_at(rows).collect(), "stays": store.stays_known_at(rows).collect()}


def test_cut_files_hold_no_later_time(source: Source) -> None:
    """The rules have overlooked no column."""
    as_text = source.cuts.select(
        pl.col("subject_id").cast(pl.String), pl.col("cut").dt.strftime("%Y-%m-%d %H:%M:%S.%6f")
    )
    for name, path in find_files([source.files]).items():
        if name not in WHOLE:
            rows = read(path).join(as_text, on="subject_id")
            for column in rows.select(pl.col("^.*(time|date|dod)$")).columns:
                late = rows.filter(pl.col(column) > pl.col("cut"))  # texts sort as times do
                assert late.is_empty(), f"{name}: {column} {late[column][0]} > {late['cut'][0]}"


def test_prefixes_end_at_their_time(source: Source) -> None:
    """What a task is asked from is part of what the next test compares."""
    by_time = place(source.asked.drop("token_index"), source.timelines).cuts
    assert (source.asked["token_index"].to_numpy() <= by_time).all()


def test_cutting_the_files_changes_no_prefix(source: Source, tmp_path: Path) -> None:
    compared = Counter(source.asked["asked"])
    assert all(compared[name] for name in ASKED), compared
    found = differences(source, source.tokeniser, first_day_sofa, tmp_path)
    assert not found, f"{len(found)} prefixes of {len(source.cuts)} differ:\n" + "\n".join(found)


def test_cutting_the_files_changes_nothing_known(source: Source) -> None:
    """The same of all rows: timelines have no tokens for orders, cultures and the like."""
    whole, cut = (known_rows(store, source.cuts) for store in (source.whole, source.cut))
    for name in whole:
        gone, new = (
            a.join(b, on=a.columns, how="anti", nulls_equal=True)
            for a, b in ((whole[name], cut[name]), (cut[name], whole[name]))
        )
        rows = pl.concat([gone.head(3), new.head(3)]).to_dicts()
        assert not rows, f"{len(gone)} {name} are gone without the future, {len(new)} new: {rows}"
        assert len(whole[name]) == len(cut[name]) > 0


@pytest.mark.parametrize("leak", ["score at the admission", "results when drawn"])
def test_a_leak_changes_prefixes(source: Source, leak: str, tmp_path: Path) -> None:
    """The control: timelines that know too much do differ."""
    tokeniser, derived = source.tokeniser, first_day_sofa
    if leak == "results when drawn":
        tokeniser = fit(source.whole, paper_compat=True)
    else:
        derived = partial(first_day_sofa, leak=True)
    assert differences(source, tokeniser, derived, tmp_path)
