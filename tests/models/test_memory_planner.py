"""The memory planner against autograd's own accounting, at true size without memory, and against the allocator with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.allocator import SavedTensors, peak_of
from benchmarks.memory import measured
from benchmarks.random_model import autocast
from parallax.models.backbone import base_model
from parallax.models.lora import add_lora
from parallax.models.memory.model_shape import shape_of
from parallax.models.memory.planner import Workload, plan_generation, plan_training
from parallax.models.memory.terms import layer_bytes, trained_parameters, weight_bytes
from parallax.models.scoring import log_probs
from parallax.models.true_size import architectures, meta_model
from tests.typed import lora

TINY = Workload(40, 16, 24, responses=3, pairs=2, rank=8)


@pytest.mark.parametrize("name", architectures())
def test_parameters_and_lora_are_those_of_the_network(name: str) -> None:
    shape = shape_of(meta_model(name))
    model = meta_model(name)
    total = sum(value.numel() for value in model.parameters())
    with torch.device("meta"):
        tuned = add_lora(model, lora(r=128), seed=0)
    assert shape.parameters == total
    assert trained_parameters(shape, replace(TINY, rank=128)) == sum(
        v.numel() for v in tuned.parameters() if v.requires_grad
    )
    assert weight_bytes(shape, replace(TINY, weights="bfloat16")) == 2 * total
    assert shape.notes == ()


def saved_at_true_size(name: str, work: Workload) -> int:
    """Bytes that autograd keeps of a forward pass, by its own account, on tensors without content."""
    network = meta_model(name).to(getattr(torch, work.weights)).requires_grad_(False)
    with torch.device("meta"):
        model = add_lora(network, lora(r=work.rank), seed=0).train()
    with FakeTensorMode():
        for (
            module
        ) in model.modules():  # from meta to tensors that say they are on a CPU, so that its kernels are chosen
            for held in (module._parameters, module._buffers):
                for key, value in held.items():
                    if value is not None:
                        new = torch.empty(value.shape, dtype=value.dtype)
                        held[key] = (
                            torch.nn.Parameter(new, value.requires_grad)
                            if isinstance(value, torch.nn.Parameter)
                            else new
                        )
        network = base_model(model)
        dtype, hidden = getattr(torch, work.weights), network.config.text_config.hidden_size
        scored = work.pairs * work.responses * work.response_tokens
        mask = torch.ones(work.rows, 1, work.width, work.width, dtype=torch.bool) if work.layout == "shared" else None
        saved = SavedTensors()
        with saved.counting(model), autocast("cpu", getattr(torch, work.autocast) if work.autocast else None):
            states = network.model.language_model(
                inputs_embeds=torch.empty(work.rows, work.width, hidden, dtype=dtype),
                attention_mask=mask,
                position_ids=torch.empty(work.rows, work.width, dtype=torch.long),
                use_cache=False,
            ).last_hidden_state
            picked = states.reshape(-1, hidden)[torch.empty(scored, dtype=torch.long)]
            values = log_probs.token_log_probs(network.lm_head(picked), torch.empty(scored, dtype=torch.long))
        assert values.requires_grad
        return saved.bytes


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"rank": 128, "weights": "bfloat16", "autocast": "bfloat16"},
        {"rank": 1024, "weights": "bfloat16", "autocast": "bfloat16", "layout": "shared", "responses": 5},
        {"rank": 128},
    ],
)
def test_activations_of_llava_7b_are_what_autograd_keeps(changes: dict[str, Any]) -> None:
    work = replace(Workload(616, 576, 128, pairs=2, rank=128), **changes)
    plan = plan_training(shape_of(meta_model("llava15_7b")), work)
    assert plan.moment == "output head"
    forecast = plan.parts["activations"] + plan.parts["casts"]
    assert saved_at_true_size("llava15_7b", work) == pytest.approx(forecast, rel=0.02)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layout": "shared"},
        {"checkpointing": True},
        {"layout": "shared", "checkpointing": True, "micro_batches": 2},
        {"weights": "bfloat16", "autocast": "bfloat16"},
        {"rank": 0},
    ],
    ids=lambda changes: " ".join(map(str, changes.values())) or "plain",
)
def test_the_peak_of_a_real_step_is_the_forecast(changes: dict[str, Any]) -> None:
    plan, real = measured("tiny", replace(TINY, **changes))
    assert plan.peak == pytest.approx(real, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["separate", "shared"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_peak_of_a_step_with_576_image_tokens_is_the_forecast(layout: str, checkpointing: bool) -> None:
    work = Workload(616, 576, 64, responses=2, pairs=2, rank=64, layout=layout, checkpointing=checkpointing)
    plan, real = measured("20m", work)
    assert plan.peak == pytest.approx(real, rel=0.05)


def test_parts_add_up_to_the_peak_and_say_where_it_is() -> None:
    plan = plan_training(shape_of(meta_model("llava15_7b")), replace(TINY, prompt_tokens=616, rank=128))
    assert sum(plan.parts.values()) == plan.peak == plan.moments[plan.moment]
    assert min(plan.parts.values()) >= 0
    assert (plan.rows, plan.tokens_per_row) == (6, 640)


def test_known_sizes_by_hand() -> None:
    """LLaVA-1.5-7B in bfloat16 with LoRA r = 128 in float32: 14.1 GB, 1.28 GB, and two moments of that size."""
    shape = shape_of(meta_model("llava15_7b"))
    plan = plan_training(shape, Workload(616, 576, 128, rank=128, weights="bfloat16", autocast="bfloat16"))
    assert plan.parts["weights"] == 2 * 7_063_427_072
    assert plan.parts["adapter"] == 4 * 319_815_680
    assert plan.parts["optimiser"] == 8 * 319_815_680
    tokens = 2 * 744
    of_a_layer = tokens * (
        2 * (4 * 4096 + 4)  # norms
        + 2 * 4 * 4096 + 4 * 32  # q, k, v, output, one float per head
        + 2 * 3 * 11008  # gate, silu, up
        + 2 * (6 * 4096 + 11008)  # converted inputs
        + 2 * 7 * 128  # inside LoRA
    )  # fmt: skip
    assert layer_bytes(shape, Workload(616, 576, 128, rank=128, weights="bfloat16", autocast="bfloat16")) == of_a_layer


def test_moments_are_sharded_in_their_own_bits() -> None:
    shape = shape_of(meta_model("llava15_7b"))
    work = Workload(616, 576, 128, rank=0, weights="bfloat16", strategy="sharded", processes=8, reference="none")
    bits = {"adamw": 16, "adamw_8bit": 8 + 32 / 256, "paged_adamw": 32, "paged_adamw_8bit": 8 + 32 / 256}
    for optimiser, each in bits.items():
        plan = plan_training(shape, replace(work, trained="bfloat16", optimiser=optimiser))
        assert plan.parts["optimiser"] == pytest.approx(2 * plan.trained * each / 8 / 8, rel=1e-6), optimiser


def test_what_saves_memory_is_forecast_to_save_memory() -> None:
    shape = shape_of(meta_model("llava15_7b"))
    work = Workload(
        616, 576, 128, responses=5, pairs=4, micro_batches=8, rank=128, weights="bfloat16", autocast="bfloat16"
    )  # fmt: skip
    peak = plan_training(shape, work).peak
    for change in (
        {"pairs": 2}, {"checkpointing": True}, {"layout": "shared", "attention": "flex_attention"}, {"rank": 64},
        {"optimiser": "adamw_8bit"}, {"quantization": "nf4"}, {"quantization": "int8"}, {"response_tokens": 64},
        {"strategy": "sharded", "processes": 8},
    ):  # fmt: skip
        assert plan_training(shape, replace(work, **change)).peak < peak, change  # type: ignore[arg-type]
    for change in (
        {"weights": "float32", "autocast": None}, {"attention": "eager"}, {"dropout": True},
        {"rank": 0},
    ):  # fmt: skip
        assert plan_training(shape, replace(work, **change)).peak > peak, change  # type: ignore[arg-type]
    assert plan_training(shape, replace(work, strategy="ddp", processes=2)).peak == peak  # no second copy of gradients
    full = replace(work, rank=0)
    copy = plan_training(shape, replace(full, reference="live")).parts["reference"]
    assert (
        copy
        == 2 * 7_063_427_072
        == plan_training(shape, replace(full, reference="live")).resident - plan_training(shape, full).resident
    )


def test_work_that_is_not_known_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="layout='packed' is not known to the memory planner; use separate, shared"):
        Workload(1, 0, 1, layout="packed")
    with pytest.raises(ValueError, match="pairs=0 must be at least 1"):
        Workload(1, 0, 1, pairs=0)


def test_four_bit_weights_take_what_bitsandbytes_takes() -> None:
    import bitsandbytes as bnb

    linear = bnb.nn.Linear4bit(512, 256, bias=False, quant_type="nf4", compress_statistics=False)
    linear.weight = bnb.nn.Params4bit(
        torch.randn(256, 512), requires_grad=False, quant_type="nf4", compress_statistics=False
    )
    linear = linear.to("cpu")
    state = linear.weight.quant_state
    real = linear.weight.numel() * linear.weight.element_size() + state.absmax.numel() * 4
    assert real == 256 * 512 * (0.5 + 4 / 64)


def test_the_peak_of_generation_is_the_forecast(make_policy: Any) -> None:
    from tests.models.examples import ragged

    policy = make_policy("llava")
    requests = ragged(24)
    requests = [replace(r, decoding=replace(r.decoding, max_new_tokens=70), view=type(r.view)()) for r in requests]
    lengths = [len(policy.encoder.encode_prompt(r.image.load(), r.prompt).input_ids) for r in requests]
    real = peak_of(lambda: policy.generate(requests, batch_size=24), "cpu")
    real += sum(p.numel() * 4 for p in policy.model.parameters())
    plan = plan_generation(shape_of(policy.model), Workload(max(lengths), 16, 1, rank=4), rows=24, new_tokens=70)
    assert plan.peak == pytest.approx(real, rel=0.25)
    assert plan.parts["cache"] > 0 and sum(plan.parts.values()) == plan.peak
