"""Weights that are read sharded are those read whole, to the last bit, and no process reads or holds more than its share."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from parallax.models import processes
from parallax.models.backbone import base_model
from parallax.models.saving import names_outside
from parallax.models.sharding import loading
from parallax.models.sharding.fsdp2 import rows_of
from tests.models.examples import prompts_and_responses, ragged
from tests.processes import in_processes, write_here
from tests.typed import load_policy

MIB = 2**20
LORA = {"r": 4, "enabled": True}


def together(act: Callable[..., Any]) -> Callable[..., None]:
    """`act` between processes that have met over gloo."""

    def run(*args: Any) -> None:
        torch.distributed.init_process_group("gloo")
        act(*args)

    return run


def loaded_both_ways(
    folder: Path, lora: dict[str, Any], model: dict[str, Any], adapter: Path | None
) -> tuple[Any, Any]:
    model = {"path": str(folder), **model}
    options: dict[str, Any] = {"seed": 7, "adapter": adapter, "digest_memory": folder / "digests.json"}
    return load_policy(model, lora, **options), load_policy(model, lora, mesh=processes.mesh("cpu"), **options)


def compare(folder: Path, lora: dict[str, Any], model: dict[str, Any], adapter: Path | None) -> None:
    one, parts = loaded_both_ways(folder, lora, model, adapter)
    assert parts.is_sharded and not one.is_sharded
    expected, got = dict(one.model.named_parameters()), dict(parts.model.named_parameters())
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        assert torch.equal(parts.sharding.whole(got[name].detach()), value.detach()), name
        assert got[name].requires_grad == value.requires_grad and got[name].dtype == value.dtype, name
    buffers = dict(parts.model.named_buffers())
    assert {n for n, _ in one.model.named_buffers()} == buffers.keys() and buffers
    for name, value in one.model.named_buffers():
        assert torch.equal(buffers[name], value) and buffers[name].dtype == value.dtype, name
    mine = [value for name, value in got.items() if "language_model.layers" in name]
    assert mine and all(rows_of(value)[1] < value.shape[0] for value in mine)
    assert base_model(parts.model).generation_config.to_dict() == base_model(one.model).generation_config.to_dict()
    assert parts.fingerprint() == one.fingerprint() and parts.reference_fingerprint() == one.reference_fingerprint()
    assert parts.precision == one.precision and parts.scorer == one.scorer
    renamed = [[entry.source_patterns for entry in names_outside(base_model(p.model))] for p in (one, parts)]
    assert renamed[0] == renamed[1]
    batch = one.encoder.collate(prompts_and_responses(one, 1))
    assert torch.equal(parts.score(batch).total, one.score(batch).total)
    answers = [
        g.token_ids for g in parts.generate(ragged(3)[processes.rank() :])
    ]  # not the same number in each process
    assert answers == [g.token_ids for g in one.generate(ragged(3)[processes.rank() :])]
    assert torch.equal(parts.score(batch).total, one.score(batch).total)  # sharded again


@pytest.mark.parametrize("kind", ["llava", "llava_next", "qwen2_5_vl", "bfloat16", "projector", "full"])
def test_sharded_weights_are_the_whole_ones(checkpoints: dict[str, Path], kind: str) -> None:
    folder = checkpoints.get(kind, checkpoints["llava"])
    model: dict[str, Any] = {"dtype": "bfloat16"} if kind == "bfloat16" else {"train_projector": kind == "projector"}
    in_processes(2, together(compare), folder, {"enabled": False} if kind == "full" else LORA, model, None)


def test_sharded_weights_become_float32_for_training(checkpoints: dict[str, Path]) -> None:
    in_processes(2, together(trained_in_float32), checkpoints["llava"])


def trained_in_float32(folder: Path) -> None:
    for lora in ({"enabled": False},):
        one, parts = loaded_both_ways(folder, lora, {"dtype": "bfloat16"}, None)
        assert {value.dtype for _, value in parts.trainable_parameters()} == {torch.bfloat16}
        for policy in (one, parts):
            policy.sharding.train_in_float32()
        expected = dict(one.model.named_parameters())
        for name, value in parts.model.named_parameters():
            assert value.dtype == expected[name].dtype and value.requires_grad == expected[name].requires_grad
            assert torch.equal(parts.sharding.whole(value.detach()), expected[name].detach()), name
        batch = one.encoder.collate(prompts_and_responses(one, 1))
        with torch.autocast("cpu", torch.bfloat16):
            totals = [policy.score(batch).total for policy in (one, parts)]
        assert torch.equal(*totals)
        optimiser = torch.optim.AdamW([value for _, value in parts.trainable_parameters()], lr=1e-3)
        totals[1].sum().backward()
        optimiser.step()
        assert all(value.grad is not None for _, value in parts.trainable_parameters())
        with torch.autocast("cpu", torch.bfloat16):
            assert not torch.equal(parts.score(batch).total, totals[1])


def test_an_adapter_on_disk_and_uneven_rows_are_sharded_too(
    make_policy: Any, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    make_policy("llava", lora={"r": 5}, learned=True).save_adapter(tmp_path / "adapter")
    in_processes(2, together(compare), checkpoints["llava"], LORA, {}, tmp_path / "adapter")


def test_weights_that_share_their_memory_still_do(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    network = AutoModelForImageTextToText.from_pretrained(checkpoints["llava"])
    network.config.tie_word_embeddings = network.config.text_config.tie_word_embeddings = True
    network.tie_weights()
    network.save_pretrained(tmp_path / "tied")
    AutoProcessor.from_pretrained(checkpoints["llava"]).save_pretrained(tmp_path / "tied")
    in_processes(2, together(tied), tmp_path / "tied")


def tied(folder: Path) -> None:
    for lora in (LORA, {"enabled": False}):
        compare(folder, lora, {}, None)
        _, parts = loaded_both_ways(folder, lora, {}, None)
        network = base_model(parts.model)
        assert network.get_input_embeddings().weight is network.get_output_embeddings().weight


def test_what_cannot_be_read_in_parts_is_read_whole_and_said(
    make_policy: Any, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    make_policy("llava", lora={"r": 4, "dora": True}).save_adapter(tmp_path / "dora")
    in_processes(1, together(alone), checkpoints["llava"], tmp_path)


def alone(folder: Path, out: Path) -> None:
    from torch.distributed.device_mesh import init_device_mesh

    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("parallax.models.loading")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    mesh, model = init_device_mesh("cpu", (1,)), {"path": str(folder)}
    assert load_policy(model, LORA, mesh=mesh).is_sharded and not said
    assert not load_policy(model, {**LORA, "dora": True}, mesh=mesh).is_sharded
    assert not load_policy(model, LORA, adapter=out / "dora", mesh=mesh).is_sharded
    assert len(said) == 2 and all("loaded whole by every process" in line and "DoRA" in line for line in said)
    with pytest.raises(FileNotFoundError, match="is not a folder here"):
        load_policy({"path": str(out / "nowhere")}, LORA, mesh=mesh)
    with pytest.raises(ValueError, match="does not fit"):
        load_policy(model, LORA, adapter=Path(out / "other"), mesh=mesh) if (out / "other").exists() else _misfit(
            model, out, mesh
        )


def _misfit(model: dict[str, Any], out: Path, mesh: Any) -> None:
    from safetensors.torch import load_file, save_file

    load_policy(model, LORA).save_adapter(out / "other")
    file = out / "other" / "adapter_model.safetensors"
    save_file(dict(list(load_file(file).items())[1:]), file)
    load_policy(model, LORA, adapter=out / "other", mesh=mesh)


# -- memory ------------------------------------------------------------------------------------------------------------


def own_memory() -> int:
    """Bytes of this process that no file backs."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) * 1024


class Peak:
    """The most memory that a process of its own takes while something happens, beyond what it had before."""

    def __enter__(self) -> Peak:
        self.start = self.most = own_memory()
        self.stopped = False
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.stopped:
            self.most = max(self.most, own_memory())
            time.sleep(0.002)

    def __exit__(self, *_: Any) -> None:
        self.stopped = True
        self.thread.join()
        self.bytes = max(self.most, own_memory()) - self.start


def large_checkpoint(folder: Path, small: Path) -> None:
    """A LLaVA in bfloat16 whose weights take 300 MB in float32. Made in a process of its own, whose memory goes with it."""
    from transformers import AutoConfig, AutoProcessor, LlavaForConditionalGeneration

    config = AutoConfig.from_pretrained(small)
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers, text.num_attention_heads = 512, 1536, 24, 8
    text.num_key_value_heads, text.head_dim = 8, 64
    with torch.device("meta"):
        network = LlavaForConditionalGeneration(config).to(torch.bfloat16)
    network.to_empty(device="cpu")
    for place, value in enumerate(network.state_dict().values()):
        value.fill_(0.001 * place)
    network.save_pretrained(folder)
    AutoProcessor.from_pretrained(small).save_pretrained(folder)


def measure(folder: Path, small: Path, out: Path, lora: dict[str, Any], sharded: bool) -> None:
    mesh = processes.mesh("cpu") if sharded else None
    load_policy({"path": str(small)}, lora, mesh=mesh)  # what a first load leaves in a process, imports above all
    reads: list[int] = []
    read = loading._Files.read

    def counted(files: Any, place: Any, value: Any) -> None:
        reads.append(loading._own(value).numel())
        read(files, place, value)

    loading._Files.read = counted  # type: ignore[method-assign]
    with Peak() as peak:
        policy = load_policy({"path": str(folder)}, lora, mesh=mesh, digest_memory=out / "d")
    write_here(out, f"peak-{sharded}", {"peak": peak.bytes, "read": sum(reads), "sharded": policy.is_sharded})


def test_a_process_reads_and_holds_its_share(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """In float32, so that whole weights are copies: transformers maps files of the wanted precision into memory on a CPU."""
    in_processes(1, large_checkpoint, tmp_path / "large", checkpoints["llava"])
    numbers = (tmp_path / "large" / "model.safetensors").stat().st_size // 2
    total = 4 * numbers
    assert 290 * MIB < total < 320 * MIB
    lora, small = {"r": 64, "enabled": True}, checkpoints["llava"]
    for sharded in (False, True):
        in_processes(2, together(measure), tmp_path / "large", small, tmp_path, lora, sharded)
    adapter = 24 * 64 * 4 * (4 * 1024 + 3 * 2048)
    for number in (0, 1):
        alone, parts = (torch.load(tmp_path / f"peak-{sharded}-{number}.pt") for sharded in (False, True))
        print(f"process {number}: {alone['peak'] / MIB:.0f} MiB whole, {parts['peak'] / MIB:.0f} MiB sharded")
        assert parts["sharded"] and not alone["sharded"]
        assert parts["read"] == pytest.approx(numbers / 2, rel=0.02)
        assert alone["peak"] > 0.9 * total  # pages of files that are mapped may be given back
        assert parts["peak"] < 0.5 * (total + adapter) + 40 * MIB, (parts["peak"] / MIB, alone["peak"] / MIB)
