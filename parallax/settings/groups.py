"""Every key that is no argument of a part: what it may hold, said once, by its type. The code receives these objects.

Values, meanings and units stand beside the keys in conf/*.yaml. A field with a default here is a key that some choices of its
group do without; all others are given by conf/, whatever is chosen. `Node` is a mapping with a `_target_`, still to be built.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Interval

from parallax.settings.annotated_rules import Group
from parallax.settings.ranges import (
    AnyText,
    Count,
    FileName,
    ModelPath,
    Natural,
    Negatives,
    NotNegative,
    Of,
    Pattern,
    Positive,
    PositiveShare,
    Share,
    Temperature,
    Texts,
)

Node = dict[str, Any]
LACKING: Any = None  # of a key that only some choices of the group have
Source = Annotated[Node, Of("datamodules.source.Source")]
Asker = Annotated[Node, Of("parallax.preference.asker.Asker")]
View = Annotated[Node, Of("augment.view.View")]
Objective = Annotated[Node, Of("lightning_modules.objectives.base.Objective")]
Judge = Annotated[Node, Of("parallax.preference.judge.Judge")]
Proposer = Annotated[Node, Of("parallax.preference.proposer.Proposer")]
Selector = Annotated[Node, Of("parallax.preference.selector.Selector")]
Dtype = Literal["float32", "bfloat16", "float16"]
Rank = Annotated[int, Interval(ge=1, le=65536)]
Rate = Annotated[float, Interval(gt=0, le=1)]
Schedule = Literal["cosine", "linear", "constant"]
Decay = Annotated[float, Interval(ge=0, lt=1)]


@dataclass(frozen=True)
class Task(Group):
    """The task to run. Keys that only one task has are the fields of the class `Keys(Task)` in its module."""

    name: FileName
    # What the program must know of a task before it begins:
    reads: ClassVar[
        tuple[str, ...]
    ] = ()  # whose values and files must be there: data, model, evaluation, pairs (all they need)
    tells_what_is_missing: ClassVar[bool] = (
        False  # files of `data` need not be there: to find out is what the task is for
    )
    is_run: ClassVar[bool] = False  # its folder is a run, or holds runs: it goes below outputs/, not made/
    resumes: ClassVar[bool] = False  # an unfinished run is gone on with; several processes share the work


@dataclass(frozen=True)
class Method(Group):
    """A list of stages, and how often they run."""

    name: FileName
    stages: Sequence[FileName]
    rounds: Annotated[int, Interval(ge=1, le=100)]


@dataclass(frozen=True)
class Recipe(Group):
    """What suits a model for a first run; other groups take their values from here."""

    lr: Rate = LACKING
    beta: Positive = LACKING
    lora_r: Rank = LACKING
    batch_size: Count = LACKING
    micro_batch_size: Count = LACKING
    epochs: Count = LACKING
    max_new_tokens: Count = LACKING
    critic: str = LACKING
    critic_tokens: Count = LACKING
    claims: str = LACKING
    image_text: str = LACKING


@dataclass(frozen=True)
class Model(Group):
    """The vision-language model and how its weights are held."""

    name: FileName
    path: ModelPath
    family: FileName | None
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    attention: Literal["auto", "sdpa", "eager", "flex_attention", "flash_attention_2"]
    layout: Literal["separate", "shared", "auto"]
    quantization: Literal["none", "nf4", "int8"]
    revision: str | None
    max_pixels: Count | None
    min_pixels: Count | None
    image_pad: bool
    feature_cache: Literal["auto", "none", "memory", "disk"]
    feature_cache_mib: Count
    train_projector: bool
    context: Count | None
    recipe: Recipe

    @property
    def commit(self) -> str:
        """The revision to read a checkpoint at."""
        return self.revision or "main"


@dataclass(frozen=True)
class Pairs(Group):
    """Preference pairs: how many, which are dropped, when they are built again."""

    num_negatives: Negatives
    refresh: Literal["never", "epoch"] | Annotated[str, Pattern(r"[1-9]\d*_steps", "<n>_steps")]
    drop_equal: bool
    strip_newlines: Literal["space", "delete"]
    drop_empty: bool
    drop_truncated: bool
    min_chars: Count | None
    max_chars: Count | None
    min_margin: NotNegative | None
    max_per_source: Count | dict[str, Count] | None
    max_pairs: Count | None
    length_balance: bool
    repeat: Annotated[int, Interval(ge=1, le=100)]
    control: Literal["none", "swapped", "random_rejected"]
    rejected_scorer: Literal["label", "argmax", "argmax_not_label"]
    max_skipped_share: Share
    cache_dir: str


@dataclass(frozen=True)
class Generation(Group):
    """What generates, and how answers are drawn."""

    backend: Literal["transformers", "server"]
    batch_size: Count
    num_workers: Annotated[int, Interval(ge=0, le=1024)] | Literal["auto"]
    max_new_tokens: Count
    temperature: Temperature
    top_p: PositiveShare
    url: Annotated[str, Pattern(r"https?://\S+", "an address that begins with http:// or https://")] = LACKING
    model: str = LACKING  # these of backend=server only
    concurrency: Annotated[int, Interval(ge=1, le=4096)] = LACKING
    timeout: Positive = LACKING
    retries: Natural = LACKING
    key_variable: str = LACKING
    adapter: str = LACKING


@dataclass(frozen=True)
class Prompts(Group):
    """Pools of prompts, of any name; null or an empty text for one that is not asked."""

    others: ClassVar[Any] = AnyText | Sequence[str] | None
    demonstrations: Sequence[dict[str, str]] = ()


@dataclass(frozen=True)
class Reference(Group):
    """What the policy is compared with while training."""

    mode: Literal["cached", "live"]
    source: Literal["initial", "previous_round", "previous_stage"]


@dataclass(frozen=True)
class Lora(Group):
    """Low-rank adapters; with `enabled` false there are none, and no other key."""

    enabled: bool
    r: Rank = LACKING
    alpha: Positive | None = None
    dropout: Decay = LACKING
    targets: Texts = LACKING
    rslora: bool = LACKING
    vision: bool = LACKING
    dora: bool = LACKING


@dataclass(frozen=True)
class Optim(Group):
    """The optimiser and its schedule."""

    name: Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"]
    lr: Rate
    betas: tuple[Decay, Decay]
    eps: Positive
    weight_decay: NotNegative
    scheduler: Schedule
    warmup_ratio: Share
    warmup_steps: Natural | None


@dataclass(frozen=True)
class Checkpoints(Group):
    """What is kept of a fit while it goes on."""

    every_n_steps: Count | None
    keep: Count
    sharded: bool


@dataclass(frozen=True)
class Fsdp(Group):
    """Read by strategy=fsdp."""

    sharding: Literal["full", "gradients"]
    cpu_offload: bool
    gather_dtype: Dtype | None
    reduce_dtype: Dtype | None


@dataclass(frozen=True)
class DeepSpeed(Group):
    """Read by strategy=deepspeed."""

    stage: Annotated[int, Interval(ge=2, le=3)]
    offload_optimizer: bool
    offload_parameters: bool
    config: dict[str, Any] | None


@dataclass(frozen=True)
class Trainer(Group):
    """Devices, strategy, batches and limits of a fit."""

    accelerator: Literal["auto", "cpu", "gpu"]
    devices: Count | Literal["auto"]
    num_nodes: Count
    strategy: Literal["auto", "ddp", "fsdp", "fsdp2", "deepspeed"]
    precision: Literal["auto", "32-true", "bf16-true", "bf16-mixed", "16-true", "16-mixed", "64-true"]
    max_epochs: Count
    max_steps: Annotated[int, Ge(-1)]
    gradient_clip_val: Positive | None
    batch_size: Count
    find_batch_size: bool
    micro_batch_size: Count
    micro_batch_tokens: Count | Literal["auto"] | None
    group_by_length: bool
    num_workers: Annotated[int, Interval(ge=0, le=1024)] | Literal["auto"]
    activation_checkpointing: bool | Literal["auto"]
    log_every_n_steps: Count
    print_every_n_steps: Count | None
    deterministic: bool
    max_bad_steps: Natural
    max_time: Annotated[str, Pattern(r"\d\d:\d\d:\d\d:\d\d", "a time as DD:HH:MM:SS")] | None
    detect_anomaly: bool
    checkpoint: Checkpoints
    fsdp: Fsdp
    deepspeed: DeepSpeed


@dataclass(frozen=True)
class Evaluation(Group):
    """What is measured, when, and how. A benchmark's own keys are held to the arguments that refer to them."""

    when: Sequence[Literal["before", "after_round", "after"]]
    every_n_steps: Count | None
    limit: Count | None
    max_new_tokens: Count
    batch_size: Count
    bootstrap: Annotated[int, Interval(ge=0, le=100_000)]
    view: View | None
    describe_and_respond: bool
    describe_prompt: str
    describe_template: str
    describe_max_new_tokens: Count
    suites: dict[str, Annotated[Node, Of("parallax.evaluation.suites.Suite")]]
    harnesses: dict[str, Annotated[Node, Of("parallax.evaluation.harnesses.Harness")]]
    best_of: Count
    best_of_temperature: Annotated[float, Interval(gt=0, le=10)]
    best_by: Judge
    watch_limit: Count | None
    monitor: str | None
    patience: Count | None
    judge: Annotated[Node, Of("parallax.evaluation.judged.client.JudgeClient")]


@dataclass(frozen=True)
class Wandb(Group):
    """Weights & Biases."""

    project: str
    entity: str | None
    group: str | None
    name: str | None
    mode: Literal["auto", "online", "offline", "disabled"]
    log_pairs: Annotated[int, Interval(ge=0, le=1000)]
    log_examples: Annotated[int, Interval(ge=0, le=1000)]
    thumbnail: Annotated[int, Interval(ge=32, le=1024)]
    artifacts: bool
    log_model: bool
    finish_timeout: Count


@dataclass(frozen=True)
class TensorBoard(Group):
    """TensorBoard."""

    folder: FileName


@dataclass(frozen=True)
class MLflow(Group):
    """MLflow."""

    experiment: str
    uri: str | None


@dataclass(frozen=True)
class Logger(Group):
    """What else writes metrics down; each is there only when it is chosen."""

    csv: bool = True
    wandb: Wandb | None = None
    tensorboard: TensorBoard | None = None
    mlflow: MLflow | None = None


@dataclass(frozen=True)
class Debug(Group):
    """Smaller runs."""

    limit_samples: Count | None
    limit_evaluation: Count | None
    overfit_pairs: Count | None
    max_steps: Count | None
    epochs: Count | None
    profiler: Literal["simple", "advanced", "pytorch"] | None


@dataclass(frozen=True)
class Paths(Group):
    """Where things lie."""

    root: str
    output_dir: str | None
    cache_dir: str
    data_dir: str


@dataclass(frozen=True)
class Study(Group):
    """Several recipes over several seeds."""

    name: FileName = LACKING
    title: str = LACKING
    command: str = LACKING
    folder: str = LACKING
    metric: str = LACKING
    seeds: Sequence[Natural] = ()
    document: str | None = None
    arms: dict[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Export(Group):
    """What is written beside the adapter."""

    merged: bool
    push_to_hub: Annotated[str, Pattern(r"[\w.\-]+/[\w.\-]+", "owner/name")] | None


@dataclass(frozen=True)
class StageKeys(Group):
    """What a method says of one stage, beside the groups that the stage changes for itself."""

    fit: Literal["preference", "supervised"] = LACKING
    proposer: Proposer | None = None
    infusion: Annotated[Node, Of("parallax.preference.infusion.Infusion")] | None = None
    keep: Annotated[Node, Of("parallax.preference.filters.Keep")] | None = None
    start: Literal["previous", "base"] = "previous"
    noise: View | None = None
    share: PositiveShare | None = None


@dataclass(frozen=True)
class Stage(Group):
    """One stage as it runs: what the method says of it, and the groups as this stage uses them."""

    name: str
    fit: Literal["preference", "supervised"]
    seed: int
    data: Source
    asker: Asker
    aug: View
    pairs: Pairs
    selector: Selector
    generation: Generation
    judge: Judge
    prompts: dict[str, Any]
    loss: Objective
    reference: Reference
    lora: Lora
    optim: Optim
    trainer: Trainer
    debug: Debug
    proposer: Proposer | None = None
    infusion: Node | None = None
    keep: Node | None = None
    start: Literal["previous", "base"] = "previous"
    noise: View | None = None
    share: PositiveShare | None = None


@dataclass(frozen=True)
class Settings(Group):
    """The whole configuration, interpolations resolved. `stages` is what the method says; a run gets `stages.resolve_stages`."""

    seed: Annotated[int, Interval(ge=0, le=2**32 - 1)]
    tags: Sequence[str]
    adapter: str | None
    runs: str | Sequence[str] | None
    run: str | None
    sweep: str | None
    sweep_jobs: Count
    resume: str
    optimized_metric: str | None
    task: Task
    method: Method
    stages: dict[str, StageKeys]
    model: Model
    data: Source
    asker: Asker
    aug: View
    pairs: Pairs
    selector: Selector
    generation: Generation
    judge: Judge
    prompts: Prompts
    loss: Objective
    reference: Reference
    lora: Lora
    optim: Optim
    trainer: Trainer
    evaluation: Evaluation
    logger: Logger
    debug: Debug
    paths: Paths
    study: Study
    export: Export
