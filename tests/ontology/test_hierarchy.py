"""Titles, chapters, ancestors; checked against the libraries' trees and the published lists."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import WardroundError
from wardround.ontology import CodeKind, code_ancestors, describe_codes
from wardround.ontology.tables import code_table, icd10_chapters


def frame(codes: list[str], version: int) -> pl.DataFrame:
    return pl.DataFrame({"icd_code": codes}).with_columns(icd_version=pl.lit(version))


@pytest.fixture(scope="module")
def lists(shared_data: Path) -> Path:
    folder = shared_data / "ontologies" / "icd"
    if not folder.is_dir():
        pytest.skip(f"no code lists at {folder}")
    return folder


@pytest.mark.parametrize(
    ("code", "version", "kind", "ancestors"),
    [
        ("I50.21", 10, "diagnosis", ["I502", "I50", "I30-I5A", "I00-I99"]),
        ("S00.00XA", 10, "diagnosis", ["S0000", "S000", "S00", "S00-S09", "S00-T88"]),
        ("B20", 10, "diagnosis", ["A00-B99"]),
        ("C4A.0", 10, "diagnosis", ["C4A", "C43-C44", "C00-D49"]),
        ("428.21", 9, "diagnosis", ["4282", "428", "420-429", "390-459"]),
        ("290.0", 9, "diagnosis", ["290", "290-294", "290-299", "290-319"]),
        ("803.01", 9, "diagnosis", ["8030", "803", "800-804", "800-829", "800-999"]),
        ("042", 9, "diagnosis", ["001-139"]),
        ("E810.1", 9, "diagnosis", ["E810", "E810-E819", "E800-E848", "E000-E999"]),
        ("V45.01", 9, "diagnosis", ["V450", "V45", "V40-V49", "V01-V91"]),
        ("V45.01", 10, "diagnosis", ["V450", "V45", "V40-V49", "V00-Y99"]),
        ("37.22", 9, "procedure", ["372", "37", "35-39"]),
        ("02703ZZ", 10, "procedure", ["027", "02", "0"]),
        ("nonsense", 10, "diagnosis", []),
        ("42", 9, "diagnosis", []),
        ("XXX", 10, "diagnosis", []),
    ],
)
def test_ancestors(code: str, version: int, kind: CodeKind, ancestors: list[str]) -> None:
    found = code_ancestors(frame([code], version), kind)
    assert found.rows() == [(code, version, ancestors)]


@pytest.mark.parametrize("version", [9, 10])
@given(data=st.data())
def test_the_parent_of_a_code_has_the_rest_of_its_chain(version: int, data: st.DataObject) -> None:
    codes = code_table(version)["code"]
    code = codes[data.draw(st.integers(0, len(codes) - 1))]
    chain = code_ancestors(frame([code], version))["ancestors"][0].to_list()
    parent = chain[0]
    if "-" not in parent:
        assert code.startswith(parent)
        assert code_ancestors(frame([parent], version))["ancestors"][0].to_list() == chain[1:]


def test_describe_mixed_codes() -> None:
    codes = pl.DataFrame(
        {
            "icd_code": ["i50.9", "428", "4280 ", "V4501", "V4501", "Q999Z", "F00", None],
            "icd_version": [10, 9, 9, 9, 10, 10, 10, 10],
        }
    )
    rows = {(row["icd_code"], row["icd_version"]): row for row in describe_codes(codes).to_dicts()}
    assert len(rows) == 7
    heart = rows["i50.9", 10]
    assert heart["code"] == "I509"
    assert heart["dotted"] == "I50.9"
    assert heart["title"] == "Heart failure, unspecified"
    assert (heart["known"], heart["billable"]) == (True, True)
    assert heart["chapter"] == "I00-I99"
    assert heart["chapter_title"] == "Diseases of the circulatory system"
    assert rows["4280 ", 9]["title"] == "Congestive heart failure, unspecified"
    assert (rows["428", 9]["known"], rows["428", 9]["billable"]) == (True, False)
    assert rows["428", 9]["title"] is None
    assert rows["V4501", 9]["title"] == "Cardiac pacemaker in situ"
    assert (rows["V4501", 10]["known"], rows["V4501", 10]["chapter"]) == (False, "V00-Y99")
    assert (rows["Q999Z", 10]["known"], rows["Q999Z", 10]["billable"]) == (False, None)
    assert rows["F00", 10]["chapter"] is None


def test_the_sources_own_titles_win_and_make_a_code_known() -> None:
    codes = frame(["I50.9", "Z0000LO", "I10"], 10)
    own = pl.DataFrame(
        {
            "icd_code": ["I509", "Z0000LO", "I10"],
            "icd_version": [10, 10, 9],
            "long_title": ["Heart failure, unspecified (local)", "House code", "of ICD-9"],
        }
    )
    found = describe_codes(codes, own)
    titles = dict(found.select("icd_code", "title").iter_rows())
    assert titles["I50.9"] == "Heart failure, unspecified (local)"
    assert titles["Z0000LO"] == "House code"
    assert titles["I10"] == "Essential (primary) hypertension"
    assert found["known"].all()
    assert found.height == 3


def test_a_dictionary_without_titles_is_refused() -> None:
    codes = frame(["I10"], 10)
    with pytest.raises(WardroundError, match="lacks the column long_title"):
        describe_codes(codes, codes)


def test_nothing_in_nothing_out() -> None:
    empty = frame([], 9).with_columns(icd_code=pl.lit("").cast(pl.String)).clear()
    assert describe_codes(empty).height == 0
    assert code_ancestors(empty).height == 0


def test_procedures_have_titles_and_chapters() -> None:
    rows = describe_codes(
        pl.DataFrame({"icd_code": ["3722", "02703ZZ"], "icd_version": [9, 10]}), kind="procedure"
    ).to_dicts()
    assert rows[0]["title"] == "Left heart cardiac catheterization"
    assert rows[0]["chapter_title"] == "Operations on the cardiovascular system"
    assert rows[1]["title"].startswith("Dilation of Coronary Artery, One Artery")
    assert rows[1]["chapter_title"] == "Medical and surgical"


def test_every_icd10_code_agrees_with_the_librarys_tree() -> None:
    import simple_icd_10_cm as icd10

    chapters = dict(
        zip(filter(icd10.is_chapter, icd10.get_all_codes()), icd10_chapters(), strict=True)
    )
    codes = [c for c in icd10.get_all_codes() if "-" not in c and not icd10.is_chapter(c)]
    found = code_ancestors(frame(codes, 10))
    assert found.height == len(set(codes)) > 98_000
    for code, _, ancestors in found.iter_rows():
        # The library names a block of one category like the category: B20, B20, chapter 1.
        tree = [chapters.get(node, node.replace(".", "")) for node in icd10.get_ancestors(code)]
        assert ancestors == list(dict.fromkeys(n for n in tree if n != code.replace(".", "")))
    described = describe_codes(frame(codes, 10))
    assert described["known"].all()
    assert described["chapter"].null_count() == 0
    assert set(described["chapter"]) == set(chapters.values())


def published_chain(code: str, parents: dict[str, str | None], root: str) -> list[str]:
    """The ancestors of a code in the published list, ranges cut to whole categories."""
    chain = []
    node = parents.get(code)
    while node:
        first, _, last = node.partition("-")
        name = f"{first}-{last.split('.')[0]}" if last else node.replace(".", "")
        if name != root and (not last or first != last.split(".")[0]):
            chain.append(name)
        node = parents.get(node)
    return chain


def test_icd9_ancestors_agree_with_the_published_hierarchy(lists: Path) -> None:
    parents = dict(
        pl.read_csv(lists / "ICD9CM.csv.gz", infer_schema=False)
        .select("code", "parent_code")
        .iter_rows()
    )
    codes = [code for code in parents if "-" not in code]
    found = code_ancestors(frame(codes, 9))
    odd = [
        code
        for code, _, ancestors in found.iter_rows()
        if ancestors != published_chain(code, parents, root="001-999")
    ]
    # The list hangs 538 under its chapter, past its block, and E849's ten places past E849.
    assert sorted(odd) == ["538", *(f"E849.{place}" for place in range(10))]
    assert found.height == 17_552
    assert describe_codes(frame(codes, 9))["known"].all()


def test_icd9_procedure_ancestors_agree_with_the_published_hierarchy(lists: Path) -> None:
    parents = dict(
        pl.read_csv(lists / "ICD9PROC.csv.gz", infer_schema=False)
        .select("code", "parent_code")
        .iter_rows()
    )
    found = code_ancestors(frame([code for code in parents if "-" not in code], 9), "procedure")
    for code, _, ancestors in found.iter_rows():
        chain = published_chain(code, parents, root="00-99")
        if code.startswith(("00", "17")):  # one-category chapters: our chain names both
            ancestors = [node for node in ancestors if node not in ("00", "00-00", "17", "17-17")]
            chain = [node for node in chain if node not in ("00", "17")]
        assert ancestors == chain, code
    assert found.height > 4_600


def test_the_icd10_release_of_2021_is_known_but_for_withdrawn_codes(lists: Path) -> None:
    order = pl.read_csv(lists / "icd10cm-order-Jan-2021.csv.gz", infer_schema=False)
    found = order.join(
        describe_codes(order.select(icd_code="code", icd_version=pl.lit(10))),
        left_on="code",
        right_on="icd_code",
    )
    assert found.height == order.height
    assert found["known"].mean() > 0.997
    assert found["chapter"].null_count() == 0
    assert (found["title"] == found["long"]).mean() > 0.99
    agree = found["billable_right"] == (found["billable"] == "1")
    assert agree.mean() > 0.998  # the rest gained children since


def test_mimics_own_dictionary_finds_a_chapter_for_every_code(shared_data: Path) -> None:
    hosp = shared_data / "mimic-iv-demo" / "2.2" / "hosp"
    if not hosp.is_dir():
        pytest.skip(f"no MIMIC-IV demo at {hosp}")
    for name, kind, known in (("diagnoses", "diagnosis", 0.99), ("procedures", "procedure", 0.95)):
        own = pl.read_csv(hosp / f"d_icd_{name}.csv.gz", schema_overrides={"icd_code": pl.String})
        alone = describe_codes(own, kind=kind)
        assert alone["chapter"].null_count() == 0
        assert alone["known"].mean() > known
        assert describe_codes(own, own, kind)["known"].all()
        assert describe_codes(own, own, kind)["title"].null_count() == 0
