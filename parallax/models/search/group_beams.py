"""Group beams with a diversity penalty, one sentence at a time (CSR, arXiv 2405.14622, section 3.2; Vijayakumar et al., 2018).

From one text so far, several groups of one beam each go on greedily and in lockstep; at every step a group sees the logits
minus a penalty for each earlier group that picks the same token at this step (Hamming diversity). A group stops at the end of
its sentence or of the text. Texts of many images are continued together in one batch. transformers 5 has no group beams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from parallax.models.backbone import base_model, text_config
from parallax.models.batch import EncodedPrompt
from parallax.models.foreign import VLM
from parallax.models.generation.kv_cache import STEP, Cache, has_full_attention, keep_rows
from parallax.models.generation.prefetch import pad_left
from parallax.models.policy import Policy
from parallax.models.search.prefix_cache import ReadPrompts, go_on, read_rows
from parallax.models.search.sentence_end import SentenceEnds, ending

VERSION = 1  # of this decoding; a change that may change tokens raises it, and stored trees are searched again
KEEP_SHARE = 0.75  # rows are compacted when no more than this share of them is still going


@dataclass(frozen=True)
class Start:
    """Where to go on: an encoded prompt, the tokens said so far, and how many more the next sentence may have (1 or more)."""

    prompt: EncodedPrompt
    said: tuple[int, ...]
    limit: int


@dataclass(frozen=True, slots=True)
class Sentence:
    """What one group said. `log_probs` are those of the model itself, without the diversity penalty."""

    token_ids: tuple[int, ...]  # the end token included, if it was reached
    log_probs: tuple[float, ...]
    ended: bool  # the text is over
    cut: bool  # stopped by the limit in the middle of a sentence

    @property
    def log_prob(self) -> float:
        return sum(self.log_probs)


class GroupBeams:
    """Continues texts by one sentence.

    Args:
        policy: who speaks.
        groups: how many different continuations of each text, 1 or more.
        penalty: taken from a token's logit for each earlier group that picks it at the same step, 0 or more.
        batch_size: sequences (texts × groups) decoded at once.
    """

    def __init__(self, policy: Policy, *, groups: int = 5, penalty: float = 3.0, batch_size: int = 128) -> None:
        self.policy, self.groups, self.penalty = policy, groups, penalty
        self.texts_at_once = max(1, batch_size // groups)
        vocabulary = base_model(policy.model).get_output_embeddings().weight.shape[0]
        self.ends = SentenceEnds(policy.encoder.tokenizer, int(vocabulary))
        network = base_model(policy.model)
        self.prompts = (
            ReadPrompts(network, policy.encoder.pad_token_id) if has_full_attention(text_config(network)) else None
        )

    @torch.no_grad()
    def next_sentences(self, starts: Sequence[Start]) -> list[list[Sentence]]:
        """`groups` sentences for each start, first group first, in the order of the starts.

        Prompts (by identity) that the call before asked for too are not read again; the policy must not change in between.
        """
        if self.prompts is not None:
            self.prompts.keep_only([start.prompt for start in starts])
        results: list[list[Sentence]] = [[] for _ in starts]
        order = sorted(range(len(starts)), key=lambda i: (len(starts[i].prompt.input_ids) + len(starts[i].said), i))
        with self.policy._answering():
            for begin in range(0, len(order), self.texts_at_once):
                chosen = order[begin : begin + self.texts_at_once]
                batch = _Lockstep(self, base_model(self.policy.model), [starts[i] for i in chosen]).run()
                for index, made in zip(chosen, batch, strict=True):
                    results[index] = made
        return results


class _Lockstep:
    """One batch: N texts times G groups. Row r belongs to text `text[r]` and group `group[r]`."""

    def __init__(self, beams: GroupBeams, model: VLM, starts: Sequence[Start]) -> None:
        self.beams, self.model, self.starts = beams, model, starts
        self.encoder = beams.policy.encoder
        self.device = next(model.parameters()).device
        self.dtype = model.get_input_embeddings().weight.dtype
        self.may_end, self.starts_with_digit = beams.ends.to(self.device)
        self.end_ids = torch.tensor(self.encoder.end_token_ids, device=self.device)
        vocabulary = model.get_output_embeddings().weight.shape[0]
        never = [token for token in sorted(self.encoder.never_said) if token < vocabulary]
        self.never_said = torch.tensor(never, dtype=torch.long, device=self.device)
        count = len(starts) * beams.groups
        self.tokens: list[list[int]] = [[] for _ in range(count)]
        self.log_probs: list[list[float]] = [[] for _ in range(count)]
        self.ended, self.cut = [False] * count, [False] * count

    def run(self) -> list[list[Sentence]]:
        groups = self.beams.groups
        logits, cache, mask, following = self._after_prompts() if self.beams.prompts is not None else self._prefill()
        rows = torch.arange(len(self.tokens), device=self.device)  # original numbers of the rows still in the batch
        spread = rows // groups
        logits, following, mask = logits[spread], following[spread], mask[spread]
        keep_rows(cache, spread, 0, STEP)
        going = torch.ones(len(rows), dtype=torch.bool, device=self.device)
        pending = torch.zeros_like(going)  # at a point after a digit
        while True:
            if bool(pending.any()):
                over = pending & ~self.starts_with_digit[logits.argmax(dim=-1)]
                going, pending = going & ~over, pending & ~over
            picked, values = self._pick(logits, rows, going)
            going, pending = self._note(rows, picked, values, going, pending)
            alive = int(going.sum())
            if alive == 0:
                break
            if alive <= KEEP_SHARE * len(rows):
                chosen = going.nonzero()[:, 0]
                dropped = keep_rows(cache, chosen, int(mask[chosen].int().argmax(dim=1).min()), STEP)
                rows, picked, following, mask = rows[chosen], picked[chosen], following[chosen], mask[chosen, dropped:]
                going, pending = going[chosen], pending[chosen]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            logits = self._step(picked, mask, following, cache)
            following = following + 1
        made = [
            Sentence(tuple(ids), tuple(values), ended, cut)
            for ids, values, ended, cut in zip(self.tokens, self.log_probs, self.ended, self.cut, strict=True)
        ]
        return [made[start : start + groups] for start in range(0, len(made), groups)]

    def _pick(self, logits: Tensor, rows: Tensor, going: Tensor) -> tuple[Tensor, Tensor]:
        """Next tokens, group after group, and their log-probs without penalty. Shapes: (R, V), (R,), (R,) -> (R,), (R,)."""
        groups = self.beams.groups
        logits = logits.float()
        text, group = rows // groups, rows % groups
        sayable = logits.index_fill(-1, self.never_said, float("-inf"))
        picked = sayable.argmax(dim=-1)
        said = torch.full((len(self.starts), groups), -1, dtype=torch.long, device=self.device)
        for number in range(groups):
            own = (group == number) & going
            if number and self.beams.penalty > 0:
                earlier = said[text[own], :number]
                taken = -self.beams.penalty * (earlier >= 0).to(logits.dtype)
                picked[own] = sayable[own].scatter_add(1, earlier.clamp(min=0), taken).argmax(dim=-1)
            said[text[own], number] = picked[own]
        return picked, logits.gather(1, picked[:, None])[:, 0] - logits.logsumexp(dim=-1)

    def _note(
        self, rows: Tensor, picked: Tensor, values: Tensor, going: Tensor, pending: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Write down what was picked; returns which rows go on and which of them stand at a point after a digit."""
        still, open_number = going.clone(), torch.zeros_like(pending)
        ends, may_end = torch.isin(picked, self.end_ids), self.may_end[picked]
        told = torch.stack([rows, picked, ends.long(), may_end.long(), going.long()]).tolist()  # one sync
        for place, (row, token, end, mark, goes, value) in enumerate(zip(*told, values.tolist(), strict=True)):
            if not goes:
                continue
            self.tokens[row].append(token)
            self.log_probs[row].append(value)
            state = ending(self.encoder.decode(self.tokens[row])) if mark and not end else "open"
            full = len(self.tokens[row]) >= self.starts[row // self.beams.groups].limit
            self.ended[row], self.cut[row] = bool(end), full and not end and state == "open"
            if end or full or state == "end":
                still[place] = False
            elif state == "number":
                open_number[place] = True
        return still, open_number

    def _after_prompts(self) -> tuple[Tensor, Any, Tensor, Tensor]:
        """Read what was said so far behind prompts that have been read: logits, cache, real columns, next positions."""
        assert self.beams.prompts is not None
        reads = self.beams.prompts.get([start.prompt for start in self.starts])
        said = [torch.tensor(start.said, dtype=torch.long) for start in self.starts]
        width = max(map(len, said))
        cache, mask = self.beams.prompts.as_cache(reads, width)
        logits = torch.stack([read.logits for read in reads])
        following = torch.stack([read.following for read in reads])
        self.axes = reads[0].axes
        if not width:
            return logits, cache, mask, following
        lengths = torch.tensor([len(row) for row in said], device=self.device)
        ids = pad_left(said, self.encoder.pad_token_id, width).to(self.device)
        real = torch.arange(width, device=self.device) >= width - lengths[:, None]
        mask = torch.cat([mask, real], dim=1)
        position_ids = following[:, None] + (real.long().cumsum(dim=1) - 1).clamp(min=0)
        read = go_on(self.model, ids, mask, position_ids.expand(*self.axes, -1, -1), cache)
        logits = torch.where(lengths[:, None] > 0, read, logits)
        return logits, cache, mask, following + lengths

    def _prefill(self) -> tuple[Tensor, Any, Tensor, Tensor]:
        """Read prompts and what was said together, where a cache cannot be put together from parts."""
        lengths = [len(start.prompt.input_ids) + len(start.said) for start in self.starts]
        width = max(lengths)
        ids = torch.full((len(self.starts), width), self.encoder.pad_token_id, dtype=torch.long)
        mask = torch.zeros(len(self.starts), width, dtype=torch.bool)
        names = {name for start in self.starts for name in start.prompt.token_inputs}
        token_inputs = {
            name: self.starts[0].prompt.token_inputs[name].new_zeros(len(self.starts), width) for name in names
        }
        for row, (start, length) in enumerate(zip(self.starts, lengths, strict=True)):
            first = width - length
            middle = first + len(start.prompt.input_ids)
            ids[row, first:middle] = start.prompt.input_ids
            ids[row, middle:] = torch.tensor(start.said, dtype=torch.long)
            mask[row, first:] = True
            for name in names:
                token_inputs[name][row, first:middle] = start.prompt.token_inputs[name]
        ids, mask = ids.to(self.device), mask.to(self.device)
        token_inputs = {name: value.to(self.device) for name, value in token_inputs.items()}
        distinct = list({id(start.prompt): start.prompt for start in self.starts}.values())
        place = {id(prompt): number for number, prompt in enumerate(distinct)}
        images = [{name: value.to(self.device) for name, value in prompt.vision.items()} for prompt in distinct]
        image_of = [place[id(start.prompt)] for start in self.starts]
        logits, cache, following, self.axes = read_rows(
            self.model, ids, mask, images, image_of, token_inputs, self.dtype
        )
        return logits, cache, mask, following

    def _step(self, picked: Tensor, mask: Tensor, following: Tensor, cache: Cache) -> Tensor:
        position_ids = following[:, None].expand(*self.axes, -1, -1)
        return go_on(self.model, picked[:, None], mask, position_ids, cache)
