"""Every family of decoders against plain transformers: sampler and trainer, with and without LoRA, in float32 and bfloat16, and
gradients with activation checkpointing.

The suite tries one family of every kind; `python -m pytest tests/engine/test_matrix.py --all` tries all of them, and
`python tests/engine/matrix.py` writes what it finds to docs/architectures.md.
"""

from __future__ import annotations

import families
import matrix
import pytest


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "family" in metafunc.fixturenames:
        everything = metafunc.config.getoption("--all")
        metafunc.parametrize("family", families.FAMILIES if everything else families.ALWAYS)


@pytest.mark.parametrize("mode", matrix.MODES)
def test_a_family_is_sampled_from_and_trained_as_transformers_computes_it(family: str, mode: str) -> None:
    cell = matrix.measure(family, mode)
    sampling, training = matrix.ways(family)
    if cell.refused:
        assert mode != "plain" or sampling == "refused", cell.refused
        return
    assert max(cell.sampler_gap, cell.trainer_gap) < matrix.bound(mode)
    assert (cell.sampling, cell.training) == (sampling, training) or mode != "plain"


def test_checkpointing_changes_no_gradient(family: str) -> None:
    cell = matrix.measure(family, matrix.CHECKPOINTED)
    if cell.refused:
        assert "no layers whose activations" in cell.refused or matrix.ways(family)[1] == "refused", cell.refused
        return
    assert cell.trainer_gap < 1e-3


def test_the_documentation_names_every_family() -> None:
    assert all(all(matrix.ways(name)) for name in families.FAMILIES)
