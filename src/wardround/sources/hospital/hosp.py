"""The tables of the hospital outside the ED and the ICU."""

from __future__ import annotations

import numpy as np
import polars as pl

from wardround.sources.hospital.chunk import (
    Chunk,
    Ragged,
    day,
    long_tail,
    present,
    spread,
    stack,
    stamp,
    text,
)
from wardround.sources.hospital.codes import rare_chronic, rare_diagnoses, rare_procedures
from wardround.sources.hospital.dictionaries import WARD_DRUGS
from wardround.sources.hospital.ed import earlier_stays
from wardround.sources.hospital.encounters import HOUR
from wardround.sources.hospital.files import TableFiles
from wardround.sources.hospital.population import DAY, YEAR, YEAR_GROUPS

SERVICE = {
    "Medicine": "MED",
    "Medicine/Cardiology": "CMED",
    "Med/Surg": "SURG",
    "Med/Surg/Trauma": "TRAUM",
    "Cardiac Surgery": "CSURG",
    "Neurology": "NMED",
    "Psychiatry": "PSYCH",
}
#: A patient's billing lists this share of the chronic conditions; the rest goes unwritten.
CODED = 0.88
#: Rare diagnoses and procedures an admission, beside those that stay with a patient.
RARE_CODES = 1.3
RARE_PROCEDURES = 0.4
#: Drugs of the formulary's tail an admission.
RARE_DRUGS = 2.5
PROVIDERS = 600


def write_hosp(chunk: Chunk, out: TableFiles) -> None:
    """Append the chunk's rows to every file of the module but the laboratory's."""
    admitted = np.flatnonzero(chunk.encounters.admitted)
    out.write("hosp/patients", _patients(chunk))
    out.write("hosp/admissions", admissions(chunk))
    out.write("hosp/transfers", _transfers(chunk, admitted))
    out.write("hosp/services", _services(chunk, admitted))
    out.write("hosp/diagnoses_icd", diagnoses(chunk))
    out.write("hosp/procedures_icd", procedures(chunk))
    out.write("hosp/drgcodes", _drgcodes(chunk, admitted))
    out.write("hosp/hcpcsevents", _hcpcsevents(chunk, admitted))
    out.write("hosp/omr", _omr(chunk))
    _write_orders(chunk, out, admitted)


def admissions(chunk: Chunk) -> pl.DataFrame:
    """The admissions table of a chunk, in the order of its encounters."""
    return chunk.once("hosp/admissions", _admissions)


def diagnoses(chunk: Chunk) -> pl.DataFrame:
    """The diagnoses_icd table of a chunk."""
    return chunk.once("hosp/diagnoses_icd", _diagnoses)


def procedures(chunk: Chunk) -> pl.DataFrame:
    """The procedures_icd table of a chunk."""
    return chunk.once("hosp/procedures_icd", _procedures)


def prescribed(chunk: Chunk) -> pl.DataFrame:
    """Drugs of every admission: the columns of prescriptions under working names, and more."""
    return chunk.once("drugs", _prescribed)


def provider(rng: np.random.Generator, count: int) -> pl.Series:
    """Provider ids such as P03A7K; the same `PROVIDERS` of them everywhere."""
    return text(provider_ids()[rng.integers(0, PROVIDERS, count)])


def provider_ids() -> np.ndarray:
    """All provider ids."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return np.array(
        [f"P{i * 7 % 1000:03d}{letters[i % 26]}{letters[i // 26]}" for i in range(PROVIDERS)],
        dtype=object,
    )


def _patients(chunk: Chunk) -> pl.DataFrame:
    p, e = chunk.patients, chunk.encounters
    last = np.zeros(len(p))
    np.maximum.at(last, e.patient, e.end)
    known = chunk.death < last + YEAR  # later deaths are censored
    age = np.clip(p.anchor_age, 0, None)
    return pl.DataFrame(
        {
            "subject_id": p.subject_id,
            "gender": np.where(p.female, "F", "M").tolist(),
            "anchor_age": np.where(age > 89, 91, age),
            "anchor_year": p.anchor_year,
            "anchor_year_group": text(np.array(YEAR_GROUPS, dtype=object)[p.year_group]),
            "dod": day(chunk.death, known),
        }
    )


def _admissions(chunk: Chunk) -> pl.DataFrame:
    admitted = np.flatnonzero(chunk.encounters.admitted)
    e, p, rng = chunk.encounters.take(admitted), chunk.patients, chunk.rng("hosp/admissions")
    count = len(admitted)
    urgent = rng.choice(
        np.array(["EW EMER.", "OBSERVATION ADMIT", "URGENT", "EU OBSERVATION"], dtype=object),
        count,
        p=[0.62, 0.22, 0.1, 0.06],
    )
    planned = rng.choice(np.array(["ELECTIVE", "SURGICAL SAME DAY ADMISSION"], dtype=object), count)
    sick = np.clip(e.severity, -1, 3)
    away = rng.random(count) < 0.15 + 0.1 * sick
    goes = np.where(
        away, "SKILLED NURSING FACILITY", np.where(sick > 0.5, "HOME HEALTH CARE", "HOME")
    )
    goes = np.where(e.died, "DIED", goes).astype(object)
    old = p.anchor_age[e.patient] >= 65
    person = chunk.rng("marital status and language")
    marital = person.choice(
        np.array(["SINGLE", "MARRIED", "WIDOWED", "DIVORCED"], dtype=object), len(p)
    )
    english = person.random(len(p)) < 0.88
    insurance = np.where(
        old, "Medicare", rng.choice(np.array(["Private", "Medicaid", "Other"]), count)
    )
    return pl.DataFrame(
        {
            "subject_id": chunk.subject_id[admitted],
            "hadm_id": chunk.hadm_id.gather(admitted),
            "admittime": stamp(e.admit),
            "dischtime": stamp(e.discharge),
            "deathtime": stamp(e.discharge, e.died),
            "admission_type": text(np.where(e.elective, planned, urgent)),
            "admit_provider_id": provider(rng, count),
            "admission_location": np.where(
                e.elective, "PHYSICIAN REFERRAL", "EMERGENCY ROOM"
            ).tolist(),
            "discharge_location": text(goes),
            "insurance": insurance.tolist(),
            "language": np.where(english[e.patient], "English", "Spanish").tolist(),
            "marital_status": present(marital[e.patient], rng.random(count) > 0.03),
            "race": text(p.race[e.patient]),
            "edregtime": stamp(e.start, ~e.elective),
            "edouttime": stamp(e.leave, ~e.elective),
            "hospital_expire_flag": e.died.astype(np.int64),
        }
    )


def _transfers(chunk: Chunk, admitted: np.ndarray) -> pl.DataFrame:
    e = chunk.encounters
    visits = np.flatnonzero(chunk.visit)
    icu = np.flatnonzero(chunk.in_icu)
    back = icu[e.icu_out[icu] < e.discharge[icu]]
    first = np.where(chunk.in_icu, e.icu_in, e.discharge)
    ward = chunk.ward

    def part(
        rows: np.ndarray, event: str, unit: pl.Series, start: np.ndarray, end: np.ndarray, slot: int
    ) -> pl.DataFrame:
        return pl.DataFrame(
            {
                "subject_id": chunk.subject_id[rows],
                "hadm_id": chunk.hadm_id.gather(rows),
                "transfer_id": chunk.ed_stay_id[rows] + slot,
                "eventtype": [event] * len(rows),
                "careunit": unit,
                "intime": stamp(start[rows]),
                "outtime": stamp(end[rows]),
            }
        )

    earlier, stay, start, end = earlier_stays(chunk)
    before = pl.DataFrame(
        {
            "subject_id": chunk.subject_id[earlier],
            "hadm_id": chunk.hadm_id.gather(earlier),
            "transfer_id": stay,
            "eventtype": ["ED"] * len(earlier),
            "careunit": ["Emergency Department"] * len(earlier),
            "intime": stamp(start),
            "outtime": stamp(end),
        }
    )
    nowhere = np.full(len(chunk), np.inf)
    return stack(
        [
            before,
            part(visits, "ED", text(np.full(len(visits), "Emergency Department", dtype=object)),
                 e.start, e.leave, 0),
            part(admitted, "admit", text(ward[admitted]), e.admit, first, 1),
            part(icu, "transfer", text(chunk.icu_unit[icu]), e.icu_in, e.icu_out, 2),
            part(back, "transfer", text(ward[back]), e.icu_out, e.discharge, 3),
            part(admitted, "discharge", pl.Series("", [None] * len(admitted), dtype=pl.String),
                 e.discharge, nowhere, 4),
        ]
    ).sort("subject_id", "intime")  # fmt: skip


def _services(chunk: Chunk, admitted: np.ndarray) -> pl.DataFrame:
    e, rng = chunk.encounters, chunk.rng("hosp/services")
    first = [SERVICE.get(ward, "MED") for ward in chunk.ward[admitted]]
    frame = pl.DataFrame(
        {
            "subject_id": chunk.subject_id[admitted],
            "hadm_id": chunk.hadm_id.gather(admitted),
            "transfertime": stamp(e.admit[admitted]),
            "prev_service": pl.Series("", [None] * len(admitted), dtype=pl.String),
            "curr_service": first,
        }
    )
    moved = rng.random(len(admitted)) < 0.06
    half = (e.admit + e.discharge)[admitted] / 2
    second = frame.with_columns(
        transfertime=stamp(half), prev_service="curr_service", curr_service=pl.lit("SURG")
    ).filter(pl.Series(moved), pl.col("prev_service") != "SURG")
    return stack([frame, second]).sort("subject_id", "transfertime")


def _diagnoses(chunk: Chunk) -> pl.DataFrame:
    admitted = np.flatnonzero(chunk.encounters.admitted)
    e, rng, catalogue = chunk.encounters, chunk.rng("hosp/diagnoses_icd"), chunk.catalogue
    row, condition = np.nonzero(e.chronic & e.admitted[:, None])
    coded = rng.random(len(row)) < CODED
    row, condition = row[coded], condition[coded]
    tail, _ = spread(rng.poisson(RARE_CODES, len(admitted)))
    tail = admitted[tail]
    nine, ten = rare_diagnoses(9), rare_diagnoses(10)
    rare = np.where(
        chunk.icd_version[tail] == 9,
        nine[long_tail(rng, len(nine), len(tail))],
        ten[long_tail(rng, len(ten), len(tail))],
    )
    lasting, lasting_codes = _rare_conditions(chunk, admitted, rng)
    rows = np.concatenate([admitted, row, lasting, tail])
    codes = np.concatenate(
        [
            chunk.codes(admitted, catalogue.acute, e.acute[admitted], rng),
            chunk.codes(row, catalogue.chronic, condition, rng),
            lasting_codes,
            rare,
        ]
    )
    return (
        pl.DataFrame(
            {
                "subject_id": chunk.subject_id[rows],
                "hadm_id": chunk.hadm_id.gather(rows),
                "icd_code": text(codes),
                "icd_version": chunk.icd_version[rows],
            }
        )
        .unique(["hadm_id", "icd_code"], keep="first", maintain_order=True)
        .sort("subject_id", "hadm_id", maintain_order=True)
        .with_columns(seq_num=pl.int_range(1, pl.len() + 1).over("hadm_id"))
    )


def _rare_conditions(
    chunk: Chunk, admitted: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Codes of the rare conditions that patients have: (encounter, code)."""
    patient, rank, since = chunk.rare_conditions
    order = np.argsort(patient, kind="stable")
    patient, rank, since = patient[order], rank[order], since[order]
    of = chunk.encounters.patient[admitted]
    first = np.searchsorted(patient, of)
    owner, place = spread(np.searchsorted(patient, of, side="right") - first)
    which, row = first[owner] + place, admitted[owner]
    coded = (since[which] <= chunk.encounters.start[row]) & (rng.random(len(row)) < CODED)
    which, row = which[coded], row[coded]
    nine, ten = rare_chronic()
    return row, np.where(chunk.icd_version[row] == 9, nine[rank[which]], ten[rank[which]])


def _procedures(chunk: Chunk) -> pl.DataFrame:
    e, rng = chunk.encounters, chunk.rng("hosp/procedures_icd")
    pieces = []
    for version, field in ((9, "procedures9"), (10, "procedures10")):
        row, code = chunk.acute_values(field)
        done = e.admitted[row] & (chunk.icd_version[row] == version) & (rng.random(len(row)) < 0.6)
        row, code = row[done], code[done]
        other = np.flatnonzero(e.admitted & (chunk.icd_version == version))
        owner, _ = spread(rng.poisson(RARE_PROCEDURES, len(other)))
        book = rare_procedures(version)
        row = np.concatenate([row, other[owner]])
        code = np.concatenate([code, book[long_tail(rng, len(book), len(owner))]])
        at = e.admit[row] + rng.uniform(0, 0.6, len(row)) * (e.discharge - e.admit)[row]
        pieces.append(
            pl.DataFrame(
                {
                    "subject_id": chunk.subject_id[row],
                    "hadm_id": chunk.hadm_id.gather(row),
                    "chartdate": day(at),
                    "icd_code": text(code),
                    "icd_version": np.full(len(row), version),
                }
            )
        )
    return (
        stack(pieces)
        .unique(["hadm_id", "chartdate", "icd_code"], keep="first", maintain_order=True)
        .sort("subject_id", "hadm_id", "chartdate", maintain_order=True)
        .with_columns(seq_num=pl.int_range(1, pl.len() + 1).over("hadm_id"))
    )


def _drgcodes(chunk: Chunk, admitted: np.ndarray) -> pl.DataFrame:
    e, rng = chunk.encounters, chunk.rng("hosp/drgcodes")
    names = [a.name.replace("_", " ").upper() for a in chunk.catalogue.acute]
    acute = e.acute[admitted]
    level = np.clip(np.round(2 + 0.8 * e.severity[admitted]), 1, 4)
    keys = {
        "subject_id": chunk.subject_id[admitted],
        "hadm_id": chunk.hadm_id.gather(admitted),
    }
    blank = pl.Series("", [None] * len(admitted), dtype=pl.Float64)
    both = [
        ("HCFA", 100 + 20 * acute, blank, blank),
        ("APR", 40 + 17 * acute, level, np.clip(level + rng.integers(-1, 2, len(level)), 1, 4)),
    ]
    frames = [
        pl.DataFrame(
            keys
            | {
                "drg_type": [kind] * len(admitted),
                "drg_code": pl.Series("", code).cast(pl.String),
                "description": [names[a] for a in acute],
                "drg_severity": pl.Series("", severity).cast(pl.Int64),
                "drg_mortality": pl.Series("", mortality).cast(pl.Int64),
            }
        )
        for kind, code, severity, mortality in both
    ]
    return stack(frames).sort("subject_id", "hadm_id", "drg_type")


def _hcpcsevents(chunk: Chunk, admitted: np.ndarray) -> pl.DataFrame:
    e, rng = chunk.encounters, chunk.rng("hosp/hcpcsevents")
    row = admitted[rng.random(len(admitted)) < 0.12]
    return pl.DataFrame(
        {
            "subject_id": chunk.subject_id[row],
            "hadm_id": chunk.hadm_id.gather(row),
            "chartdate": day(e.admit[row]),
            "hcpcs_cd": ["G0378"] * len(row),
            "seq_num": np.ones(len(row), np.int64),
            "short_description": ["Hospital observation per hr"] * len(row),
        }
    )


def _omr(chunk: Chunk) -> pl.DataFrame:
    """Measurements of the outpatient clinic: dates without a time of day."""
    p, rng = chunk.patients, chunk.rng("hosp/omr")
    owner, _ = spread(rng.poisson(1.6, len(p)))
    at = p.first[owner] + p.shift[owner] + rng.random(len(owner)) * (p.last - p.first)[owner]
    alive = pl.Series(at < chunk.death[owner])
    heavier = p.has(owner, at) @ np.array([c.bmi for c in chunk.catalogue.chronic])
    person = chunk.rng("body mass")
    height = np.where(p.female, 63.5, 69.0) + person.normal(0, 2.7, len(p))
    bmi = person.normal(26.5, 3.5, len(p)).clip(15, 30)
    bmi_now = (bmi[owner] + heavier + rng.normal(0, 0.7, len(owner))).round(1)
    pounds = (bmi_now * height[owner] ** 2 / 703).round(1)
    pressure = [
        f"{s:.0f}/{d:.0f}"
        for s, d in zip(
            rng.normal(130, 17, len(owner)), rng.normal(76, 10, len(owner)), strict=True
        )
    ]
    values = {
        "Height (Inches)": pl.Series("", height[owner].round(1)).cast(pl.String),
        "Weight (Lbs)": pl.Series("", pounds).cast(pl.String),
        "BMI (kg/m2)": pl.Series("", bmi_now).cast(pl.String),
        "Blood Pressure": pl.Series("", pressure, dtype=pl.String),
    }
    return (
        pl.concat(
            pl.DataFrame(
                {
                    "subject_id": p.subject_id[owner],
                    "chartdate": day(at),
                    "result_name": [name] * len(owner),
                    "result_value": value,
                }
            ).filter(alive)
            for name, value in values.items()
        )
        .with_columns(
            seq_num=pl.int_range(1, pl.len() + 1).over("subject_id", "chartdate", "result_name")
        )
        .sort("subject_id", "chartdate", "result_name", "seq_num")
    )


def _prescribed(chunk: Chunk) -> pl.DataFrame:
    admitted = np.flatnonzero(chunk.encounters.admitted)
    e, rng = chunk.encounters, chunk.rng("hosp/prescriptions")
    owner, drug = chunk.conditions("drugs")
    ordered = e.admitted[owner] & (rng.random(len(owner)) < 0.85)
    ward, extra = Ragged([WARD_DRUGS]).expand(np.zeros(len(admitted), np.int64))
    given = rng.random(len(ward)) < 0.7
    tail, _ = spread(rng.poisson(RARE_DRUGS, len(admitted)))
    rare = chunk.rare_drugs[long_tail(rng, len(chunk.rare_drugs), len(tail))]
    row = np.concatenate([owner[ordered], admitted[ward[given]], admitted[tail]])
    names = np.concatenate([drug[ordered], extra[given], rare])
    stay = (e.discharge - e.admit)[row]
    start = e.admit[row] + np.minimum(rng.uniform(0.5, 6, len(row)) * HOUR, 0.3 * stay)
    stop = start + rng.uniform(0.3, 1, len(row)) * (e.discharge[row] - start)
    start, stop = np.floor(start / 3600) * 3600, np.floor(stop / 3600) * 3600
    start = np.maximum(start, e.admit[row])
    stop = np.maximum(stop, start)
    frame = (
        pl.DataFrame(
            {
                "row": row,
                "subject_id": chunk.subject_id[row],
                "hadm_id": chunk.hadm_id.gather(row),
                "start": start,
                "stop": stop,
                "discharge": e.discharge[row],
                "died": e.died[row],
                "emar": rng.random(len(chunk))[row] < 0.7,  # wards without scanners keep none
            }
        )
        .hstack(chunk.products(row, names))
        .unique(["hadm_id", "drug"], keep="first", maintain_order=True)
        .sort("subject_id", "start", "drug")
        .with_columns(seq=10 + 2 * pl.int_range(pl.len()).over("subject_id"))
    )
    count = len(frame)
    return frame.with_columns(
        poe_id=pl.format("{}-{}", "subject_id", "seq"),
        pharmacy_id=10_000_000 + chunk.number * 1_000_000 + pl.int_range(pl.len()),
        starttime=stamp(frame["start"].to_numpy()),
        stoptime=stamp(frame["stop"].to_numpy()),
        order_provider_id=provider(rng, count),
        times=pl.Series(rng.choice(np.array([1, 2, 3, 4]), count)),
        entertime=stamp(frame["start"].to_numpy() - 1200),
    )


def _write_orders(chunk: Chunk, out: TableFiles, admitted: np.ndarray) -> None:
    """Drugs from the order to the bedside: poe, prescriptions, pharmacy, emar."""
    frame = prescribed(chunk)
    out.write(
        "hosp/prescriptions",
        frame.select(
            "subject_id",
            "hadm_id",
            "pharmacy_id",
            "poe_id",
            "order_provider_id",
            "starttime",
            "stoptime",
            "drug",
            "route",
            poe_seq="seq",
            drug_type=pl.lit("MAIN"),
            formulary_drug_cd="code",
            gsn="gsn",
            ndc="ndc",
            prod_strength=pl.format("{} {}", "strength", "form"),
            form_rx="form",
            dose_val_rx="dose",
            dose_unit_rx="dose_unit",
            form_val_disp=pl.lit("1"),
            form_unit_disp="form_unit",
            doses_per_24_hrs="times",
        ),
    )
    out.write(
        "hosp/pharmacy",
        frame.select(
            "subject_id",
            "hadm_id",
            "pharmacy_id",
            "poe_id",
            "starttime",
            "stoptime",
            "entertime",
            "route",
            medication="drug",
            proc_type=pl.lit("Unit Dose"),
            status=pl.lit("Discontinued via patient discharge"),
            verifiedtime="entertime",
            frequency=pl.format("Q{}H", 24 // pl.col("times")),
            doses_per_24_hrs="times",
            duration_interval=pl.lit("Ongoing"),
            dispensation=pl.lit("Omnicell"),
        ),
    )
    _write_poe(chunk, out, frame, admitted)
    _write_emar(chunk, out, frame)


def _write_poe(chunk: Chunk, out: TableFiles, drugs: pl.DataFrame, admitted: np.ndarray) -> None:
    """Orders: one for each drug, and the general ones of an admission."""
    e, rng = chunk.encounters, chunk.rng("hosp/poe")
    kinds = [
        ("ADT orders", "Admit", 0.0),
        ("General Care", "Vitals/Monitoring", 0.05),
        ("Lab", None, 0.1),
        ("ADT orders", "Discharge", 0.98),
    ]
    general = stack(
        pl.DataFrame(
            {
                "subject_id": chunk.subject_id[admitted],
                "hadm_id": chunk.hadm_id.gather(admitted),
                "ordertime": stamp(e.admit[admitted] + part * (e.discharge - e.admit)[admitted]),
                "order_type": [kind] * len(admitted),
                "order_subtype": pl.Series("", [subtype] * len(admitted), dtype=pl.String),
                "slot": np.full(len(admitted), slot),
                "place": admitted,
            }
        )
        for slot, (kind, subtype, part) in enumerate(kinds)
    )
    # Drugs hold the even sequence numbers of a patient, general orders the odd ones.
    general = (
        general.sort("subject_id", "place", "slot")
        .with_columns(poe_seq=11 + 2 * pl.int_range(pl.len()).over("subject_id"))
        .with_columns(poe_id=pl.format("{}-{}", "subject_id", "poe_seq"))
    )
    medicines = drugs.select(
        "subject_id",
        "hadm_id",
        "poe_id",
        poe_seq="seq",
        ordertime="entertime",
        order_type=pl.lit("Medications"),
        order_subtype=pl.lit(None, pl.String),
    )
    orders = stack([medicines, general.select(medicines.columns)]).sort("subject_id", "poe_seq")
    out.write(
        "hosp/poe",
        orders.with_columns(
            transaction_type=pl.lit("New"),
            order_provider_id=provider(rng, len(orders)),
            order_status=pl.lit("Inactive"),
        ),
    )
    units = pl.DataFrame({"place": admitted, "ward": text(chunk.ward[admitted])})
    out.write(
        "hosp/poe_detail",
        general.filter(pl.col("order_subtype") == "Admit")
        .join(units, on="place", maintain_order="left")
        .select(
            "poe_id",
            "poe_seq",
            "subject_id",
            field_name=pl.lit("Admit to"),
            field_value="ward",
        ),
    )


def _write_emar(chunk: Chunk, out: TableFiles, drugs: pl.DataFrame) -> None:
    rng = chunk.rng("hosp/emar")
    scanned = drugs.filter("emar")
    days = ((scanned["stop"] - scanned["start"]) / DAY).clip(0.3, 6)
    doses = (days * scanned["times"]).round().cast(pl.Int64).clip(1, 16).to_numpy()
    owner, place = spread(doses)
    given = scanned.select(
        "subject_id", "hadm_id", "poe_id", "pharmacy_id", "drug", "route",
        "strength", "form", "dose", "dose_unit", "code",
    )[owner]  # fmt: skip
    begin, step = scanned["start"].to_numpy()[owner], 24 * HOUR / scanned["times"].to_numpy()[owner]
    planned = begin + place * step
    inside = planned < scanned["discharge"].to_numpy()[owner]
    given, planned = given.filter(pl.Series(inside)), planned[inside]
    at = planned + rng.uniform(-0.3, 1, len(planned)) * HOUR
    # A dose that was due at the bedside of somebody who has just died.
    late = scanned.filter(pl.col("died") & pl.Series(rng.random(len(scanned)) < 0.1))
    given = pl.concat([given, late.select(given.columns)])
    planned = np.concatenate([planned, late["discharge"].to_numpy()])
    at = np.concatenate([at, late["discharge"].to_numpy() + rng.uniform(60, 1200, len(late))])
    count = len(planned)
    said = rng.choice(
        np.array(["Administered", "Not Given", "Flushed"], dtype=object), count, p=[0.9, 0.07, 0.03]
    )
    said[count - len(late) :] = "Not Given"
    emar = (
        given.with_columns(
            at=at,
            charttime=stamp(at),
            scheduletime=stamp(planned),
            storetime=stamp(at + rng.uniform(10, 600, count)),
            event_txt=text(said),
        )
        .sort("subject_id", "at", "drug")
        .with_columns(emar_seq=1 + pl.int_range(pl.len()).over("subject_id"))
        .with_columns(emar_id=pl.format("{}-{}", "subject_id", "emar_seq"))
    )
    out.write(
        "hosp/emar",
        emar.select(
            "subject_id",
            "hadm_id",
            "emar_id",
            "emar_seq",
            "poe_id",
            "pharmacy_id",
            "charttime",
            "event_txt",
            "scheduletime",
            "storetime",
            medication="drug",
            enter_provider_id=provider(rng, count),
        ),
    )
    whole = emar.select(
        "subject_id",
        "emar_id",
        "emar_seq",
        "pharmacy_id",
        parent_field_ordinal=pl.lit(None, pl.String),
        administration_type=pl.lit("Standard Maintenance Medication"),
        dose_due="dose",
        dose_due_unit="dose_unit",
        dose_given=pl.lit(None, pl.String),
        dose_given_unit=pl.lit(None, pl.String),
        product_code=pl.lit(None, pl.String),
        product_description=pl.lit(None, pl.String),
        route=pl.lit(None, pl.String),
    )
    part = emar.filter(pl.col("event_txt") == "Administered").select(
        "subject_id",
        "emar_id",
        "emar_seq",
        "pharmacy_id",
        parent_field_ordinal=pl.lit("1.1"),
        administration_type=pl.lit(None, pl.String),
        dose_due=pl.lit(None, pl.String),
        dose_due_unit=pl.lit(None, pl.String),
        # Of some products nobody wrote down how much.
        dose_given=pl.when(pl.col("code").str.ends_with("5")).then(pl.lit("___")).otherwise("dose"),
        dose_given_unit="dose_unit",
        product_code="code",
        product_description=pl.format("{} {} {}", "drug", "strength", "form"),
        route="route",
    )
    out.write(
        "hosp/emar_detail",
        stack([whole, part]).sort("subject_id", "emar_seq", "parent_field_ordinal"),
    )
