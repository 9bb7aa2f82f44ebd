"""The examples and the documents' snippets run as a user would run them, in a folder of their own."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_module
from lightning.pytorch.utilities.seed import isolate_rng

from law_lightning import StrategyAgent
from law_lightning import functional as LF

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(folder, *command, **settings):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **settings}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers(pattern, text):
    found = re.search(pattern, text)
    assert found is not None, text
    return [float(group) for group in found.groups()]


@pytest.fixture
def in_this_process(tmp_path, monkeypatch, capsys):
    """Runs an example, or other code, without the price of another process, and returns what it prints."""

    def run_here(program, **settings):
        file = EXAMPLES / f"{program}.py"
        source = program if "\n" in program else file.read_text(encoding="utf-8")
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        with isolate_rng():
            exec(compile(source, "example", "exec"), {"__name__": "__main__"})
        return capsys.readouterr().out

    known = dict(LF.KNOWN_FEATURES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # restored afterwards
    yield run_here
    for name in ("own_module", "tabular"):
        sys.modules.pop(name, None)
    LF.KNOWN_FEATURES.clear()
    LF.KNOWN_FEATURES.update(known)


def test_own_module_prints_both_accuracies(tmp_path, in_this_process):
    out = in_this_process("own_module", EPOCHS="5")
    accuracies = numbers(r"plain Trainer: +test accuracy (\S+)\nwith LAWCallback: test accuracy (\S+)\n", out)
    assert all(0.3 < accuracy < 1 for accuracy in accuracies)
    target, reference = numbers(r"on validation: +target (\S+), reference (\S+)\n", out)
    if reference > target:  # the reference is plain training, and it stayed in the module
        assert accuracies[0] == accuracies[1]
    assert not list(tmp_path.iterdir())


def test_apply_strategy_searches_saves_and_applies(tmp_path, monkeypatch, in_this_process):
    monkeypatch.setattr(sys, "argv", ["apply_strategy.py", "found.pt"])
    out = in_this_process("apply_strategy", EPISODES="2", EPOCHS="4")
    (gain,) = numbers(r"best strategy of 2 episodes, saved to found\.pt: .*?(\S+) points of validation accuracy", out)
    assert -100 < gain < 100
    assert StrategyAgent.load(tmp_path / "found.pt").num_stages == 20
    accuracies = numbers(r"plain Trainer: mean test accuracy (\S+)\nwith strategy: mean test accuracy (\S+)\n", out)
    assert all(0.3 < accuracy < 1 for accuracy in accuracies)


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("rare_classes", ["plain Trainer", "LAWCallback()", "Class-Balanced"]),
        ("text", ["plain Trainer", "LAWCallback()"]),
        ("tabular", ["plain Trainer", "LAWCallback()"]),
        ("new_weighting", ["plain Trainer", "likely labels", "LAWCallback()"]),
        ("new_feature", ["plain Trainer", "with strategy"]),
    ],
)
def test_an_example_prints_test_accuracies(name, names, in_this_process):
    epochs = "5" if name in ("rare_classes", "text") else "3"  # at least a step for each of the 20 stages
    out = in_this_process(name, EPOCHS=epochs, EPISODES="1", SEEDS="1", TEXTS="200")
    for each in names:
        assert 0.1 < numbers(rf"{re.escape(each)}:? +(?:mean )?test accuracy (\d\.\d+)", out)[0] < 1


def test_the_suspects_of_the_example_have_wrong_labels(in_this_process):
    out = in_this_process("suspects", EPOCHS="5")
    wrong, named = numbers(r"(\d+) of (\d+) suspects have a wrong label", out)
    assert named > 20
    assert wrong / named > 0.7  # of all labels 36 % are wrong


def test_the_notebook_runs_and_keeps_its_pictures(in_this_process):
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    cells = json.loads((EXAMPLES / "pictures.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    with mpl.rc_context({"backend": "agg"}):
        out = in_this_process("\n".join("".join(cell["source"]) for cell in code), EPOCHS="3")
        drawn = len(plt.get_fignums())
        plt.close("all")
    kept = [output.get("data", {}) for cell in code for output in cell["outputs"]]
    assert drawn == sum("image/png" in each for each in kept) == 4
    assert "of these 16 labels are wrong" in out


def test_the_sweep_of_wandb_starts_commands_that_are_understood(monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    sweep = yaml.safe_load((EXAMPLES / "wandb_sweep.yaml").read_text())
    (program, *options, last), grid = sweep["command"], sweep["parameters"]
    assert (program, last, sweep["program"]) == ("${program}", "${args_no_hyphens}", "law-train")
    with initialize_config_module("law_lightning.conf", version_base="1.3"):
        for which in (0, -1):
            chosen = {key: each["values"][which] for key, each in grid.items()}
            config = compose("law_train", [*options, *(f"{key}={value}" for key, value in chosen.items())])
            assert config.run_dir == "runs/wandb/abc"
            assert (str(config.strategy), config.model.lr) == (("None", 0.03), ("general", 0.3))[which]
    assert sweep["metric"]["name"] == config.val_metric


# -- the documents ---------------------------------------------------------------------------------------------

ROOT = EXAMPLES.parent
README, DOCS = ROOT / "README.md", ROOT / "docs"


def blocks(language, *pages):
    texts = [page.read_text(encoding="utf-8") for page in pages]
    return [
        found for text in texts for found in re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


def test_the_python_of_the_pages_runs(tmp_path):
    pages = [DOCS / f"{name}.md" for name in ("index", "trainer", "data", "strategy", "suspects", "methods/README")]
    program = "\n".join(blocks("python", README, *pages))
    for long, short in {
        "max_epochs=60": "max_epochs=3, accelerator='cpu'",
        '"max_epochs": 60': '"max_epochs": 3, "accelerator": "cpu"',
        "episodes=120": "episodes=1, eval_seeds=1, check_seeds=2",
    }.items():
        assert long in program
        program = program.replace(long, short)
    (tmp_path / "pages.py").write_text(program)
    run(tmp_path, sys.executable, "pages.py")
    assert StrategyAgent.load(tmp_path / "strategy.safetensors").num_stages == 20
    assert (tmp_path / "runs" / "python" / "metrics.csv").is_file()


def anchors(page):
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [README, *sorted(DOCS.rglob("*.md"))], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8")):
        file = page.parent / target if target else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"


PAGES = [README, *(DOCS / f"{name}.md" for name in ("commands", "data", "cluster", "suspects", "methods/README"))]
SWEEP = (EXAMPLES / "sweep.sh").read_text(encoding="utf-8")
COMMANDS = [
    found[0]
    for block in [*blocks("bash", *PAGES), SWEEP.replace(' "$@"', "")]
    for line in block.replace("\\\n", "").splitlines()
    if (found := re.search(r"\blaw-\w+ .*", line))
]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_pages_commands_are_understood(command):
    name, *overrides = shlex.split(command)
    with initialize_config_module("law_lightning.conf", version_base="1.3"):
        for value in (0, -1):  # the first and the last of a sweep
            # Launchers and sweepers, and what these draw, belong to plugins.
            pairs = [each.split("=") for each in overrides if each != "-m" and not re.match(r"hydra|.*\(", each)]
            chosen = [f"{key}={each if each[0] == '[' else each.split(',')[value]}" for key, each in pairs]
            config = compose(name.replace("-", "_"), chosen)
            assert config.data is not None


def test_the_readme_has_commands():
    assert {line.split()[0] for line in COMMANDS} == {"law-search", "law-train", "law-compare"}
