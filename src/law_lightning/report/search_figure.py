"""The figure of a search: what each episode returned, and what the greedy strategy gained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from law_lightning.report.style import BASE_COLOUR, COLOURS, new_figure, save, tidy

#: Episodes that the smoothed curve averages over.
_WINDOW = 10


def draw_search(history: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draw a search's history.

    Args:
        history: A record per episode with ``episode`` (from 0) and ``return``, and, where the greedy strategy
            was evaluated, ``gain``: its mean accuracy less plain training's, in [-1, 1].
        path: The PNG file to write.
    """
    figure = new_figure(7.2, 5.2)
    upper, lower = figure.subplots(2, 1, sharex=True)
    _draw_returns(upper, history)
    _draw_gains(lower, history)
    lower.set_xlabel("Episode")
    lower.set_xlim(left=0)
    lower.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    for axes in (upper, lower):
        axes.axhline(0, color="0.3", linewidth=1, zorder=1)
        tidy(axes)
    return save(figure, path)


def _draw_returns(axes: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    records = [record for record in history if record.get("return") is not None]
    episodes = [record["episode"] + 1 for record in records]
    returns = np.asarray([record["return"] for record in records], dtype=np.float64)
    axes.scatter(episodes, returns, s=16, color=BASE_COLOUR, alpha=0.7, linewidths=0, label="one episode")
    if len(returns) >= 3:
        means = [returns[max(0, end - _WINDOW) : end].mean() for end in range(1, len(returns) + 1)]
        axes.plot(episodes, means, color=COLOURS[0], linewidth=2, label=f"mean of the last {_WINDOW}")
        axes.legend(frameon=False, fontsize=9, loc="best")
    axes.set_ylabel("Return (sum of rewards)")
    axes.set_title("While exploring", fontsize=11, loc="left")


def _draw_gains(axes: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    records = [record for record in history if record.get("gain") is not None]
    episodes = [record["episode"] + 1 for record in records]
    gains = [100 * float(record["gain"]) for record in records]
    axes.plot(episodes, gains, color=COLOURS[1], marker="o", linewidth=2, zorder=2)
    if gains:
        best = int(np.argmax(gains))
        axes.annotate(
            f"best: {gains[best]:+.1f}",
            (episodes[best], gains[best]),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )
        axes.margins(x=0.07, y=0.25)
    axes.set_ylabel("Accuracy gained (points)")
    axes.set_title("Greedy strategy against plain training, validation", fontsize=11, loc="left")
