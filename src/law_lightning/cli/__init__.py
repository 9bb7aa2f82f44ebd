"""The commands law-search, law-train, law-compare and law-report. Need the extra ``law-lightning[cli]``."""

try:
    import hydra as _  # noqa: F401
except ImportError:  # only the commands import this package: the user sees this line and no traceback
    raise SystemExit(
        "The commands of law-lightning need hydra-core, which is not installed. Install it with: "
        'pip install "law-lightning[cli]"'
    ) from None
