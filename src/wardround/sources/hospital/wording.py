"""How codes are put into words: curated terms where there are some, else what a title turns into.

What a code is written as differs from note to note: severity and course before a term, site and
cause after it, abbreviations, other words, other orders, words left out, and misspellings.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

import yaml

from wardround.ontology import CodeKind
from wardround.sources.hospital.codes import diagnosis_titles, procedure_titles

Draw = Callable[[], float]
#: Share of names of catalogue codes that come from the title instead of the curated terms.
FROM_TITLE = 0.12
#: Share of names with something before them, after them, and with a slip of the pen.
BEFORE, AFTER, MISSPELT = 0.34, 0.22, 0.03
#: Share of a title's words that become others, and of its filling that goes.
REWORDED, DROPPED = 0.45, 0.8
#: Boilerplate of titles.
FILLING = re.compile(
    r",? *\b(?:not elsewhere classified|not otherwise specified|initial encounter(?: for \w+ "
    r"fracture)?|subsequent encounter[^,]*|without mention of [^,]*|unspecified(?: (?:site|side|"
    r"ear|eye|hip|knee|ankle|foot|hand|shoulder|elbow|wrist|limb|type|trimester|joint|part|"
    r"stage|laterality)\b)?|not specified as [^,]*|so stated|NEC|NOS)|\(s\)|\s*\[[^\]]*\]|"
    r"\b[Oo]ther (?:and unspecified |specified |types? of )?|\s*\([^)]*\)"
)
OF = re.compile(r"^([\w\- ]+?) of (?:the )?([\w\- ]+)$")
SIDE = re.compile(r"^(?:right|left|bilateral|unilateral)\b")
#: What a man and a woman are called.
PRONOUNS = (
    {"he": "he", "He": "He", "his": "his", "His": "His", "him": "him", "Title": "Mr."},
    {"he": "she", "He": "She", "his": "her", "His": "Her", "him": "her", "Title": "Ms."},
)
#: Wordings of a sentence that are made beforehand, at most.
WAYS = 60
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Slot:
    """A place in a sentence that the writer fills."""

    name: str


@dataclass(frozen=True)
class Choice:
    """A place in a sentence with one of several wordings."""

    ways: tuple[tuple[Part, ...], ...]


Part = str | Slot | Choice


@dataclass(frozen=True)
class Sentence:
    """A sentence of `phrases.yaml`.

    Attributes:
        ways: of a man and of a woman: the wordings, each as its parts; pronouns are filled in.
        needs: what must be known to say it.
    """

    ways: tuple[tuple[tuple[Part, ...], ...], tuple[tuple[Part, ...], ...]]
    needs: frozenset[str]


@dataclass(frozen=True)
class Terms:
    """What a catalogue code is called, and what may stand before and after it."""

    terms: tuple[str, ...]
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Absent:
    """Something that is looked for and not found."""

    words: tuple[str, ...]
    code: Mapping[int, str]
    exams: tuple[str, ...]


@dataclass(frozen=True)
class Exam:
    """A kind of imaging: exam code, CPT code, and the sentences of its report."""

    code: str
    cpt: str
    names: tuple[str, ...]
    technique: tuple[str, ...]
    normal: tuple[Sentence, ...]
    look: tuple[Sentence, ...]
    none: tuple[str, ...]


@dataclass(frozen=True)
class Manner:
    """How one condition of the catalogue is written about."""

    story: tuple[Sentence, ...] = ()
    course: tuple[Sentence, ...] = ()
    signs: Mapping[str, str] = ()  # type: ignore[assignment]
    lay: tuple[str, ...] = ()
    exams: tuple[str, ...] = ("chest",)
    reads: Mapping[str, tuple[Sentence, ...]] = ()  # type: ignore[assignment]


@dataclass(frozen=True)
class Phrases:
    """All of `phrases.yaml`."""

    codes: Mapping[str, Terms]
    procedures: Mapping[str, Terms]
    conditions: Mapping[str, Manner]
    absent: tuple[Absent, ...]
    films: Mapping[str, tuple[Sentence, ...]]
    exams: Mapping[str, Exam]
    general: Mapping[str, tuple[Sentence, ...]]
    exam_systems: Mapping[str, tuple[Sentence, ...]]
    lab_names: Mapping[str, str]
    around: Terms
    words: Mapping[str, tuple[str, ...]]


def pick(ways: Sequence[Any], r: Draw) -> Any:
    """One of `ways`, each as likely."""
    return ways[int(r() * len(ways))]


def sentence(text: str) -> Sentence:
    """Read `[a|b]` and `{slot}`.

    >>> sentence("[No|Denies] {neg}.").needs
    frozenset({'neg'})
    """
    spoken = []
    for pronouns in PRONOUNS:
        own = re.sub(r"\{(\w+)\}", lambda f, own=pronouns: own.get(f[1], f[0]), text)  # type: ignore[misc]
        spoken.append(_expand(_parts(own)))
    return Sentence((spoken[0], spoken[1]), frozenset(_needs(spoken[0][0]) | _needs(_parts(own))))


def _expand(parts: tuple[Part, ...]) -> tuple[tuple[Part, ...], ...]:
    """Every wording, where they are few; else the one that still has choices to make."""
    ways: list[tuple[Part, ...]] = [()]
    for part in parts:
        options = part.ways if isinstance(part, Choice) else ((part,),)
        if len(ways) * len(options) > WAYS:
            return (parts,)
        ways = [_joined((*way, *option)) for way in ways for option in options]
    return tuple(ways)


def _joined(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    joined: list[Part] = []
    for part in parts:
        if joined and isinstance(part, str) and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part)
    return tuple(joined)


def _parts(text: str) -> tuple[Part, ...]:
    parts: list[Part] = []
    for piece in re.split(r"(\[[^\[\]]*\|[^\[\]]*\]|\{\w+\})", text):
        if piece.startswith("{") and piece.endswith("}"):
            parts.append(Slot(piece[1:-1]))
        elif piece.startswith("[") and "|" in piece:
            parts.append(Choice(tuple(_parts(way) for way in piece[1:-1].split("|"))))
        elif piece:
            parts.append(piece)
    return tuple(parts)


def _needs(parts: Sequence[Part]) -> set[str]:
    names: set[str] = set()
    for part in parts:
        if isinstance(part, Slot):
            names.add(part.name)
        elif isinstance(part, Choice):
            for way in part.ways:
                names |= _needs(way)
    return names


def _sentences(texts: Sequence[str]) -> tuple[Sentence, ...]:
    return tuple(sentence(str(text)) for text in texts)


@cache
def phrases() -> Phrases:
    """The phrases that come with the package."""
    path = files("wardround.sources.hospital") / "phrases.yaml"
    content = yaml.load(path.read_text(), yaml.CBaseLoader)  # all are words: "on", "no"
    codes = {
        code: Terms(*(tuple(entry.get(k, ())) for k in ("terms", "before", "after")))
        for listed, entry in content["codes"].items()
        for code in listed.split()
    }
    procedures = {
        code: Terms(tuple(terms))
        for listed, terms in content["procedures"].items()
        for code in listed.split()
    }
    conditions = {
        name: Manner(
            story=_sentences(entry.get("story", ())),
            course=_sentences(entry.get("course", ())),
            signs=entry.get("signs", {}),
            lay=tuple(entry.get("lay", ())),
            exams=tuple(entry.get("exams", ())),
            reads={exam: _sentences(texts) for exam, texts in entry.get("reads", {}).items()},
        )
        for name, entry in content["conditions"].items()
    }
    exams = {
        name: Exam(
            code=entry["code"],
            cpt=entry["cpt"],
            names=tuple(entry["names"]),
            technique=tuple(entry["technique"]),
            normal=_sentences(entry["normal"]),
            look=_sentences(entry["look"]),
            none=tuple(entry["none"]),
        )
        for name, entry in content["exams"].items()
    }
    return Phrases(
        codes=codes,
        procedures=procedures,
        conditions=conditions,
        absent=tuple(
            Absent(
                tuple(entry["words"]),
                {9: entry["icd9"], 10: entry["icd10"]},
                tuple(entry.get("exams", ())),
            )
            for entry in content["absent"]
        ),
        films={name: _sentences(texts) for name, texts in content["films"].items()},
        exams=exams,
        general={name: _sentences(texts) for name, texts in content["general"].items()},
        exam_systems={n: _sentences(texts) for n, texts in content["exam_systems"].items()},
        lab_names=content["lab_names"],
        around=Terms((), tuple(content["around"]["before"]), tuple(content["around"]["after"])),
        words={word: tuple(others) for word, others in content["words"].items()},
    )


@cache
def _titles(kind: CodeKind) -> dict[tuple[str, int], str]:
    book = diagnosis_titles() if kind == "diagnosis" else procedure_titles()
    plain = (unicodedata.normalize("NFKD", title) for title in book["long_title"])  # no accents
    ascii_ = [title.encode("ascii", "ignore").decode() for title in plain]
    return dict(zip(zip(book["icd_code"], book["icd_version"], strict=True), ascii_, strict=True))


@cache
def _rewording() -> dict[str, list[tuple[list[str], tuple[str, ...]]]]:
    """By first word, the longest first: words, and what they become."""
    found: dict[str, list[tuple[list[str], tuple[str, ...]]]] = {}
    for phrase, others in sorted(phrases().words.items(), key=lambda entry: -len(entry[0])):
        words = phrase.split()
        found.setdefault(words[0], []).append((words, others))
    return found


@lru_cache(2**14)
def _filling(title: str) -> tuple[tuple[str, bool], ...]:
    """A title cut at its boilerplate: (piece, whether it is such)."""
    pieces, reached = [], 0
    for found in FILLING.finditer(title):
        pieces += [(title[reached : found.start()], False), (found.group(), True)]
        reached = found.end()
    return (*pieces, (title[reached:], False))


def terms_of(kind: CodeKind, code: str, version: int) -> Terms | None:
    """Curated terms of a code; None for those of the long tail."""
    book = phrases()
    if kind == "procedure":
        return book.procedures.get(code)
    # An external cause of ICD-9 may spell like another chapter of ICD-10.
    if (version == 9) == (code[0].isdigit() or code[0] == "V"):
        return book.codes.get(code)
    return None


def name_code(kind: CodeKind, code: str, version: int, r: Draw) -> str:
    """What one author writes for a code.

    Args:
        kind: of code.
        code: as in the tables, without a dot.
        version: 9 or 10.
        r: draws uniform numbers in [0, 1).
    """
    known = terms_of(kind, code, version)
    title = _titles(kind).get((code, version))
    if known is None or (title is not None and r() < FROM_TITLE):
        title = title or code
        if kind == "procedure" and version == 10:  # its Titles Are Written So
            title = title[0] + title[1:].lower()
        said = reword_title(title, r)
    else:
        said = pick(known.terms, r)
    around = phrases().around if known is None and kind == "diagnosis" else known
    if around is not None and around.before and r() < BEFORE:
        said = f"{pick(around.before, r)} {said}"
    if around is not None and around.after and r() < AFTER:
        said = f"{said} {pick(around.after, r)}"
    return misspell(said, r) if r() < MISSPELT else said


def reword_title(title: str, r: Draw) -> str:
    """A title as somebody in a hurry writes it: less boilerplate, other words, another order."""
    said = "".join(p for p, filling in _filling(title) if not filling or r() >= DROPPED)
    said = " ".join(said.split())
    pieces = [piece.strip() for piece in said.split(",") if piece.strip()] or [title]
    if len(pieces) > 1:
        if len(pieces) > 2 and r() < 0.3:
            del pieces[-1]
        side = next((p for p in pieces[1:] if SIDE.match(p)), None)
        if side is not None and r() < 0.7:
            pieces.remove(side)
            pieces[0] = f"{side} {_lower(pieces[0])}" if r() < 0.5 else f"{pieces[0]} of {side}"
        elif r() < 0.35:
            pieces = [pieces[-1], *pieces[:-1]]
        said = (", " if r() < 0.5 else " ").join([pieces[0], *(_lower(p) for p in pieces[1:])])
    else:
        said = pieces[0]
    turned = OF.match(said)
    if turned is not None and r() < 0.3:  # fusion of left elbow: left elbow fusion
        said = f"{turned[2]} {turned[1].lower()}"
    listed = said.split(" ")
    if len(listed) > 5 and r() < 0.25:
        del listed[1 + int(r() * (len(listed) - 1))]
        said = " ".join(listed)
    said = _reword(said.split(" "), r)
    return _lower(said) if r() < 0.6 else said


def _reword(words: list[str], r: Draw) -> str:
    known, said, at = _rewording(), [], 0
    while at < len(words):
        length = 1
        word = words[at].rstrip(",").lower()
        for phrase, others in known.get(word, ()):
            length = len(phrase)
            here = [w.lower() for w in words[at : at + length]]
            comma = here[-1].endswith(",")
            here[-1] = here[-1].rstrip(",")
            if here == phrase and r() < REWORDED:
                said.append(pick(others, r) + "," * comma)
                break
        else:
            length = 1
            said.append(words[at])
        at += length
    return " ".join(said)


def _lower(text: str) -> str:
    """Begin in lower case, abbreviations apart."""
    return text[0].lower() + text[1:] if len(text) > 1 and text[1].islower() else text


def misspell(text: str, r: Draw) -> str:
    """One slip in one long word: letters swapped, left out, doubled or mistaken."""
    words = text.split(" ")
    long = [number for number, word in enumerate(words) if len(word) > 4 and word.isalpha()]
    if not long:
        return text
    number = pick(long, r)
    word, at, slip = words[number], 1 + int(r() * (len(words[number]) - 2)), r()
    if slip < 0.35:
        word = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    elif slip < 0.65:
        word = word[:at] + word[at + 1 :]
    elif slip < 0.8:
        word = word[:at] + word[at] + word[at:]
    else:
        word = word[:at] + pick(LETTERS, r) + word[at + 1 :]
    words[number] = word
    return " ".join(words)
