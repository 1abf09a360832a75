"""Presets are checked when they are read, and faults are named with their place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from wardround.errors import WardroundError
from wardround.views.timeline import Preset, load_preset, preset_names
from wardround.views.timeline.compiler import compile_codes


def compiled(codes: list[str], rules: dict[str, Any], **more: Any) -> dict[str, list[list[str]]]:
    """Tokens of each code; a code of which nothing becomes has none."""
    preset = Preset.model_validate({"name": "test", "rules": rules, **more})
    entries = compile_codes(pl.Series(codes), preset)
    result: dict[str, list[list[str]]] = {code: [] for code in codes}
    for code, tokens in entries.drop_nulls("tokens").select("store_code", "tokens").iter_rows():
        result[code].append(tokens)
    return result


@pytest.mark.parametrize("name", ["ethos", "clmbr", "ehrmamba", "motor"])
def test_every_preset_of_the_package_is_valid(name: str) -> None:
    assert name in preset_names()
    preset = load_preset(name)
    assert preset.name == name
    # What is dumped for a saved tokeniser reads back the same.
    assert type(preset).model_validate(preset.model_dump(mode="json", exclude_unset=True)) == preset


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("name: x\nrules: {a: {codes: '(', tokens: [A]}}", "rules.a.codes.0: not a regular"),
        ("name: x\nrules: {a: {codes: x}}", "rules.a: a rule needs tokens"),
        ("name: x\nrules: {a: {codes: x, tokens: ['{y}']}}", "rules.a: template '{y}' uses"),
        ("name: x\nrules: {a: {codes: x, tokens: [A], wait: 1}}", "rules.a.wait: Extra inputs"),
        (
            "name: x\nrules: {a: {codes: x, tokens: [A], map: [{through: loinc}]}}",
            "rules.a.map.0.through: no mapping is called 'loinc'",
        ),
        (
            "name: x\nrules: {a: {codes: x, tokens: [A], value: {into: widths}}}",
            "rules.a.value: equal widths need both",
        ),
        ("name: x\nrules: {}\norder: [b, '*']", "order: no rule is called 'b'"),
        ("name: x\nrules: {}\nintervals: {tokens: {a: 5s}}", "intervals: '5s' is no duration"),
        ("name: x\nrules: {}\nintervals: {tokens: {a: 2h, b: 1h}}", "must ascend"),
        ("name: x\nrules: [", "not valid YAML in line 2"),
        ("just text", "a preset is a mapping"),
    ],
)
def test_faults_are_named_with_file_and_place(tmp_path: Path, text: str, place: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(WardroundError) as error:
        load_preset(file)
    assert str(error.value).startswith(str(file))
    assert place in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_presets_and_files_are_refused() -> None:
    with pytest.raises(WardroundError, match="choose one of clmbr, ehrmamba, ethos, motor"):
        load_preset("gpt")
    with pytest.raises(WardroundError, match="no such preset file"):
        load_preset("nowhere.yaml")


def test_changes_merge_and_paper_compat_comes_first() -> None:
    changes = {"rules": {"icu_chart": {"enabled": True}}, "context": {"bmi": None}}
    preset = load_preset("ethos", changes)
    assert preset.rules["icu_chart"].enabled
    assert list(preset.context) == ["gender", "race", "marital_status"]
    assert preset.clock == "known"
    published = load_preset("ethos", paper_compat=True)
    assert published.clock == "time"
    assert not published.rules["other_drug"].enabled
    assert load_preset("ethos", {"clock": "known"}, paper_compat=True).clock == "known"


def test_the_first_rule_that_fits_has_the_code() -> None:
    found = compiled(
        ["A//1", "A//2", "B"],
        {"one": {"codes": "^A//1$", "tokens": ["ONE"]}, "any": {"codes": "^A", "tokens": ["ANY"]}},
    )
    assert found == {"A//1": [["ONE"]], "A//2": [["ANY"]], "B": []}


def test_group_tidy_and_split() -> None:
    rule = {
        "codes": "^X//(?<kind>[^/]+)//(?<rest>.*)$",
        "group": {"kind": {"into": {"BIG": ["big*", "huge"]}, "drop": ["?"], "other": "SMALL"}},
        "tidy": ["rest"],
        "split": {"rest": {"head": "0:2", "tail": "2:"}},
        "tokens": ["{kind}", "H//{head}", "T//{tail}"],
    }
    found = compiled(["X//bigger//a bc", "X//huge//q", "X//tiny//zz", "X//?//zz"], {"x": rule})
    assert found["X//bigger//a bc"] == [["BIG", "H//A_", "T//BC"]]
    assert found["X//huge//q"] == [["BIG", "H//Q"]]  # an empty part has no token
    assert found["X//tiny//zz"] == [["SMALL", "H//ZZ"]]
    assert found["X//?//zz"] == []


def test_a_template_takes_the_first_field_that_is_not_empty() -> None:
    rule = {"codes": r"^U//(?<long>[^(]+)(?:\((?<short>.+)\))?$", "tokens": ["{short|long}"]}
    assert compiled(["U//Long (L)", "U//Only"], {"u": rule}) == {
        "U//Long (L)": [["L"]],
        "U//Only": [["Only"]],
    }


def test_codes_that_an_ontology_lacks_go_where_the_preset_says() -> None:
    codes = ["D//9//4280", "D//9//0000"]
    pattern = "^D//(?<version>9|10)//(?<code>.+)$"
    rest = {"codes": "^D", "tokens": ["REST"]}
    for unmapped, expected in (("drop", []), ("next", [["REST"]]), ("keep", [["ICD//0000"]])):
        rule = {
            "codes": pattern,
            "map": [{"through": "icd10cm", "unmapped": unmapped}],
            "tokens": ["ICD//{code}"],
        }
        found = compiled(codes, {"icd": rule, "rest": rest})
        assert found["D//9//4280"] == [["ICD//I509"]]
        assert found["D//9//0000"] == expected


def test_ancestors_become_tokens_of_the_event() -> None:
    rule = {
        "codes": "^D//(?<version>9|10)//(?<code>.+)$",
        "map": [{"through": "icd_ancestors"}],
        "tokens": ["{code}", "ICD{version}//{ancestors}"],
    }
    assert compiled(["D//10//I5021"], {"icd": rule})["D//10//I5021"] == [
        ["I5021", "ICD10//I502", "ICD10//I50", "ICD10//I30-I5A", "ICD10//I00-I99"]
    ]


def test_one_drug_may_become_several_codes(tmp_path: Path) -> None:
    table = tmp_path / "drugs.csv"
    table.write_text("name,atc_code\nMixture,A10BD07\nMixture,B01AC06\n")
    preset = load_preset("ethos", drug_table=table)
    entries = compile_codes(pl.Series(["MEDICATION//Mixture//Administered"]), preset)
    assert entries["name"].to_list() == ["ATC//A10BD07", "ATC//B01AC06"]
    assert entries["tokens"].to_list() == [
        ["ATC//A10", "ATC//4//B", "ATC//SUFFIX//D07"],
        ["ATC//B01", "ATC//4//A", "ATC//SUFFIX//C06"],
    ]
