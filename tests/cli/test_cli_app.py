import subprocess
import sys

import pytest
from hydra.utils import instantiate
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from law_lightning.cli import app
from law_lightning.cli.search import main


def test_the_package_alone_imports_no_tool_of_the_commands():
    code = (
        "import sys, lightning\n"
        "before = set(sys.modules)\n"  # Lightning itself imports some of them where it finds them
        "import law_lightning\n"
        "from law_lightning.cli import compare, report, search, train\n"
        "tools = {'hydra', 'omegaconf', 'matplotlib', 'sklearn', 'scipy', 'wandb', 'tqdm'}\n"
        "print(sorted(tools & (set(sys.modules) - before)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip().splitlines()[-1] == "[]"


def test_without_hydra_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "hydra", None)
    with pytest.raises(SystemExit, match=r'law-search needs hydra-core.*pip install "law-lightning\[cli\]"'):
        main()


def test_plain_message_of_an_error_inside_a_constructor():
    config = {"data": {"_target_": "law_lightning.data.UniformNoise", "rate": 2.0}}
    with pytest.raises(Exception, match="rate") as caught:
        instantiate(config)
    message = app.plain_message(caught.value)
    assert "\n" not in message
    assert message.endswith("(config key: data)")
    assert app.plain_message(ValueError("bad")) == "bad"


def test_full_errors_on_request(monkeypatch):
    def task(config):
        raise MisconfigurationException("bad")

    monkeypatch.setattr(app, "_refuse_ddp_sweep", lambda config: None)
    monkeypatch.setattr(app, "_quiet", lambda: None)
    with pytest.raises(SystemExit, match="law-search: bad"):
        app.guarded(task, "law-search")(None)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(MisconfigurationException, match="bad"):
        app.guarded(task, "law-search")(None)


def test_other_errors_keep_their_traceback(monkeypatch):
    def task(config):
        raise RuntimeError("a bug")

    monkeypatch.setattr(app, "_refuse_ddp_sweep", lambda config: None)
    monkeypatch.setattr(app, "_quiet", lambda: None)
    with pytest.raises(RuntimeError, match="a bug"):
        app.guarded(task, "law-search")(None)
