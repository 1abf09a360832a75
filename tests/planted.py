"""A planted patient process whose exact next-token probabilities and risks are known.

A hidden severity moves as a Markov chain and drives lab values, the hazards of ICU, death and
discharge, the pace of events, and the gaps between stays (a semi-Markov process). The
process is an automaton over timeline tokens: at a `node` with severity `s` it emits a token, which
leads to one node, and moves to severity `s'`. One table of probabilities generates patients and
filters timelines, so that what `Exact` says is the truth about what `Planted` writes:

- log p(token | all tokens before it): the best loss that any model can have;
- P(event within a horizon | all tokens before it): the best risk that any model can give.

Time passes at interval tokens only. A gap's token depends on the severity; where in its bucket the
gap lies is uniform and tells nothing, so a timeline's tokens carry all that its times do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from scipy.special import ndtr, ndtri

from wardround.store import (
    CODE_SCHEMA,
    EVENT_SCHEMA,
    STAY_SCHEMA,
    PatientStore,
    StoreWriter,
    open_store,
    split_subjects,
)

MINUTE, HOUR, DAY = 60, 3600, 86400

#: Interval tokens of the ETHOS preset: the gaps that they stand for, in seconds. Of the last, which
#: is repeated round(gap / 180 d) times, the part of a gap that a first one stands for.
INTERVALS = {
    "=5m-15m": (5 * MINUTE, 15 * MINUTE),
    "=15m-45m": (15 * MINUTE, 45 * MINUTE),
    "=45m-1h15m": (45 * MINUTE, 75 * MINUTE),
    "=1h15m-2h": (75 * MINUTE, 2 * HOUR),
    "=2h-3h": (2 * HOUR, 3 * HOUR),
    "=3h-5h": (3 * HOUR, 5 * HOUR),
    "=5h-8h": (5 * HOUR, 8 * HOUR),
    "=8h-12h": (8 * HOUR, 12 * HOUR),
    "=12h-18h": (12 * HOUR, 18 * HOUR),
    "=18h-1d": (18 * HOUR, DAY),
    "=1d-2d": (DAY, 2 * DAY),
    "=2d-4d": (2 * DAY, 4 * DAY),
    "=4d-7d": (4 * DAY, 7 * DAY),
    "=7d-12d": (7 * DAY, 12 * DAY),
    "=12d-20d": (12 * DAY, 20 * DAY),
    "=20d-30d": (20 * DAY, 30 * DAY),
    "=30d-60d": (30 * DAY, 60 * DAY),
    "=60d-180d": (60 * DAY, 180 * DAY),
    "=6mt": (180 * DAY, 268 * DAY),
}
#: What a second `=6mt` adds: the sum lies between 1.5 and 2.5 half-years.
SECOND_HALF_YEAR = (92 * DAY, 180 * DAY)

QUANTILES = tuple(f"Q{k}" for k in range(1, 11))
DEATH, END = "MEDS_DEATH", "TIMELINE_END"
ADMISSION, DISCHARGE = "HOSPITAL_ADMISSION", "HOSPITAL_DISCHARGE"
ICU, ICU_END = "ICU_ADMISSION", "ICU_DISCHARGE"
MARKER = "HCPCS//RAPID_RESPONSE"


@dataclass(frozen=True)
class Lab:
    """A log-normal lab: its logarithm has mean `centre + shift * severity` and s.d. `spread`."""

    item: int
    unit: str
    centre: float
    spread: float
    shift: float

    @property
    def token(self) -> str:
        return f"LAB//{self.item}//{self.unit}"

    @property
    def code(self) -> str:
        return f"LAB//RESULT//{self.item}//{self.unit}"

    def cdf(self, value: np.ndarray, state: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            log = np.log(np.maximum(value, 0))
        return ndtr((log - self.centre - self.shift * state) / self.spread)

    def inverse(self, probability: np.ndarray, state: np.ndarray) -> np.ndarray:
        return np.exp(self.centre + self.shift * state + self.spread * ndtri(probability))


LABS = (
    Lab(50813, "mmol/L", 0.2, 0.15, 0.35),
    Lab(50912, "mg/dL", -0.2, 0.18, 0.32),
    Lab(51301, "K/uL", 2.0, 0.18, 0.2),
    Lab(51222, "g/dL", 2.55, 0.09, -0.08),
    Lab(50983, "mEq/L", 4.93, 0.03, 0.0),  # tells nothing
)
#: So many of them have a result at the very time of an admission.
AT_ADMISSION = 3

#: The token that tells which event it was -> the event's code in the store.
CODES = {
    "ADMISSION_TYPE//EMERGENCY": "HOSPITAL_ADMISSION//EW EMER.//EMERGENCY ROOM",
    "ADMISSION_TYPE//OBSERVATION": "HOSPITAL_ADMISSION//EU OBSERVATION//EMERGENCY ROOM",
    "ADMISSION_TYPE//SCHEDULED": "HOSPITAL_ADMISSION//ELECTIVE//PHYSICIAN REFERRAL",
    "INSURANCE//MEDICARE": "INSURANCE//Medicare",
    "INSURANCE//MEDICAID": "INSURANCE//Medicaid",
    "INSURANCE//PRIVATE": "INSURANCE//Private",
    "TRANSFER//ADMIT": "TRANSFER_TO//admit//Medicine",
    "TRANSFER//TRANSFER": "TRANSFER_TO//transfer//Medicine",
    "ICU_TYPE//MICU": "ICU_ADMISSION//Medical Intensive Care Unit (MICU)",
    "ICU_TYPE//SICU": "ICU_ADMISSION//Surgical Intensive Care Unit (SICU)",
    ICU_END: "ICU_DISCHARGE//Medical Intensive Care Unit (MICU)",
    DEATH: "MEDS_DEATH",
    "DISCHARGE_LOCATION//HOME": "HOSPITAL_DISCHARGE//HOME",
    "DISCHARGE_LOCATION//HEALTHCARE_FACILITY": "HOSPITAL_DISCHARGE//SKILLED NURSING FACILITY",
    "DISCHARGE_LOCATION//DIED": "HOSPITAL_DISCHARGE//DIED",
    "DRG//871": "DRG//HCFA//871//SEPTICEMIA OR SEVERE SEPSIS W MCC",
    "DRG//291": "DRG//HCFA//291//HEART FAILURE AND SHOCK W MCC",
    "DRG//392": "DRG//HCFA//392//ESOPHAGITIS AND GASTROENTERITIS W/O MCC",
    MARKER: "HCPCS//Rapid response",
} | {lab.token: lab.code for lab in LABS}

TOKENS = (
    *(lab.token for lab in LABS),
    *QUANTILES,
    *INTERVALS,
    *(ADMISSION, DISCHARGE, ICU),
    *(token for token in CODES if not token.startswith("LAB//")),
    END,
)
TOKEN = {token: number for number, token in enumerate(TOKENS)}
IS_INTERVAL = np.array([token in INTERVALS for token in TOKENS])

# Numbers below are by severity, 0 (well) to 4 (dying).
STATES = 5
START = np.array([0.36, 0.26, 0.19, 0.12, 0.07])


@dataclass(frozen=True)
class Ward:
    """What may happen on a ward, each time that something happens there.

    Attributes:
        pace: the commonest gap between two events, as a number in `INTERVALS`.
        icu, death, leave: probabilities of going to the ICU, dying, and leaving the ward.
        more: probability that a lab result comes with a further one.
        better, worse: probabilities of a step down or up in severity, at each gap.
    """

    pace: np.ndarray
    icu: np.ndarray
    death: np.ndarray
    leave: np.ndarray
    more: float
    better: float = 0.04
    worse: float = 0.035


WARD = Ward(
    pace=np.array([7.0, 6.8, 6.5, 6.2, 5.4]),
    icu=np.array([0.001, 0.005, 0.018, 0.045, 0.080]),
    death=np.array([0.0002, 0.0005, 0.001, 0.006, 0.045]),
    leave=np.array([0.170, 0.110, 0.050, 0.014, 0.003]),
    more=0.4,
)
INTENSIVE = Ward(
    pace=np.array([4.4, 4.2, 4.0, 3.8, 3.6]),
    icu=np.zeros(STATES),
    death=np.array([0.0002, 0.0005, 0.001, 0.005, 0.040]),
    leave=np.array([0.150, 0.120, 0.080, 0.035, 0.005]),
    more=0.6,
)
#: Probability of the marker at each event on the ward; severity is the worst after it.
MARKED = 0.005
LAB_SHARES = np.array([0.25, 0.25, 0.20, 0.15, 0.15])
TYPES = {
    "ADMISSION_TYPE//EMERGENCY": np.array([0.40, 0.50, 0.60, 0.75, 0.90]),
    "ADMISSION_TYPE//OBSERVATION": np.array([0.30, 0.25, 0.20, 0.15, 0.08]),
    "ADMISSION_TYPE//SCHEDULED": np.array([0.30, 0.25, 0.20, 0.10, 0.02]),
}
INSURANCE = {"INSURANCE//MEDICARE": 0.45, "INSURANCE//MEDICAID": 0.2, "INSURANCE//PRIVATE": 0.35}
UNITS = {"ICU_TYPE//MICU": 0.6, "ICU_TYPE//SICU": 0.4}
PLACES = {
    "DISCHARGE_LOCATION//HOME": np.array([0.95, 0.85, 0.65, 0.40, 0.20]),
    "DISCHARGE_LOCATION//HEALTHCARE_FACILITY": np.array([0.05, 0.15, 0.35, 0.60, 0.80]),
}
BILLS = {
    "DRG//871": np.array([0.10, 0.20, 0.40, 0.60, 0.80]),
    "DRG//291": np.array([0.30, 0.30, 0.30, 0.25, 0.15]),
    "DRG//392": np.array([0.60, 0.50, 0.30, 0.15, 0.05]),
}
#: At home: whether the record ends there, how long until the next event (a number in `INTERVALS`),
#: what severity it has come to by then, and whether the event is a death.
RECORD_ENDS = np.array([0.46, 0.34, 0.24, 0.17, 0.13])
HOME_PACE = np.array([17.3, 16.2, 14.2, 12.8, 12.0])
AT_RETURN = np.array(
    [
        [0.60, 0.25, 0.10, 0.04, 0.01],
        [0.30, 0.40, 0.20, 0.08, 0.02],
        [0.10, 0.25, 0.40, 0.19, 0.06],
        [0.05, 0.15, 0.30, 0.35, 0.15],
        [0.02, 0.08, 0.25, 0.35, 0.30],
    ]
)
DIES_AT_HOME = np.array([0.005, 0.01, 0.03, 0.06, 0.15])
SECOND_HALF = 0.3


@dataclass(frozen=True)
class Question:
    """A risk: an event's, before competing ones, within a horizon (seconds) of the stay's begin.

    `at_horizon` tells whether reaching the horizon without any is the event itself.
    """

    event: tuple[str, ...]
    competing: tuple[str, ...]
    horizon: float
    at_horizon: bool = False


#: As in the task files of the same names. Horizons of two years are as good as none.
QUESTIONS = {
    "hospital-mortality": Question((DEATH,), (DISCHARGE,), np.inf),
    "icu-admission": Question((ICU,), (DISCHARGE, DEATH), np.inf),
    "icu-admission-or-death": Question((ICU, DEATH), (DISCHARGE,), np.inf),
    "icu-mortality": Question((DEATH,), (ICU_END,), np.inf),
    "prolonged-stay": Question((), (DISCHARGE, DEATH), 10 * DAY, at_horizon=True),
    "composite": Question((ICU, DEATH), (DISCHARGE,), 10 * DAY, at_horizon=True),
    "readmission-30d": Question((ADMISSION,), (DEATH,), 30 * DAY),
}


class Automaton:
    """Nodes, and the edges between them.

    Attributes:
        nodes: number of each node; a timeline begins at the first.
        edges: {(node, token): (the node that it leads to, P(token, s' | s))}.
        values: {node where the quantile of a lab comes next: (the lab, where that leads)}.
    """

    def __init__(self, marker: bool) -> None:
        self.nodes = {"arrival 0": 0}
        self.edges: dict[tuple[int, int], tuple[int, np.ndarray]] = {}
        self.values: dict[int, tuple[int, int]] = {}
        self._admission()
        self._ward("ward", WARD, leaving=DISCHARGE, to="place", marked=MARKED * marker)
        self._edge("to icu", ICU, "unit")
        self._edges("unit", "icu", UNITS)
        self._ward("icu", INTENSIVE, leaving=ICU_END, to="from icu")
        self._edge("from icu", "TRANSFER//TRANSFER", "ward")
        self._edges("place", "bill", PLACES)
        self._edges("bill", "home", BILLS)
        self._edge("died", DISCHARGE, "place of the dead")
        self._edge("place of the dead", "DISCHARGE_LOCATION//DIED", "bill of the dead")
        self._edges("bill of the dead", "last", BILLS)
        self._home()
        self._edge("last", END, "end")

    def _node(self, name: str) -> int:
        return self.nodes.setdefault(name, len(self.nodes))

    def _edge(self, start: str, token: str, end: str, probability: np.ndarray | float = 1) -> None:
        """`probability` is P(token, s' | s), or P(token | s) where s stays as it is."""
        matrix = np.asarray(probability, float)
        if matrix.ndim < 2:
            matrix = np.diag(matrix * np.ones(STATES))
        self.edges[self._node(start), TOKEN[token]] = (self._node(end), matrix)

    def _edges(self, start: str, end: str, shares: Mapping[str, np.ndarray | float]) -> None:
        for token, share in shares.items():
            self._edge(start, token, end, share)

    def _lab(self, start: str, lab: int, value: str, end: str, share: np.ndarray | float) -> None:
        """A lab's token leads to the node `value`, and its quantile from there to `end`."""
        self._edge(start, LABS[lab].token, value, share)
        self.values[self._node(value)] = (lab, self._node(end))

    def _gaps(self, start: str, end: str, among: slice, pace: np.ndarray, move: np.ndarray) -> None:
        """Severity moves by `move`, and the gap follows from what it has become."""
        distance = np.arange(len(INTERVALS))[among, None] - pace
        weight = np.exp(-(distance**2) / 2)
        for token, share in zip(list(INTERVALS)[among], weight / weight.sum(axis=0), strict=True):
            self._edge(start, token, end, move * share)

    def _admission(self) -> None:
        for lab in range(AT_ADMISSION):
            self._lab(f"arrival {lab}", lab, f"arrival {lab} value", f"arrival {lab + 1}", 1)
        self._edge(f"arrival {AT_ADMISSION}", ADMISSION, "type")
        self._edges("type", "insurance", TYPES)
        self._edges("insurance", "transfer", INSURANCE)
        self._edge("transfer", "TRANSFER//ADMIT", "ward")

    def _ward(self, name: str, ward: Ward, *, leaving: str, to: str, marked: float = 0) -> None:
        event, labs = f"{name} event", range(len(LABS))
        values = [f"{name} {lab} value" for lab in labs]
        # Of one panel, labs come in one order; after the last only time can pass.
        after = [*(f"{name} {lab} after" for lab in labs[:-1]), name]
        move = ward.better * np.eye(STATES, k=-1) + ward.worse * np.eye(STATES, k=1)
        move += np.diag(1 - move.sum(axis=1))
        within_days = slice(0, 11)
        self._gaps(name, event, within_days, ward.pace, move)
        quiet = 1 - ward.icu - ward.death - ward.leave - marked
        for lab in labs:
            self._lab(event, lab, values[lab], after[lab], quiet * LAB_SHARES[lab])
        for lab in labs[:-1]:
            rest = LAB_SHARES[lab + 1 :]
            self._gaps(after[lab], event, within_days, ward.pace, move * (1 - ward.more))
            for further, share in zip(labs[lab + 1 :], ward.more * rest / rest.sum(), strict=True):
                self._lab(after[lab], further, values[further], after[further], share)
        self._edge(event, DEATH, "died", ward.death)
        self._edge(event, leaving, to, ward.leave)
        if ward.icu.any():
            self._edge(event, "TRANSFER//TRANSFER", "to icu", ward.icu)
        if marked:
            self._edge(event, MARKER, name, marked * np.eye(STATES)[[-1] * STATES])

    def _home(self) -> None:
        self._edge("home", END, "end", RECORD_ENDS)
        goes_on = (1 - RECORD_ENDS)[:, None] * AT_RETURN
        self._gaps("home", "return", slice(10, None), HOME_PACE, goes_on)
        half_year = self.edges[self._node("home"), TOKEN["=6mt"]][1]
        self._edge("home", "=6mt", "half a year", half_year)
        self._edge("half a year", "=6mt", "return", SECOND_HALF)
        for start, share in (("return", 1), ("half a year", 1 - SECOND_HALF)):
            self._edge(start, DEATH, "last", share * DIES_AT_HOME)
            self._lab(start, 0, "arrival 0 value", "arrival 1", share * (1 - DIES_AT_HOME))


Breaks = Mapping[str, Sequence[float] | np.ndarray]


def deciles() -> Breaks:
    """Breaks of each lab, by its token, at which states of equal weight have equal shares."""
    state = np.arange(STATES)
    breaks = {}
    for lab in LABS:
        grid = lab.inverse(np.linspace(1e-6, 1 - 1e-6, 10_001)[:, None], state).ravel()
        grid.sort()
        mixed = lab.cdf(grid[:, None], state).mean(axis=1)
        breaks[lab.token] = np.interp(np.arange(1, 10) / 10, mixed, grid)
    return breaks


class Process:
    """The automaton with the quantiles of some breaks, as arrays.

    Attributes:
        to: (N, V) the node that a token leads to from a node; -1 where it cannot come.
        move: (N, V, S, S) P(token, s' | node, s).
        breaks: of each lab, by its token.
    """

    def __init__(self, marker: bool, breaks: Breaks) -> None:
        automaton = Automaton(marker)
        self.nodes, self.breaks = automaton.nodes, breaks
        self.to = np.full((len(self.nodes), len(TOKENS)), -1)
        self.move = np.zeros((len(self.nodes), len(TOKENS), STATES, STATES))
        for (node, token), (end, matrix) in automaton.edges.items():
            self.to[node, token], self.move[node, token] = end, matrix
        for node, (lab, end) in automaton.values.items():
            shares = np.diff(self.cdf(lab), axis=0)
            for quantile, share in zip(QUANTILES, shares, strict=False):
                self.to[node, TOKEN[quantile]] = end
                self.move[node, TOKEN[quantile]] = np.diag(share)
        total = self.move.sum(axis=(1, 3))
        if not np.allclose(np.delete(total, self.nodes["end"], axis=0), 1):
            raise ValueError("of some node, probabilities do not add up to 1")

    def cdf(self, lab: int) -> np.ndarray:
        """(Q + 1, S) P(value <= break | s), with those of no value and of any."""
        bounds = np.concatenate([[0], self.breaks[LABS[lab].token], [np.inf]])
        return LABS[lab].cdf(bounds[:, None], np.arange(STATES))

    @cached_property
    def _choices(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(N * S, K) cumulated probabilities of what may come next: a token and a severity."""
        flat = self.move.transpose(0, 2, 1, 3).reshape(-1, len(TOKENS) * STATES)
        width = int((flat > 0).sum(axis=1).max())
        order = np.argsort(flat <= 0, axis=1, kind="stable")[:, :width]
        bound = np.cumsum(np.take_along_axis(flat, order, axis=1), axis=1)
        return bound, order // STATES, order % STATES

    def walk(
        self,
        node: np.ndarray,
        state: np.ndarray,
        rng: np.random.Generator,
        until: Sequence[str] = (),
    ) -> Walks:
        """Play futures until they end or emit one of `until`.

        Args:
            node, state: (n,) where each begins.
        """
        bound, tokens, states = self._choices
        last = np.isin(np.arange(len(TOKENS)), [TOKEN[token] for token in (*until, END)])
        alive = np.arange(len(node))
        steps = []
        while len(alive):
            z = node * STATES + state
            drawn = rng.random(len(alive))[:, None] * bound[z, -1:]
            choice = (bound[z] <= drawn).sum(axis=1)
            token, state = tokens[z, choice], states[z, choice]
            steps.append((alive, token, state, node))
            going = ~last[token]
            node, state, alive = self.to[node, token][going], state[going], alive[going]
        path, token, state, node = (np.concatenate(column) for column in zip(*steps, strict=True))
        order = np.argsort(path, kind="stable")
        path, token, state, node = path[order], token[order], state[order], node[order]
        low, high = np.array([INTERVALS.get(name, (0, 1)) for name in TOKENS]).T[:, token]
        again = (node == self.nodes["half a year"]) & IS_INTERVAL[token]
        low[again], high[again] = SECOND_HALF_YEAR
        offsets = np.concatenate([[0], np.cumsum(np.bincount(path))])
        return Walks(token, state, node, rng.integers(low, high), offsets)


@dataclass(frozen=True)
class Walks:
    """Paths of the process, one after the other.

    Attributes:
        tokens, states, nodes: (N,) what was emitted, the severity after it, the node before it.
        seconds: (N,) how long each interval token stands for; 0 of others.
        offsets: (n + 1,) bounds of the paths.
    """

    tokens: np.ndarray
    states: np.ndarray
    nodes: np.ndarray
    seconds: np.ndarray
    offsets: np.ndarray

    @property
    def path(self) -> np.ndarray:
        """(N,) number of each token's path."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def clock(self) -> np.ndarray:
        """(N,) seconds from the path's begin to each token."""
        total = np.cumsum(self.seconds)
        before = np.concatenate([[0], total])[self.offsets[:-1]]
        return total - before[self.path]


@dataclass(frozen=True)
class Sample:
    """Patients that were drawn.

    Attributes:
        walks: their tokens, at the breaks of `Planted`.
        subjects: (n,) ids, ascending.
        times: (N,) seconds since 1970 at which each token was known.
        values: (N,) float32, at a lab's token its result.
    """

    walks: Walks
    subjects: np.ndarray
    times: np.ndarray
    values: np.ndarray

    def tokens(self, breaks: Breaks) -> np.ndarray:
        """(N,) names of the tokens of a tokeniser with these breaks."""
        names = np.array(TOKENS, dtype=object)[self.walks.tokens]
        for lab in LABS:
            at = np.flatnonzero(self.walks.tokens == TOKEN[lab.token])
            bins = np.searchsorted(breaks[lab.token], self.values[at].astype(float))
            names[at + 1] = np.array(QUANTILES, dtype=object)[bins]
        return names


@dataclass(frozen=True)
class Planted:
    """A population of the process.

    Attributes:
        seed: another seed, other patients.
        marker: whether some stays have an event, announced by nothing, after which severity is
            the worst.
    """

    seed: int = 0
    marker: bool = False

    @cached_property
    def process(self) -> Process:
        return Process(self.marker, deciles())

    def exact(self, vocabulary: Iterable[str] = TOKENS, breaks: Breaks | None = None) -> Exact:
        """The truth about timelines.

        Args:
            vocabulary: the tokeniser's tokens, in order of their ids.
            breaks: that it fitted, by a lab's token; those of `deciles` unless told.
        """
        process = self.process if breaks is None else Process(self.marker, breaks)
        return Exact(process, tuple(vocabulary))

    def sample(self, patients: int) -> Sample:
        """Draw patients from the beginning of their records to the end."""
        rng = np.random.default_rng(self.seed)
        start = rng.choice(STATES, patients, p=START)
        walks = self.process.walk(np.zeros(patients, int), start, rng)
        first = rng.integers(140 * 365 * DAY, 220 * 365 * DAY, patients)
        times = first[walks.path] + walks.clock()
        # Of two half-years, both are known when the event after them is.
        doubled = np.flatnonzero(IS_INTERVAL[walks.tokens[:-1]] & IS_INTERVAL[walks.tokens[1:]])
        times[doubled] = times[doubled + 1]
        values = np.full(len(times), np.nan, np.float32)
        for number, lab in enumerate(LABS):
            at = np.flatnonzero(walks.tokens == TOKEN[lab.token])
            quantile = walks.tokens[at + 1] - TOKEN["Q1"]
            low, high = (self.process.cdf(number)[quantile + k, walks.states[at]] for k in (0, 1))
            drawn = low + rng.random(len(at)) * (high - low)
            values[at] = lab.inverse(drawn, walks.states[at])
        return Sample(walks, 10_000_000 + 37 * np.arange(patients), times, values)

    def write_store(
        self, folder: str | Path, patients: int = 4000, shards: int = 4
    ) -> PatientStore:
        """Draw patients and write them as a store with the codes of a MIMIC-IV store.

        Results of labs are drawn up to an hour before they are known; everything else is known when
        it happens.
        """
        events, stays = self.records(self.sample(patients))
        subjects = events["subject_id"].unique().sort()
        splits = pl.DataFrame({"subject_id": subjects, "split": split_subjects(subjects)})
        placed = events.join(splits, on="subject_id", maintain_order="left").with_columns(
            shard=pl.col("split") + "/" + (pl.col("subject_id") % shards).cast(pl.String)
        )
        with StoreWriter(folder, overwrite=True) as writer:
            for (shard,), rows in sorted(placed.group_by("shard", maintain_order=True)):
                writer.write_shard(shard, rows)
            counts = events.group_by("code").agg(count=pl.len().cast(pl.Int64)).sort("code")
            writer.finish(
                codes=counts.with_columns(
                    description=pl.lit(None, pl.String),
                    parent_codes=pl.lit(None, pl.List(pl.String)),
                ).select(CODE_SCHEMA.names),
                stays=stays,
                splits=splits,
                provenance={"source": "planted", "source_version": "0", "access": "synthetic"},
                dataset={"dataset_name": "planted"},
            )
        return open_store(folder)

    def records(self, sample: Sample) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Events and stays of a sample, in the columns of a store."""
        rows = self._rows(sample)
        stays = _stays(rows)
        rng = np.random.default_rng([self.seed, 2])
        age = rng.integers(20, 90, len(sample.subjects))
        own = pl.DataFrame(
            {
                "subject_id": sample.subjects,
                "gender": rng.choice(["GENDER//F", "GENDER//M"], len(age)),
                "race": rng.choice(["RACE//WHITE", "RACE//BLACK/AFRICAN AMERICAN"], len(age)),
                "marital": rng.choice(
                    ["MARITAL_STATUS//MARRIED", "MARITAL_STATUS//SINGLE"], len(age)
                ),
                "first": sample.times[sample.walks.offsets[:-1]],
            }
        ).with_columns(first=_moment("first"), age=pl.Series(age))
        admissions = stays.filter(pl.col("kind") == "hospital").select(
            "subject_id", "hadm_id", time="start", available_time="start"
        )
        said = admissions.join(own, on="subject_id", maintain_order="left")
        born = pl.datetime(pl.col("first").dt.year() - pl.col("age"), 1, 1, time_unit="us")
        extra = [
            own.select("subject_id", code="gender"),
            own.select("subject_id", code=pl.lit("MEDS_BIRTH"), time=born, available_time=born),
            *(said.select(*admissions.columns, code=name) for name in ("race", "marital")),
        ]
        schema = dict(pl.from_arrow(EVENT_SCHEMA.empty_table()).schema)
        together = pl.concat([*extra, rows], how="diagonal_relaxed").with_columns(
            text_value=pl.lit(None, pl.String)
        )
        events = together.select(pl.col(name).cast(kind) for name, kind in schema.items())
        return events.sort("subject_id", "time", maintain_order=True, nulls_last=False), stays

    def _rows(self, sample: Sample) -> pl.DataFrame:
        """One row each event of the paths."""
        walks, nodes = sample.walks, self.process.nodes
        admitted = self.process.to[walks.nodes, walks.tokens] == nodes["arrival 0 value"]
        at_home = np.isin(walks.nodes, [nodes["return"], nodes["half a year"]]) & ~admitted
        step = np.cumsum(IS_INTERVAL[walks.tokens])
        rng = np.random.default_rng([self.seed, 1])
        lag = rng.integers(5 * MINUTE, HOUR, step[-1] + 1)[step]
        stay = 20_000_000 + np.cumsum(admitted)
        drawn = np.maximum(sample.times - lag, sample.times[admitted][stay - stay[0]])
        is_result = ~np.isnan(sample.values)
        code = pl.Series([CODES.get(token) for token in TOKENS], dtype=pl.String)
        rows = pl.DataFrame(
            {
                "subject_id": sample.subjects[walks.path],
                "time": np.where(is_result, drawn, sample.times),
                "code": code.gather(walks.tokens),
                "numeric_value": pl.Series(sample.values, nan_to_null=True),
                "available_time": sample.times,
                "hadm_id": pl.Series(stay).set(pl.Series(at_home), None),
                "token": pl.Series(TOKENS).gather(walks.tokens),
            }
        )
        to_icu, from_icu = pl.col("token").str.starts_with("ICU_TYPE//"), pl.col("token") == ICU_END
        return rows.drop_nulls("code").with_columns(
            _moment("time"),
            _moment("available_time"),
            stay_id=pl.when(to_icu | from_icu).then(30_000_000 + to_icu.cum_sum()),
        )


def _moment(seconds: str) -> pl.Expr:
    return (pl.col(seconds) * 1_000_000).cast(pl.Datetime("us")).alias(seconds)


def _stays(rows: pl.DataFrame) -> pl.DataFrame:
    """Hospital and ICU stays of the rows of events."""
    token, part = pl.col("token"), pl.col("code").str.split("//").list.get(1)
    leaves = token.str.starts_with("DISCHARGE_LOCATION//")
    dies = pl.col("outcome") == "DIED"
    discharges = rows.filter(leaves).select("hadm_id", end="time", outcome=part)
    hospital = (
        rows.filter(token.str.starts_with("ADMISSION_TYPE//"))
        .select("subject_id", "hadm_id", stay_id="hadm_id", start="time", unit=part)
        .join(discharges, on="hadm_id", maintain_order="left")
        .with_columns(died=dies, death_time=pl.when(dies).then("end"), kind=pl.lit("hospital"))
    )
    # Who leaves the hospital from the ICU is dead: all others leave the ICU first.
    icu = (
        rows.filter(leaves | pl.col("stay_id").is_not_null())
        .with_columns(end=pl.col("time").shift(-1), died=leaves.shift(-1))
        .filter(token.str.starts_with("ICU_TYPE//"))
        .select(
            *("subject_id", "hadm_id", "stay_id", "end", "died"),
            start="time",
            parent_id="hadm_id",
            unit=part,
            outcome=part,
            death_time=pl.when("died").then("end"),
            kind=pl.lit("icu"),
        )
    )
    stays = pl.concat([hospital, icu], how="diagonal_relaxed")
    schema = dict(pl.from_arrow(STAY_SCHEMA.empty_table()).schema)
    return stays.select(pl.col(name).cast(kind) for name, kind in schema.items()).sort(
        "subject_id", "start", "kind", "stay_id"
    )


@dataclass(frozen=True)
class Beliefs:
    """What a reader of timelines knows after each token.

    Attributes:
        log_probability: (N,) log p(token | all before it in its timeline), nats.
        node: (N,) where the process stands after it.
        state: (N, S) P(severity after it | all tokens up to it).
    """

    log_probability: np.ndarray
    node: np.ndarray
    state: np.ndarray

    def at(self, index: Sequence[int] | np.ndarray) -> Beliefs:
        """Those after the tokens of these numbers."""
        return Beliefs(self.log_probability[index], self.node[index], self.state[index])


class Exact:
    """The truth about timelines of one tokeniser.

    Args:
        process: with the tokeniser's breaks.
        vocabulary: its tokens, in order of their ids.
    """

    #: Width of the steps at which the time until an event is tabulated; all gaps' bounds are
    #: multiples of it.
    STEP = 5 * MINUTE

    def __init__(self, process: Process, vocabulary: tuple[str, ...]) -> None:
        self.process = process
        self.vocabulary = vocabulary
        self._numbers = np.array([TOKEN.get(token, -1) for token in vocabulary])
        self._passages: dict[tuple[tuple[str, ...], tuple[str, ...], float], Passage] = {}

    def follow(self, tokens: np.ndarray, offsets: np.ndarray) -> Beliefs:
        """Filter timelines, each from its first token.

        Args:
            tokens: (N,) ids in the vocabulary.
            offsets: (n + 1,) bounds of the timelines.

        Raises:
            ValueError: a token that cannot follow those before it.
        """
        tokens, offsets = self._numbers[np.asarray(tokens)], np.asarray(offsets)
        log_probability = np.empty(len(tokens))
        nodes = np.empty(len(tokens), int)
        states = np.empty((len(tokens), STATES))
        sizes = np.diff(offsets)
        longest = np.argsort(-sizes, kind="stable")
        node = np.zeros(len(sizes), int)
        state = np.tile(START, (len(sizes), 1))
        for place in range(sizes.max(initial=0)):
            at = offsets[longest[: (sizes > place).sum()]] + place
            node, state = node[: len(at)], state[: len(at)]
            token = tokens[at]
            joint = np.einsum("ns,nst->nt", state, self.process.move[node, token])
            total = joint.sum(axis=1)
            wrong = np.flatnonzero((total <= 0) | (token < 0))
            if len(wrong):
                raise ValueError(f"token {at[wrong[0]]} cannot follow those before it")
            node, state = self.process.to[node, token], joint / total[:, None]
            log_probability[at], nodes[at], states[at] = np.log(total), node, state
        return Beliefs(log_probability, nodes, states)

    def log_probability(self, tokens: np.ndarray) -> np.ndarray:
        """(n,) log p(token | those before it) of one timeline, nats."""
        return self._one(tokens).log_probability

    def posterior(self, tokens: np.ndarray) -> np.ndarray:
        """(S,) P(severity | tokens of a timeline so far)."""
        return self._last(tokens).state[0]

    def next_tokens(self, beliefs: Beliefs) -> np.ndarray:
        """(N, V) P(next token | tokens so far), nothing after the end."""
        share = self.process.move.sum(axis=3)[beliefs.node]
        following = np.einsum("ns,nvs->nv", beliefs.state, share)
        return np.where(self._numbers < 0, 0, following[:, self._numbers])

    def next_token(self, tokens: np.ndarray) -> np.ndarray:
        """(V,) P(next token | tokens of a timeline so far)."""
        return self.next_tokens(self._last(tokens))[0]

    def risk(
        self, tokens: np.ndarray, question: str | Question, elapsed: float = 0
    ) -> tuple[float, float]:
        """P(event | tokens of a timeline so far), and its standard error, which is 0.

        Args:
            question: one, or the name of one of `QUESTIONS`.
            elapsed: seconds since the stay's begin, which the horizon counts from.
        """
        return float(self.risks(self._last(tokens), question, elapsed)[0]), 0.0

    def risks(
        self, beliefs: Beliefs, question: str | Question, elapsed: np.ndarray | float = 0
    ) -> np.ndarray:
        """(N,) `risk` after each of many tokens, by first passage (no simulation)."""
        asked = QUESTIONS[question] if isinstance(question, str) else question
        left = np.broadcast_to(asked.horizon - np.asarray(elapsed), beliefs.node.shape)
        if asked.at_horizon:
            # What happens unless a competing event comes first, and in time.
            return 1 - self._passage(asked.competing, asked.event, asked.horizon)(beliefs, left)
        return self._passage(asked.event, asked.competing, asked.horizon)(beliefs, left)

    def _one(self, tokens: np.ndarray) -> Beliefs:
        return self.follow(tokens, np.array([0, len(tokens)]))

    def _last(self, tokens: np.ndarray) -> Beliefs:
        if not len(tokens):
            return Beliefs(np.zeros(1), np.zeros(1, int), START[None])
        return self._one(tokens).at([-1])

    def _passage(self, event: Sequence[str], competing: Sequence[str], horizon: float) -> Passage:
        key = tuple(event), tuple(competing), horizon
        if key not in self._passages:
            self._passages[key] = Passage(self.process, *key)
        return self._passages[key]


class Passage:
    """P(an event comes before its competitors within a time), from everywhere in the process.

    At (node, severity) z, F(z, x) = p(z) + sum over gaps g of Q_g(z, y) E[F(y, x - length of g)]:
    p is the probability of the event before any time passes, Q_g that of coming to y, behind g.
    Gaps are uniform in their buckets, so that the expectation is a difference of the integral of F,
    which is tabulated from x = 0 upwards by the trapezoid rule.
    """

    def __init__(
        self, process: Process, event: Sequence[str], competing: Sequence[str], horizon: float
    ) -> None:
        self.horizon = horizon
        count = len(process.nodes) * STATES
        hit, lost = (np.isin(TOKENS, names) for names in (event, competing))
        happens = process.move[:, hit].sum(axis=(1, 3)).reshape(-1)
        steps = [
            self._matrix(process, token) for token in np.flatnonzero(~hit & ~lost & ~IS_INTERVAL)
        ]
        at_once = np.linalg.inv(np.eye(count) - sum(steps))
        gaps = np.stack([at_once @ self._matrix(process, TOKEN[name]) for name in INTERVALS])
        now = at_once @ happens
        if np.isinf(horizon):
            self.always = np.linalg.solve(np.eye(count) - gaps.sum(axis=0), now)
            return
        if horizon > 180 * DAY:
            raise ValueError("horizons end at half a year, or never")
        self.now = now
        self.landings = np.flatnonzero(gaps.any(axis=(0, 1)))
        self.gaps = gaps[:, :, self.landings]
        self.bounds = np.array(list(INTERVALS.values()))
        self.integral = self._tabulate()

    @staticmethod
    def _matrix(process: Process, token: int) -> np.ndarray:
        """(Z, Z) P(the token, and coming from z to z')."""
        nodes = len(process.nodes)
        matrix = np.zeros((nodes, STATES, nodes, STATES))
        start = np.flatnonzero(process.to[:, token] >= 0)
        matrix[start, :, process.to[start, token]] = process.move[start, token]
        return matrix.reshape(nodes * STATES, -1)

    def _tabulate(self) -> np.ndarray:
        """(X, L) the integral of F from 0 to each multiple of `Exact.STEP`, at the landings."""
        size = int(np.ceil(self.horizon / Exact.STEP)) + 1
        integral = np.zeros((size, len(self.landings)))
        low, high = (self.bounds // Exact.STEP).T
        now, gaps = self.now[self.landings], self.gaps[:, self.landings]
        width = (high - low) * Exact.STEP
        before = now
        for x in range(1, size):
            mean = integral[np.maximum(x - low, 0)] - integral[np.maximum(x - high, 0)]
            value = now + np.einsum("gzl,gl->z", gaps, mean / width[:, None])
            integral[x] = integral[x - 1] + Exact.STEP * (before + value) / 2
            before = value
        return integral

    def __call__(self, beliefs: Beliefs, left: np.ndarray) -> np.ndarray:
        """(N,) the probability within `left` seconds; nothing comes in none or less."""
        state = np.arange(STATES)
        if np.isinf(self.horizon):
            return (beliefs.state * self.always[beliefs.node[:, None] * STATES + state]).sum(axis=1)
        low, high = self.bounds.T
        mean = (self._integral(left[:, None] - low) - self._integral(left[:, None] - high)) / (
            high - low
        )[:, None]
        risk = np.zeros(len(left))
        for node in np.unique(beliefs.node):
            at = np.flatnonzero((beliefs.node == node) & (left > 0))
            z = node * STATES + state
            value = self.now[z] + np.einsum("ngl,gsl->ns", mean[at], self.gaps[:, z], optimize=True)
            risk[at] = (beliefs.state[at] * value).sum(axis=1)
        return risk

    def _integral(self, seconds: np.ndarray) -> np.ndarray:
        place = np.clip(seconds / Exact.STEP, 0, len(self.integral) - 1)
        whole = np.minimum(place.astype(int), len(self.integral) - 2)
        part = (place - whole)[..., None]
        return (1 - part) * self.integral[whole] + part * self.integral[whole + 1]
