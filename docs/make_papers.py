"""Writes docs/papers.md from docs/papers/tables.yaml and the results in docs/papers/results: `python docs/make_papers.py`.

Beside each line of a published table stand the command that makes it, what the memory planner and a roofline say of eight
A100-80G, and our result where somebody has put the `results.json` of `experiment=paper_benchmarks` into docs/papers/results/.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from parallax.models.memory.capacity import GPUS, largest_generation, least_seconds_per_image
from parallax.models.memory.model_shape import ModelShape, shape_of
from parallax.models.memory.planner import plan_training
from parallax.models.memory.workload import Workload
from parallax.models.scoring.log_probs import rows_per_chunk
from parallax.models.true_size import meta_model
from parallax.settings.comments import CONF

HERE = Path(__file__).parent
TABLES, RESULTS, PAGE = HERE / "papers" / "tables.yaml", HERE / "papers" / "results", HERE / "papers.md"
GPU, PROCESSES, PROMPT, IMAGE, ANSWER = GPUS["a100_80gb"], 8, 640, 576, 256  # of tokens: a prompt, its image, an answer
MEASURE = "python run.py experiment=paper_benchmarks"

HEAD = f"""# The papers' tables

```sh
{MEASURE} model=llava15_7b adapter=$ADAPTER
```

measures an adapter (or, without `adapter=`, the model as it is) on the papers' benchmarks, from the files their authors publish,
each under its name in `data/` ([evaluation.md](evaluation.md)); `evaluation=[pope,chair]` takes fewer. What a judge grades
needs `evaluation.judge.url=…`.

**None of these runs has been made yet.** Where a line says –, nobody has measured it with this project. To add a result: copy the
`results.json` of that command to `docs/papers/results/<id>.json`, then `python docs/make_papers.py`.

Hours and memory are calculated for eight A100-80G and {PROMPT} + {ANSWER} tokens: the hours are a roofline no run can beat
(pairs built, then one pass over them), the memory is the planner's forecast for one GPU at the experiment's micro-batch. Numbers
of papers are not to be compared across papers; judges, prompts and counting differ.
"""


def page() -> str:
    """The page as Markdown."""
    known = OmegaConf.to_container(OmegaConf.load(TABLES))
    return "\n".join([HEAD, *(_table(table, known["benchmarks"]) for table in known["tables"])])


def commands(row: dict[str, Any]) -> list[str]:
    """What is typed for a line: the run, if it has one, and the measurement."""
    measured = [f"model={row['model']}", *row.get("measure", [])]
    if "run" not in row:
        return [" ".join([MEASURE, *measured])]
    stage = row.get("stage", "align")
    adapter = f"adapter=outputs/{row['id']}/stages/{stage}/adapter"
    run = [
        "python run.py",
        *row["run"],
        f"trainer={row.get('trainer', 'ddp')}",
        f"paths.output_dir=outputs/{row['id']}",
    ]
    return [" ".join(run), " ".join([MEASURE, *measured, adapter])]


def _table(table: dict[str, Any], benchmarks: dict[str, list[Any]]) -> str:
    names = table["benchmarks"]
    lines = [
        f"## {table['title']}",
        "",
        table["note"],
        "",
        f"| line | | {' | '.join(names)} |",
        "|---" * (len(names) + 2) + "|",
    ]
    typed = []
    for row in table["rows"]:
        ours = _ours(row["id"], [benchmarks[name] for name in names])
        lines.append(
            f"| {row['name']} | paper | {' | '.join('–' if value is None else str(value) for value in row['paper'])} |"
        )
        lines.append(f"| `{row['id']}` | ours | {' | '.join(ours)} |")
        cost = f"  # at least {_hours(row):.1f} h, {_gib(row):.0f} GiB" if "run" in row else ""
        first, *rest = commands(row)
        typed += [f"# {row['name']}", first + cost, *rest]
    return "\n".join([*lines, "", "```sh", *typed, "```", ""])


def _ours(row: str, metrics: list[list[Any]]) -> list[str]:
    """The results of one line, in the papers' units."""
    path = RESULTS / f"{row}.json"
    if not path.is_file():
        return ["–"] * len(metrics)
    measured = json.loads(path.read_text(encoding="utf-8"))
    found = measured.get("after") or measured["before"]
    values = [(found.get(metric) or {}).get("value") for metric, _, _ in metrics]
    return [
        "–" if value is None else f"{value * scale:.4g}" for value, (_, scale, _) in zip(values, metrics, strict=True)
    ]


@cache
def _shape(model: str) -> ModelShape:
    return shape_of(meta_model(model))


def _work(row: dict[str, Any]) -> Workload:
    """What the experiment asks of one GPU of eight."""
    cfg = _config(row["run"])
    return Workload(
        prompt_tokens=PROMPT,
        image_tokens=IMAGE,
        response_tokens=ANSWER,
        responses=1 + int(cfg.pairs.num_negatives),
        layout="shared",
        pairs=int(cfg.trainer.micro_batch_size),
        rank=int(cfg.lora.r),
        weights="bfloat16",
        autocast="bfloat16",
        attention="prefix_sdpa",
        checkpointing=True,
        fused=True,
        on_gpu=True,
        head_chunk=rows_per_chunk(_shape(row["model"]).vocabulary),
        strategy="sharded" if row.get("trainer") == "fsdp2" else "ddp",
        processes=PROCESSES,
    )


def _gib(row: dict[str, Any]) -> float:
    return plan_training(_shape(row["model"]), _work(row)).peak / 2**30


def _hours(row: dict[str, Any]) -> float:
    """Roofline of building the answers of all images and of passing once over the pairs, on eight GPUs.

    Training LoRA costs three times a forward pass of two operations per weight and token: forward, again for the recomputed
    activations, and backward without the gradients of the frozen weights.
    """
    shape, work = _shape(row["model"]), _work(row)
    rows = largest_generation(shape, replace(work, rank=0), int(0.9 * GPU.bytes))
    built = row["images"] * least_seconds_per_image(shape, work, GPU, rows, work.responses)
    tokens = row["pairs"] * (PROMPT + work.responses * ANSWER)
    trained = 3 * 2 * (shape.linear_parameters + shape.head) * tokens / GPU.flops
    return (built + trained) / PROCESSES / 3600


def _config(words: list[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base=None):
        return compose("config", overrides=[*words, "trainer=ddp"])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"written: {PAGE}")
