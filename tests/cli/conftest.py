import pytest
from command import Command


@pytest.fixture
def anypo(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    return Command(monkeypatch, capsys)
