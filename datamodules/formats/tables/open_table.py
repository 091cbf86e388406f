"""Which table a path is: by what lies there, else a name on the hub."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from datamodules.formats.tables.dataset_table import DatasetTable, Location, as_bytes, first_line
from datamodules.formats.tables.lines_table import LinesTable, ListTable
from datamodules.formats.tables.parquet_table import ParquetTable
from datamodules.formats.tables.table import Table
from datamodules.formats.tables.tar_table import TarTable
from parallax.records.atomic import atomic_folder
from parallax.records.fingerprint import fingerprint

log = logging.getLogger(__name__)

KINDS = (".parquet", ".tar", ".jsonl", ".json", ".arrow")
ROWS_PER_FILE = 10_000  # of what is kept of a streamed set


def open_table(path: str, *, split: str = "train", subset: str | None = None, pictures: Sequence[str] = ()) -> Table:
    """The table at `path`: a file, a folder of files of one kind, a folder of `save_to_disk`, or a set of the hub.

    Args:
        split: of a set that has several; in a folder, only files with this word in their names count, where there are any.
        subset: of a set of the hub.
        pictures: columns of bytes that are pictures, in Parquet files that do not say so.
    """
    place = Path(path).expanduser()
    if not place.exists():
        if place.is_absolute() or path.startswith((".", "~")) or path.count("/") != 1 or place.suffix in KINDS:
            raise FileNotFoundError(
                f"data.path {path} does not exist; give a file, a folder, or the name of a set on the hub"
            )
        return DatasetTable(Location(path, split, subset))
    if place.is_dir():
        if (place / "dataset_info.json").is_file() or (place / "dataset_dict.json").is_file():
            return DatasetTable(Location(str(place), split))
        files = _files(place, split)
    else:
        files = [place]
    match files[0].suffix:
        case ".parquet":
            return ParquetTable(files, pictures)
        case ".tar":
            return TarTable(files)
        case ".arrow" if len(files) > 1:
            raise ValueError(
                f"{place} holds {len(files)} Arrow files and no dataset_info.json that says how they belong together"
            )
        case ".arrow":
            return DatasetTable(Location(str(files[0])))
        case ".jsonl":
            return LinesTable(files)
        case ".json":
            return ListTable(files) if _begins_with(files[0], "[") else LinesTable(files)
    raise ValueError(f"{place} is of no kind that is known; files ending in {', '.join(KINDS)} can be read")


def keep_stream(path: str, rows: int, folder: Path, *, split: str = "train", subset: str | None = None) -> Path:
    """Stream the first `rows` rows of a set and keep them as Parquet files below `folder`. Found again the next time.

    A set that is too large to download is read only as far as it is needed.
    """
    import datasets
    import pyarrow
    from pyarrow import parquet

    target = folder / fingerprint({"path": path, "split": split, "subset": subset, "rows": rows})
    if target.is_dir():
        return target
    try:
        stream = as_bytes(datasets.load_dataset(path, subset, split=split, streaming=True))
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
    """The files of one kind in a folder: those of the first kind of `KINDS` there are any of."""
    for kind in KINDS:
        files = sorted(file for file in folder.rglob(f"*{kind}") if not file.name.startswith("."))
        if files:
            named = [file for file in files if split in file.relative_to(folder).as_posix()]
            return named or files
    raise FileNotFoundError(f"data.path {folder} holds no file ending in {', '.join(KINDS)}")


def _begins_with(file: Path, character: str) -> bool:
    with open(file, encoding="utf-8-sig") as stream:
        while chunk := stream.read(4096):
            if stripped := chunk.lstrip():
                return stripped[0] == character
    return False
