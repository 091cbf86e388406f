"""MME's folders: one per subtask, with a text file per image, two lines each: question, tab, Yes or No.

existence/000000006040.jpg  existence/000000006040.txt      or      artwork/images/…  artwork/questions_answers_YN/…
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from parallax.evaluation.files.reading import WrongFile
from parallax.evaluation.mme import COGNITION, PERCEPTION
from parallax.records import Sample, Turn
from parallax.records.images import EXTENSIONS, FileImage
from parallax.settings.ranges import Count, ExistingFile

EXPECTED = "MME's layout: a folder per subtask with <image>.txt beside <image>, or images/ and questions_answers_YN/"


def mme_questions(
    path: ExistingFile, prompt: str = "{question}", subtasks: Sequence[str] | None = None, limit: Count | None = None
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
