"""Every task that reads a folder of somebody else's takes it as data: whatever its files name, nothing of it is run."""

from __future__ import annotations

import json
import pickle
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.utils import get_method
from omegaconf import DictConfig

from parallax.reports.run_folder import read_run
from parallax.settings.check import check
from parallax.settings.command_line import prepare
from parallax.settings.errors import ConfigError
from parallax.settings.places import CONF
from parallax.settings.sweep_file import read_sweep
from parallax.tasks import run_task
from parallax.tasks.error_messages import sentence_of
from tests.faults import Injected
from tests.reports.run_folders import write_run
from tests.typed import load_policy

TINY = Path(__file__).resolve().parents[2] / "assets" / "tiny_llava"


class Runs:
    """A pickle that runs a command when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def payloads(marker: Path) -> dict[str, Any]:
    """Configurations that make `marker` where they are built."""
    touch = {"_target_": "os.system", "command": f"touch {marker}"}
    ours = {"_target_": "parallax.records.atomic.atomic_write_text", "path": str(marker), "text": "x"}
    shapes = {"_target_": "datamodules.shapes.source.ShapesSource", "split": "tune_habitual"}
    return {
        "a target": touch,
        "one of ours": ours,
        "positional": {"_target_": "os.system", "_args_": [f"touch {marker}"]},
        "partial": {**ours, "_partial_": True},
        "in _args_": {**shapes, "_args_": [touch]},
        "in a list": {**shapes, "kinds": [touch]},
        "a list": [touch],
        "instantiated itself": {"_target_": "hydra.utils.instantiate", "config": touch, "_recursive_": True},
        "a call": {"_target_": "hydra.utils.call", "config": touch},
    }


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "ran"
    assert not (tmp_path / "ran").exists()


def plant(folder: Path, node: Any, marker: Path) -> Path:
    """A run folder that names code in every place, with pickles where files are looked for, and an adapter of its own."""
    write_run(folder, {"data": node, "aug": node, "judge": node, "loss": node, "evaluation.judge": node,
                       "evaluation.suites.chair.samples": node, "stages.align.data": node}, 3)  # fmt: skip
    (folder / ".hydra" / "config.yaml").write_text((folder / "config.yaml").read_text())
    callbacks = {"hydra": {"callbacks": {"x": node}, "launcher": node, "runtime": {"choices": {"loss": "dpo"}}}}
    (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(callbacks))
    stage = folder / "stages" / "align"
    (stage / "checkpoints").mkdir(parents=True, exist_ok=True)
    bad = pickle.dumps(Runs(marker))
    for name in ("config.pickle", "stages/align/checkpoints/step-000001.ckpt", "adapter_model.bin", "pytorch_model.bin",
                 "non_lora_trainables.bin", "training_args.bin", "stages/align/adapter_model.bin"):  # fmt: skip
        (folder / name).write_bytes(bad)
    told: dict[str, Any] = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"],
            "auto_mapping": {"base_model_class": "x", "parent_library": "os"},
            "base_model_name_or_path": str(folder), "custom": node}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(told))
    pairs = folder / "set"
    pairs.mkdir()
    (pairs / "manifest.json").write_text(json.dumps({"kept": 1, "format": 1, "_target_": node}))
    (pairs / "pairs.parquet").write_bytes(bad)
    (stage / "pairs.json").write_text(json.dumps({"pair_set": str(pairs)}))
    return folder


TASKS = {
    "gallery": ["task=gallery", "run={0}"],
    "compare": ["task=compare", "runs={0}"],
    "export_pairs": ["task=export_pairs", "task.pairs={0}"],
    "dashboard": ["task=dashboard", "task.apply={0}/config.yaml", "task.mode=offline"],
    "analyse": ["task=analyse", "task.runs=[{0}]"],
    "resume": ["resume={0}", "evaluation=none", "data.size=4"],
    "merge": ["task=merge", "adapter={0}"],
    "chat": ["task=chat", "adapter={0}", "task.questions=[hello]"],
    "evaluate": ["task=evaluate", "adapter={0}", "evaluation.scenes=2", "evaluation.pope_scenes=1"],
    "compare_adapters": ["task=compare_adapters", "adapter={0}", "task.other={0}", "evaluation.scenes=2"],
    "convert_adapter": ["task=convert_adapter", "task.input={0}"],
}


@pytest.mark.parametrize("task", TASKS)
def test_a_planted_folder_runs_nothing(
    task: str, compose_config: Callable[..., DictConfig], tmp_path: Path, marker: Path, injected: Injected
) -> None:
    looks = task in ("gallery", "compare", "export_pairs")  # these read what the folder's configuration names
    some = payloads(marker)
    for number, (name, node) in enumerate(some.items() if looks else [("in a list", some["in a list"])]):
        folder = plant(tmp_path / f"planted{number}", node, marker)
        cfg = compose_config(
            *[word.format(folder) for word in TASKS[task]], "logger=none", "trainer=cpu",
            f"paths.output_dir={tmp_path / f'out{number}'}", f"paths.cache_dir={tmp_path / 'cache'}",
        )  # fmt: skip
        try:
            check(cfg)
            run_task(cfg)
        except Exception as error:
            assert sentence_of(error), f"{name}: {error!r}"
        assert not marker.exists(), name
    injected(
        f"attack: planted folder (targets, lists, callbacks, pickles) given to task={task}",
        told=len(some) if looks else 1,
        says="read as data; nothing was run",
    )


def test_these_payloads_do_run_where_they_are_obeyed(tmp_path: Path) -> None:
    """The control: what the other tests plant would be seen."""
    obeyed = {**payloads(tmp_path / "ran")["one of ours"]}
    get_method(obeyed.pop("_target_"))(**obeyed)
    assert (tmp_path / "ran").exists()
    (tmp_path / "ran").unlink()
    pickle.loads(pickle.dumps(Runs(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


def test_a_planted_model_folder_runs_nothing(tmp_path: Path, marker: Path, injected: Injected) -> None:
    changes: list[dict[str, Any]] = [
        {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForImageTextToText": "evil.Model"}},
        {"auto_map": {"AutoProcessor": "evil.P", "AutoTokenizer": ["evil.T", None]}},
    ]  # fmt: skip
    for number, change in enumerate(changes):
        folder = tmp_path / str(number)
        shutil.copytree(TINY, folder)
        (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\n")
        for file in ("config.json", "processor_config.json", "tokenizer_config.json"):
            told = json.loads((folder / file).read_text())
            (folder / file).write_text(json.dumps({**told, **change}))
        try:
            load_policy({"path": str(folder)}, None)
        except Exception as error:
            assert sentence_of(error), repr(error)
        assert not marker.exists()
    injected("attack: model folder that names code of its own", told=2, says="nothing was run")


@pytest.mark.parametrize("name", ["in _args_", "in a list", "partial", "a target"])
def test_a_planted_experiment_or_sweep_runs_nothing(
    name: str, tmp_path: Path, marker: Path, injected: Injected
) -> None:
    node = payloads(marker)[name]
    (tmp_path / "experiment").mkdir()
    told = {"data": node, "hydra": {"callbacks": {"x": node}}}
    (tmp_path / "experiment" / "planted.yaml").write_text("# @package _global_\n" + yaml.safe_dump(told))
    with pytest.raises(ConfigError):
        prepare(["--config-dir", str(tmp_path), "experiment=planted"], CONF)
    sweep = {"command": ["touch", str(marker)], "program": "touch", "method": "grid", "name": "x",
             "metric": {"name": "m", "goal": "minimize"},              "parameters": {"data": {"values": [node]}}}  # fmt: skip
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    with pytest.raises(ConfigError):
        prepare(["task=sweep", f"sweep={tmp_path / 'sweep.yaml'}", f"task.folder={tmp_path / 'points'}"], CONF)
        read_sweep(str(tmp_path / "sweep.yaml"))
    injected("attack: code named in an experiment or a sweep file", told=2, says="refused before anything is built")


SELVES = {
    "aliases that double": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "an alias of itself": "a: &a [*a]\n",
    "nesting": "a: " + "[" * 5000 + "]" * 5000 + "\n",
}


@pytest.mark.parametrize("kind", SELVES)
def test_yaml_that_stands_for_more_than_memory_is_refused_at_once(
    kind: str, tmp_path: Path, injected: Injected
) -> None:
    began = time.monotonic()
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "planted.yaml").write_text("# @package _global_\n" + SELVES[kind])
    for words in (["--config-dir", str(tmp_path)], [f"hydra.searchpath=[file://{tmp_path}]"]):
        with pytest.raises(ConfigError, match="planted.yaml"):
            prepare([*words, "experiment=planted"], CONF)
    own = tmp_path / "own"
    shutil.copytree(CONF, own)
    shutil.copy(tmp_path / "experiment" / "planted.yaml", own / "experiment")
    with pytest.raises(ConfigError, match="planted.yaml"):
        prepare(["--config-path", str(own), "experiment=planted"], CONF)
    (tmp_path / "sweep.yaml").write_text(SELVES[kind] + "name: x\nparameters: {loss.beta: {values: [1]}}\n")
    with pytest.raises(ConfigError, match="sweep.yaml"):
        read_sweep(tmp_path / "sweep.yaml")
    run = write_run(tmp_path / "run", {}, 3)
    (run / "config.yaml").write_text(SELVES[kind])
    assert "config.yaml" in read_run(run).problem
    assert time.monotonic() - began < 20
    injected("attack: YAML that names itself or stands for more than memory", told=5, says="refused at once")
