"""What a GPU has to do right, each also tried on the CPU: the same claim, the same code, another device.

    python -m pytest tests/gpu -m gpu

Weights are read onto the device with its index, answers and log-probs are those of plain transformers there, every attention
agrees with the plain one, half precision and four bits learn, kept features change nothing, a stopped run goes on, and two GPUs
learn what one learns.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from parallax.models.loading import layout_for
from parallax.models.policy import Policy
from parallax.models.scoring import varlen_attention
from parallax.models.scoring.shared_prefix import SDPA, register_attention, shared_prefix
from parallax.models.scoring.varlen_attention import FLEX
from tests.models.examples import prompts_and_responses, ragged
from tests.toys.tiny_checkpoints import make_tiny_checkpoint
from tests.typed import load_policy

ROOT = Path(__file__).resolve().parents[2]
DEVICES = ["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)]
FAMILIES = ["llava", "qwen2_5_vl"]
on_each_device = pytest.mark.parametrize("device", DEVICES)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("device")
    return {family: make_tiny_checkpoint(family, folder / family, seed=3) for family in FAMILIES}


def policy_on(device: str, path: Path, *, moved: bool = False, **model: Any) -> Policy:
    """A policy on the device; `moved`: its adapter changes what the base says."""
    policy = load_policy({"path": str(path), **model}, {"r": 4}, device=device)
    if moved:
        with torch.no_grad():
            for name, value in policy.trainable_parameters():
                if "lora_B" in name:
                    value.copy_(0.05 * torch.randn(value.shape, generator=torch.Generator().manual_seed(len(name))))
    return policy


def scored(policy: Policy, layout: Any = None) -> torch.Tensor:
    """Log-probs of some answers to three images, on the CPU. Shape: (3, 3)."""
    policy.layout = layout or policy.layout
    batch = policy.encoder.collate(prompts_and_responses(policy, 2))
    with torch.no_grad():
        return policy.score(batch.to(policy.device)).total.float().cpu()


@on_each_device
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_read_onto_the_device_in_their_precision(
    device: str, dtype: str, checkpoints: dict[str, Path]
) -> None:
    policy = policy_on(device, checkpoints["llava"], dtype=dtype)
    assert {value.device for value in policy.model.parameters()} == {torch.device(device)}
    frozen = {value.dtype for value in policy.model.parameters() if not value.requires_grad}
    assert frozen == {getattr(torch, dtype)}


@on_each_device
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_generate_on_the_same_device(
    device: str, family: str, checkpoints: dict[str, Path]
) -> None:
    policy = policy_on(device, checkpoints[family])
    plain = AutoModelForImageTextToText.from_pretrained(str(checkpoints[family])).to(device).eval()
    requests = ragged(6)
    for request, answer in zip(requests, policy.generate(requests, batch_size=6), strict=True):
        prompt = policy.encoder.encode_prompt(request.image.load(), request.prompt, request.view).to(device)
        output = plain.generate(
            input_ids=prompt.input_ids[None], attention_mask=torch.ones_like(prompt.input_ids)[None],
            max_new_tokens=request.decoding.max_new_tokens, do_sample=False,
            suppress_tokens=sorted(policy.encoder.never_said), **prompt.vision,
            **{name: value[None] for name, value in prompt.token_inputs.items()},
        )  # fmt: skip
        assert output[0, len(prompt.input_ids) :].tolist() == list(answer.token_ids)


@on_each_device
@pytest.mark.parametrize("family", FAMILIES)
def test_log_probs_are_those_of_a_plain_forward_in_both_layouts(
    device: str, family: str, checkpoints: dict[str, Path]
) -> None:
    policy = policy_on(device, checkpoints[family])
    plain = AutoModelForImageTextToText.from_pretrained(str(checkpoints[family])).to(device).eval()
    expected = []
    with torch.no_grad():
        for prompt, responses in prompts_and_responses(policy, 2):
            there = prompt.to(device)
            for response in responses:
                more = {
                    name: torch.cat([value, value.new_zeros(len(response))])[None]
                    for name, value in there.token_inputs.items()
                }
                ids = torch.cat([there.input_ids, response.to(device)])[None]
                logits = plain(input_ids=ids, attention_mask=torch.ones_like(ids), **there.vision, **more).logits[0]
                said = logits[-len(response) - 1 : -1].log_softmax(-1)
                expected.append(said.gather(-1, response.to(device)[:, None]).sum().cpu())
    wanted = torch.stack(expected).reshape(3, 3)
    for layout in ("separate", "shared"):
        assert torch.allclose(scored(policy, layout_for(layout, policy.model)), wanted, rtol=0, atol=1e-3), layout


@on_each_device
@pytest.mark.parametrize("kernel", [SDPA, FLEX, varlen_attention.VARLEN])
def test_every_attention_agrees_with_the_dense_mask(device: str, kernel: str, checkpoints: dict[str, Path]) -> None:
    half = kernel == varlen_attention.VARLEN  # torch's kernel takes half precision only, and needs a GPU
    if half and device == "cpu":
        fault = varlen_attention.fault_of(torch.device("cpu"), torch.bfloat16, 4, 4, 16)
        assert "GPU" in fault or "CUDA" in fault
        return
    policy = policy_on(device, checkpoints["llava"], moved=True, dtype="bfloat16" if half else "float32")
    register_attention()
    text = policy.model.get_base_model().config.get_text_config()
    found = {}
    for implementation in ("eager", kernel):
        text._attn_implementation = implementation
        found[implementation] = scored(policy, shared_prefix)
    tolerance = 0.05 if half else 1e-4
    assert torch.allclose(found["eager"], found[kernel], rtol=tolerance, atol=tolerance * 10)


@on_each_device
def test_kept_features_change_nothing(device: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    plain = policy_on(device, checkpoints["llava"], moved=True)
    kept = load_policy(
        {"path": str(checkpoints["llava"]), "feature_cache": "disk"}, {"r": 4}, device=device, feature_folder=tmp_path
    )
    kept.model.load_state_dict(plain.model.state_dict())
    first = scored(kept)
    assert torch.allclose(first, scored(plain), rtol=0, atol=1e-4)
    assert torch.equal(first, scored(kept))


def command(folder: Path, *overrides: str, processes: int = 1, gpu: bool) -> list[str]:
    """`method=seva` on twelve scenes of the built-in world, by one process or several."""
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone"] if processes > 1 else []
    kind = "ddp" if processes > 1 else "gpu" if gpu else "cpu"
    return [
        sys.executable, *launcher, str(ROOT / "run.py"), "method=seva", f"trainer={kind}", f"trainer.devices={processes}",
        "trainer.precision=32-true", "data.size=12", "trainer.batch_size=4", "trainer.micro_batch_size=2", "evaluation=none",
        "logger=none", "trainer.max_epochs=4", "trainer.checkpoint.every_n_steps=1", f"paths.output_dir={folder / 'run'}",
        f"paths.cache_dir={folder / 'cache'}", *overrides,
    ]  # fmt: skip


def learned(folder: Path, *overrides: str, **how: Any) -> dict[str, torch.Tensor]:
    """The adapter that the run ends with."""
    subprocess.run(command(folder, *overrides, **how), check=True, cwd=ROOT, timeout=600)
    return load_file(folder / "run" / "stages" / "align" / "adapter" / "adapter_model.safetensors")


@pytest.mark.slow
@on_each_device
def test_a_killed_run_goes_on_to_the_same_weights(device: str, tmp_path: Path) -> None:
    gpu = device != "cpu"
    whole = learned(tmp_path / "whole", gpu=gpu)
    parts = tmp_path / "parts"
    process = subprocess.Popen(command(parts, gpu=gpu), cwd=ROOT)
    while not list(parts.glob("run/stages/align/checkpoints/*")) and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -9, "it ended before it could be killed"
    again = learned(parts, gpu=gpu)
    assert all(torch.allclose(whole[name], again[name], rtol=0, atol=1e-6 if gpu else 0) for name in whole)


@pytest.mark.slow
@on_each_device
def test_two_devices_learn_what_one_learns(device: str, tmp_path: Path) -> None:
    gpu = device != "cpu"
    if gpu and torch.cuda.device_count() < 2:
        pytest.skip(f"needs two GPUs, and here there is {torch.cuda.device_count()}")
    where = () if gpu else ("trainer.accelerator=cpu",)
    one, two = learned(tmp_path / "one", gpu=gpu), learned(tmp_path / "two", *where, processes=2, gpu=gpu)
    assert all(torch.allclose(one[name], two[name], rtol=0, atol=1e-5) for name in one)


@pytest.mark.gpu
def test_four_bits_learn_on_a_gpu(checkpoints: dict[str, Path]) -> None:
    policy = policy_on("cuda:0", checkpoints["llava"], quantization="nf4", dtype="bfloat16")
    batch = policy.encoder.collate(prompts_and_responses(policy, 1)).to(policy.device)
    optimiser = torch.optim.AdamW([value for _, value in policy.trainable_parameters()], lr=1e-2)
    losses = []
    for _ in range(8):
        total = policy.score(batch).total
        loss = -torch.nn.functional.logsigmoid(0.1 * (total[:, 0] - total[:, 1])).mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05, json.dumps(losses)
