"""Time and memory of turning stores into timelines: the demo and synthetic hospitals.

Each store is tokenised in a process of its own: the tokeniser is fitted on the train split and then
writes every subject's timeline. The official tokeniser's figures on the demo stand beside ours,
and the largest store is extrapolated to MIMIC-IV.

    python benchmarks/tokenise.py [--data DIR] [--patients 10000 50000] [--workdir DIR]
        [--store DIR ...] [--preset ethos]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DEMO_PARTS = (
    "mimic-iv-demo/2.2",
    "mimic-iv-demo/2.2-reconstructed",
    "mimic-iv-ed-demo/derived-from-fhir-2.1.0",
)
#: ethos_tokenize (ipolharvard/ethos-ares) on the 90 training subjects of the demo, on 2 cores:
#: seconds, peak bytes, tokens.
OFFICIAL = (6.6, 860e6, 356_000)
#: Tokens of MIMIC-IV with MIMIC-IV-ED, as published.
FULL_TOKENS = 360_000_000


@dataclass(frozen=True)
class Run:
    """One store: what it holds, seconds to fit and to write, bytes of memory before and at most,
    events of its largest shard, bytes of the files."""

    subjects: int
    events: int
    tokens: int
    fit: float
    write: float
    idle: int
    peak: int
    shard: int
    size: int

    def __str__(self) -> str:
        both = self.fit + self.write
        return (
            f"{self.subjects:,} subjects, {self.events:,} events -> {self.tokens:,} tokens: "
            f"fit {self.fit:.1f} s, write {self.write:.1f} s "
            f"({self.events / self.write:,.0f} events/s, {self.tokens / self.write:,.0f} tokens/s; "
            f"with the fit {self.events / both:,.0f} and {self.tokens / both:,.0f}), "
            f"peak {self.peak / 1e6:,.0f} MB ({self.idle / 1e6:,.0f} MB before), "
            f"largest shard {self.shard:,} events, files {self.size / 1e6:,.0f} MB"
        )


def tokenise(path: Path, preset: str, folder: Path) -> Run:
    """Fit, write and measure; called in a fresh process, whose memory is all the tokeniser's."""
    from wardround.store import open_store
    from wardround.views.timeline import Tokeniser

    store = open_store(path)
    idle = peak_memory()
    began = time.perf_counter()
    tokeniser = Tokeniser.fit(store, preset)
    fitted = time.perf_counter()
    timelines = tokeniser.write(store, folder)
    written = time.perf_counter()
    peak = peak_memory()
    rows = [shard["rows"] for shard in store.provenance["shards"].values()]
    return Run(
        len(timelines),
        sum(rows),
        len(timelines.tokens),
        fitted - began,
        written - fitted,
        idle,
        peak,
        max(rows),
        sum(file.stat().st_size for file in folder.iterdir()),
    )


def peak_memory() -> int:
    """Bytes that this process held at most (Linux). getrusage would count the parent's as well."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def measure(path: Path, preset: str, repeats: int = 1) -> Run:
    """The fastest of some runs, each in a process of its own."""
    runs = []
    for _ in range(repeats):
        with (
            tempfile.TemporaryDirectory() as scratch,
            multiprocessing.get_context("spawn").Pool(1) as pool,
        ):
            runs.append(pool.apply(tokenise, (path, preset, Path(scratch) / "timelines")))
    return min(runs, key=lambda run: run.fit + run.write)


def stores(options: argparse.Namespace, workdir: Path) -> Sequence[tuple[str, Path]]:
    """Stores to tokenise: the demo, those named, and hospitals, smallest first; made if need be."""
    from wardround.sources.hospital import generate_hospital
    from wardround.sources.mimic import ingest_mimic

    found = []
    parts = [options.data / part for part in DEMO_PARTS]
    if all(part.is_dir() for part in parts):
        demo = workdir / "demo-store"
        if not demo.exists():
            ingest_mimic(parts, demo)
        found.append(("demo", demo))
    else:
        print(f"{parts[0]}: no demo there")
    found += [(str(path), path) for path in options.store]
    for patients in sorted(set(options.patients)):
        store = workdir / f"hospital-{patients}-store"
        if not store.exists():
            with tempfile.TemporaryDirectory(dir=workdir) as scratch:
                generate_hospital(Path(scratch) / "files", patients=patients, seed=1, notes=False)
                ingest_mimic([Path(scratch) / "files"], store)
        found.append((f"hospital of {patients:,}", store))
    return found


def compare(run: Run) -> None:
    """Ours beside the official tokeniser on the demo, by tokens since the subjects differ."""
    seconds, peak, tokens = OFFICIAL
    ours = (run.fit + run.write) / run.tokens
    print(
        f"  official: {seconds} s and {peak / 1e6:,.0f} MB for {tokens:,} tokens; ours, fit and "
        f"write, {seconds / tokens / ours:.1f} times the tokens/s and {peak / run.peak:.1f} times "
        "less memory"
    )


def extrapolate(run: Run) -> None:
    """All of MIMIC-IV at the rate of the largest store."""
    scale = FULL_TOKENS / run.tokens
    print(
        f"MIMIC-IV, {FULL_TOKENS:,} tokens at that rate: fit {run.fit * scale / 60:.1f} min, write "
        f"{run.write * scale / 60:.1f} min on {os.cpu_count()} cores, files "
        f"{run.size * scale / 1e9:.1f} GB; memory goes by the largest shard"
    )


def main() -> None:
    """Run from the command line."""
    shared = Path(os.environ.get("WARDROUND_SHARED", "../shared/data"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=shared, help="folder that holds the demo")
    parser.add_argument("--patients", type=int, nargs="*", default=[10_000, 50_000])
    parser.add_argument("--store", type=Path, nargs="*", default=[], help="stores that exist")
    parser.add_argument("--preset", default="ethos")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, the fastest counts")
    parser.add_argument("--workdir", type=Path, help="keep stores here, or reuse them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        workdir = options.workdir or Path(scratch)
        workdir.mkdir(parents=True, exist_ok=True)
        run = None
        for name, path in stores(options, workdir):
            run = measure(path, options.preset, options.repeats)
            print(f"{name}: {run}", flush=True)
            if name == "demo" and options.preset == "ethos":
                compare(run)
        if run is not None:
            extrapolate(run)


if __name__ == "__main__":
    main()
