"""Every reader on small files in the benchmark's official format, through the configuration; wrong files are named in words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from parallax.evaluation import Evaluation, EvaluationItem
from parallax.settings.check import find_problems
from parallax.tasks.parts import build_suites

OFFICIAL = Path(__file__).with_name("official")
FILES = {  # choice → its keys, below tests/evaluation/official
    "pope": {"pope_path": "pope", "pope_images": "coco/val2014"},
    "chair": {"chair_annotations": "coco/annotations", "chair_images": "coco/val2014"},
    "amber": {"amber_path": "amber/data", "amber_images": "amber/image"},
    "mmbench": {"mmbench_path": "mmbench/mmbench_dev_20230712.tsv"},
    "mmbench_cn": {"mmbench_cn_path": "mmbench/mmbench_dev_cn_20231003.tsv"},
    "seed_bench": {"seed_bench_path": "seed_bench/SEED-Bench.json", "seed_bench_images": "seed_bench/SEED-Bench-image"},
    "science_qa": {"science_qa_path": "science_qa/problems.json", "science_qa_images": "science_qa"},
    "text_vqa": {"text_vqa_path": "text_vqa/TextVQA_0.5.1_val.json", "text_vqa_images": "text_vqa/train_images"},
    "vizwiz": {"vizwiz_path": "vizwiz/val.json", "vizwiz_images": "vizwiz/val"},
    "gqa": {"gqa_path": "gqa/testdev_balanced_questions.json", "gqa_images": "gqa/images"},
    "chart_qa": {"chart_qa_path": "chart_qa", "chart_qa_images": "chart_qa/png"},
    "math_vista": {"math_vista_path": "math_vista/testmini.json", "math_vista_images": "math_vista"},
    "mme": {"mme_path": "mme"},
    "mm_vet": {"mm_vet_path": "mm_vet/mm-vet.json", "mm_vet_images": "mm_vet/images"},
    "llava_bench": {"llava_bench_path": "llava_bench", "llava_bench_images": "llava_bench/images"},
    "mm_hal": {"mm_hal_path": "mm_hal/response_template.json", "mm_hal_images": "mm_hal/images"},
    "shr": {"shr_path": "shr", "shr_visual_genome": "shr/vg"},
}
JUDGE = ("evaluation.judge.url=http://127.0.0.1:1/v1", "evaluation.judge.cache_dir=null")
QUESTIONS = {
    "pope": 24, "chair": 4, "amber": 6, "mmbench": 5, "mmbench_cn": 3, "seed_bench": 2, "science_qa": 1, "text_vqa": 1,
    "vizwiz": 1, "gqa": 2, "chart_qa": 3, "math_vista": 3, "mme": 6, "mm_vet": 2, "llava_bench": 2, "mm_hal": 1, "shr": 1,
}  # fmt: skip


def words(choice: str, root: Path = OFFICIAL) -> list[str]:
    return [f"evaluation={choice}", *(f"evaluation.{key}={root / path}" for key, path in FILES[choice].items()), *JUDGE]


def suite_of(choice: str, compose_config: Callable[..., Any], *more: str, root: Path = OFFICIAL) -> Any:
    cfg = compose_config("task=evaluate", *words(choice, root), *more)
    assert find_problems(cfg) == {}
    return build_suites(OmegaConf.to_container(cfg, resolve=True)["evaluation"])[0]  # type: ignore[index, call-overload]


def metrics(suite: Any, answers: list[str]) -> dict[str, float | None]:
    pairs = list(zip(suite.samples, answers, strict=True))
    items = [
        EvaluationItem(suite.name, s.id, s.image.describe(), s.kind, s.question, "", a, True, scores)
        for (s, a), scores in zip(pairs, suite.score_all(pairs), strict=True)
    ]
    return {name: m.value for name, m in Evaluation.from_items(items, bootstrap_draws=0).metrics.items()}


@pytest.mark.parametrize("choice", FILES)
def test_official_files_become_questions_with_pictures(choice: str, compose_config: Callable[..., Any]) -> None:
    suite = suite_of(choice, compose_config)
    assert len(suite.samples) == QUESTIONS[choice] and len({sample.id for sample in suite.samples}) == QUESTIONS[choice]
    for sample in suite.samples:
        assert sample.question and sample.image.load().mode == "RGB" and len(sample.image.digest()) == 64
        assert "{" not in sample.question, "a place of the prompt was not filled in"


def test_several_benchmarks_go_together_and_a_missing_folder_is_named_before_anything_is_loaded(
    compose_config: Callable[..., Any], tmp_path: Path
) -> None:
    both = [word for choice in ("pope", "chair") for word in words(choice)[1:]]
    cfg = compose_config("task=evaluate", "evaluation=[pope,chair]", *both)
    assert find_problems(cfg) == {}
    suites = build_suites(OmegaConf.to_container(cfg, resolve=True)["evaluation"])  # type: ignore[index, call-overload]
    assert [suite.name for suite in suites] == ["coco_pope", "coco_chair"]
    lost = find_problems(compose_config("task=evaluate", *words("gqa"), f"evaluation.gqa_images={tmp_path / 'no'}"))
    assert "does not exist" in lost["evaluation.gqa_images"]
    alone = find_problems(compose_config("task=evaluate", *words("mm_vet"), "evaluation.judge.url=null"))
    assert "a judge grades mm_vet" in alone["evaluation.judge.url"]


def test_chair_knows_the_objects_of_annotations_and_captions(compose_config: Callable[..., Any]) -> None:
    suite = suite_of("chair", compose_config)
    found = {sample.id: set(sample.objects) for sample in suite.samples}
    assert found["chair:2"] == {"cup", "spoon", "dining table"} and found["chair:3"] == {"person"}
    assert found["chair:4"] == set()
    answers = {
        "chair:1": "A kitten and two dogs.",
        "chair:2": "Cups, mugs and a spoon.",
        "chair:3": "A lady.",
        "chair:4": "",
    }
    values = metrics(suite, [answers[sample.id] for sample in suite.samples])
    assert values["chair_i"] == pytest.approx(1 / 6)  # cat, dog | cup, cup, spoon | person: one of six is not there
    assert values["chair_s"] == pytest.approx(1 / 4) and values["recall"] == pytest.approx(4 / 5)
    plain = suite_of("chair", compose_config, "evaluation.chair_captions=false")
    assert {sample.id: set(sample.objects) for sample in plain.samples}["chair:2"] == {"cup", "spoon", "dining table"}
    fewer = suite_of("chair", compose_config, "evaluation.chair_count=2")
    assert len(fewer.samples) == 2 and {s.id for s in fewer.samples} < set(found)


def test_chair_takes_another_table_of_synonyms_and_a_list_of_images(
    compose_config: Callable[..., Any], tmp_path: Path
) -> None:
    table, names = tmp_path / "synonyms.txt", tmp_path / "images.txt"
    table.write_text("person, woman\ncat, kitten\ncup\nspoon\ndining table\nrocket\n")
    names.write_text("COCO_val2014_000000000004.jpg\n2\n")
    more = (f"evaluation.chair_synonyms={table}", f"evaluation.chair_list={names}")
    suite = suite_of("chair", compose_config, *more)
    assert [(s.id, s.objects) for s in suite.samples] == [
        ("chair:4", ("rocket",)), ("chair:2", ("cup", "spoon", "dining table")),
    ]  # fmt: skip
    names.write_text("99\n")
    with pytest.raises(Exception, match="images.txt, line 1: '99' is no image"):
        suite_of("chair", compose_config, *more)


def test_mmbench_asks_every_rotation_its_own_or_those_of_the_file(compose_config: Callable[..., Any]) -> None:
    suite = suite_of("mmbench", compose_config)
    by_id = {sample.id: sample for sample in suite.samples}
    assert [s for s in by_id if s.startswith("mmbench:1:")] == ["mmbench:1:0", "mmbench:1:1"]  # rows of the file
    turned = by_id["mmbench:0:1"]
    assert turned.attributes["options"] == {"A": "cat", "B": "horse", "C": "dog"} and turned.answer == "A"
    assert by_id["mmbench:1:1"].image.digest() == by_id["mmbench:1:0"].image.digest()
    assert "The picture was taken from above.\nWhat stands" in by_id["mmbench:1:0"].question
    answers = [str(sample.answer) for sample in suite.samples]
    assert metrics(suite, answers)["mmbench_circular"] == 1.0
    always_b = metrics(suite, ["B"] * 5)
    assert always_b["mmbench_accuracy"] == pytest.approx(1 / 2) and always_b["mmbench_circular"] == 0.0
    once = suite_of("mmbench", compose_config, "evaluation.mmbench_circular=false")
    assert len(once.samples) == 2 and "mmbench_circular" not in metrics(once, ["B", "A"])
    assert [s.id for s in suite.limited(1).samples] == ["mmbench:0:0", "mmbench:0:1", "mmbench:0:2"]


def test_the_prompt_is_the_configurations(compose_config: Callable[..., Any]) -> None:
    suite = suite_of("gqa", compose_config, "evaluation.gqa_prompt='Briefly: {question}'")
    assert suite.samples[0].question == "Briefly: Who is in front of the flag?"


def test_science_qa_keeps_questions_of_the_split_that_have_an_image(compose_config: Callable[..., Any]) -> None:
    (sample,) = suite_of("science_qa", compose_config).samples
    assert sample.answer == "A" and sample.question.startswith("Context: Cats have fur.\nWhich group")
    assert "A. mammals\nB. birds\nC. fish\nAnswer with" in sample.question


BROKEN = {
    "cut off": ("gqa/testdev_balanced_questions.json", lambda t: t[:200], r"balanced_questions.json, line \d+: not JSON"),
    "a field is missing": ("vizwiz/val.json", lambda t: t.replace('"answers"', '"answer_list"'), "entry 1: 'answers' is missing"),
    "a field is of another type": ("chart_qa/test_human.json", lambda t: t.replace('"40"', "[40]"), "entry 1: 'label' is list"),
    "not a list": ("mm_hal/response_template.json", lambda t: "{}", "where a list should be"),
    "an answer that is no option": ("seed_bench/SEED-Bench.json", lambda t: t.replace('"C"', '"E"'), "answer 'E' is none of"),
    "no such place": ("science_qa/problems.json", lambda t: t.replace('"answer": 0', '"answer": 3'), "problem 7: the answer 3"),
    "a row cut off": ("mmbench/mmbench_dev_20230712.tsv", lambda t: t[:500], "row 2: 10 cells where 14 should be"),
    "no answers": ("mmbench/mmbench_dev_20230712.tsv", lambda t: t.replace("horse\t\tB", "horse\t\t"), "published without"),
    "no tab": ("mme/existence/0001.txt", lambda t: t.replace("\t", " "), "0001.txt, line 1: expected a question, a tab"),
    "one question": ("mme/existence/0001.txt", lambda t: t.splitlines()[0], "has 1 questions; MME asks two"),
    "two releases": ("amber/data/annotations.json", lambda t: t.replace('"id": 6', '"id": 7'), "id 6 has no entry"),
    "a line of another kind": ("llava_bench/context.jsonl", lambda t: "[]\n", "context.jsonl, line 1: list where an object"),
    "an unknown category": ("coco/annotations/instances_val2014.json", lambda t: t.replace('"spoon"', '"ladle"'), "no line for"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_wrong_file_is_named_with_the_place_and_what_was_expected(
    what: str, compose_config: Callable[..., Any], tmp_path: Path
) -> None:
    path, damage, said = BROKEN[what]
    choice = {"coco": "chair"}.get(path.split("/")[0], path.split("/")[0])
    shutil.copytree(OFFICIAL, tmp_path / "official")
    file = tmp_path / "official" / path
    file.write_text(damage(file.read_text("utf-8")), "utf-8")
    with pytest.raises(Exception, match=said) as caught:
        suite_of(choice, compose_config, root=tmp_path / "official")
    assert isinstance(caught.value.__cause__ or caught.value, ValueError)


def test_our_pope_numbers_are_those_of_the_original_script(compose_config: Callable[..., Any]) -> None:
    """The published script's arithmetic, written out: reading, then the four counts."""
    suite = suite_of("pope", compose_config)
    spoken = [
        "Yes",
        "No",
        "Yes, there is.",
        "No, there is not",
        "There is no such thing.",
        "yes",
        "I am not sure",
        "maybe",
    ]
    answers = [spoken[(3 * place + place // 5) % len(spoken)] for place in range(24)]
    values = metrics(suite, answers)
    for split in ("random", "popular", "adversarial"):
        label_file = OFFICIAL / "pope" / f"coco_pope_{split}.json"
        labels = [json.loads(line)["label"] == "yes" for line in label_file.read_text().splitlines()]
        said = []
        for sample, answer in zip(suite.samples, answers, strict=True):
            if sample.attributes["category"] == split:
                tokens = answer.split(".")[0].replace(",", "").split(" ")
                said.append(not ("No" in tokens or "not" in tokens or "no" in tokens))
        tp = sum(s and t for s, t in zip(said, labels, strict=True))
        fp = sum(s and not t for s, t in zip(said, labels, strict=True))
        fn = sum(t and not s for s, t in zip(said, labels, strict=True))
        tn = len(labels) - tp - fp - fn
        precision, recall = tp / (tp + fp), tp / (tp + fn)
        assert values[f"pope_{split}_accuracy"] == pytest.approx((tp + tn) / len(labels))
        assert values[f"pope_{split}_precision"] == pytest.approx(precision)
        assert values[f"pope_{split}_recall"] == pytest.approx(recall)
        assert values[f"pope_{split}_f1"] == pytest.approx(2 * precision * recall / (precision + recall))
        assert values[f"pope_{split}_yes_ratio"] == pytest.approx((tp + fp) / len(labels))
    strict = metrics(suite_of("pope", compose_config, "evaluation.pope_reading=strict"), ["I cannot tell"] * 24)
    assert strict["pope_accuracy"] == 0.0 and strict["pope_yes_ratio"] == 0.0 and strict["pope_parse_failures"] == 1.0
