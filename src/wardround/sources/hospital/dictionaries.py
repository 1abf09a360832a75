"""What the hospital can measure and do, under MIMIC-IV's own item ids."""

from __future__ import annotations

from dataclasses import dataclass


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
#: Rare items of the laboratory behind the common ones, the most frequent first.
RARE_LABS = [
    Lab(50802, "Base Excess", "Blood Gas", "mEq/L", 0, 3.5, 0, -2, 2),
    Lab(50818, "pCO2", "Blood Gas", "mm Hg", 41, 8, 0, 35, 45),
    Lab(50820, "pH", "Blood Gas", "units", 7.38, 0.06, 2, 7.35, 7.45),
    Lab(50821, "pO2", "Blood Gas", "mm Hg", 4.55, 0.45, 0, 85, 105, True),
    Lab(50863, "Alkaline Phosphatase", "Chemistry", "IU/L", 4.4, 0.45, 0, 35, 130, True),
    Lab(50868, "Anion Gap", "Chemistry", "mEq/L", 14, 3, 0, 8, 20),
    Lab(50878, "Asparate Aminotransferase (AST)", "Chemistry", "IU/L", 3.3, 0.6, 0, 0, 40, True),
    Lab(50889, "C-Reactive Protein", "Chemistry", "mg/L", 2.7, 1.3, 1, 0, 5, True),
    Lab(50910, "Creatine Kinase (CK)", "Chemistry", "IU/L", 4.6, 0.9, 0, 47, 322, True),
    Lab(50924, "Ferritin", "Chemistry", "ng/mL", 5.0, 1.0, 0, 30, 400, True),
    Lab(50952, "Iron", "Chemistry", "ug/dL", 4.0, 0.5, 0, 45, 160, True),
    Lab(50954, "Lactate Dehydrogenase (LD)", "Chemistry", "IU/L", 5.4, 0.35, 0, 94, 250, True),
    Lab(51144, "Bands", "Hematology", "%", 0.7, 0.9, 0, 0, 5, True),
    Lab(51196, "D-Dimer", "Hematology", "ng/mL FEU", 6.5, 0.9, 0, 0, 500, True),
    Lab(51275, "PTT", "Hematology", "sec", 3.43, 0.2, 1, 25, 36.5, True),
]


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
    (223901, "GCS - Motor Response", "Motor Response", "chartevents",
     "Neurological", None, "Text"),
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
#: The long tail of the formulary.
RARE_DRUGS = [
    "Acyclovir",
    "Amiodarone",
    "Ampicillin-Sulbactam",
    "Baclofen",
    "Bisacodyl",
    "BuPROPion XL (Once Daily)",
    "Calcium Gluconate",
    "CefePIME",
    "Cyanocobalamin",
    "Cyclosporine",
    "Digoxin",
    "DiphenhydrAMINE",
    "Famotidine",
    "Fluconazole",
    "Gabapentin",
    "Guaifenesin",
    "HydrALAZINE",
    "Ketorolac",
    "LevETIRAcetam",
    "Linezolid",
    "Magnesium Sulfate",
    "Meropenem",
    "Midodrine",
    "Mirtazapine",
    "Mycophenolate Mofetil",
    "Nystatin Oral Suspension",
    "Phenytoin Sodium",
    "Polyethylene Glycol",
    "Potassium Chloride",
    "Pravastatin",
    "Ranitidine",
    "Rifaximin",
    "Senna",
    "Simethicone",
    "Tacrolimus",
    "Tamsulosin",
    "TraMADol",
    "TraZODone",
    "Valproic Acid",
    "Zolpidem Tartrate",
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
