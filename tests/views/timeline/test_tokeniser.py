"""The tokeniser on whole stores: nothing early, nothing learned from others, nothing half."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import chi2

from wardround.errors import WardroundError
from wardround.ontology import code_ancestors
from wardround.store import PatientStore, open_store
from wardround.views.records import LoadedRecords
from wardround.views.sofa import first_day_sofa
from wardround.views.timeline import NEVER, Timelines, Tokeniser
from wardround.views.timeline.timelines import MANIFEST

PRESETS = ["ethos", "clmbr", "ehrmamba", "motor"]


@pytest.fixture(scope="module")
def store(hospital: Any) -> PatientStore:
    result: PatientStore = hospital.store
    return result


@pytest.fixture(scope="module")
def tokeniser(store: PatientStore) -> Tokeniser:
    return Tokeniser.fit(store, derived=first_day_sofa)


@pytest.fixture(scope="module")
def folder(tokeniser: Tokeniser, store: PatientStore, tmp_path_factory: Any) -> Path:
    path: Path = tmp_path_factory.mktemp("timelines") / "all"
    tokeniser.write(store, path, derived=first_day_sofa)
    return path


@pytest.fixture(scope="module")
def timelines(folder: Path) -> Timelines:
    return Timelines.open(folder)


def train_of(store: PatientStore) -> list[int]:
    return store.splits().filter(pl.col("split") == "train")["subject_id"].to_list()


def assert_equal(a: Timelines, b: Timelines) -> None:
    assert a.vocabulary == b.vocabulary
    for name in ("tokens", "times", "events", "offsets", "subjects"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert a.context_table is not None
    assert b.context_table is not None
    for name in ("rows", "times", "offsets", "births", "ages"):
        np.testing.assert_array_equal(
            getattr(a.context_table, name), getattr(b.context_table, name)
        )


@pytest.mark.parametrize("seed", range(3))
def test_cutting_the_future_off_changes_no_prefix(
    store: PatientStore, tokeniser: Tokeniser, timelines: Timelines, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    subjects = rng.choice(timelines.subjects, 40, replace=False)
    events = store.events().filter(pl.col("subject_id").is_in(subjects)).collect()
    known = pl.when(pl.col("time").is_not_null()).then(
        pl.max_horizontal(pl.col("time"), pl.col("available_time"))
    )
    events = events.with_columns(known=known, dated=pl.col("time").is_not_null())
    cuts = (
        events.drop_nulls("known")
        .group_by("subject_id")
        .agg(cut=pl.col("known").sample(1, seed=seed).first())
        .with_columns(early=pl.Series(rng.random(len(subjects)) < 0.3))
        .with_columns(
            # At an event, or just before it.
            cut=pl.when("early").then(pl.col("cut") - pl.duration(microseconds=1)).otherwise("cut")
        )
    )
    past = (
        events.join(cuts, on="subject_id", maintain_order="left")
        .filter(~pl.col("dated") | (pl.col("known") <= pl.col("cut")))
        .select(store.events().collect_schema().names())
    )
    records = LoadedRecords(past, store.stays().collect())
    cut = tokeniser.encode(records, derived=first_day_sofa)
    compared = 0
    for subject, moment in cuts.select("subject_id", "cut").iter_rows():
        whole = timelines.position(subject)
        start, end = timelines.offsets[whole], timelines.end_of(whole, moment)
        if subject not in cut.subjects:
            assert start == end
            continue
        i = cut.position(subject)
        own, own_end = cut.offsets[i], cut.end_of(i, moment)
        np.testing.assert_array_equal(cut.tokens[own:own_end], timelines.tokens[start:end])
        np.testing.assert_array_equal(cut.times[own:own_end], timelines.times[start:end])
        assert (cut.context(i, moment) == timelines.context(whole, moment)).all()
        compared += end - start
    assert compared > 1000


def test_tokens_ascend_in_time_and_stem_from_their_subject(
    store: PatientStore, timelines: Timelines
) -> None:
    owner = np.repeat(timelines.subjects, np.diff(timelines.offsets))
    inner = owner[1:] == owner[:-1]
    times = np.asarray(timelines.times)
    assert (times[1:][inner] >= times[:-1][inner]).all()
    rows = store.events().select("subject_id").collect()["subject_id"].to_numpy()
    events = np.asarray(timelines.events)
    assert (rows[events[events >= 0]] == owner[events >= 0]).all()
    ends = timelines.tokens == timelines.vocabulary.id("TIMELINE_END")
    assert (np.flatnonzero(ends) == timelines.offsets[1:] - 1).all()
    assert (times[ends] == NEVER).all()
    assert (np.diff(timelines.subjects) > 0).all()


def test_the_vocabulary_counts_train_alone(
    store: PatientStore, tokeniser: Tokeniser, timelines: Timelines
) -> None:
    train = timelines.select(train_of(store))
    counts = np.bincount(train.tokens, minlength=len(tokeniser.vocabulary))
    told = np.array(tokeniser.vocabulary.counts)
    of_context = counts == 0
    assert (told[~of_context] == counts[~of_context]).all()
    declared = set(tokeniser.preset.declared_tokens())
    for i in np.flatnonzero(of_context & (told == 0)):
        assert tokeniser.vocabulary.tokens[i] in declared


def test_nothing_is_learned_from_other_subjects(store: PatientStore, tmp_path: Path) -> None:
    """A tokeniser that never saw the others' rows is the same."""
    train = train_of(store)
    events = store.events().filter(pl.col("subject_id").is_in(train)).collect()
    fitted = Tokeniser.fit(store)
    alone = Tokeniser.fit(store, subjects=train)
    assert fitted.vocabulary == alone.vocabulary
    labs = events.filter(
        pl.col("code").str.starts_with("LAB//RESULT//")
        & pl.col("numeric_value").is_not_null()
        & pl.col("available_time").is_not_null()
    )
    for name, breaks in fitted.breaks.items():
        if name.startswith("LAB//"):
            own = labs.filter(pl.col("code") == name.replace("LAB//", "LAB//RESULT//", 1))
            values = own["numeric_value"].cast(pl.Float64).to_numpy()
            assert breaks == pytest.approx(np.unique(np.quantile(values, np.arange(1, 10) / 10)))


def uniformity(bins: pl.Series) -> float:
    """Chi-squared of ten bins against equal shares."""
    counts = np.bincount(bins.list.first().to_numpy(), minlength=11)[1:]
    expected = len(bins) / 10
    return float(((counts - expected) ** 2 / expected).sum())


def test_deciles_of_continuous_labs_are_uniform_on_train(
    store: PatientStore, tokeniser: Tokeniser, timelines: Timelines
) -> None:
    decoded = tokeniser.decode(timelines.select(train_of(store)))
    labs = store.events().filter(pl.col("code").str.starts_with("LAB//RESULT//")).collect()
    distinct = labs.group_by("code").agg(pl.col("numeric_value").n_unique())
    checked = 0
    for code, values in distinct.iter_rows():
        own = decoded.filter(pl.col("code") == code.replace("LAB//RESULT//", "LAB//"))
        # Of a rounded number, whole classes lie on one side of a break.
        if len(own) >= 500 and values >= 300:
            assert uniformity(own["bins"]) < chi2.ppf(0.999, 9), code
            checked += 1
    assert checked >= 2


def test_deciles_hold_for_other_subjects(make_store: Any) -> None:
    rng = np.random.default_rng(0)
    start = datetime(2100, 1, 1)
    rows = [
        {
            "subject_id": subject,
            "time": start + timedelta(hours=hour),
            "code": "LAB//RESULT//1//x",
            "numeric_value": float(rng.lognormal()),
        }
        for subject in range(100)
        for hour in range(40)
    ]
    store = make_store(rows)
    tokeniser = Tokeniser.fit(store, subjects=range(50))
    decoded = tokeniser.decode(tokeniser.encode(store))
    trained = pl.col("subject_id") < 50
    assert uniformity(decoded.filter(trained)["bins"]) < 0.1
    assert uniformity(decoded.filter(~trained)["bins"]) < chi2.ppf(0.999, 9)


def test_intervals_are_those_between_events(tokeniser: Tokeniser, timelines: Timelines) -> None:
    """Every interval token, and none other, by a loop over tokens."""
    names = timelines.vocabulary.tokens
    intervals = tokeniser.preset.intervals
    assert intervals is not None
    edges = dict(zip(intervals.tokens, intervals.edges, strict=True))
    simulated, spans = [], []
    for i in range(40):
        own = slice(timelines.offsets[i], timelines.offsets[i + 1] - 1)
        before: int | None = None
        waiting: list[str] = []
        total = 0.0
        for token, time in zip(timelines.tokens[own], timelines.times[own], strict=True):
            if names[token] in edges:
                waiting.append(names[token])
                total += tokeniser.durations.mean[token]
                continue
            gap = 0 if before is None else (int(time) - before) / 1e6
            fitting = [name for name, edge in edges.items() if edge <= gap]
            expected = fitting[-1:]
            if expected == ["=6mt"]:
                expected *= round(gap / (180 * 86_400))
            assert waiting == expected
            before, waiting = int(time), []
        simulated.append(total)
        spans.append((timelines.times[own][-1] - timelines.times[own][0]) / 1e6)
    # The mean clock keeps time over many timelines; a single one may be off by its widest interval.
    assert sum(simulated) == pytest.approx(sum(spans), rel=0.1)
    ratios = np.array(simulated) / np.array(spans)
    assert np.median(np.abs(ratios - 1)) < 0.1


def test_durations_are_the_gaps_of_train(
    store: PatientStore, tokeniser: Tokeniser, timelines: Timelines
) -> None:
    train = timelines.select(train_of(store))
    token = tokeniser.vocabulary.id("=5h-8h")
    at = np.flatnonzero(train.tokens == token)
    gaps = (train.times[at + 1] - train.times[at - 1]) / 1e6
    assert tokeniser.durations.mean[token] == pytest.approx(gaps.mean(), abs=1)
    quantiles = np.quantile(gaps, np.linspace(0, 1, 101))
    assert tokeniser.durations.quantiles[token] == pytest.approx(quantiles, abs=1)
    others = np.ones(len(tokeniser.vocabulary), bool)
    others[tokeniser.vocabulary.ids(list(tokeniser.preset.intervals.tokens))] = False  # type: ignore[union-attr]
    assert not tokeniser.durations.mean[others].any()
    assert not tokeniser.durations.quantiles[others].any()
    assert (tokeniser.durations.mean[~others] > 0).all()


def test_a_saved_tokeniser_encodes_alike(
    store: PatientStore, tokeniser: Tokeniser, folder: Path, timelines: Timelines, tmp_path: Path
) -> None:
    (tmp_path / "saved").mkdir()
    tokeniser.save(tmp_path / "saved")
    for place in (folder, tmp_path / "saved"):
        loaded = Tokeniser.load(place)
        np.testing.assert_array_equal(loaded.durations.quantiles, tokeniser.durations.quantiles)
        assert loaded.decode(timelines).equals(tokeniser.decode(timelines))
        again = loaded.write(store, tmp_path / "again", derived=first_day_sofa)
        assert_equal(again, timelines)
    subjects = timelines.subjects[[5, 50]]
    some = loaded.write(store, tmp_path / "some", subjects=subjects, derived=first_day_sofa)
    chosen = timelines.select(subjects)
    assert_equal(some, chosen)
    # In memory, one subject's records.
    events = store.events().filter(pl.col("subject_id") == subjects[0]).collect()
    records = LoadedRecords(events, store.stays().collect())
    one = loaded.encode(records, derived=first_day_sofa)
    np.testing.assert_array_equal(one.tokens, timelines.select([subjects[0]]).tokens)


def test_codes_and_values_that_nobody_saw_do_no_harm(
    store: PatientStore, tokeniser: Tokeniser, timelines: Timelines
) -> None:
    subject = int(timelines.subjects[0])
    events = store.events().filter(pl.col("subject_id") == subject).collect()
    strange = [
        ("LAB//RESULT//99999//parsec", 1.0),
        ("DIAGNOSIS//ICD//10//ZZZ99", None),
        ("DIAGNOSIS//ICD//9//not a code", None),
        ("MEDICATION//Unobtainium//Administered", None),
        ("ICU_ADMISSION//Ward of Tomorrow", None),
        ("ED//TRIAGE//ACUITY", 77.0),
        ("ED//TRIAGE//HEARTRATE", float("inf")),
        ("ED//TRIAGE//HEARTRATE", float("nan")),
        ("DRG//HCFA//12345//x", None),
        ("", None),
    ]
    last = events["time"].max()
    more = pl.DataFrame(
        {"code": [code for code, _ in strange], "numeric_value": [n for _, n in strange]},
        schema={"code": pl.String, "numeric_value": pl.Float32},
    ).with_columns(
        subject_id=pl.lit(subject, pl.Int64),
        time=pl.lit(last).cast(pl.Datetime("us")),
        available_time=pl.lit(last).cast(pl.Datetime("us")),
    )
    records = LoadedRecords(pl.concat([events, more], how="diagonal"), store.stays().collect())
    found = tokeniser.decode(tokeniser.encode(records, derived=first_day_sofa))
    usual = tokeniser.decode(timelines.select([subject]))
    extra = len(found) - len(usual)
    # The infinite heart rate lies above every break, and an unheard-of ICU is still an ICU.
    assert extra == 2
    new = found.join(usual, on=["time", "code", "bins"], how="anti")["code"].to_list()
    assert set(new) <= {"VITAL//HEARTRATE", "ICU_ADMISSION//WARD_OF_TOMORROW", "ICU_ADMISSION"}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_fits_writes_and_decodes(
    store: PatientStore, tmp_path: Path, preset: str
) -> None:
    tokeniser = Tokeniser.fit(store, preset)
    timelines = tokeniser.write(store, tmp_path / preset)
    assert len(timelines) >= 0.95 * store.splits().height
    decoded = tokeniser.decode(timelines)
    assert set(decoded["subject_id"]) == set(timelines.subjects.tolist())
    assert timelines.contexts([0, 1], timelines.times[:2]).shape == (2, timelines.context_size)
    again = Tokeniser.load(tmp_path / preset)
    assert again.preset == tokeniser.preset
    assert len(np.unique(timelines.tokens)) > 100


def test_paper_compat_orders_the_same_events_by_when_they_happened(store: PatientStore) -> None:
    published = Tokeniser.fit(store, "ethos", paper_compat=True)
    ours = Tokeniser.fit(store, changes={"rules": {"other_drug": {"enabled": False}}})
    timelines = published.encode(store)
    events = published.decode(timelines)
    key = ["subject_id", "event", "code", "bins"]
    assert (
        events.select(key).sort(key).equals(ours.decode(ours.encode(store)).select(key).sort(key))
    )
    happened = store.events().with_row_index("event").collect().cast({"event": pl.Int64})
    joined = events.join(happened, on="event", maintain_order="left")
    dated = joined.filter(pl.col("code_right") != "MEDS_DEATH")
    assert (dated["time"] == dated["time_right"]).all()


def test_intensive_care_can_be_switched_on(store: PatientStore) -> None:
    names = ["icu_chart", "icu_infusion", "icu_output", "icu_procedure"]
    changes = {"rules": {name: {"enabled": True, "min_count": 1} for name in names}}
    tokeniser = Tokeniser.fit(store, changes=changes)
    decoded = tokeniser.decode(tokeniser.encode(store))
    charts = decoded.filter(pl.col("code").str.starts_with("CHART//"))
    rows = store.events().filter(pl.col("code").str.contains(r"^LAB//\d")).collect()
    assert len(charts) == rows["numeric_value"].count() > 0
    for prefix in ("INFUSION//", "OUTPUT//", "ICU_PROCEDURE//"):
        assert decoded["code"].str.starts_with(prefix).any()
    assert not any(t.startswith("CHART//") for t in Tokeniser.fit(store).vocabulary.tokens)


def test_clmbr_joins_values_and_keeps_a_code_once_a_day(store: PatientStore) -> None:
    tokeniser = Tokeniser.fit(store, "clmbr")
    decoded = tokeniser.decode(tokeniser.encode(store))
    day = pl.col("time").dt.date()
    assert not decoded.select("subject_id", day, "code", "bins").is_duplicated().any()
    assert any(token.endswith("//Q10") for token in tokeniser.vocabulary.tokens)
    assert tokeniser.durations.mean.sum() == 0


def test_ehrmamba_puts_time_between_visits(store: PatientStore) -> None:
    tokeniser = Tokeniser.fit(store, "ehrmamba")
    timelines = tokeniser.encode(store)
    name = np.array(timelines.vocabulary.tokens)[timelines.tokens]
    intervals = np.isin(name, list(tokeniser.preset.intervals.tokens))  # type: ignore[union-attr]
    assert (name[np.flatnonzero(intervals) + 1] == "[VS]").all()
    assert (name[timelines.offsets[:-1]] == "[CLS]").all()
    stays = store.stays().filter(pl.col("kind") == "hospital").collect()
    assert (name == "[VS]").sum() == (name == "[VE]").sum() == (name == "[REG]").sum() == len(stays)


def test_motor_gives_a_bag_of_ancestors(store: PatientStore) -> None:
    tokeniser = Tokeniser.fit(store, "motor")
    timelines = tokeniser.encode(store)
    name = np.array(timelines.vocabulary.tokens)[timelines.tokens]
    rows = store.events().with_row_index("event").collect()
    first = np.flatnonzero(np.char.startswith(name, "ICD10CM//"))[0]
    row = timelines.events[first]
    bag = name[timelines.events == row].tolist()
    code = rows["code"][int(row)].rpartition("//")[2]
    ancestors = code_ancestors(pl.DataFrame({"icd_code": [code], "icd_version": [10]}))
    chain = ancestors["ancestors"][0].to_list()
    assert bag == [f"ICD10CM//{node}" for node in [code, *chain]]


def _write_and_die(store_path: Path, tokeniser_folder: Path, folder: Path) -> None:
    store = open_store(store_path)
    calls = iter(range(10))

    def dying(records: Any) -> pl.DataFrame:
        if next(calls) == 2:
            os._exit(9)
        return first_day_sofa(records)

    Tokeniser.load(tokeniser_folder).write(store, folder, derived=dying)


def test_a_killed_write_leaves_nothing(
    store: PatientStore, tokeniser: Tokeniser, folder: Path, tmp_path: Path
) -> None:
    place = tmp_path / "out"
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_write_and_die, args=(store.path, folder, place))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert not place.exists()
    with pytest.raises(WardroundError, match="holds no timelines"):
        Timelines.open(place)
    assert len(tokeniser.write(store, place, derived=first_day_sofa)) == store.splits().height
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # what was left is gone


def test_a_folder_of_other_things_is_left_alone(
    store: PatientStore, tokeniser: Tokeniser, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(WardroundError, match="holds no timelines; choose another"):
        tokeniser.write(store, tmp_path, derived=first_day_sofa)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("tokens.npy", lambda path: path.write_bytes(path.read_bytes()[:-2]), "has .* bytes, not"),
        ("offsets.npy", lambda path: path.unlink(), "offsets.npy is missing"),
        (MANIFEST, lambda path: path.write_text("{"), "is damaged"),
        (MANIFEST, lambda path: path.unlink(), "holds no timelines"),
        (
            MANIFEST,
            lambda path: path.write_text(path.read_text().replace('"layout": 1', '"layout": 99')),
            "has layout 99",
        ),
        (
            "times.npy",
            lambda path: path.write_bytes(b"x" * 10 + path.read_bytes()[10:]),
            "times.npy",
        ),
        (
            "subjects.npy",
            lambda path: np.save(path, np.load(path)[::-1]),
            "arrays do not fit",
        ),
    ],
)
def test_damaged_folders_are_refused(
    folder: Path, tmp_path: Path, name: str, damage: Any, message: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    damage(copy / name)
    with pytest.raises(WardroundError, match=message) as error:
        Timelines.open(copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["tokeniser.json", "codes.parquet"])
def test_damaged_tokenisers_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / name).write_bytes(b"nonsense")
    with pytest.raises(WardroundError, match="is damaged") as error:
        Tokeniser.load(copy)
    assert "\n" not in str(error.value)
    (copy / "tokeniser.json").unlink()
    with pytest.raises(WardroundError, match="holds no tokeniser"):
        Tokeniser.load(copy)
