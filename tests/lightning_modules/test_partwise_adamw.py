"""bitsandbytes' AdamW on whole and on sharded weights, and moments that go through a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.tensor import Shard, distribute_tensor

from lightning_modules.blockwise import to_eight_bits, to_float32
from lightning_modules.checkpoint_files import read_checkpoint, write_folder
from lightning_modules.optimisers import build_optimiser
from lightning_modules.partwise_adamw import PartwiseAdamW
from parallax.models import processes
from parallax.models.sharding.fsdp2 import share_of
from tests.processes import in_processes, write_here

SHAPES = [(64, 256), (30, 100), (70, 100), (40,)]  # eight bits, fewer than 4096 numbers, blocks across rows, a vector
OPTIM = {"name": "adamw_8bit", "lr": 1e-2, "weight_decay": 0.1}
SETTINGS = {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-8}


def weights() -> list[nn.Parameter]:
    draw = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=draw)) for shape in SHAPES]


def gradients(step: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(100 + step)
    return [torch.randn(shape, generator=draw) * 10.0 ** -(step % 3) for shape in SHAPES]


def make_steps(optimiser: Any, parameters: list[Any], steps: range) -> None:
    for step in steps:
        for parameter, gradient in zip(parameters, gradients(step), strict=True):
            parameter.grad = like(gradient, parameter)
        optimiser.step()


def like(value: Tensor, parameter: Any) -> Tensor:
    return share_of(value, parameter.detach())


def theirs(parameters: list[nn.Parameter]) -> Any:
    import bitsandbytes.optim as bnb

    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return bnb.AdamW8bit(groups, **SETTINGS)


@pytest.mark.parametrize("signed", [True, False])
def test_eight_bits_come_back_as_they_were(signed: bool) -> None:
    """Also of blocks whose largest number is negative, which bitsandbytes itself shrinks each time."""
    from bitsandbytes import functional

    table = functional.create_dynamic_map(signed=signed)
    values = torch.randn(20 * 256 + 17, generator=torch.Generator().manual_seed(1)).pow(3) * 1e-5
    values = values if signed else values.square()
    values[256:512] = 0
    places, state = functional.quantize_blockwise(values, code=table, blocksize=256)
    kept = {"state1": places, "qmap1": table, "absmax1": state.absmax}
    once = to_float32(kept, 1)
    assert torch.equal(once, functional.dequantize_blockwise(places, state) + 0.0)
    again, scales = to_eight_bits(once, table)
    assert torch.equal(to_float32({"state1": again, "qmap1": table, "absmax1": scales}, 1), once)
    if signed:
        assert (functional.quantize_blockwise(once, code=table, blocksize=256)[1].absmax < state.absmax).any()


def test_numbers_never_seen_before_are_as_near_as_those_of_bitsandbytes() -> None:
    from bitsandbytes import functional

    table = functional.create_dynamic_map(signed=True)
    values = torch.randn(4096, generator=torch.Generator().manual_seed(2))
    places, scales = to_eight_bits(values, table)
    ours = to_float32({"state1": places, "qmap1": table, "absmax1": scales}, 1)
    peer = functional.dequantize_blockwise(*functional.quantize_blockwise(values, code=table, blocksize=256))
    assert (ours - values).abs().mean() <= 1.02 * (peer - values).abs().mean()
    assert (ours - values).abs().max() < 0.02 * values.abs().max()


def test_whole_weights_learn_what_bitsandbytes_teaches_and_its_checkpoints_go_on() -> None:
    peers, ours = weights(), weights()
    peer, optimiser = theirs(peers), build_optimiser(ours, OPTIM)
    assert isinstance(optimiser, PartwiseAdamW)
    make_steps(peer, peers, range(3))
    make_steps(optimiser, ours, range(3))
    assert all(torch.equal(a, b) for a, b in zip(ours, peers, strict=True))
    saved = peer.state_dict()  # the form in which runs kept it before, and in which whole weights keep it still
    assert saved["state"].keys() == optimiser.state_dict()["state"].keys()
    for state in (saved, optimiser.state_dict()):
        again = [nn.Parameter(value.detach().clone()) for value in ours]
        resumed = build_optimiser(again, OPTIM)
        resumed.load_state_dict(state)
        assert resumed.param_groups[0]["weight_decay"] == 0.1
        on = [nn.Parameter(value.detach().clone()) for value in peers]
        plain = theirs(on)
        plain.load_state_dict(saved)
        make_steps(plain, on, range(3, 6))
        make_steps(resumed, again, range(3, 6))
        assert all(torch.equal(a, b) for a, b in zip(again, on, strict=True))


def test_a_step_without_gradients_changes_nothing() -> None:
    parameters = weights()
    optimiser = build_optimiser(parameters, OPTIM)
    make_steps(optimiser, parameters, range(1))
    before = [value.detach().clone() for value in parameters]
    optimiser.zero_grad()
    optimiser.step()
    assert all(torch.equal(a, b) for a, b in zip(parameters, before, strict=True))


def test_moments_of_another_shape_are_refused() -> None:
    parameters = weights()
    optimiser = build_optimiser(parameters, OPTIM)
    make_steps(optimiser, parameters, range(1))
    other = [nn.Parameter(value.detach()[: len(value) // 2]) for value in parameters]
    with pytest.raises(ValueError, match=r"exp_avg of parameter 0 has shape \(64, 256\).*\(32, 256\)"):
        build_optimiser(other, OPTIM).load_state_dict(optimiser.state_dict())


def sharded_steps(out: Path, optim: dict[str, Any], steps: range, resume: bool) -> None:
    """`steps` on sharded weights; state and weights of before are those in `out`."""
    torch.distributed.init_process_group("gloo")
    mesh = processes.mesh("cpu") or torch.distributed.init_device_mesh("cpu", (1,))
    folder = out / "checkpoint"
    before = read_checkpoint(folder) if resume else {"weights": [value.detach() for value in weights()]}
    parameters = [nn.Parameter(distribute_tensor(value, mesh, [Shard(0)])) for value in before["weights"]]
    optimiser: Any = build_optimiser(parameters, optim)
    if resume:
        optimiser.load_state_dict(before["optimiser"])
    processes.barrier()
    make_steps(optimiser, parameters, steps)
    write_folder({"weights": [p.detach() for p in parameters], "optimiser": optimiser.sharded_state()}, str(folder))
    write_here(out, "weights", [p.full_tensor().detach() for p in parameters])


@pytest.mark.parametrize("name", ["adamw_8bit", "paged_adamw_8bit", "paged_adamw"])
def test_sharded_weights_learn_the_same_in_every_number_of_processes(tmp_path: Path, name: str) -> None:
    """2, then 1, then 3 processes, against one that holds all weights whole. Blocks of the first weight are always the same."""
    optim = {**OPTIM, "name": name}
    whole = weights()
    make_steps(build_optimiser(whole, optim), whole, range(9))
    for number, count in enumerate((2, 1, 3)):
        in_processes(count, sharded_steps, tmp_path, optim, range(3 * number, 3 * number + 3), number > 0)
    ours = torch.load(tmp_path / "weights-0.pt")
    bounds = [0, 0, 0 if name == "paged_adamw" else 2e-3, 0]
    for value, peer, bound in zip(ours, whole, bounds, strict=True):
        apart = (value - peer.detach()).abs()
        assert apart.mean() <= bound * peer.detach().abs().mean(), (tuple(peer.shape), apart.mean(), apart.max())


def test_the_bits_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    in_processes(2, note_bits, tmp_path)
    whole = weights()
    optimiser: Any = build_optimiser(whole, OPTIM)
    make_steps(optimiser, whole, range(1))
    wanted = [optimiser.inner.state[part]["state1"].dtype for _, part in optimiser._pairs()]
    assert wanted == [torch.uint8, torch.float32, torch.uint8, torch.float32]
    for number in range(2):
        assert torch.load(tmp_path / f"bits-{number}.pt") == wanted


def note_bits(out: Path) -> None:
    torch.distributed.init_process_group("gloo")
    parameters = [
        nn.Parameter(distribute_tensor(value.detach(), processes.mesh("cpu"), [Shard(0)])) for value in weights()
    ]
    optimiser: Any = build_optimiser(parameters, OPTIM)
    make_steps(optimiser, parameters, range(1))
    write_here(out, "bits", [optimiser.inner.state[part]["state1"].dtype for _, part in optimiser._pairs()])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["paged_adamw", "paged_adamw_8bit"])
def test_paged_moments_are_paged_again_when_a_run_goes_on(name: str) -> None:
    def step(optimiser: Any, parameter: nn.Parameter) -> None:
        parameter.grad = torch.full_like(parameter, 0.5).cumsum(0)
        optimiser.step()

    first = nn.Parameter(torch.ones(512, 512, device="cuda"))  # from 100 000 numbers on
    optimiser: Any = build_optimiser([first], {**OPTIM, "name": name})
    step(optimiser, first)
    second = nn.Parameter(first.detach().clone())
    resumed: Any = build_optimiser([second], {**OPTIM, "name": name})
    resumed.load_state_dict(optimiser.state_dict())
    (state,) = resumed.inner.state.values()
    assert state["state1"].is_paged and state["state2"].is_paged
    step(optimiser, first)
    step(resumed, second)
    assert torch.equal(first, second)
