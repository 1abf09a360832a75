"""MIMIC-IV files to a patient store."""

from __future__ import annotations

import gc
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pyarrow.parquet as pq

from wardround.errors import WardroundError
from wardround.ontology import dotted_icd
from wardround.progress import track
from wardround.sources.mimic.compile import ROW, CompiledTable, lookup_name
from wardround.sources.mimic.engine import Engine, compile_sql
from wardround.sources.mimic.mapping import Module, Table, choose_tables, load_maps
from wardround.sources.mimic.notes import REPEATED, STRAY, StagedNotes
from wardround.sources.mimic.origin import find_origin
from wardround.sources.mimic.report import (
    IngestReport,
    TableReport,
    count_notes,
    count_rows,
    missing_tables,
)
from wardround.sources.mimic.tables import (
    SourceFile,
    check_columns,
    find_tables,
    hash_file,
    published_hashes,
    unread_tables,
)
from wardround.sources.mimic.tasks import Tasks, raise_failed
from wardround.store import (
    DEFAULT_FRACTIONS,
    EVENT_SCHEMA,
    SPLITS,
    STAY_SCHEMA,
    StoreWriter,
    split_subjects,
)

EVENT_COLUMNS = EVENT_SCHEMA.names
#: Each table in work holds buffers, of which the smallest useful `memory_limit` must have room.
TABLES_AT_ONCE = 4


def ingest_mimic(
    sources: Sequence[str | Path],
    dest: str | Path,
    *,
    tables: Sequence[str] | None = None,
    overwrite: bool = False,
    fractions: Sequence[float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    subjects_per_block: int = 1000,
    memory_limit: str = "3GB",
    threads: int | None = None,
    maps: Mapping[str, Module] | None = None,
) -> IngestReport:
    """Ingest MIMIC-IV (hosp, icu, ed, note; any subset of tables) into a store.

    Each table is read once, as text, and staged as events in the order of its rows; then blocks
    of subjects are read from all staged tables, sorted and written. Notes go the same way, beside
    the events. Memory is bounded by `memory_limit` and one block.

    Args:
        sources: folders that hold tables as `.csv.gz` or `.csv`, flat or in module folders.
        dest: the store to make.
        tables: modules (`ed`) and tables (`hosp/labevents`) to read; all that are there by
            default. `hosp/patients` is always needed, and so is what a chosen table joins.
        overwrite: replace a store that stands there.
        fractions, seed: the subject split; see `wardround.store.split_subjects`.
        subjects_per_block: how many subjects are sorted at a time.
        memory_limit: of the engine, as DuckDB reads it.
        threads: of the engine; all cores by default.
        maps: event maps; MIMIC-IV's own by default.

    Returns:
        The ledger, also kept in the store.

    Raises:
        WardroundError: what is wrong with which file; no store is left behind.
    """
    began = time.perf_counter()
    every = load_maps() if maps is None else maps
    maps, left_out = choose_tables(every, tables)
    files = find_tables([Path(source) for source in sources], maps)
    declared = {
        name: table
        for module in maps.values()
        for name, table in module.tables.items()
        if name in files
    }
    columns = {
        name: check_columns(files[name], table, [(n, t) for n, t in declared.items() if n != name])
        for name, table in declared.items()
    }
    _check_joins(files, declared, left_out)
    published = _published(files)
    quoted = {name for name, table in declared.items() if table.note}
    with (
        StoreWriter(dest, overwrite=overwrite) as writer,
        _hashing(files, published, quoted) as hashes,
    ):
        # The engine's memory is given back before the first block is read.
        with _engine(writer.workdir, memory_limit, threads) as engine:
            for name, file in files.items():
                if name not in quoted:
                    engine.add_file(file)
            staging = _Staging(engine, writer.workdir, files, declared, columns)
            subjects = staging.find_subjects()
            engine.add_subjects(subjects)
            workers = min(engine.threads, TABLES_AT_ONCE)
            with _collection_paused(), Tasks(workers, engine.stop, hashes.values()) as tasks:
                staging.run(tasks)
                dictionaries = _read_dictionaries(maps, files, engine, tasks)
            origin = find_origin(files, subjects, engine)
            report = IngestReport(origin.source, origin.version, origin.access)
            report.missing = missing_tables(maps, files)
            report.left_out = left_out
            report.unread = unread_tables(files, every)
            notes = staging.notes()
            report.tables = staging.reports()
            stays = staging.stays(report)
        splits = pl.DataFrame(
            {"subject_id": subjects, "split": split_subjects(subjects, fractions, seed)}
        )
        paths = {name: path for name, path in staging.paths.items() if declared[name].events}
        counts = _write_blocks(writer, paths, notes, splits, subjects_per_block, hashes.values())
        splits = splits.join(counts.subjects, on="subject_id", how="semi")
        report.subjects = len(splits)
        report.note_types = notes.counts
        report.events = int(counts.codes["count"].sum())
        report.changed_files = [
            file.name
            for name, file in files.items()
            if published.get(name, hashes[name].result()) != hashes[name].result()
        ]
        codes = _describe(counts.codes, maps, dictionaries)
        report.seconds = round(time.perf_counter() - began, 2)
        writer.finish(
            codes=codes,
            stays=stays,
            splits=splits,
            provenance={
                "source": report.source,
                "source_version": report.source_version,
                "access": report.access,
                "files": {
                    file.name: {
                        "path": str(file.path),
                        "bytes": file.path.stat().st_size,
                        "sha256": hashes[name].result(),
                    }
                    for name, file in files.items()
                },
                "missing": report.missing,
                "left_out": report.left_out,
                "split": {"fractions": list(fractions), "seed": seed},
            },
            dataset={"dataset_name": origin.name, "dataset_version": origin.version},
            report=report.to_dict(),
        )
    return report


class _Lookup(NamedTuple):
    """Another table reduced to one row a key: its columns' types, and when it is there."""

    schema: dict[str, str]
    made: Future[None]


class _Staging:
    """The source's tables on their way to staged events and notes."""

    def __init__(
        self,
        engine: Engine,
        folder: Path,
        files: Mapping[str, SourceFile],
        tables: Mapping[str, Table],
        columns: Mapping[str, Mapping[str, str | None]],
    ) -> None:
        self._engine = engine
        self._files = files
        self._tables = tables
        self._columns = columns
        self._lookups: dict[tuple[str, str], _Lookup] = {}
        self._reports: dict[str, Future[TableReport]] = {}
        self._stays: dict[str, Future[pl.DataFrame]] = {}
        self.paths = {name: folder / f"{name}.parquet" for name in tables}

    def find_subjects(self) -> pl.Series:
        """Every subject of `patients`, ascending."""
        file = self._files["patients"]
        rows = CompiledTable("patients", self._tables["patients"], self._columns["patients"], {})
        sql = compile_sql(rows.raw_ids("subject_id"))
        found = self._engine.read(sql, file)["subject_id"]
        if found.is_empty():
            raise WardroundError(f"{file.path} names no subject; is it MIMIC-IV's patients table?")
        return found.sort()

    def run(self, tasks: Tasks) -> None:
        """Queue every table, the largest first; while some run, the next are compiled."""
        by_size = sorted(self._tables, key=lambda name: -self._files[name].path.stat().st_size)
        for name in track(by_size, "Reading tables"):
            table, file = self._tables[name], self._files[name]
            needed = self._queue_lookups(table, tasks)
            compiled = self._compile(name)
            if not table.events:
                sql = compile_sql(compiled.notes() if table.note else compiled.details())
                self._reports[name] = tasks.submit(self._stage_notes, name, sql, needed)
                continue
            sql = compile_sql(compiled.staged())
            self._reports[name] = tasks.submit(self._stage, name, sql, needed)
            if table.stay is not None:
                sql = compile_sql(compiled.stays())
                self._stays[name] = tasks.submit(self._read_stays, sql, file, needed)

    def _stage(self, name: str, sql: str, needed: list[Future[None]]) -> TableReport:
        for lookup in needed:
            lookup.result()
        path, file = self.paths[name], self._files[name]
        self._engine.stage(sql, path, file)
        self._engine.sort_by_subject(path, file)
        return count_rows(path, list(self._tables[name].events), file.path)

    def _stage_notes(self, name: str, sql: str, needed: list[Future[None]]) -> TableReport:
        for lookup in needed:
            lookup.result()
        path, file = self.paths[name], self._files[name]
        is_note = self._tables[name].note is not None
        stage = self._engine.stage_notes if is_note else self._engine.stage
        stage(sql, path, file)
        self._engine.sort_by_subject(path, file, notes=is_note)
        return count_notes(path, name, file.path)

    def notes(self) -> StagedNotes:
        """The staged notes, without those that are there twice, and details of no note."""
        notes = {n: self.paths[n] for n, table in self._tables.items() if table.note}
        details = {n: self.paths[n] for n, table in self._tables.items() if table.detail}
        reports = {name: self._reports[name].result() for name in (*notes, *details)}
        refused = {}
        if notes:
            repeated = self._engine.repeated_notes(notes, self._files[next(iter(notes))])
            for name in notes:
                refused[name] = repeated.filter(pl.col("table") == name)["row"]
                reports[name].reject(REPEATED, refused[name])
        for name, path in details.items():
            detail = self._tables[name].detail
            of = {detail.of: notes[detail.of]} if detail else notes
            refused[name] = self._engine.stray_details(path, of, self._files[name])["row"]
            reports[name].reject(STRAY, refused[name])
        for report in reports.values():
            report.check()
        return StagedNotes(notes, details, refused, reports)

    def _read_stays(self, sql: str, file: SourceFile, needed: list[Future[None]]) -> pl.DataFrame:
        for lookup in needed:
            lookup.result()
        return self._engine.read(sql, file)

    def _compile(self, name: str) -> CompiledTable:
        table = self._tables[name]
        joined = {other: (other, join.key) for other, join in table.join.items()}
        schemas = {
            other: self._lookups[key].schema
            for other, key in joined.items()
            if key in self._lookups
        }
        return CompiledTable(name, table, self._columns[name], schemas)

    def _queue_lookups(self, table: Table, tasks: Tasks) -> list[Future[None]]:
        """What the table joins, each made once."""
        joined = [(other, join.key) for other, join in table.join.items() if other in self._tables]
        for other, key in joined:
            if (other, key) not in self._lookups:
                self._lookups[other, key] = self._make_lookup(other, key, tasks)
        return [self._lookups[key].made for key in joined]

    def _make_lookup(self, other: str, key: str, tasks: Tasks) -> _Lookup:
        """Queue a lookup with all columns that any table takes from it."""
        joins = [table.join[other] for table in self._tables.values() if other in table.join]
        take = dict.fromkeys(column for join in joins if join.key == key for column in join.take)
        rows = CompiledTable(other, self._tables[other], self._columns[other], {})
        kinds = {column: rows.column_kind(column) for column in take if column != key}
        sql = compile_sql(rows.lookup(key, kinds))
        name = lookup_name(other, key)
        made = tasks.submit(self._engine.keep, name, sql, self._files[other])
        return _Lookup({key: rows.column_kind(key), **kinds}, made)

    def reports(self) -> dict[str, TableReport]:
        """The ledgers in the order of the maps, with an example row for each reason."""
        reports = {}
        for name in self._tables:
            file, report = self._files[name], self._reports[name].result()
            if report.rejected and self._tables[name].events:
                rows = self._engine.read(compile_sql(self._compile(name).rejects()), file)
                report.first_row = dict(rows.select("reason", "row").iter_rows())
            reports[file.name] = report
        return reports

    def stays(self, report: IngestReport) -> pl.DataFrame:
        """All stays; of several rows with one id the first counts."""
        schema = pl.Schema(STAY_SCHEMA)
        frames = [pl.DataFrame(schema=schema)]
        for name in self._tables:
            if name in self._stays:
                rows = self._stays[name].result()
                frames.append(rows.select(pl.col(c).cast(t) for c, t in schema.items()))
        listed = pl.concat(frames)
        stays = listed.unique(["kind", "stay_id"], keep="first", maintain_order=True)
        report.duplicate_stays = len(listed) - len(stays)
        report.stays = {
            kind: int((stays["kind"] == kind).sum()) for kind in ("ed", "hospital", "icu")
        }
        # An ICU stay knows its admission's death: it died there if that was before its end.
        in_icu = pl.col("kind") == "icu"
        there = pl.col("death_time").is_between("start", "end").fill_null(False)
        return stays.with_columns(
            died=pl.when(in_icu).then(there).otherwise("died"),
            death_time=pl.when(~in_icu | there).then("death_time"),
        ).sort("subject_id", "start", "kind", "stay_id")


class _Counts:
    """What the written blocks hold: subjects with events, and how often each code occurs."""

    def __init__(self) -> None:
        self._codes: list[pl.DataFrame] = []
        self._subjects: list[pl.DataFrame] = []

    def add(self, events: pl.DataFrame) -> None:
        self._codes.append(events.group_by("code").agg(count=pl.len().cast(pl.Int64)))
        self._subjects.append(events.select(pl.col("subject_id").unique()))
        if len(self._codes) > 16:
            self._codes = [self.codes]

    @property
    def codes(self) -> pl.DataFrame:
        return pl.concat(self._codes).group_by("code").agg(pl.col("count").sum()).sort("code")

    @property
    def subjects(self) -> pl.DataFrame:
        return pl.concat(self._subjects)


def _write_blocks(
    writer: StoreWriter,
    paths: Mapping[str, Path],
    notes: StagedNotes,
    splits: pl.DataFrame,
    size: int,
    hashes: Collection[Future[str]],
) -> _Counts:
    """Sort and write one block of neighbouring subjects after another, until a hash fails."""
    counts = _Counts()
    blocks = [splits[start : start + size] for start in range(0, len(splits), size)]
    staged = [path for path in paths.values() if pq.read_metadata(path).num_rows]
    for number, block in enumerate(track(blocks, "Writing shards")):
        raise_failed(hashes)
        low, high = block["subject_id"][0], block["subject_id"][-1]
        parts = [
            pl.scan_parquet(path)
            .filter(pl.col("subject_id").is_between(low, high), pl.col("code").is_not_null())
            .select(*EVENT_COLUMNS, pl.lit(table, pl.UInt16).alias("table"), ROW, "event")
            .cast({"numeric_value": pl.Float32, "event": pl.Int32})
            for table, path in enumerate(staged)
        ]
        # Rows of one moment stand in the order of the maps and of their files.
        order = ("subject_id", "time", "table", ROW, "event")
        events = pl.concat(parts).collect().sort(order, nulls_last=False).select(EVENT_COLUMNS)
        texts = notes.block(low, high, events["subject_id"].unique())
        if events.is_empty():
            continue
        counts.add(events)
        split_of = events.select("subject_id").join(
            block, on="subject_id", how="left", maintain_order="left"
        )["split"]
        for split in SPLITS:
            rows = events.filter(split_of == split)
            if len(rows):
                writer.write_shard(f"{split}/{number}", rows)
            if len(texts):
                subjects = block.filter(pl.col("split") == split)["subject_id"].implode()
                of_split = texts.filter(pl.col("subject_id").is_in(subjects))
                if len(of_split):
                    writer.write_notes(f"{split}/{number}", of_split)
    return counts


def _read_dictionaries(
    maps: Mapping[str, Module], files: Mapping[str, SourceFile], engine: Engine, tasks: Tasks
) -> dict[str, Future[pl.DataFrame]]:
    """Queue the dictionaries that are there, with the columns that the maps name, by table."""
    named: dict[str, list[str]] = {}
    for module in maps.values():
        for dictionary in module.dictionaries:
            named.setdefault(dictionary.table, []).extend([*dictionary.keys, dictionary.text])
    present = {
        table: [column for column in dict.fromkeys(columns) if column in files[table].header]
        for table, columns in named.items()
        if table in files
    }
    return {
        table: tasks.submit(engine.read_columns, files[table], columns)
        for table, columns in present.items()
        if columns
    }


def _describe(
    codes: pl.DataFrame,
    maps: Mapping[str, Module],
    dictionaries: Mapping[str, Future[pl.DataFrame]],
) -> pl.DataFrame:
    """Descriptions and parents of the codes from the source's dictionaries."""
    described = []
    for module in maps.values():
        for dictionary in module.dictionaries:
            if dictionary.table not in dictionaries:
                continue
            listed = dictionaries[dictionary.table].result()
            needed = [*dictionary.keys, dictionary.text]
            if not set(needed) <= set(listed.columns):
                continue
            listed = listed.select(pl.col(needed).str.strip_chars()).drop_nulls(
                list(dictionary.keys)
            )
            parts = pl.col("code").str.split("//")
            keyed = codes.filter(pl.col("code").str.starts_with(dictionary.codes)).with_columns(
                parts.list.get(index, null_on_oob=True).str.strip_chars().alias(key)
                for key, index in dictionary.keys.items()
            )
            # A key with several texts gets none: any choice would be wrong for the other rows.
            text = pl.col(dictionary.text)
            found = keyed.join(
                listed.group_by(list(dictionary.keys)).agg(
                    pl.when(text.n_unique() == 1).then(text.first())
                ),
                on=list(dictionary.keys),
            )
            described.append(
                found.select(
                    "code",
                    description=pl.col(dictionary.text),
                    parent_codes=_parents(dictionary.parent, found),
                )
            )
    empty = pl.DataFrame(
        schema={
            "code": pl.String,
            "description": pl.String,
            "parent_codes": pl.List(pl.String),
        }
    )
    known = pl.concat([empty, *described]).unique("code", keep="first")
    return codes.join(known, on="code", how="left").sort("code")


def _parents(kind: str | None, found: pl.DataFrame) -> pl.Expr:
    """Vocabulary codes as MIMIC-IV-MEDS writes them: `ICD10CM/I50.9`, `ICD9Proc/88.72`."""
    if kind is None:
        return pl.lit(None, pl.List(pl.String))
    of_diagnosis = kind == "ICD"
    dotted = dotted_icd(
        pl.col("icd_code"),
        pl.col("icd_version").cast(pl.Int64, strict=False),
        kind="diagnosis" if of_diagnosis else "procedure",
    )
    names = {"9": "ICD9CM/", "10": "ICD10CM/"}
    if not of_diagnosis:
        names = {"9": "ICD9Proc/", "10": "ICD10PCS/"}
    vocabulary = pl.col("icd_version").replace_strict(names, default=None)
    return pl.concat_list(vocabulary + dotted)


def _check_joins(
    files: Mapping[str, SourceFile], tables: Mapping[str, Table], left_out: Sequence[str]
) -> None:
    for name, table in tables.items():
        needs = {
            other: f"for {', '.join(join.take)}"
            for other, join in table.join.items()
            if not join.optional
        }
        if table.detail:
            needs[table.detail.of] = "whose details it holds"
        for other, why in needs.items():
            if other not in tables:
                hint = "is missing; add its folder to the sources"
                for choice in left_out:
                    if choice.endswith(f"/{other}"):
                        hint = f"is left out; add {choice} to the chosen tables"
                raise WardroundError(
                    f"{files[name].path} needs the table {other} ({why}), which {hint}"
                )


def _published(files: Mapping[str, SourceFile]) -> dict[str, str]:
    """Hashes of the files that their publisher lists in SHA256SUMS.txt."""
    listings = {root: published_hashes(root) for root in {file.root for file in files.values()}}
    found = {
        name: listings[file.root].get(str(file.path.relative_to(file.root)))
        for name, file in files.items()
    }
    return {name: digest for name, digest in found.items() if digest}


@contextmanager
def _hashing(
    files: Mapping[str, SourceFile], published: Mapping[str, str], quoted: Collection[str]
) -> Iterator[dict[str, Future[str]]]:
    """The files' hashes, on their way while other work goes on; what fails drops the rest."""
    hasher = ThreadPoolExecutor(1)
    try:
        yield {
            name: hasher.submit(hash_file, file.path, published.get(name), quoted=name in quoted)
            for name, file in files.items()
        }
    finally:
        hasher.shutdown(cancel_futures=True)


@contextmanager
def _collection_paused() -> Iterator[None]:
    """Compiling makes many small objects, and no garbage worth the collector's passes."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextmanager
def _engine(folder: Path, memory_limit: str, threads: int | None) -> Iterator[Engine]:
    engine = Engine(folder, memory_limit=memory_limit, threads=threads)
    try:
        yield engine
    finally:
        engine.close()
