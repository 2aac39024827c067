"""Other models by role: what a spec means, what each kind can do, and what is refused before anything is loaded."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from making_systems import BED

from anypo import policies
from anypo.algorithm import Algorithm
from anypo.data.batch import Batch
from anypo.data.records import ACTION, CONTEXT, Tokens, Trajectory
from anypo.engine.base import Sampling
from anypo.engine.config import Local
from anypo.errors import UserError
from anypo.filter.base import Screen, Survival
from anypo.roles import Cast, Model, cast, check, recast
from anypo.roles.casting import kind
from anypo.roles.program import Program
from anypo.roles.server import Server
from anypo.roles.weights import Initial, Speaker, Weights
from anypo.run.record import provenance
from anypo.run.trainer import Trainer
from anypo.tasks.base import Problem

SMALL = {"model": "tiny", "layers": 1, "hidden": 32, "intermediate": 48}
HI = ({"role": "user", "content": "hi"},)
BYE = ({"role": "system", "content": "short"}, {"role": "user", "content": "bye"})


def one(spec: str, policy: Any = None, sampler: Any = None, role: str = "teacher") -> Model:
    return cast([Cast(role=role, model=spec)], policy, sampler)[role]


def some_batch(seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    made = []
    for n in (3, 5):
        tokens = rng.integers(5, 60, 4 + n).astype(np.int32)
        roles = np.array([CONTEXT] * 4 + [ACTION] * n, dtype=np.int8)
        made.append(Trajectory(1, Tokens(tokens, roles), np.zeros(n), np.zeros(n, dtype=np.int64)))
    return Batch.of(made, [0, 0], 1)


def nudge(policy: Any) -> None:
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))


@pytest.mark.parametrize(
    ("spec", "sort"),
    [
        ("self", Speaker),
        ("frozen", Initial),
        ("smollm2-135m", Weights),
        ("runs/one", Weights),
        ("org/name", Weights),
        ("http://127.0.0.1:8000/v1#big", Server),
        ("package.module:function", Program),
    ],
)
def test_a_spec_says_what_sort_of_model_it_means(spec: str, sort: type[Model]) -> None:
    assert kind(spec) is sort
    assert Cast(role="judge", model=spec).provided() == {"model:judge", *(f"model:judge:{a}" for a in sort.able)}


def test_the_policy_itself_and_its_first_state_answer_and_score() -> None:
    policy = policies.load(SMALL, seed=1)
    sampler, batch = Local().sampler(policy), some_batch()
    live, first = one("self", policy, sampler), one("frozen", policy, sampler)
    first.begin()
    before = policy.fill(batch, ["logp"], grad=False)["logp"]
    said = live.ask([HI, BYE], Sampling(6), (7,))
    assert said == first.ask([HI, BYE], Sampling(6), (7,)) and len(said) == 2
    assert said != live.ask([HI, BYE], Sampling(6), (8,)), "the key decides the random numbers"
    nudge(policy)
    policy.version += 1
    now = policy.fill(batch, ["logp"], grad=False)["logp"]
    assert not torch.allclose(before, now)
    assert torch.equal(live.fill(batch, ["logp"])["logp"], now)
    assert torch.equal(first.fill(batch, ["logp"])["logp"], before)
    assert first.ask([HI, BYE], Sampling(6), (7,)) == said
    assert not live.fill(batch, ["logp"], grad=True)["logp"].requires_grad


def test_a_question_longer_than_the_context_names_the_role() -> None:
    policy = policies.load(SMALL | {"context": 64}, seed=1)
    model = one("self", policy, Local().sampler(policy), role="summariser")
    with pytest.raises(
        UserError, match=r"the summariser \(self\): a prompt has .* another model with --model-as summariser=PATH"
    ):
        model.ask([HI, ({"role": "user", "content": "long " * 20},)], Sampling(4), (0,))


def test_the_first_state_survives_a_checkpoint_and_the_others_need_none() -> None:
    policy = policies.load(SMALL, seed=1)
    first, batch = one("frozen", policy, None), some_batch()
    first.begin()
    nudge(policy)
    again = one("frozen", policy, None)
    again.load_state_dict(first.state_dict())
    assert torch.equal(again.fill(batch, ["logp"])["logp"], first.fill(batch, ["logp"])["logp"])
    assert one("self", policy, None).state_dict() == {}


def test_other_weights_come_from_folders_and_runs_and_their_hash_goes_into_the_manifest(tmp_path: Any) -> None:
    teacher, policy, batch = policies.load(SMALL, seed=2), policies.load(SMALL, seed=1), some_batch()
    teacher.save(tmp_path / "run/model")
    (tmp_path / "run/config.yaml").write_text("system: grpo\n")
    wanted = teacher.fill(batch, ["logp"], grad=False)["logp"]
    for spec in (str(tmp_path / "run"), str(tmp_path / "run/model")):
        found = one(spec, policy)
        assert "policy" not in vars(found), "nothing is loaded before it is needed"
        assert torch.equal(found.fill(batch, ["logp"])["logp"], wanted)
        about = provenance.describe_models({"teacher": found})["teacher"]
        assert about["sha256"] == provenance.sha256(teacher.state_dict()) and about["model"] == spec
        assert about["parameters"] == teacher.describe()["parameters"]
    assert len(one(spec, policy).ask([HI], Sampling(4), (0,))) == 1
    assert "sha256" not in provenance.describe_models({"me": one("self", policy, None)})["me"]


def test_a_teacher_with_another_vocabulary_does_not_score_but_may_speak(tmp_path: Any) -> None:
    policies.load(SMALL, seed=2).save(tmp_path / "other")
    stranger = SimpleNamespace(tokenizer=SimpleNamespace(get_vocab=lambda: {"a": 0}), parameters=lambda: iter(()))
    found = one(str(tmp_path / "other"), stranger)
    assert len(found.ask([HI], Sampling(3), (0,))) == 1
    with pytest.raises(UserError, match=r"the teacher \(.*other\) has another vocabulary than the policy"):
        found.fill(some_batch(), ["logp"])


def test_a_program_gets_texts_and_gives_texts_or_numbers() -> None:
    program = one("programs_in_roles:loud", role="judge")
    assert (
        program.ask([HI, BYE], Sampling(), (0,)) == ["HI", "SHORT\n\nBYE"] and program.ask([], Sampling(), (0,)) == []
    )
    problems = [Problem(1, HI), Problem(2, BYE)]
    assert one("programs_in_roles:sizes").predict(problems).tolist() == [2.0, 10.0]
    assert len(program.describe()["source_sha256"]) == 64


@pytest.mark.parametrize(
    ("spec", "ability", "says"),
    [
        ("programs_in_roles:one_too_few", "ask", r"must answer 2 texts with as many texts.*gave 1 values of type str"),
        ("programs_in_roles:sizes", "ask", r"gave 2 values of type int"),
        ("programs_in_roles:loud", "predict", r"as many numbers.*of type str"),
        (
            "programs_in_roles:broken",
            "ask",
            r"the teacher \(programs_in_roles:broken\) failed: ValueError: out of ideas",
        ),
        ("programs_in_roles:loud", "fill", r"cannot score tokens; it can only answer questions and judge problems"),
        ("http://127.0.0.1:9/v1", "predict", r"cannot judge problems.*it can only answer questions"),
    ],
)
def test_what_a_model_cannot_do_is_said_in_a_sentence(spec: str, ability: str, says: str) -> None:
    model = one(spec)
    calls = {
        "ask": lambda: model.ask([HI, BYE], Sampling(), (0,)),
        "predict": lambda: model.predict([Problem(1, HI), Problem(2, BYE)]),
        "fill": lambda: model.fill(some_batch(), ["logp"]),
    }
    with pytest.raises(UserError, match=says):
        calls[ability]()


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("no.such.module:function", r"cannot be imported: ModuleNotFoundError"),
        ("programs_in_roles:absent", r"cannot be imported: AttributeError"),
        ("programs_in_roles:NOTHING", r"cannot be imported: TypeError"),
        ("./nowhere", r"the judge is to be ./nowhere, and there is no such folder"),
        ("/no/such/folder", r"there is no such folder"),
        ("frozn", r"is no model. Did you mean 'frozen'"),
        ("tinny", r"is no model. Did you mean 'tiny'"),
    ],
)
def test_a_model_that_cannot_be_had_is_refused_before_it_is_needed(spec: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        check([Cast(role="judge", model=spec)])
    check([Cast(role="judge", model="self"), Cast(role="teacher", model="http://127.0.0.1:9/v1")])


def test_a_run_without_final_weights_is_refused(tmp_path: Any) -> None:
    (tmp_path / "config.yaml").write_text("system: grpo\n")
    with pytest.raises(UserError, match="has no final weights"):
        check([Cast(role="teacher", model=str(tmp_path))])


def test_models_replace_those_in_their_role_and_new_roles_come_behind() -> None:
    given = (Cast(role="judge", model="self"), Cast(role="teacher", model="frozen"))
    found = recast(given, {"teacher": "tiny", "critic": "a:b"})
    assert [(c.role, c.model) for c in found] == [("judge", "self"), ("teacher", "tiny"), ("critic", "a:b")]
    assert recast(given, {}) == given
    with pytest.raises(UserError, match=r"cast: field 'role' = 'Teacher'"):
        recast((), {"Teacher": "self"})
    with pytest.raises(UserError, match="this name means the policy itself"):
        recast((), {"old": "self"})


# -- a server ------------------------------------------------------------------------------------------------------------------------


class Chat(BaseHTTPRequestHandler):
    asked: ClassVar[list[Any]] = []

    def do_GET(self) -> None:
        self._say({"data": [{"id": "first"}, {"id": "second"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, self.headers.get("Authorization"), body))
        said = body["messages"][-1]["content"]
        self._say({} if said == "nothing" else {"choices": [{"message": {"content": f"you said {said}"}}]})

    def _say(self, value: Any) -> None:
        text = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    http = ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    Chat.asked.clear()
    yield f"http://127.0.0.1:{http.server_address[1]}/v1"
    http.shutdown()
    http.server_close()
    thread.join()


def test_a_server_is_asked_in_chat_and_answers_in_order(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYPO_API_KEY", "open-sesame")
    model = one(f"{server}#big")
    assert model.ask([HI, BYE], Sampling(9, 0.5, stop=("#",)), (4, 2)) == ["you said hi", "you said bye"]
    path, key, body = min(Chat.asked, key=lambda entry: len(entry[2]["messages"]))
    assert path == "/v1/chat/completions" and key == "Bearer open-sesame"
    assert (body["model"], body["max_tokens"], body["temperature"], body["stop"]) == ("big", 9, 0.5, ["#"])
    assert len({entry[2]["seed"] for entry in Chat.asked}) == 2
    assert one(server).describe() == {"model": server, "served as": "first"}
    with pytest.raises(UserError, match="holds no message"):
        model.ask([({"role": "user", "content": "nothing"},)], Sampling(), (0,))


# -- in an algorithm -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def wanting() -> Iterator[type[Survival]]:
    """A part that keeps everything and wants a teacher's column, known by name for as long as the test runs."""

    class Wanting(Survival, name="wanting"):
        reads = frozenset({"logp_teacher"})
        requires = frozenset({"model:teacher", "model:teacher:fill"})

        def keep(self, groups: list[Any], context: Any) -> list[Any]:
            assert set(context.world.models) == {"teacher"}
            return groups

    yield Wanting
    del Survival.parts["wanting"]


def algorithm(part: type[Survival], **models: str) -> Algorithm:
    casts = tuple(Cast(role=role, model=model) for role, model in models.items())
    return BED.adapt(Algorithm(filter=Screen(survival=(part(),)), models=casts))


def test_a_role_that_nobody_plays_or_nobody_asks_for_is_refused(wanting: type[Survival]) -> None:
    algorithm(wanting, teacher="self").check()
    needs = r"filter.survival.0 \(wanting\) needs 'model:teacher'.*--model-as teacher=PATH \(self, frozen, a run folder"
    with pytest.raises(UserError, match=needs):
        algorithm(wanting).check()
    with pytest.raises(
        UserError, match=r"'http://h/v1' cannot score tokens, so choose another --model-as teacher=PATH"
    ):
        algorithm(wanting, teacher="http://h/v1").check()
    with pytest.raises(UserError, match=r"models: nobody asks for a techer; roles of this algorithm: teacher"):
        algorithm(wanting, teacher="self", techer="self").check()
    with pytest.raises(UserError, match=r"models: two models play the teacher; name one"):
        method = algorithm(wanting, teacher="self")
        method.replace(models=method.models * 2).check()
    with pytest.raises(UserError, match=r"nobody asks for a judge; roles of this algorithm: none"):
        Algorithm(models=(Cast(role="judge", model="self"),)).check()


def test_casts_survive_yaml_and_are_set_by_path(wanting: type[Survival]) -> None:
    method = algorithm(wanting, teacher="self")
    assert Algorithm.from_yaml(method.yaml()) == method
    assert method.set({"models.0.model": "frozen"}).models[0].model == "frozen"
    assert "models" in Algorithm.json_schema()["properties"]
    with pytest.raises(UserError, match=r"Did you mean 'models\.0\.model'"):
        method.set({"models.0.modell": "frozen"})


def test_the_teachers_column_is_the_teachers(wanting: type[Survival]) -> None:
    method, world = algorithm(wanting, teacher="frozen"), BED.world(3)
    start = world.policy.frozen()
    world.models = cast(method.models, world.policy, world.sampler)
    for model in world.models.values():
        model.begin()
    trainer = Trainer(method, world, 3, 5)
    for _ in range(3):
        trainer.step()
    batch = trainer.batch
    wanted = start.fill(batch, ["logp"], grad=False)["logp"]
    torch.testing.assert_close(batch["logp_teacher"].double(), wanted, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(batch["logp_teacher"].double(), batch["logp_old"].double(), atol=1e-4)
    state = trainer.state_dict()
    other = BED.world(4)  # other initial weights: the checkpoint brings the teacher's
    other.models = cast(method.models, other.policy, other.sampler)
    again = Trainer(method, other, 3, 5)
    again.load_state_dict(state)
    again.step(), trainer.step()
    assert torch.equal(again.batch["logp_teacher"], trainer.batch["logp_teacher"])
