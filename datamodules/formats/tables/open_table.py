"""Which table a path is: by what lies there, else a name on the hub."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from glob import glob, has_magic
from itertools import islice
from pathlib import Path

from datamodules.formats.json_rows import layout
from datamodules.formats.tables.csv_table import CsvTable
from datamodules.formats.tables.dataset_table import DatasetTable, Location, as_bytes, first_line, of_hub
from datamodules.formats.tables.lines_table import LinesTable, ListTable
from datamodules.formats.tables.meta_table import MetaTable, is_meta
from datamodules.formats.tables.parquet_table import ParquetTable
from datamodules.formats.tables.splits import of_split
from datamodules.formats.tables.table import Table
from datamodules.formats.tables.tar_table import TarTable
from datamodules.formats.tables.unpacked import OPENED, inner_name, unpacked
from datamodules.formats.tables.zip_table import ZipTable
from parallax.records.atomic import atomic_folder
from parallax.records.fingerprint import fingerprint
from parallax.settings.paths_there import ROWS

log = logging.getLogger(__name__)

NOT_ROWS = ("dataset_info.json", "dataset_infos.json")  # what others write beside their rows
ROWS_PER_FILE = 10_000  # of what is kept of a streamed set


def open_table(path: str | Sequence[str], *, split: str = "train", subset: str | None = None) -> Table:
    """The table at `path`: a file, several of one kind, a folder of them, a folder of `save_to_disk`, or a set of the hub.

    Args:
        path: a pattern with `*`, `?` or `[…]` stands for the files it matches, `**` for folders of any depth.
        split: of a set that has several; in a folder, of files whose names say so (see `splits`).
        subset: of a set of the hub, or of a folder that has a folder of this name; of MMPR's meta file, a pattern of names.
    """
    files = _several(path)
    if files is None:
        assert isinstance(path, str)
        place = Path(path).expanduser()
        if not place.exists():
            if place.is_absolute() or path.startswith((".", "~")) or path.count("/") != 1 or place.suffix in ROWS:
                raise FileNotFoundError(
                    f"data.path {path} does not exist; give a file, a folder, or the name of a set on the hub"
                )
            return DatasetTable(Location(path, split, subset))
        if place.is_dir():
            if _saved_by_datasets(place):
                return DatasetTable(Location(str(place), split))
            if lists := [file for file in sorted(place.glob("meta*.json")) if file.is_file() and is_meta(file)]:
                return MetaTable(lists[0], subset)
            inside = place / subset if subset is not None and (place / subset).is_dir() else place
            files = _files(inside, split)
        else:
            files = [place]
    return _table(files, split, subset)


def _table(files: Sequence[Path], split: str, subset: str | None) -> Table:
    files = [unpacked(file) for file in files]
    match _kind(files[0]):
        case ".parquet":
            return ParquetTable(files)
        case ".tar":
            return TarTable(files)
        case ".zip":
            return ZipTable(files)
        case ".csv" | ".tsv":
            return CsvTable(files)
        case ".arrow" | ".feather" if len(files) > 1:
            raise ValueError(
                f"{files[0].parent} holds {len(files)} Arrow files and no dataset_info.json that says how they belong together"
            )
        case ".arrow" | ".feather":
            return DatasetTable(Location(str(files[0])))
        case ".jsonl" | ".ndjson" | ".json":
            if all(layout(file) == "lines" for file in files):
                return LinesTable(files)
            return MetaTable(files[0], subset) if len(files) == 1 and is_meta(files[0]) else ListTable(files, split)
        case ".zst" | ".lz4" | ".7z":
            raise ValueError(
                f"{files[0]} is compressed in a way that is not read; unpack it, or compress it as {', '.join(OPENED)}"
            )
    raise ValueError(f"{files[0]} is of no kind that is known; files ending in {', '.join(ROWS)} can be read")


def _kind(file: Path) -> str:
    """By the ending, that of a compression aside; a file without one is JSON where it begins so."""
    if not file.suffix and file.is_file():
        with open(file, "rb") as stream:
            return ".json" if stream.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[") else ""
    return Path(inner_name(file)).suffix.lower()


def _several(path: str | Sequence[str]) -> list[Path] | None:
    """The files of a list or of a pattern; None for a single path."""
    given = [path] if isinstance(path, str) else list(path)
    if not given:
        raise ValueError("data.path is an empty list; give at least one file")
    found: list[Path] = []
    for one in given:
        place = Path(one).expanduser()
        is_pattern = has_magic(one) and not place.exists()
        matches = sorted(Path(name) for name in glob(str(place), recursive=True)) if is_pattern else [place]
        if not matches or (not isinstance(path, str) and not matches[0].is_file()):
            why = "matches no file" if is_pattern else "does not exist"
            raise FileNotFoundError(f"data.path {one} {why}; give the path of an existing file")
        found += matches
    kinds = sorted({_kind(file) for file in found})
    if len(kinds) > 1:
        raise ValueError(f"data.path names files of different kinds ({', '.join(kinds)}); give one kind")
    return None if isinstance(path, str) and found == [Path(path).expanduser()] else found


def _saved_by_datasets(folder: Path) -> bool:
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "dataset_info.json").is_file() and (folder / "state.json").is_file()
    )


def keep_stream(path: str, rows: int, folder: Path, *, split: str = "train", subset: str | None = None) -> Path:
    """Stream the first `rows` rows of a set and keep them as Parquet files below `folder`. Found again the next time.

    A set that is too large to download is read only as far as it is needed.
    """
    import pyarrow
    from pyarrow import parquet

    target = folder / fingerprint({"path": path, "split": split, "subset": subset, "rows": rows})
    if target.is_dir():
        return target
    try:
        stream = as_bytes(of_hub(path, subset, split, streaming=True))
    except Exception as error:  # the library raises whatever its readers raise
        raise ValueError(f"{path} cannot be streamed ({first_line(error)})") from error
    log.info("streaming %s rows of %s", f"{rows:,}", path)
    items = iter(stream.take(rows))
    with atomic_folder(target) as temporary:
        number = 0
        while part := list(islice(items, ROWS_PER_FILE)):
            schema = stream.features.arrow_schema if stream.features is not None else None
            table = pyarrow.Table.from_pylist(part, schema=schema)
            parquet.write_table(table, temporary / f"part-{number:05d}.parquet", row_group_size=1000)
            number += 1
        if not number:
            raise ValueError(f"{path} streamed no row; check data.split and data.subset")
    return target


def _files(folder: Path, split: str) -> list[Path]:
    """The files of one kind in a folder: those of the first kind of `ROWS` there are any of, and of the split."""
    of_kind: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*")):
        if not file.name.startswith(".") and file.name not in NOT_ROWS and file.is_file():
            of_kind.setdefault(_kind(file), []).append(file)
    for kind in ROWS:
        if files := of_kind.get(kind):
            others = [file for other, found in of_kind.items() if other in ROWS and other != kind for file in found]
            if others:
                log.warning(
                    "%s: its %s files are read; %s %s not", folder, kind, others[0].name,
                    "is" if len(others) == 1 else f"and {len(others) - 1} more of another kind are",
                )  # fmt: skip
            return of_split(files, folder, split)
    raise FileNotFoundError(f"data.path {folder} holds no file ending in {', '.join(ROWS)}")
