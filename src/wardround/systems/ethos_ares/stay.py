"""The risks of one stay, from a finished run."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import polars as pl
import yaml

from wardround.errors import WardroundError
from wardround.evaluation import RiskCurves
from wardround.simulation import Clock
from wardround.simulation.ares import risk_curves
from wardround.simulation.tasks import TimelineTask
from wardround.store import PatientStore
from wardround.systems.ethos_ares.config import EthosAresConfig
from wardround.systems.ethos_ares.decoder import load_decoder, sampling_of
from wardround.systems.ethos_ares.prepared import LATER, TASK, derived
from wardround.views.records import LoadedRecords
from wardround.views.timeline import Tokeniser


def stay_risk(
    run: Path,
    store: PatientStore,
    stay_id: int,
    *,
    until: datetime | None = None,
    futures: int | None = None,
    points: int | None = None,
    movers: int = 5,
) -> RiskCurves:
    """Follow a stay with the decoder of a run; see `wardround.simulation.ares.risk_curves`.

    Args:
        run: a finished run of this system.
        store: that holds the stay; the run's own, or another of the same source.
        stay_id: of a hospital, ICU or ED stay.
        until: nothing known later is read.
        futures: of each point; those of the run unless told.
        points: no more than these.
        movers: changes to explain for each task.

    Raises:
        WardroundError: no such stay, no task of the run that starts with such a stay, or a run
            without a decoder.
    """
    config = EthosAresConfig.model_validate(yaml.safe_load((run / "config.yaml").read_text()))
    stays = store.stays().filter(pl.col("stay_id") == stay_id).collect()
    if stays.is_empty():
        raise WardroundError(f"{store.path} has no stay {stay_id}; its stays are in stays.parquet")
    stay = stays.row(0, named=True)
    tasks = _tasks(run, stay["kind"])
    subject = stay["subject_id"]
    tokeniser = Tokeniser.load(run / "model" / "tokeniser")
    records = LoadedRecords(
        store.events().filter(pl.col("subject_id") == subject).collect(),
        store.stays().filter(pl.col("subject_id") == subject).collect(),
    )
    timelines = tokeniser.encode(records, derived=derived(config))
    sampling = sampling_of(config)
    durations = tokeniser.durations
    curves = risk_curves(
        load_decoder(run / "model" / "ethos"),
        timelines,
        subject,
        (stay["start"], stay["end"]),
        tasks,
        Clock(durations.mean, None if config.mean_intervals else durations.quantiles),
        estimator=config.estimator,
        sampling=sampling,
        until=until,
        max_points=points,
        movers=movers,
        descriptions=_descriptions(store),
        stay_id=stay_id,
        half_width=None,
        futures=futures or sampling.futures,
    )
    notes = [*curves.notes, *_seen(run, store, subject)]
    if tokeniser.preset.clock == "time":
        notes.append("As published, results count from when they happened, before they were filed.")
    return curves.model_copy(
        update={"model": str(run), "data": dict(store.provenance), "notes": notes}
    )


def _tasks(run: Path, kind: str) -> list[TimelineTask]:
    """What the run asked at the start of such a stay; what it left out is not there."""
    files = sorted((run / "work").glob(f"*/{TASK}"))
    tasks = {
        file.parent.name: TimelineTask.model_validate_json(file.read_text())
        for file in files
        if not file.parent.name.endswith(LATER)
    }
    found = [
        task
        for task in tasks.values()
        if task.kind == "risk" and (task.start.stay, task.start.edge) == (kind, "start")
    ]
    if not found:
        raise WardroundError(
            f"none of the run's tasks starts with a stay of kind {kind} ({', '.join(tasks)})"
        )
    return found


def _descriptions(store: PatientStore) -> dict[str, str]:
    rows = store.codes().select("code", "description").drop_nulls().collect()
    return dict(rows.iter_rows())


def _seen(run: Path, store: PatientStore, subject: int) -> list[str]:
    """A warning where the model learnt from this very patient."""
    about = yaml.safe_load((run / "run.json").read_text())
    splits = store.splits().filter(pl.col("subject_id") == subject)
    own = about.get("store_fingerprint") == store.fingerprint
    if own and splits["split"].to_list() == ["train"]:
        return ["The model learnt from this very patient: its risks look better than they are."]
    return []
