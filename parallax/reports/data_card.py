"""`README.md` of a set of pairs: what it holds, who answered and how it was made. What the hub shows when it is uploaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from parallax.records.plain_text import front_matter, markdown, markdown_table
from parallax.reports.environment import without_secrets

USE = {
    "trl": """```python
from datasets import load_dataset

data = load_dataset("parquet", data_files="pairs.parquet", split="train")  # images inside: for TRL's DPOTrainer as it is
```""",
    "ms_swift": "`swift rlhf --rlhf_type dpo --dataset pairs.jsonl`, in this folder, so that it finds the images.",
    "llama_factory": "`dataset_dir: this/folder` and `dataset: pairs` (see `dataset_info.json`).",
    "llava": "`pairs.json` beside its images, for code that reads LLaVA's `conversations` and `rejected_conversations`.",
}


class Counted(Protocol):
    """How much a set holds."""

    pairs: int
    rows: int
    images: int


def data_card(config: Mapping[str, Any], form: str, licence: str | None, done: Counted) -> str:
    """The card of a set that was written.

    Args:
        config: resolved configuration of the run whose pairs these are.
        form: one of the export's formats.
        licence: of the set, as the hub names licences; None says that it is not stated.
    """
    config = without_secrets(config)
    method, model, data = (config.get(key) or {} for key in ("method", "model", "data"))
    given = str(data.get("_target_") or "").endswith("PreferenceFileSource")
    front = {
        "license": licence or "unknown",
        "task_categories": ["image-text-to-text"],
        "tags": ["preference-optimisation", str(method.get("name", "pairs"))],
    }
    answers = (
        "The answers are those of the file the pairs were read from."
        if given
        else "The rejected answers, and the chosen ones where the data has none, are of the model "
        f"{markdown(model.get('name'))} ({markdown(model.get('path'))})."
    )
    rows = {
        "method": method.get("name"),
        "source": f"{data.get('name') or data.get('_target_')}" + (f", {data['path']}" if data.get("path") else ""),
        "model": model.get("name"),
        "pairs": f"{done.pairs:,}",
        "rows": f"{done.rows:,}",
        "images": f"{done.images:,}",
        "licence": licence or "not stated; the licences of the images, of the questions and of the model apply",
    }
    return (
        "\n\n".join(
            [
                front_matter(front),
                f"# Preference pairs: {markdown(method.get('name'))}",
                f"Pairs of a better and a worse answer to the same question about the same images. {answers}",
                markdown_table(["", ""], list(rows.items())),
                "A pair with several rejected answers takes as many rows, which say by `negative` which of them they hold.",
                "## How to read it\n\n" + USE[form],
            ]
        )
        + "\n"
    )
