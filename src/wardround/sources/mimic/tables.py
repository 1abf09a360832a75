"""Finding a source's tables and reading their headers."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wardround.errors import WardroundError
from wardround.sources.mimic.mapping import ROW_IDS, Module, Table


@dataclass(frozen=True)
class SourceFile:
    """One table's file: `hosp/labevents` and where it lies."""

    module: str
    table: str
    path: Path
    root: Path
    header: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.module}/{self.table}"


def find_tables(sources: Sequence[Path], maps: Mapping[str, Module]) -> dict[str, SourceFile]:
    """Look for every table of the maps, and the dictionaries that they use.

    A table may lie in its module's folder (`hosp/labevents.csv.gz`) or in the source folder
    itself, zipped or not.

    Returns:
        Files by table name, in the order of the maps.

    Raises:
        WardroundError: a table found twice, no table at all, or a required one missing.
    """
    wanted = {table: name for name, module in maps.items() for table in module.tables}
    for name, module in maps.items():
        for dictionary in module.dictionaries:
            wanted.setdefault(dictionary.table, "icu" if dictionary.table == "d_items" else name)
    found: dict[str, SourceFile] = {}
    for table, module_name in wanted.items():
        places = [
            (path, root)
            for root in sources
            for folder in (root / module_name, root)
            for path in (folder / f"{table}.csv.gz", folder / f"{table}.csv")
            if path.is_file()
        ]
        if len(places) > 1:
            raise WardroundError(
                f"{module_name}/{table} is there twice: {places[0][0]} and {places[1][0]}; "
                "leave one of them out"
            )
        if places:
            path, root = places[0]
            found[table] = SourceFile(module_name, table, path, root, read_header(path))
    looked = ", ".join(str(root) for root in sources)
    for name, module in maps.items():
        for table, declared in module.tables.items():
            if declared.required and table not in found:
                raise WardroundError(
                    f"{name}/{table}.csv.gz is required and not in {looked}; give the folder "
                    f"that holds MIMIC-IV's {' and '.join(maps)} folders"
                )
    return found


def unread_tables(found: Mapping[str, SourceFile], maps: Mapping[str, Module]) -> list[str]:
    """Files beside the found tables that no map reads, such as `hosp/poe_detail`."""
    known = {table for module in maps.values() for table in module.tables}
    known |= {dictionary.table for module in maps.values() for dictionary in module.dictionaries}
    folders = {file.path.parent: file.root for file in found.values()}
    names = [
        str(path.relative_to(root)).removesuffix(".gz").removesuffix(".csv")
        for folder, root in folders.items()
        for path in (*folder.glob("*.csv"), *folder.glob("*.csv.gz"))
    ]
    return sorted(name for name in names if name.rpartition("/")[2] not in known)


def read_header(path: Path) -> tuple[str, ...]:
    """The column names of a CSV file, zipped or not.

    Raises:
        WardroundError: empty, not UTF-8, cut short, not zipped, or a name twice.
    """
    try:
        with (gzip.open if path.suffix == ".gz" else Path.open)(path, "rb") as raw:
            line = raw.readline(1 << 20)
        text = line.decode("utf-8-sig")
        names = next(csv.reader(io.StringIO(text)), [])
    except UnicodeDecodeError as error:
        raise WardroundError(f"{path}, row 1: not UTF-8 text; export the file again") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _not_gzip(path, error) from error
    except csv.Error as error:
        raise WardroundError(f"{path}, row 1: {error}; export the file again") from error
    except OSError as error:
        raise WardroundError(f"{path} cannot be read: {error}") from error
    header = tuple(name.strip().lower() for name in names)
    if not any(header):
        raise WardroundError(f"{path} is empty; copy it from its source again")
    for name in header:
        if header.count(name) > 1:
            raise WardroundError(f"{path}, row 1: the column {name!r} is there twice")
    return header


def check_columns(
    file: SourceFile, table: Table, others: Iterable[tuple[str, Table]]
) -> dict[str, str | None]:
    """Map each column that the table needs to its name in the file (None: absent, optional).

    Raises:
        WardroundError: a column is missing; when the header is another table's, it says so.
    """
    names: dict[str, str | None] = {}
    missing = []
    needed = {*table.ids, *(join.key for join in table.join.values() if not join.optional)}
    for column in table.columns:
        old = table.renamed.get(column)
        if column in file.header:
            names[column] = column
        elif old in file.header:
            names[column] = old
        elif column in table.optional or (column in ROW_IDS and column not in needed):
            names[column] = None
        else:
            missing.append(column)
    if missing:
        header = set(file.header)
        alike = [name for name, other in others if set(other.columns) - {*ROW_IDS} <= header]
        hint = (
            f"its header is that of {alike[0]}"
            if alike
            else f"it has {', '.join(file.header[:20])}"
        )
        raise WardroundError(
            f"{file.path}, row 1: {file.name} needs the column {missing[0]!r}; {hint}"
        )
    return names


def hash_file(path: Path, published: str | None = None, *, quoted: bool = False) -> str:
    """SHA-256 of a file, in hexadecimal.

    A zipped file must be the published one or hold to its own checksum, which DuckDB does not
    look at: a flipped bit would be another patient's value. Quotes of a `quoted` file are counted:
    a reader may take, or drop, a last text whose quote is not closed without a word.

    Raises:
        WardroundError: the file's content is not what was zipped, or ends inside of quotes.
    """
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    zipped = path.suffix == ".gz"
    if digest == published or not (zipped or quoted):
        return digest
    quotes = 0
    try:
        with (gzip.open if zipped else Path.open)(path, "rb") as unzipped:
            while chunk := unzipped.read(1 << 20):
                quotes += chunk.count(b'"') if quoted else 0
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _not_gzip(path, error) from error
    if quotes % 2:
        raise WardroundError(f"{path}: a quote is not closed; copy it from its source again")
    return digest


def _not_gzip(path: Path, error: Exception) -> WardroundError:
    return WardroundError(f"{path}: not a whole gzip file ({error}); copy it from its source again")


def published_hashes(root: Path) -> dict[str, str]:
    """What the publisher's SHA256SUMS.txt says of the files below `root`; empty without one."""
    listing = root / "SHA256SUMS.txt"
    if not listing.is_file():
        return {}
    pairs = (line.split(maxsplit=1) for line in listing.read_text().splitlines() if line.strip())
    return {name.strip().lstrip("*"): digest for digest, name in pairs}
