"""A run folder belongs to one configuration: a run is resumed only with the settings it was started with."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import OmegaConf

from law_lightning.data.corruption import CorruptionRecord

#: Settings that the folders of earlier versions lack, with their value then; those with None are resumed with any.
_ADDED = {
    "agent.imitation": None,
    "agent.init": None,
    "agent.renormalize": None,
    "data.corrupt_validation": False,
    "method.gce.q": None,
    "test_metric": "test/acc",
    "val_metric": "val/acc",
}
#: The resolved configuration of a run, in its folder.
CONFIG_FILE = "config.yaml"


def output_folder() -> Path:
    """The folder of this run, or of this job of a sweep."""
    return Path(HydraConfig.get().runtime.output_dir)


def claim(folder: Path, config: dict[str, Any], state: str, free: Sequence[str]) -> None:
    """Write the resolved configuration and the date into the folder; if a run is in it, check that it has the same one.

    Args:
        folder: The run folder.
        config: The configuration.
        state: Name of the file that shows that a run was started here.
        free: Dotted keys (with all below them) that may change when the run is resumed.

    Raises:
        ValueError: The folder holds a run of another configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written, resumed = folder / CONFIG_FILE, (folder / state).is_file()
    if not resumed:
        (folder / "date.txt").write_text(f"{datetime.now():%Y-%m-%d %H:%M}\n", encoding="utf-8")
    if written.is_file() and resumed:
        begun, now = _flat(OmegaConf.to_container(OmegaConf.load(written))), _flat(config)
        begun = {key: now[key] if then is None else then for key, then in _ADDED.items() if key in now} | begun
        changes = [
            f"{key} was {begun.get(key, 'absent')}, now {now.get(key, 'absent')}"
            for key in sorted({*begun, *now})
            if not any(key == part or key.startswith(f"{part}.") for part in free) and begun.get(key) != now.get(key)
        ]
        if changes:
            raise ValueError(
                f"{folder} holds a run with other settings: {'; '.join(changes)}. Choose another run_dir=, "
                "or delete the folder to start over."
            )
    OmegaConf.save(OmegaConf.create(config), written)


def save_corruption(data: Any, folder: Path) -> CorruptionRecord | None:
    """Write what the data's corruption did into the run folder, and return it; None where there is no corruption.

    Where the validation samples come from is written and printed too, if the data module has a note of it.
    """
    if (note := getattr(data, "validation_note", None)) is not None:
        (folder / "validation.txt").write_text(f"{note}\n", encoding="utf-8")
        rank_zero_only(print)(note)
    record: CorruptionRecord | None = getattr(data, "corruption_record", None)
    if record is not None:
        record.save(folder / "corruption.pt")
    return record


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted keys."""
    if not isinstance(node, dict) or not node:
        return {prefix: node}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
