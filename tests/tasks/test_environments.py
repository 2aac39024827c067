"""Environments: the contract, states that survive a process, user code that breaks, and content a policy cannot read."""

from __future__ import annotations

import pickle
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from contract import check_environment

from anypo import tasks
from anypo.data.content import Media, readable
from anypo.errors import UserError
from anypo.generate.base import World
from anypo.run.acting import Acting
from anypo.run.disk import checkpoint
from anypo.tasks import Action, Problem, Reply
from anypo.tasks.gym import GymTask
from anypo.tasks.live import Live, attempt
from anypo.tasks.unlabelled import Unlabelled


def drawn(task: GymTask, count: int, seed: int = 0) -> list[Action]:
    rng = np.random.default_rng(seed)
    if task.discrete:
        return [Action(array=np.asarray(rng.integers(task.actions.n))) for _ in range(count)]
    shape = task.actions.shape
    low, high = task.actions.low, task.actions.high
    return [Action(array=np.clip(rng.normal(size=shape), low, high).astype(np.float32)) for _ in range(count)]


def trace(environment, actions) -> list:
    """Everything that happens, episodes that end included, as exact numbers."""
    out = []
    for action in actions:
        reply = environment.step(action)
        out.append((reply.rewards["return"].hex(), reply.done, reply.truncated, environment.observation.tobytes()))
        if reply.done or reply.truncated:
            environment.reset()
            out.append(environment.observation.tobytes())
    return out


def full(seat, actions) -> tuple:
    """A seat's account and its future."""
    return (seat.number, seat.episode, seat.earned, seat.length, trace(seat.environment, actions))


ALL = ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "Hopper-v5", "Ant-v5", "HalfCheetah-v5", "Humanoid-v5", "Swimmer-v5"]


@pytest.mark.parametrize("name", ALL)
def test_a_gym_environment_goes_on_exactly_where_it_stood(name, tmp_path, monkeypatch):
    """The state goes through a checkpoint, into an environment that has done other things, and on over ends of episodes."""
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log where it stands
    task = GymTask(name)
    environment, other = task.environment(task.train(0)), task.environment(task.train(0))
    environment.reset(seed=3)
    other.reset(seed=8)
    actions = drawn(task, 330)
    trace(environment, actions[:17])
    trace(other, actions[100:140])
    state = environment.snapshot()
    assert "layers" in state, "replayed, though its state can be seen"
    checkpoint.save(tmp_path / "state", 0, {"state": state})
    wanted = trace(environment, actions[17:])
    other.reset(checkpoint.load(tmp_path / "state")["state"])
    assert other.observation.tobytes() == state["observation"].tobytes()
    assert trace(other, actions[17:]) == wanted


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "Hopper-v5"])
def test_a_world_of_environments_survives_its_process(name, tmp_path):
    """The same floats in a new process as without a break."""
    script = """
import pickle, sys
from test_environments import GymTask, World, Acting, checkpoint, drawn, full
name, path = sys.argv[1:]
task = GymTask(name)
world = World(task, None, Acting())
world.load_state_dict(checkpoint.load(__import__("pathlib").Path(path))["world"])
pickle.dump([full(s, drawn(task, 60, 9)) for s in world.seats], sys.stdout.buffer)
"""
    from anypo.generate.act import Taken
    from anypo.generate.worlds.seats import Seat

    task = GymTask(name)
    world = World(task, None, Acting())
    world.seats = [Seat(task.environment(task.train(0)), number) for number in range(2)]
    for number, seat in enumerate(world.seats):
        seat.begin(7)
        for action in drawn(task, 5 + number, number):
            assert not seat.step(Taken(action.array[None], action.array, np.zeros(1)))
    checkpoint.save(tmp_path / "state", 0, {"world": world.state_dict()})
    wanted = [full(seat, drawn(task, 60, 9)) for seat in world.seats]
    command = [sys.executable, "-c", script, name, str(tmp_path / "state")]
    ran = subprocess.run(command, capture_output=True, check=True, cwd=__file__.rsplit("/", 1)[0])
    assert pickle.loads(ran.stdout) == wanted


class Hidden(gymnasium.Env):
    """A world whose state cannot be seen; `drift`: not even repeated."""

    def __init__(self, drift: bool = False) -> None:
        self.observation_space = gymnasium.spaces.Box(-9.0, 9.0, (1,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float64)
        self.at, self.drift = iter([]), drift

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.value = self.np_random.normal()
        self.at = iter(range(4))
        return np.array([self.value]), {}

    def step(self, action):
        self.value += (
            float(action[0]) + self.np_random.normal() + (np.random.default_rng().random() if self.drift else 0.0)
        )
        return np.array([self.value]), 1.0, next(self.at, None) is None, False, {}


def test_a_hidden_state_is_replayed_and_one_that_drifts_is_refused():
    gymnasium.register("test/Hidden-v0", entry_point=Hidden, max_episode_steps=40)
    task = GymTask("test/Hidden-v0")
    environment, other = (task.environment(task.train(0)) for _ in range(2))
    environment.reset(seed=1)
    actions = drawn(task, 30)
    trace(environment, actions[:8])
    state = environment.snapshot()
    assert "layers" not in state and len(state["actions"]) == 8 - 5
    other.reset(state)
    assert trace(other, actions[8:]) == trace(environment, actions[8:])
    drifting = GymTask("test/Hidden-v0", {"drift": True})
    environment = drifting.environment(drifting.train(0))
    environment.reset(seed=1)
    trace(environment, actions[:3])
    with pytest.raises(UserError, match="cannot be put back"):
        environment.reset(environment.snapshot())


# -- the contract --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "Hopper-v5", "anypo/TabularMDP-v0"])
def test_gym_environments_keep_the_contract(name):
    import anypo.exact.environment  # noqa: F401 - registers the last
    import anypo.exact.mdp as mdp

    task = GymTask(name, {"mdp": mdp.random_mdp(4, 2)} if name.startswith("anypo") else {"max_episode_steps": 20})

    class Seeded:
        """Episodes of one seed."""

        name, weights, outcome = task.name, task.weights, task.outcome

        def environment(self, problem):
            made = task.environment(problem)
            reset = made.reset
            made.reset = lambda start=None: reset(start, 4 if start is None else None)
            return made

    replies = check_environment(Seeded(), task.train(0), drawn(task, 60))
    assert (replies[-1].done or replies[-1].truncated) and replies[-1].observation is not None


def test_text_environments_keep_the_contract():
    game = tasks.load("guess_number", {"turns": 3})
    wrong = [Action("1000", 3, 8)] * 5
    assert len(check_environment(game, game.train(0), wrong)) == 3
    hidden = Unlabelled(game)
    assert len(check_environment(hidden, hidden.train(0), wrong)) == 3
    sums = tasks.load("sums")
    assert check_environment(sums, sums.train(0), [Action(sums.train(0).answer, 2, 8)])[0].rewards == {"correct": 1.0}
    check_environment(Counter(), Counter().train(0), [Action(t) for t in "abcde"])


class Counter:
    """A task of a user who stores states: an environment that counts, in which replaying is impossible."""

    name, weights, outcome, n_heldout = "counter", {"n": 1.0}, "n", 1
    made = 0

    def __len__(self):
        return 1

    def train(self, index):
        return Problem(1, ({"role": "user", "content": "count"},))

    heldout = train

    def environment(self, problem):
        return Counting()


class Counting:
    def __init__(self):
        self.count = 0

    def reset(self, start=None):
        self.count = 0 if start is None else start["count"]
        return ({"role": "user", "content": "count"},)

    def snapshot(self):
        return {"count": self.count}

    def step(self, action):
        self.count += 1
        over = self.count >= 4
        return Reply({"n": float(self.count)}, over, () if over else ({"role": "user", "content": str(self.count)},))


def test_states_that_an_environment_stores_are_not_replayed():
    live = Live(Counter(), Counter().train(0))
    live.reset()
    for text in "ab":
        live.step(Action(text))
    state = live.snapshot()
    assert state.own == {"count": 2} and not state.actions and state.rewards == {"n": 3.0}
    live.reset({"count": 3})  # a start of the environment's own kind
    assert live.rewards == {} and live.step(Action("x")).rewards == {"n": 4.0}


def test_an_environment_that_cannot_be_restored_says_so():
    class Fleeting(Counter):
        restores = False

    live = Live(Fleeting(), Fleeting().train(0))
    live.reset()
    with pytest.raises(UserError, match="'counter' cannot be taken up again"):
        live.snapshot()
    game = tasks.load("guess_number")
    with pytest.raises(UserError, match=r"need reset\(start\)"):
        Live(game, game.train(0)).reset({"level": 1})


# -- user code that breaks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda *_: 1 / 0, "ZeroDivisionError"),
        (lambda *_: {"right": 1.0}, "returned a dict, not a Reply"),
        (lambda *_: Reply([1.0]), "rewards are a list"),
        (lambda *_: Reply({"right": float("nan")}), "reward 'right' is nan"),
        (lambda *_: Reply({"right": None}), "TypeError"),
        (lambda *_: Reply({}, False, ("next",)), "'next' is no message"),
        (lambda *_: Reply({}, False, ({"role": "user", "content": [3]},)), "a int is no content"),
        (lambda *_: Reply({}, False, ({"role": "user", "content": "a"},), append="b"), "not both"),
        (lambda *_: Reply({}, keys={"turn": 1}), "key 'turn' is every rollout's own"),
    ],
)
def test_nonsense_becomes_a_named_failure(answer, said):
    class Bad:
        def step(self, text, tokens=0, limit=0):
            return answer(text)

    reply = attempt(Bad(), Action("x"))
    assert said in reply.failed and reply.failed.startswith("environment: ") and not reply.rewards


def test_mistakes_in_the_settings_are_passed_on():
    class Refusing:
        def step(self, action):
            raise UserError("set the limit")

    with pytest.raises(UserError, match="set the limit"):
        attempt(Refusing(), Action("x"))


def test_an_environment_that_cannot_begin_fails_at_its_first_action():
    class Unready(Counter):
        def environment(self, problem):
            raise OSError("no server")

    live = Live(Unready(), Unready().train(0))
    assert live.reset() == Unready().train(0).messages
    failed = live.step(Action("x")).failed
    assert failed.startswith("environment: reset: OSError: no server (") and f"{__file__}, line " in failed


# -- content ---------------------------------------------------------------------------------------------------------------------


def test_texts_are_joined_and_what_cannot_be_read_is_refused_by_kind():
    image = Media("image", np.zeros((2, 2, 3), dtype=np.uint8), tokens=4)
    plain = {"role": "user", "content": "a"}
    assert readable((plain,), None, "task 't'")[0] is plain
    assert readable(({"role": "user", "content": ["a", "b"]},), None, "task 't'") == (
        {"role": "user", "content": "ab"},
    )
    seen = ({"role": "user", "content": ["look", image]},)
    with pytest.raises(UserError, match="task 't' shows content of kind 'image'"):
        readable(seen, object(), "task 't'")
    with pytest.raises(UserError, match="kind 'array'"):
        readable(({"role": "user", "content": [np.zeros(3)]},), object(), "task 't'")

    class Seeing:
        media = frozenset({"image"})

    assert readable(seen, Seeing(), "task 't'") == seen
