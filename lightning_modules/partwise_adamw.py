"""bitsandbytes' AdamW for weights of which a process may hold a part only.

Its kernels work number by number and know plain tensors. So they are given this process's part of each weight and gradient, while
schedules, clipping and checkpoints see the weights themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_modules.blockwise import HIDDEN, to_eight_bits, to_float32
from parallax.models import processes
from parallax.models.sharding import fsdp2
from parallax.models.sharding.fsdp1 import Shard

MOMENTS = {"exp_avg": 1, "exp_avg_sq": 2}  # torch's names, and bitsandbytes' numbers
FEWEST = 4096  # numbers of a whole weight from which its moments are kept in eight bits


class PartwiseAdamW(Optimizer):
    """One of bitsandbytes' AdamWs over parameters that are whole, or divided by torch's FSDP of either kind.

    Whether a weight's moments are kept in eight bits is decided by the size of the whole weight, so it does not depend on
    the number of processes. Blocks of 256 numbers begin where a process's part begins.

    Args:
        groups: parameter groups, as every optimiser takes them.
        kind: bitsandbytes' class, such as `AdamW8bit`.
        settings: lr, betas, eps and weight_decay of `kind`.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], kind: Callable[..., Any], **settings: Any) -> None:
        given = list(groups)
        parts = [{**group, "params": [nn.Parameter(_part(p.detach())) for p in group["params"]]} for group in given]
        self.inner = kind(parts, **settings)
        super().__init__(given, self.inner.defaults)
        self._share_state()

    def _share_state(self) -> None:
        """Lightning moves an optimiser's state between devices by `state`; paged memory moves by itself, and would be lost."""
        if not self.inner.is_paged:
            self.state = self.inner.state

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step on this process's parts; parameters without a gradient stay as they are."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        for group, inside in zip(self.param_groups, self.inner.param_groups, strict=True):
            inside.update({key: value for key, value in group.items() if key != "params"})
        for number, (parameter, part) in enumerate(self._pairs()):
            part.data = _part(parameter.detach())
            if parameter.grad is None or not part.numel():
                continue
            part.grad = _part(parameter.grad).contiguous()
            if part not in self.inner.state:
                self._begin(number)
        self.inner.step()
        for _, part in self._pairs():
            part.grad = None
        return result

    def state_dict(self) -> dict[str, Any]:
        """Of whole parameters, in bitsandbytes' form. `sharded_state` is for sharded ones."""
        return {"state": self.inner.state_dict()["state"], "param_groups": self._numbered_groups()}

    def sharded_state(self) -> dict[str, Any]:
        """Of sharded parameters, in the form of torch's AdamW: each moment is a `Shard` in float32, on the CPU.

        Called by all processes at once: one that holds nothing of a parameter learns its step from the others.
        """
        pairs = list(self._pairs())
        mine = {i: self.inner.state[part]["step"] for i, (_, part) in enumerate(pairs) if part in self.inner.state}
        steps: dict[int, int] = {}
        for theirs in processes.all_gather(mine):
            steps |= theirs
        state: dict[int, dict[str, Any]] = {}
        for i, step in sorted(steps.items()):
            parameter, part = pairs[i]
            place = fsdp2.offset_of(parameter)
            if place is None:
                raise RuntimeError(
                    f"parameter {i} of shape {tuple(parameter.shape)} is whole, and its state is asked in parts"
                )
            own = self.inner.state.get(part)
            state[i] = {"step": torch.tensor(float(step))} | {
                name: Shard(to_float32(own, which).reshape(-1) if own else torch.zeros(0), place)
                for name, which in MOMENTS.items()
            }
        return {"state": state, "param_groups": self._numbered_groups()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take whole moments, in bitsandbytes' form or in that of torch's AdamW; each process keeps its part.

        Raises:
            ValueError: the groups are of other sizes, or a moment's shape is not its parameter's.
        """
        super().load_state_dict({"state": {}, "param_groups": state_dict["param_groups"]})
        self.inner.state.clear()
        self._share_state()
        for number, saved in state_dict["state"].items():
            self._restore(int(number), {**saved, **saved.get(HIDDEN, {})})

    def _restore(self, number: int, saved: Mapping[str, Any]) -> None:
        parameter, part = list(self._pairs())[number]
        part.data = _part(parameter.detach())
        if not part.numel():
            return
        place, shape = fsdp2.offset_of(parameter), fsdp2.shape_of(parameter)
        self._begin(number)
        state = self.inner.state[part]
        state["step"] = int(saved["step"])
        for name, which in MOMENTS.items():
            whole = saved[name] if name in saved else saved[f"state{which}"]
            if tuple(whole.shape) != tuple(shape):
                raise ValueError(
                    f"the checkpoint's {name} of parameter {number} has shape {tuple(whole.shape)}, and the parameter has "
                    f"{tuple(shape)}. Use the model and lora settings the checkpoint was made with"
                )
            kept, scales = state[f"state{which}"], f"absmax{which}"
            if place is None and name not in saved and whole.dtype == kept.dtype:  # the same blocks
                kept.copy_(whole)
                if scales in state:
                    state[scales].copy_(saved[scales])
                continue
            values = whole if name in saved else to_float32(saved, which)
            start = 0 if place is None else place.start
            values = values.reshape(-1)[start : start + part.numel()].float().cpu()
            if scales in state:
                values, fitting = to_eight_bits(values, state[f"qmap{which}"].cpu())
                state[scales].copy_(fitting)
            kept.copy_(values.view(kept.shape))

    def _begin(self, number: int) -> None:
        """Moments of zero for a parameter's part, in the bits that its whole size asks for."""
        places = [(g, i) for g, group in enumerate(self.param_groups) for i in range(len(group["params"]))]
        g, i = places[number]
        inside = self.inner.param_groups[g]
        part, whole = inside["params"][i], prod(fsdp2.shape_of(self.param_groups[g]["params"][i]))
        self.inner.args.min_8bit_size = 0 if whole >= FEWEST else part.numel() + 1
        self.inner.init_state(inside, part, g, i)
        if part.is_cuda:
            torch.cuda.synchronize()  # paged memory is filled by a kernel and may be written from here next

    def _pairs(self) -> Iterator[tuple[Any, nn.Parameter]]:
        """Each parameter and this process's part of it, in the order in which a checkpoint counts them."""
        for group, inside in zip(self.param_groups, self.inner.param_groups, strict=True):
            yield from zip(group["params"], inside["params"], strict=True)

    def _numbered_groups(self) -> list[dict[str, Any]]:
        groups, start = [], 0
        for group in self.param_groups:
            count = len(group["params"])
            groups.append({**group, "params": list(range(start, start + count))})
            start += count
        return groups


def _part(value: Any) -> Tensor:
    """What this process holds of a weight or gradient; the same memory."""
    local: Tensor = value.to_local() if hasattr(value, "to_local") else value
    return local
