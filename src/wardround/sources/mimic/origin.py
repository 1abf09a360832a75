"""What a source is, as far as its files tell: its name, release and terms of use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import polars as pl

from wardround.errors import WardroundError
from wardround.sources.mimic.engine import Engine
from wardround.sources.mimic.tables import SourceFile

#: From the strictest on.
ACCESS = ("credentialed", "open", "synthetic")
#: What the text of an open licence is told by.
OPEN_LICENCES = ("Open Database License", "Open Data Commons")


class Origin(NamedTuple):
    """Where a store's data comes from; `name` is what its data set is called."""

    source: str
    name: str
    version: str
    access: str


def find_origin(files: Mapping[str, SourceFile], subjects: pl.Series, engine: Engine) -> Origin:
    """Tell MIMIC-IV from its demo and from a synthetic hospital.

    Data from several folders is used by the terms of the strictest.

    Raises:
        WardroundError: a SYNTHETIC.json that cannot be read.
    """
    roots = {file.root for file in files.values()}
    is_demo = any(_is_demo(root / "demo_subject_id.csv", subjects) for root in roots)
    access = min((_access(root, is_demo) for root in roots), key=ACCESS.index)
    made = _synthetic(files["patients"].root)
    if made is not None:
        version = f"{made.get('generator')}, in the format of {made.get('mimic_iv_version')}"
        return Origin("synthetic-hospital", "Synthetic hospital", version, access)
    release = _release(files, engine)
    if is_demo:
        return Origin("mimic-iv-demo", "MIMIC-IV Clinical Database Demo", release, access)
    return Origin("mimic-iv", "MIMIC-IV", f"{release} (inferred from its columns)", access)


def _release(files: Mapping[str, SourceFile], engine: Engine) -> str:
    """The release, as far as the columns and years tell."""
    header = set(files["admissions"].header) if "admissions" in files else set()
    if "ethnicity" in header:
        return "1.0"
    if "anchor_year_group" in files["patients"].header:
        groups = engine.read_columns(files["patients"], ["anchor_year_group"])
        if groups.to_series().str.starts_with("2020").any():
            return "3.1"
    return "2.2"


def _access(root: Path, is_demo: bool) -> str:
    """How a folder's data may be used, by what lies in it: unknown is credentialed."""
    if _synthetic(root) is not None:
        return "synthetic"
    licence = root / "LICENSE.txt"
    if licence.is_file():
        text = licence.read_text(errors="replace")
        is_open = any(name in text for name in OPEN_LICENCES)
    else:
        is_open = is_demo
    return "open" if is_open else "credentialed"


def _synthetic(root: Path) -> dict[str, object] | None:
    """What the generator says of the hospital that it wrote; None for other folders."""
    mark = root / "SYNTHETIC.json"
    if not mark.is_file():
        return None
    try:
        return dict(json.loads(mark.read_text()))
    except (ValueError, TypeError) as error:
        raise WardroundError(f"{mark} is not what the generator wrote: {error}") from error


def _is_demo(listing: Path, subjects: pl.Series) -> bool:
    """Whether no subject is missing from the list that MIMIC-IV's open demo comes with.

    A stray copy of that list does not make credentialed data open.
    """
    if not listing.is_file():
        return False
    listed = {line.strip() for line in listing.read_text(errors="replace").splitlines()}
    return all(str(subject) in listed for subject in subjects)
