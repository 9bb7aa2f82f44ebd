"""The figure of a search: what each episode returned, and what the greedy strategy gained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from law_lightning.report.style import COLOURS, new_figure, save, tidy
from law_lightning.search.gain import Gain

#: Episodes that the smoothed curve averages over.
_WINDOW = 10


def draw_search(history: Sequence[Mapping[str, Any]], path: Path, checked: Gain | None = None) -> Path:
    """Draw a search's history.

    Args:
        history: A record per episode with ``episode`` (from 0) and ``return``, and, where the greedy strategy
            was evaluated, ``gain``: its mean accuracy less plain training's, in [-1, 1].
        path: The PNG file to write.
        checked: The gain of the strategy that was kept on fresh seeds.
    """
    figure = new_figure(5.6)
    upper, lower = figure.subplots(2, 1, sharex=True)

    episodes, returns = _column(history, "return")
    upper.scatter(episodes, returns, s=14, facecolors="none", edgecolors="0.5", label="one episode")
    if len(returns) >= 3:
        means = [np.mean(returns[max(0, end - _WINDOW) : end]) for end in range(1, len(returns) + 1)]
        upper.plot(episodes, means, color=COLOURS[0], linewidth=2, label=f"mean of the last {_WINDOW}")
    upper.set_ylabel("Return (sum of rewards)")

    episodes, gains = _column(history, "gain")
    lower.plot(episodes, [100 * gain for gain in gains], color=COLOURS[0], marker="o", label="seeds of the search")
    if gains:
        gain, episode = 100 * max(gains), episodes[int(np.argmax(gains))]
        lower.annotate(f"best: {gain:+.1f}", (episode, gain), (-8, 6), textcoords="offset points", ha="right")
        lower.margins(x=0.07, y=0.25)
        if checked:
            mean, low, high = (100 * end for end in (checked.mean, checked.low, checked.high))
            lower.errorbar(
                *(episode, mean), yerr=[[mean - low], [high - mean]], color=COLOURS[1], marker="s", capsize=4,
                label=f"{checked.seeds} fresh seeds, 95% interval",
            )  # fmt: skip
    lower.set_ylabel("Accuracy gained (points)")

    lower.set_xlabel("Episode")
    lower.set_xlim(left=0)
    lower.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    for axes in (upper, lower):
        axes.axhline(0, color="0.3", linewidth=1, zorder=1)
    tidy(upper, "With exploration", 2)
    tidy(lower, "Greedy strategy against plain training, validation", 2)
    return save(figure, path)


def _column(history: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Numbers of the episodes (from 1) that have a column, and its values."""
    records = [record for record in history if record.get(name) is not None]
    return [record["episode"] + 1 for record in records], [float(record[name]) for record in records]
