"""Notes whose codes are known to the word: who wrote what, where, and what it was billed as.

A code is a pair of an adjective and a noun that stand beside each other, each of which many codes
share: words apart say little, the phrase says all. A denied phrase stands for nothing. Codes are as
frequent as Zipf has it, and some go together. Everything else in a note is filling.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from wardround.store import (
    CODE_SCHEMA,
    EVENT_SCHEMA,
    NOTE_SCHEMA,
    STAY_SCHEMA,
    PatientStore,
    StoreWriter,
    open_store,
    split_subjects,
)

ADJECTIVES = ("acute", "chronic", "mild", "severe", "diffuse", "focal", "recurrent")
NOUNS = ("oedema", "sepsis", "fracture", "stenosis", "effusion", "ulcer", "ataxia")
DENIALS = ("denies", "without", "no")
START = datetime(2150, 1, 1)


@dataclass(frozen=True)
class PlantedNotes:
    """A store, and where each code of each note was written.

    Attributes:
        store: of discharge notes and ICD-10 codes.
        phrases: of each code, as it is printed.
        mentions: `note_id`, `code`, `start`, `stop`, `denied`.
    """

    store: PatientStore
    phrases: dict[str, str]
    mentions: pl.DataFrame


def plant_notes(
    folder: Path,
    *,
    subjects: int = 1_500,
    codes: int = 30,
    words: tuple[int, int] = (150, 400),
    late: int | None = None,
    filling: int = 800,
    seed: int = 0,
) -> PlantedNotes:
    """Write a store.

    Args:
        folder: that it goes to.
        subjects: each with one admission, every fifth with two.
        codes: how many; at most adjectives times nouns.
        words: fewest and most filling words of a note.
        late: the first code's phrase stands after so many words, and nowhere before.
        filling: distinct words between the phrases.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    pairs = [f"{adjective} {noun}" for adjective in ADJECTIVES for noun in NOUNS]
    chosen = rng.permutation(len(pairs))[:codes]
    plain = [f"{letter}{number:02d}" for letter in "ABCD" for number in range(1, 40)]
    names = [plain[k] + ("" if k % 5 == 0 else str(k % 9)) for k in range(codes)]
    phrases = dict(zip(names, (pairs[k] for k in chosen), strict=True))
    share = np.maximum(0.4 / np.arange(1, codes + 1) ** 0.6, 0.05)
    lexicon = [f"{a}{b}" for a in "bdfgklmnprst" for b in _ENDINGS][:filling]
    rows: dict[str, list[dict[str, object]]] = {"events": [], "stays": [], "notes": []}
    mentions = []
    for subject in range(1, subjects + 1):
        for visit in range(1 + (subject % 5 == 0)):
            hadm = 20_000_000 + 2 * subject + visit
            admitted = START + timedelta(days=200 * visit + subject % 90)
            left = admitted + timedelta(days=3)
            present = rng.random(codes) < share
            present[1] |= present[0] and rng.random() < 0.5  # some go together
            present[rng.integers(codes)] |= not present.any()
            text, found = _write(rng, names, phrases, present, lexicon, words, late)
            note = f"{subject}-DS-{visit + 1}"
            mentions += [{"note_id": note, **mention} for mention in found]
            who = {"subject_id": subject, "hadm_id": hadm}
            known = left + timedelta(days=1)
            rows["notes"].append(
                {
                    **who,
                    "note_id": note,
                    "note_type": "discharge",
                    "note_seq": visit + 1,
                    "time": left,
                    "available_time": known,
                    "text": text,
                    "details": [],
                }
            )
            rows["stays"].append({**who, "stay_id": hadm, "kind": "hospital", "start": admitted})
            rows["stays"][-1] |= {"end": left, "died": False}
            rows["events"] += [
                {**who, "time": left, "available_time": known, "code": f"DIAGNOSIS//ICD//10//{n}"}
                for n, there in zip(names, present, strict=True)
                if there
            ]
    _store(folder, rows)
    printed = {name: _dotted(name) for name in names}
    table = pl.DataFrame(mentions).with_columns(pl.col("code").replace(printed))
    return PlantedNotes(
        open_store(folder), {printed[name]: phrase for name, phrase in phrases.items()}, table
    )


_ENDINGS = [f"{v}{c}{w}" for v in "aeiou" for c in "lmnrst" for w in ("", "a", "e")]


def _dotted(code: str) -> str:
    return code if len(code) == 3 else f"{code[:3]}.{code[3:]}"


def _write(
    rng: np.random.Generator,
    names: list[str],
    phrases: dict[str, str],
    present: np.ndarray,
    lexicon: list[str],
    words: tuple[int, int],
    late: int | None,
) -> tuple[str, list[dict[str, object]]]:
    """A note, and where the phrases stand in it."""
    length = int(rng.integers(words[0], words[1] + 1))
    said = [(name, False) for name, there in zip(names, present, strict=True) if there]
    absent = [name for name, there in zip(names, present, strict=True) if not there]
    denied = rng.permutation(absent)[: rng.binomial(3, 0.5)].tolist()
    said += [(name, True) for name in denied if late is None or name != names[0]]
    # Loose adjectives and nouns say nothing.
    loose = rng.choice([*ADJECTIVES, *NOUNS], 4)
    fill = rng.permutation([*rng.choice(lexicon, length - len(loose)), *loose]).tolist()
    pieces: list[tuple[int, str, str | None, bool]] = [
        (at, word, None, False) for at, word in enumerate(fill)
    ]
    for name, is_denied in said:
        at = int(rng.integers(0, length))
        if late is not None and name == names[0]:
            at = int(rng.integers(late, length))
        phrase = phrases[name]
        if is_denied:
            phrase = f"{rng.choice(DENIALS)} {phrase}"
        pieces.append((at, phrase, name, is_denied))
    text, found = "", []
    for _, piece, name, is_denied in sorted(pieces, key=lambda piece: piece[0]):
        if name is not None:
            start = len(text) + len(piece) - len(phrases[name])
            found.append(
                {"code": name, "start": start, "stop": len(text) + len(piece), "denied": is_denied}
            )
        text += piece + (". " if name is not None or rng.random() < 0.1 else " ")
    return text, found


def _store(folder: Path, rows: dict[str, list[dict[str, object]]]) -> None:
    schemas = {"events": EVENT_SCHEMA, "stays": STAY_SCHEMA, "notes": NOTE_SCHEMA}
    frames = {
        name: pl.DataFrame(rows[name], schema=dict(pl.from_arrow(schema.empty_table()).schema))
        for name, schema in schemas.items()
    }
    events = frames["events"].sort("subject_id", "time", maintain_order=True)
    subjects = events["subject_id"].unique().sort()
    splits = pl.DataFrame({"subject_id": subjects, "split": split_subjects(subjects)})
    with StoreWriter(folder) as writer:
        for (split,), own in sorted(splits.group_by("split")):
            shard = f"{split}/0"
            writer.write_shard(shard, events.join(own, on="subject_id", how="semi"))
            notes = frames["notes"].join(own, on="subject_id", how="semi")
            writer.write_notes(shard, notes.sort("subject_id", "time", "note_seq"))
        counts = events.group_by("code").agg(count=pl.len().cast(pl.Int64)).sort("code")
        writer.finish(
            codes=counts.with_columns(
                description=pl.lit(None, pl.String),
                parent_codes=pl.lit(None, pl.List(pl.String)),
            ).select(CODE_SCHEMA.names),
            stays=frames["stays"],
            splits=splits,
            provenance={"source": "planted notes", "source_version": "0", "access": "synthetic"},
            dataset={"dataset_name": "planted notes"},
        )
