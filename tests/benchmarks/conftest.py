import sys
from pathlib import Path

# The scripts import each other as they do when run: from their own folder. One is called as a module of the tests is.
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
