"""Information units of a timeline: the tokens that one event of the record became.

The unit of ARES' explanation (Renc et al. 2025, giaf107): a lab result is its code and
its decile, a drug its ATC levels, a procedure seven characters. What belongs together is not a
table of lengths here: tokens that the tokeniser made from one source event are one unit, and the
time interval before them joins them, for it became known with them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wardround.evaluation import Kind
from wardround.simulation.tasks import TIMELINE_END

if TYPE_CHECKING:
    from wardround.views.timeline import Timelines

_QUANTILE = re.compile(r"Q(\d+)$")
#: Beginning of a unit's first token -> what it is about.
_KINDS: dict[str, Kind] = {
    "ICU_PROCEDURE//": "procedure",
    "HOSPITAL_": "transfer",
    "ICU_": "transfer",
    "ED_": "transfer",
    "TRANSFER//": "transfer",
    "MEDS_DEATH": "transfer",
    "VITAL//": "vital sign",
    "BMI//": "vital sign",
    "CHART//": "vital sign",
    "LAB//": "lab",
    "ATC//": "drug",
    "DRUG//": "drug",
    "INFUSION//": "drug",
    "ICD//CM//": "diagnosis",
    "DRG//": "diagnosis",
    "ICD//PCS//": "procedure",
    "HCPCS//": "procedure",
    "SOFA": "score",
    "ACUITY": "score",
}
_NAMES = {
    "HOSPITAL_ADMISSION": "Hospital admission",
    "HOSPITAL_DISCHARGE": "Hospital discharge",
    "ICU_ADMISSION": "ICU admission",
    "ICU_DISCHARGE": "ICU discharge",
    "ED_ARRIVAL": "Arrival in the emergency department",
    "ED_DEPARTURE": "Departure from the emergency department",
    "MEDS_DEATH": "Death",
    "TRANSFER//ADMIT": "Transfer to a ward on admission",
    "TRANSFER//TRANSFER": "Transfer to another ward",
    "SOFA": "SOFA score",
    "ACUITY": "Triage acuity",
    "VITAL//HEARTRATE": "Heart rate",
    "VITAL//TEMPERATURE": "Temperature",
    "VITAL//RESPRATE": "Respiratory rate",
    "VITAL//O2SAT": "Oxygen saturation",
    "VITAL//BLOOD_PRESSURE": "Blood pressure",
    "VITAL//PAIN": "Pain",
}
#: Beginning of tokens that a stay's edge, before them, is told with.
_EDGES = ("HOSPITAL_", "ICU_", "ED_")
#: Tokens that say more about such an edge; their last part is what they say.
_DETAILS = (
    "ADMISSION_TYPE//",
    "INSURANCE//",
    "ICU_TYPE//",
    "DISCHARGE_LOCATION//",
    "ED_TRANSPORT//",
    "ED_DISPOSITION//",
)


@dataclass(frozen=True)
class Units:
    """Units of a stretch of tokens, in order.

    Attributes:
        first: (n,) position of a unit's first token, its time interval included.
        body: (n,) position of its first token after that interval.
        end: (n,) position after its last token.
    """

    first: np.ndarray
    body: np.ndarray
    end: np.ndarray

    def __len__(self) -> int:
        return len(self.end)


def information_units(timelines: Timelines, low: int, high: int) -> Units:
    """Group the tokens at `low` to `high` into units.

    A unit begins where the source event changes, or after an interval. Bare quantiles do not begin
    one (the two of a blood pressure come from two rows), nor does what is told of a stay's edge
    (the insurance of an admission has a row of its own). Intervals and the end of the timeline
    that no event follows belong to no unit.

    Args:
        timelines: of any subjects.
        low, high: positions in `timelines.tokens`, of one subject.

    Returns:
        Positions in `timelines.tokens`.
    """
    tokens = np.asarray(timelines.tokens[low:high], np.int64)
    events = np.asarray(timelines.events[low:high])
    times = np.asarray(timelines.times[low:high])
    names = timelines.vocabulary.tokens
    if not len(tokens):
        return Units(*np.empty((3, 0), np.int64))
    outside = _mask(names, lambda name: name.startswith("=") or name == TIMELINE_END)[tokens]
    quantile = _mask(names, lambda name: _QUANTILE.match(name) is not None)[tokens]
    detail = _mask(names, lambda name: name.startswith(_DETAILS))[tokens]
    edge = _mask(names, lambda name: name.startswith((*_EDGES, *_DETAILS)))[tokens]
    later = np.r_[True, np.diff(times) != 0]
    joins = quantile | (detail & np.r_[False, edge[:-1]])
    changed = np.r_[True, np.diff(events) != 0] & ~joins
    body = np.flatnonzero(~outside & (np.r_[True, outside[:-1]] | later | changed))
    # A unit's intervals follow the last token of the unit before it.
    inside = np.flatnonzero(~outside)
    before = np.searchsorted(inside, body)
    end = np.append(inside[before[1:] - 1], inside[-1]) + 1 if len(body) else body
    first = np.r_[0, end[:-1]] if len(body) else body
    return Units(first + low, body + low, end + low)


def kind_of(tokens: Sequence[str]) -> Kind:
    """What a unit is about, by its first token that is no interval."""
    head = next((token for token in tokens if not token.startswith("=")), "")
    return next((kind for start, kind in _KINDS.items() if head.startswith(start)), "other")


def label_of(tokens: Sequence[str], descriptions: Mapping[str, str] | None = None) -> str:
    """A unit as people read it, such as `Creatinine (mg/dL), decile 9 of 10`.

    Args:
        tokens: of the unit; intervals are passed over.
        descriptions: of tokens or of the store's codes (`store.codes()`); where none fits, the
            code itself is shown.
    """
    known = descriptions or {}
    body = [token for token in tokens if not token.startswith("=")]
    if not body:
        return " ".join(tokens)
    deciles = [int(found[1]) for token in body if (found := _QUANTILE.match(token))]
    details = [_detail(token) for token in body if token.startswith(_DETAILS)]
    name = _name(body, known)
    if body[0] == "ACUITY" and deciles:
        return f"{name} {deciles[0]} of 5"
    if len(deciles) == 2:
        return f"{name}, systolic decile {deciles[0]}, diastolic decile {deciles[1]} of 10"
    if deciles:
        return f"{name}, decile {deciles[0]} of 10"
    return f"{name} ({', '.join(details)})" if details else name


def _name(body: Sequence[str], known: Mapping[str, str]) -> str:
    head, *rest = body[0].split("//")
    if body[0] in _NAMES:
        return known.get(body[0], _NAMES[body[0]])
    if head == "LAB":
        described = known.get(body[0]) or known.get("//".join(["LAB", "RESULT", *rest]))
        unit = f" ({rest[-1]})" if len(rest) > 1 and rest[-1] not in ("UNK", "") else ""
        return f"{described or f'Lab item {rest[0]}'}{unit}"
    if head == "ATC":
        codes = _codes(body, "ATC")
        return "Drug given: " + ", ".join(_described(code, f"ATC {code}", known) for code in codes)
    if head == "DRUG":
        return f"Drug given: {_plain('//'.join(rest))}"
    if body[0].startswith("ICD//CM//"):
        code = "".join(_codes(body, "ICD//CM"))
        dotted = f"{code[:3]}.{code[3:]}" if len(code) > 3 else code
        return _described(f"DIAGNOSIS//ICD//10//{code}", f"Diagnosis {dotted}", known)
    if body[0].startswith("ICD//PCS//"):
        code = "".join(_codes(body, "ICD//PCS"))
        return _described(f"PROCEDURE//ICD//10//{code}", f"Procedure {code}", known)
    if head == "BMI":
        level = _QUANTILE.match(rest[-1])
        return f"Body mass index, decile {level[1]} of 10" if level else "Body mass index unknown"
    if body[0].startswith(_DETAILS):
        return head.replace("_", " ").capitalize()
    if head in ("DRG", "HCPCS"):
        return _described(body[0], f"{head} {_plain('//'.join(rest))}", known)
    said = [token for token in body if not _QUANTILE.match(token)]
    return known.get(body[0], " ".join(said) or body[0])


def _detail(token: str) -> str:
    """What is told of a stay's edge; types of ICU are abbreviations."""
    text = token.split("//")[-1]
    return text.replace("_", " ") if token.startswith("ICU_TYPE//") else _plain(text)


def _plain(text: str) -> str:
    """What the tokeniser tidied, as people write it."""
    return " ".join(text.replace("_", " ").lower().split())


def _codes(body: Sequence[str], system: str) -> list[str]:
    """Codes put together from their parts; a new one begins at each token of the first level."""
    codes: list[str] = []
    for token in body:
        if not token.startswith(f"{system}//"):
            continue
        parts = token.removeprefix(f"{system}//").split("//")
        if len(parts) == 1 and not (system == "ICD//PCS" and codes):
            codes.append(parts[0])
        elif codes:
            codes[-1] += parts[-1]
    return codes


def _described(code: str, plain: str, known: Mapping[str, str]) -> str:
    description = known.get(code)
    return f"{plain}: {description}" if description else plain


def _mask(names: Sequence[str], rule: Callable[[str], bool]) -> np.ndarray:
    return np.fromiter((rule(name) for name in names), bool, len(names))
