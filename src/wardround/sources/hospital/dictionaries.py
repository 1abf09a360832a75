"""What the hospital can measure and do, under MIMIC-IV's own item ids."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib.resources import files

import numpy as np


@dataclass(frozen=True)
class Lab:
    """A laboratory item. `skewed` values are exponentials of a normal one."""

    itemid: int
    label: str
    category: str
    unit: str
    mean: float
    sd: float
    decimals: int
    low: float
    high: float
    skewed: bool = False
    fluid: str = "Blood"


LABS = {
    "sodium": Lab(50983, "Sodium", "Chemistry", "mEq/L", 139, 3.5, 0, 133, 145),
    "potassium": Lab(50971, "Potassium", "Chemistry", "mEq/L", 4.1, 0.5, 1, 3.3, 5.1),
    "chloride": Lab(50902, "Chloride", "Chemistry", "mEq/L", 103, 4, 0, 96, 108),
    "bicarbonate": Lab(50882, "Bicarbonate", "Chemistry", "mEq/L", 25, 3, 0, 22, 32),
    "urea": Lab(51006, "Urea Nitrogen", "Chemistry", "mg/dL", 2.8, 0.4, 0, 6, 20, True),
    "creatinine": Lab(50912, "Creatinine", "Chemistry", "mg/dL", -0.1, 0.3, 1, 0.4, 1.2, True),
    "glucose": Lab(50931, "Glucose", "Chemistry", "mg/dL", 4.7, 0.25, 0, 70, 105, True),
    "calcium": Lab(50893, "Calcium, Total", "Chemistry", "mg/dL", 8.9, 0.6, 1, 8.4, 10.3),
    "magnesium": Lab(50960, "Magnesium", "Chemistry", "mg/dL", 2.0, 0.25, 1, 1.6, 2.6),
    "phosphate": Lab(50970, "Phosphate", "Chemistry", "mg/dL", 3.5, 0.8, 1, 2.7, 4.5),
    "haemoglobin": Lab(51222, "Hemoglobin", "Hematology", "g/dL", 12.3, 1.6, 1, 12, 16),
    "wbc": Lab(51301, "White Blood Cells", "Hematology", "K/uL", 2.05, 0.35, 1, 4, 11, True),
    "platelets": Lab(51265, "Platelet Count", "Hematology", "K/uL", 5.4, 0.35, 0, 150, 440, True),
    "lactate": Lab(50813, "Lactate", "Blood Gas", "mmol/L", 0.4, 0.4, 1, 0.5, 2, True),
    "troponin": Lab(51003, "Troponin T", "Chemistry", "ng/mL", -4.2, 0.8, 2, 0, 0.01, True),
    "bilirubin": Lab(50885, "Bilirubin, Total", "Chemistry", "mg/dL", -0.6, 0.5, 1, 0, 1.5, True),
    "alt": Lab(
        50861, "Alanine Aminotransferase (ALT)", "Chemistry", "IU/L", 3.2, 0.6, 0, 0, 40, True
    ),
    "albumin": Lab(50862, "Albumin", "Chemistry", "g/dL", 3.8, 0.5, 1, 3.5, 5.2),
    "inr": Lab(51237, "INR(PT)", "Hematology", "", 0.15, 0.25, 1, 0.9, 1.1, True),
    "ntprobnp": Lab(50963, "NTproBNP", "Chemistry", "pg/mL", 6.0, 1.2, 0, 0, 353, True),
    "lipase": Lab(50956, "Lipase", "Chemistry", "IU/L", 3.4, 0.7, 0, 0, 60, True),
    "tsh": Lab(
        50993, "Thyroid Stimulating Hormone", "Chemistry", "uIU/mL", 0.6, 0.6, 1, 0.3, 4.2, True
    ),
}
#: Drawn at every round of blood tests; the others where a condition calls for them.
BASIC_LABS = (
    "sodium",
    "potassium",
    "chloride",
    "bicarbonate",
    "urea",
    "creatinine",
    "glucose",
    "haemoglobin",
    "wbc",
    "platelets",
)


def _rows(name: str) -> list[dict[str, str]]:
    text = (files("wardround.sources.hospital") / name).read_text()
    return list(csv.DictReader(text.splitlines()))


def _rare_lab(row: dict[str, str]) -> Lab:
    """An item of `laboratory.csv`, whose values spread around the range that it declares.

    Where the range begins at 0 or spans a factor of 3, their logarithms do.
    """
    low, high = float(row["low"]), float(row["high"])
    if low == 0:
        mean, sd = np.log(high / 2.5), 0.8
    elif low > 0 and high / low >= 3:
        mean, sd = (np.log(low) + np.log(high)) / 2, (np.log(high) - np.log(low)) / 3
    else:
        mean, sd = (low + high) / 2, (high - low) / 3
    return Lab(
        itemid=int(row["itemid"]),
        label=row["label"],
        category=row["category"],
        unit=row["unit"],
        mean=float(mean),
        sd=float(sd),
        decimals=int(row["decimals"]),
        low=low,
        high=high,
        skewed=low >= 0 and (low == 0 or high / low >= 3),
        fluid=row["fluid"],
    )


#: Items of the laboratory behind those that show conditions, the most frequent first.
RARE_LABS = [_rare_lab(row) for row in _rows("laboratory.csv")]


@dataclass(frozen=True)
class Chart:
    """A charted item of the ICU."""

    itemid: int
    label: str
    abbreviation: str
    category: str
    unit: str
    vital: str


CHARTS = [
    Chart(220045, "Heart Rate", "HR", "Routine Vital Signs", "bpm", "heartrate"),
    Chart(
        220179,
        "Non Invasive Blood Pressure systolic",
        "NBPs",
        "Routine Vital Signs",
        "mmHg",
        "sbp",
    ),
    Chart(
        220180,
        "Non Invasive Blood Pressure diastolic",
        "NBPd",
        "Routine Vital Signs",
        "mmHg",
        "dbp",
    ),
    Chart(220210, "Respiratory Rate", "RR", "Respiratory", "insp/min", "resprate"),
    Chart(220277, "O2 saturation pulseoxymetry", "SpO2", "Respiratory", "%", "o2sat"),
    Chart(
        223761,
        "Temperature Fahrenheit",
        "Temperature F",
        "Routine Vital Signs",
        "°F",
        "temperature",
    ),
]


@dataclass(frozen=True)
class RareChart:
    """An item that nurses chart now and then: one of `words`, or a number about `low` to `high`."""

    itemid: int
    label: str
    abbreviation: str
    category: str
    unit: str | None
    kind: str
    words: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0


def _rare_chart(row: dict[str, str]) -> RareChart:
    names = (row["label"], row["abbreviation"], row["category"], row["unit"] or None)
    if row["param_type"] == "Numeric":
        low, high = map(float, row["shows"].split(":"))
        return RareChart(int(row["itemid"]), *names, row["param_type"], low=low, high=high)
    return RareChart(int(row["itemid"]), *names, row["param_type"], tuple(row["shows"].split("|")))


#: The long tail of what is charted, the most frequent first.
RARE_CHARTS = [_rare_chart(row) for row in _rows("charts.csv")]
#: The Glasgow coma scale: item, the severity from which points are lost, and a word for each point.
COMA = [
    (220739, "Eye Opening", 1.2, ("None", "To Pain", "To Speech", "Spontaneously")),
    (223900, "Verbal Response", 0.8,
     ("No Response", "Incomprehensible sounds", "Inappropriate Words", "Confused", "Oriented")),
    (223901, "Motor Response", 1.0,
     ("No response", "Abnormal extension", "Abnormal Flexion", "Flex-withdraws",
      "Localizes Pain", "Obeys Commands")),
]  # fmt: skip
#: Rows of d_items for what is not charted hourly.
OTHER_ITEMS: list[tuple[int, str, str, str, str, str | None, str]] = [
    (221906, "Norepinephrine", "Norepinephrine", "inputevents", "Medications", "mg", "Solution"),
    (222168, "Propofol", "Propofol", "inputevents", "Medications", "mg", "Solution"),
    (225158, "NaCl 0.9%", "NaCl 0.9%", "inputevents", "Fluids/Intake", "mL", "Solution"),
    (220490, "Water", "H2O", "ingredientevents", "Ingredients", "mL", "Ingredient"),
    (226559, "Foley", "Foley", "outputevents", "Output", "mL", "Numeric"),
    (226560, "Void", "Void", "outputevents", "Output", "mL", "Numeric"),
    (225792, "Invasive Ventilation", "Invasive Ventilation", "procedureevents",
     "2-Ventilation", "None", "Processes"),
    (225752, "Arterial Line", "Arterial Line", "procedureevents",
     "Access Lines - Invasive", "None", "Processes"),
    (224290, "Arterial line Tubing Change", "Arterial line Tubing Change", "datetimeevents",
     "Access Lines - Invasive", None, "Date and time"),
    *((itemid, f"GCS - {name}", name, "chartevents", "Neurological", None, "Text")
      for itemid, name, _, _ in COMA),
    *((c.itemid, c.label, c.abbreviation, "chartevents", c.category, c.unit, c.kind)
      for c in RARE_CHARTS),
]  # fmt: skip
ICU_UNITS = [
    "Medical Intensive Care Unit (MICU)",
    "Surgical Intensive Care Unit (SICU)",
    "Medical/Surgical Intensive Care Unit (MICU/SICU)",
    "Coronary Care Unit (CCU)",
    "Cardiac Vascular Intensive Care Unit (CVICU)",
    "Neuro Surgical Intensive Care Unit (Neuro SICU)",
    "Trauma SICU (TSICU)",
]
#: Everyday drugs that most inpatients get.
WARD_DRUGS = ["Heparin", "Acetaminophen", "Docusate Sodium", "Sodium Chloride 0.9%  Flush"]
ORGANISMS = [
    (80002, "ESCHERICHIA COLI"),
    (80023, "STAPH AUREUS COAG +"),
    (80004, "KLEBSIELLA PNEUMONIAE"),
    (80026, "PSEUDOMONAS AERUGINOSA"),
]
ANTIBIOTICS = [(90004, "AMPICILLIN"), (90019, "CIPROFLOXACIN"), (90012, "GENTAMICIN")]
