"""Conversations: replies that continue the policy's own turn, cut episodes, keys, workspaces, and forks at any turn."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from talking import Chain, Keyed, Linked, Stored, Talker, rolled, scripted

from anypo.control.base import Ask
from anypo.data.content import Media
from anypo.data.records import ACTION, CONTEXT, FAILED, FINISHED, OBSERVATION, SHOWN, STATES, TRUNCATED, Tokens, key_id
from anypo.data.stored import plain, restore
from anypo.engine.base import Completion, Sampling
from anypo.errors import UserError
from anypo.generate import EntropyForks, Independent, ReRolled, SegmentTree, Vine
from anypo.generate.base import World, check_task
from anypo.generate.conversation import Episode, converse, play
from anypo.generate.resume import Start, decisions, first_decision, resume
from anypo.run.disk import checkpoint, rollouts
from anypo.scoring import Heldout
from anypo.tasks import Problem, Reply, State


def task_of(replies, **fields):
    """A task whose single problem gets these replies in turn."""

    class Scripted:
        def __init__(self):
            self.left = iter(replies)

        def reset(self):
            return ({"role": "user", "content": "q"},)

        def step(self, text, tokens=0, limit=0):
            return next(self.left)

    return SimpleNamespace(
        name="scripted",
        weights={"r": 1.0},
        outcome="r",
        train=lambda i: Problem(5, ({"role": "user", "content": "q"},)),
        environment=lambda problem: Scripted(),
        **fields,
    )


def played(replies, texts, turns=5, max_new=8, stop=(), workspace=None):
    task, sampler = task_of(replies), scripted(*texts)
    episodes = [Episode(task.train(0), sample=2, seed=(1,))]
    sampling = Sampling(max_new=max_new, stop=stop)
    return converse(episodes, task, Talker(), sampler, sampling, turns, workspace)[0], sampler.asked


def said(trajectory, role):
    return Talker().decode(trajectory.content.tokens[trajectory.content.roles == role])


def test_a_tool_answers_inside_the_policys_own_turn():
    """retool: nothing of the template stands between what was said, the tool's output, and what is said next."""
    replies = [Reply({"r": 0.25}, False, append="xy"), Reply({"r": 1.0})]
    (trajectory,), asked = played(replies, ["ab)", "c"], stop=(")",))
    tokens, roles = trajectory.content.tokens.tolist(), trajectory.content.roles.tolist()
    assert tokens == [27, 17, 28, 1, 2, 29, 24, 25, 3, 0]
    assert roles == [CONTEXT] * 3 + [ACTION] * 3 + [OBSERVATION] * 2 + [ACTION] * 2
    assert asked[1].tokens.tolist() == tokens[:8] and asked[1].seed == (1, 1)
    assert asked[1].sampling.max_new == 8 - 3  # one answer, one budget
    assert trajectory.turn.tolist() == [0, 0, 0, 1, 1] and trajectory.reward == 1.25
    assert trajectory.extra["turn_rewards"] == (0.25, 1.0) and len(trajectory) == 5


def test_a_turn_that_tools_filled_is_cut_off_and_the_next_one_has_its_budget_again():
    (trajectory,), _ = played([Reply({"r": 0.0}, False, append="x")] * 2, ["ab)", "abc)"], max_new=7, stop=(")",))
    assert trajectory.finish == TRUNCATED and len(trajectory) == 7
    shown = ({"role": "user", "content": "u"},)
    replies = [Reply({}, False, append="x"), Reply({}, False, shown), Reply({})]
    (trajectory,), asked = played(replies, ["ab)", "a", "b"], stop=(")",))
    assert [r.sampling.max_new for r in asked] == [8, 5, 8] and trajectory.finish == FINISHED


def test_a_turn_that_a_stop_string_ended_is_closed_as_the_template_does():
    """The end-of-sequence token that the policy did not write belongs to what is appended."""
    shown = ({"role": "user", "content": "u"},)
    for text, wanted in (("ab", [1, 2, 0, 27, 21, 28]), ("ab)", [1, 2, 29, 0, 27, 21, 28])):
        (trajectory,), _ = played([Reply({}, False, shown), Reply({})], [text, "c"], stop=(")",))
        assert trajectory.content.tokens.tolist() == [27, 17, 28, *wanted, 3, 0]


def test_an_environment_can_cut_an_episode_off():
    (trajectory,), asked = played([Reply({"r": 1.0}, True, truncated=True)], ["ab"])
    assert trajectory.finish == TRUNCATED and trajectory.truncated and trajectory.reward == 1.0 and len(asked) == 1


def test_keys_are_ids_of_the_turns_decisions():
    shown = ({"role": "user", "content": "u"},)
    replies = [Reply({}, False, shown, keys={"state": 4, "kind": "look"}), Reply({}, keys={"state": ("x", 1)})]
    (trajectory,), _ = played(replies, ["ab", "c"])
    keys = trajectory.keys
    assert keys["state"].tolist() == [4, 4, 4, key_id(("x", 1)), key_id(("x", 1))]
    assert keys["kind"].tolist() == [key_id("look")] * 3 + [-1] * 2 and keys["kind"].dtype == np.int64
    assert not played([Reply({})], ["a"])[0][0].keys


def test_an_environment_that_breaks_costs_its_own_trajectory():
    class Half(Chain):
        def environment(self, problem):
            environment = super().environment(problem)
            if problem.prompt == 101:
                environment.step = lambda *_: 1 / 0
            return environment

    groups, _ = rolled(Independent(turns=4, max_new=6), Half())
    broken, whole = groups[1].trajectories, groups[0].trajectories
    assert all(t.finish == FAILED and "ZeroDivisionError" in t.extra["failed"] and t.reward == 0 for t in broken)
    assert all(t.finish != FAILED for t in whole) and all(len(t) for t in broken)


# -- workspaces ------------------------------------------------------------------------------------------------------------------


def chat(*words):
    return [Reply({"r": 0.5}, False, ({"role": "user", "content": w},)) for w in words] + [Reply({"r": 1.0})]


def test_rebuild_makes_a_trajectory_of_every_turn():
    from anypo.generate.workspace import Rebuild

    made, asked = played(chat("u", "v"), ["aa", "bb", "cc"], workspace=Rebuild())
    assert [said(t, CONTEXT) for t in made] == ["q", "qu", "qv"] and [t.text for t in made] == ["aa", "bb", "cc"]
    assert [t.content.tokens.tolist()[:-3] for t in made] == [r.tokens.tolist() for r in asked]
    assert [r.seed for r in asked] == [(1, 0), (1, 1), (1, 2)]
    for number, trajectory in enumerate(made):
        assert trajectory.keys == {"episode": 2}
        assert trajectory.turn.tolist() == [number] * 3 and trajectory.sample == 2
        assert trajectory.reward == 2.0 and trajectory.finish == FINISHED  # the whole episode's
    assert [t.extra["turn_rewards"] for t in made] == [(0.5,), (0.5,), (1.0,)]
    short, _ = played(chat("u", "v"), ["aa", "bb"], turns=2, workspace=Rebuild())
    assert [t.finish for t in short] == [FINISHED, TRUNCATED]


def test_a_window_grows_until_it_is_full():
    from anypo.generate.workspace import Window

    made, _ = played(chat("u", "v", "w"), ["aa", "bb", "cc", "aa"], workspace=Window(turns=1))
    assert [t.text for t in made] == ["aabb", "cc", "aa"]
    assert [said(t, CONTEXT) for t in made] == ["q", "qbbv", "qccw"] and said(made[0], OBSERVATION) == "u"
    assert made[0].turn.tolist() == [0] * 3 + [1] * 3 and made[2].turn.tolist() == [3] * 3
    whole, _ = played(chat("u", "v", "w"), ["aa", "bb", "cc", "aa"], workspace=Window(turns=3))
    plain_, _ = played(chat("u", "v", "w"), ["aa", "bb", "cc", "aa"])
    assert len(whole) == 1 and whole[0].content.tokens.tolist() == plain_[0].content.tokens.tolist()


def test_what_is_shown_when_sampling_stands_before_every_new_context():
    from anypo.generate.workspace import Rebuild

    task, sampler = task_of(chat("u")), scripted("aa", "bb")
    episode = Episode(task.train(0), 0, (1,), shown=({"role": "user", "content": "h"},))
    (made,) = converse([episode], task, Talker(), sampler, Sampling(8), 2, Rebuild())
    assert [Talker().decode(r.tokens) for r in sampler.asked] == ["hq", "hqu"]
    assert [said(t, CONTEXT) for t in made] == ["q", "qu"] and all(t.guidance == SHOWN for t in made)
    assert [t.content.shown.tolist() for t in made] == [r.tokens.tolist() for r in sampler.asked]


def test_a_context_that_does_not_fit_costs_its_episode_only():
    from anypo.generate.workspace import Rebuild

    made, _ = played(chat("z" * 300), ["aa", "bb"], workspace=Rebuild())
    assert [t.finish for t in made] == [TRUNCATED] and made[0].text == "aa"


def test_groups_hold_all_turns_and_evaluation_sees_the_same_contexts():
    part = Independent(turns=4, max_new=6, workspace="rebuild")
    groups, world = rolled(part, Chain())
    assert all({t.keys["episode"] for t in g.trajectories} == {0, 1, 2} for g in groups)
    assert max(len(g.trajectories) for g in groups) > 3
    contexts = []
    for method in (part.replace(workspace="accumulate"), part):
        world.sampler = Keyed()
        found = Heldout(size=4).score(world, method, 0)
        contexts.append(max(len(r.tokens) for r in world.sampler.requests))
        assert len(found.trajectories) == 4 and found.details["length"] > 0
    assert contexts[1] < contexts[0]


def test_workspaces_are_parts_of_an_algorithm():
    from anypo.algorithm import Algorithm

    algorithm = Algorithm().set({"generate.workspace": {"part": "window", "turns": 2}}).check()
    assert Algorithm.from_yaml(algorithm.yaml()) == algorithm and algorithm.generate.workspace.turns == 2
    tree = Algorithm(generate=Vine(workspace="rebuild"))
    with pytest.raises(UserError, match="to accumulate"):
        tree.check()


# -- forks ------------------------------------------------------------------------------------------------------------------------


def stored(value):
    return type("Task", (Chain,), {"stored": value})()


def assert_consistent(trajectory, task):
    """Playing the trajectory's own texts through a new environment gives its rewards, observations and keys."""
    environment = task.environment(task.train(trajectory.prompt - 100))
    policy, tokens = Talker(), policy_tokens(trajectory)
    content = trajectory.content.tokens.tolist()
    wanted = policy.encode(environment.reset()).tolist()
    earned, states = 0.0, []
    for turn in range(int(trajectory.turn.max()) + 1):
        own = tokens[trajectory.turn == turn]
        reply = environment.step(policy.decode(own))
        wanted += own.tolist()
        earned += reply.rewards["a"]
        states += [reply.keys["state"]] * len(own)
        if own[-1] == 0 and not reply.done:
            wanted += policy.continue_with(reply.messages).tolist()
    assert content == wanted and trajectory.rewards == {"a": earned} and trajectory.reward == 0.5 * earned
    assert trajectory.keys["state"].tolist() == states
    assert len(trajectory.extra["turn_rewards"]) == turn + 1
    assert sum(trajectory.extra["turn_rewards"]) == trajectory.reward
    assert trajectory.text == "".join(policy.decode(tokens[trajectory.turn == k]) for k in range(turn + 1))


def policy_tokens(trajectory):
    return np.asarray(decisions(trajectory))


@pytest.mark.parametrize("value", [False, True])
def test_continuing_from_every_decision_of_every_turn(value):
    """With the random numbers of the original, the continuation is the original; with others it agrees up to the cut."""
    task = stored(value)
    world = World(task, Talker(), Keyed())
    sampling = Sampling(max_new=6)
    (root,) = resume([Start(task.train(0), (11,))], world, sampling, turns=4, keep=True)
    for seed in range(12, 40):
        if root.turn.max() == 3 and not root.truncated:
            break
        (root,) = resume([Start(task.train(0), (seed,))], world, sampling, turns=4, keep=True)
    assert root.turn.max() == 3
    assert_consistent(root, task)
    (same,) = play([Episode(task.train(0), 0, (seed - 1,))], task, world.policy, world.sampler, sampling, 4)
    assert same.content.tokens.tolist() == root.content.tokens.tolist()
    for cut in range(len(root)):
        start = Start(task.train(0), (77, cut), root, cut, sample=1, parent=0, fork=cut)
        (child,) = resume([start], world, sampling, turns=4, keep=True)
        assert (decisions(child)[:cut] == decisions(root)[:cut]).all() and (child.logp[:cut] == root.logp[:cut]).all()
        assert (child.turn[:cut] == root.turn[:cut]).all() and child.fork == cut
        assert_consistent(child, task)
        if first_decision(root, start.turn) == cut and cut:  # a turn's first decision: only the key tells them apart
            (twin,) = resume([Start(task.train(0), (seed - 1,), root, cut)], world, sampling, turns=4)
            assert twin.content.tokens.tolist() == root.content.tokens.tolist() and twin.rewards == root.rewards
            np.testing.assert_array_equal(twin.logp, root.logp)


@pytest.mark.parametrize("value", [False, True])
@pytest.mark.parametrize(
    "part",
    [
        SegmentTree(branching=(2, 2, 2), segment=4, max_new=6, turns=4),
        EntropyForks(trees=2, forks=3, branches=2, max_new=6, turns=4),
        Vine(states=3, max_new=6, turns=4),
        ReRolled(below=0.9, interval=2, continuations=2, max_new=6, turns=4),
    ],
)
def test_trees_fork_in_any_turn(part, value):
    task = stored(value)
    groups, _ = rolled(part, task)
    turns = set()
    for group in groups:
        for trajectory in group.trajectories:
            assert_consistent(trajectory, task)
            if 0 < trajectory.fork < len(trajectory):
                turns.add(int(trajectory.turn[trajectory.fork]))
            if trajectory.parent >= 0:
                mother, n = group.trajectories[trajectory.parent], trajectory.fork
                assert (decisions(mother)[:n] == decisions(trajectory)[:n]).all()
    assert isinstance(part, ReRolled) or max(turns) >= 2


def test_stored_states_spare_the_replay():
    task = stored(True)
    world = World(task, Talker(), Keyed())
    root = None
    for seed in range(40):
        (root,) = resume([Start(task.train(0), (seed,))], world, Sampling(6), turns=4, keep=True)
        if root.turn.max() == 3:
            break
    before = Stored.steps
    cut = first_decision(root, 3)
    resume([Start(task.train(0), (5,), root, cut)], world, Sampling(6), turns=4)
    assert Stored.steps == before + 1 and len(root.extra[STATES]) == 4


def test_a_task_that_cannot_be_restored_is_refused_by_name_and_before_loading(monkeypatch):
    task = stored(False)
    task.restores = False
    tree = SegmentTree(branching=(2, 2), segment=4, max_new=6, turns=4)
    with pytest.raises(UserError, match="generate \\(segment_tree\\) cannot work on task 'chain'"):
        check_task(tree, task)
    check_task(tree.replace(turns=1), task)
    check_task(Independent(turns=4), task)
    with pytest.raises(UserError, match="cannot be taken up again"):
        rolled(tree, task)
    rolled(tree.replace(turns=1), task)  # the beginning can always be had

    from anypo.run import session

    monkeypatch.setattr("anypo.tasks.load", lambda spec: task)
    monkeypatch.setattr("anypo.policies.loading.load", lambda *_, **__: pytest.fail("a model was loaded"))
    algorithm = session.resolve("grpo", "m", {"generate": tree.dump()}, task="sums")
    quiet = SimpleNamespace(phase=lambda *_: None, note=lambda *_: None)
    with pytest.raises(UserError, match="cannot work on task"):
        session.Session(algorithm, None, quiet)


def test_an_episode_can_begin_in_a_state():
    task = stored(False)
    world = World(task, Talker(), Keyed())
    begun = State((), rewards={})
    problem = task.train(1)
    (plainly,) = play([Episode(problem, 0, (3,), start=begun)], task, world.policy, world.sampler, Sampling(6), 4)
    (same,) = play([Episode(problem, 0, (3,))], task, world.policy, world.sampler, Sampling(6), 4)
    assert plainly.content.tokens.tolist() == same.content.tokens.tolist()
    from anypo.tasks import Action

    later = State((Action("aab", 4, 6),))
    (rest,) = play([Episode(problem, 0, (3,), start=later)], task, world.policy, world.sampler, Sampling(6), 4)
    assert said(rest, CONTEXT) == "ab" + "aab" + "zzy"  # the conversation so far
    assert rest.rewards["a"] == 2.0 + rest.text.count("a")  # and what was earned in it


# -- content ----------------------------------------------------------------------------------------------------------------------


def test_media_are_refused_before_sampling_and_recorded_where_they_can_be_read(tmp_path):
    image = Media("image", np.arange(12, dtype=np.uint8).reshape(2, 2, 3), tokens=2)

    class Pictures(Linked):
        def reset(self):
            super().reset()
            return ({"role": "user", "content": ["ab", image]},)

    class Gallery(Chain):
        def environment(self, problem):
            return Pictures(problem)

    class Seeing(Talker):
        media = frozenset({"image"})

        def letters(self, content):
            whole = [content] if isinstance(content, str) else content
            return [
                t for p in whole for t in ([30] * p.tokens if isinstance(p, Media) else super(Seeing, self).letters(p))
            ]

    sampler = Keyed()
    part = Independent(max_new=4)
    from anypo.context import Context, Memory

    with pytest.raises(UserError, match="task 'chain' shows content of kind 'image'"):
        part.rollout([Ask(0, 2)], World(Gallery(), Talker(), sampler), Context(0, 1, 0, Memory(part)))
    assert not sampler.requests
    (group,) = part.rollout([Ask(0, 2)], World(Gallery(), Seeing(), sampler), Context(0, 1, 0, Memory(part)))
    trajectory = group.trajectories[0]
    assert isinstance(trajectory.content, Tokens) and trajectory.content.media == (image,)
    assert trajectory.content.tokens.tolist()[:5] == [27, 1, 2, 30, 30]
    assert rollouts.table(0, [group]).to_pylist()[0]["media"] == ["image"]
    checkpoint.save(tmp_path / "c", 0, {"t": plain(trajectory)})
    back = restore(checkpoint.load(tmp_path / "c")["t"])
    assert back.content.media[0].kind == "image" and (back.content.media[0].data == image.data).all()


# -- a real chat format --------------------------------------------------------------------------------------------------------


NUMBERED = (
    "{% for m in messages %}[{{ loop.index }} {{ m['role'] }}] {{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}[{{ messages | length + 1 }} assistant] <think>{% endif %}"
)


class Written:
    """Says the texts of a chat format in turn; ``|`` at a text's end stands for the end of the turn."""

    def __init__(self, chat, *texts):
        self.chat, self.texts = chat, list(texts)

    def generate(self, requests):
        text = self.texts.pop(0)
        tokens = self.chat.answer(text[:-1]) if text.endswith("|") else self.chat.words(text)
        zeros = np.zeros(len(tokens))
        return [Completion(tokens, zeros, zeros, zeros, np.zeros(len(tokens), np.int64), "stop")]


def conversed(opening, texts, replies, stop=()):
    from anypo.policies.language import tiny
    from anypo.policies.language.chat import Chat

    tokenizer = tiny.tokenizer(400)
    tokenizer.chat_template = NUMBERED
    chat = Chat(tokenizer)
    chat.context, heard = 400, []

    class Scripted:
        def __init__(self, problem):
            self.problem, self.left = problem, iter(replies)

        def reset(self):
            return self.problem.messages

        def step(self, text, tokens=0, limit=0):
            heard.append((text, self.problem.opened))
            return next(self.left)

    task = SimpleNamespace(name="scripted", weights={}, outcome="", environment=Scripted)
    episode = Episode(Problem(5, tuple(opening)), sample=0, seed=(1,))
    (trajectory,) = converse([episode], task, chat, Written(chat, *texts), Sampling(max_new=50, stop=stop), 5)[0]
    return tokenizer.decode(trajectory.content.tokens), heard


def test_turns_are_closed_once_and_counted_on_however_they_ended():
    """A sampled end is not written again, a stop string's turn is closed, and the template sees the whole history."""
    ask = {"role": "user", "content": "q"}
    more = Reply({}, False, ({"role": "user", "content": "on<eos>"},))
    text, _ = conversed([ask], ["one.", "two|", "three|"], [more, more, Reply({})], stop=(".",))
    assert text == (
        "[1 user] q<eos>\n[2 assistant] <think>one.<eos>\n[3 user] on<eos><eos>\n[4 assistant] <think>two<eos>\n"
        "[5 user] on<eos><eos>\n[6 assistant] <think>three<eos>"
    )


def test_what_the_turn_was_begun_with_is_heard():
    """A text that the data put into the policy's mouth belongs to its turn; what the template opens is said beside it."""
    begun = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "Let me see. "}]
    more = Reply({}, False, ({"role": "user", "content": "and?"},))
    text, heard = conversed(begun, ["4|", "5|"], [more, Reply({})])
    assert text.startswith(
        "[1 user] q<eos>\n[2 assistant] Let me see. 4<eos>\n[3 user] and?<eos>\n[4 assistant] <think>5"
    )
    assert heard == [("Let me see. 4", ""), ("5", "")]
    assert conversed(begun[:1], ["4|"], [Reply({})])[1] == [("4", "<think>")]
