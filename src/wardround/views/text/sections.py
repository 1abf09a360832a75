"""The sections of a clinical note, with character offsets into its text.

Made for the discharge summaries and radiology reports of MIMIC-IV-Note, whose headings stand at the
start of a line and end in a colon, in an order that varies, and for notes of other sources with
headings of their own line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import polars as pl


class Section(NamedTuple):
    """A part of a note. Offsets count characters of the text, as Python's slices do.

    Attributes:
        name: canonical, such as `chief_complaint`; `other` for a heading that is not known, `body`
            for a note without any.
        title: the heading as written, without its colon; empty for `body`.
        start, stop: `text[start:stop]` is the section with its heading.
        body_start: where the text after the heading begins; `stop` where there is none.
    """

    name: str
    title: str
    start: int
    stop: int
    body_start: int

    def body(self, text: str) -> str:
        """The section without its heading and the white space around."""
        return text[self.body_start : self.stop].rstrip()


#: Titles by canonical name, in small letters and without punctuation.
TITLES: dict[str, tuple[str, ...]] = {
    # The head of a summary.
    "name": ("name", "patient name"),
    "unit_no": ("unit no", "unit number", "medical record number", "mrn"),
    "admission_date": ("admission date", "date of admission", "admit date"),
    "discharge_date": ("discharge date", "date of discharge"),
    "date_of_birth": ("date of birth", "dob", "birth date"),
    "sex": ("sex", "gender"),
    "service": ("service",),
    "allergies": (
        *(
            "allergies",
            "allergy",
            "allergies adverse drug reactions",
            "allergies adverse reactions",
        ),
        *("drug allergies", "known allergies", "medication allergies"),
    ),
    "attending": ("attending", "attending physician", "attending md"),
    # Why they came.
    "chief_complaint": (
        *("chief complaint", "chief complaints", "cc", "presenting complaint", "reason for visit"),
        *("reason for admission", "chief complaint reason for admission"),
    ),
    "major_procedure": (
        *("major surgical or invasive procedure", "major surgical or invasive procedures"),
        *("major surgical and invasive procedures", "major surgical invasive procedure"),
        *("major procedures", "major procedure", "surgical or invasive procedures"),
    ),
    "history_of_present_illness": (
        *("history of present illness", "history of the present illness", "hpi"),
        *("history of presenting illness", "history of present ilness", "present illness"),
        *("history of present complaint", "interval history", "hospital presentation"),
    ),
    "review_of_systems": ("review of systems", "review of symptoms", "ros"),
    "past_medical_history": (
        *("past medical history", "pmh", "pmhx", "past history", "medical history", "pmh psh"),
        *("past medical and surgical history", "past medical surgical history", "pmhx pshx"),
        *("past medical history past surgical history", "past medical hx", "prior medical history"),
        *("pastmedicalhx", "past medical history including"),
    ),
    "past_surgical_history": (
        *("past surgical history", "psh", "pshx", "surgical history", "past surgical hx"),
        "prior surgeries",
    ),
    "social_history": ("social history", "sh", "shx", "soc hx", "social hx", "social"),
    "family_history": ("family history", "fh", "fhx", "fam hx", "family hx", "fam history"),
    # What was found.
    "physical_exam": (
        *("physical exam", "physical examination", "pe", "px", "phys exam", "physical"),
        *("physical exam on admission and discharge", "physical exams"),
    ),
    "pertinent_results": (
        *("pertinent results", "pertinent result", "results", "pertinent labs", "relevant results"),
        *("pertinent laboratory results", "pertinent studies", "pertinent labs and studies"),
        *("laboratory data", "data"),
    ),
    # What was done.
    "brief_hospital_course": (
        *("brief hospital course", "hospital course", "summary of hospital course", "bhc"),
        *("brief summary of hospital course", "brief course", "brief hospital summary"),
        *("hospital course by problem", "hospital course by system", "hospital course by systems"),
        "concise summary of hospital course",
    ),
    "medications_on_admission": (
        *("medications on admission", "admission medications", "home medications", "home meds"),
        *("meds on admission", "preadmission medications", "medications prior to admission"),
        *("preadmission medication list", "medication on admission", "medications at home"),
        *("outpatient medications", "admission meds"),
    ),
    "medications": ("medications", "meds", "current medications", "current meds"),
    # How they left.
    "discharge_medications": (
        *("discharge medications", "discharge meds", "medications on discharge"),
        *("medications at discharge", "discharge medication", "meds on discharge"),
        *("discharge medication list", "medications upon discharge"),
    ),
    "discharge_disposition": ("discharge disposition", "disposition", "dispo"),
    "facility": ("facility",),
    "discharge_diagnosis": (
        *("discharge diagnosis", "discharge diagnoses", "final diagnosis", "final diagnoses"),
        *("discharge dx", "diagnoses at discharge", "diagnosis at discharge", "diagnoses"),
        "diagnosis",
    ),
    "discharge_condition": (
        *("discharge condition", "condition at discharge", "condition on discharge"),
        *("discharge conditions", "condition upon discharge"),
    ),
    "discharge_instructions": (
        *("discharge instructions", "discharge instruction", "patient instructions"),
        *("instructions", "instructions to patient", "discharge instructions to patient"),
    ),
    "followup_instructions": (
        *("followup instructions", "follow up instructions", "follow up", "followup"),
        *("recommended follow up", "recommended followup", "follow up appointments"),
        *("followup appointments", "follow up plans", "follow up instruction"),
    ),
    # Of a visit.
    "assessment_and_plan": (
        *("assessment and plan", "assessment plan", "a p", "assessment plans"),
        *("assessment and plans", "impression and plan", "assessment and recommendations"),
    ),
    "assessment": ("assessment",),
    "plan": ("plan", "plans", "plan of care"),
}

#: Titles that stand inside of a section, by the name of that section and their own. There they are
#: part of its body; elsewhere, alone on a line, they begin a section of their own.
MINOR_TITLES: dict[str, dict[str, tuple[str, ...]]] = {
    "physical_exam": {
        "vital_signs": ("vital signs", "vitals", "vs", "vitals reviewed", "vital sign"),
        "admission_exam": (
            *("admission physical exam", "admission exam", "physical exam on admission"),
            *("admission physical examination", "exam on admission", "on admission"),
            *("physical exam at admission", "physical examination on admission", "admission pe"),
            *("admission physical", "pe on admission", "initial exam"),
        ),
        "discharge_exam": (
            *("discharge physical exam", "discharge exam", "physical exam on discharge"),
            *("discharge physical examination", "exam on discharge", "on discharge"),
            *("physical exam at discharge", "physical examination on discharge", "discharge pe"),
            *("discharge physical", "pe on discharge", "physical exam upon discharge"),
        ),
    },
    "pertinent_results": {
        "admission_labs": (
            *("admission labs", "labs on admission", "admission laboratory data"),
            *("admission laboratory results", "laboratory data on admission", "on admission labs"),
            *("initial labs", "labs at admission", "admission results", "admit labs"),
        ),
        "interval_labs": ("interval labs", "pertinent interval labs", "other labs", "trended labs"),
        "discharge_labs": (
            *("discharge labs", "labs on discharge", "discharge laboratory data"),
            *("labs at discharge", "discharge laboratory results", "discharge results"),
        ),
        "labs": ("labs", "laboratory studies", "laboratory results", "lab results", "laboratories"),
        "microbiology": ("microbiology", "micro", "micro data", "microbiology data", "cultures"),
        "imaging": ("imaging", "imaging studies", "radiology", "images", "relevant imaging"),
        "studies": ("studies", "other studies", "reports", "procedures and studies"),
        "pathology": ("pathology", "path"),
    },
    "brief_hospital_course": {
        "summary": ("brief summary", "summary", "summary statement"),
        "acute_issues": ("acute issues", "active issues", "acute active issues", "active problems"),
        "chronic_issues": ("chronic issues", "chronic stable issues", "chronic inactive issues"),
        "transitional_issues": ("transitional issues", "transitional issue", "transitions of care"),
    },
    "discharge_diagnosis": {
        "primary_diagnosis": ("primary diagnosis", "primary diagnoses", "primary", "principal"),
        "secondary_diagnosis": ("secondary diagnosis", "secondary diagnoses", "secondary"),
    },
    "discharge_condition": {
        "mental_status": ("mental status",),
        "level_of_consciousness": ("level of consciousness",),
        "activity_status": ("activity status",),
    },
}

#: Titles of a radiology report. Where one was pasted into another note, they are part of the
#: section that it was pasted into.
REPORT_TITLES: dict[str, tuple[str, ...]] = {
    "examination": ("examination", "exam", "study", "type of examination", "procedure performed"),
    "indication": (
        *("indication", "indications", "reason for exam", "reason for examination", "history"),
        *("clinical history", "clinical information", "clinical indication", "reason for study"),
        *("history and indication", "indication and history", "reason", "clinical data"),
    ),
    "technique": ("technique", "techniques", "protocol"),
    "comparison": ("comparison", "comparisons", "comparison studies"),
    "findings": ("findings", "finding", "report", "comment"),
    "impression": ("impression", "impressions", "conclusion", "conclusions", "opinion"),
    "procedure": ("procedure", "procedures", "procedure details"),
    "dose": ("dose", "radiation dose", "dose report"),
    "notification": ("notification", "notifications"),
    "recommendation": ("recommendation", "recommendations", "recommendation s"),
    "wet_read": ("wet read", "wet reading", "preliminary report"),
    "final_report": ("final report",),
    "addendum": ("addendum",),
}
#: Titles of a report that mean the physical examination in any other note.
_EXAMS = {"exam", "examination"}


class _Heading(NamedTuple):
    """What a title says: a name, and the section inside of which it is minor ("" for none)."""

    name: str
    inside: str
    of_report: bool


def _headings() -> dict[str, _Heading]:
    found: dict[str, _Heading] = {}
    for name, titles in TITLES.items():
        found |= {title: _Heading(name, "", False) for title in titles}
    for parent, parts in MINOR_TITLES.items():
        for name, titles in parts.items():
            found |= {title: _Heading(name, parent, False) for title in titles}
    for name, titles in REPORT_TITLES.items():
        found |= {title: _Heading(name, "", True) for title in titles}
    return found


HEADINGS = _headings()
NAMES = tuple(dict.fromkeys(heading.name for heading in HEADINGS.values()))

# A line that may be a heading: it begins with a letter (or a de-identification blank) and has a
# colon within 60 characters, or is no longer than that. The literal line end lets the search skip
# from line to line.
_LINE = re.compile(r"\n[ \t]*([A-Za-z_][^:\n]{1,60}+)(:|(?=\n|\Z))")
# The second field of a line of a summary's head, and the first fields that it may follow.
_SECOND = re.compile(r"[ \t]{2,}((?:Unit No|Discharge Date|Sex)[ \t]*):", re.IGNORECASE)
_FIRST = {"name", "admission_date", "date_of_birth"}
_NOT_SPACE = re.compile(r"\S")
_PUNCTUATION = re.compile(r"[^a-z0-9]+")
_SMALL = r"(?:of|and|or|the|to|on|in|for|with|by|at|a|an|per|from|s)"
_UNKNOWN = re.compile(
    rf"[A-Z][\w'’()&/.,#+-]*(?:[ ]+(?:[A-Z0-9(&/+-][\w'’()&/.,#+-]*|{_SMALL}|&|/)){{0,6}}[ ]*"
)
#: Shorter titles are too alike for one to be taken for another's misspelling.
_SPELLED = 10


def sections(text: str, *, minor: bool = False, other: bool = False) -> list[Section]:
    """Cut a note into its sections.

    A heading is a title of `TITLES`, `MINOR_TITLES` or `REPORT_TITLES` at the start of a line,
    before a colon, in any case; with one slip of the pen (a letter too many, too few, wrong, or two
    swapped) if it is long; or, without a colon, alone on its line and capitalised.

    Args:
        text: the note, as in the store.
        minor: minor headings (`ADMISSION LABS:` among the results) begin sections of their own.
        other: lines that look like headings (capitalised words before a colon) begin sections
            called `other`.

    Returns:
        In the order of the text, at least one, each beginning where the former stops, from the
        first heading to the end. A name may come several times. Text before the first heading
        belongs to none. A note without headings is one `body`, also where it is empty.
    """
    marks = list(_marks(text, minor, other))
    if not marks:
        first = _NOT_SPACE.search(text)
        return [Section("body", "", 0, len(text), first.start() if first else len(text))]
    found = []
    stops = [start for _, _, start, _ in marks[1:]]
    for (name, title, start, after), stop in zip(marks, [*stops, len(text)], strict=True):
        body = _NOT_SPACE.search(text, after, stop)
        found.append(Section(name, title, start, stop, body.start() if body else stop))
    return found


def _marks(text: str, minor: bool, other: bool) -> Iterator[tuple[str, str, int, int]]:
    """The name, title, start and end of each heading that begins a section."""
    opened: _Heading | None = None
    # The first line begins like the others; offsets are one less.
    padded = "\n" + text
    for match in _LINE.finditer(padded):
        title, colon = match[1], bool(match[2])
        heading = _titled(title) if colon else _alone(title)
        if heading is None:
            if not (other and colon and _UNKNOWN.fullmatch(title)):
                continue
            heading = _Heading("other", "", bool(opened and opened.of_report))
        elif heading.inside or heading.of_report:
            ends = not colon or _ends_line(padded, match.end())
            heading = _placed(heading, title, opened, ends, colon, minor)
            if heading is None:
                continue
        opened = heading
        start = match.start(1) - 1
        yield heading.name, title.strip(), start, match.end() - 1
        if heading.name in _FIRST:
            line_end = padded.find("\n", match.end())
            second = _SECOND.search(padded, match.end(), len(padded) if line_end < 0 else line_end)
            if second is not None and (heading := _titled(second[1])):
                opened = heading
                yield heading.name, second[1].strip(), second.start(1) - 1, second.end() - 1


def _placed(
    heading: _Heading,
    title: str,
    opened: _Heading | None,
    ends: bool,
    colon: bool,
    minor: bool,
) -> _Heading | None:
    """A minor heading, or one of a report, by where it stands; None if it is part of a body."""
    if heading.of_report:
        if opened is None or opened.of_report:
            return heading
        if _key(title) not in _EXAMS:
            # A pasted report has its colons; a note of another layout has none.
            return None if colon else heading._replace(of_report=False)
        heading = _Heading("physical_exam", "physical_exam", False)
    if minor and heading.name != heading.inside:
        return heading
    if opened is not None and heading.inside in (opened.name, opened.inside):
        return None
    return heading if ends else None


def _ends_line(text: str, place: int) -> bool:
    after = _NOT_SPACE.search(text, place)
    return after is None or "\n" in text[place : after.start()]


def _key(title: str) -> str:
    return _PUNCTUATION.sub(" ", title.lower()).strip()


@lru_cache(maxsize=1 << 16)
def _titled(title: str) -> _Heading | None:
    """What a title before a colon says."""
    key = _key(title)
    return HEADINGS.get(key) or _SLIPS.find(key)


def _alone(title: str) -> _Heading | None:
    """What a line without a colon says: a title in capitals, or of several capitalised words."""
    title = title.rstrip()
    heading = HEADINGS.get(title.lower()) or (
        HEADINGS.get(_key(title)) if title.isupper() and title[-1].isalpha() else None
    )
    if heading is None or title.isupper():
        return heading
    words = title.split()
    return heading if len(words) > 1 and words[0][0].isupper() and words[-1][0].isupper() else None


class _Slips:
    """Titles with one slip of the pen, found by what they share after the loss of one letter."""

    def __init__(self, titles: Iterable[str]) -> None:
        self._near: dict[str, set[str]] = {}
        for title in titles:
            if len(title) >= _SPELLED:
                for form in _shortened(title):
                    self._near.setdefault(form, set()).add(title)

    def find(self, key: str) -> _Heading | None:
        if not _SPELLED - 1 <= len(key) <= 60:
            return None
        near = {
            t for form in _shortened(key) for t in self._near.get(form, ()) if _one_slip(key, t)
        }
        found = {HEADINGS[title] for title in near}
        return found.pop() if len(found) == 1 else None


def _shortened(word: str) -> set[str]:
    return {word, *(word[:i] + word[i + 1 :] for i in range(len(word)))}


def _one_slip(word: str, other: str) -> bool:
    """Whether one letter is added, lost or changed, or two neighbours are swapped."""
    start = 0
    while start < min(len(word), len(other)) and word[start] == other[start]:
        start += 1
    a, b = word[start:], other[start:]
    swapped = a[:2] == b[1::-1] and a[2:] == b[2:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or swapped


_SLIPS = _Slips(HEADINGS)

#: What `sections_of` gives for each text.
SECTIONS_TYPE = pl.List(
    pl.Struct(
        {
            "name": pl.String,
            "title": pl.String,
            "start": pl.Int32,
            "stop": pl.Int32,
            "body_start": pl.Int32,
        }
    )
)


def sections_of(texts: pl.Series, *, minor: bool = False, other: bool = False) -> pl.Series:
    """The sections of each text of a column, as lists of structs (`SECTIONS_TYPE`).

    Offsets count characters, as polars' `str.slice` does. A null has no list.
    """
    found = [
        None
        if text is None
        else [part._asdict() for part in sections(text, minor=minor, other=other)]
        for text in texts
    ]
    return pl.Series(texts.name, found, dtype=SECTIONS_TYPE)
