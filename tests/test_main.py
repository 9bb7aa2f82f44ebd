import law_lightning
from law_lightning import __main__ as program


def test_versions_devices_and_what_is_supported(monkeypatch, capsys):
    lines = ["torch>=2.11", "lightning>=99", "nowhere>=1", 'pytest>=8; extra == "cli"']
    monkeypatch.setattr(program, "requires", lambda name: lines)
    program.main()
    out = capsys.readouterr().out
    assert out.startswith(f"law-lightning {law_lightning.__version__}, Python 3.")
    found = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ")}
    assert "NOT SUPPORTED, needs >=99" in found["lightning"]
    assert "missing" in found["nowhere"]
    assert found["pytest"].endswith('needs >=8 (extra == "cli")')
    assert "NOT" not in found["torch"]
    assert "cores" in found["CPU"]
    assert "manual optimization" in found["not"]


def test_from_a_folder_of_sources(monkeypatch, capsys):
    def none(name):
        raise program.PackageNotFoundError(name)

    monkeypatch.setattr(program, "requires", none)
    program.main()
    assert "supported" in capsys.readouterr().out
