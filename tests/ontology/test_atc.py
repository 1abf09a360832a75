"""Drug names to ATC codes."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import WardroundError
from wardround.ontology import atc_codes
from wardround.ontology.atc import _built_in
from wardround.sources.hospital.catalogue import load_catalogue
from wardround.store import PatientStore

#: Of these ATC names no single substance.
GROUP_CODES = {"A11AA", "A11BA", "A11EA", "A11EB", "B03AC"}


def codes(name: str, table: Path | None = None) -> list[str]:
    return atc_codes(pl.Series([name]), table)["atc_code"].to_list()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Furosemide", ["C03CA01"]),
        ("MetRONIDAZOLE (FLagyl)", ["J01XD01"]),
        ("Metoprolol Succinate XL", ["C07AB02"]),
        ("metoprolol TARTRATE 25mg TAB", ["C07AB02"]),
        ("Ciprofloxacin HCl", ["J01MA02"]),
        ("Hydrocortisone Na Succ.", ["H02AB09"]),
        ("OxyCODONE (Immediate Release) ", ["N02AA05"]),
        ("Albumin 25% (12.5g / 50mL)", ["B05AA01"]),
        ("Magnesium Sulfate Replacement (Critical Care and Oncology)", ["B05XA05"]),
        ("Insulin (Regular) for Hyperkalemia", ["A10AB01"]),
        ("PNEUMOcoccal 23-valent polysaccharide vaccine", ["J07AL01"]),
        # Names that ATC takes for something else when they are read by their first word.
        ("Potassium Chloride", ["A12BA01"]),
        ("Potassium Phosphate", ["B05XA06"]),
        ("Sodium Bicarbonate", ["B05XA02"]),
        ("Calcium Acetate", ["V03AE07"]),
        ("Insulin Glargine", ["A10AE04"]),
        ("HumuLIN 70/30", ["A10AD01"]),
        ("Vitamin B Complex w/C", ["A11EB"]),
    ],
)
def test_single_drugs(name: str, expected: list[str]) -> None:
    assert codes(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Piperacillin-Tazobactam", ["J01CR05"]),
        ("Albuterol-Ipratropium", ["R03AL02"]),
        ("Ipratropium-Albuterol Neb", ["R03AL02"]),
        ("OxyCODONE--Acetaminophen (5mg-325mg)", ["N02AJ17"]),
        ("Hydrocodone-Acetamin(5m 1TAB TAB", ["R05DA03", "N02BE01"]),
        ("Sulfameth/Trimethoprim DS", ["J01EE01"]),
        ("Lisinopril-Hydrochlorothiazide", ["C09BA03"]),
        ("Amlodipine / Lisinopril", ["C08CA01", "C09AA03"]),
        ("Guaifenesin-Dextromethorphan", ["R05CA03", "R05DA09"]),
        ("Emtricitabine-Tenofovir Alafenamide", ["J05AR17"]),
    ],
)
def test_combinations_have_their_own_code_or_those_of_their_ingredients(
    name: str, expected: list[str]
) -> None:
    assert codes(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Erythromycin", "J01FA01"),
        ("Erythromycin 0.5% Ophth Oint", "S01AA17"),
        ("Fluticasone Propionate 110mcg", "R03BA05"),
        ("Fluticasone Propionate NASAL", "R01AD08"),
        ("Vancomycin", "J01XA01"),
        ("Vancomycin Oral Liquid", "A07AA09"),
        ("Fentanyl Citrate", "N01AH01"),
        ("Fentanyl Patch", "N02AB03"),
        ("Budesonide", "R03BA02"),
        ("Budesonide EC", "A07EA06"),
        ("Miconazole Nitrate Vag Cream 2%", "G01AF04"),
        ("CloNIDine Patch", "C02AC01"),  # no code of its own for the form
    ],
)
def test_the_form_chooses_between_a_drug_s_codes(name: str, expected: str) -> None:
    assert codes(name) == [expected]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Vancomyci 1000mg/200mL 200mL BAG", "J01XA01"),
        ("NORepinephri 8mg/250mL 250mL BAG", "C01CA03"),
        ("Calcium Gluco 2g/100mL 100mL BAG", "A12AA03"),
        ("HYDROmorphone (D 1mg/1mL 1mL SYR", "N02AA03"),
        ("Piperacilli 4,5g/100mL 100mL Bag", "J01CR05"),
    ],
)
def test_labels_that_were_cut_off(name: str, expected: str) -> None:
    assert codes(name) == [expected]


@pytest.mark.parametrize(
    "name",
    [
        *("", "UNK", "12 mg", "Sarna Lotion", "Sterile Water", "Vitamin D3/ placebo"),
        *("Rabies Immune Globulin", "Sodium Chloride Nasal", "Sodium", "Calcium", "Hydrox"),
    ],
)
def test_what_is_unknown_or_ambiguous_has_no_code(name: str) -> None:
    assert codes(name) == []


def test_each_distinct_name_as_it_came() -> None:
    names = pl.Series(["Warfarin", None, "Nonsuch", "warfarin ", "Warfarin"])
    assert atc_codes(names).rows() == [("Warfarin", "B01AA03"), ("warfarin ", "B01AA03")]
    assert atc_codes(pl.Series([], dtype=pl.String)).schema == {
        "name": pl.String,
        "atc_code": pl.String,
    }


@given(st.text(max_size=60))
def test_any_text_is_taken(name: str) -> None:
    assert all(re.fullmatch(r"[A-Z]\d\d[A-Z]{1,2}(\d\d)?", code) for code in codes(name))


def test_every_name_of_the_table_is_found_as_it_stands() -> None:
    table = _built_in().codes
    for words, by_form in table.items():
        if by_form.get(""):
            assert codes(" ".join(words)), words


def test_a_table_of_ones_own_comes_first(tmp_path: Path) -> None:
    table = tmp_path / "drugs.csv"
    table.write_text(
        "name,atc_code,note\n"
        "Sarna Lotion,D04AX,x\nmetoprolol tartrate,c07ab02,\nMetoprolol Tartrate,C07AB52,\n"
        "Furosemide,,not here\nNonsuch,A01AA01,\n"
    )
    assert codes("sarna  lotion", table) == ["D04AX"]
    assert codes("Metoprolol Tartrate", table) == ["C07AB02", "C07AB52"]
    assert codes("Metoprolol Tartrate 25mg TAB", table) == ["C07AB02", "C07AB52"]
    assert codes("Metoprolol Succinate XL", table) == ["C07AB02"]
    assert codes("FUROSEMIDE", table) == []
    assert codes("Nonsuch-Warfarin", table) == ["A01AA01", "B01AA03"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("drug,atc\na,b\n", "lacks the column name, atc_code"),
        ("name,atc_code\nA,C03CA01\nB,frusemide\n", "line 3: 'FRUSEMIDE' is no ATC code"),
        ("", "cannot read"),
    ],
)
def test_a_bad_table_gets_one_line(tmp_path: Path, text: str, message: str) -> None:
    table = tmp_path / "drugs.csv"
    table.write_text(text)
    with pytest.raises(WardroundError, match=message) as error:
        codes("Furosemide", table)
    assert "\n" not in str(error.value)
    assert str(table) in str(error.value)


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WardroundError, match="cannot read the table of drugs"):
        codes("Furosemide", tmp_path / "nothing.csv")


def test_every_code_exists(shared_data: Path) -> None:
    """An independent list: the codes that RxNorm's concepts are linked to."""
    file = shared_data / "ontologies" / "drugs" / "RxNorm_to_ATC.csv.gz"
    if not file.is_file():
        pytest.skip(f"no {file}")
    with gzip.open(file, "rt") as stream:
        known = {line.strip().split(",")[1] for line in stream}
    ours = {c for forms in _built_in().codes.values() for found in forms.values() for c in found}
    assert len(ours) > 700
    assert ours - known == GROUP_CODES


def _given(store: PatientStore) -> pl.DataFrame:
    """Names of the drugs that were given, and how often."""
    code = pl.col("code")
    emar = code.str.extract(r"^MEDICATION//(.+)//Administered$")
    pyxis = code.str.extract(r"^ED//PYXIS//(.+)$")
    return (
        store.events()
        .select(name=pl.coalesce(emar, pyxis))
        .drop_nulls()
        .filter(pl.col("name") != "UNK")
        .group_by("name")
        .len()
        .collect()
    )


def test_coverage_of_real_names(demo: PatientStore) -> None:
    rows = _given(demo)
    known = rows.join(atc_codes(rows["name"]), on="name", how="semi")
    assert known["len"].sum() / rows["len"].sum() > 0.99


def test_coverage_of_the_synthetic_hospital(hospital: Any) -> None:
    rows = _given(hospital.store)
    known = rows.join(atc_codes(rows["name"]), on="name", how="semi")
    assert known["len"].sum() / rows["len"].sum() > 0.99


def test_the_catalogue_s_drugs_are_known() -> None:
    catalogue = load_catalogue()
    drugs = {d for c in (*catalogue.chronic, *catalogue.acute) for d in c.drugs}
    assert drugs - set(atc_codes(pl.Series(sorted(drugs)))["name"]) == set()
