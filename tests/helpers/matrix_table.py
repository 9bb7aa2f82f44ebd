"""Measures every row of the promise matrix and writes the table into its page; some minutes.

python tests/matrix_table.py docs/reliability_matrix.md [FOLDER]

Where FOLDER already holds what matrix_run.py found (popen.0, popen.1, spawn.0, spawn.1), that is taken.
"""

import logging
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import lightning
import torch

from matrix import CELLS, SAME, measure

COLUMNS = ("one process, search", "one process, apply", "DDP, search", "DDP, apply")

BEGIN, END = "<!-- table: tests/matrix_table.py -->\n", "<!-- end -->\n"


def entry(found: list[dict[str, str]]) -> str:
    refused = sorted({each["refused"] for each in found if "refused" in each})
    if refused:
        return f"refused: {refused[0]}"
    wrong = sorted({f"{what}: {verdict}" for each in found for what, verdict in each.items() if verdict != SAME})
    return "; ".join(wrong) or SAME


def on_two_processes(start: str, folder: Path) -> list[dict]:
    files = [folder / f"{start}.{rank}" for rank in (0, 1)]
    if not all(file.is_file() for file in files):
        command = [sys.executable, str(Path(__file__).with_name("matrix_run.py")), start, str(folder / start), *CELLS]
        subprocess.run(command, check=True)
    return [torch.load(file, weights_only=True) for file in files]


def main(out: str, folder: str | None = None) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as scratch:
        pairs = [each for s in ("popen", "spawn") for each in on_two_processes(s, Path(folder or scratch))]
        rows = []
        for name, cell in CELLS.items():
            alone = [entry([measure(name, Path(scratch), mode)]) for mode in ("search", "apply")]
            together = [entry([pair[name, mode] for pair in pairs]) for mode in ("search", "apply")]
            rows.append(f"| {cell.what} | {' | '.join(alone + together)} |")
    versions = f"Measured with torch {torch.__version__.split('+')[0]} and Lightning {lightning.__version__}."
    table = "\n".join([f"| what | {' | '.join(COLUMNS)} |", "|---" * 5 + "|", *rows])
    page = Path(out)
    before, rest = page.read_text().split(BEGIN)
    page.write_text(f"{before}{BEGIN}{versions}\n\n{table}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
