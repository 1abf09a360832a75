"""Sections of notes: exact offsets in any order, and no heading where none is meant."""

from __future__ import annotations

import random
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.views.text.sections import (
    NAMES,
    REPORT_TITLES,
    TITLES,
    Section,
    sections,
    sections_of,
)

SUMMARY = """ \n\
Name:  ___                     Unit No:   ___
 \n\
Admission Date:  ___              Discharge Date:   ___
 \n\
Date of Birth:  ___             Sex:   F
 \n\
Service: MEDICINE
 \n\
Allergies: \n\
Penicillins / latex
 \n\
Attending: ___.
 \n\
Chief Complaint:
Short of breath
 \n\
Major Surgical or Invasive Procedure:
Thoracentesis on ___
 \n\
History of Present Illness:
___ year old woman who took no water tablets for a week and woke up
gasping. Past history as below: nothing else.
In the ED, initial vitals: 98.1 110 150/90
 \n\
Past Medical History:
- CHF
- gout
 \n\
Social History:
___
Family History:
Father with CAD
 \n\
Physical Exam:
ADMISSION PHYSICAL EXAM:
VS: 98.0 104
HEENT: moist
DISCHARGE PHYSICAL EXAM:
well
 \n\
Pertinent Results:
ADMISSION LABS:
___ 07:10AM BLOOD WBC-9.1 RBC-4.0
DISCHARGE LABS:
___ 06:00AM BLOOD WBC-7.0
CXR ___:
FINDINGS: effusion
IMPRESSION:
Effusion on the left
 \n\
Brief Hospital Course:
ACUTE ISSUES:
# CHF: diuresed
TRANSITIONAL ISSUES:
[ ] weigh daily
 \n\
Medications on Admission:
1. Furosemide 20 mg PO DAILY
 \n\
Discharge Medications:
1. Furosemide 40 mg PO DAILY
RX *furosemide 40 mg: 1 tablet daily
 \n\
Discharge Disposition:
Home With Service
 \n\
Facility:
___
 \n\
Discharge Diagnosis:
Primary diagnosis:
Heart failure
Secondary diagnosis:
Gout
 \n\
Discharge Condition:
Mental Status: Clear and coherent.
Activity Status: Ambulatory
 \n\
Discharge Instructions:
Dear Ms. ___,
Take your tablets.
Your team
 \n\
Followup Instructions:
___
"""
LAYOUT = [
    *("name", "unit_no", "admission_date", "discharge_date", "date_of_birth", "sex", "service"),
    *("allergies", "attending", "chief_complaint", "major_procedure"),
    *("history_of_present_illness", "past_medical_history", "social_history", "family_history"),
    *("physical_exam", "pertinent_results", "brief_hospital_course", "medications_on_admission"),
    *("discharge_medications", "discharge_disposition", "facility", "discharge_diagnosis"),
    *("discharge_condition", "discharge_instructions", "followup_instructions"),
]
REPORT = """EXAMINATION:  CHEST (PA AND LAT)

INDICATION:  ___ woman with dyspnea.  // effusion?

TECHNIQUE:  Chest PA and lateral

COMPARISON:  ___.

FINDINGS: \n\

There is a left effusion.  Impression of a nodule: none.

IMPRESSION: \n\

Left effusion.
"""


def bodies(text: str, **options: bool) -> dict[str, str]:
    return {part.name: part.body(text) for part in sections(text, **options)}


def names(text: str, **options: bool) -> list[str]:
    return [part.name for part in sections(text, **options)]


def check(text: str, found: list[Section]) -> None:
    """Whole, in order, exact."""
    assert found and found[-1].stop == len(text)
    assert all(a.stop == b.start for a, b in pairwise(found))
    for part in found:
        assert 0 <= part.start <= part.body_start <= part.stop
        assert text[part.start :].startswith(part.title)
        assert part.name in {*NAMES, "other", "body"}
        assert part.start + len(part.title) <= part.body_start or part.name == "body"
        assert not part.body(text)[:1].isspace()


def test_a_discharge_summary():
    found = sections(SUMMARY)
    check(SUMMARY, found)
    assert [part.name for part in found] == LAYOUT
    said = bodies(SUMMARY)
    assert (said["name"], said["unit_no"], said["sex"]) == ("___", "___", "F")
    assert (said["admission_date"], said["discharge_date"]) == ("___", "___")
    assert said["allergies"] == "Penicillins / latex"
    assert said["history_of_present_illness"].endswith("initial vitals: 98.1 110 150/90")
    assert said["physical_exam"].startswith("ADMISSION PHYSICAL EXAM:")
    assert said["physical_exam"].endswith("well")
    assert said["pertinent_results"].endswith("Effusion on the left"), "a pasted report"
    assert "weigh daily" in said["brief_hospital_course"]
    assert said["discharge_diagnosis"].splitlines()[-1] == "Gout"
    assert said["discharge_condition"].endswith("Ambulatory")
    assert said["followup_instructions"] == "___"
    assert found[9].title == "Chief Complaint"
    assert SUMMARY[found[9].start : found[9].stop].startswith("Chief Complaint:\nShort of")


def test_minor_headings_are_sections_when_asked_for():
    found = sections(SUMMARY, minor=True)
    check(SUMMARY, found)
    said = bodies(SUMMARY, minor=True)
    assert said["admission_labs"].endswith("RBC-4.0")
    assert said["discharge_labs"].startswith("___ 06:00AM")
    assert said["discharge_exam"] == "well"
    assert said["transitional_issues"] == "[ ] weigh daily"
    assert (said["primary_diagnosis"], said["secondary_diagnosis"]) == ("Heart failure", "Gout")
    assert said["pertinent_results"] == ""


def test_unknown_headings_are_sections_when_asked_for():
    text = "Code Status:\nfull\nHPI: ill\nGoals of Care: home\nand so he said: yes\nx\nPMH: gout\n"
    assert names(text) == ["history_of_present_illness", "past_medical_history"]
    found = sections(text, other=True)
    check(text, found)
    assert [(part.name, part.title) for part in found] == [
        ("other", "Code Status"),
        ("history_of_present_illness", "HPI"),
        ("other", "Goals of Care"),
        ("past_medical_history", "PMH"),
    ]
    assert bodies(text, other=True)["other"] == "home\nand so he said: yes\nx"


def test_a_radiology_report():
    found = sections(REPORT)
    check(REPORT, found)
    said = bodies(REPORT)
    assert list(said) == [
        *("examination", "indication", "technique", "comparison", "findings", "impression")
    ]
    assert said["examination"] == "CHEST (PA AND LAT)"
    assert said["findings"].endswith("Impression of a nodule: none.")
    assert said["impression"] == "Left effusion."


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("HISTORY OF PRESENT ILLNESS:", "history_of_present_illness"),
        ("history of present illness: ", "history_of_present_illness"),
        ("History of Present Ilness:", "history_of_present_illness"),
        ("Histroy of Present Illness:", "history_of_present_illness"),
        ("  HPI:", "history_of_present_illness"),
        ("PMH:", "past_medical_history"),
        ("Past Medical/Surgical History:", "past_medical_history"),
        ("PMHx/PSHx:", "past_medical_history"),
        ("Discahrge Medications:", "discharge_medications"),
        ("Dischage Diagnosis:", "discharge_diagnosis"),
        ("Discharge  Diagnoses :", "discharge_diagnosis"),
        ("Follow-up Instructions:", "followup_instructions"),
        ("Discharge Condition ___:", "discharge_condition"),
        ("___ Hospital Course:", "brief_hospital_course"),
        ("Major Surgical ___ Invasive Procedure:", "major_procedure"),
        ("CHIEF COMPLAINT", "chief_complaint"),
        ("Chief Complaint", "chief_complaint"),
        ("chief complaint", None),
        ("Plan", None),
        ("PLAN", "plan"),
        ("He gave no family history: adopted", None),
        ("- Allergies: none", None),
        ("Social History obtained from the daughter", None),
        ("Dysphagia History of the Esophagus:", None),
    ],
)
def test_what_is_a_heading(line, name):
    found = [part for part in sections(f"Service: X\n{line}\nbody\n") if part.name != "service"]
    assert [part.name for part in found] == ([] if name is None else [name])


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_line_ends_and_what_stands_first_and_last(end):
    text = end.join(["Chief Complaint: pain", "", "PMH:", "  gout", "Plan:"])
    found = sections(text)
    check(text, found)
    assert [part.body(text) for part in found] == ["pain", "gout", ""]
    assert found[0].start == 0 and found[-1].body_start == len(text)


@pytest.mark.parametrize("text", ["", " \n ", "no heading at all\nin two lines", "é" * 9])
def test_a_note_without_headings_is_one_body(text):
    (only,) = sections(text)
    assert (only.name, only.title, only.start, only.stop) == ("body", "", 0, len(text))
    assert only.body(text) == text.strip()


def test_titles_are_said_once():
    """A title in two lists would mean whichever came last."""
    every = [title for group in (TITLES, REPORT_TITLES) for t in group.values() for title in t]
    assert len(every) == len(set(every))
    assert all(title == title.lower() and ":" not in title for title in every)


# Any note ------------------------------------------------------------------------------------

plain = st.lists(
    st.text("abc é漢😀,._-0123456789 ", max_size=70).map(lambda line: f"; {line}"), max_size=5
).map("\n".join)


@given(st.data())
def test_shuffled_sections_are_found_where_they_are(data):
    order = data.draw(st.permutations(sorted(TITLES)))[: data.draw(st.integers(1, 15))]
    before = data.draw(plain)
    text, expected = f"{before}\n", []
    for name in order:
        title = data.draw(st.sampled_from(TITLES[name]))
        title = data.draw(st.sampled_from([str.upper, str.title, str.lower]))(title)
        body, gap = data.draw(plain), data.draw(st.sampled_from([" ", "\n", "  \n\n"]))
        start = len(text)
        text += f"{title}:{gap}{body}\n"
        body_start = min(start + len(title) + 1 + len(gap), len(text))
        expected.append((name, title, start, len(text), body_start if body else len(text)))
    found = sections(text)
    check(text, found)
    assert [tuple(part) for part in found] == expected
    assert "".join(text[part.start : part.stop] for part in found) == text[len(before) + 1 :]


@given(
    st.text(st.characters(exclude_categories=["Cs"]))
    | st.lists(
        st.sampled_from(
            [
                "\n",
                "\r\n",
                "\r",
                ":",
                " ",
                "___",
                "Name",
                "Sex",
                "VS",
                "EXAM",
                "HPI",
                "x",
                "  ",
                "Impression",
                "\x0b",
                "\u2028",
                "Discharge Medications",
                "Labs",
            ]
        ),
        max_size=60,
    ).map("".join),
    st.booleans(),
    st.booleans(),
)
def test_any_text_is_covered(text, minor, other):
    check(text, sections(text, minor=minor, other=other))


def test_long_lines_and_many_lines_take_linear_time():
    """Nothing that backtracks: 2 MB of what looks like the beginning of a heading."""
    for text in ("A" * 2_000_000, "Aa " * 700_000, "\n" * 2_000_000, "A\n" * 1_000_000):
        check(text, sections(text, other=True))


def test_a_column_of_texts():
    texts = pl.Series("text", [SUMMARY, None, "", "é: no\nHPI: 漢 ill"])
    found = sections_of(texts)
    assert found.name == "text" and found.list.len().to_list() == [len(LAYOUT), None, 1, 1]
    rows = pl.DataFrame({"text": texts, "part": found}).explode("part").unnest("part").drop_nulls()
    cut = rows.select(
        "name",
        cut=pl.col("text").str.slice(pl.col("start"), pl.col("stop") - pl.col("start")),
    ).to_dicts()
    assert cut[-1] == {"name": "history_of_present_illness", "cut": "HPI: 漢 ill"}
    assert cut[0] == {"name": "name", "cut": SUMMARY[2:33]}


# Open notes ----------------------------------------------------------------------------------


def test_open_visit_notes(shared_data):
    """ACI-bench: headings in capitals on lines of their own."""
    folder = shared_data / "clinical-text" / "aci-bench"
    files = sorted(path for path in folder.glob("*.csv") if "metadata" not in path.name)
    texts = [text for path in files for text in pl.read_csv(path)["note"]]
    assert len(texts) == 207
    found = [sections(text) for text in texts]
    for text, parts in zip(texts, found, strict=True):
        check(text, parts)
    here = [{part.name for part in parts} for parts in found]

    def said(*names: str) -> float:
        return sum(bool(names_ & set(names)) for names_ in here) / len(here)

    assert said("chief_complaint") > 0.9
    assert said("physical_exam") > 0.85
    assert said("assessment", "assessment_and_plan") > 0.9
    lines = {
        "HISTORY OF PRESENT ILLNESS": "history_of_present_illness",
        "REVIEW OF SYSTEMS": "review_of_systems",
        "RESULTS": "pertinent_results",
        "SOCIAL HISTORY": "social_history",
        "INSTRUCTIONS": "discharge_instructions",
    }
    for text, parts in zip(texts, found, strict=True):
        for line, name in lines.items():
            of_name = [part for part in parts if part.title == line]
            assert len(of_name) == text.splitlines().count(line)
            assert all(part.name == name and part.body(text) for part in of_name)


def test_open_summaries_of_single_sections(shared_data):
    """MTS-Dialog: sections without their headings, most of them plain text."""
    folder = shared_data / "clinical-text" / "mts-dialog"
    texts = pl.concat(
        [pl.read_csv(path).select("section_text") for path in sorted(folder.glob("*.csv"))]
    )["section_text"].drop_nulls()
    assert len(texts) > 1600
    alone = 0
    for text in texts:
        parts = sections(text)
        check(text, parts)
        alone += parts[0].name == "body"
    assert alone > 0.9 * len(texts)


def test_a_summary_made_of_open_notes_in_any_order(shared_data):
    """Bodies as clinicians write them, below MIMIC's headings: each is given back whole."""
    texts = pl.read_csv(
        shared_data / "clinical-text" / "mts-dialog" / "MTS-Dialog-TrainingSet.csv"
    )["section_text"]
    plain = [t.strip() for t in texts if t and sections(t)[0].name == "body" and t.strip()]
    rng = random.Random(3)
    for _ in range(50):
        chosen = rng.sample(sorted(TITLES), 12)
        told = {name: rng.choice(plain) for name in chosen}
        text = "\n \n".join(f"{TITLES[name][0].title()}:\n{told[name]}" for name in chosen)
        assert bodies(text) == told
