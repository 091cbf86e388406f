"""Judges that ask nobody, or somebody else: the verifier, the detector, a model outside, and the policy's own implicit reward."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import isnan
from pathlib import Path
from typing import Any, ClassVar

import pytest

from datamodules.shapes.language import mentioned_objects, same_answer
from datamodules.shapes.source import ShapesSource
from parallax.models.object_detector import ObjectDetector
from parallax.preference.filters import Keep
from parallax.preference.judge import Judgement
from parallax.preference.judges import Claims, Detector, ImplicitReward, Outside, Verifier
from parallax.preference.judges.detector import KnownObjects
from parallax.preference.proposer import Unanswerable
from parallax.records import Candidate, Decoding, GenerationSpec, Sample, Turn, ViewSpec
from tests.parts import part
from tests.typed import load_policy

SCENES = ShapesSource("pairs_habit_free", 4)
SAMPLE = SCENES[0]
SPEC = GenerationSpec("p", "float32", "x", "t", "i", "What?", ViewSpec(), Decoding(8))


def group(*texts: str) -> list[Candidate]:
    return [Candidate(f"{k:032x}", SAMPLE.id, "sample", k, (), text, True, SPEC) for k, text in enumerate(texts)]


def nobody(asks: Sequence[Any]) -> list[Candidate]:
    raise AssertionError("this judge asks nobody")


def answered(truth: str | None, kind: str = "") -> Sample:
    return replace(SAMPLE, turns=(Turn("What?", truth),), kind=kind)


# -- the verifier --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "truth", "right", "wrong"),
    [
        ("exact", "A red bus", ["a red bus.", " A  RED\nbus "], ["the red bus", "red bus", "a red bus stop", ""]),
        ("exact", "3.5 m", ["3.5 m", "3.5 M."], ["35 m", "3.5"]),
        (
            "contains",
            "red bus",
            ["It is a red bus.", "Red bus!"],
            ["a bus that is red", "a redbus", "a red busy street"],
        ),
        ("number", "1,200", ["There are 1200 of them.", "First 3, then 1,200.0"], ["1200 or 7", "many", "120"]),
        ("number", "-2", ["x = -2"], ["x = 2"]),
        (
            "letter",
            "B",
            ["B", "(B)", "B. A cat", "The answer is B.", "Option A? No: answer: B"],
            ["A", "a B", "Bus", "the cat"],
        ),
    ],
)
def test_right_answers_by_each_way_of_reading(match: Any, truth: str, right: list[str], wrong: list[str]) -> None:
    (made,) = Verifier(match).judge(None, [answered(truth)], [group(*right, *wrong)], seed=0, generate=nobody)  # type: ignore[arg-type]
    assert made.scores == (1.0,) * len(right) + (0.0,) * len(wrong)
    assert made.counts["right"] == len(right) and (made.counts["none_right"], made.counts["all_right"]) == (0, 0)


def test_samples_without_a_readable_truth_are_dropped_and_shares_are_told() -> None:
    judge = Verifier("number")
    samples = [answered(None), answered("many"), answered("2"), answered("3")]
    made = judge.judge(None, samples, [group("2", "2.0")] * 4, seed=0, generate=nobody)  # type: ignore[arg-type]
    assert [m.reason for m in made] == ["no_ground_truth", "no_ground_truth", "", ""]
    assert [m.scores for m in made[2:]] == [(1.0, 1.0), (0.0, 0.0)]
    counts = {name: sum(m.counts[name] for m in made[2:]) for name in made[2].counts}
    assert judge.words(counts) == "verifier: 2 of 4 answers right; none right in 50% and all in 50% of 2 samples"


def test_a_function_decides_where_one_is_given() -> None:
    (made,) = Verifier(same=same_answer, match="exact").judge(
        None, [answered("Two.", "count")], [group("There are 2.", "two", "three")], seed=0, generate=nobody  # type: ignore[arg-type]
    )  # fmt: skip
    assert (
        made.scores == (1.0, 1.0, 0.0)
        and Verifier(same=same_answer, match="exact").settings() != Verifier(match="exact").settings()
    )


# -- the detector --------------------------------------------------------------------------------------------------


def test_objects_that_are_there_count_for_an_answer_and_others_against_it() -> None:
    assert SAMPLE.objects is not None
    absent = next(f"{c} heart" for c in ("red", "blue", "green", "yellow") if f"{c} heart" not in SAMPLE.objects)
    there = SAMPLE.objects[0]
    absent = absent if mentioned_objects(f"a {absent}") else next(
        o for scene in ShapesSource("pairs_habit_free", 50) for o in scene.objects or () if o not in (SAMPLE.objects or ())
    )  # fmt: skip
    texts = (f"I see a {there}. I see a {there}.", f"A {there} and a {absent}.", "Nothing.")
    for bonus, scores in ((1.0, (1.0, 0.0)), (0.0, (0.0, -1.0))):
        judge = Detector(KnownObjects(), mentioned_objects, bonus)
        (made,) = judge.judge(type("P", (), {"device": "cpu"})(), [SAMPLE], [group(*texts)], seed=0, generate=nobody)
        assert made.scores[:2] == scores and isnan(made.scores[2])
    assert made.each[1]["claims"] == [{"claim": there, "holds": True}, {"claim": absent, "holds": False}]


@pytest.fixture(scope="module", params=["owlvit", "grounding-dino"])
def detector(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector with random weights and very few of them, saved as transformers saves one."""
    from tests.models.tiny_detectors import save_detector

    return save_detector(request.param, tmp_path_factory.mktemp(request.param))


def test_a_detector_of_transformers_scores_each_name_alone_and_keeps_the_score(detector: Path, tmp_path: Path) -> None:
    asked = [
        (scene, name) for scene in list(SCENES)[:2] for name in ("red circle", "cat", "a very long name of a thing")
    ]
    pairs = [(scene.image, name) for scene, name in asked]
    first = ObjectDetector(str(detector), batch_size=6, cache_dir=tmp_path, threshold=0.3)
    scores = first.values(pairs)
    assert all(0 < score < 1 for score in scores) and len(set(scores)) > 1
    alone = ObjectDetector(str(detector), batch_size=1, threshold=0.3)
    assert [alone.values([pair])[0] for pair in pairs] == pytest.approx(scores, abs=1e-5)
    again = ObjectDetector(str(detector), threshold=sorted(scores)[3], cache_dir=tmp_path, batch_size=16)
    assert again.found(asked, "cpu") == [score >= again.threshold for score in scores] and again.computed == 0
    assert again.digest() != first.digest()


# -- a model outside -----------------------------------------------------------------------------------------------


class Judging(BaseHTTPRequestHandler):
    """Says yes to what is red, refuses questions about a storm, and keeps what it was sent."""

    sent: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).sent.append(body)
        asked = body["messages"][0]["content"][-1]["text"]
        storm = "storm" in asked
        reply = {"choices": [{"message": {"content": "Yes" if "red" in asked else "No"}, "finish_reason": "stop"}]}
        data = json.dumps({"error": "too rude"} if storm else reply).encode()
        self.send_response(400 if storm else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Judging)
    Judging.sent = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()


def judged_outside(url: str, cache: Path, *texts: str) -> Sequence[Any]:
    judge = Outside(
        part(Claims, "claims_short", max_new_tokens=4),
        url,
        "judge-1",
        cache_dir=cache,
        retries=0,
        key_variable="OPENAI_API_KEY",
        concurrency=8,
        timeout=120.0,
    )
    return judge.judge(None, [SAMPLE], [group(*texts)], seed=0, generate=nobody)  # type: ignore[arg-type]


def test_another_model_is_asked_with_the_picture_and_never_twice(url: str, tmp_path: Path) -> None:
    texts = ("I see a red circle and a blue star.", "I see a red circle.")
    (made,) = judged_outside(url, tmp_path, *texts)
    assert isinstance(made, Judgement) and made.scores == (-1.0, 0.0)
    assert len(Judging.sent) == 2 and all(
        body["model"] == "judge-1" and body["max_tokens"] == 4 for body in Judging.sent
    )
    picture, text = Judging.sent[0]["messages"][0]["content"]
    assert picture["image_url"]["url"].startswith("data:image/png;base64,") and text["text"].startswith("Is there a")
    assert judged_outside(url, tmp_path, *texts) == [made] and len(Judging.sent) == 2


def test_a_question_that_is_refused_sets_its_sample_aside(url: str, tmp_path: Path) -> None:
    with pytest.raises(Unanswerable) as refused:
        judged_outside(url, tmp_path, "I see a bad storm.", "I see a red circle.")
    assert list(refused.value.why) == [SAMPLE.id] and "too rude" in refused.value.why[SAMPLE.id]


# -- the implicit reward -------------------------------------------------------------------------------------------


def test_the_implicit_reward_is_what_an_answer_has_gained_per_token() -> None:
    import torch

    policy = load_policy({"path": "assets/tiny_llava"}, {"r": 4}, device="cpu", seed=0)
    texts = ("I see a red circle.", "", "I see a blue star and a green square.")
    judge = ImplicitReward(batch_size=3, norm="per_token")
    samples, groups = [SCENES[0], SCENES[1]], [group(*texts), group(*texts[:1])]
    (first, _) = judge.judge(policy, samples, groups, seed=0, generate=nobody)
    assert isnan(first[1]) and first[0] == first[2] == 0.0  # nothing is learned yet
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in policy.trainable_parameters():
            if "lora_B" in name:
                value.copy_(torch.randn(value.shape, generator=generator) / 30)
    policy.touched()
    per_token = judge.judge(policy, samples, groups, seed=0, generate=nobody)
    summed = ImplicitReward("sum", batch_size=1).judge(policy, samples, groups, seed=0, generate=nobody)
    tokens = len(policy.encoder.chat.encode_response(texts[2]))
    assert per_token[0][2] != 0 and summed[0][2] == pytest.approx(tokens * per_token[0][2], rel=1e-4)
    (alone,) = judge.judge(policy, samples[1:], groups[1:], seed=0, generate=nobody)
    assert alone == pytest.approx(per_token[1], rel=1e-4)


# -- what is kept --------------------------------------------------------------------------------------------------


def test_the_best_answers_of_a_sample_are_kept_each_once() -> None:
    texts, scores = ["b", "a", " a ", "", "c", "d"], [0.0, 1.0, 1.0, 5.0, float("nan"), -1.0]
    assert Keep().places(texts, scores) == [1]
    assert Keep(per_sample=9).places(texts, scores) == [1, 0, 5]
    assert Keep(at_least=0.0, per_sample=9).places(texts, scores) == [1, 0]
    assert Keep(at_least=2.0).places(texts, scores) == []
