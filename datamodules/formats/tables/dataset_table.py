"""A set of the `datasets` library: a folder that `save_to_disk` wrote, a single Arrow file, or a name on the hub.

Its Arrow files are mapped into memory, not read, so its size does not matter. Pictures are handles to row and column.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.formats.slice_image import InsideImage
from datamodules.formats.tables.table import ByNumber, holds_bytes
from parallax.models.hub import why_silent
from parallax.records.sample import BadImage

if TYPE_CHECKING:
    import datasets
    import pyarrow


@dataclass(frozen=True, slots=True)
class Location:
    """What `datasets` needs to open a set again, in this process or another."""

    path: str  # a folder, an Arrow file, or a name on the hub
    split: str = "train"
    subset: str | None = None


@dataclass(frozen=True, slots=True)
class DatasetImage(InsideImage):
    """The picture in `column` of one row, or the one at `index` of the list there."""

    location: Location
    row: int
    column: str
    index: int = 0

    def describe(self) -> str:
        return f"{Path(self.location.path).name}:{self.row + 1}"

    def data(self) -> bytes:
        value = opened(self.location)[self.row][self.column]
        value = value[self.index] if isinstance(value, list) else value
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise BadImage(f"image {self.describe()!r} has no bytes in column {self.column}")
        return data


class DatasetTable(ByNumber):
    """Rows of a `datasets.Dataset`."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self.columns = tuple(opened(location).column_names)

    def __len__(self) -> int:
        return len(opened(self.location))

    def row(self, place: int) -> dict[str, Any]:
        return self._with_handles(opened(self.location)[place], place)

    def rows(self) -> Iterator[dict[str, Any] | ValueError]:
        for place, row in enumerate(opened(self.location)):
            yield self._with_handles(row, place)

    def where(self, place: int) -> str:
        return f"{Path(self.location.path).name}, row {place + 1}"

    def _with_handles(self, row: dict[str, Any], place: int) -> dict[str, Any]:
        return {name: self._handle(value, place, name) for name, value in row.items()}

    def _handle(self, value: object, place: int, column: str, index: int = 0) -> Any:
        if isinstance(value, list):
            return [self._handle(item, place, column, index) for index, item in enumerate(value)]
        if holds_bytes(value):
            return DatasetImage(self.location, place, column, index)
        if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
            return value["path"]
        return value


@lru_cache(maxsize=8)
def opened(location: Location) -> Any:
    """The set with its pictures as bytes. Raises ValueError in a sentence when it cannot be opened."""
    import datasets

    path = Path(location.path)
    try:
        if path.is_file():
            found = _of_file(path)
        elif (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
            for file in path.rglob("*.arrow"):
                _checked(file)
            found = datasets.load_from_disk(str(path))
        else:
            found = of_hub(location.path, location.subset, location.split)
    except Exception as error:  # the library raises whatever its readers raise
        expected = "; a folder that `save_to_disk` wrote, or an Arrow file, is expected" if path.exists() else ""
        raise ValueError(f"{location.path} cannot be opened as a data set ({first_line(error)}){expected}") from error
    if isinstance(found, datasets.DatasetDict):
        if location.split == "all":
            return as_bytes(datasets.concatenate_datasets(list(found.values())))
        if location.split not in found:
            raise ValueError(f"{path} has no split {location.split!r} (data.split); it has {', '.join(found)}, or all")
        found = found[location.split]
    return as_bytes(found)


def of_hub(name: str, subset: str | None, split: str, *, streaming: bool = False) -> Any:
    """A set of the hub, or of the library's cache where the hub is not to be asked or does not answer.

    Raises ConnectionError for one that is in neither, and whatever the library raises.
    """
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    said = "this machine is set to be offline" if any(before) else why_silent()
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = bool(said)  # else it tries for half a minute
    try:
        return datasets.load_dataset(name, subset, split=split, streaming=streaming)
    except ConnectionError as error:
        if not said:
            raise
        raise ConnectionError(f"it is no path here nor in the cache of `datasets`, and {said}") from error
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _of_file(path: Path) -> Any:
    """The rows of an Arrow file of either kind: a stream, as `datasets` writes it, or one with a footer, as Feather is."""
    import datasets

    table = _checked(path)
    return datasets.Dataset(table) if _has_footer(path) else datasets.Dataset.from_file(str(path))


def _checked(path: Path) -> pyarrow.Table:
    """The table of an Arrow file, mapped. Raises ArrowException for offsets that point elsewhere, which would end the process."""
    from pyarrow import ipc, memory_map

    table = (ipc.open_file if _has_footer(path) else ipc.open_stream)(memory_map(str(path))).read_all()
    table.validate(full=True)
    return table


def _has_footer(path: Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(6) == b"ARROW1"


def as_bytes(dataset: datasets.Dataset) -> Any:
    """The set with columns of pictures, single or in lists, given as bytes and path."""
    import datasets

    picture = datasets.Image(decode=False)
    for name, feature in (dataset.features or {}).items():
        if isinstance(feature, datasets.Image):
            dataset = dataset.cast_column(name, picture)
        elif isinstance(getattr(feature, "feature", None), datasets.Image):
            dataset = dataset.cast_column(name, datasets.List(picture))
    return dataset


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
