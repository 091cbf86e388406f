"""The memory planner's questions about a run, answered from its live parts: policy, pairs, trainer."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_modules.dpo import DPOModule
from parallax.models import processes
from parallax.models.backbone import base_model
from parallax.models.foreign import VLM
from parallax.models.fused_lora import FusedLinear
from parallax.models.memory import advice
from parallax.models.memory.advice import Lever, Options
from parallax.models.memory.device_memory import device_memory
from parallax.models.memory.generation import generation_work, quantization_of
from parallax.models.memory.model_shape import ModelShape, shape_of
from parallax.models.memory.planner import Plan, Workload, plan_generation, plan_training
from parallax.models.scoring.log_probs import has_plain_head, rows_per_chunk
from parallax.models.scoring.shared_prefix import FLEX, SDPA, can_share, shared_prefix
from parallax.models.scoring.varlen_attention import VARLEN
from parallax.settings.groups import Stage, Trainer
from parallax.tasks.trial_batches import LOOKED_AT, trial_batch

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from datamodules.preference import PreferenceDataModule
    from datamodules.supervised import SupervisedDataModule
    from lightning_modules.tuning import TuningModule
    from parallax.models.policy import Policy

log = logging.getLogger(__name__)

AUTOCAST = {"bf16-mixed": "bfloat16", "16-mixed": "float16"}
TRUE_TYPES = {"bf16-true": "bfloat16", "16-true": "float16", "64-true": "float64"}


class Forecast:
    """What one fit will need.

    Args:
        policy: as it is loaded.
        datamodule: with its pairs.
        stage: as it runs.
        trainer: Lightning's, for precision and strategy.
        module: the Lightning module.
    """

    def __init__(
        self,
        policy: Policy,
        datamodule: PreferenceDataModule | SupervisedDataModule,
        stage: Stage,
        trainer: pl.Trainer,
        module: TuningModule,
    ) -> None:
        self.policy, self.datamodule, self.stage = policy, datamodule, stage
        self.shape: ModelShape = shape_of(policy.model)
        self.options = _options(policy, stage.trainer)
        self.work = self._work(trainer, module)
        self.memory = device_memory(trainer.strategy.root_device)

    @property
    def plan(self) -> Plan:
        return plan_training(self.shape, self.work)

    @property
    def share(self) -> int:
        """Pairs of an optimiser step that one process has at most."""
        return -(-int(self.datamodule.batch_size) // self.work.processes)

    def with_pairs(self, pairs: int) -> None:
        """Another micro-batch size."""
        self.work = replace(self.work, pairs=pairs, micro_batches=-(-self.share // pairs))

    def largest(self) -> int:
        """Pairs per forward pass that fit by forecast, from 1 to the step's share."""
        have = advice.CLOSE * advice.there(self.plan, self.memory)
        fits = 1
        for pairs in range(2, self.share + 1):
            if plan_training(self.shape, replace(self.work, pairs=pairs)).peak > have:
                break
            fits = pairs
        return fits

    def recomputes(self) -> bool:
        """Whether activations are to be recomputed, since they would not fit otherwise on one of the processes."""
        have = advice.CLOSE * advice.there(self.plan, self.memory)
        if any(processes.all_gather(self.plan.peak > have)):
            self.work = replace(self.work, checkpointing=True)
            log.info("activations are recomputed: %d pairs at a time would not fit without", self.work.pairs)
        return self.work.checkpointing

    def tell(self) -> None:
        """The line at the start of a fit, and the levers where it does not fit or is close."""
        log.info(advice.start_line(self.plan, self.memory, self.work))
        for note in self.shape.notes:
            log.info("the forecast of memory is rough: %s", note)
        if warning := advice.warning(self.plan, self.memory, self._levers()):
            log.warning(warning)

    def advice(self) -> str:
        """What to say when memory has run out."""
        line = advice.start_line(self.plan, self.memory, self.work).replace("memory: ", "The plan was: ", 1)
        return f"{line}. {advice.advice(self._levers())}"

    def as_data(self) -> dict[str, Any]:
        """For fit.json."""
        have = advice.there(self.plan, self.memory)
        levers = {lever.setting: lever.saving for lever in self._levers()}
        return {**self.plan.as_data(), "there_bytes": have, "device": self.memory.name, "savings_bytes": levers}

    def _levers(self) -> list[Lever]:
        have = advice.there(self.plan, self.memory)
        return advice.training_levers(self.shape, self.work, self.options, have)

    def _work(self, trainer: pl.Trainer, module: TuningModule) -> Workload:
        policy, settings = self.policy, self.stage.trainer
        trial = trial_batch(self.datamodule, policy, min(LOOKED_AT, len(self.datamodule.pairs)))
        batch = trial.scoring
        precision, full = str(trainer.precision), not policy.has_adapter
        adapted = _adapted(policy.model)
        learned = next((p for _, p in policy.trainable_parameters()), None)
        weights = TRUE_TYPES.get(precision, policy.precision)
        trained = str(learned.dtype).removeprefix("torch.") if learned is not None else "float32"
        trained = "float32" if precision in AUTOCAST else TRUE_TYPES.get(precision, trained)
        world = int(trainer.world_size)
        work = Workload(
            prompt_tokens=int(batch.prompt_lengths.max()),
            image_tokens=_image_tokens(policy, batch.prompt_ids),
            response_tokens=int(batch.response_lengths.max()),
            responses=batch.responses_per_prompt,
            looks=sum(look.responses_per_prompt for look in trial.looks),
            layout="shared" if policy.layout is shared_prefix else "separate",
            weights=weights,
            autocast=AUTOCAST.get(precision),
            trained=trained,
            quantization=quantization_of(policy.model),
            rank=0 if full else int(policy.model.peft_config["default"].r),
            targets=None if full else adapted,
            dropout=bool(module.keep_dropout and self.stage.lora.dropout),
            optimiser=self.stage.optim.name,
            checkpointing=bool(module.activation_checkpointing),
            attention=_attention(policy.model),
            reference=module.reference_mode
            if isinstance(module, DPOModule) and module.objective.needs_reference
            else "none",
            strategy=_strategy(trainer),
            processes=world,
            fused=any(isinstance(module, FusedLinear) for module in policy.model.modules()),
            head_chunk=rows_per_chunk(self.shape.vocabulary) if has_plain_head(policy.model) else 0,
            train_projector=any(".modules_to_save" in name for name, _ in policy.trainable_parameters()),
        )
        share = -(-int(self.datamodule.batch_size) // world)
        budget = _token_budget(settings)
        pairs = budget * work.pairs // work.tokens if budget else int(self.datamodule.micro_batch_size)
        pairs = max(1, min(pairs, share))
        return replace(work, pairs=pairs, micro_batches=-(-share // pairs))


@contextmanager
def explained_generation(policy: Policy, batch_size: int, max_new_tokens: int) -> Iterator[None]:
    """Inside, answers are generated: an allocation that fails ends with the levers of generation.

    Args:
        batch_size: answers at once.
        max_new_tokens: of each, at most.
    """

    def explain() -> str:
        rows, new = min(batch_size, policy.answers_at_once.most), max_new_tokens
        work = generation_work(policy, new)
        shape = shape_of(policy.model)
        plan = plan_generation(shape, work, rows, new)
        options = _options(policy, None)
        levers = advice.generation_levers(shape, work, options, rows, new)
        memory = device_memory(policy.device)
        return (
            f"{rows} answers of up to {new} tokens at a time are expected to take {advice.size(plan.peak)}, "
            f"{advice.size(plan.parts['cache'])} of it for keys and values; "
            f"{advice.size(memory.free)} more is free on {memory.name}. {advice.advice(levers)}"
        )

    with advice.explained("generating answers", explain):
        yield


def _options(policy: Policy, trainer: Trainer | None) -> Options:
    size = getattr(getattr(policy.encoder.processor, "image_processor", None), "size", None)
    pixels = dict(size).get("longest_edge") if size is not None else None
    free = pixels if hasattr(policy.encoder.processor.image_processor, "merge_size") else None
    return Options(
        micro_batch_tokens=_token_budget(trainer) if trainer is not None else 0,
        max_pixels=int(free or 0),
        shares_prompts=can_share(base_model(policy.model)),
        eight_bit_moments=trainer is None or trainer.strategy != "deepspeed",
    )


def _token_budget(trainer: Trainer) -> int:
    """Tokens per forward pass where they are given as a number; 0 where micro_batch_size decides."""
    budget = trainer.micro_batch_tokens
    return budget if isinstance(budget, int) else 0


def _image_tokens(policy: Policy, prompt_ids: Tensor) -> int:
    config = base_model(policy.model).config
    token = getattr(config, "image_token_id", None)
    return int((prompt_ids == token).sum(1).max()) if token is not None else 0


def _adapted(model: VLM) -> tuple[str, ...]:
    names = {
        name.removesuffix(".lora_A").rsplit(".", 1)[-1] for name, _ in model.named_modules() if name.endswith(".lora_A")
    }
    return tuple(sorted(names))


def _attention(model: VLM) -> str:
    name = str(getattr(base_model(model).config.get_text_config(), "_attn_implementation", "sdpa"))
    ours = {SDPA: "prefix_sdpa", FLEX: "flex_attention", VARLEN: "flex_attention"}
    known = ("sdpa", "eager", "flash_attention_2", "flex_attention")
    return ours.get(name, name if name in known else "sdpa")


def _strategy(trainer: pl.Trainer) -> str:
    bases = {base.__name__ for base in type(trainer.strategy).__mro__}
    if bases & {"FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy"}:
        return "sharded"
    return "ddp" if trainer.world_size > 1 else "single"
