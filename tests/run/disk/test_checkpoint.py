import json
import pickle
from collections import deque

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from anypo.errors import UserError
from anypo.run.disk import checkpoint
from anypo.run.disk.folder import RunFolder


def same(a, b):
    """Equal values of equal types, tensors and arrays bit for bit."""
    assert type(a) is type(b), (type(a), type(b))
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert torch.equal(a.contiguous().flatten().view(torch.uint8), b.contiguous().flatten().view(torch.uint8))
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for left, right in zip(a, b):
            same(left, right)
    else:
        assert a == b or (a != a and b != b)


def test_every_kind_of_state_comes_back(tmp_path):
    torch.manual_seed(0)
    big = torch.randn(6, 8)
    state = {
        "numbers": [1, 2.5, 1e-300, float("nan"), float("inf"), -0.0, 2**62, True, None, 1 + 2j],
        "text": "né\n",
        "bytes": b"\x00\xff",
        "containers": {"tuple": (1, (2, "x")), "set": {1, 2}, 3: "int key", (1, "k"): []},
        "keys": {1: torch.ones(1), "1": torch.zeros(1), "a.b": torch.ones(2), "a": {"b": torch.zeros(2)}},
        "tensors": [big, big.T, big[1:3, ::2], torch.tensor(3.5), torch.zeros(0, 4), torch.tensor([True, False])],
        "types": {str(d): torch.ones(3, dtype=d) for d in (torch.bfloat16, torch.float16, torch.float64, torch.int8)},
        "dtype": torch.bfloat16,
        "arrays": [np.arange(6).reshape(2, 3), np.array(2.5), np.zeros((0, 2), np.float32), np.arange(8.0)[::2]],
        "rng": torch.get_rng_state(),
        "nan": torch.tensor([float("nan"), -0.0, 1e-45]),
    }
    checkpoint.save(tmp_path / "c", 1, state)
    same(checkpoint.load(tmp_path / "c"), state)


def test_tied_tensors_are_stored_once_and_views_do_not_drag_their_buffer_along(tmp_path):
    weight, buffer = torch.randn(100, 100), torch.randn(1000, 100)
    checkpoint.save(tmp_path / "c", 1, {"embed": weight, "head": weight, "row": buffer[5]})
    stored = load_file(tmp_path / "c" / checkpoint.TENSORS)
    assert sorted(stored) == ["embed", "row"] and stored["row"].shape == (100,)
    assert (tmp_path / "c" / checkpoint.TENSORS).stat().st_size < 4 * (10_000 + 100) + 1000
    loaded = checkpoint.load(tmp_path / "c")
    assert loaded["embed"].data_ptr() == loaded["head"].data_ptr()


def test_numpy_numbers_become_numbers(tmp_path):
    checkpoint.save(tmp_path / "c", 1, {"a": np.float64(0.1), "b": np.int32(3), "c": np.bool_(True)})
    same(checkpoint.load(tmp_path / "c"), {"a": 0.1, "b": 3, "c": True})


def test_what_a_checkpoint_cannot_hold_is_named_by_its_path(tmp_path):
    for value in (deque([1]), object(), lambda: 0, frozenset({1})):
        with pytest.raises(TypeError, match=r"'memory\.control\.seen' is a \w+, which a checkpoint cannot hold"):
            checkpoint.save(tmp_path / "c", 1, {"memory": {"control": {"seen": value}}})
    assert not list(tmp_path.iterdir())


def trained(steps: int, model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> None:
    for _ in range(steps):
        loss = (model(torch.randn(16, 4)) ** 2).mean() + model[0].weight.abs().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def test_training_goes_on_bit_for_bit_from_a_checkpoint(tmp_path):
    def fresh():
        torch.manual_seed(3)
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 1))
        return model, torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)

    model, optimiser = fresh()
    trained(3, model, optimiser)
    state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "rng": torch.get_rng_state()}
    checkpoint.save(tmp_path / "c", 3, state)
    trained(2, model, optimiser)

    other, second = fresh()
    found = checkpoint.load(tmp_path / "c")
    other.load_state_dict(found["model"])
    second.load_state_dict(found["optimiser"])
    torch.set_rng_state(found["rng"])
    trained(2, other, second)
    same(dict(other.state_dict()), dict(model.state_dict()))


@pytest.fixture
def folder(tmp_path):
    with RunFolder.create(tmp_path / "run", {}) as folder:
        for step in (0, 10, 20, 30):
            folder.save_checkpoint(step, {"step": step, "w": torch.full((64,), float(step))}, keep=3)
        yield folder


def test_the_newest_are_kept(folder):
    assert folder.checkpoints() == [10, 20, 30] and folder.latest() == 30
    folder.save_checkpoint(30, {"step": 30, "w": torch.zeros(2)}, keep=1)
    assert folder.checkpoints() == [30] and folder.load_checkpoint(30)["w"].shape == (2,)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "flipped bit": (flip, "checksum"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-3]), "bytes, not"),
    "gone": (lambda path: path.unlink(), "is missing"),
}


FILES = [checkpoint.TENSORS, checkpoint.STATE]


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in FILES for kind in DAMAGES]
    + [(checkpoint.SUMMARY, "truncated"), (checkpoint.SUMMARY, "gone")],
)
def test_damage_is_noticed_and_the_good_one_before_is_named(folder, name, kind):
    damage, words = DAMAGES[kind]
    damage(folder.path / "checkpoints" / "step-000030" / name)
    flip(folder.path / "checkpoints" / "step-000020" / checkpoint.TENSORS)
    with pytest.raises(UserError, match=r"step-000030 is damaged .*good one at .*step-000010") as refusal:
        folder.load_checkpoint(30)
    assert words in str(refusal.value) or name == checkpoint.SUMMARY
    assert folder.load_checkpoint(10)["step"] == 10


def test_when_no_good_checkpoint_is_left_it_says_so(folder):
    for step in (10, 20, 30):
        flip(folder.path / "checkpoints" / f"step-{step:06d}" / checkpoint.STATE)
    with pytest.raises(UserError, match="no good one is left, so start the run again"):
        folder.load_checkpoint(30)


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


def test_nothing_in_a_checkpoint_is_executed(folder):
    path = folder.path / "checkpoints" / "step-000030"
    with open(path / checkpoint.STATE, "wb") as file:
        torch.save({"x": Bomb()}, file, pickle_module=pickle)
    summary = (path / checkpoint.SUMMARY).read_text()
    good = checkpoint.describe(folder.path / "checkpoints" / "step-000020" / checkpoint.STATE)
    new = checkpoint.describe(path / checkpoint.STATE)
    plain = json.loads(summary)
    plain["files"][checkpoint.STATE] = new
    (path / checkpoint.SUMMARY).write_text(json.dumps(plain))
    assert good != new
    with pytest.raises(UserError, match="something other than plain data"):
        folder.load_checkpoint(30)
