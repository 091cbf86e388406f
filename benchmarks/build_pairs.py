"""Pairs per second against the loop of the papers' scripts: one image at a time, once clean and once corrupted.

    python benchmarks/build_pairs.py                 # the built-in model and world
    python benchmarks/build_pairs.py --threads 1     # one thread of torch on both sides
    python benchmarks/build_pairs.py --profile       # where the time of a build goes, as a table

Three sides take turns on the same scenes, model, questions, view and noise, threads and token limit, in float32:
  loop      for each image: open it, call the processor, `model.generate` of plain transformers (greedy, KV cache) on the
            clean pixels, then on the corrupted ones, and decode. Model loaded once; image opened and processed once for both.
  generate  `policy.generate` on the same requests.
  build     all of `task=build_pairs` behind the model's loading: requests, content addresses, generation, candidate store
            and pair set on disk, in an empty cache.
The loop answers the first --loop-pairs of the scenes only, since it is slow; rates are per pair. Every answer of the loop is
compared with ours, token for token.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [
    str(ROOT),
    *(entry for entry in sys.path if entry != str(ROOT / "benchmarks")),
]  # not this folder's names

from benchmarks.measure import interleaved, medians, parser, spread, table, use_threads, write_json

MODEL = ROOT / "assets" / "tiny_llava"


class Loop:
    """The peer: transformers alone."""

    def __init__(self, path: Path, noise_steps: int, max_new_tokens: int) -> None:
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.model = AutoModelForImageTextToText.from_pretrained(str(path), dtype=torch.float32).eval()
        self.processor = AutoProcessor.from_pretrained(str(path))
        self.noise_steps, self.max_new_tokens = noise_steps, max_new_tokens

    def pair(self, image: Any, question: str, seed: int) -> list[list[int]]:
        """Token ids of the clean and the corrupted answer."""
        import torch

        from augment.diffusion import add_noise
        from augment.view import generator_for

        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = self.processor(text=text, images=image.load(), return_tensors="pt")
        answers = []
        for corrupted in (False, True):
            pixels = inputs["pixel_values"]
            if corrupted:
                pixels = add_noise(pixels[0], self.noise_steps, generator_for(seed))[None]
            with torch.no_grad():
                output = self.model.generate(
                    **{**inputs, "pixel_values": pixels}, do_sample=False, max_new_tokens=self.max_new_tokens
                )
            ids = output[0, inputs["input_ids"].shape[1] :].tolist()
            self.processor.decode(ids, skip_special_tokens=True)
            answers.append(ids)
        return answers


def main() -> None:
    """Measure, print one table, write the JSON."""
    options = parser(__file__, __doc__.splitlines()[0])
    options.add_argument("--pairs", type=int, default=512, help="pairs that our side makes in a round")
    options.add_argument("--loop-pairs", type=int, default=64, help="pairs that the loop makes in a round")
    options.add_argument("--batch-size", type=int, default=128, help="answers decoded at once on our side")
    options.add_argument("--max-new-tokens", type=int, default=64, help="token limit of both sides")
    options.add_argument(
        "--workers", default="auto", help="processes that prepare images on our side; a number or auto"
    )
    options.add_argument("--profile", action="store_true", help="print where the time of a build goes and stop")
    asked = options.parse_args()
    threads = use_threads(asked.threads)
    workers = asked.workers if asked.workers == "auto" else int(asked.workers)

    from augment.diffusion import Diffusion
    from datamodules.shapes.source import ShapesSource
    from parallax.models.loading import load_policy
    from parallax.preference.proposers.by_view import ByView
    from parallax.settings.groups import Lora, Model
    from parallax.settings.shipped import shipped

    policy = load_policy(shipped(Model, path=str(MODEL), feature_cache="none"), shipped(Lora, r=32), device="cpu")
    policy.num_workers = workers
    source = ShapesSource("pairs_habit_free", asked.pairs)
    proposer = ByView(Diffusion(500), max_new_tokens=asked.max_new_tokens)
    asks = [ask for sample in source for ask in proposer.requests(sample, 0)]
    requests = [ask.request for ask in asks]
    if asked.profile:
        print(profile(policy, requests, asked.batch_size))
        return
    loop = Loop(MODEL, 500, asked.max_new_tokens)
    theirs: list[list[int]] = []
    ours: list[Any] = []
    waits: list[float] = []

    def run_loop() -> None:
        theirs.clear()
        for place in range(0, 2 * asked.loop_pairs, 2):
            clean, corrupted = requests[place : place + 2]
            theirs.extend(loop.pair(clean.image, clean.prompt, corrupted.view.seed))

    def run_generate() -> None:
        ours[:] = policy.generate(requests, batch_size=asked.batch_size)
        waits.append(policy.last_generation.wait_share)

    times = interleaved(
        {
            "loop": run_loop,
            "generate": run_generate,
            "build": lambda: build(policy, source, proposer, asked.batch_size),
        },
        asked.rounds,
        asked.warmup,
        told=lambda line: print(line, file=sys.stderr),
    )
    near_ties = policy.last_generation.near_ties
    middle = medians(times)
    rates = {name: (asked.loop_pairs if name == "loop" else asked.pairs) / seconds for name, seconds in middle.items()}
    equal = sum(list(answer.token_ids) == ids for answer, ids in zip(ours, theirs, strict=False))
    wait = sorted(waits[asked.warmup :])[len(waits[asked.warmup :]) // 2]
    rows = [
        [name, rates[name], rates[name] / rates["loop"], f"{spread(times[name]):.0%}"]
        for name in ("loop", "generate", "build")
    ]
    print(table(["side", "pairs/s", "× loop", "spread"], rows))
    lengths = [len(answer.token_ids) for answer in ours]
    shape = model_shape(policy.model)
    print(
        f"answers equal: {equal} of {len(theirs)}; near-ties: {near_ties} of {sum(lengths)} steps; wait share: {wait:.1%}; "
        f"workers: {workers}\n{shape}; answers of {sum(lengths) / len(lengths):.0f} tokens (limit {asked.max_new_tokens}); "
        f"batch {asked.batch_size}; float32 on both sides; {threads} threads"
    )
    path = write_json(
        asked.json,
        {
            "pairs_per_second": rates, "ratio": {name: rates[name] / rates["loop"] for name in rates}, "seconds": times,
            "answers_equal": equal, "answers_compared": len(theirs), "near_ties": near_ties, "wait_share": wait,
            "workers": workers, "model": shape, "batch_size": asked.batch_size, "max_new_tokens": asked.max_new_tokens,
            "precision": "float32", "pairs": asked.pairs, "loop_pairs": asked.loop_pairs, "threads": threads,
        },
    )  # fmt: skip
    print(f"written to {path}")
    sys.exit(equal != len(theirs) and near_ties == 0)


def build(policy: Any, source: Any, proposer: Any, batch_size: int) -> None:
    """A whole build in an empty cache."""
    from datamodules.preference import PreferenceDataModule
    from parallax.preference.judges.by_construction import ByConstruction
    from parallax.preference.selector import BestAgainstRest
    from parallax.settings.groups import Generation
    from parallax.settings.shipped import shipped

    with tempfile.TemporaryDirectory() as folder:
        PreferenceDataModule(
            source, proposer, ByConstruction(), BestAgainstRest(), cache_dir=folder,
            generation=shipped(Generation, batch_size=batch_size),
            show_progress=False,
        ).build_pairs(policy)  # fmt: skip


def model_shape(model: Any) -> str:
    """The model in words."""
    base = model.get_base_model()
    text, vision = base.config.text_config, base.config.vision_config
    image_tokens = (vision.image_size // vision.patch_size) ** 2
    count = sum(p.numel() for p in base.parameters() if not p.requires_grad) / 1e6
    return (
        f"LLaVA of {count:.1f} M parameters: {text.num_hidden_layers} layers of width {text.hidden_size}, "
        f"{image_tokens} image tokens"
    )


def profile(policy: Any, requests: list[Any], batch_size: int) -> str:
    """Where the time goes, each part alone, in this process and without workers. Milliseconds per answer."""
    import torch

    from parallax.models.generation.prefetch import PromptStream
    from parallax.models.generation.requests import GenerationCounts, looks_of, plan_batches
    from parallax.models.generation.rollout import Rollout

    encoder = policy.encoder
    spent: dict[str, float] = {}
    policy.generate(requests[:batch_size], batch_size=batch_size, num_workers=0)  # warm-up

    def timed(name: str, act: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = act()
        spent[name] = spent.get(name, 0.0) + time.perf_counter() - began
        return result

    timed("content address (digest, key)", lambda: [policy.spec(request).key() for request in requests])
    timed("open images (part of encode)", lambda: [request.image.load() for request in requests[::2]])
    images = [request.image.digest() for request in requests]
    looks = looks_of(requests, images)
    batches = timed("plan batches", lambda: plan_batches(requests, images, batch_size))
    counts = GenerationCounts()
    with torch.no_grad(), policy._answering():
        for batch in batches:
            stream = PromptStream(encoder, requests, batch, num_workers=0, ahead=1, pin_memory=False)
            parts = timed("encode: open, view, processor, tokens (in workers)", partial(list, stream))
            rollout = Rollout(policy.model, pad=encoder.pad_token_id, ends=encoder.end_token_ids, counts=counts)
            for part in parts:
                decodings, seen = [requests[p].decoding for p in part.places], [looks[p] for p in part.places]
                timed("vision tower and prompt", partial(rollout.read, part, decodings, seen))
            answers = timed("decoding steps", rollout.answers)
            timed("text of answers", partial(list, map(encoder.decode, answers)))
    rows = [[name, 1000 * seconds / len(requests)] for name, seconds in spent.items()]
    return table(["part", "ms per answer"], rows)


if __name__ == "__main__":
    main()
