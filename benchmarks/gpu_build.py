"""Building pairs at the size of LLaVA-1.5-7B with random weights on one GPU: tokens per second of answers.

    python benchmarks/gpu_build.py            # on a GPU; writes a checkpoint of 14 GB to --folder, once
    python benchmarks/gpu_build.py --toy      # a toy on a CPU

Sides, on the same checkpoint, images, questions and token limit, all greedy, image preparation included:
  parallax  `policy.generate`
  generate  transformers' processor and `model.generate`, padded batches of the same size
  vLLM      `LLM.generate` in this process, where vLLM is installed (alone, after the others have given their memory back)
Random weights hardly ever say the end token, so answers are as long as allowed on every side.
"""

from __future__ import annotations

import gc
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if entry != str(ROOT / "benchmarks"))]

import torch

from benchmarks.llava_shaped import Row, Shape, write_checkpoint, write_rows
from benchmarks.measure import interleaved, medians, parser, table, use_threads, write_json

TRUE = Shape(
    hidden=4096, layers=32, heads=32, intermediate=11008, vocabulary=32064, vision_hidden=1024, vision_layers=24
)
TOY = Shape(hidden=64, layers=2, heads=4, intermediate=128, vocabulary=200, vision_hidden=64, vision_layers=2)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Print the table, write the JSON, return what was written. Raises SystemExit without a GPU where no toy is asked for."""
    options = parser(__file__, "Building pairs at 7B size.", rounds=2)
    options.add_argument(
        "--folder", type=Path, default=Path("outputs/benchmarks/llava_7b_shaped"), help="of the checkpoint"
    )
    options.add_argument("--images", type=int, default=128, help="images, one question each")
    options.add_argument("--batch-size", type=int, default=64, help="answers at once")
    options.add_argument("--max-new-tokens", type=int, default=256, help="tokens of an answer")
    options.add_argument("--toy", action="store_true", help="a toy on a CPU, to try the script")
    given = options.parse_args(arguments)
    use_threads(given.threads)
    device = "cpu" if given.toy else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no GPU here (torch sees none); try the script itself with --toy")
    shape, dtype = (TOY, torch.float32) if given.toy else (TRUE, torch.bfloat16)
    folder = write_checkpoint(given.folder, shape, device=device, dtype=dtype)
    rows = write_rows(given.folder / "images", given.images, 2, shape=shape)
    made: dict[str, int] = {}
    sides = {
        "parallax": ours(folder, rows, given, device, made),
        "generate": theirs(folder, rows, given, device, dtype, made),
    }
    times = interleaved(sides, given.rounds, given.warmup, told=lambda line: print(line, file=sys.stderr))
    sides.clear()
    gc.collect()
    if find_spec("vllm") and not given.toy:
        torch.cuda.empty_cache()
        times |= interleaved({"vLLM": vllm_side(folder, rows, given, made)}, given.rounds, given.warmup)
    middle = medians(times)
    found = [
        {"side": name, "seconds": seconds, "tokens": made[name], "tokens_per_second": made[name] / seconds,
         "beside_generate": made[name] / seconds / (made["generate"] / middle["generate"]), "times": times[name]}
        for name, seconds in middle.items()
    ]  # fmt: skip
    print(
        table(
            ["side", "tokens/s", "× generate"],
            [[r["side"], r["tokens_per_second"], r["beside_generate"]] for r in found],
        )
    )
    if "vLLM" not in middle:
        print("vLLM was left out (it is not installed, or this is the toy)")
    content = {
        "batch_size": given.batch_size,
        "max_new_tokens": given.max_new_tokens,
        "images": given.images,
        "rows": found,
    }
    write_json(given.json, content)
    return content


def ours(folder: Path, rows: list[Row], given: Any, device: str, made: dict[str, int]) -> Any:
    """`policy.generate` on one request per row."""
    from parallax.models.generation.requests import GenerationRequest
    from parallax.models.loading import load_policy
    from parallax.records import Decoding, ViewSpec
    from parallax.records.images import FileImage
    from parallax.settings.groups import Lora, Model
    from parallax.settings.shipped import shipped

    model = shipped(Model, path=str(folder), dtype="float32" if device == "cpu" else "bfloat16", feature_cache="none")
    policy = load_policy(model, shipped(Lora, r=128), device=device)
    decoding = Decoding(given.max_new_tokens)
    requests = [
        GenerationRequest(
            str(number), FileImage(str(row.image.parent), row.image.name), row.prompt, ViewSpec(), decoding
        )
        for number, row in enumerate(rows)
    ]

    def side() -> None:
        answers = policy.generate(requests, batch_size=given.batch_size)
        made["parallax"] = sum(len(answer.token_ids) for answer in answers if answer)

    return side


def theirs(folder: Path, rows: list[Row], given: Any, device: str, dtype: torch.dtype, made: dict[str, int]) -> Any:
    """transformers' own generation in batches of the same size."""
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(str(folder), dtype=dtype).to(device).eval()
    processor = AutoProcessor.from_pretrained(str(folder))

    def side() -> None:
        count = 0
        for start in range(0, len(rows), given.batch_size):
            some = rows[start : start + given.batch_size]
            texts = [asked(processor, row) for row in some]
            images = [Image.open(row.image) for row in some]
            inputs = processor(text=texts, images=images, padding=True, return_tensors="pt").to(device)
            inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
            with torch.no_grad():
                output = model.generate(**inputs, do_sample=False, max_new_tokens=given.max_new_tokens)
            new = output[:, inputs["input_ids"].shape[1] :]
            count += int((new != model.generation_config.pad_token_id).sum())
        made["generate"] = count

    return side


def asked(processor: Any, row: Row) -> str:
    """The row's question as the checkpoint's template writes it."""
    content = [{"type": "image"}, {"type": "text", "text": row.prompt}]
    return str(processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True))


def vllm_side(folder: Path, rows: list[Row], given: Any, made: dict[str, int]) -> Any:
    """vLLM in this process, on half of the memory."""
    from PIL import Image
    from transformers import AutoProcessor
    from vllm import LLM, SamplingParams

    processor = AutoProcessor.from_pretrained(str(folder))
    engine = LLM(
        model=str(folder),
        dtype="bfloat16",
        max_model_len=2048,
        max_num_seqs=given.batch_size,
        gpu_memory_utilization=0.6,
    )
    sampling = SamplingParams(temperature=0.0, max_tokens=given.max_new_tokens)

    def side() -> None:
        prompts = [
            {"prompt": asked(processor, row), "multi_modal_data": {"image": Image.open(row.image)}} for row in rows
        ]
        made["vLLM"] = sum(len(answer.outputs[0].token_ids) for answer in engine.generate(prompts, sampling))

    return side


if __name__ == "__main__":
    began = time.perf_counter()
    main()
    print(f"{time.perf_counter() - began:.0f} s in all", file=sys.stderr)
