"""The core stays light."""

import subprocess
import sys

import law_lightning

CODE = """
import sys, torch, lightning.pytorch.loggers, torch.utils.data, tqdm
before = {name.split(".")[0] for name in sys.modules}
import law_lightning
print(sorted({name.split(".")[0] for name in sys.modules} - before - set(sys.stdlib_module_names)))
"""


def test_the_package_needs_torch_lightning_and_safetensors_only():
    out = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=120)
    assert out.stdout.split("\n")[-2] == "['law_lightning', 'safetensors']"


def test_the_public_names():
    for name in law_lightning.__all__:
        assert getattr(law_lightning, name).__doc__
    promised = {"LAWCallback", "StrategyAgent", "ReplayBuffer", "StageSchedule", "WeightingCallback", "StrategySearch"}
    assert promised | {"Samples", "functional"} <= set(law_lightning.__all__)
