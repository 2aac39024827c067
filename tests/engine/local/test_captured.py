"""Decoding steps of fixed shape compute what the paged path computes; on a GPU they are replayed as graphs."""

import time

import numpy as np
import pytest
import torch
from local_models import Letters, build

from anypo.engine.base import Request, Sampling
from anypo.engine.local import LocalEngine
from anypo.engine.local.backend import PagedBackend
from anypo.engine.local.model.captured import CapturedDecode

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


def requests(count: int = 11, max_new: int = 40) -> list[Request]:
    rng = np.random.default_rng(7)
    prompts = [rng.integers(2, 61, int(rng.integers(1, 50))) for _ in range(count)]
    return [Request(p, Sampling(max_new=max_new, temperature=0.9), (i,)) for i, p in enumerate(prompts)]


def engine(model: torch.nn.Module, captured: bool) -> LocalEngine:
    made = LocalEngine(model, Letters(), block=8)
    backend = made.backend
    assert isinstance(backend, PagedBackend)
    backend.captured = CapturedDecode(backend.model) if captured else None
    return made


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_fixed_shapes_compute_what_the_paged_path_computes(name):
    model = build(name)
    plain, fixed = engine(model, False), engine(model, True)
    for _ in range(2):
        for a, b in zip(plain.generate(requests()), fixed.generate(requests())):
            assert a.tokens.tolist() == b.tokens.tolist()
            np.testing.assert_allclose(a.logp, b.logp, atol=1e-5)
        with torch.no_grad():  # new weights: nothing of the old ones may be read
            for parameter in model.parameters():
                parameter.mul_(0.9)


def test_what_a_paged_step_made_anew_voids_the_graphs():
    made = engine(build("llama"), True)
    captured = made.backend.captured
    made.generate(requests(2, 4))
    kept = dict(captured._shapes)
    made.generate(requests(2, 4))
    assert kept and all(captured._shapes[key] is shape for key, shape in kept.items())
    made.backend.model.prepare(300)  # as a long prompt does, on its way through the paged path
    made.generate(requests(2, 4))
    assert not any(captured._shapes[key] is shape for key, shape in kept.items())


@GPU
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_graphs_on_a_gpu(dtype):
    model = build("qwen3").to("cuda", dtype)
    plain, graphs = engine(model, False), engine(model, True)
    seconds = []
    for made in (plain, graphs):
        made.generate(requests())
        torch.cuda.synchronize()
        began = time.perf_counter()
        made.generate(requests())
        seconds.append(time.perf_counter() - began)
    print(f"{dtype}: paged {seconds[0]:.3f} s, graphs {seconds[1]:.3f} s")
    exact = dtype == torch.float32
    for a, b in zip(plain.generate(requests()), graphs.generate(requests())):
        if exact:
            assert a.tokens.tolist() == b.tokens.tolist()
            np.testing.assert_allclose(a.logp, b.logp, atol=1e-3)
        else:
            np.testing.assert_allclose(a.logp[0], b.logp[0], atol=0.1)


@GPU
def test_a_gpu_agrees_with_the_cpu():
    model = build("llama")
    wanted = engine(model, False).generate(requests())
    for a, b in zip(wanted, engine(model.to("cuda"), True).generate(requests())):
        assert a.tokens.tolist() == b.tokens.tolist()
        np.testing.assert_allclose(a.logp, b.logp, atol=1e-3)
