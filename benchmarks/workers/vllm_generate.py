"""Rollouts with vLLM on CPU, one pass over the workload per "go". Runs in its own environment (.venv-vllm)."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from workers import protocol


def main() -> None:
    spec = json.loads(sys.argv[1])
    path, threads = spec.pop("path"), spec.pop("threads")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    from vllm import LLM, SamplingParams
    from workload import Workload, answers, messages

    work = Workload(**spec)
    llm = LLM(model=path, dtype="float32", max_model_len=1024, enforce_eager=True)
    chats = messages(work, work.sequences // work.samples, seed=1)
    tokenizer = llm.get_tokenizer()
    texts = [
        tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True)
        for c in chats
        for _ in range(work.samples)
    ]
    limits = answers(work)

    def unit(most: int = 256) -> dict[str, int]:
        params = [
            SamplingParams(temperature=1.0, max_tokens=n, min_tokens=n, ignore_eos=True, logprobs=0)
            for n in (min(n, most) for n in limits)
        ]
        outputs = llm.generate(texts, params, use_tqdm=False)
        return {"tokens": sum(len(o.outputs[0].token_ids) for o in outputs)}

    protocol.serve(unit, warm=lambda: unit(4))


if __name__ == "__main__":
    main()
