"""Every command of docs/evaluation.md is run, on the small official files, with a judge and harnesses that are small programs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from parallax.settings.check import check
from parallax.settings.command_line import prepare
from parallax.tasks import run_task
from tests.evaluation.judge_server import judging
from tests.evaluation.test_harnesses import FILES, LEAVES_RESULTS, interpreter
from tests.evaluation.test_official_files import OFFICIAL
from tests.tasks.test_analyse import finished_run

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "evaluation.md").read_text("utf-8")
COMMANDS = [line for line in PAGE.splitlines() if line.startswith("python run.py ")]
SHORT = (
    "logger=none", "trainer=cpu", "generation.max_new_tokens=6", "evaluation.bootstrap=20", "evaluation.limit=4",
    "debug.limit_samples=6", "debug.max_steps=1", "pairs.drop_equal=false", "trainer.batch_size=4",
)  # fmt: skip
KIT = """
where = pathlib.Path(sys.argv[sys.argv.index("--work-dir") + 1]) / "model" / "T1"
where.mkdir(parents=True)
shutil.copy({file!r}, where)
"""


def judge_says(body: dict[str, Any], before: int) -> str:
    """A verdict of the form that is asked for."""
    prompt = body["messages"][0]["content"]
    if "Rating: <number>" in prompt:
        return "Rating: 3"
    if "two grades" in prompt:
        return "8 4"
    if "cannot judge" in prompt:
        count = len(re.findall(r"(?m)^\d+\. ", prompt))
        return "\n".join(f"{number}: correct" for number in range(1, count + 1))
    return "second" if "one word" in prompt else "1"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    from hydra import compose, initialize_config_dir

    from parallax.settings.groups import Lora
    from parallax.settings.shipped import shipped
    from parallax.tasks.parts import make_policy

    folder = tmp_path_factory.mktemp("docs")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        plain: Any = OmegaConf.to_container(
            compose("config", overrides=[f"paths.cache_dir={folder / 'cache'}"]), resolve=True
        )
    make_policy(plain, shipped(Lora, r=4), adapter=None, device="cpu").save_adapter(folder / "adapter")
    (folder / "kit").mkdir()
    (folder / "lmms").mkdir()
    with judging(judge_says) as server:
        yield {
            "$DATA": str(OFFICIAL),
            "$ADAPTER": str(folder / "adapter"),
            "$JUDGE": server.url,
            "$LMMS_PYTHON": interpreter(
                folder / "lmms", LEAVES_RESULTS.format(file=str(FILES / "lmms_eval_results.json"))
            ),
            "$KIT_PYTHON": interpreter(folder / "kit", KIT.format(file=str(FILES / "model_POPE_score.csv"))),
            "$KIT": str(folder / "kit"),
            "$RUN": str(finished_run(folder / "run", 500, 0.3, 0.7)),
            "cache": str(folder / "cache"),
        }


@pytest.mark.parametrize("line", COMMANDS, ids=lambda line: re.sub(r"\W+", "-", line[14:60]))
def test_the_commands_of_the_page_run(line: str, places: dict[str, str], tmp_path: Path) -> None:
    from hydra import compose, initialize_config_dir

    words = shlex.split(line, comments=True)[2:]
    for name, value in sorted(places.items(), key=lambda item: -len(item[0])):
        words = [word.replace(name, value) if name.startswith("$") else word for word in words]
    assert not any("$" in word for word in words), f"{words} name a place this test does not know"
    short = [word for word in SHORT if not (word.startswith("evaluation.limit") and "shr" in line)]
    given = [*words, *short, f"paths.output_dir={tmp_path / 'run'}", f"paths.cache_dir={places['cache']}"]
    prepared = prepare(given, ROOT / "conf")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", overrides=prepared)
    check(cfg)
    run_task(cfg)
    made = {path.name for path in (tmp_path / "run").rglob("*")}
    assert "task=chat" in line or made & {"results.json", "analysis.json"}


def test_the_page_names_every_choice_of_the_group() -> None:
    choices = {path.stem for path in (ROOT / "conf" / "evaluation").glob("*.yaml")} - {"none", "shapes"}
    named = {
        name for line in COMMANDS for name in re.findall(r"evaluation=\[?([\w,]+)", line) for name in name.split(",")
    }
    assert choices <= named
