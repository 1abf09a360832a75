"""Two hundred damaged inputs: each is refused by the file's name, or its bad rows are counted.

A damage is refused when the file as a whole cannot be believed; then no store is left. A damage to
single rows rejects these rows alone: the store must equal, byte for byte, the one that the file
gives without them. A damage that loses nothing must change nothing.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import random
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import polars as pl
import pytest

from wardround.errors import WardroundError
from wardround.sources.hospital import generate_hospital
from wardround.sources.mimic import ingest_mimic
from wardround.sources.mimic.mapping import load_maps
from wardround.store import open_store

#: Tables to damage, and what must lie beside them.
BESIDE = {
    "hosp/patients": ["hosp/admissions"],
    "hosp/admissions": ["hosp/patients"],
    "hosp/transfers": ["hosp/patients"],
    "hosp/diagnoses_icd": ["hosp/patients", "hosp/admissions"],
    "hosp/labevents": ["hosp/patients"],
    "hosp/microbiologyevents": ["hosp/patients"],
    "hosp/prescriptions": ["hosp/patients"],
    "hosp/emar": ["hosp/patients"],
    "hosp/omr": ["hosp/patients"],
    "ed/edstays": ["hosp/patients"],
    "ed/triage": ["hosp/patients", "ed/edstays"],
    "ed/vitalsign": ["hosp/patients"],
    "ed/diagnosis": ["hosp/patients", "ed/edstays"],
    "icu/icustays": ["hosp/patients"],
    "icu/chartevents": ["hosp/patients"],
    "icu/inputevents": ["hosp/patients"],
}
MAPS = load_maps()
INPUTS, QUICK = 200, 40


@dataclass
class Sheet:
    """A table as text; damages change it, or return other bytes than those that it writes."""

    header: list[str]
    rows: list[list[str]]

    def filled(self, *columns: str) -> list[int]:
        """Rows in which these columns say something."""
        places = [self.header.index(column) for column in columns]
        return [n for n, row in enumerate(self.rows) if all(row[place] for place in places)]

    def put(self, row: int, column: str, text: str) -> None:
        self.rows[row][self.header.index(column)] = text

    def text(self, delimiter: str = ",", end: str = "\n") -> str:
        out = io.StringIO()
        csv.writer(out, delimiter=delimiter, lineterminator=end).writerows(
            [self.header, *self.rows]
        )
        return out.getvalue()

    def lines(self) -> list[str]:
        return self.text().splitlines(keepends=True)


@dataclass
class Damage:
    """What a damaged file holds, and what must come of it.

    Attributes:
        content: the file.
        refused: what the error says beside the file's name; else the file is ingested.
        rejected: rows by the reason that must be counted.
        lost: places of the rows that give nothing.
        suffix: of the file's name.
    """

    content: bytes
    refused: str | None = None
    rejected: Counter[str] = field(default_factory=Counter)
    lost: list[int] = field(default_factory=list)
    suffix: str = ".csv.gz"


Kind = Callable[[str, Sheet, random.Random], Damage]


def packed(text: str | bytes) -> bytes:
    return gzip.compress(text.encode() if isinstance(text, str) else text, mtime=0)


def declared(table: str):
    module, name = table.split("/")
    return MAPS[module].tables[name]


def needed(table: str, sheet: Sheet) -> list[str]:
    """Columns of the sheet without which the table is not that table."""
    spec = declared(table)
    joined = {join.key for join in spec.join.values() if not join.optional}
    spare = {"hadm_id", "stay_id"} - set(spec.ids) - joined
    return [c for c in spec.columns if c in sheet.header and c not in {*spare, *spec.optional}]


# Damages to the file as a whole --------------------------------------------------------------


def _cut(at: Callable[[int], int]) -> Kind:
    def damage(table: str, sheet: Sheet, rng: random.Random) -> Damage:
        whole = packed(sheet.text())
        return Damage(whole[: at(len(whole))], refused="not a whole gzip file")

    return damage


def _cut_trailer(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    return Damage(packed(sheet.text())[:-6], refused="not a whole gzip file")


def _flipped_bit(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    content = bytearray(packed(sheet.text()))
    # Stored bits near the end: what is read before them looks well.
    content[len(content) * 9 // 10] ^= 1 << rng.randrange(8)
    with pytest.raises((zlib.error, gzip.BadGzipFile, EOFError)):
        gzip.decompress(bytes(content))
    return Damage(bytes(content), refused="")


def _wrong_checksum(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    content = bytearray(packed(sheet.text()))
    content[-8] ^= 1
    return Damage(bytes(content), refused="not a whole gzip file")


def _text_called_gzip(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    return Damage(sheet.text().encode(), refused="not a whole gzip file")


def _gzip_called_text(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    return Damage(packed(sheet.text()), refused="not UTF-8 text", suffix=".csv")


def _bzip_called_gzip(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    return Damage(bz2.compress(sheet.text().encode()), refused="not a whole gzip file")


def _random_bytes(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    return Damage(rng.randbytes(5000), refused="not a whole gzip file")


def _no_bytes(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    return Damage(b"", refused="is empty")


def _gzip_of_nothing(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    return Damage(packed(rng.choice(["", "\n", "\n\n"])), refused="is empty")


def _web_page(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    page = "<!DOCTYPE html>\n<html><body>Please log in to PhysioNet</body></html>\n"
    return Damage(packed(page), refused=f"needs the column '{needed(table, sheet)[0]}'")


def _renamed_column(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    column = rng.choice(needed(table, sheet))
    sheet.header[sheet.header.index(column)] = f"{column}_2"
    return Damage(packed(sheet.text()), refused=f"needs the column '{column}'")


def _missing_column(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    column = rng.choice(needed(table, sheet))
    place = sheet.header.index(column)
    for row in (sheet.header, *sheet.rows):
        del row[place]
    return Damage(packed(sheet.text()), refused=f"needs the column '{column}'")


def _swapped_names(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    """The subject's column carries the name of a text or a time, and that of the subject's."""
    spec = declared(table)
    full = [c for c in needed(table, sheet) if len(sheet.filled(c)) > len(sheet.rows) * 0.6]
    others = [c for c in full if c in (*spec.times, *spec.dates)] or ["gender"]
    names = sheet.header
    place, other = names.index("subject_id"), names.index(rng.choice(others))
    names[place], names[other] = names[other], names[place]
    said = "names no subject" if table == "hosp/patients" else "rows cannot be used"
    return Damage(packed(sheet.text()), refused=said)


def _another_tables_file(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    page = "row_id,subject_id,note_type,text\n1,10000032,DS,none\n"
    return Damage(packed(page), refused="it has row_id, subject_id, note_type, text")


def _column_named_twice(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    column = rng.choice(sheet.header)
    sheet.header[(sheet.header.index(column) + 1) % len(sheet.header)] = column
    return Damage(packed(sheet.text()), refused=f"the column '{column}' is there twice")


def _utf16(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    return Damage(packed(sheet.text().encode("utf-16")), refused="not UTF-8 text")


def _utf16_without_mark(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    return Damage(packed(sheet.text().encode("utf-16-le")), refused="")


def _latin1(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    row, column = rng.randrange(len(sheet.rows)), rng.choice(needed(table, sheet))
    sheet.put(row, column, "caf\xe9")
    return Damage(packed(sheet.text().encode("latin-1")), refused="not UTF-8 text")


def _latin1_header(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    sheet.header[-1] = "identit\xe9"
    return Damage(packed(sheet.text().encode("latin-1")), refused="row 1: not UTF-8 text")


def _open_quote(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    lines = sheet.lines()
    row = rng.randrange(1, len(lines))
    start, _, rest = lines[row].partition(",")
    lines[row] = f'{start},"{rest}'
    return Damage(packed("".join(lines)), refused="row ")


def _open_quote_at_the_end(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    text = sheet.text().rstrip("\n")
    start, _, rest = text.rpartition(",")
    return Damage(packed(f'{start},"{rest}\n'), refused="quote")


def _row_too_long(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    sheet.rows[rng.randrange(len(sheet.rows))].append("surplus")
    return Damage(packed(sheet.text()), refused="another number of columns than the header")


def _row_too_short(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    sheet.rows[rng.randrange(len(sheet.rows))].pop()
    return Damage(packed(sheet.text()), refused="another number of columns than the header")


def _last_row_cut(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    """A copy that ended in the middle of its last row."""
    del sheet.rows[-1][2:]
    return Damage(
        sheet.text().rstrip("\n").encode(),
        refused="another number of columns than the header",
        suffix=".csv",
    )


def _other_delimiter(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    return Damage(packed(sheet.text(rng.choice(";\t|"))), refused="needs the column")


# Damages to rows ---------------------------------------------------------------------------


def _bad_cells(columns: Callable[[str], list[str]], texts: list[str], what: str) -> Kind:
    """A few cells of one column do not say what they should."""

    def damage(table: str, sheet: Sheet, rng: random.Random) -> Damage:
        column = rng.choice([c for c in columns(table) if sheet.filled(c)])
        lost = rng.sample(sheet.filled(column), min(3, len(sheet.filled(column))))
        for row in lost:
            sheet.put(row, column, rng.choice(texts))
        reason = what.format(column=column)
        return Damage(packed(sheet.text()), rejected=Counter({reason: len(lost)}), lost=lost)

    return damage


def _times(table: str) -> list[str]:
    spec = declared(table)
    return [*spec.times, *spec.dates]


def _numbers(table: str) -> list[str]:
    return list(declared(table).numbers)


def _integers(table: str) -> list[str]:
    return [*declared(table).ids, *declared(table).integers]


def _out_before_in(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    start, end = declared(table).intervals[0]
    rows = sheet.filled(start, end)
    if mend := declared(table).mend.get(end):
        place = sheet.header.index(mend.when.column)
        rows = [row for row in rows if sheet.rows[row][place] != mend.when.equals]
    lost = rng.sample(rows, 3)
    for row in lost:
        sheet.put(row, end, "1950-01-01 00:00:00")
    return Damage(
        packed(sheet.text()), rejected=Counter({f"{end} is before {start}": 3}), lost=lost
    )


def _header_again(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    """Exports put end to end."""
    lines = sheet.lines()
    for _ in range(2):
        lines.insert(rng.randrange(2, len(lines)), lines[0])
    return Damage(packed("".join(lines)), rejected=Counter({"subject_id is not a number": 2}))


def _missing_cell(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    spec = declared(table)
    column = rng.choice([c for c in (*spec.ids, *spec.must) if c in sheet.header])
    lost = rng.sample(sheet.filled(column), 3)
    for row in lost:
        sheet.put(row, column, "")
    return Damage(packed(sheet.text()), rejected=Counter({f"{column} is missing": 3}), lost=lost)


def _missing_time(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    """Rows with something to say, and no time to say it of."""
    (column,) = {event.time for event in declared(table).events.values()}
    lost = rng.sample(sheet.filled(column), 3)
    for row in lost:
        sheet.put(row, column, "")
    return Damage(packed(sheet.text()), rejected=Counter({f"{column} is missing": 3}), lost=lost)


def _unknown_stay(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    ((other, join),) = declared(table).join.items()
    lost = rng.sample(sheet.filled(join.key), 3)
    for row in lost:
        sheet.put(row, join.key, "1")
    reason = f"no row of {other} with this {join.key}"
    return Damage(packed(sheet.text()), rejected=Counter({reason: 3}), lost=lost)


# What only looks like damage ---------------------------------------------------------------


def _byte_order_mark(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    return Damage(packed(codecs.BOM_UTF8 + sheet.text().encode()))


def _windows_line_ends(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    return Damage(packed(sheet.text(end="\r\n")))


def _no_last_line_end(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    return Damage(packed(sheet.text().rstrip("\n")))


def _two_gzip_members(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    lines = sheet.lines()
    half = len(lines) // 2
    return Damage(packed("".join(lines[:half])) + packed("".join(lines[half:])))


def _columns_in_another_order(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    order = rng.sample(range(len(sheet.header)), len(sheet.header))
    for row in (sheet.header, *sheet.rows):
        row[:] = [row[place] for place in order]
    return Damage(packed(sheet.text()))


def _shouted_header(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    sheet.header = [f" {name.upper()} " for name in sheet.header]
    return Damage(packed(sheet.text()))


def _surplus_column(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    place = rng.randrange(len(sheet.header) + 1)
    sheet.header.insert(place, "note")
    for row in sheet.rows:
        row.insert(place, rng.choice(["", "seen", "a, b"]))
    return Damage(packed(sheet.text()))


def _spaces_around_values(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    for column in (*_numbers(table), *_times(table), "subject_id"):
        place = sheet.header.index(column)
        for row in sheet.rows:
            row[place] = f"  {row[place]} " if row[place] else ""
    return Damage(packed(sheet.text()))


def _plain_text_file(table: str, sheet: Sheet, rng: random.Random) -> Damage:
    return Damage(sheet.text().encode(), suffix=".csv")


def having(what: Callable[[str], object]) -> list[str]:
    return [table for table in BESIDE if what(table)]


ALL = list(BESIDE)
BUT_PATIENTS = [table for table in BESIDE if table != "hosp/patients"]
DATES = ["no date", "2180-13-45 00:00:00", "2180-02-30 10:00:00", "0000-00-00", "31/12/2180"]
WORDS = ["abc", "1.2.3", "> 100", "12,5", "___", "0x1F"]
KINDS: dict[str, tuple[Kind, list[str]]] = {
    "gzip cut in the middle": (_cut(lambda size: size // 2), ALL),
    "gzip cut near its end": (_cut(lambda size: size - 30), ALL),
    "gzip cut in its header": (_cut(lambda size: 7), ALL),
    "gzip without its trailer": (_cut_trailer, ALL),
    "a flipped bit": (_flipped_bit, ALL),
    "a wrong checksum": (_wrong_checksum, ALL),
    "text called gzip": (_text_called_gzip, ALL),
    "gzip called text": (_gzip_called_text, ALL),
    "bzip2 called gzip": (_bzip_called_gzip, ALL),
    "random bytes": (_random_bytes, ALL),
    "no bytes": (_no_bytes, ALL),
    "gzip of nothing": (_gzip_of_nothing, ALL),
    "a web page": (_web_page, ALL),
    "a renamed column": (_renamed_column, ALL),
    "a missing column": (_missing_column, ALL),
    "two columns' names swapped": (
        _swapped_names,
        ["hosp/patients", *having(lambda t: _times(t) and t != "hosp/patients")],
    ),
    "another table's file": (_another_tables_file, ALL),
    "a column named twice": (_column_named_twice, ALL),
    "UTF-16": (_utf16, ALL),
    "UTF-16 without its mark": (_utf16_without_mark, ALL),
    "Latin-1": (_latin1, ALL),
    "a header in Latin-1": (_latin1_header, ALL),
    "an open quote": (_open_quote, ALL),
    "an open quote at the end": (_open_quote_at_the_end, ALL),
    "a row too long": (_row_too_long, ALL),
    "a row too short": (_row_too_short, ALL),
    "the last row cut": (_last_row_cut, ALL),
    "another delimiter": (_other_delimiter, ALL),
    "bad dates": (_bad_cells(_times, DATES, "{column} is not a time"), having(_times)),
    "text in numbers": (
        _bad_cells(_numbers, WORDS, "{column} is not a number"),
        having(_numbers),
    ),
    "NaN in numbers": (
        _bad_cells(_numbers, ["NaN", "nan", "inf", "-Infinity"], "{column} is not a number"),
        having(_numbers),
    ),
    "NaN in times": (
        _bad_cells(_times, ["NaN", "NULL", "None", "NaT"], "{column} is not a time"),
        having(_times),
    ),
    "text in integers": (
        _bad_cells(_integers, ["abc", "NaN", "9" * 25, "1 2"], "{column} is not a number"),
        having(_integers),
    ),
    "text for subjects": (
        _bad_cells(
            lambda table: ["subject_id"],
            ["abc", "NaN", "9" * 25, "P-17", "10000032;"],
            "subject_id is not a number",
        ),
        ALL,
    ),
    "no subject": (
        _bad_cells(lambda table: ["subject_id"], [""], "subject_id is missing"),
        ALL,
    ),
    "unknown subjects": (
        _bad_cells(lambda table: ["subject_id"], ["1", "99999999", "-10"], "unknown subject"),
        BUT_PATIENTS,
    ),
    "out before in": (_out_before_in, having(lambda t: declared(t).intervals)),
    "the header again": (_header_again, ALL),
    "a missing cell": (_missing_cell, having(lambda t: declared(t).ids or declared(t).must)),
    "a missing time": (
        _missing_time,
        ["hosp/transfers", "hosp/labevents", "hosp/emar", "hosp/omr", "icu/chartevents"],
    ),
    "an unknown stay": (_unknown_stay, ["hosp/diagnoses_icd", "ed/triage", "ed/diagnosis"]),
    "a byte order mark": (_byte_order_mark, ALL),
    "Windows' line ends": (_windows_line_ends, ALL),
    "no last line end": (_no_last_line_end, ALL),
    "two gzip members": (_two_gzip_members, ALL),
    "columns in another order": (_columns_in_another_order, ALL),
    "a header in capitals": (_shouted_header, ALL),
    "a surplus column": (_surplus_column, ALL),
    "spaces around values": (_spaces_around_values, ALL),
    "a file not zipped": (_plain_text_file, ALL),
}


def _draw() -> list[tuple[str, str]]:
    """Kinds and tables: every kind in turn, each time with another table."""
    rng = random.Random(20)
    tables = {kind: rng.sample(where, len(where)) for kind, (_, where) in KINDS.items()}
    rounds = range(len(BESIDE))
    drawn = [(kind, where[n]) for n in rounds for kind, where in tables.items() if n < len(where)]
    return drawn[:INPUTS]


def _cases() -> Iterator[object]:
    quick = set(random.Random(4).sample(range(len(KINDS)), QUICK))
    for number, (kind, table) in enumerate(_draw()):
        marks = [] if number in quick else [pytest.mark.slow]
        yield pytest.param(kind, table, number, id=f"{number}-{table}-{kind}", marks=marks)


@pytest.fixture(scope="module")
def sheets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corruption") / "hospital"
    generate_hospital(folder, patients=60, seed=1)
    sheets = {}
    for table in BESIDE:
        with gzip.open(folder / f"{table}.csv.gz", "rt", newline="") as stream:
            header, *rows = csv.reader(stream)
        sheets[table] = Sheet(header, rows)
    return sheets


@pytest.fixture
def ingest(sheets, tmp_path):
    """Ingest a table's file beside the clean tables that it needs."""

    def run(table: str, name: str, content: bytes, suffix: str = ".csv.gz"):
        source = tmp_path / name
        for other in BESIDE[table]:
            path = source / f"{other}.csv.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(packed(sheets[other].text()))
        path = source / f"{table}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        report = ingest_mimic([source], tmp_path / f"{name}-store")
        return report, open_store(tmp_path / f"{name}-store")

    return run


def copy(sheet: Sheet) -> Sheet:
    return replace(sheet, header=list(sheet.header), rows=[list(row) for row in sheet.rows])


@pytest.mark.parametrize(("kind", "table", "seed"), _cases())
def test_damaged_input(kind, table, seed, sheets, ingest, tmp_path):
    damage = KINDS[kind][0](table, copy(sheets[table]), random.Random(seed))
    name = f"{table}{damage.suffix}"
    if damage.refused is not None:
        with pytest.raises(WardroundError) as caught:
            ingest(table, "damaged", damage.content, damage.suffix)
        message = str(caught.value)
        assert name in message, message
        assert damage.refused in message, message
        assert "\n" not in message, message
        assert not re.search(r"Error\b|Exception|Traceback|duckdb|polars", message), message
        assert [p.name for p in tmp_path.iterdir()] == ["damaged"], "something is left behind"
        return
    report, store = ingest(table, "damaged", damage.content, damage.suffix)
    ledger = report.tables[table]
    assert ledger.rejected == dict(damage.rejected)
    assert ledger.rows == ledger.kept + ledger.empty + sum(damage.rejected.values())
    assert set(ledger.first_row) == set(ledger.rejected)
    if damage.lost:
        assert min(ledger.first_row.values()) == min(damage.lost) + 2, "the header is row 1"
    rest = copy(sheets[table])
    in_patients = table == "hosp/patients" and "subject_id" not in " ".join(damage.rejected)
    if not in_patients:
        rest.rows = [row for n, row in enumerate(rest.rows) if n not in damage.lost]
    clean_report, clean = ingest(table, "clean", packed(rest.text()))
    if in_patients:
        # Who has a bad row in patients stays known: only what this row says is lost.
        subjects = [int(sheets[table].rows[row][0]) for row in damage.lost]
        said = pl.col("code").str.contains("^(GENDER//|ANCHOR_YEAR_GROUP//|MEDS_)")
        lost = said & pl.col("subject_id").is_in(subjects)
        assert store.events().collect().equals(clean.events().filter(~lost).collect())
        return
    assert ledger.kept == clean_report.tables[table].kept
    for other in BESIDE[table]:
        assert report.tables[other].rejected == clean_report.tables[other].rejected
    if store.fingerprint != clean.fingerprint:
        events, expected = store.events().collect(), clean.events().collect()
        assert events.equals(expected), events.join(expected, on=events.columns, how="anti")
        assert store.fingerprint == clean.fingerprint
    assert json.loads((store.path / "ingest-report.json").read_text())["tables"][table][
        "rejected"
    ] == dict(damage.rejected)


def test_there_are_two_hundred_and_every_kind_meets_several_tables():
    drawn = _draw()
    assert len(drawn) == len(set(drawn)) == INPUTS
    assert {kind for kind, _ in drawn} == set(KINDS)
    assert {table for _, table in drawn} == set(BESIDE)


@pytest.mark.parametrize("table", ["hosp/labevents", "ed/vitalsign"])
def test_a_table_of_which_most_is_bad_is_refused(table, sheets, ingest, tmp_path):
    sheet = copy(sheets[table])
    for row in range(len(sheet.rows) // 2 + 1):
        sheet.put(row, "charttime", "soon")
    with pytest.raises(WardroundError, match="charttime is not a time; is it the right table"):
        ingest(table, "damaged", packed(sheet.text()))
    assert [p.name for p in tmp_path.iterdir()] == ["damaged"]


def test_a_failed_ingest_keeps_the_store_that_stood_there(sheets, ingest, tmp_path):
    _, store = ingest("hosp/omr", "source", packed(sheets["hosp/omr"].text()))
    (tmp_path / "source/hosp/omr.csv.gz").write_bytes(b"not gzip")
    with pytest.raises(WardroundError, match=r"omr\.csv\.gz: not a whole gzip file"):
        ingest_mimic([tmp_path / "source"], store.path, overwrite=True)
    assert open_store(store.path).fingerprint == store.fingerprint
    assert not list(tmp_path.glob(".*"))
