"""Columns of the patient store. Events and codes are MEDS tables with a few columns more."""

from __future__ import annotations

import pyarrow as pa

#: MEDS' names of the three splits.
SPLITS = ("train", "tuning", "held_out")

#: One row an event. `time` is null for static facts only. `available_time` is when a clinician
#: could first have known the row: not before `time`; null for static facts, and for rows with a
#: time that were never filed and are known to nobody.
EVENT_SCHEMA = pa.schema(
    [
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("time", pa.timestamp("us")),
        pa.field("code", pa.string(), nullable=False),
        pa.field("numeric_value", pa.float32()),
        pa.field("text_value", pa.large_string()),
        pa.field("available_time", pa.timestamp("us")),
        pa.field("hadm_id", pa.int64()),
        pa.field("stay_id", pa.int64()),
    ]
)

#: One row an ED, hospital or ICU stay.
#:
#: - `stay_id`: the id in the stay's own table (edstays.stay_id, admissions.hadm_id,
#:   icustays.stay_id); unique together with `kind`.
#: - `hadm_id`: the hospital stay that it is, lies in, or (ED) led to; `parent_id` the same for
#:   ED and ICU stays and null for hospital stays.
#: - `unit`: admission type, first care unit, or arrival transport; `outcome`: discharge location,
#:   last care unit, or ED disposition, worded as in the source.
STAY_SCHEMA = pa.schema(
    [
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("stay_id", pa.int64(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("start", pa.timestamp("us"), nullable=False),
        pa.field("end", pa.timestamp("us")),
        pa.field("hadm_id", pa.int64()),
        pa.field("parent_id", pa.int64()),
        pa.field("unit", pa.string()),
        pa.field("outcome", pa.string()),
        pa.field("died", pa.bool_()),
        pa.field("death_time", pa.timestamp("us")),
    ]
)

STAY_KINDS = ("ed", "hospital", "icu")

#: One row a note; a store may have none.
#:
#: - `note_id`: unique in the store. `note_type`: `discharge`, `radiology`, and `…_addendum` of
#:   either, which a source keeps as notes of their own; other sources may have other types.
#: - `note_seq`: orders a subject's notes of one type, where the source says so.
#: - `time`: when it was charted, a bare date at its midnight. `available_time`: when a clinician
#:   could first have read it, not before `time`; null for one that nobody could.
#: - `text`: as in the source, to the byte.
#: - `details`: what the source lists of the note beside its text, in the order of the source.
NOTE_SCHEMA = pa.schema(
    [
        pa.field("note_id", pa.string(), nullable=False),
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("hadm_id", pa.int64()),
        pa.field("note_type", pa.string(), nullable=False),
        pa.field("note_seq", pa.int32()),
        pa.field("time", pa.timestamp("us"), nullable=False),
        pa.field("available_time", pa.timestamp("us")),
        pa.field("text", pa.large_string(), nullable=False),
        pa.field(
            "details",
            pa.list_(
                pa.struct(
                    [
                        pa.field("name", pa.string()),
                        pa.field("value", pa.string()),
                        pa.field("ordinal", pa.int32()),
                    ]
                )
            ),
            nullable=False,
        ),
    ]
)

#: MEDS code metadata and how often a code occurs in the store.
CODE_SCHEMA = pa.schema(
    [
        pa.field("code", pa.string(), nullable=False),
        pa.field("description", pa.string()),
        pa.field("parent_codes", pa.list_(pa.string())),
        pa.field("count", pa.int64(), nullable=False),
    ]
)

SPLIT_SCHEMA = pa.schema(
    [
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
    ]
)
