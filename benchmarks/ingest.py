"""Speed and memory of ingest, on MIMIC-IV's open demo beside MIMIC-IV-MEDS, and on hospitals.

Every measurement is a whole process, from its start to its end, imports included; memory is the
greatest sum of resident memory over its process tree, sampled every 20 ms. The demo is ingested
by both tools in turn, several times, and medians are compared. MIMIC-IV-MEDS lives in an
environment of its own below --workdir, made with pip where it is missing. It has no ED module and
leaves out seven tables of hosp and icu (services, microbiologyevents, prescriptions, emar_detail,
poe, datetimeevents, ingredientevents): ours is measured on the tables that it reads, and on all. A
lab row gives two events there and one here. Counts of events are printed.

MIMIC-IV-MEDS would download six concept maps of mimic-code (labs to LOINC and the like), which
only describe codes. Here it gets maps of one row: less work for it than it would have.

Last, all of MIMIC-IV v3.1 with MIMIC-IV-ED v2.2 is extrapolated from the two largest hospitals.

    python benchmarks/ingest.py [--data DIR] [--patients 1000 10000 50000] [--workdir DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow.parquet as pq

from wardround.sources.hospital import generate_hospital

PEER = "MIMIC-IV-MEDS==0.2.0"
SAMPLE_SECONDS = 0.02
MEMORY_LIMIT = "3GB"
DEMO_PARTS = ("mimic-iv-demo/2.2", "mimic-iv-demo/2.2-reconstructed")
ED_PART = "mimic-iv-ed-demo/derived-from-fhir-2.1.0"
#: Tables that the peer reads.
PEER_TABLES = (
    "hosp/patients,hosp/admissions,hosp/transfers,hosp/diagnoses_icd,hosp/procedures_icd,"
    "hosp/drgcodes,hosp/hcpcsevents,hosp/labevents,hosp/pharmacy,hosp/emar,hosp/omr,"
    "icu/icustays,icu/chartevents,icu/inputevents,icu/outputevents,icu/procedureevents"
)
CONCEPT_MAPS = (
    "d_labitems_to_loinc",
    "inputevents_to_rxnorm",
    "meas_chartevents_main",
    "outputevents_to_loinc",
    "proc_datetimeevents",
    "proc_itemid",
)
#: Rows of the tables that we read: mimic-code's buildmimic/postgres/validate.sql, as of v3.1
#: (hosp, icu), and its mimic-iv-ed counterpart, as of v2.2 (ed).
FULL_ROWS = {
    "hosp/patients": 364_627,
    "hosp/admissions": 546_028,
    "hosp/transfers": 2_413_581,
    "hosp/services": 593_071,
    "hosp/diagnoses_icd": 6_364_488,
    "hosp/procedures_icd": 859_655,
    "hosp/drgcodes": 761_856,
    "hosp/hcpcsevents": 186_074,
    "hosp/labevents": 158_374_764,
    "hosp/microbiologyevents": 3_988_224,
    "hosp/prescriptions": 20_292_611,
    "hosp/pharmacy": 17_847_567,
    "hosp/emar": 42_808_593,
    "hosp/emar_detail": 87_371_064,
    "hosp/poe": 52_212_109,
    "hosp/omr": 7_753_027,
    "icu/icustays": 94_458,
    "icu/chartevents": 432_997_491,
    "icu/datetimeevents": 9_979_761,
    "icu/inputevents": 10_953_713,
    "icu/ingredientevents": 14_253_480,
    "icu/outputevents": 5_359_395,
    "icu/procedureevents": 808_706,
    "ed/edstays": 425_087,
    "ed/triage": 425_087,
    "ed/vitalsign": 1_564_610,
    "ed/pyxis": 1_586_053,
    "ed/medrecon": 2_987_342,
    "ed/diagnosis": 899_050,
}


@dataclass(frozen=True)
class Run:
    """One ingest: rows read (None: not told), events written, wall seconds, peak bytes."""

    rows: int | None
    events: int
    seconds: float
    peak: int

    def __str__(self) -> str:
        read = "" if self.rows is None else f"{self.rows:,} rows, "
        return (
            f"{read}{self.events:,} events in {self.seconds:.2f} s "
            f"({self.events / self.seconds:,.0f} events/s), peak {self.peak / 2**30:.2f} GiB"
        )


def measure(command: Sequence[str | Path], environment: dict[str, str]) -> tuple[float, int]:
    """Wall seconds and peak bytes of a command and its children.

    Raises:
        RuntimeError: it failed; with the end of what it wrote.
    """
    peak = 0
    done = threading.Event()

    def watch(process: psutil.Process) -> None:
        nonlocal peak
        while not done.wait(SAMPLE_SECONDS):
            peak = max(peak, tree_memory(process))

    with tempfile.TemporaryFile("w+") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command], stdout=output, stderr=output, env=environment
        )
        watcher = threading.Thread(target=watch, args=(psutil.Process(process.pid),))
        watcher.start()
        code = process.wait()
        seconds = time.perf_counter() - began
        done.set()
        watcher.join()
        if code:
            output.seek(0)
            raise RuntimeError(f"{command[0]} failed:\n{output.read()[-2000:]}")
    return seconds, peak


def tree_memory(process: psutil.Process) -> int:
    """Resident bytes of a process and all below it, now."""
    total = 0
    try:
        for member in (process, *process.children(recursive=True)):
            total += member.memory_info().rss
    except psutil.NoSuchProcess:
        pass  # one that ended while we looked; the next sample has the rest
    return total


def ingest(sources: Sequence[Path], store: Path, tables: str | None = None) -> Run:
    """Ours."""
    code = "from wardround.cli import main; main()"
    command: list[str | Path] = [sys.executable, "-c", code, "ingest", *sources, store]
    command += ["--force", "--memory", MEMORY_LIMIT, *(["--tables", tables] if tables else [])]
    seconds, peak = measure(command, dict(os.environ))
    report = json.loads((store / "ingest-report.json").read_text())
    rows = sum(table["rows"] for table in report["tables"].values())
    return Run(rows, report["events"], seconds, peak)


def peer_ingest(tools: Path, raw: Path, store: Path) -> Run:
    """MIMIC-IV-MEDS, on files that are there."""
    command: list[str | Path] = [tools / "meds-extract-run", "spec=MIMIC-IV"]
    command += [f"output_dir={store}"]
    command += ["do_download=false", f"input_dir={raw}", "dataset_key=demo"]
    paths = os.pathsep.join([str(tools), os.environ["PATH"]])
    seconds, peak = measure(command, {**os.environ, "PATH": paths})
    files = (store / "data").rglob("*.parquet")
    events = sum(pq.ParquetFile(file).metadata.num_rows for file in files)
    return Run(None, events, seconds, peak)


def make_peer(folder: Path) -> Path:
    """The peer's commands, in an environment that is made where it is missing."""
    tools = folder / "bin"
    if not (tools / "meds-extract-run").exists():
        venv.create(folder, with_pip=True)
        install = [tools / "python", "-m", "pip", "install", "--quiet", PEER]
        subprocess.run([str(part) for part in install], check=True)
    return tools


def peer_input(data: Path, folder: Path) -> Path:
    """The demo as the peer wants it: all tables of a module in one folder, and concept maps."""
    for part in DEMO_PARTS:
        for file in (data / part).rglob("*.csv.gz"):
            link = folder / file.parent.name / file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())
    header = (
        "itemid (omop_source_code),label,omop_concept_name,omop_vocabulary_id,omop_concept_code"
    )
    for name in CONCEPT_MAPS:
        (folder / f"{name}.csv").write_text(f"{header}\n1,none,none,none,none\n")
    return folder


def median(runs: Sequence[Run]) -> Run:
    """The run of median time, with the greatest peak of all."""
    middle = sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]
    return Run(middle.rows, middle.events, middle.seconds, max(run.peak for run in runs))


def compare(data: Path, workdir: Path, repeats: int, peer_folder: Path) -> None:
    """Ours and the peer's, turn by turn, on the demo's hosp and icu; ours with ed as well."""
    tools = make_peer(peer_folder)
    raw = peer_input(data, workdir / "raw")
    parts = [data / part for part in DEMO_PARTS]
    same, ours, with_ed, theirs = [], [], [], []
    for repeat in range(repeats):
        same.append(ingest(parts, workdir / "store", PEER_TABLES))
        ours.append(ingest(parts, workdir / "store"))
        theirs.append(peer_ingest(tools, raw, workdir / f"peer-{repeat}"))
        with_ed.append(ingest([*parts, data / ED_PART], workdir / "store"))
    their = median(theirs)
    print(f"demo, median of {repeats} runs each")
    print(f"  {PEER:<28}  {their}")
    for what, runs in (
        ("wardround, the same tables", same),
        ("wardround, hosp and icu", ours),
        ("wardround, hosp, icu and ed", with_ed),
    ):
        our = median(runs)
        turns = [t.seconds / o.seconds for o, t in zip(runs, theirs, strict=True)]
        rate = (our.events / our.seconds) / (their.events / their.seconds)
        print(f"  {what:<28}  {our}")
        print(
            f"    ratios: time {their.seconds / our.seconds:.1f} (single turns {min(turns):.1f} "
            f"to {max(turns):.1f}), events/s {rate:.1f}, peak memory {their.peak / our.peak:.1f}"
        )


def hospitals(sizes: Sequence[int], workdir: Path) -> list[Run]:
    """Ingest generated hospitals, smallest first."""
    runs = []
    for patients in sorted(sizes):
        folder = workdir / f"hospital-{patients}"
        if not folder.exists():
            generate_hospital(folder, patients=patients, seed=1, notes=False)
        run = ingest([folder], workdir / "store")
        print(f"hospital of {patients:,} patients: {run}", flush=True)
        runs.append(run)
    return runs


def extrapolate(runs: Sequence[Run]) -> None:
    """All of MIMIC-IV, by the rows and bytes that the largest hospital adds to the one before.

    Its rows are not mixed as the hospitals' are: half of them are chartevents, which are staged
    faster than the mean row. A block of 1,000 of its subjects has about twice the demo's events.
    """
    first, *_, small, large = (runs[0], *runs)
    added = (large.rows or 0) - (small.rows or 0)
    rate = added / (large.seconds - small.seconds)
    rows = sum(FULL_ROWS.values())
    linear = large.peak + (large.peak - small.peak) / added * (rows - (large.rows or 0))
    limit = int(MEMORY_LIMIT.removesuffix("GB")) * 10**9
    print(
        f"MIMIC-IV v3.1 with MIMIC-IV-ED v2.2: {rows:,} rows of "
        f"{FULL_ROWS['hosp/patients']:,} subjects at the {rate:,.0f} rows/s of the last step: "
        f"{rows / rate / 60:.0f} min on {os.cpu_count()} cores"
    )
    print(
        f"  peak about {min(linear, limit + first.peak) / 2**30:.1f} GiB: what the engine takes "
        f"of its {MEMORY_LIMIT}, beyond which it spills, over the {first.peak / 2**30:.2f} GiB of "
        "the smallest hospital"
    )
    print(f"  {PEER} publishes 32 min and a peak of 20.3 GB for v3.1, on 20 cores (its README)")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--patients", type=int, nargs="*", default=[1000, 10_000, 50_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workdir", type=Path, help="keep hospitals and the peer here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.workdir) as folder:
        scratch = Path(folder)
        kept = options.workdir or scratch
        if (options.data / DEMO_PARTS[0]).is_dir():
            compare(options.data, scratch, options.repeats, kept / "peer")
        else:
            print(f"{options.data / DEMO_PARTS[0]}: no demo there, no comparison")
        runs = hospitals(options.patients, kept)
        if len(runs) > 1:
            extrapolate(runs)


if __name__ == "__main__":
    main()
