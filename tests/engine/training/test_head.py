"""The chunked head against log-softmax over all logits."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from anypo.engine.training.head import Head, Reading, differentiable, gradients, token_statistics


def problem(rows: int, width: int, vocabulary: int, targets: int, dtype: torch.dtype = torch.float64):
    torch.manual_seed(0)
    hidden = torch.randn(rows, width, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocabulary, width, dtype=dtype, requires_grad=True)
    bias = torch.randn(vocabulary, dtype=dtype, requires_grad=True)
    at = torch.randint(0, rows, (targets,)).sort().values
    reading = Reading(torch.randint(0, vocabulary, (targets,)), at, 0.5 + torch.rand(rows, dtype=torch.float64))
    return hidden, weight, bias, reading


def reference(hidden, weight, bias, reading):
    table = ((hidden @ weight.t() + bias) / reading.temperature[:, None]).log_softmax(-1)
    return table[reading.rows, reading.targets], -(table.exp() * table).sum(-1)


@pytest.mark.parametrize("chunk", [1, 3, 7, None])
def test_values_and_gradients_are_those_of_the_full_softmax(chunk):
    hidden, weight, bias, reading = problem(rows=7, width=5, vocabulary=11, targets=12)
    d_logp, d_entropy = torch.randn(12, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    logp, entropy = reference(hidden, weight, bias, reading)
    wanted = torch.autograd.grad((logp * d_logp).sum() + (entropy * d_entropy).sum(), (hidden, weight, bias))
    head = Head(weight, bias)
    found = differentiable(hidden, head, reading, True, chunk)
    torch.testing.assert_close(found.logp, logp, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.entropy, entropy, rtol=1e-12, atol=1e-12)
    two_pass = torch.autograd.grad(
        (found.logp * d_logp).sum() + (found.entropy * d_entropy).sum(), (hidden, weight, bias)
    )
    columns, one_pass = gradients(hidden, head, reading, d_logp, d_entropy, chunk=chunk)
    torch.testing.assert_close(columns.entropy, entropy, rtol=1e-12, atol=1e-12)
    for a, b, c in zip(wanted, two_pass, one_pass):
        torch.testing.assert_close(b, a, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(c, a, rtol=1e-11, atol=1e-12)
    only = torch.autograd.grad((differentiable(hidden, head, reading, False, chunk).logp * d_logp).sum(), weight)
    torch.testing.assert_close(
        only[0], torch.autograd.grad((reference(hidden, weight, bias, reading)[0] * d_logp).sum(), weight)[0]
    )


def test_finite_differences():
    hidden, weight, bias, reading = problem(rows=4, width=3, vocabulary=6, targets=4)
    targets, heat = reading.targets, reading.temperature
    read = lambda h, w, b: token_statistics(h, w, targets, heat, b, chunk=3)
    assert torch.autograd.gradcheck(read, (hidden, weight, bias))


def test_states_that_are_logits_already():
    hidden, _, _, reading = problem(rows=7, width=9, vocabulary=9, targets=12)
    eye = torch.eye(9, dtype=torch.float64)
    wanted = torch.autograd.grad(reference(hidden, eye, 0.0, reading)[0].sum(), hidden)[0]
    found = torch.autograd.grad(differentiable(hidden, Head(None), reading, True).logp.sum(), hidden)[0]
    torch.testing.assert_close(found, wanted)


def test_uniform_and_certain_distributions():
    weight, targets = torch.zeros(50, 4, requires_grad=True), torch.tensor([3, 4])
    logp, entropy = token_statistics(torch.randn(2, 4), weight, targets)
    torch.testing.assert_close(logp, torch.full((2,), -math.log(50)))
    torch.testing.assert_close(entropy, torch.full((2,), math.log(50)))
    (gradient,) = torch.autograd.grad(entropy.sum(), weight)
    assert gradient.abs().max() < 1e-6  # entropy is at its maximum
    certain = torch.zeros(50, 1)
    certain[3], certain[4] = 1e6, -1e6
    certain.requires_grad_()
    logp, entropy = token_statistics(torch.ones(2, 1), certain, targets)
    assert logp.tolist() == [0.0, -2e6] and entropy.tolist() == [0.0, 0.0]
    (gradient,) = torch.autograd.grad(logp.sum() + entropy.sum(), certain)
    assert torch.isfinite(gradient).all()


def test_bfloat16_sums_in_float32():
    hidden, weight, bias, reading = problem(rows=64, width=16, vocabulary=3000, targets=64, dtype=torch.bfloat16)
    logits = (hidden @ weight.t()).float() + bias.float()
    table = (logits / reading.temperature[:, None].float()).log_softmax(-1)
    found = differentiable(hidden, Head(weight, bias), reading, True, 7)
    assert found.logp.dtype == torch.float32
    torch.testing.assert_close(found.logp, table[reading.rows, reading.targets], rtol=1e-5, atol=1e-5)
    d_logp = torch.randn(64)
    _, (d_hidden, d_weight, _) = gradients(hidden, Head(weight, bias), reading, d_logp, None, chunk=7)
    exact = [t.detach().double().requires_grad_() for t in (hidden, weight, bias)]
    wanted = torch.autograd.grad((reference(*exact, reading)[0] * d_logp).sum(), exact)
    assert d_hidden.dtype == torch.bfloat16 and d_weight.dtype == torch.float32
    assert (d_hidden - wanted[0]).norm() < 0.02 * wanted[0].norm()
    assert (d_weight - wanted[1]).norm() < 0.02 * wanted[1].norm()


def test_no_tensor_of_all_logits_ever_exists():
    hidden, weight, bias, reading = problem(rows=200, width=8, vocabulary=500, targets=300, dtype=torch.float32)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.numel())
            return out

    with Watch():
        found = differentiable(hidden, Head(weight, bias), reading, True, chunk=16)
        (found.logp.sum() + found.entropy.sum()).backward()
    assert 8 * 500 <= largest <= 16 * 500


def test_no_rows():
    weight = torch.randn(7, 4, requires_grad=True)
    logp, entropy = token_statistics(torch.zeros(0, 4, requires_grad=True), weight, torch.zeros(0, dtype=torch.int64))
    assert logp.shape == entropy.shape == (0,)
    (logp.sum() + entropy.sum()).backward()
    assert weight.grad is not None and not weight.grad.any()
