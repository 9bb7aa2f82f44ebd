from pathlib import Path

import pytest

from law_lightning import shipped


@pytest.fixture
def folder(tmp_path, monkeypatch):
    folder = tmp_path / "strategies"
    monkeypatch.setattr(shipped, "_FOLDER", folder)
    return folder


def ship(folder, *names):
    folder.mkdir()
    for name in names:
        (folder / name).touch()


def test_shipped_strategies_are_found_by_name(folder):
    ship(folder, "noise.pt", "balance.pt", "README.md")
    assert shipped.shipped_strategies() == ["balance", "noise"]
    assert shipped.strategy_path("noise") == folder / "noise.pt"


def test_a_path_comes_first(folder, tmp_path, monkeypatch):
    ship(folder, "noise.pt")
    monkeypatch.chdir(tmp_path)
    Path("noise").touch()
    assert shipped.strategy_path("noise") == Path("noise")
    assert shipped.strategy_path(str(tmp_path / "noise")) == tmp_path / "noise"


def test_a_package_without_strategies_has_none(folder):
    assert shipped.shipped_strategies() == []


@pytest.mark.parametrize(("names", "there"), [(("a.pt", "b.pt"), "there are: a, b"), ((), "there are: none")])
def test_what_is_neither_is_named(folder, tmp_path, monkeypatch, names, there):
    ship(folder, *names)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"No strategy file at {tmp_path}/other, .*{there}"):
        shipped.strategy_path("other")


def test_those_of_this_version_load():
    from law_lightning import StrategyAgent

    for name in shipped.shipped_strategies():
        assert StrategyAgent.load(shipped.strategy_path(name)).num_stages >= 1
