"""The four tasks of the ED triage benchmark (Xie et al. 2022, Scientific Data 9:658)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import polars as pl

from wardround.cohorts.cohort import Cohort, Flow
from wardround.errors import WardroundError
from wardround.store import PatientStore

#: An ICU stay counts when it begins this long after the ED at the latest.
ICU_WITHIN = timedelta(hours=12)
RETURN_WITHIN = timedelta(hours=72)
ADULT = 18


@dataclass(frozen=True)
class EmergencyTask:
    """A task about ED visits.

    Attributes:
        outcome: what is predicted.
        features: the feature set that it may read. `triage` is predicted at the visit's start,
            `disposition` a second before its end: what is known at a prediction time includes that
            time, and the admission, the ICU stay and the coded diagnoses bear the very second of
            the departure.
    """

    name: str
    title: str
    outcome: Literal["hospitalised", "critical", "returned"]
    features: Literal["triage", "disposition"]

    def extract(self, store: PatientStore, *, paper_compat: bool = False) -> Cohort:
        """Build the cohort.

        Rules, in order: adult by year of birth; an acuity was given; the departure is known. Of ED
        stays that share an admission the first counts. For the return task: sent home alive, and
        not dead within 72 hours without a return. For the critical outcome predicted at departure:
        neither dead nor in the ICU by then.

        Args:
            paper_compat: the published rules. Every stay of a shared admission counts. A death is
                a date of death no later than the date of discharge, whether the patient died in
                hospital or at home that night, and deaths in the ED do not count. The ICU stay is
                the first of the admission, and may have begun any time before the departure; at
                departure patients in the ICU are still predicted. The return task keeps patients
                who die, and a visit that begins at the departure is a return.

        Raises:
            WardroundError: no ED visits in the store.
        """
        visits = _visits(store)
        if not len(visits):
            raise WardroundError(
                f"{self.name} needs ED visits, and {store.path} has none; ingest the ed module too"
            )
        flow = Flow(visits, "ED visits")
        flow.keep(pl.col("age") >= ADULT, f"aged {ADULT} or more")
        flow.keep(pl.col("acuity").is_not_null(), "acuity was given")
        flow.keep(pl.col("end").is_not_null(), "departure is known")
        if not paper_compat:
            flow.keep(pl.col("first_of_admission"), "first ED visit of its admission")
        if self.outcome == "critical" and self.features == "disposition" and not paper_compat:
            flow.keep(~pl.col("critical_by_departure"), "neither dead nor in the ICU at departure")
        if self.outcome == "returned":
            flow.keep(pl.col("hadm_id").is_null(), "not admitted")
            if not paper_compat:
                flow.keep(~pl.col("died_in_ed"), "left alive")
                flow.keep(
                    pl.col("returned") | ~pl.col("died_soon"), "returned, or alive after 72 hours"
                )
        published = paper_compat and self.outcome != "hospitalised"
        label = f"{self.outcome}_published" if published else self.outcome
        when = "start" if self.features == "triage" else "before_departure"
        flow.frame = flow.frame.sort("subject_id", when, "stay_id")
        flow.keep(
            pl.struct("subject_id", when).is_first_distinct(), "one visit of a patient at a time"
        )
        frame = flow.frame.select(
            "subject_id",
            pl.col(when).alias("prediction_time"),
            pl.col(label).alias("boolean_value"),
            "stay_id",
        )
        return Cohort(self.name, frame, flow.steps)


def _visits(store: PatientStore) -> pl.DataFrame:
    """One row an ED visit with everything that rules and labels ask of it."""
    stays = store.stays().collect()
    ed = stays.filter(pl.col("kind") == "ed").sort("subject_id", "start", "stay_id")
    wanted = pl.col("code").is_in(["ED//TRIAGE//ACUITY", "MEDS_BIRTH", "MEDS_DEATH"])
    facts = (
        store.events()
        .filter(wanted)
        .select("subject_id", "time", "code", "numeric_value", "stay_id")
        .collect()
    )
    acuity = (
        facts.filter(pl.col("code") == "ED//TRIAGE//ACUITY", pl.col("stay_id").is_not_null())
        .group_by("stay_id")
        .agg(acuity=pl.col("numeric_value").drop_nulls().first())
    )
    first = facts.group_by("subject_id").agg(
        birth=pl.col("time").filter(pl.col("code") == "MEDS_BIRTH").min(),
        death=pl.col("time").filter(pl.col("code") == "MEDS_DEATH").min(),
    )
    admissions = stays.filter(pl.col("kind") == "hospital").select(
        "hadm_id",
        discharge="end",
        died_in_hospital=pl.col("died").fill_null(False) | pl.col("death_time").is_not_null(),
    )
    icu = stays.filter(pl.col("kind") == "icu").sort("subject_id", "start")
    first_icu = icu.group_by("hadm_id", maintain_order=True).agg(first_icu=pl.col("start").first())
    next_icu = icu.select("subject_id", next_icu="start")
    visits = (
        ed.select("subject_id", "stay_id", "start", "end", "hadm_id", died_in_ed="died")
        .join(acuity, on="stay_id", how="left")
        .join(first, on="subject_id", how="left")
        .join(admissions, on="hadm_id", how="left")
        .join(first_icu, on="hadm_id", how="left")
        .sort("subject_id", "start", "stay_id")
        # The first ICU stay that begins after arrival, whatever admission it is filed under.
        .join_asof(
            next_icu.sort("subject_id", "next_icu"),
            left_on="start",
            right_on="next_icu",
            by="subject_id",
            strategy="forward",
            check_sortedness=False,
        )
        .with_columns(
            pl.col("died_in_ed", "died_in_hospital").fill_null(False),
            age=pl.col("start").dt.year() - pl.col("birth").dt.year(),
            first_of_admission=pl.col("hadm_id").is_null()
            | pl.struct("subject_id", "hadm_id").is_first_distinct(),
            next_visit=pl.col("start").shift(-1).over("subject_id"),
        )
    )
    left = pl.col("end")
    died_by_date = pl.col("death").dt.date() <= pl.col("discharge").dt.date()
    icu_soon = pl.col("next_icu") <= left + ICU_WITHIN
    icu_published = pl.col("first_icu") <= left + ICU_WITHIN
    return visits.with_columns(
        hospitalised=pl.col("hadm_id").is_not_null(),
        critical=pl.col("died_in_hospital") | pl.col("died_in_ed") | icu_soon.fill_null(False),
        before_departure=pl.max_horizontal("start", left - timedelta(seconds=1)),
        critical_by_departure=pl.col("died_in_ed") | (pl.col("next_icu") < left).fill_null(False),
        critical_published=died_by_date.fill_null(False) | icu_published.fill_null(False),
        returned=pl.col("next_visit")
        .sub(left)
        .is_between(timedelta(0), RETURN_WITHIN, closed="none")
        .fill_null(False),
        returned_published=(pl.col("next_visit") - left < RETURN_WITHIN).fill_null(False),
        died_soon=(pl.col("death") <= left + RETURN_WITHIN).fill_null(False),
    )
