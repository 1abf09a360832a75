"""The `wardround` command."""

from __future__ import annotations

import gc
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from wardround import __version__
from wardround.errors import WardroundError

# Heavy imports stay inside the commands: `wardround --help` answers at once.

app = typer.Typer(
    name="wardround",
    help="Published clinical machine-learning systems on one patient store.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(markup=False, highlight=False)
#: Exit status that typer makes of an interrupt.
INTERRUPTED = 130

Store = Annotated[Path, typer.Option("--data", help="A patient store made by `ingest`.")]
Runs = Annotated[Path, typer.Option("--runs", help="Where run folders go.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what stands at the destination.")]

#: Open data sets that people ask for by name.
WHERE_TO_GET = {
    "mimic-iv-demo": (
        "https://physionet.org/content/mimic-iv-demo/2.2/ (open, 100 patients) and, for the "
        "emergency department, https://physionet.org/content/mimic-iv-ed-demo/2.2/"
    ),
    "mimic-iv": "https://physionet.org/content/mimiciv/ (needs credentialed access)",
    "mimic-iv-ed": "https://physionet.org/content/mimic-iv-ed/ (needs credentialed access)",
}


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Settings that hold for every command."""
    if version:
        console.print(__version__)
        raise typer.Exit


@app.command()
def systems() -> None:
    """List the installed systems and their tasks."""
    from wardround.system import available_systems, load_system

    table = Table("System", "Paper", "Tasks", "State")
    for name in available_systems():
        card = load_system(name).card
        table.add_row(name, card.paper, ", ".join(card.tasks), card.state)
    console.print(table)


@app.command()
def hospital(
    dest: Annotated[Path, typer.Argument(help="Folder to write, in MIMIC-IV's file formats.")],
    patients: Annotated[int, typer.Option(min=1, help="How many patients.")] = 1000,
    seed: Annotated[int, typer.Option(help="Same seed, same hospital.")] = 0,
    notes: Annotated[bool, typer.Option(help="Write discharge and radiology notes.")] = True,
    force: Force = False,
) -> None:
    """Generate a synthetic hospital."""
    from wardround.sources.hospital import generate_hospital

    summary = generate_hospital(dest, patients=patients, seed=seed, overwrite=force, notes=notes)
    console.print(f"{dest}: {summary}", soft_wrap=True)


@app.command()
def ingest(
    folders: Annotated[
        list[Path],
        typer.Argument(help="Source folders, then the store to make.", metavar="SOURCE… DEST"),
    ],
    force: Force = False,
    tables: Annotated[
        str | None,
        typer.Option(help="Take these alone, such as `ed,hosp/patients,hosp/admissions`."),
    ] = None,
    memory: Annotated[str, typer.Option(help="Memory that the engine may use.")] = "3GB",
    threads: Annotated[int, typer.Option(min=0, help="0 takes every core.")] = 0,
) -> None:
    """Turn MIMIC-IV files into a patient store."""
    from wardround.sources.mimic import format_report, ingest_mimic

    *sources, dest = folders
    for source in sources or folders:
        where = WHERE_TO_GET.get(str(source))
        if where and not source.is_dir():
            raise WardroundError(
                f"{source} does not come with wardround; get it from {where}, and give its folder"
            )
    if not sources:
        raise WardroundError("ingest takes at least one source folder and the store to make")
    for source in sources:
        if not source.is_dir():
            raise WardroundError(f"{source}: no such folder; check the path")
    report = ingest_mimic(
        sources,
        dest,
        overwrite=force,
        tables=None if tables is None else [name.strip() for name in tables.split(",")],
        memory_limit=memory,
        threads=threads or None,
    )
    console.print(format_report(report))
    console.print(f"Store: {dest}", soft_wrap=True)


@app.command()
def audit(
    task: Annotated[str, typer.Argument(help="A task's name, or an ACES file.")],
    data: Store,
    out: Annotated[Path | None, typer.Option(help="Write the findings as JSON, too.")] = None,
) -> None:
    """Show what a task would have leaked without the rule of availability.

    A truncation test compares the features of its table (of its patients' history, where it has no
    table of its own) with those from records that end at the prediction.
    """
    from functools import partial

    from wardround.cohorts import audit as audit_task
    from wardround.cohorts import load_task
    from wardround.store import atomic_write, open_store
    from wardround.views.table import history_table, triage_table

    chosen = load_task(task)
    features = chosen.features
    build = partial(triage_table, feature_set=features) if features else history_table
    report = audit_task(chosen, open_store(data), build=build)
    console.print(report.render())
    if out is not None:
        with atomic_write(out) as temporary:
            temporary.write_text(json.dumps(report.to_dict(), indent=1))


@app.command()
def run(
    system: Annotated[str, typer.Argument(help="A name from `wardround systems`.")],
    data: Store,
    preset: Annotated[
        str, typer.Option(help="`tiny` (CPU, minutes) or `paper` (published sizes).")
    ] = "tiny",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value; repeat as needed.")
    ] = None,
    runs: Runs = Path("runs"),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start anew even if the same run is there.")
    ] = False,
) -> None:
    """Prepare, fit, evaluate and report a system."""
    from wardround.runs import run_system
    from wardround.store import open_store
    from wardround.system import load_system

    chosen = load_system(system)
    config = chosen.Config.build(preset, settings or [])
    done = run_system(chosen, open_store(data), config, runs, fresh=fresh)
    if done.origin == "found":
        console.print("The same run was finished before; pass --fresh to repeat it.")
    _print_results(done.path)
    console.print(f"Report: {done.report}", soft_wrap=True)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
) -> None:
    """Render a run's report again from its metrics."""
    from wardround.runs import write_report

    console.print(f"Report: {write_report(folder)}", soft_wrap=True)


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN RUN…", help="Run folders.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("comparison.html"),
) -> None:
    """Put runs side by side."""
    from wardround.reports import compare_report
    from wardround.runs import load_results
    from wardround.store import atomic_write

    if len(folders) < 2:
        raise WardroundError("compare takes two run folders or more")
    results = [load_results(folder) for folder in folders]
    with atomic_write(out) as temporary:
        compare_report(results, temporary)
    console.print(f"Comparison: {out}", soft_wrap=True)


@app.command()
def risk(
    stay: Annotated[int, typer.Option(help="Id of a hospital, ICU or ED stay.")],
    model: Annotated[Path, typer.Option(metavar="RUN", help="A finished run, such as ethos-ares.")],
    data: Annotated[
        Path | None, typer.Option("--data", help="A patient store; that of the run unless told.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(help="Read nothing that became known later.")
    ] = None,
    futures: Annotated[
        int | None, typer.Option(min=2, help="Simulated at each point; as in the run unless told.")
    ] = None,
    points: Annotated[int, typer.Option(min=1, help="Points of the curves, at most.")] = 60,
    out: Annotated[
        Path | None, typer.Option(help="The page to write; risk-STAY.html unless told.")
    ] = None,
) -> None:
    """Draw a stay's risks over time, and the events that moved them."""
    from wardround.reports import render_risk
    from wardround.runs import load_results, store_of
    from wardround.store import open_store
    from wardround.system import FollowsStays, load_system

    results = load_results(model)
    system = load_system(results.system)
    if not isinstance(system, FollowsStays):
        raise WardroundError(f"{results.system} does not follow stays; ethos-ares does")
    store = open_store(data or store_of(model))
    curves = system.stay_risk(model, store, stay, until=until, futures=futures, points=points)
    page = out or Path(f"risk-{stay}.html")
    render_risk(curves, page)
    table = Table("Risk", "First", "Highest", "Last")
    for curve in curves.curves:
        values = [point.risk.value for point in curve.points if point.risk.value is not None]
        cells = [values[0], max(values), values[-1]] if values else [None] * 3
        table.add_row(curve.title, *("–" if v is None else f"{v:.3f}" for v in cells))
    console.print(table)
    console.print(f"Risks: {page}", soft_wrap=True)


@app.command()
def code(
    note: Annotated[Path, typer.Argument(help="A discharge summary, as plain text.")],
    model: Annotated[Path, typer.Option(metavar="RUN", help="A finished run of medical-coding.")],
    system: Annotated[
        str | None, typer.Option("--codes", help="Which codes of the run, such as icd10.")
    ] = None,
    network: Annotated[
        str | None, typer.Option(help="Which network; the best on tuning notes unless told.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--out", help="Write them as JSON, too, with their places.")
    ] = None,
) -> None:
    """Suggest the codes of a note, with the words that speak for them."""
    from dataclasses import asdict

    from wardround.runs import load_results
    from wardround.store import atomic_write
    from wardround.system import CodesNotes, load_system

    results = load_results(model)
    chosen = load_system(results.system)
    if not isinstance(chosen, CodesNotes):
        raise WardroundError(f"{results.system} gives no codes; medical-coding does")
    try:
        text = note.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise WardroundError(f"{note}: no such file; check the path") from error
    except UnicodeDecodeError as error:
        raise WardroundError(f"{note}: not UTF-8 text (byte {error.start}); convert it") from error
    found = chosen.suggest_codes(model, text, task=system, model=network)
    table = Table("", "Code", "Description", "Probability", "Words")
    for one in found:
        words = [" ".join(text[s.start : s.stop].split()) for s in one.evidence]
        table.add_row(
            "*" if one.suggested else "",
            one.code,
            one.description or "",
            f"{one.probability:.3f}",
            "; ".join(words),
        )
    console.print(table)
    console.print(f"* above the threshold that was tuned; {found[0].model}")
    if output is not None:
        rows = [
            {**asdict(one), "evidence": [span.model_dump() for span in one.evidence]}
            for one in found
        ]
        with atomic_write(output) as temporary:
            temporary.write_text(json.dumps(rows, indent=1, ensure_ascii=False))


@app.command()
def doctor(
    data: Annotated[
        Path | None, typer.Option("--data", help="Also verify every file of this store.")
    ] = None,
) -> None:
    """Check the installation and, with --data, a store."""
    import torch

    from wardround.runs import environment
    from wardround.store import open_store
    from wardround.system import available_systems, load_system

    found = environment()
    packages = found.pop("packages")
    for key, value in found.items():
        console.print(f"{key}: {value}")
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "none (the CPU is used)"
    console.print(f"GPU: {cuda}")
    console.print("packages: " + ", ".join(f"{k} {v}" for k, v in packages.items()))
    for name in available_systems():
        load_system(name)
        console.print(f"system {name}: loads")
    if data is not None:
        open_store(data).verify()
        console.print(f"store {data}: complete, every file as written", soft_wrap=True)


def _print_results(folder: Path) -> None:
    from wardround.reports.words import metric_label
    from wardround.runs import load_results

    results = load_results(folder)
    for task in results.tasks:
        shown = list(task.models[0].metrics)[:2] if task.models else []
        headings = (metric_label(metric) for metric in shown)
        table = Table("Model", *headings, title=task.title, title_justify="left")
        for model in [*task.models, *task.controls]:
            table.add_row(model.label, *(_interval(model.metrics.get(m)) for m in shown))
        console.print(table)


def _interval(estimate: object) -> str:
    value, low, high = (getattr(estimate, part, None) for part in ("value", "low", "high"))
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" ({low:.3f}–{high:.3f})" if low is not None else "")


def main() -> None:
    """Run the command line: a user's mistake is one line on standard error and status 1."""
    # Imports and compiled maps are many small objects that live to the end. Looking for garbage
    # among them at the default pace takes a tenth of an ingest of the demo.
    gc.set_threshold(200_000, 20, 20)
    try:
        app()
    except WardroundError as error:
        if "--debug" in sys.argv:
            raise
        sys.exit(f"wardround: {error}")
    except OSError as error:
        if "--debug" in sys.argv:
            raise
        sys.exit(f"wardround: {error} (--debug shows where)")
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            print("wardround: interrupted; run the same command again to go on", file=sys.stderr)
        raise
