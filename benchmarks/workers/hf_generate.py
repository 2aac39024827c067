"""Rollouts with transformers: `generate` (static batch) or its continuous batching, one pass over the workload per "go"."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    ContinuousBatchingConfig,
    GenerationConfig,
    StoppingCriteria,
)
from workers import protocol
from workload import Workload, answers, messages


class PerSequence(StoppingCriteria):
    """Each sequence stops at its own length."""

    def __init__(self, prompt: int, limits: list[int]) -> None:
        self.prompt, self.limits = prompt, torch.tensor(limits)

    def __call__(self, input_ids, scores, **kwargs):
        return self.limits <= input_ids.shape[1] - self.prompt


def main() -> None:
    spec = json.loads(sys.argv[1])
    path, threads, mode = spec.pop("path"), spec.pop("threads"), spec.pop("mode")
    torch.set_num_threads(threads)
    work = Workload(**spec)
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    chats = messages(work, work.sequences // work.samples, seed=1)
    texts = [
        tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        for chat in chats
        for _ in range(work.samples)
    ]
    limits = answers(work)

    inputs = [tokenizer(text)["input_ids"] for text in texts]
    config = GenerationConfig(do_sample=True, temperature=1.0, top_k=0, eos_token_id=-1, pad_token_id=0)

    # As much memory and as many tokens per pass as anypo's defaults; its own would take most of the machine's memory.
    batching = ContinuousBatchingConfig(page_size=32, num_blocks=1024, max_batch_tokens=512)

    def static(most: int = 256) -> dict[str, int]:
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        wanted = [min(n, most) for n in limits]
        with torch.inference_mode():
            model.generate(
                **batch,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                max_new_tokens=max(wanted),
                stopping_criteria=[PerSequence(batch["input_ids"].shape[1], wanted)],
                pad_token_id=tokenizer.eos_token_id,
            )
        return {"tokens": sum(wanted)}

    def continuous(most: int = 256) -> dict[str, int]:
        found = 0
        context = model.continuous_batching_context_manager(config, continuous_batching_config=batching)
        with torch.no_grad(), context as manager:
            for ids, n in zip(inputs, limits):
                manager.add_request(ids, max_new_tokens=min(n, most))
            results = iter(manager)
            for _ in inputs:
                found += len(next(results).generated_tokens)
        return {"tokens": found}

    work_of = {"static": static, "continuous": continuous}[mode]
    protocol.serve(work_of, warm=lambda: work_of(4))


if __name__ == "__main__":
    main()
