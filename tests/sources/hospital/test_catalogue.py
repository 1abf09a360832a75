"""The catalogue of conditions: what a wrong one says, and what a longer one does."""

from __future__ import annotations

import gzip
from importlib.resources import files as package_files
from typing import Any

import numpy as np
import pytest
import yaml

from wardround.errors import WardroundError
from wardround.sources.hospital.catalogue import VITALS, load_catalogue, parse_catalogue
from wardround.sources.hospital.chunk import Chunk
from wardround.sources.hospital.ed import write_ed
from wardround.sources.hospital.files import TableFiles
from wardround.sources.hospital.hosp import write_hosp
from wardround.sources.hospital.icu import write_icu
from wardround.sources.hospital.laboratory import write_laboratory

CHRONIC = {
    "name": "gout",
    "prevalence": 0.1,
    "onset": 0.01,
    "per_decade": 0.2,
    "hospital": 0.1,
    "critical": 0.0,
    "icd9": ["2749"],
    "icd10": ["M109"],
    "phrases": ["gout"],
}
ACUTE = {
    "name": "gout_attack",
    "weight": 1.0,
    "severity": -0.5,
    "recovery": 0.3,
    "unit": "Medicine",
    "icd9": ["27401"],
    "icd10": ["M10071"],
    "phrases": ["Foot pain", "Podagra"],
}
COURSE = {
    "recovered": -1.0,
    "spread": 0.3,
    "death_rise": 1.0,
    "death_hours": 24,
    "icu_rise": 1.0,
    "icu_hours": 24,
}


def catalogue_of(chronic: list[dict[str, Any]], acute: list[dict[str, Any]]) -> str:
    return yaml.safe_dump({"course": COURSE, "chronic": chronic, "acute": acute})


def packaged() -> dict[str, Any]:
    path = package_files("wardround.sources.hospital") / "catalogue.yaml"
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize(
    ("chronic", "acute", "message"),
    [
        (
            {"risk": {"goot": 1.0}},
            {},
            "gout: risk names 'goot', which is no chronic condition listed before it",
        ),
        ({"risk": {"gout": 1.0}}, {}, "gout: risk names 'gout', which is no .*"),
        ({}, {"risk": {"gout_attack": 1.0}}, "gout_attack: risk names 'gout_attack', .*"),
        ({"labs": {"urate": 1.0}}, {}, "gout: no such lab or vital sign: 'urate'"),
        ({}, {"vitals": {"pulse": 1.0}}, "gout_attack: no such lab or vital sign: 'pulse'"),
        ({}, {"name": "gout"}, "gout is listed twice"),
        ({"prevalence": -0.1}, {}, "chronic: gout: prevalence: Input should be greater than 0"),
        ({"prevalence": 1.0}, {}, "chronic: gout: prevalence: Input should be less than 1"),
        ({"onset": 0}, {}, "chronic: gout: onset: Input should be greater than 0"),
        ({}, {"recovery": -1}, "acute: gout_attack: recovery: Input should be greater than 0"),
        ({}, {"weight": -1}, "acute: gout_attack: weight: Input should be greater than or .* 0"),
        ({}, {"weight": 0}, "no acute condition has a weight above 0: nobody would visit"),
        ({"drugs": ["Uricase"]}, {}, "gout: no such drug in formulary.csv: 'Uricase'"),
        ({"icd10": []}, {}, "chronic: gout: icd10: List should have at least 1 item .*"),
        ({}, {"smell": "sweet"}, "acute: gout_attack: smell: Extra inputs are not permitted"),
        ({"name": None}, {}, "chronic: None: name: Input should be a valid string"),
    ],
)
def test_a_wrong_condition_is_named(
    chronic: dict[str, Any], acute: dict[str, Any], message: str
) -> None:
    with pytest.raises(WardroundError, match=f"^catalogue: {message}$") as raised:
        parse_catalogue(catalogue_of([CHRONIC | chronic], [ACUTE | acute]))
    assert "\n" not in str(raised.value)


def test_an_acute_condition_raises_no_risk_of_another() -> None:
    later = ACUTE | {"name": "fall", "risk": {"gout_attack": 1.0}}
    with pytest.raises(WardroundError, match="fall: risk names 'gout_attack'"):
        parse_catalogue(catalogue_of([CHRONIC], [ACUTE, later]))


def test_a_condition_without_a_name_is_numbered() -> None:
    nameless = {key: value for key, value in ACUTE.items() if key != "name"}
    with pytest.raises(WardroundError, match=r"^catalogue: acute: 1: name: Field required$"):
        parse_catalogue(catalogue_of([CHRONIC], [ACUTE, nameless]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chronic: [", r"while parsing a flow node .* line 1, column 11"),
        ("", "Input should be a valid dictionary"),
        ("- gout", "Input should be a valid dictionary"),
        ("{course: 3}", "course: Input should be a valid dictionary"),
        ("{course: {spread: -1}}", "course: recovered: Field required"),
    ],
)
def test_a_text_that_is_no_catalogue(text: str, message: str) -> None:
    with pytest.raises(WardroundError, match=f"^catalogue: {message}") as raised:
        parse_catalogue(text)
    assert "\n" not in str(raised.value)


def test_a_new_condition_needs_no_code(tmp_path: Any) -> None:
    shows = {"labs": {"creatinine": 2.0}, "vitals": {"temperature": 1.0}, "drugs": ["Colchicine"]}
    content = packaged()
    content["chronic"].append(CHRONIC | {"risk": {"obesity": 1.5}, "bmi": 2.0})
    content["acute"].append(
        ACUTE | shows | {"risk": {"gout": 3.0}, "procedures10": ["0S9M3ZX"], "infection": True}
    )
    catalogue = parse_catalogue(yaml.safe_dump(content))
    chunk = Chunk.draw(catalogue, seed=3, number=0, count=1_000)
    has = chunk.encounters.chronic[:, -1]
    comes = chunk.encounters.acute == len(catalogue.acute) - 1
    assert has.sum() > 20 and comes[has].mean() > 4 * comes[~has].mean() > 0
    obese = chunk.encounters.chronic[:, [c.name for c in catalogue.chronic].index("obesity")]
    assert has[obese].mean() > 1.5 * has[~obese].mean()
    everything = np.arange(len(chunk))
    moved = chunk.shifts(everything, chunk.encounters.severity, "labs", ["creatinine"])[:, 0]
    severe = chunk.encounters.severity > 0
    assert moved[comes & severe].mean() > moved[~comes & severe].mean() + 1
    with TableFiles(tmp_path) as out:
        for write in (write_hosp, write_laboratory, write_icu, write_ed):
            write(chunk, out)
    text = {
        name: gzip.decompress((tmp_path / f"{name}.csv.gz").read_bytes()).decode()
        for name in ("hosp/diagnoses_icd", "hosp/prescriptions", "ed/triage", "ed/pyxis")
    }
    assert min(text["hosp/diagnoses_icd"].count(code) for code in ("M109", "M10071")) > 5
    assert "Colchicine" in text["hosp/prescriptions"] and "Colchicine" in text["ed/pyxis"]
    assert "Podagra" in text["ed/triage"]


def test_any_catalogue_will_do(tmp_path: Any) -> None:
    """No writer asks for a condition by its name."""
    catalogue = parse_catalogue(catalogue_of([CHRONIC], [ACUTE]))
    chunk = Chunk.draw(catalogue, seed=0, number=0, count=50)
    with TableFiles(tmp_path) as out:
        for write in (write_hosp, write_laboratory, write_icu, write_ed):
            write(chunk, out)
    assert out.rows["hosp/admissions"] and out.rows["hosp/omr"] and out.rows["ed/triage"]


def test_the_packaged_catalogue_covers_every_modality() -> None:
    catalogue = load_catalogue()
    conditions = [*catalogue.chronic, *catalogue.acute]
    assert len(catalogue.chronic) >= 20 and len(catalogue.acute) >= 25
    for field in ("labs", "vitals", "drugs", "ecg", "film"):
        assert sum(bool(getattr(c, field)) for c in conditions) >= 3, field
    assert sum(len(c.phrases) > 1 for c in conditions) > len(conditions) / 2
    assert {name for c in conditions for name in c.vitals} == set(VITALS)
    assert sum(a.infection for a in catalogue.acute) == 5


def test_conditions_show_with_their_severity() -> None:
    catalogue = load_catalogue()
    chunk = Chunk.draw(catalogue, seed=0, number=0, count=500)
    e = chunk.encounters
    moved = chunk.shifts(np.arange(len(chunk)), e.severity, "vitals", ["o2sat"])[:, 0]
    chronic = np.array([c.vitals.get("o2sat", 0.0) for c in catalogue.chronic])
    acute = np.array([a.vitals.get("o2sat", 0.0) for a in catalogue.acute])
    for row in np.flatnonzero(acute[e.acute] != 0)[:50]:
        weight = min(max(e.severity[row] + 1, 0), 3)
        expected = e.chronic[row] @ chronic + weight * acute[e.acute[row]]
        assert moved[row] == pytest.approx(expected)
