"""The policy: a vision-language model with its processor and adapter. It generates and it scores, nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn

from parallax.models import fused_lora, saving
from parallax.models.adapter import adapter_digest, read_adapter
from parallax.models.backbone import base_model, text_config
from parallax.models.batch import Layout, ResponseLogProbs, ScoringBatch
from parallax.models.encoding.image_features import ReadyFeatures
from parallax.models.encoding.prompt_encoder import PromptEncoder
from parallax.models.exchange import Dropouts, copied_in, evaluating, instead, trainable_parameters
from parallax.models.foreign import VLM
from parallax.models.generation import generate
from parallax.models.generation.requests import Generation, GenerationCounts, GenerationRequest
from parallax.models.ingredients import model_digest, tensors_digest
from parallax.models.lora import bare_layers
from parallax.models.memory.generation import rows_that_fit
from parallax.models.memory.room import Room
from parallax.models.scoring import log_probs
from parallax.models.scoring.log_probs import Pick, separate_sequences
from parallax.models.sharding.base import Sharding, Whole
from parallax.records import GenerationSpec, fingerprint

log = logging.getLogger(__name__)


class Policy:
    """`model` is a PeftModel with LoRA, else the plain transformers model. Made by `loading.load_policy`.

    Whoever changes weights calls `touched()`, so that the fingerprint is taken anew. An adapter that was never touched
    changes nothing: the policy then has the base model's fingerprint, whatever its rank, and decodes without it.
    """

    def __init__(
        self,
        model: VLM,
        encoder: PromptEncoder,
        *,
        name: str,
        path: str = "",
        base_digest: str | None = None,
        adapter_is_fresh: bool = False,
        layout: Layout = separate_sequences,
        features: ReadyFeatures | None = None,
        sharding: Sharding | None = None,
    ) -> None:
        self.model = model
        self.encoder = encoder
        self.name = name
        self.path = path
        self.layout = layout
        self.features = features
        self.sharding = Whole(model) if sharding is None else sharding
        self.last_generation = GenerationCounts()
        self.answers_at_once, self.rows_at_once = Room("answers"), Room("rows to be scored")
        self.num_workers: int | str = "auto"  # processes that prepare images and prompts for `generate`
        self._base_digest = base_digest
        self._adapter_is_fresh = adapter_is_fresh
        self._fingerprint: str | None = None
        self._full_was_touched = False
        self._reference_copy: VLM | None = None
        self._reference_adapter: dict[str, nn.Parameter] = {}  # frozen weights of an earlier adapter; none: the base
        self._reference_name: str | None = None
        self._dropouts = Dropouts()
        self._inside_reference = False

    # -- what it is ------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def precision(self) -> str:
        """The type of the base model's weights, e.g. "float32"."""
        return str(base_model(self.model).get_input_embeddings().weight.dtype).removeprefix("torch.")

    @property
    def scorer(self) -> str:
        """Names how log-probs are computed: layout and attention. All give the same numbers up to the order of additions."""
        return f"{self.layout.__name__}/{text_config(base_model(self.model))._attn_implementation}"  # type: ignore[attr-defined]

    @property
    def has_adapter(self) -> bool:
        return hasattr(self.model, "get_base_model")

    def fingerprint(self) -> str:
        """Names the weights that answer now: base and, once it has learned something, adapter.

        Inside `reference()` it is the reference's name.
        """
        if self._inside_reference:
            return self.reference_fingerprint()
        if self._fingerprint is None:
            if not self.has_adapter and self._full_was_touched:
                with self.sharding.readable():
                    weights = tensors_digest(self.model.state_dict(), self.sharding.whole)
                self._fingerprint = model_digest(weights, self.model)
            elif not self.has_adapter or self._adapter_is_fresh:
                self._fingerprint = self.base_fingerprint()
            else:
                adapter = {"adapter": adapter_digest(self.model, self.sharding), "base": self.base_fingerprint()}
                self._fingerprint = fingerprint(adapter)
        return self._fingerprint

    def reference_fingerprint(self) -> str:
        """Names the weights behind `reference()`: the base model's, or those that `take_reference` kept."""
        return self._reference_name or self.base_fingerprint()

    def base_fingerprint(self) -> str:
        """Names the weights without anything learned."""
        if self._base_digest is None:
            base = base_model(self.model) if self._reference_copy is None else self._reference_copy
            if not self.has_adapter and self._full_was_touched and self._reference_copy is None:
                raise ValueError(
                    "the reference's weights are gone; call keep_reference() before training with lora=none"
                )
            weights = tensors_digest(saving.base_state(base), self.sharding.whole)
            self._base_digest = model_digest(weights, base_model(base))
        return self._base_digest

    def touched(self) -> None:
        """Weights have changed: forget the fingerprint."""
        self._fingerprint = None
        self._adapter_is_fresh = False
        self._full_was_touched = not self.has_adapter

    def spec(self, request: GenerationRequest) -> GenerationSpec:
        """Everything that determines the answer to `request`; its key finds a stored candidate again."""
        return GenerationSpec(
            policy=self.fingerprint(),
            precision=self.precision,
            processor=self.encoder.processor_fingerprint,
            template=self.encoder.chat.fingerprint(),
            image=request.conversation.image_digest(),
            prompt=request.conversation.written(),
            view=request.view,
            decoding=request.decoding,
            generator=f"transformers/{generate.VERSION}",
            answer_start=request.answer_start,
        )

    # -- what it does ----------------------------------------------------------------------------------------------

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        batch_size: int = 128,
        progress: Callable[[int], None] | None = None,
        set_aside: Callable[[GenerationRequest, str], None] | None = None,
        finished: generate.Finished | None = None,
        num_workers: int | str | None = None,
        heard: Callable[[list[list[int]]], None] | None = None,
    ) -> list[Generation | None]:
        """Answers in the order of the requests. Counts of the call are kept in `last_generation`.

        `progress` is called with the number of requests that were just finished, `finished` with their answers by place. A
        request whose image cannot be read or whose prompt is too long raises; with `set_aside` it is reported there
        instead and its answer is None. `num_workers` processes prepare images and prompts; None takes the policy's own
        number. It changes nothing but speed. `heard` is given the token ids so far of the answers under way, after each token.
        """
        longest = max((request.decoding.max_new_tokens for request in requests), default=1)
        with self.gathered(), self._answering():
            results, self.last_generation = generate.generate(
                self.model,
                self.encoder,
                requests,
                batch_size=self.answers_that_fit(batch_size, longest),
                num_workers=self.num_workers if num_workers is None else num_workers,
                progress=progress,
                set_aside=set_aside,
                finished=finished,
                room=self.answers_at_once,
                heard=heard,
            )
        return results

    def answers_that_fit(self, wanted: int, new_tokens: int) -> int:
        """`wanted` answers at once, or fewer: as many as a GPU holds by forecast, or as have not made memory run out."""
        fit = rows_that_fit(self, new_tokens) if self.device.type == "cuda" else wanted
        if fit < wanted:
            log.info("%d answers of up to %d tokens at a time, not %d: more would not fit", fit, new_tokens, wanted)
        return min(wanted, fit, self.answers_at_once.most)

    def score(self, batch: ScoringBatch, pick: Pick = "label") -> ResponseLogProbs:
        """Log-probs of the batch's responses (chosen first), with gradients where enabled. The batch is on our device.

        `pick` other than "label" scores, at the positions of rejected responses, tokens the network itself prefers (see
        `choosing.own_choice`).
        """

        def scored(some: ScoringBatch) -> ResponseLogProbs:
            return self.sharding.through_root(
                lambda: log_probs.score(self.model, self._with_features(some), self.layout, pick)
            )

        if torch.is_grad_enabled() or (self.is_sharded and not self.sharding.is_gathered):
            return scored(batch)
        return ResponseLogProbs.joined(list(self.rows_at_once.results(batch, len, ScoringBatch.halves, scored)))

    def choose(self, batch: ScoringBatch) -> Tensor:
        """The token this policy finds most likely at every response position, the response given. Shape: (B, 1 + K, R)."""
        return self.sharding.through_root(lambda: log_probs.choose(self.model, self._with_features(batch), self.layout))

    def _with_features(self, batch: ScoringBatch) -> ScoringBatch:
        return batch if self.features is None else self.features.fill(base_model(self.model), batch)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Inside: the same network without its adapter, or with the adapter that `take_reference` kept.

        With lora=none it is a frozen copy of the weights as loaded, or, as long as nothing has been learned, these themselves.
        """
        if self._inside_reference:
            yield
            return
        untouched = not self.has_adapter and self._reference_copy is None and not self._full_was_touched
        if not self.has_adapter and not untouched:
            self.keep_reference()
        trained = self.model
        self._inside_reference = True
        try:
            if self._reference_adapter:
                kept, gathered = self._reference_adapter, self.sharding.is_gathered
                with instead(self.model, kept) if gathered else copied_in(self.sharding, self.model, kept):
                    yield
            elif self.has_adapter:
                with self.model.disable_adapter():
                    yield
            else:
                self.model = trained if self._reference_copy is None else self._reference_copy
                yield
        finally:
            self.model, self._inside_reference = trained, False

    def keep_reference(self) -> None:
        """With lora=none: copy the weights as they are now, before training. Costs the model's memory once more."""
        if self.has_adapter or self._reference_copy is not None:
            return
        if self._full_was_touched:
            raise ValueError(
                "this policy has been trained in full (lora=none) without keeping a reference; call keep_reference() before "
                "training, or use reference.mode=cached"
            )
        self._reference_copy = deepcopy(self.model).requires_grad_(False).eval()

    def take_reference(self, adapter: Path | None = None) -> None:
        """From now on the reference is the policy as it is now, or as it is with the adapter in the folder `adapter`.

        Costs the memory of one more adapter; with lora=none, of one more model. An adapter that has learned nothing is the
        base model, which needs no copy.
        """
        if not self.has_adapter:
            self.keep_reference()
            return
        if adapter is not None:
            with self.wearing(adapter):
                self.take_reference()
            self.touched()
        elif not self._adapter_is_fresh:
            self._reference_adapter = {
                name: nn.Parameter(self.sharding.whole(value.detach()).clone(), requires_grad=False)
                for name, value in self.trainable_parameters()
            }
            self._reference_name = self.fingerprint()

    def take_adapter(self, adapter: Path) -> None:
        """Go on from the adapter in a folder, which must be of the same rank on the same layers. The reference stays."""
        read_adapter(self.model, adapter, self.sharding)
        self.touched()

    @contextmanager
    def wearing(self, adapter: Path) -> Iterator[None]:
        """Inside: the policy has the adapter in a folder, of the same rank on the same layers; outside its own again."""
        if not self.has_adapter:
            raise ValueError(f"{adapter} cannot be put on a policy without LoRA; leave lora=none out")
        learned, fresh = dict(self.trainable_parameters()), self._adapter_is_fresh
        now = {name: value.detach().clone() for name, value in learned.items()}
        self.take_adapter(adapter)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in learned.items():
                    value.copy_(now[name])
            self.touched()
            self._adapter_is_fresh = fresh

    # -- training --------------------------------------------------------------------------------------------------

    def trainable_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters that learn."""
        return trainable_parameters(self.model)

    def for_preference_training(self) -> None:
        """Training mode with every dropout off: policy and reference must see the same network."""
        self.model.train()
        self._dropouts.off(self.model)

    def for_supervised_training(self) -> None:
        """Training mode with dropout as the model and the adapter were configured."""
        self.model.train()
        self._dropouts.as_configured(self.model)

    def activation_checkpointing(self, enabled: bool) -> None:
        """Recompute activations in the backward pass: less memory, about a third more time."""
        network = base_model(self.model)
        newer = hasattr(network, "activation_checkpointing_enable")  # the name since transformers 5.23
        if enabled:
            switch_on = network.activation_checkpointing_enable if newer else network.gradient_checkpointing_enable
            switch_on({"use_reentrant": False})
            network.disable_input_require_grads()  # else a frozen vision tower would have a backward pass, for nothing
        else:
            (network.activation_checkpointing_disable if newer else network.gradient_checkpointing_disable)()

    def shard(self, make: Callable[[nn.Module], Sharding]) -> None:
        """Share the weights out over processes as `make` does it, in place. They are named before, while they are whole."""
        if not self.is_sharded:
            self._note_names()
            self.sharding = make(self.model)

    def _note_names(self) -> None:
        """Take the names of the weights while they are whole."""
        self.fingerprint()
        if self.has_adapter or not self._full_was_touched:
            self.base_fingerprint()

    @property
    def is_sharded(self) -> bool:
        """Whether other processes hold a part of the weights."""
        return self.sharding.is_sharded

    def prepare_for_deepspeed(self) -> None:
        """DeepSpeed is about to take the weights: note their names, and compute by calling layers only, which it gathers.

        Features of images are kept no longer: processes would run the sharded vision tower a different number of times.
        """
        if self.is_sharded:
            return
        self._note_names()
        self.features = None
        log_probs.keep_head_whole(self.model)
        fused_lora.unfuse(self.model)

    def release(self) -> None:
        """Have the weights leave memory with this policy, of no use from now on. Called by all processes at once."""
        self.sharding.release()

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Inside: this process may generate and score as often as it likes, whatever the others do (see `sharding`)."""
        if self.is_sharded:
            self.fingerprint()  # now: reading weights out inside would share them out again
        with self.sharding.gathered():
            yield

    # -- files -----------------------------------------------------------------------------------------------------

    def save_adapter(self, folder: Path) -> None:
        """What has been learned, for plain peft to load; with lora=none the whole model, for plain transformers.

        Called by every process, written by the first.
        """
        if self.has_adapter:
            saving.save_adapter(self.model, self.sharding, folder)
        else:
            self.save_merged(folder)

    def save_merged(self, folder: Path, *, corrupt: bool = False) -> None:
        """The whole model with the adapter merged in, and its processor: plain transformers loads the folder.

        `corrupt` needs no second copy of the weights, and leaves a policy that is of no use any more.
        """
        saving.save_merged(self.model, self.sharding, self.encoder.processor, folder, corrupt=corrupt)

    # -- inside ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Evaluation mode, the stated precision, and no arithmetic for an adapter that has learned nothing yet."""
        with evaluating(self.model), torch.autocast(self.device.type, enabled=False):
            if self.has_adapter and self._inside_reference:  # the adapter is off already
                with bare_layers(self.model):
                    yield
            elif self.has_adapter and self._adapter_is_fresh:
                with self.model.disable_adapter(), bare_layers(self.model):
                    yield
            else:
                with fused_lora.ready_adapters(self.model):
                    yield
