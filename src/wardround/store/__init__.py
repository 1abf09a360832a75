"""The patient store: MEDS events and notes by shard, stays, code metadata and provenance.

Features read events through `known_at` and notes through `notes_known_at` alone: they show what a
clinician could have known.
"""

from wardround.store.asof import known_at, notes_known_at, stays_known_at
from wardround.store.atomic import atomic_write
from wardround.store.reader import PatientStore, open_store
from wardround.store.schema import (
    CODE_SCHEMA,
    EVENT_SCHEMA,
    NOTE_SCHEMA,
    SPLIT_SCHEMA,
    SPLITS,
    STAY_KINDS,
    STAY_SCHEMA,
)
from wardround.store.splits import DEFAULT_FRACTIONS, hash_uniform, split_subjects
from wardround.store.writer import StoreWriter

__all__ = [
    "CODE_SCHEMA",
    "DEFAULT_FRACTIONS",
    "EVENT_SCHEMA",
    "NOTE_SCHEMA",
    "SPLITS",
    "SPLIT_SCHEMA",
    "STAY_KINDS",
    "STAY_SCHEMA",
    "PatientStore",
    "StoreWriter",
    "atomic_write",
    "hash_uniform",
    "known_at",
    "notes_known_at",
    "open_store",
    "split_subjects",
    "stays_known_at",
]
