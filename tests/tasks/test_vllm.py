"""Pairs by a real vLLM: it reads the same prompts, gives the same tokens, and loads what the policy has learned.

    PARALLAX_VLLM=~/vllm/bin/vllm python -m pytest tests/tasks/test_vllm.py -m slow

Its CPU build does, too. The model is the built-in one after `save_merged`, so this also shows that vLLM reads merged models.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from augment.diffusion import Diffusion
from augment.registry import spec_of
from datamodules.shapes.draw import picture
from datamodules.shapes.scene import scene
from parallax.models.generation.requests import Generation, GenerationRequest
from parallax.models.generation.server import ServerError, ServerGenerator, as_pictures
from parallax.models.policy import Policy
from parallax.records import Decoding, ViewSpec, bytes_digest
from tests.models.checkpoints import write_checkpoint
from tests.processes import in_processes
from tests.tasks.test_align import SMALL
from tests.tasks.test_many_processes import run_config
from tests.tasks.vllm_server import VARIABLE, needs_vllm, vllm_serving
from tests.typed import load_policy

pytestmark = [pytest.mark.slow, needs_vllm]

FAMILIES = ("llava_next", "qwen2_5_vl")  # with tiles; with images of free size
DOC = Path(__file__).parents[2] / "docs/scaling.md"
QUESTIONS = ("Describe the image.", "What is in the top row?", "Is there a red circle in the image?")


@dataclass(frozen=True)
class Held:
    """A picture in memory."""

    image: Image.Image

    def load(self) -> Image.Image:
        return self.image

    def digest(self) -> str:
        return bytes_digest(self.image.tobytes())

    def describe(self) -> str:
        return "held"


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("merged") / "model"
    load_policy({"path": "assets/tiny_llava"}, {"enabled": False}).save_merged(folder)
    return folder


@pytest.fixture(scope="module")
def url(merged: Path) -> Iterator[str]:
    with vllm_serving(merged, merged.parent / "vllm.log") as address:
        yield address
    print((merged.parent / "vllm.log").read_text("utf-8", "replace")[-3000:])


def policy_of(folder: Path, *, learned: bool = False) -> Policy:
    policy = load_policy({"path": str(folder)}, {"r": 4}, digest_memory=folder.parent / "digests.json")
    if learned:
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for name, value in policy.model.named_parameters():
                if "lora_B" in name:
                    value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
        policy.touched()
    return policy


def generator_of(policy: Policy, url: str, folder: Path, **options: Any) -> ServerGenerator:
    return ServerGenerator(policy, url=url, model="tiny", concurrency=8, retries=1, adapters=folder, **options)


def requests(view: Callable[[int], ViewSpec] = lambda _: ViewSpec(), count: int = 30) -> list[GenerationRequest]:
    images = [Held(picture(scene("eval_habit_free", n))) for n in range(count)]
    return [
        GenerationRequest(f"s{n}", image, QUESTIONS[n % 3], view(n), Decoding(40)) for n, image in enumerate(images)
    ]


def same(one: Sequence[Generation | None], other: Sequence[Generation | None]) -> int:
    return sum(a is not None and b is not None and a.token_ids == b.token_ids for a, b in zip(one, other, strict=True))


def test_it_gives_the_policy_s_own_tokens(merged: Path, url: str, tmp_path: Path) -> None:
    """29 of 30 at least: where two tokens are as good as each other another kernel may take the other one."""
    policy, asked = policy_of(merged), requests()
    generator = generator_of(policy, url, tmp_path)
    assert same(generator.generate(asked), policy.generate(asked)) >= 29
    assert generator._prompts.agreed  # so it said what it had read, and that was what the policy reads


def test_noise_reaches_it_as_the_picture_that_is_sent(merged: Path, url: str, tmp_path: Path) -> None:
    policy = policy_of(merged)
    asked = requests(lambda n: spec_of(Diffusion(noise_steps=500), n))
    shown = [
        GenerationRequest(r.sample_id, Held(as_pictures(policy.encoder, r)[0]), r.prompt, ViewSpec(), r.decoding)
        for r in asked
    ]
    assert same(generator_of(policy, url, tmp_path).generate(asked), policy.generate(shown)) >= 29


def test_it_loads_what_the_policy_has_learned(merged: Path, url: str, tmp_path: Path) -> None:
    learned, asked = policy_of(merged, learned=True), requests()
    answers = generator_of(learned, url, tmp_path).generate(asked)
    assert same(answers, learned.generate(asked)) >= 29
    assert same(answers, policy_of(merged).generate(asked)) <= 15
    assert same(generator_of(learned, url, tmp_path).generate(asked), answers) == 30  # loaded already: no error


def test_what_it_refuses_is_told_in_words(merged: Path, url: str, tmp_path: Path) -> None:
    policy = policy_of(merged)
    generator, aside = generator_of(policy, url, tmp_path), []
    (short,) = requests(count=1)
    generator.generate([short])
    long = GenerationRequest("long", short.image, "word " * 600, ViewSpec(), Decoding(8))
    odd = GenerationRequest("odd", short.image, "Say </s> now.", ViewSpec(), Decoding(8))
    assert generator.generate([long, odd], set_aside=lambda r, why: aside.append((r.sample_id, why))) == [None, None]
    assert "context" in dict(aside)["long"] and "control tokens" in dict(aside)["odd"]
    with pytest.raises(ServerError, match="does not serve 'huge', it has tiny"):
        ServerGenerator(policy, url=url, model="huge").generate([short])
    wide = load_policy({"path": str(merged)}, {"r": 64}, digest_memory=merged.parent / "digests.json")
    with torch.no_grad():
        for name, value in wide.model.named_parameters():
            value.add_(0.01 if "lora_B" in name else 0.0)
    wide.touched()
    with pytest.raises(ServerError, match="could not load the adapter"):
        generator_of(wide, url, tmp_path).generate([short])


def test_sampled_answers_depend_on_their_seed_alone(merged: Path, url: str, tmp_path: Path) -> None:
    policy = policy_of(merged)
    asked = [
        GenerationRequest(r.sample_id, r.image, r.prompt, r.view, Decoding(40, 1.0, 1.0, seed))
        for seed in (1, 2)
        for r in requests(count=12)
    ]
    first = generator_of(policy, url, tmp_path).generate(asked)
    again = generator_of(policy, url, tmp_path).generate(asked[::-1])[::-1]
    assert same(first, again) >= 23
    assert same(first[:12], first[12:]) < 12


def test_two_processes_build_a_run_s_pairs_and_find_them_again(
    merged: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARALLAX_ROOT", str(Path(__file__).parents[2]))
    words = [
        *SMALL, "task=build_pairs", f"model.path={merged}", "generation=server", f"generation.url={url}", "generation.model=tiny",
        "data.size=12", f"paths.cache_dir={tmp_path / 'cache'}",
    ]  # fmt: skip
    for name, count in (("two", 2), ("one", 1)):
        places = ["resume=never", f"trainer.devices={count}", f"paths.output_dir={tmp_path / name}"]
        in_processes(count, run_config, [*words, *places], timeout=600)
    reports = [json.loads((tmp_path / name / "pairs.json").read_text()) for name in ("two", "one")]
    assert [report["built"] for report in reports] == [24, 0]
    assert reports[0]["key"] == reports[1]["key"]


@pytest.mark.parametrize("family", FAMILIES)
def test_it_reads_the_prompts_of_other_families_and_their_adapters(family: str, tmp_path: Path) -> None:
    made, served = write_checkpoint(family, tmp_path / "made", heads=1), tmp_path / "served"
    policy, learned, asked = policy_of(made), policy_of(made, learned=True), requests(count=12)
    policy.save_merged(served)
    with vllm_serving(served, tmp_path / "vllm.log") as address:
        generator = generator_of(policy, address, tmp_path)
        answers, of_learned = generator.generate(asked), generator_of(learned, address, tmp_path).generate(asked)
    assert generator._prompts.agreed
    assert same(answers, policy.generate(asked)) >= 11
    assert same(of_learned, learned.generate(asked)) >= 11 > same(of_learned, answers)


def test_two_copies_behind_one_address_both_load_it(merged: Path, tmp_path: Path) -> None:
    copies = ("--data-parallel-size", "2", "--api-server-count", "1")
    learned, asked = policy_of(merged, learned=True), requests()
    with vllm_serving(merged, tmp_path / "vllm.log", *copies) as address:
        answers = generator_of(learned, address, tmp_path).generate(asked)
    assert same(answers, learned.generate(asked)) >= 29
    said = (tmp_path / "vllm.log").read_text("utf-8", "replace")
    assert "EngineCore_DP0" in said and "EngineCore_DP1" in said


COMMANDS = [
    line.split(" && ")[-1] for line in DOC.read_text().splitlines() if line.startswith("    ") and "vllm serve" in line
]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_page_are_ones_it_takes(command: str) -> None:
    """By vLLM's own reading of its words; it starts nothing."""
    set_here, words = re.fullmatch(r"((?:\w+=\S+ )*)\S*vllm serve (.*)", command.strip()).groups()  # type: ignore[union-attr]
    program = Path(os.environ[VARIABLE])
    read = subprocess.run(
        [str(program.parent / "python"), "-c", READ, *shlex.split(words)], capture_output=True, text=True, timeout=300
    )
    assert read.returncode == 0, read.stderr[-2000:]
    given = json.loads(read.stdout.splitlines()[-1])
    several = given["data_parallel_size"] > 1 and given["api_server_count"] != 1
    assert not ("RUNTIME_LORA" in set_here and several), "vLLM refuses to load adapters with several servers of its API"
    assert ("RUNTIME_LORA" in set_here) == bool(given["enable_lora"])


READ = """
import json, sys
try:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
except ModuleNotFoundError:  # earlier versions
    from vllm.entrypoints.openai.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
read = make_arg_parser(FlexibleArgumentParser()).parse_args(sys.argv[1:])
print(json.dumps({n: getattr(read, n) for n in ("data_parallel_size", "api_server_count", "enable_lora")}, default=str))
"""
