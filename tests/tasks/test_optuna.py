"""Optuna as the sweeper of a multirun: `hydra/sweeper=optuna_full`, its plugin an extra; a failed job is a failed trial."""

import json
import math
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from parallax.settings import launchers
from parallax.settings.command_line import prepare
from parallax.settings.errors import ConfigError
from parallax.tasks import multirun
from tests.tasks.test_launchers import multirun as multirun_of
from tests.tasks.test_sweep import ROOT, SMALL


def has_plugin() -> bool:
    return find_spec("hydra_plugins") is not None and find_spec("hydra_plugins.hydra_optuna_sweeper") is not None


@pytest.mark.parametrize(("value", "sweeper", "told"), [
    (math.nan, "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper", None),
    (0.5, "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper", 0.5),
    (0.5, "hydra._internal.core_plugins.basic_sweeper.BasicSweeper", 0.5),
])  # fmt: skip
def test_optuna_is_told_none_where_there_is_no_number(
    value: float, sweeper: str, told: float | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now = SimpleNamespace(
        job=SimpleNamespace(num=0), runtime=SimpleNamespace(output_dir=str(tmp_path)), sweeper={"_target_": sweeper}
    )
    monkeypatch.setattr(HydraConfig, "get", staticmethod(lambda: now))
    monkeypatch.setattr(multirun, "is_multirun", lambda: True)
    monkeypatch.setattr(multirun, "check", lambda cfg: None)
    monkeypatch.setattr(multirun, "own_words", list)
    monkeypatch.setattr(multirun, "run_task", lambda cfg: value)
    assert multirun.run_job(DictConfig({"optimized_metric": "after/accuracy"})) == told


def test_without_the_plugin_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers, "find_spec", lambda module: None)
    with pytest.raises(ConfigError, match=r"hydra/sweeper=optuna_full needs .*our extra `optuna`"):
        prepare(["-m", "hydra/sweeper=optuna_full"], ROOT / "conf")


def test_it_searches_the_space_of_the_sweep_file() -> None:
    keys = {str(key).lstrip("+") for key in OmegaConf.load(ROOT / "conf/hydra/sweeper/optuna_full.yaml").params}
    assert keys == set(yaml.safe_load((ROOT / "sweeps" / "full.yaml").read_text())["parameters"])


@pytest.mark.slow
@pytest.mark.skipif(not has_plugin(), reason="needs hydra-optuna-sweeper: pip install -e '.[optuna]'")
def test_a_search_goes_past_a_failed_point_and_ends_with_the_comparison(tmp_path: Path) -> None:
    words = ["hydra/sweeper=optuna_full", "hydra.sweeper.n_trials=4", "hydra.sweeper.sampler.n_startup_trials=2"]
    typed = ["loss.beta=choice(-1,1.0)", "lora.r=8", "logger=none", f"paths.cache_dir={tmp_path / 'cache'}"]
    done = multirun_of(tmp_path / "all", *words, *SMALL, *typed)
    results = OmegaConf.load(tmp_path / "all" / "optimization_results.yaml")
    failed = list((tmp_path / "all").glob("*/failure.json"))
    made = {path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "all").glob("*/results.json")}
    assert len(made) + len(failed) == 4 and made, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.returncode == (1 if failed else 0)
    best = min(run["difference"]["chair_i"]["value"] for run in made.values())
    assert results.best_value == best and set(results.best_params) == {
        "aug.noise_steps", "loss.beta", "optim.lr",
    }  # fmt: skip
    assert (tmp_path / "all" / "compare.html").is_file() or len(made) == 1
