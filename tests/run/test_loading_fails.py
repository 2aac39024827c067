"""A run that ends while its model is loading: refused input leaves nothing, whatever else happens is written down."""

import pytest

from anypo.errors import UserError
from anypo.run import session as module
from anypo.run.disk.folder import RunFolder


@pytest.mark.parametrize(
    ("error", "state"),
    [(UserError("there is no such model"), ""), (KeyboardInterrupt(), "interrupted"), (OSError("disk"), "failed")],
)
def test_what_is_left_of_it(monkeypatch, tmp_path, error, state):
    def load(*_, **__):
        raise error

    monkeypatch.setattr("anypo.policies.loading.load", load)
    with pytest.raises(type(error)):
        module.train("grpo", "tiny", out=tmp_path / "run")
    assert (tmp_path / "run").exists() == bool(state)
    if state:
        assert RunFolder.read(tmp_path / "run").status()["state"] == state
