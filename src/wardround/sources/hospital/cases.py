"""What notes are written from: the tables and latent states of each encounter, brought together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import polars as pl

from wardround.ontology import CodeKind
from wardround.sources.hospital.catalogue import Catalogue, Condition
from wardround.sources.hospital.chunk import Chunk
from wardround.sources.hospital.dictionaries import LABS, RARE_LABS
from wardround.sources.hospital.ed import triage
from wardround.sources.hospital.hosp import SERVICE, admissions, diagnoses, prescribed, procedures
from wardround.sources.hospital.laboratory import labevents, microbiologyevents
from wardround.sources.hospital.measure import draw_vitals
from wardround.sources.hospital.page import Passage
from wardround.sources.hospital.wording import phrases

#: How a frequency is written.
TIMES = {1: "DAILY", 2: "BID", 3: "TID", 4: "QID"}
#: Mean and standard deviation of the logarithm of how much an author writes.
LENGTHS = (0.25, 0.62)
#: Of the chronic conditions and rare ones that no coder listed, how many a note names.
UNCODED = 0.4
#: Of the coded conditions: never mentioned; shown by drugs and results alone (where it can be).
#: The reason for the stay is seldom left out.
SILENT, EVIDENT, SILENT_REASON = 0.056, 0.06, 0.012


@dataclass(eq=False, slots=True)
class Problem:
    """A code that a note is to mention.

    Attributes:
        condition: of the catalogue; None for the long tail.
        sort: acute | chronic | rare | procedure.
        evidence: it is shown, not named.
        surface: how an earlier note of this patient named it.
    """

    kind: CodeKind
    code: str
    sort: str
    condition: Condition | None = None
    evidence: bool = False
    surface: str | None = None


@dataclass(slots=True)
class Memory:
    """What earlier notes of a patient said.

    Attributes:
        surfaces: how a code was named in the list of past conditions.
        past: acute conditions of earlier admissions, by name.
        surgeries: operations before the records.
        family: conditions of relatives.
        blocks: whole sections that may be copied.
        course: what the last stay's main problem was, and its passage.
    """

    surfaces: dict[str, str] = field(default_factory=dict)
    past: dict[str, Condition] = field(default_factory=dict)
    surgeries: list[Condition] | None = None
    family: list[Condition] | None = None
    blocks: dict[str, Passage] = field(default_factory=dict)
    course: tuple[Condition, Passage] | None = None


@dataclass(slots=True)
class Case:
    """One encounter. Of a visit that ended in the ED, `hadm_id` is None and tables are empty."""

    row: int
    patient: int
    subject_id: int
    hadm_id: int | None
    version: int
    female: bool
    acute: Condition
    chronic: list[Condition]
    complaint: str
    verbosity: float
    coded: set[tuple[CodeKind, str]]
    problems: list[Problem] = field(default_factory=list)
    silent: set[str] = field(default_factory=set)
    blocked: set[str] = field(default_factory=set)
    service: str = "MEDICINE"
    goes: str = "HOME"
    died: bool = False
    icu: bool = False
    vitals: str | None = None
    exam: tuple[str, str] = ("", "")
    drugs: list[tuple[str, str, bool]] = field(default_factory=list)
    results: dict[str, str] = field(default_factory=dict)
    draws: list[str] = field(default_factory=list)
    abnormal: str | None = None
    cultures: list[str] = field(default_factory=list)
    films: list[Passage] = field(default_factory=list)

    def codes(self, condition: Condition) -> list[str]:
        """A condition's codes in the version of the day."""
        return condition.icd9 if self.version == 9 else condition.icd10

    def operations(self, condition: Condition) -> list[str]:
        """A condition's procedure codes in the version of the day."""
        return condition.procedures9 if self.version == 9 else condition.procedures10


SERVICES = {
    "MED": "MEDICINE",
    "CMED": "CARDIOLOGY",
    "SURG": "SURGERY",
    "TRAUM": "TRAUMA",
    "CSURG": "CARDIOTHORACIC",
    "NMED": "NEUROLOGY",
    "PSYCH": "PSYCHIATRY",
}


@cache
def _short_names() -> dict[int, str]:
    names = phrases().lab_names
    return {
        lab.itemid: names.get(lab.label, lab.label.replace(", ", "-").replace(" ", ""))
        for lab in [*LABS.values(), *RARE_LABS]
    }


def _lists(frame: pl.DataFrame, column: str) -> dict[int, list[str]]:
    """Values of a column by admission."""
    grouped = frame.group_by("hadm_id", maintain_order=True).agg(column)
    return dict(zip(grouped["hadm_id"], grouped[column].to_list(), strict=True))


def _blood(chunk: Chunk) -> tuple[dict[int, list[str]], dict[int, str], dict[int, dict[str, str]]]:
    """By admission: a line for each sample, what was abnormal at first, first results by name."""
    fluid = {lab.itemid: lab.fluid.upper() for lab in [*LABS.values(), *RARE_LABS]}
    rows = (
        labevents(chunk)
        .filter(pl.col("hadm_id").is_not_null() & pl.col("valuenum").is_not_null())
        .select("hadm_id", "charttime", "itemid", "value", "flag")
        .unique(["hadm_id", "charttime", "itemid"], keep="first", maintain_order=True)
        .sort("hadm_id", "charttime", maintain_order=True)
        .with_columns(
            short=pl.col("itemid").replace_strict(_short_names(), return_dtype=pl.String),
            fluid=pl.col("itemid").replace_strict(fluid, return_dtype=pl.String),
            star=pl.when(pl.col("flag").is_null()).then(pl.lit("")).otherwise(pl.lit("*")),
        )
    )
    lines = (
        rows.with_columns(item=pl.format("{}-{}{}", "short", "value", "star"))
        .group_by("hadm_id", "charttime", "fluid", maintain_order=True)
        .agg(pl.col("item").str.join(" "))
        .select(
            "hadm_id",
            line=pl.format(
                "___ {} {} {}", pl.col("charttime").dt.strftime("%I:%M%p"), "fluid", "item"
            ),
        )
    )
    odd = (
        rows.filter(pl.col("flag").is_not_null())
        .with_columns(item=pl.format("{} {}", "short", "value"))
        .group_by("hadm_id", maintain_order=True)
        .agg(pl.col("item").head(4).str.join(", "))
    )
    names = {lab.itemid: name for name, lab in LABS.items()}
    first = rows.filter(pl.col("itemid").is_in(list(names))).unique(
        ["hadm_id", "itemid"], keep="first", maintain_order=True
    )
    results: dict[int, dict[str, str]] = {}
    for hadm_id, itemid, value in first.select("hadm_id", "itemid", "value").iter_rows():
        results.setdefault(hadm_id, {})[names[itemid]] = value
    return _lists(lines, "line"), dict(odd.iter_rows()), results


def _cultures(chunk: Chunk) -> dict[int, list[str]]:
    rows = (
        microbiologyevents(chunk)
        .filter(pl.col("hadm_id").is_not_null())
        .group_by("hadm_id", "micro_specimen_id", maintain_order=True)
        .agg(
            pl.col("test_name", "org_name", "comments").first(),
            sensitive=pl.col("ab_name").filter(pl.col("interpretation") == "S").str.join(", "),
        )
    )
    grown = pl.format("{}. SENSITIVE TO: {}.", "org_name", "sensitive")
    line = pl.format("{} (Final ___): {}", "test_name", pl.coalesce(grown, "comments"))
    return _lists(rows.select("hadm_id", line=line.fill_null("CULTURE: ___")), "line")


def _drugs(chunk: Chunk) -> dict[int, list[tuple[str, str, bool]]]:
    """By admission: each drug, how it is written, and whether somebody could take it at home."""
    frame = prescribed(chunk).with_columns(
        line=pl.format(
            "{} {} {} {} {}", "drug", "dose", "dose_unit", "route",
            pl.col("times").replace_strict(TIMES, return_dtype=pl.String),
        ).fill_null(pl.col("drug")),
        home=~pl.col("route").str.contains("IV|SC|IM|DRIP"),
    )  # fmt: skip
    drugs: dict[int, list[tuple[str, str, bool]]] = {}
    for hadm_id, *rest in frame.select("hadm_id", "drug", "line", "home").iter_rows():
        drugs.setdefault(hadm_id, []).append(tuple(rest))
    return drugs


def _written(values: Mapping[str, np.ndarray]) -> list[str]:
    """Vital signs as one line each."""
    columns = (
        values[n].tolist() for n in ("temperature", "heartrate", "sbp", "dbp", "resprate", "o2sat")
    )
    return [
        f"T {t:.1f} HR {h:.0f} BP {s:.0f}/{d:.0f} RR {r:.0f} O2 sat {o:.0f}% RA"
        for t, h, s, d, r, o in zip(*columns, strict=True)
    ]


def _triage(chunk: Chunk) -> dict[int, tuple[str | None, str]]:
    """Vital signs and complaint by ED stay."""
    found = {}
    columns = ["stay_id", "temperature", "heartrate", "sbp", "dbp", "resprate", "o2sat"]
    for stay, t, h, s, d, r, o, said in (
        triage(chunk).select(*columns, "chiefcomplaint").iter_rows()
    ):
        signs = [
            f"{label} {value:g}"
            for label, value in (("T", t), ("HR", h), ("RR", r), ("O2", o))
            if value is not None
        ]
        if s is not None and d is not None:
            signs.insert(min(2, len(signs)), f"BP {s:.0f}/{d:.0f}")
        found[stay] = (", ".join(signs) or None, said)
    return found


def cases(chunk: Chunk, length: float) -> Iterator[Case]:
    """Every encounter of a chunk, in the order of (patient, start).

    Args:
        chunk: whose tables and states to bring together.
        length: factor on how long notes are.
    """
    e, catalogue = chunk.encounters, chunk.catalogue
    everything = np.arange(len(chunk))
    rng = chunk.rng("note")
    verbosity = length * np.exp(rng.normal(*LENGTHS, len(chunk)))
    ends = np.where(e.admitted, e.discharge - 3600, e.leave)
    exams = []
    for at in (e.start, ends):
        severity = chunk.severity(everything, at)
        signs = draw_vitals(rng, chunk.vital_shifts(everything, severity), severity)
        exams.append(_written(signs))
    draws, abnormal, results = _blood(chunk)
    cultures, drugs, seen = _cultures(chunk), _drugs(chunk), _triage(chunk)
    coded: dict[int, list[tuple[CodeKind, str]]] = {}
    for frame, kind in ((diagnoses(chunk), "diagnosis"), (procedures(chunk), "procedure")):
        for hadm_id, code in frame.select("hadm_id", "icd_code").iter_rows():
            coded.setdefault(hadm_id, []).append((kind, code))  # type: ignore[arg-type]
    goes = dict(admissions(chunk).select("hadm_id", "discharge_location").iter_rows())
    hadm_ids, wards = chunk.hadm_id.to_list(), chunk.ward.tolist()
    version, subject = chunk.icd_version.tolist(), chunk.subject_id.tolist()
    stays, visit = chunk.ed_stay_id.tolist(), chunk.visit.tolist()
    female = chunk.patients.female[e.patient].tolist()
    for row, patient in enumerate(e.patient.tolist()):
        hadm_id = hadm_ids[row]
        acute = catalogue.acute[e.acute[row]]
        vitals, said = seen[stays[row]] if visit[row] else (None, acute.phrases[0])
        case = Case(
            row=row,
            patient=patient,
            subject_id=subject[row],
            hadm_id=hadm_id,
            version=version[row],
            female=female[row],
            acute=acute,
            chronic=[catalogue.chronic[c] for c in np.flatnonzero(e.chronic[row])],
            complaint=said,
            verbosity=float(verbosity[row]),
            coded=set(coded.get(hadm_id, ())) if hadm_id is not None else set(),
            vitals=vitals,
            exam=(exams[0][row], exams[1][row]),
        )
        if hadm_id is not None:
            case.problems = _problems(catalogue, case, coded.get(hadm_id, []))
            case.service = SERVICES.get(SERVICE.get(wards[row], "MED"), "MEDICINE")
            case.goes, case.died = goes[hadm_id], bool(e.died[row])
            case.icu = bool(e.icu_in[row] > 0)
            case.drugs, case.results = drugs.get(hadm_id, []), results.get(hadm_id, {})
            case.draws, case.abnormal = draws.get(hadm_id, []), abnormal.get(hadm_id)
            case.cultures = cultures.get(hadm_id, [])
        yield case


def _problems(catalogue: Catalogue, case: Case, coded: list[tuple[CodeKind, str]]) -> list[Problem]:
    """The coded conditions and procedures, each with the state that it came from."""
    own = set(case.codes(case.acute))
    lasting = {code: condition for condition in case.chronic for code in case.codes(condition)}
    problems = []
    for kind, code in coded:
        if kind == "procedure":
            problems.append(Problem(kind, code, "procedure"))
        elif code in own:
            problems.append(Problem(kind, code, "acute", case.acute))
            own = set()
        elif code in lasting:
            problems.append(Problem(kind, code, "chronic", lasting[code]))
        else:
            problems.append(Problem(kind, code, "rare"))
    return problems
