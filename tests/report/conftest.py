import pytest
from matplotlib.figure import Figure


@pytest.fixture
def panels(monkeypatch, tmp_path):
    """Draws and returns the panels of the figure, None where nothing is drawn."""
    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k)))

    def call(draw, data):
        path = draw(data, tmp_path / "figure.png")
        if path is None:
            assert not (tmp_path / "figure.png").exists()
            return None
        assert path.is_file()
        return drawn[-1].axes

    return call
