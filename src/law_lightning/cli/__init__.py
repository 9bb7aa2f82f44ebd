"""The commands law-search, law-train, law-compare and law-report. Need the extra ``law-lightning[cli]``."""

from importlib.util import find_spec

_NEEDED = ("hydra", "joblib", "matplotlib", "scipy", "sklearn", "tqdm")

if missing := [name for name in _NEEDED if find_spec(name) is None]:
    # Only the commands import this package: the user sees this line and no traceback.
    raise SystemExit(
        f"The commands of law-lightning need {', '.join(missing)}, which the extra cli installs: "
        'pip install "law-lightning[cli]"'
    )
