"""Minari data sets as tasks: every recorded step as it was, the environment it came from, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil

import gymnasium
import numpy as np
import pytest
from contract import check_environment
from recording import metadata, record

from anypo import tasks
from anypo.errors import UserError
from anypo.tasks import Action, environments


@pytest.fixture
def root(monkeypatch, tmp_path):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "sets"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "sets"


def test_every_step_is_there_as_it_was_recorded(root):
    made = record("pole/random-v0", "CartPole-v1", episodes=3, longest=12)
    task = tasks.load("minari:pole/random-v0")
    found, place = task.transitions(), 0
    assert len(found) == sum(len(buffer) for buffer in made)
    for buffer in made:
        for step in range(len(buffer)):
            assert np.array_equal(found.observation[place], buffer.observations[step])
            assert np.array_equal(found.observation_next[place], buffer.observations[step + 1])
            assert (found.action[place], found.reward[place]) == (buffer.actions[step], buffer.rewards[step])
            assert found.terminated[place] == buffer.terminations[step]
            place += 1
    assert found.action.dtype == np.int64 and found.observation.dtype == np.float32
    check_environment(task, task.heldout(0), [Action(array=np.array(n % 2)) for n in range(20)])


@pytest.mark.parametrize(
    ("ends", "cuts", "last"), [(True, False, 1.0), (False, True, 0.0), (True, True, 1.0), (False, False, 0.0)]
)
def test_a_time_limit_and_the_end_of_the_recording_do_not_terminate(root, ends, cuts, last):
    def change(buffer):
        flags = lambda end: np.append(np.zeros(len(buffer) - 1, dtype=bool), end)
        return dataclasses.replace(buffer, terminations=flags(ends), truncations=flags(cuts))

    (buffer,) = record("cut-v0", episodes=1, longest=4, change=change)
    found = tasks.load("minari:cut-v0").transitions()
    assert found.terminated.tolist() == [0.0, 0.0, 0.0, last]
    assert np.array_equal(found.observation_next[-1], buffer.observations[-1])  # the observation after the last step


def test_names_and_folders_lead_to_the_same_data(root, tmp_path):
    record("pendulum/random-v0", longest=3)
    shutil.copytree(root / "pendulum/random-v0", tmp_path / "mine")
    named = tasks.load("minari:pendulum/random-v0")
    for spec in ("minari:mine", "minari:mine/data", "mine", str(tmp_path / "mine")):
        assert environments.is_environment(spec) or spec == "minari:mine/data"
        other = tasks.load(spec)
        assert np.array_equal(other.transitions().action, named.transitions().action)
        assert other.describe()["source"]["sha256"] == named.describe()["source"]["sha256"]
    assert tasks.parse("mine") == {"name": "minari:mine"}
    assert named.name == "pendulum/random-v0" and named.describe()["environment"] == "Pendulum-v1"
    assert not environments.is_environment("sums") and environments.is_environment("ALE/Pong-v5")


def test_the_hash_is_that_of_the_data(root):
    record("one-v0", longest=3)
    task = tasks.load("minari:one-v0")
    before = task.describe()["source"]["sha256"]
    assert before == tasks.load("minari:one-v0").describe()["source"]["sha256"]
    file = metadata(root, "one-v0").parent / "main_data.hdf5"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    assert task.describe()["source"]["sha256"] != before


def test_held_out_episodes_are_those_of_the_evaluation_environment(root):
    record("eval-v0", longest=3, eval_env=gymnasium.make("Pendulum-v1", g=3.0))
    task = tasks.load("minari:eval-v0")
    gravity = lambda problem: task.environment(problem).environment.unwrapped.g
    assert (gravity(task.train(0)), gravity(task.heldout(0))) == (10.0, 3.0)
    options = tasks.load("minari:eval-v0", {"g": 5.0})
    assert options.environment(options.train(0)).environment.unwrapped.g == 5.0


def rewritten(root, **changes):
    file = metadata(root, "some-v0")
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("spec", "changes", "says"),
    [
        ("minari:somme-v0", {}, "unknown Minari data set 'somme-v0'. Did you mean 'some-v0'"),
        ("minari:", {}, "unknown Minari data set ''"),
        ("minari:some-v0", {"env_spec": None}, "does not say which environment"),
        ("minari:some-v0", {"observation_space": '{"type": "Dict", "subspaces": {}}'}, "observes Dict"),
        ("minari:some-v0", {"action_space": '{"type": "MultiDiscrete", "nvec": [2]}'}, "acts with MultiDiscrete"),
        ("minari:some-v0", {"action_space": "nonsense"}, "is damaged"),
        ("minari:some-v0", {"total_steps": 0}, "holds no steps"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_before_it_is_read(root, monkeypatch, spec, changes, says):
    record("some-v0", episodes=1, longest=3)
    rewritten(root, **changes)
    monkeypatch.setattr("minari.MinariDataset", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(UserError, match=says):
        tasks.parse(spec)


def test_without_minari_it_says_what_to_install(root, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'anypo\[control\]'"):
        tasks.parse("minari:any-v0")


def test_data_of_another_environment_are_refused(root):
    record("some-v0", episodes=1, longest=3)
    box = lambda n: json.dumps({"type": "Box", "dtype": "float32", "shape": [n], "low": [-1.0] * n, "high": [1.0] * n})
    rewritten(root, observation_space=box(2))
    with pytest.raises(UserError, match="without changing the spaces"):
        tasks.load("minari:some-v0")
    spec = json.loads(json.loads(metadata(root, "some-v0").read_text())["env_spec"])
    rewritten(root, observation_space=box(3), env_spec=json.dumps(spec | {"entry_point": "nowhere.to:Be"}))
    with pytest.raises(UserError, match="cannot make the environment 'Pendulum-v1'"):
        tasks.load("minari:some-v0")


def test_numbers_that_are_none_are_refused(root):
    broken = lambda buffer: dataclasses.replace(buffer, rewards=np.array([0.0, np.nan, 0.0]))
    record("nan-v0", episodes=1, longest=3, change=broken)
    with pytest.raises(UserError, match="a reward that is no finite number, first in step 1"):
        tasks.load("minari:nan-v0").transitions()
