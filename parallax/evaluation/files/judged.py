"""Files of the benchmarks that a judge grades: MM-Vet, LLaVA-Bench (in the wild), MMHal-Bench, SHR."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

from parallax.evaluation.files.reading import WrongFile, field, fill, first, json_lines, read_json, rows_of, table_of
from parallax.records import Sample, Turn
from parallax.records.images import FileImage
from parallax.settings.ranges import Count, ExistingFile

MM_VET = "MM-Vet's mm-vet.json: a mapping from v1_<n> to {imagename, question, answer, capability}"
MM_HAL = (
    "MMHal-Bench's response_template.json: a list of {question, gt_answer, image_id or image_src, image_content, …}"
)
QUESTIONS = "LLaVA-Bench's questions.jsonl: {question_id, image, text, category} per line"
CONTEXTS = "LLaVA-Bench's context.jsonl: {image, caption} per line"
REFERENCES = "LLaVA-Bench's answers_gpt4.jsonl: {question_id, text} per line"
SHR_IMAGES = "SHR's val_images_final.json: a list of {image_id, …}"
SHR_FACTS = "SHR's notes, one {image id: [texts]} per line"
VG_REGIONS = "Visual Genome's region_descriptions.json: a list of {regions: [{image_id, phrase, x, y, width, height}]}"
VG_IMAGES = "Visual Genome's image_data.json: a list of {image_id, url, width, height}"


def mm_vet_questions(path: ExistingFile, images: ExistingFile, prompt: str, limit: Count | None = None) -> list[Sample]:
    """MM-Vet's questions with their answers and the abilities they need.

    Args:
        path: `mm-vet.json`.
        images: the folder of its images.
        prompt: with {question}.
        limit: at most so many.
    """

    def samples() -> Iterator[Sample]:
        for name, row in table_of(read_json(path, MM_VET), path, MM_VET).items():
            where = f"{path}, entry {name}"
            turn = Turn(fill(prompt, question=field(row, "question", str, where)), field(row, "answer", str, where))
            able = {"capability": field(row, "capability", list, where)}
            yield Sample(
                f"mmvet:{name}",
                "mm_vet",
                FileImage(images, field(row, "imagename", str, where)),
                (turn,),
                "",
                None,
                able,
            )

    return first(samples(), limit, path)


def llava_bench_questions(
    path: ExistingFile, images: ExistingFile, prompt: str, limit: Count | None = None
) -> list[Sample]:
    """LLaVA-Bench's questions with the caption of the image and GPT-4's reference answer.

    Args:
        path: the folder with `questions.jsonl`, `context.jsonl` and `answers_gpt4.jsonl`.
        images: the folder of its images.
        prompt: with {question}.
        limit: at most so many.
    """
    folder = Path(path)
    captions = {
        field(r, "image", str, w): field(r, "caption", str, w)
        for w, r in json_lines(folder / "context.jsonl", CONTEXTS)
    }
    answers = {
        field(row, "question_id", (int, str), where): field(row, "text", str, where)
        for where, row in json_lines(folder / "answers_gpt4.jsonl", REFERENCES)
    }

    def samples() -> Iterator[Sample]:
        for where, row in json_lines(folder / "questions.jsonl", QUESTIONS):
            number, image = field(row, "question_id", (int, str), where), field(row, "image", str, where)
            for known, name, file in ((answers, number, "answers_gpt4.jsonl"), (captions, image, "context.jsonl")):
                if name not in known:
                    raise WrongFile(f"{where}: {file} has no line for {name!r}; the files must be of one release")
            text = field(row, "text", str, where)
            about = {"text": text, "context": captions[image], "reference": answers[number]}
            kind = str(row.get("category", ""))
            yield Sample(
                f"llava_bench:{number}", "llava_bench", FileImage(images, image),
                (Turn(fill(prompt, question=text), answers[number]),), kind, None, about,
            )  # fmt: skip

    return first(samples(), limit, folder)


def mm_hal_questions(path: ExistingFile, images: ExistingFile, prompt: str, limit: Count | None = None) -> list[Sample]:
    """MMHal-Bench's questions with the true answer and what is in the image.

    Args:
        path: `response_template.json`.
        images: the folder of its images, named as in their addresses.
        prompt: with {question}.
        limit: at most so many.
    """

    def samples() -> Iterator[Sample]:
        for place, row in enumerate(rows_of(read_json(path, MM_HAL), path, MM_HAL), start=1):
            where = f"{path}, entry {place}"
            content = row.get("image_content")
            listed = ", ".join(map(str, content)) if isinstance(content, list) else str(content or "")
            name = (
                Path(urlparse(str(row.get("image_src") or "")).path).name or f"{field(row, 'image_id', str, where)}.jpg"
            )
            turn = Turn(fill(prompt, question=field(row, "question", str, where)), field(row, "gt_answer", str, where))
            kind = str(row.get("question_type", ""))
            yield Sample(f"mmhal:{place}", "mm_hal", FileImage(images, name), (turn,), kind, None, {"content": listed})

    return first(samples(), limit, path)


def shr_descriptions(
    path: ExistingFile,
    visual_genome: ExistingFile,
    prompt: str,
    limit: Count | None = None,
) -> list[Sample]:
    """SHR's images with what is known about them: region captions of Visual Genome and people's notes.

    Args:
        path: the folder with `val_images_final.json` and `shr_factual_*.jsonl`.
        visual_genome: the folder with `image_data.json`, `region_descriptions.json`, `VG_100K` and `VG_100K_2`.
        prompt: what is asked.
        limit: at most so many.
    """
    folder, genome = Path(path), Path(visual_genome)
    listed = rows_of(
        read_json(folder / "val_images_final.json", SHR_IMAGES), folder / "val_images_final.json", SHR_IMAGES
    )
    wanted = [int(field(row, "image_id", (int, str), f"{folder}, image {n}")) for n, row in enumerate(listed, start=1)]
    notes: dict[int, list[str]] = {}
    for file in sorted(folder.glob("shr_factual_*.jsonl")):
        for _, row in json_lines(file, SHR_FACTS):
            notes |= {int(number): [str(text) for text in texts] for number, texts in row.items()}
    pictures = {
        row["image_id"]: row for row in rows_of(read_json(genome / "image_data.json", VG_IMAGES), genome, VG_IMAGES)
    }
    regions = {
        row["regions"][0]["image_id"]: row["regions"]
        for row in rows_of(read_json(genome / "region_descriptions.json", VG_REGIONS), genome, VG_REGIONS)
        if row.get("regions")
    }

    def samples() -> Iterator[Sample]:
        for number in wanted:
            if number not in pictures or number not in regions:
                raise WrongFile(f"{genome} has no image or no regions numbered {number}, which SHR's list has")
            about = pictures[number]
            places = [
                f"[{r['x'] / about['width']:.2f}, {r['y'] / about['height']:.2f}, {(r['x'] + r['width']) / about['width']:.2f}, "
                f"{(r['y'] + r['height']) / about['height']:.2f}]: {r['phrase']}"
                for r in regions[number]
                if r.get("phrase")
            ]
            image = FileImage(str(genome), "/".join(urlparse(about["url"]).path.split("/")[-2:]))
            facts = {"facts": [*places, *notes.get(number, [])]}
            yield Sample(f"shr:{number}", "shr", image, (Turn(prompt),), "describe", None, facts)

    return first(samples(), limit, folder)
