"""Generating a hospital: chunks of patients into the files of MIMIC-IV."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from wardround import __version__
from wardround.errors import WardroundError
from wardround.progress import track
from wardround.sources.hospital import oracle
from wardround.sources.hospital.catalogue import load_catalogue
from wardround.sources.hospital.chunk import CHUNK, Chunk
from wardround.sources.hospital.codes import diagnosis_titles, procedure_titles
from wardround.sources.hospital.dictionaries import CHARTS, LABS, OTHER_ITEMS, RARE_LABS
from wardround.sources.hospital.ed import write_ed
from wardround.sources.hospital.files import TableFiles
from wardround.sources.hospital.hosp import provider_ids, write_hosp
from wardround.sources.hospital.icu import CAREGIVERS, write_icu
from wardround.sources.hospital.laboratory import write_laboratory
from wardround.sources.hospital.notes import write_notes
from wardround.store import atomic_write

#: Tells `ingest` what the folder is, and people who open it.
MARK = "SYNTHETIC.json"
WRITERS: tuple[Callable[[Chunk, TableFiles], None], ...] = (
    write_hosp,
    write_laboratory,
    write_icu,
    write_ed,
)
ORACLE: dict[str, Callable[[Chunk], pl.DataFrame]] = {
    "visits": oracle.visit_risks,
    "patients": oracle.patient_states,
    "edge_cases": oracle.edge_cases,
}


@dataclass(frozen=True)
class HospitalSummary:
    """How large a generated hospital is."""

    patients: int
    ed_stays: int
    hospital_stays: int
    icu_stays: int
    rows: int

    def __str__(self) -> str:
        return (
            f"{self.patients:,} patients, {self.ed_stays:,} ED, {self.hospital_stays:,} hospital "
            f"and {self.icu_stays:,} ICU stays, {self.rows:,} rows"
        )


def generate_hospital(
    dest: Path,
    *,
    patients: int,
    seed: int = 0,
    overwrite: bool = False,
    notes: bool = True,
    note_length: float = 1.0,
) -> HospitalSummary:
    """Write a synthetic hospital in MIMIC-IV v3.1's file formats.

    `dest` receives `hosp/`, `icu/`, `ed/` and `note/` with one `.csv.gz` a table,
    `SYNTHETIC.json`, and `oracle/` with the true risks (never part of a patient store). Patients
    are drawn in chunks, so memory does not grow with them, and the first ones are the same in a
    smaller hospital of the same seed when both are whole chunks.

    Args:
        dest: folder to make. It appears when it is complete.
        patients: how many.
        seed: same seed, same bytes.
        overwrite: replace what stands there.
        notes: write discharge summaries and radiology reports, too. No other file changes by it.
        note_length: factor on the length of summaries; at 1 half have more than about 1,100 words.

    Raises:
        WardroundError: `dest` exists; with `overwrite`, it is no synthetic hospital.
    """
    if patients < 1:
        raise WardroundError(f"patients must be 1 or more, got {patients}")
    if seed < 0:
        raise WardroundError(f"seed must be 0 or more, got {seed}")
    if not 0 < note_length <= 10:
        raise WardroundError(f"note_length must be above 0 and at most 10, got {note_length}")
    if dest.exists() and not overwrite:
        raise WardroundError(f"{dest} exists; choose another folder, or pass --force to replace it")
    if dest.is_file() or (dest.is_dir() and any(dest.iterdir()) and not (dest / MARK).is_file()):
        raise WardroundError(f"{dest} holds something else than a synthetic hospital; remove it")
    catalogue = load_catalogue()
    with atomic_write(dest) as folder:
        folder.mkdir()
        (folder / "oracle").mkdir()
        writers: dict[str, pq.ParquetWriter] = {}
        try:
            with TableFiles(folder, notes) as out:
                _write_dictionaries(out)
                for number in track(range(-(-patients // CHUNK)), "hospital"):
                    count = min(CHUNK, patients - number * CHUNK)
                    chunk = Chunk.draw(catalogue, seed, number, count)
                    for write in WRITERS:
                        write(chunk, out)
                    if notes:
                        mentions = write_notes(chunk, out, note_length)
                        _append(writers, "mentions", mentions.to_arrow(), folder / "oracle")
                    for name, make in ORACLE.items():
                        _append(writers, name, make(chunk).to_arrow(), folder / "oracle")
        finally:
            for writer in writers.values():
                writer.close()
        summary = HospitalSummary(
            patients=patients,
            ed_stays=out.rows["ed/edstays"],
            hospital_stays=out.rows["hosp/admissions"],
            icu_stays=out.rows["icu/icustays"],
            rows=sum(out.rows.values()),
        )
        about = {
            "what": "A synthetic hospital in MIMIC-IV's file formats. No patient in it exists.",
            "generator": f"wardround {__version__}",
            "mimic_iv_version": "3.1",
            "mimic_iv_ed_version": "2.2",
            **({"mimic_iv_note_version": "2.2", "note_length": note_length} if notes else {}),
            "patients": patients,
            "seed": seed,
            "rows": out.rows,
        }
        (folder / MARK).write_text(json.dumps(about, indent=1))
    return summary


def _append(writers: dict[str, pq.ParquetWriter], name: str, table: pa.Table, folder: Path) -> None:
    if name not in writers:
        writers[name] = pq.ParquetWriter(folder / f"{name}.parquet", table.schema)
    writers[name].write_table(table)


def _write_dictionaries(out: TableFiles) -> None:
    """The d_* tables, providers and caregivers: the same in every hospital."""
    out.write("hosp/d_icd_diagnoses", diagnosis_titles())
    out.write("hosp/d_icd_procedures", procedure_titles())
    labs = [
        (lab.itemid, lab.label, lab.fluid, lab.category) for lab in [*LABS.values(), *RARE_LABS]
    ]
    schema = ["itemid", "label", "fluid", "category"]
    out.write("hosp/d_labitems", pl.DataFrame(sorted(labs), schema=schema, orient="row"))
    out.write(
        "hosp/d_hcpcs",
        pl.DataFrame(
            {
                "code": ["G0378"],
                "long_description": ["Hospital observation service, per hour"],
                "short_description": ["Hospital observation per hr"],
            }
        ),
    )
    out.write("hosp/provider", pl.DataFrame({"provider_id": sorted(provider_ids())}))
    out.write("icu/caregiver", pl.DataFrame({"caregiver_id": range(1_000, 1_000 + CAREGIVERS)}))
    items = OTHER_ITEMS + [
        (c.itemid, c.label, c.abbreviation, "chartevents", c.category, c.unit, "Numeric")
        for c in CHARTS
    ]
    schema = ["itemid", "label", "abbreviation", "linksto", "category", "unitname", "param_type"]
    out.write("icu/d_items", pl.DataFrame(sorted(items), schema=schema, orient="row"))
