"""What a user got wrong is named in one line, before any work."""

import pytest

from law_lightning.cli import compare, report, search, train
from law_lightning.models import ImageClassifier
from run_folders import write_training

FOREIGN = [("strategy=none.pt", r"No strategy file at .*none\.pt"), ("strategy=foreign.pt", r".*foreign\.pt")]
WRONG = {
    search: [
        ("corruption.rate=1.5", r"1\.5.*\[0, 1\].*\(config key: corruption\)"),
        ("data=arrays data.path=none.npz ~data.train_size", r"none\.npz"),
        ("data=arrays ~data.train_size", r"data\.path must be given: add data\.path="),
        ("model.lr=-1", "lr is -1"),
        ("agent.actor_lr=0", "actor_lr"),
        ("search.episodes=0", "episodes"),
        ("trainer.max_epochs=-1", "max_epochs"),
        ("agent.num_stages=100", "100"),
    ],
    train: [
        *FOREIGN,
        ("+stratgey=general", "There is no option stratgey: did you mean strategy, as in strategy=... without the [+]"),
        (
            "data=arrays ~data.train_size ~data.val_size data.path=file.csv",
            r"file\.csv is a text file, but .*docs/data",
        ),
        ("reference=true", "reference=true .* add strategy=PATH"),
    ],
    compare: [
        *FOREIGN,
        ("strategy=null", r"No strategy is given: add strategy=PATH"),
        ("seeds=1", "seeds=1: an interval needs at least 2 seeds"),
        ("first_seed=-1", "first_seed=-1: seeds are whole numbers from 0 on"),
        ("methods=[base,fokal]", r"methods=\['base', 'fokal'\]: there is no method 'fokal'"),
        ("methods=[base,focal] method.focal.gamma=-1", "gamma must be at least 0"),
        ("methods=[base,co_teaching] method.co_teaching.forget_rate=1", r"forget_rate must be in \[0, 1\)"),
        ("workers=0", "workers=0: at least one"),
        ("workers=2 trainer.devices=2", "workers=2 runs trainings of one device side by side"),
        ("methods=[base,base]", "each only once"),
        ("methods=[]", "at least one"),
        ("confidence=95", r"confidence is 95.*\(0, 1\)"),
    ],
    report: [
        ("runs=[a,none]", r"There is no run folder .*none: check runs="),
        ("runs=empty", r"Nothing in .*empty can be reported: it contains no finished run of law-search"),
        ("runs=[a,plain]", r"Nothing in .*plain can be reported"),
        ("runs=null", r"runs names no folder"),
        ("runs=[]", r"runs names no folder"),
        ("rare=[0,3]", r"rare names class 3, but .*a has the 3 classes 0 to 2"),
        ("rare=[-1]", r"rare names class -1"),
        ("rare=[cat]", r"rare holds 'cat', but classes are whole numbers"),
        ("rare=0.5", r"rare holds 0\.5"),
        ("out=file", r"out=file is not a folder"),
        ("out=null", r"out=None is not a folder"),
        ("runs=damaged", r".*history\.csv is not the table of a run"),
    ],
}


@pytest.mark.parametrize(
    ("program", "overrides", "message"), [(program, *case) for program, cases in WRONG.items() for case in cases]
)
def test_bad_input_is_one_line(command, small, small_search, strategy, tmp_path, program, overrides, message):
    (tmp_path / "foreign.pt").write_text("no strategy")
    for name in ("file", "file.csv"):
        (tmp_path / name).write_text("")
    write_training(tmp_path / "a")
    write_training(tmp_path / "damaged")
    (tmp_path / "damaged" / "history.csv").write_text("stage\n")
    for name in ("empty", "plain"):
        (tmp_path / name).mkdir()
    (tmp_path / "plain" / "config.yaml").write_text("seed: 0\n")
    usual = {
        search: small_search,
        train: small,
        compare: [*small, f"strategy={strategy}"],
        report: ["runs=a"],
    }[program]
    before = set(tmp_path.rglob("*"))
    name = program.__name__.rsplit(".", 1)[-1]
    with pytest.raises(SystemExit, match=f"^law-{name}: .*{message}"):
        command(program.main, *usual, *overrides.split(), *(["run_dir=run"] if program is not report else []))
    written = {path.name for path in set(tmp_path.rglob("*")) - before}
    assert not written & {"strategy.safetensors", "compare.csv", "checkpoints", "report", "report.html", "theta.png"}


def test_ddp_in_a_sweep_is_refused(command, small_search, tmp_path):
    with pytest.raises(SystemExit, match=r"trainer\.strategy=ddp_spawn does not work in a sweep .* without -m"):
        command(search.main, "-m", *small_search, "trainer.strategy=ddp_spawn", "seed=1,2", "run_dir=sweep")
    assert not list(tmp_path.glob("sweep/*/strategy.safetensors"))


def test_a_module_without_test_accuracy_is_named(command, small, monkeypatch):
    monkeypatch.setattr(ImageClassifier, "test_step", lambda self, batch, index: self.log("test/loss", 0.0))
    with pytest.raises(SystemExit, match=r" logs \['test/loss'\], but the commands need 'test/acc' from test_step"):
        command(train.main, *small, "run_dir=run")
