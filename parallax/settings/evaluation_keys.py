"""Keys that only some choices of the group `evaluation` have, below `evaluation`: each belongs to the file of its benchmark."""

from __future__ import annotations

from parallax.settings.rules import COUNT, FLAG, NATURAL, TEXT, Rule, choice, list_of, number

_FILES = (  # files and folders: they must exist when the evaluation starts
    "pope_path", "pope_images", "chair_annotations", "chair_images", "amber_path", "amber_images", "mmbench_path",
    "mmbench_cn_path", "seed_bench_path", "seed_bench_images", "science_qa_path", "science_qa_images", "text_vqa_path",
    "text_vqa_images", "vizwiz_path", "vizwiz_images", "gqa_path", "gqa_images", "chart_qa_path", "chart_qa_images",
    "math_vista_path", "math_vista_images", "mme_path", "mm_vet_path", "mm_vet_images", "llava_bench_path",
    "llava_bench_images", "mm_hal_path", "mm_hal_images", "shr_path", "shr_visual_genome",
)  # fmt: skip
_TEXTS = (
    "chair_prompt", "chair_split", "mmbench_prompt", "mmbench_cn_prompt", "seed_bench_prompt", "science_qa_prompt",
    "text_vqa_prompt", "vizwiz_prompt", "gqa_prompt", "chart_qa_prompt", "math_vista_prompt", "mme_prompt", "mm_vet_prompt",
    "mm_vet_instructions", "llava_bench_prompt", "llava_bench_instructions", "mm_hal_prompt", "mm_hal_instructions",
    "shr_prompt", "shr_instructions", "consistency_about_question", "consistency_about_answer",
)  # fmt: skip
MUST_EXIST = (*_FILES, "chair_synonyms", "chair_list")

BENCHMARK_KEYS: dict[str, Rule] = {
    "split": choice("eval_habit_free", "eval_habitual", "tune_habit_free", "tune_habitual"),
    "scenes": COUNT,
    "pope_scenes": COUNT,
    **dict.fromkeys((*_FILES, *_TEXTS), TEXT),
    "pope_reading": choice("published", "strict"),
    "chair_synonyms": TEXT.or_null(),
    "chair_count": COUNT.or_null(),
    "chair_seed": NATURAL,
    "chair_list": TEXT.or_null(),
    "chair_captions": FLAG,
    "chair_counting": choice("every_mention", "distinct_hallucinations"),
    "amber_parts": list_of(choice("generative", "existence", "attribute", "relation")),
    "mmbench_circular": FLAG,
    "mmbench_split": TEXT.or_null(),
    "mmbench_cn_circular": FLAG,
    "mmbench_cn_split": TEXT.or_null(),
    "science_qa_split": choice("train", "val", "test"),
    "chart_qa_halves": list_of(choice("human", "augmented")),
    "mme_subtasks": list_of(TEXT).or_null(),
    "consistency_temperatures": list_of(number(above=0, high=10)),
}
