"""One step of TRL's `DPOTrainer` on a model that is already on the device: its collator, its loss, its backward pass, AdamW.

The model is taken out of our LoRA and given to TRL, which puts its own on. Words are tokens, so lengths are exact.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch

from parallax.models.lora import language_targets
from parallax.models.memory.planner import Workload
from tests.toys.recipes import VICUNA

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>", "USER:", "ASSISTANT:", "\n")
TEMPLATE_TOKENS = 4  # <s>, USER:, the line break, ASSISTANT:


class TrlStep:
    """Prepared in the constructor, so that `step` is a training step and nothing else. `tokens` counts what it reads."""

    def __init__(self, model: Any, work: Workload, device: str) -> None:
        from datasets import Dataset
        from peft import LoraConfig
        from PIL import Image
        from trl import DPOConfig, DPOTrainer

        base = model.unload()
        side = int(base.config.vision_config.image_size)
        question = " ".join(["w9"] * max(1, work.prompt_tokens - work.image_tokens - TEMPLATE_TOKENS))
        answers = [" ".join([f"w{number}"] * (work.response_tokens - 1)) for number in (10, 11)]  # and the end token
        row = {
            "images": [Image.new("RGB", (side, side), (90, 120, 30))],
            "prompt": [{"role": "user", "content": question}],
            "chosen": [{"role": "assistant", "content": answers[0]}],
            "rejected": [{"role": "assistant", "content": answers[1]}],
        }
        half = work.weights != "float32"
        settings: dict[str, Any] = {
            "output_dir": tempfile.mkdtemp(prefix="trl_"), "per_device_train_batch_size": work.pairs, "max_length": None,
            "beta": 0.1,
            "gradient_checkpointing": work.checkpointing, "use_cpu": device == "cpu", "bf16": half, "report_to": [],
            "save_strategy": "no", "disable_tqdm": True, "dataloader_num_workers": 0, "max_steps": 1,
        }  # fmt: skip
        lora = LoraConfig(
            r=work.rank, lora_alpha=2 * work.rank, target_modules=language_targets(base), task_type="CAUSAL_LM"
        )
        self.trainer: Any = DPOTrainer(
            model=base, args=DPOConfig(**settings), train_dataset=Dataset.from_list([row] * work.pairs),
            processing_class=word_processor(base.config), peft_config=lora,
        )  # fmt: skip
        self.device = device
        self.batch = next(iter(self.trainer.get_train_dataloader()))
        self.tokens = int(self.batch["input_ids"].numel())
        self.trainer.current_gradient_accumulation_steps = 1
        learned = [parameter for parameter in self.trainer.model.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.AdamW(learned, lr=1e-6)

    def step(self) -> None:
        """Reference, forward, backward, update."""
        self.trainer.training_step(self.trainer.model, dict(self.batch))
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if self.device == "cuda":
            torch.cuda.synchronize()


def word_processor(config: Any) -> Any:
    """A LLaVA processor whose tokenizer has a token for each word, with the model's own number for the image token."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(SPECIALS)}
    words |= {f"w{number}": number for number in range(len(SPECIALS), 100)}
    words["<image>"] = int(config.image_token_id)
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" +"), "removed")
    tokenizer.add_special_tokens(["<pad>", "<s>", "</s>", "<image>", "\n"])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"}, padding_side="left", clean_up_tokenization_spaces=False,
    )  # fmt: skip
    side = int(config.vision_config.image_size)
    images = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return LlavaProcessor(
        images, fast, patch_size=int(config.vision_config.patch_size), vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template="{{ bos_token }}" + VICUNA,
    )  # fmt: skip
