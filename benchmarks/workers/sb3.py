"""PPO or SAC of stable-baselines3 with its own defaults but for what the job says; prints learning returns, the final score and the
seconds of a core per step."""

from __future__ import annotations

import json
import sys
import time

import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback


class Returns(BaseCallback):
    """Returns of the episodes that ended, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.returns: list[float] = []

    def _on_step(self) -> bool:
        self.returns += [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        return True


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    watch = Returns()
    method = {"ppo": PPO, "sac": SAC}[job["method"]]
    model = method("MlpPolicy", gymnasium.make(job["environment"]), seed=job["seed"], device="cpu")
    began = time.process_time()
    model.learn(job["steps"], callback=watch)
    cost = (time.process_time() - began) / job["steps"]
    environment = gymnasium.make(job["environment"])
    scores = []
    for episode in range(job["episodes"]):
        observation, _ = environment.reset(seed=10_000 + episode)
        total, over = 0.0, False
        while not over:
            action, _ = model.predict(observation, deterministic=True)
            observation, reward, terminated, truncated, _ = environment.step(action)
            total, over = total + float(reward), terminated or truncated
        scores.append(total)
    print(json.dumps({"learning": float(np.mean(watch.returns)), "score": float(np.mean(scores)), "ms": 1000 * cost}))


if __name__ == "__main__":
    main()
