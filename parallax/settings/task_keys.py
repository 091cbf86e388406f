"""Keys that only one task has, below `task`; their values and meanings stand in conf/task/<task>.yaml."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from parallax.settings.groups import Task
from parallax.settings.ranges import Count, Natural, PositiveShare


@dataclass(frozen=True)
class ShowViews(Task):
    image: str | None
    index: Natural
    noise_steps: Sequence[Annotated[int, Interval(ge=0, le=999)]]
    side: Annotated[int, Interval(ge=32, le=1024)]
    columns: Annotated[int, Interval(ge=1, le=20)]
    output: str | None


@dataclass(frozen=True)
class CheckJudge(Task):
    answers: Literal["own", "corrupted"]
    samples: Count


@dataclass(frozen=True)
class CheckData(Task):
    images: Count | None
    workers: Count | None
    examples: Natural
    tokens: bool


@dataclass(frozen=True)
class ExportPairs(Task):
    format: Literal["trl", "ms_swift", "llama_factory", "llava"]
    images: Literal["auto", "embedded", "files", "paths"]
    pairs: str | None
    license: str | None
    push_to_hub: str | None
    output: str | None


@dataclass(frozen=True)
class ConvertAdapter(Task):
    input: str
    output: str | None


@dataclass(frozen=True)
class CompareAdapters(Task):
    other: str
    win_rate: bool
    win_rate_instructions: str


@dataclass(frozen=True)
class Analyse(Task):
    what: Sequence[Literal["lengths", "noise", "images"]]
    runs: Sequence[str]
    metric: str
    images: Annotated[int, Ge(2)]
    map: Literal["tsne", "umap"]
    image_text: str


@dataclass(frozen=True)
class Chat(Task):
    image: str | None
    index: Natural
    questions: Sequence[str]


@dataclass(frozen=True)
class Compare(Task):
    output: str | None
    pictures: bool


@dataclass(frozen=True)
class Gallery(Task):
    output: str | None
    thumbnail: Annotated[int, Interval(ge=0, le=1024)]
    limit: Count | None


@dataclass(frozen=True)
class Sweep(Task):
    folder: str | None


@dataclass(frozen=True)
class Dashboard(Task):
    project: str
    entity: str | None
    mode: Literal["auto", "online", "offline"]
    metrics: Sequence[str]
    settings: Sequence[str]
    tables: Sequence[str]
    group: str | None
    file: str
    apply: str | None


@dataclass(frozen=True)
class Merge(Task):
    output: str | None


@dataclass(frozen=True)
class Capacity(Task):
    models: Sequence[
        Literal[
            "llava15_7b", "llava15_13b", "llava16_mistral_7b", "qwen25_vl_7b", "qwen25_vl_3b", "qwen3_vl_8b", "qwen3_vl_4b",
            "qwen3_vl_2b", "internvl3_8b", "gemma3_4b", "llava_onevision_7b", "smolvlm2_2b",
        ]
    ]  # fmt: skip
    gpus: Sequence[Literal["rtx4090", "a100_40gb", "a100_80gb", "h100_80gb", "h200"]]
    setups: Sequence[Literal["lora", "lora_ddp", "lora_sharded", "qlora", "full_sharded"]]
    processes: Annotated[int, Ge(2)]
    ranks: Sequence[Count]
    negatives: Sequence[Count]
    image_tokens: Count
    question_tokens: Count
    response_tokens: Count
    usable: PositiveShare
    output: str | None


def task_group(name: str) -> type[Task]:
    """The keys of a task, by its name: `show_views` → `ShowViews`; of one without keys of its own, `Task`."""
    return next((kind for kind in Task.__subclasses__() if kind.__name__ == "".join(name.title().split("_"))), Task)
