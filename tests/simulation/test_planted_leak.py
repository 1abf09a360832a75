"""A score of the first ICU day that is known when it begins: it ranks better, and is found out."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.conftest import Once
from tests.planted import DEATH, ICU_END, LABS, TOKEN, Planted, Sample
from tests.simulation.teaching import kept, teach
from wardround.cohorts.audit import truncation_test
from wardround.evaluation import auroc
from wardround.models import Decoder
from wardround.simulation.predictions import prefixes, starts
from wardround.simulation.risk import estimate_risks
from wardround.simulation.tasks import load_timeline_task
from wardround.store import PatientStore, open_store
from wardround.systems.ethos_ares.prepared import Prepared
from wardround.training import load_model
from wardround.views.sofa import first_day_sofa
from wardround.views.timeline import Timelines, Tokeniser

pytestmark = pytest.mark.slow


class Charted(Planted):
    """The same patients, whose coma scale is charted with each lab result.

    It says what their severity is, and in the ICU, what it will have come to when they leave or
    die. No timeline has a token of it; the SOFA score is computed from it.
    """

    #: Eyes, verbal, motor, by severity: 0 to 4 points.
    SCALE = (("220739", (4, 4, 3, 2, 1)), ("223900", (5, 4, 3, 2, 1)), ("223901", (6, 5, 5, 4, 2)))

    def records(self, sample: Sample) -> tuple[pl.DataFrame, pl.DataFrame]:
        events, stays = super().records(sample)
        walks, nodes = sample.walks, self.process.nodes
        at = np.flatnonzero(np.isin(walks.tokens, [TOKEN[lab.token] for lab in LABS]))
        in_icu = np.isin(walks.nodes[at], [nodes[name] for name in nodes if name.startswith("icu")])
        ends = np.flatnonzero(np.isin(walks.tokens, [TOKEN[ICU_END], TOKEN[DEATH]]))
        final = ends[np.searchsorted(ends, at[in_icu])]
        severity = walks.states[at]
        severity[in_icu] = walks.states[final]
        time = pl.Series(1_000_000 * sample.times[at]).cast(pl.Datetime("us"))
        seen = pl.DataFrame({"subject_id": sample.subjects[walks.path[at]], "time": time})
        charted = [
            seen.with_columns(
                available_time="time",
                code=pl.lit(f"LAB//{item}//UNK"),
                numeric_value=pl.Series(np.array(points)[severity], dtype=pl.Float32),
            )
            for item, points in self.SCALE
        ]
        together = pl.concat([events, *charted], how="diagonal")
        return together.sort("subject_id", "time", maintain_order=True, nulls_last=False), stays


class Scored:
    """Timelines with SOFA scores, of patients to learn from and of others."""

    def __init__(self, folder: Path, *, leak: bool) -> None:
        self.derived = partial(first_day_sofa, leak=leak)
        self.store, self.others = (open_store(folder / name) for name in ("store", "others"))
        own, new = (folder / f"{name}-{leak}" for name in ("own", "new"))
        if not new.exists():
            # Of six organs two are seen: points are told apart one by one.
            changes = {"rules": {"sofa": {"value": {"high": 10}}}}
            tokeniser = Tokeniser.fit(self.store, changes=changes, derived=self.derived)
            tokeniser.write(self.store, own, derived=self.derived)
            tokeniser.write(self.others, new, derived=self.derived)
        self.prepared = Prepared(self.store, own, own, {})
        self.new = Timelines.open(new)

    def teach(self) -> Decoder:
        train, tuning = (self.prepared.documents(split) for split in ("train", "tuning"))
        return teach(train, tuning, len(self.new.vocabulary), 3600)

    def read(self, store: PatientStore, index: pl.DataFrame) -> pl.DataFrame:
        """What is known at predictions, as a view."""
        timelines = self.prepared.tokeniser.encode(store, derived=self.derived)
        known = prefixes(np.inf, index, timelines, window=256)
        return index.with_columns(prefix=pl.Series([one.tokens.tolist() for one in known]))


@pytest.fixture(scope="module")
def scored(once: Once) -> dict[bool, Scored]:
    def write(folder: Path) -> None:
        Charted(seed=8).write_store(folder / "store", 10_000)
        Charted(seed=9).write_store(folder / "others", 1500)
        for leak in (False, True):
            Scored(folder, leak=leak)

    folder = once("planted-truth-sofa", write)
    return {leak: Scored(folder, leak=leak) for leak in (False, True)}


def test_a_leaked_score_ranks_better_and_is_found_out(
    scored: dict[bool, Scored], once: Once
) -> None:
    task, found, differing = load_timeline_task("icu-mortality"), {}, {}
    for leak, timelines in scored.items():
        # The task's own cut stands before such a score; here all is read that bears the time.
        cohort = starts(task, timelines.others, timelines.new).frame.drop("token_index")
        folder = once(f"planted-truth-sofa-{leak}", partial(kept, timelines.teach))
        clock = timelines.prepared.clock(mean=False)
        table = estimate_risks(
            load_model(folder),
            timelines.new,
            cohort,
            [task],
            clock,
            estimator="survival",
            futures=16,
        )[task.name]
        found[leak] = auroc(cohort["boolean_value"].to_numpy(), table["risk"].to_numpy())
        index = cohort.drop("boolean_value")
        differing[leak] = truncation_test(
            timelines.read, timelines.others, index, sample=200
        ).differing
    said = f"AUROC of death in the ICU: {found[False]:.3f}, with the leak {found[True]:.3f}"
    assert found[True] > found[False] + 0.03, said
    assert differing == {False: [], True: ["prefix"]}
