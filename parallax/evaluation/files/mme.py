"""MME's folders: one per subtask, with a text file per image, two lines each: question, tab, Yes or No.

existence/000000006040.jpg  existence/000000006040.txt      or      artwork/images/…  artwork/questions_answers_YN/…

MME (Fu et al., 2023, section 2.2): two yes/no questions per image; accuracy, and accuracy+ where both must be right.

A subtask's score is 100 · (accuracy + accuracy+), so 200 at most; perception adds up ten subtasks (2000 points), cognition four
(800). An answer is read as published: yes or no as a whole, or within its first four characters; anything else is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from parallax.evaluation.accuracy import plain_text
from parallax.evaluation.files.reading import WrongFile
from parallax.records import Sample, Turn
from parallax.records.images import EXTENSIONS, FileImage
from parallax.settings.ranges import Count, ExistingFile

EXPECTED = "MME's layout: a folder per subtask with <image>.txt beside <image>, or images/ and questions_answers_YN/"


def mme_questions(
    path: ExistingFile, prompt: str, subtasks: Sequence[str] | None = None, limit: Count | None = None
) -> list[Sample]:
    """MME's yes/no questions, two per image (one group).

    Args:
        path: the folder with a folder per subtask.
        prompt: with {question}; the questions themselves end in "Please answer yes or no."
        subtasks: which to read; None takes those of the fourteen that are there.
        limit: at most so many images of each subtask.
    """
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not there; expected {EXPECTED}")
    known = (*PERCEPTION, *COGNITION)
    wanted = [name for name in known if (root / name).is_dir()] if subtasks is None else list(subtasks)
    missing = [name for name in wanted if not (root / name).is_dir()]
    if missing or not wanted:
        raise FileNotFoundError(f"{root} has no folder {', '.join(missing) or 'of a subtask'}; expected {EXPECTED}")
    return [sample for name in wanted for sample in _subtask(root / name, name, prompt, limit)]


def _subtask(folder: Path, name: str, prompt: str, limit: int | None) -> Iterator[Sample]:
    apart = (folder / "questions_answers_YN").is_dir()
    texts = sorted((folder / "questions_answers_YN" if apart else folder).glob("*.txt"))
    pictures = folder / "images" if apart else folder
    if not texts:
        raise WrongFile(f"{folder} holds no questions; expected {EXPECTED}")
    for file in texts[:limit]:
        image = next((file.stem + end for end in EXTENSIONS if (pictures / (file.stem + end)).is_file()), None)
        if image is None:
            raise WrongFile(f"{file} has no image {file.stem}.* in {pictures}")
        lines = [line for line in file.read_text("utf-8-sig").splitlines() if line.strip()]
        for number, line in enumerate(lines, start=1):
            question, tab, answer = line.rpartition("\t")
            answer = answer.strip().lower().rstrip(".")
            if not tab or answer not in ("yes", "no"):
                raise WrongFile(
                    f"{file}, line {number}: expected a question, a tab, and Yes or No, and it is {line!r:.80}"
                )
            yield Sample(
                f"mme:{name}:{file.stem}:{number}", f"mme/{name}", FileImage(str(pictures), image),
                (Turn(prompt.replace("{question}", question.strip()), answer),), name, None,
                {"group": f"{name}/{file.stem}", "category": name},
            )  # fmt: skip
        if len(lines) != 2:
            raise WrongFile(f"{file} has {len(lines)} questions; MME asks two per image, one answered Yes and one No")


PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def read_yes_no(text: str) -> str | None:
    """`yes`, `no`, or None for anything else."""
    text = plain_text(text).lower()
    if text in ("yes", "no"):
        return text
    return "yes" if "yes" in text[:4] else "no" if "no" in text[:4] else None


def mme_scores(answered: Sequence[tuple[Sample, str]]) -> list[dict[str, tuple[float, float]]]:
    """`mme_perception_score` and `mme_cognition_score` in points, of the subtasks that are there; per subtask both accuracies.

    The points are written as shares of a sum, so that they resample by image as every metric does.
    """
    said = [read_yes_no(answer) for _, answer in answered]
    both: dict[str, bool] = {}
    questions: Counter[str] = Counter(sample.kind for sample, _ in answered)
    for (sample, _), word in zip(answered, said, strict=True):
        group = str(sample.attributes["group"])
        both[group] = both.get(group, True) and word == sample.answer
    images = Counter(
        {kind: len({str(s.attributes["group"]) for s, _ in answered if s.kind == kind}) for kind in questions}
    )
    totals = {half: sum(questions[kind] for kind in subtasks) for half, subtasks in _HALVES.items()}
    opened: set[str] = set()
    scored = []
    for (sample, _), word in zip(answered, said, strict=True):
        kind, group, right = sample.kind, str(sample.attributes["group"]), float(word == sample.answer)
        scores = {f"mme_accuracy:{kind}": (right, 1.0), "mme_parse_failures": (float(word is None), 1.0)}
        points = 100 * right / questions[kind]
        if group not in opened:
            opened.add(group)
            scores[f"mme_accuracy_plus:{kind}"] = (float(both[group]), 1.0)
            points += 100 * both[group] / images[kind]
        for half, subtasks in _HALVES.items():
            if kind in subtasks:
                scores[f"mme_{half}_score"] = (points, 1 / totals[half])
        scored.append(scores)
    return scored


_HALVES = {"perception": PERCEPTION, "cognition": COGNITION}
