"""One GRPO step of TRL's GRPOTrainer per "go". Runs in the peers' environment."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from workers import protocol
from workload import Workload, messages


class Gate(TrainerCallback):
    """Hold every step until the parent says go."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:
            protocol.say(ready=True)
        protocol.wait()
        self.began = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        protocol.say(
            seconds=time.perf_counter() - self.began, peak_gb=protocol.peak_gb(), tokens=LENGTHS and sum(LENGTHS)
        )
        LENGTHS.clear()


LENGTHS: list[int] = []


def reward(completions, completion_ids, **kwargs):
    """A reward that differs inside every group, so that every rollout is trained on."""
    LENGTHS.extend(len(ids) for ids in completion_ids)
    return [float(sum(ids) % 7) for ids in completion_ids]


def main() -> None:
    spec = json.loads(sys.argv[1])
    path, threads = spec.pop("path"), spec.pop("threads")
    torch.set_num_threads(threads)
    work = Workload(**spec)
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    data = Dataset.from_list([{"prompt": chat} for chat in messages(work, 1000, seed=1)])
    rollouts = work.prompts * work.samples
    config = GRPOConfig(
        output_dir="/tmp/anypo-bench-trl",
        per_device_train_batch_size=work.micro or rollouts,
        gradient_accumulation_steps=rollouts // (work.micro or rollouts),
        generation_kwargs={"min_new_tokens": work.max_new},
        num_generations=work.samples,
        max_completion_length=work.max_new,
        learning_rate=work.lr,
        temperature=1.0,
        beta=0.0,
        bf16=False,
        fp16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        max_steps=10_000,
        save_strategy="no",
        report_to=[],
        logging_strategy="no",
        disable_tqdm=True,
        lr_scheduler_type="constant",
    )
    GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=config,
        train_dataset=data,
        processing_class=tokenizer,
        callbacks=[Gate()],
    ).train()


if __name__ == "__main__":
    main()
