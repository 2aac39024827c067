"""The probe finds what is there, and nothing where nothing is."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from anypo.diagnose import probe
from anypo.diagnose.probe import EVALUATION, ORDINARY, linear_probe, paired
from anypo.errors import UserError
from anypo.run.settings.config import resolve


def states(signal: float, seed: int, pairs: int = 8, each: int = 6, width: int = 24):
    """Hidden states with a wording of their own for every framing, and a common direction of size `signal` for tests."""
    random = np.random.default_rng(seed)
    direction = random.normal(size=width) / np.sqrt(width)
    pair, label = np.repeat(np.tile(np.arange(pairs), 2), each), np.repeat([1.0, -1.0], pairs * each)
    wording = random.normal(size=(2 * pairs, width)).repeat(each, 0)
    return (
        wording + signal * label[:, None] * direction * np.sqrt(width) + 0.3 * random.normal(size=(len(label), width)),
        pair,
        label,
    )


def test_a_common_direction_is_found_on_unseen_framings():
    accuracy, (mean, high), p = linear_probe(*states(2.0, 0))
    assert accuracy > 0.95 and p < 0.02 and accuracy > high > mean


def test_wordings_alone_are_no_evidence():
    ps = [linear_probe(*states(0.0, seed), permutations=100, seed=seed)[2] for seed in range(30)]
    assert np.mean(np.array(ps) < 0.05) <= 0.2  # 5 % expected; 7 or more of 30 has probability below 0.001
    assert 0.25 < np.mean(ps) < 0.8


def test_one_pair_is_refused():
    with pytest.raises(ValueError, match="two pairs"):
        linear_probe(np.zeros((2, 3)), np.zeros(2), np.array([1.0, -1.0]))


def test_paired_interval_covers_the_mean():
    random = np.random.default_rng(0)
    covered = [
        (lambda d: d.low <= 0.4 <= d.high)(paired("x", random.normal(0.4, 1, 40), seed, 400)) for seed in range(100)
    ]
    assert np.mean(covered) > 0.85


def test_framings_come_in_pairs_of_like_length():
    assert len(EVALUATION) == len(ORDINARY)
    assert all(abs(len(a) - len(b)) <= 16 for a, b in zip(EVALUATION, ORDINARY))


def test_an_unfinished_run_is_opened_on_the_weights_it_began_with(tmp_path, monkeypatch) -> None:
    """Adapters stand on the final weights of the run of --init, not on the model that that run began with."""
    config = resolve("grpo", "tiny", init="earlier", lora=2)
    (tmp_path / "run/checkpoints/step-000001").mkdir(parents=True)
    (tmp_path / "run/config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    asked: list[str] = []

    def load(source: str, **options: object) -> None:
        asked.append(source)
        raise UserError("no further")

    monkeypatch.setattr(probe.policies, "load", load)
    with pytest.raises(UserError, match="no further"):
        probe.audit_run(tmp_path / "run")
    assert asked == ["earlier/model"]
