"""Time and memory of generating synthetic hospitals of several sizes.

Each size is generated in a process of its own, imports and the reading of code tables included;
memory is the most that this process held. Time should grow as patients do, or less where the fixed
costs still show, and memory not at all beyond the 2,000 patients of a chunk. Sizes beyond the
first are compared with the one before.

    python benchmarks/hospital.py [--patients 1000 10000 100000] [--workdir DIR] [--seed N]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """One hospital: patients, rows of all tables, seconds, peak bytes, bytes of its files."""

    patients: int
    rows: int
    seconds: float
    peak: int
    size: int

    def __str__(self) -> str:
        return (
            f"{self.patients:>9,} patients, {self.rows:>11,} rows in {self.seconds:6.1f} s "
            f"({self.patients / self.seconds:,.0f} patients/s, "
            f"{self.rows / self.seconds:,.0f} rows/s), peak {self.peak / 1e6:,.0f} MB, "
            f"files {self.size / 1e6:,.0f} MB"
        )


def generate(dest: Path, patients: int, seed: int, notes: bool) -> Run:
    """Generate and measure; called in a fresh process, whose memory is all the generator's."""
    began = time.perf_counter()
    from wardround.sources.hospital import generate_hospital

    made = generate_hospital(dest, patients=patients, seed=seed, notes=notes)
    seconds = time.perf_counter() - began
    size = sum(path.stat().st_size for path in dest.rglob("*") if path.is_file())
    return Run(patients, made.rows, seconds, peak_memory(), size)


def peak_memory() -> int:
    """Bytes that this process held at most (Linux). getrusage would count the parent's as well."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def compare(before: Run, after: Run) -> str:
    """How time and memory grow from one size to a larger one."""
    added = (after.patients - before.patients) / (after.seconds - before.seconds)
    return (
        f"  {after.patients / before.patients:.1f} times the patients: "
        f"time x {after.seconds / before.seconds:.1f}, "
        f"peak memory x {after.peak / before.peak:.2f}; {added:,.0f} patients/s of those added"
    )


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--notes", action="store_true", help="write notes, too")
    parser.add_argument("--workdir", type=Path, help="where hospitals are written, and removed")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores", flush=True)
    before = None
    for patients in sorted(set(options.patients)):
        with (
            tempfile.TemporaryDirectory(dir=options.workdir) as folder,
            multiprocessing.get_context("spawn").Pool(1) as pool,
        ):
            given = (Path(folder) / "hospital", patients, options.seed, options.notes)
            run = pool.apply(generate, given)
        print(run, flush=True)
        if before is not None:
            print(compare(before, run), flush=True)
        before = run


if __name__ == "__main__":
    main()
