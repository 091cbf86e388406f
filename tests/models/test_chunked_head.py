"""The output head in chunks: the log-softmax written out, whatever the chunk, with its gradients."""

from __future__ import annotations

import pytest
import torch

from parallax.models.scoring.log_probs import CHUNK_BYTES, HeadLogProbs, head_log_probs, rows_per_chunk


def case(dtype: torch.dtype = torch.float64, bias: bool = True) -> tuple[torch.Tensor, torch.nn.Linear, torch.Tensor]:
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 50, bias=bias, dtype=dtype)
    return torch.randn(13, 8, dtype=dtype, requires_grad=True), head, torch.randint(0, 50, (13,))


@pytest.mark.parametrize("chunk", [1, 4, 13, 100])
@pytest.mark.parametrize("bias", [True, False])
def test_chunks_equal_the_log_softmax(chunk: int, bias: bool) -> None:
    hidden, head, targets = case(bias=bias)
    weights = torch.linspace(-2, 1, 13, dtype=torch.float64)
    inputs = [hidden, *head.parameters()]
    expected = head(hidden).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    found = head_log_probs(hidden, head, targets, chunk)
    assert torch.allclose(found, expected, rtol=0, atol=1e-13)
    wanted, made = (torch.autograd.grad((value * weights).sum(), inputs) for value in (expected, found))
    assert all(torch.allclose(a, b, rtol=0, atol=1e-13) for a, b in zip(made, wanted, strict=True))


def test_gradients_are_those_of_finite_differences() -> None:
    hidden, head, targets = case()
    for parameter in head.parameters():
        parameter.requires_grad_(True)
    assert torch.autograd.gradcheck(
        lambda h, w, b: HeadLogProbs.apply(h, w, b, targets, 5), (hidden, head.weight, head.bias), atol=1e-6
    )


def test_half_precision_is_summed_in_float32() -> None:
    hidden, head, targets = case(torch.bfloat16)
    with torch.no_grad():
        found = head_log_probs(hidden, head, targets, 4)
        assert found.dtype == torch.float32
        assert torch.allclose(found, head(hidden).float().log_softmax(-1).gather(-1, targets[:, None])[:, 0], atol=1e-5)


def test_no_more_than_a_chunk_of_float32_logits_is_there_at_once() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    hidden, head, targets = case(torch.bfloat16)
    sizes: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.shape[-1:] == (50,) and result.ndim == 2:
                sizes.append(result.shape[0])
            return result

    with Watch():
        head_log_probs(hidden, head, targets, 4).sum().backward()
    assert max(size for size in sizes if size not in (50, 8)) <= 4  # 50 and 8: the weight itself and its transpose
    assert rows_per_chunk(151_936) * 151_936 * 4 <= CHUNK_BYTES < (rows_per_chunk(151_936) + 1) * 151_936 * 4
