"""What the arguments of `_target_` nodes may be. Names of arguments come from the code itself; ranges stand here.

An argument without an entry may hold anything the code takes: an own class in one of our packages needs no entry.
"""

from __future__ import annotations

from parallax.settings.rules import (
    COMPONENT,
    COUNT,
    FLAG,
    NATURAL,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    TEXT,
    Rule,
    choice,
    integer,
    list_of,
    mapping_of,
    number,
)

ANYTHING = Rule("anything")
SIDE = integer(1, 4096)
TEN = number(0, 10)
TURN = number(-360, 360)
LABEL_NOISE = number(0, below=0.5)


def between(low: float, high: float, *, above: float | None = None) -> Rule:
    return list_of(number(None if above is not None else low, high, above=above), length=2)


CROP_AREA = between(0, 1, above=0)
VIEWS = list_of(ANYTHING)
POOL = list_of(TEXT, or_one=True)  # prompts to draw from
JITTER = {"brightness": TEN, "contrast": TEN, "saturation": TEN, "hue": number(0, 0.5)}
CONTRASTIVE = {
    "size": SIDE,
    "scale": CROP_AREA,
    "flip_p": SHARE,
    **JITTER,
    "jitter_p": SHARE,
    "grayscale_p": SHARE,
    "blur_radius": between(0, 100),
    "blur_p": SHARE,
}
WEIGHTED_VIEWS = {"views": VIEWS, "weights": list_of(NOT_NEGATIVE).or_null()}
SHAPES_SPLIT = choice(
    "base_train", "vision_train", "pairs_habit_free", "pairs_habitual", "tune_habit_free", "tune_habitual",
    "eval_habit_free", "eval_habitual",
)  # fmt: skip
SHAPES_KINDS = list_of(
    choice("describe", "stepwise", "free", "imagine", "exist", "colour", "count", "where", "relation", "number")
)
SUITE = {"name": TEXT, "max_new_tokens": COUNT, "samples": COMPONENT, "prefix": Rule("anything")}
READER = {"path": TEXT, "images": TEXT, "prompt": TEXT, "limit": COUNT.or_null()}
NAME = Rule("text", pattern=r"[A-Za-z_]\w*", pattern_words="a name of letters, digits and _")
USE = choice("auto", "always", "never")
NORM = choice("sum", "per_token", "const")
IMAGE_TERM = {
    "view": COMPONENT.or_null(),
    "other_image": FLAG,
    "side": choice("chosen", "rejected"),
    "detach_clean": FLAG,
}

COMPONENTS: dict[str, dict[str, Rule]] = {
    # views
    "augment.identity.Identity": {},
    "augment.diffusion.Diffusion": {"noise_steps": integer(0, 999)},
    "augment.geometric.RandomFlip": {"p": SHARE},
    "augment.geometric.RandomResizedCrop": {"size": SIDE, "scale": CROP_AREA, "ratio": between(0.01, 100)},
    "augment.occlusion.Crop": {"scale": CROP_AREA, "ratio": between(0.01, 100)},
    "augment.occlusion.Black": {},
    "augment.occlusion.PixelMask": {"share": SHARE},
    "augment.occlusion.BlockMask": {"share": SHARE, "block": SIDE},
    "augment.geometric.CenterCrop": {"size": SIDE},
    "augment.geometric.RandomCrop": {"size": SIDE},
    "augment.geometric.Pad": {"padding": integer(0, 4096)},
    "augment.geometric.Perspective": {"distortion_scale": SHARE, "p": SHARE},
    "augment.geometric.Rotation": {"degrees": list_of(TURN, 2)},
    "augment.geometric.Affine": {"degrees": list_of(TURN, 2), "translate": between(0, 1), "scale": between(0.01, 10)},
    "augment.auto.AutoAugment": {"policy": choice("imagenet", "cifar10", "svhn")},
    "augment.auto.RandAugment": {"num_ops": integer(1, 14), "magnitude": integer(0, 30)},
    "augment.contrastive.MocoSeva": CONTRASTIVE,
    "augment.contrastive.MocoV2": CONTRASTIVE,
    "augment.contrastive.Byol": CONTRASTIVE,
    "augment.contrastive.SimClr": CONTRASTIVE,
    "augment.low_resolution.LowResolution": {"side": SIDE},
    "augment.colour.ColorJitter": JITTER,
    "augment.colour.SticJitter": JITTER,
    "augment.colour.Grayscale": {"p": SHARE},
    "augment.colour.Invert": {"p": SHARE},
    "augment.colour.Posterize": {"p": SHARE, "bits": integer(1, 8)},
    "augment.colour.Solarize": {"p": SHARE, "threshold": number(0, 256)},
    "augment.colour.Equalize": {"p": SHARE},
    "augment.colour.Autocontrast": {"p": SHARE},
    "augment.colour.Sharpness": {"p": SHARE, "factor": TEN},
    "augment.colour.GaussianBlur": {"radius": between(0, 100)},
    "augment.combine.Mixture": WEIGHTED_VIEWS,
    "augment.combine.SticCorruption": WEIGHTED_VIEWS,
    "augment.combine.Several": {"views": VIEWS},
    "augment.combine.Chain": {"views": VIEWS},
    # data
    "datamodules.shapes.source.ShapesSource": {
        "split": SHAPES_SPLIT, "size": COUNT, "seed": NATURAL, "kinds": SHAPES_KINDS, "start": NATURAL,
    },
    "datamodules.shapes.source.pope_questions": {
        "split": SHAPES_SPLIT, "scenes": COUNT, "seed": NATURAL, "start": NATURAL,
    },
    "datamodules.formats.llava_json.LlavaJsonSource": {
        "path": list_of(TEXT, or_one=True), "image_root": TEXT, "parts": mapping_of(ANYTHING).or_null(),
        "limit": COUNT.or_null(), "seed": NATURAL, "name": TEXT, "image_prefix": ANYTHING,
    },
    "datamodules.formats.coco.CocoSource": {
        "path": TEXT, "split": TEXT, "prompts": list_of(TEXT), "names": TEXT.or_null(), "sample": COUNT.or_null(),
        "objects": USE, "captions": USE, "limit": COUNT.or_null(), "seed": NATURAL, "name": TEXT,
    },
    "datamodules.formats.columns.ColumnsSource": {
        "path": TEXT, "columns": mapping_of(TEXT.or_null()), "image_root": TEXT.or_null(), "prompts": list_of(TEXT).or_null(),
        "split": TEXT, "subset": TEXT.or_null(), "streaming": FLAG, "cache_dir": TEXT.or_null(), "limit": COUNT.or_null(),
        "seed": NATURAL, "name": TEXT, "image_prefix": ANYTHING,
    },
    "datamodules.formats.image_folder.ImageFolderSource": {
        "path": TEXT, "prompts": list_of(TEXT), "limit": COUNT.or_null(), "seed": NATURAL, "name": TEXT,
    },
    "datamodules.formats.preference_file.PreferenceFileSource": {
        "path": list_of(TEXT, or_one=True), "image_root": TEXT.or_null(), "format": TEXT,
        "columns": mapping_of(TEXT.or_null()).or_null(), "split": TEXT, "subset": TEXT.or_null(),
        "pairing": choice("all", "best_worst"), "min_margin": NOT_NEGATIVE, "aspects": list_of(TEXT).or_null(),
        "limit": COUNT.or_null(), "seed": NATURAL, "name": TEXT, "file_names_only": FLAG,
    },
    "parallax.records.images.FileImage": {"root": TEXT, "max_pixels": COUNT},
    # preference
    "parallax.preference.proposers.by_view.ByView": {
        "view": COMPONENT, "num_negatives": integer(1, 64), "max_new_tokens": COUNT, "temperature": TEN,
        "top_p": number(above=0, high=1),
    },
    "parallax.preference.proposers.given.Given": {},
    "parallax.preference.proposers.sampled.Sampled": {
        "num_samples": integer(1, 64), "max_new_tokens": COUNT, "temperature": number(None, 10, above=0),
        "top_p": number(above=0, high=1),
    },
    "parallax.preference.proposers.sentence_tree.SentenceTree": {
        "judge": COMPONENT, "num_groups": integer(2, 64), "diversity_penalty": NOT_NEGATIVE, "max_sentence_tokens": COUNT,
        "max_path_tokens": COUNT, "keep_top": integer(0, 64), "keep_bottom": integer(0, 64), "prune_from": integer(1, 1000),
        "prune_by": choice("model_score", "calibrated"), "keep_pruned": FLAG, "drop_junk": FLAG, "batch_size": COUNT,
        "cache_dir": TEXT.or_null(),
    },
    "parallax.preference.proposers.by_prompt.ByPrompt": {
        "good": POOL, "neutral": POOL, "bad": POOL, "view": COMPONENT, "bad_share": SHARE, "num_negatives": integer(1, 64),
        "max_new_tokens": COUNT, "temperature": TEN, "top_p": number(above=0, high=1),
    },
    "parallax.preference.proposers.ground_truth.GroundTruth": {
        "num_negatives": integer(1, 64), "max_new_tokens": COUNT, "temperature": TEN, "top_p": number(above=0, high=1),
    },
    "parallax.preference.proposers.edited.GroundTruthAgainstEdited": {"rewrite": COMPONENT},
    "parallax.preference.proposers.edited.TextsFromFile": {"path": TEXT},
    "parallax.preference.infusion.Infusion": {
        "prompts": POOL, "template": TEXT, "max_new_tokens": COUNT, "temperature": TEN, "top_p": number(above=0, high=1),
    },
    "parallax.preference.judges.by_construction.ByConstruction": {},
    "parallax.preference.judges.self_critic.SelfCritic": {
        "prompt": TEXT, "order": choice("both", "fixed", "random"), "metrics": USE, "demonstrations": USE,
        "ground_truth": USE, "max_new_tokens": COUNT,
    },
    "parallax.preference.judges.clip_calibrated.ClipCalibrated": {
        "image_text": COMPONENT.or_null(), "image_weight": SHARE, "combine": choice("raw_sum", "sibling_rank", "zscore"),
        "len_norm": choice("sentences", "sentences_plus_one", "none"),
    },
    "parallax.models.image_text.ImageTextModel": {
        "path": TEXT, "revision": TEXT.or_null(), "dtype": choice("auto", "float32", "bfloat16", "float16"),
        "batch_size": COUNT, "cache_dir": TEXT.or_null(),
    },
    "parallax.preference.selector.BestAgainstRest": {
        "num_negatives": integer(1, 64), "min_margin": NOT_NEGATIVE.or_null(), "drop_equal": FLAG, "drop_empty": FLAG,
        "drop_truncated": FLAG, "min_chars": COUNT.or_null(), "max_chars": COUNT.or_null(),
        "strip_newlines": choice("space", "delete"),
    },
    # objectives
    "lightning_modules.objectives.DPO": {"beta": POSITIVE, "label_smoothing": LABEL_NOISE},
    "lightning_modules.objectives.Robust": {"beta": POSITIVE, "label_smoothing": LABEL_NOISE},
    "lightning_modules.objectives.IPO": {"beta": POSITIVE},
    "lightning_modules.objectives.Hinge": {"beta": POSITIVE},
    "lightning_modules.objectives.MultiNegative": {"beta": POSITIVE},
    "lightning_modules.objectives.Stic": {
        "beta": POSITIVE, "alpha": POSITIVE, "norm": NORM, "constant": POSITIVE, "base": COMPONENT.or_null(),
    },
    "lightning_modules.objectives.NLL": {"norm": NORM, "constant": POSITIVE},
    "lightning_modules.objectives.Povid": {
        "beta": POSITIVE, "text_weight": NOT_NEGATIVE, "noise_weight": NOT_NEGATIVE,
    },
    "lightning_modules.objectives.EXO": {"beta": POSITIVE, "label_smoothing": number(above=0, below=0.5)},
    "lightning_modules.objectives.DiscoPOP": {"beta": POSITIVE, "tau": POSITIVE},
    "lightning_modules.objectives.FDivergence": {
        "beta": POSITIVE, "alpha": number(), "base": COMPONENT.or_null(),
        "divergence": choice("forward_kl", "jensen_shannon", "alpha"),
    },
    "lightning_modules.objectives.CPO": {"beta": POSITIVE, "alpha": NOT_NEGATIVE},
    "lightning_modules.objectives.SimPO": {"beta": POSITIVE, "gamma": NOT_NEGATIVE},
    "lightning_modules.objectives.ORPO": {"weight": NOT_NEGATIVE},
    **{
        f"lightning_modules.objectives.{name}": {"beta": POSITIVE}
        for name in ("LengthNormalised", "NCA", "SPPO", "APOZero", "APODown")
    },
    "lightning_modules.objectives.BCO": {
        "beta": POSITIVE, "shift": choice("running_mean", "none"), "decay": number(above=0, below=1).or_null(),
    },
    "lightning_modules.objectives.ImageTerm": {"beta": POSITIVE, **IMAGE_TERM},
    "lightning_modules.objectives.Anchor": {"beta": POSITIVE, "anchor": number()},
    "lightning_modules.objectives.MDPO": {
        "beta": POSITIVE, **IMAGE_TERM, "image_weight": NOT_NEGATIVE, "anchor_weight": NOT_NEGATIVE, "anchor": number(),
    },
    "lightning_modules.objectives.CHiP": {
        "beta": POSITIVE, "view": COMPONENT.or_null(), "other_image": FLAG, "image_weight": NOT_NEGATIVE,
        "segment_weight": POSITIVE, "combine": choice("one_sigmoid", "sum"),
    },
    "lightning_modules.objectives.SymMPO": {
        "beta": POSITIVE, "pair_weight": NOT_NEGATIVE, "anchor_weight": NOT_NEGATIVE, "agreement_weight": NOT_NEGATIVE,
    },
    "lightning_modules.objectives.LDDPO": {"beta": POSITIVE, "alpha": SHARE},
    "lightning_modules.objectives.DDPO": {
        "beta": POSITIVE, "gamma": POSITIVE, "min_match": COUNT, "both_sides": FLAG, "normalise": FLAG,
    },
    "lightning_modules.objectives.Weighted": {"terms": list_of(ANYTHING)},
    # evaluation
    "parallax.evaluation.suites.ChairSuite": {
        **SUITE, "extract": COMPONENT, "counting": choice("every_mention", "distinct_hallucinations"),
    },
    "parallax.evaluation.suites.AccuracySuite": {**SUITE, "same": COMPONENT},
    "parallax.evaluation.suites.PopeSuite": {**SUITE, "reading": choice("published", "strict")},
    "parallax.evaluation.suites.ScoredSuite": {**SUITE, "scorer": COMPONENT},
    "parallax.evaluation.suites.GroupedSuite": {**SUITE, "scorer": COMPONENT},
    "parallax.evaluation.harnesses.LmmsEval": {
        "python": TEXT, "tasks": list_of(TEXT), "model": TEXT, "model_args": ANYTHING, "batch_size": COUNT,
        "limit": COUNT.or_null(), "extra": list_of(TEXT), "name": TEXT,
    },
    "parallax.evaluation.harnesses.VlmEvalKit": {
        "python": TEXT, "folder": TEXT, "datasets": ANYTHING, "model_class": TEXT, "model_args": ANYTHING,
        "extra": list_of(TEXT), "name": TEXT,
    },
    "parallax.evaluation.coco_words.coco_words": {"path": TEXT.or_null()},
    "parallax.evaluation.files.coco.coco_descriptions": {
        "annotations": TEXT, "images": TEXT, "words": COMPONENT, "prompt": TEXT, "count": COUNT.or_null(), "seed": NATURAL,
        "image_list": TEXT.or_null(), "split": TEXT, "captions": FLAG, "limit": COUNT.or_null(),
    },
    "parallax.evaluation.files.amber.amber_suite": {
        "path": TEXT, "images": TEXT, "name": TEXT, "parts": list_of(TEXT), "limit": COUNT.or_null(), "max_new_tokens": COUNT,
        "prefix": ANYTHING,
    },
    "parallax.evaluation.files.mmbench.mmbench_questions": {
        "path": TEXT, "prompt": TEXT, "circular": FLAG, "split": TEXT.or_null(), "limit": COUNT.or_null(),
    },
    **{
        f"parallax.evaluation.files.{reader}": READER
        for reader in (
            "choices.seed_bench_questions", "short_answers.text_vqa_questions", "short_answers.vizwiz_questions",
            "short_answers.gqa_questions", "math_vista.math_vista_questions", "judged.mm_vet_questions",
            "judged.llava_bench_questions", "judged.mm_hal_questions",
        )
    },
    "parallax.evaluation.files.choices.science_qa_questions": {**READER, "split": choice("train", "val", "test")},
    "parallax.evaluation.files.short_answers.chart_qa_questions": {**READER, "halves": list_of(choice("human", "augmented"))},
    "parallax.evaluation.files.mme.mme_questions": {
        "path": TEXT, "prompt": TEXT, "subtasks": list_of(TEXT).or_null(), "limit": COUNT.or_null(),
    },
    "parallax.evaluation.files.judged.shr_descriptions": {
        "path": TEXT, "visual_genome": TEXT, "prompt": TEXT, "limit": COUNT.or_null(),
    },
    "parallax.evaluation.judged.client.JudgeClient": {
        "url": TEXT.or_null(), "model": TEXT, "api_key_env": NAME, "temperature": number(0, 2), "max_tokens": COUNT,
        "retries": integer(0, 100), "timeout": POSITIVE, "concurrency": integer(1, 1000), "backoff": NOT_NEGATIVE,
        "cache_dir": TEXT.or_null(),
    },
    "parallax.evaluation.judged.suite.JudgedSuite": {**SUITE, "judge": COMPONENT, "protocol": COMPONENT},
    **{
        f"parallax.evaluation.judged.gradings.{grading}": {"instructions": TEXT}
        for grading in ("MmVet", "LlavaBench", "MmHal", "SentenceHallucination")
    },
    "parallax.evaluation.judged.consistency.ConsistencySuite": {
        **SUITE, "judge": COMPONENT, "temperatures": list_of(number(above=0, high=10)), "about_question": TEXT,
        "about_answer": TEXT,
    },
    "parallax.evaluation.pope_files.PopeFiles": {
        "files": ANYTHING, "images": COMPONENT, "splits": list_of(choice("random", "popular", "adversarial")),
        "limit": COUNT.or_null(),
    },
    "hydra.utils.get_method": {"path": TEXT},
}  # fmt: skip

# Objectives defined for one rejected answer only.
PAIRS_ONLY = {
    f"lightning_modules.objectives.{name}"
    for name in ("DPO", "Robust", "IPO", "Hinge", "EXO", "DiscoPOP", "CHiP", "SymMPO", "DDPO")
}
NEEDS_NO_REFERENCE = {f"lightning_modules.objectives.{name}" for name in ("NLL", "CPO", "SimPO", "ORPO")}
# Objectives that look at the image under noise while training.
LOOKS_AT_NOISE = {"lightning_modules.objectives.Povid"}
# Proposers whose chosen answers are the data's own, so that a supervised stage does without them.
CHOSEN_IS_GIVEN = {
    "parallax.preference.proposers.given.Given",
    "parallax.preference.proposers.ground_truth.GroundTruth",
    "parallax.preference.proposers.edited.GroundTruthAgainstEdited",
}
