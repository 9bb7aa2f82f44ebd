"""``python -m law_lightning``: versions, devices and what is supported, as for a report of a bug."""

import os
import platform
from importlib.metadata import PackageNotFoundError, requires, version

import torch
from packaging.requirements import Requirement

from law_lightning import __version__

SUPPORTED = """\
supported
  one device (CPU, CUDA), ddp        everything
  MPS, FSDP, DeepSpeed, TPUs         weightings without a second network, strategies of the training accuracy
  precision                          32, bf16-mixed, 16-mixed
  not supported                      manual optimization, several optimizers, modules of pytorch_lightning
  more                               docs/support.md"""


def main() -> None:
    """Print it."""
    print(f"law-lightning {__version__}, Python {platform.python_version()}, {platform.platform()}\n\npackages")
    try:
        needed = [Requirement(line) for line in requires("law-lightning") or []]
    except PackageNotFoundError:  # run from a folder of sources
        needed = []
    for each in sorted(needed, key=lambda each: each.marker is not None):
        try:
            found = version(each.name)
        except PackageNotFoundError:
            found = "missing"
        fits = found == "missing" or each.specifier.contains(found, prereleases=True)
        note = f"{'needs' if fits else 'NOT SUPPORTED, needs'} {each.specifier}"
        print(f"  {each.name:13} {found:20} {note}{f' ({each.marker})' if each.marker else ''}")
    print(f"\ndevices\n  CPU           {os.cpu_count()} cores, {torch.get_num_threads()} threads")
    for index in range(torch.cuda.device_count()):
        print(f"  cuda:{index}        {torch.cuda.get_device_name(index)}")
    if torch.backends.mps.is_available():
        print("  mps")
    print(f"\n{SUPPORTED}")


if __name__ == "__main__":
    main()
