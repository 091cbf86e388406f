"""Variable-length attention in two calls is attention under the dense mask, whatever kernel makes the two.

The kernel here is written out in the inputs' own precision; torch's own needs a GPU and is tried by `fault_of` there.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from parallax.models.scoring import varlen_attention
from parallax.models.scoring.shared_prefix import shared_prefix
from parallax.models.scoring.varlen_attention import VARLEN, check_error, fault_of, segments_of, varlen

CPU = torch.device("cpu")


class WrittenOut:
    """Attention of packed sequences, one after the other, and its gradients by the formulas of flash attention."""

    def forward(self, qkv: Any, offsets: Any, longest: Any, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        result, lse = torch.zeros_like(qkv[0]), qkv[0].new_zeros(qkv[0].shape[1], qkv[0].shape[0])
        for at, (q, k, v), masked in self._sequences(qkv, offsets, causal):
            scores = (torch.einsum("qhd,khd->hqk", q, k) * scale).masked_fill(masked, -torch.inf)
            lse[:, at] = scores.logsumexp(-1)
            result[at] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)
        return result, lse

    def backward(
        self,
        gradient: Tensor,
        qkv: Any,
        result: Tensor,
        lse: Tensor,
        offsets: Any,
        longest: Any,
        causal: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        dq, dk, dv = (torch.zeros_like(x) for x in qkv)
        delta = (gradient * result).sum(-1).T  # (heads, T)
        groups = qkv[0].shape[1] // qkv[1].shape[1]
        for at, (q, k, v), masked in self._sequences(qkv, offsets, causal):
            scores = (torch.einsum("qhd,khd->hqk", q, k) * scale).masked_fill(masked, -torch.inf)
            p = (scores - lse[:, at, None]).exp()
            ds = p * (torch.einsum("qhd,khd->hqk", gradient[at], v) - delta[:, at, None]) * scale
            dq[at] = torch.einsum("hqk,khd->qhd", ds, k)
            own = self.keys
            dk[own] = torch.einsum("hqk,qhd->khd", ds, q).unflatten(1, (-1, groups)).sum(2)
            dv[own] = torch.einsum("hqk,qhd->khd", p, gradient[at]).unflatten(1, (-1, groups)).sum(2)
        return dq, dk, dv

    def _sequences(self, qkv: Any, offsets: Any, causal: bool) -> Any:
        q, k, v = qkv
        groups = q.shape[1] // k.shape[1]
        for (a, b), (c, d) in zip(*(zip(o[:-1].tolist(), o[1:].tolist(), strict=True) for o in offsets), strict=True):
            self.keys = slice(c, d)
            masked = (
                torch.ones(b - a, d - c, dtype=torch.bool).triu(1) if causal else torch.zeros(1, 1, dtype=torch.bool)
            )
            yield slice(a, b), (q[a:b], *(x[c:d].repeat_interleave(groups, 1) for x in (k, v))), masked


@pytest.fixture
def written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen_attention, "KERNEL", WrittenOut())


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_two_merged_calls_are_attention_under_the_dense_mask_with_its_gradients(
    written_out: None, dtype: torch.dtype, close: float, kv_heads: int
) -> None:
    assert check_error(CPU, dtype, heads=4, kv_heads=kv_heads, width=8) < close


def test_a_wrong_kernel_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unmerged(WrittenOut):
        def forward(self, qkv: Any, offsets: Any, longest: Any, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
            result, lse = super().forward(qkv, offsets, longest, causal, scale)
            return result, torch.zeros_like(lse)

    monkeypatch.setattr(varlen_attention, "KERNEL", Unmerged())
    assert check_error(CPU, torch.float64, 4, 4, 8) > varlen_attention.CLOSE


def test_segments_by_hand() -> None:
    found = segments_of(torch.tensor([[0, 0, 1, 2, 2], [0, 1, 1, 2, -1]]))
    assert found.real.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert (found.said.tolist(), found.read.tolist()) == ([2, 3, 4, 6, 7, 8], [0, 1, 5])
    assert found.own.tolist() == [0, 2, 3, 5, 6, 8, 9]
    assert (found.answers.tolist(), found.prompts.tolist()) == ([0, 3, 6], [0, 2, 3])
    assert found.longest == (2, 3, 2)


def test_log_probs_of_a_model_and_their_gradients_are_those_of_the_masked_kernel(written_out: None) -> None:
    from benchmarks.random_model import random_policy
    from tests.models.test_device_waits import ragged_pairs

    policy, batch = random_policy("tiny", rank=4, layout="shared", attention="prefix_sdpa"), ragged_pairs().scoring
    with torch.no_grad():
        for name, value in policy.model.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.1)
    config, found = policy.model.get_base_model().config.get_text_config(), []
    for kernel in ("sdpa", VARLEN):
        config._attn_implementation = kernel
        assert policy.layout is shared_prefix
        total = policy.score(batch).total
        policy.model.zero_grad()
        total.sum().backward()
        found.append(
            [total.detach(), *(p.grad.clone() for _, p in policy.trainable_parameters() if p.grad is not None)]
        )
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(*found, strict=True))


def test_without_a_shared_prefix_it_is_the_librarys_sdpa() -> None:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    module = torch.nn.Module()
    module.is_causal = True  # type: ignore[assignment]
    q = torch.randn(2, 4, 5, 8)
    assert torch.equal(varlen(module, q, q, q, None)[0], sdpa_attention_forward(module, q, q, q, None)[0])


def test_where_it_does_not_run_the_reason_is_told() -> None:
    assert "GPUs" in fault_of(CPU, torch.bfloat16, 4, 4, 64)
    assert "half precision" in fault_of(torch.device("cuda:0"), torch.float32, 4, 4, 64)
    assert (
        "does not run here" in fault_of(torch.device("cuda:0"), torch.bfloat16, 4, 4, 64) or torch.cuda.is_available()
    )
