"""Sessions: demo, tests, faults, third_party, lint, types, docs, bench, fdu, workers, large, rivals, build.

They share one environment, as torch is large. Those of other versions, lowest and candidates, have their own.
"""

import hashlib
import os
import re
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"  # which knows dependency groups
nox.options.sessions = ["lint", "types", "tests"]
nox.options.default_venv_backend = "venv"

ROOT = Path(__file__).parent
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
REQUIREMENTS = ["-e", ".[cli,wandb,tensorboard]"]
REQUIREMENTS += nox.project.dependency_groups(PYPROJECT, "test", "lint", "bench", "build", "docs")
THREADS = {"OMP_NUM_THREADS": "1"}
# What benchmarks/fdu.py compares with, and what that needs beside the shared environment.
PEERS = [
    "stable-baselines3==2.9.2",
    "torchrl==0.14.1",
    "tensordict==0.14.3",
    "gymnasium==1.4.0",
    "farama-notifications==0.0.6",
    "hoptorch==0.1.4",
    "pyvers==0.2.3",
]
# Settings that only one of the demo's two commands knows.
SEARCH_ONLY = ("search", "agent", "logger")
COMPARE_ONLY = ("seeds", "first_seed", "methods", "confidence")


def tool(session: nox.Session, name: str) -> str:
    """The path of a program in the shared environment."""
    programs = session.cache_dir.parent.absolute() / "env" / ("Scripts" if os.name == "nt" else "bin")
    return str(programs / name)


def without(args: list[str], groups: tuple[str, ...]) -> list[str]:
    """The Hydra overrides that do not belong to these groups or keys."""
    return [arg for arg in args if arg.lstrip("+~").split("=")[0].split(".")[0] not in groups]


@nox.session(reuse_venv=True)
def env(session: nox.Session) -> None:
    """Install the package and its tools once; again only when pyproject.toml or constraints.txt change."""
    files = ("pyproject.toml", "constraints.txt")
    wanted = hashlib.sha256(b"".join((ROOT / file).read_bytes() for file in files)).hexdigest()
    stamp = Path(session.virtualenv.location) / "installed"
    if not stamp.is_file() or stamp.read_text() != wanted:
        session.install(*REQUIREMENTS, "-c", "constraints.txt")
        stamp.write_text(wanted)


@nox.session(venv_backend="none", requires=["env"])
def demo(session: nox.Session) -> None:
    """Search on noisy digits, then compare with plain training on fresh seeds. Takes overrides."""
    search, compare = ROOT / "demo" / "search", ROOT / "demo" / "compare"
    args = session.posargs
    session.run(
        tool(session, "law-search"),
        "experiment=digits_noise40",
        f"run_dir={search}",
        "search.workers=2",
        *without(args, COMPARE_ONLY),
        env=THREADS,
    )
    session.run(
        tool(session, "law-compare"),
        "experiment=digits_noise40",
        f"strategy={search / 'strategy.safetensors'}",
        f"run_dir={compare}",
        "seeds=8",
        *without(args, SEARCH_ONLY),
        env=THREADS,
    )
    print(f"\nstrategy: {search / 'strategy.safetensors'}")
    print(f"table:    {compare / 'summary.txt'}")
    print(f"figures:  {search / 'search.png'}, {compare / 'compare.png'}")


@nox.session(venv_backend="none", requires=["env"])
def tests(session: nox.Session) -> None:
    """Run the tests and doctests, a sample of what is slow or comes in many cases, with coverage.

    Arguments go to pytest in place of the coverage gate.
    """
    gate = ["--cov", "--cov-report=term", "--cov-fail-under=90"]
    session.run(tool(session, "python"), "-m", "pytest", "-n", "2", *(session.posargs or gate), env=THREADS)


@nox.session(venv_backend="none", requires=["env"])
def lint(session: nox.Session) -> None:
    """Check style and layout."""
    session.run(tool(session, "ruff"), "check", ".")
    session.run(tool(session, "ruff"), "format", "--check", ".")


@nox.session(venv_backend="none", requires=["env"])
def types(session: nox.Session) -> None:
    """Check types, strictly."""
    session.run(tool(session, "mypy"))


@nox.session(venv_backend="none", requires=["env"])
def docs(session: nox.Session) -> None:
    """Build the documentation site in build/site; a link that leads nowhere is an error. Other arguments: serve."""
    quiet = {"NO_MKDOCS_2_WARNING": "1"}
    session.run(tool(session, "python"), "-m", "mkdocs", *(session.posargs or ["build", "--strict"]), env=quiet)


@nox.session(venv_backend="none", requires=["env"])
def bench(session: nox.Session) -> None:
    """Measure what the callback costs in time and memory."""
    session.run(tool(session, "python"), "benchmarks/overhead.py", *session.posargs)


@nox.session(venv_backend="none", requires=["env"])
def fdu(session: nox.Session) -> None:
    """Measure the strategy's update beside two other DDPGs, which are installed apart."""
    python, site = tool(session, "python"), Path(session.create_tmp()).resolve() / "peers"
    needs = [*PEERS, "cloudpickle", "-c", "constraints.txt"]
    shutil.rmtree(site, ignore_errors=True)
    session.run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), *needs)
    session.run(python, "benchmarks/fdu.py", *session.posargs, env={"PYTHONPATH": str(site), **THREADS})


@nox.session(venv_backend="none", requires=["env"])
def workers(session: nox.Session) -> None:
    """Measure episodes a minute of searches with one worker and with two. Takes the script's arguments."""
    session.run(tool(session, "python"), "benchmarks/workers.py", *session.posargs, env=THREADS)


@nox.session(venv_backend="none", requires=["env"])
def large(session: nox.Session) -> None:
    """Measure how memory and time grow in long runs. Takes the script's arguments."""
    session.run(tool(session, "python"), "benchmarks/large.py", *session.posargs, env=THREADS)


@nox.session(venv_backend="none", requires=["env"])
def faults(session: nox.Session) -> None:
    """Run the tests and doctests, every case of them. Arguments go to pytest."""
    long = {"LAW_FAULTS": "long", **THREADS}
    session.run(tool(session, "python"), "-m", "pytest", "-n", "2", *session.posargs, env=long)


@nox.session(venv_backend="none", requires=["env"])
def third_party(session: nox.Session) -> None:
    """Run the tests with models of other packages, which are installed apart. Arguments go to pytest."""
    python, site = tool(session, "python"), Path(session.create_tmp()).resolve() / "packages"
    wanted = nox.project.dependency_groups(PYPROJECT, "third-party")
    shutil.rmtree(site, ignore_errors=True)
    # Unlike --target, --prefix leaves out what the shared environment has.
    session.run(python, "-m", "pip", "install", "--quiet", "--prefix", str(site), *wanted, "-c", "constraints.txt")
    env = {"PYTHONPATH": os.pathsep.join(map(str, site.rglob("site-packages"))), "HF_HUB_OFFLINE": "1", **THREADS}
    # The tests skip what cannot be imported; here all must be.
    names = "jsonargparse, segmentation_models_pytorch, timm, torch_geometric, transformers"
    session.run(python, "-c", f"import {names}", env=env)
    tests = session.posargs or ["tests/third_party", "tests/callbacks/test_lightning_cli.py"]
    session.run(python, "-m", "pytest", *tests, env=env)


@nox.session(venv_backend="none", requires=["env"])
def rivals(session: nox.Session) -> None:
    """Compare LAW's search with simple rivals at equal budget: hours. Takes the script's arguments."""
    session.run(tool(session, "python"), "benchmarks/search.py", *session.posargs, env=THREADS)


@nox.session(venv_backend="none", requires=["env"])
def build(session: nox.Session) -> None:
    """Build and check wheel and sdist, and run the wheel's law-search in an empty folder far from the checkout."""
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    session.run(tool(session, "python"), "-m", "build", "--outdir", str(dist), env={"PYTHONPATH": ""})
    wheel = next(dist.glob("*.whl"))

    # The dependencies come from the shared environment; the package itself from the wheel alone.
    folder = Path(session.create_tmp()).resolve()
    # Apart: it needs Rich, which would change Lightning's progress bar in the shared environment.
    twine = folder / "twine"
    shutil.rmtree(twine, ignore_errors=True)
    install = ("-m", "pip", "install", "--quiet", "--target")
    session.run(tool(session, "python"), *install, str(twine), "twine", "-c", "constraints.txt")
    files = map(str, sorted(dist.iterdir()))
    session.run(tool(session, "python"), "-m", "twine", "check", "--strict", *files, env={"PYTHONPATH": str(twine)})
    site, empty = folder / "site", folder / "empty"
    shutil.rmtree(site, ignore_errors=True)
    shutil.rmtree(empty, ignore_errors=True)
    empty.mkdir()
    python = tool(session, "python")
    session.run(python, *install, str(site), "--no-deps", str(wheel))
    installed = {"PYTHONPATH": str(site), **THREADS}
    check = f"import law_lightning as law; assert law.__file__.startswith({str(site)!r}), law.__file__"
    with session.chdir(empty):
        session.run(python, "-c", check, env=installed)
        session.run(
            python,
            str(site / "bin" / "law-search"),
            "experiment=digits_noise40",
            "search.episodes=1",
            "search.eval_every=1",
            "search.eval_seeds=1",
            "trainer.max_epochs=5",
            "run_dir=run",
            env=installed,
        )
    for name in ("strategy.safetensors", "config.yaml", "search.png"):
        if not (empty / "run" / name).is_file():
            session.error(f"The installed law-search wrote no {name}.")


@nox.session
def lowest(session: nox.Session) -> None:
    """Run the tests with the lowest versions that pyproject.toml allows. Arguments go to pytest."""
    needed = [*PYPROJECT["project"]["dependencies"], *(each for extra in EXTRAS.values() for each in extra)]
    exact = [re.sub(r">=([\w.]+).*", r"==\1", each) for each in needed]
    session.install(*exact, *nox.project.dependency_groups(PYPROJECT, "test", "bench"))
    session.install("--no-deps", "-e", ".")
    session.run("python", "-m", "pytest", "-n", "2", *session.posargs, env=THREADS)


@nox.session
def candidates(session: nox.Session) -> None:
    """Run the tests with the release candidates of torch and Lightning, if there are any. Arguments go to pytest."""
    groups = nox.project.dependency_groups(PYPROJECT, "test", "bench")
    session.install("-e", ".[cli,wandb,tensorboard,vision]", *groups)
    # 2.6.2 and 2.6.3 were malicious releases.
    session.install("--pre", "--upgrade", "torch", "torchvision", "lightning!=2.6.2,!=2.6.3")
    session.run("python", "-m", "law_lightning")
    session.run("python", "-m", "pytest", "-n", "2", *session.posargs, env=THREADS)
