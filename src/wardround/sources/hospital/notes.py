"""The files of MIMIC-IV-Note, and where in them which code is mentioned."""

from __future__ import annotations

import random

import numpy as np
import polars as pl

from wardround.sources.hospital.cases import Case, cases
from wardround.sources.hospital.chunk import Chunk, stamp
from wardround.sources.hospital.discharge import Writer, manner, settle
from wardround.sources.hospital.encounters import HOUR
from wardround.sources.hospital.files import TableFiles
from wardround.sources.hospital.page import Page
from wardround.sources.hospital.population import DAY
from wardround.sources.hospital.radiology import report
from wardround.sources.hospital.wording import phrases

#: Share of admissions with a summary, and of exams of an encounter's kind that are made.
SUMMARISED = 0.97
EXAMINED = {"home": 0.55, "admitted": 0.75}
#: Share of reports with an addendum.
AMENDED = 0.03
#: Characters of a line, at most, where a space lets it break.
WIDTH = 72
MENTIONS = {
    "note_id": pl.String,
    "subject_id": pl.Int64,
    "hadm_id": pl.Int64,
    "kind": pl.String,
    "code": pl.String,
    "icd_version": pl.Int64,
    "start": pl.Int64,
    "stop": pl.Int64,
    "status": pl.String,
    "evidence": pl.Boolean,
    "coded": pl.Boolean,
    "mention": pl.String,
}


class _Notes:
    """Rows of notes of one table, and the mentions in them."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, int | None, str, int]] = []
        self.texts: list[str] = []
        self.times: list[float] = []
        self.stored: list[float] = []
        self.details: list[tuple[str, int, str, str, int]] = []
        self.found: list[tuple[object, ...]] = []

    def add(self, case: Case, kind: str, seq: int, at: float, stored: float, page: Page) -> str:
        note_id = f"{case.subject_id}-{kind}-{seq}"
        self.rows.append((note_id, case.subject_id, case.hadm_id, kind, seq))
        text = wrap(page.text)
        self.texts.append(text)
        self.times.append(at)
        self.stored.append(stored)
        for m in page.mentions:
            listed = (m.kind, m.code) in case.coded
            self.found.append(
                (note_id, case.subject_id, case.hadm_id, m.kind, m.code, case.version, m.start,
                 m.stop, m.status, m.evidence, listed, text[m.start : m.stop])
            )  # fmt: skip
        return note_id

    def detail(self, note_id: str, case: Case, name: str, value: str, ordinal: int = 1) -> None:
        self.details.append((note_id, case.subject_id, name, value, ordinal))

    def frames(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The notes and their details."""
        columns = {
            "note_id": pl.String,
            "subject_id": pl.Int64,
            "hadm_id": pl.Int64,
            "note_type": pl.String,
            "note_seq": pl.Int64,
        }
        frame = pl.DataFrame(self.rows, schema=columns, orient="row").with_columns(
            charttime=stamp(np.array(self.times, float)),
            storetime=stamp(np.array(self.stored, float)),
            text=pl.Series(self.texts, dtype=pl.String),
        )
        details = {
            "note_id": pl.String,
            "subject_id": pl.Int64,
            "field_name": pl.String,
            "field_value": pl.String,
            "field_ordinal": pl.Int64,
        }
        return frame, pl.DataFrame(self.details, schema=details, orient="row")

    def mentions(self) -> pl.DataFrame:
        """Every mention, in the order of the texts."""
        return pl.DataFrame(self.found, schema=MENTIONS, orient="row")


def wrap(text: str) -> str:
    """Break long lines: spaces become line ends, so that every character keeps its place."""
    return "\n".join([line if len(line) <= WIDTH else _broken(line) for line in text.split("\n")])


def _broken(line: str) -> str:
    pieces, start = [], 0
    while len(line) - start > WIDTH:
        at = line.rfind(" ", start + 1, start + WIDTH + 1)
        if at < 0:
            break
        pieces.append(line[start:at])
        start = at + 1
    return "\n".join([*pieces, line[start:]])


def write_notes(chunk: Chunk, out: TableFiles, length: float = 1.0) -> pl.DataFrame:
    """Append the chunk's notes to the module's files.

    Args:
        chunk: whose encounters are written about.
        out: files opened with those of the notes.
        length: factor on the length of notes; at 1, half of the summaries have more than about
            1,100 words.

    Returns:
        The mentions (columns of `MENTIONS`), `start` and `stop` in characters of the text as read
        from its file.
    """
    summaries, reports = _Notes(), _Notes()
    seeds = chunk.rng("notes of patients").integers(0, 2**62, len(chunk.patients)).tolist()
    exams, e = phrases().exams, chunk.encounters
    patient, writer, told, filmed = -1, None, 0, 0
    for case in cases(chunk, length):
        if case.patient != patient or writer is None:
            patient = case.patient
            writer = Writer(chunk.catalogue, random.Random(seeds[patient]).random)
            told = filmed = 1
        r, row, admitted = writer.r, case.row, case.hadm_id is not None
        said = settle(case, r)
        share = EXAMINED["admitted" if admitted else "home"]
        kinds = [kind for kind in manner(case.acute).exams if r() < share]
        if admitted and r() < (0.8 if case.icu else 0.2):
            kinds += ["chest"] * (1 + int(2 * r() * case.icu))
        ends = float(e.discharge[row] if admitted else e.leave[row])
        begins = float(e.start[row])
        times = sorted(begins + (0.02 + 0.93 * r() ** 2) * (ends - begins) for _ in kinds)
        for kind, at in zip(kinds, times, strict=True):
            exam = exams[kind]
            page, impression, name = report(writer, case, kind, exam)
            case.films.append(impression)
            stored = at + (0.4 + 20 * r() ** 3) * HOUR
            note_id = reports.add(case, "RR", filmed, at, stored, page)
            reports.detail(note_id, case, "exam_code", exam.code)
            reports.detail(note_id, case, "exam_name", name)
            reports.detail(note_id, case, "cpt_code", exam.cpt)
            filmed += 1 + int(2 * r())
            if r() < AMENDED:
                more = Page(r, case.female)
                more.say("ADDENDUM:\n\nThe findings were discussed with ___, M.D. by telephone.\n")
                other = reports.add(case, "AR", filmed, at, stored + 2 * HOUR, more)
                reports.detail(note_id, case, "addendum_note_id", other)
                reports.detail(other, case, "parent_note_id", note_id)
                filmed += 1
        if admitted and r() < SUMMARISED:
            page = writer.discharge(case, said)
            day = float(np.floor(e.discharge[row] / DAY) * DAY)
            stored = float(e.discharge[row]) + (1 + 96 * r() ** 4) * HOUR
            told += 1 + int(3 * r())
            note_id = summaries.add(case, "DS", told, day, stored, page)
            summaries.detail(note_id, case, "author", "___")
    mentions = []
    for name, notes in (("discharge", summaries), ("radiology", reports)):
        frame, details = notes.frames()
        out.write(f"note/{name}", frame)
        out.write(f"note/{name}_detail", details)
        mentions.append(notes.mentions())
    return pl.concat(mentions)
