"""A picture of a simulation, by matplotlib where it is installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from node.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from verification.simulate import Row

COLOURS: Final = {"greedy": "#c0504d", "t-test": "#e0a030", "lazaretto": "#3070b0"}
ENDINGS: Final = (".svg", ".png", ".pdf")


def check_plot(path: Path) -> None:
    """Refuse before the work what could not be drawn after it. Raises UsageError."""
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(
            f"a plot is a file that ends in {', '.join(ENDINGS)}", cure="--plot simulation.svg"
        )
    if not path.parent.is_dir():
        raise UsageError(f"there is no directory {path.parent}", cure=f"mkdir -p {path.parent}")
    if find_spec("matplotlib") is None:
        raise UsageError(
            "plots are drawn by matplotlib, which is not installed; nothing was simulated",
            cure="pip install 'lazaretto[plot]', or leave --plot out",
        )


def draw(found: list[tuple[str, Row]], path: Path) -> None:
    """False discovery rate and power of every policy, one group of bars for each row.

    Raises UsageError where the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 1.6 + 0.42 * len(found)), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    height = 0.8 / len(COLOURS)
    for index, (policy, colour) in enumerate(COLOURS.items()):
        at = [row + (index - 1) * height for row in range(len(found))]
        figures = [row.figures[index] for _, row in found]
        left.barh(at, [item.fdr for item in figures], height, color=colour, label=policy)
        right.barh(at, [item.power or 0.0 for item in figures], height, color=colour)
    for row, (_, result) in enumerate(found):
        alpha = result.setting.alpha
        left.plot([alpha, alpha], [row - 0.45, row + 0.45], color="black", lw=1)
    names = [
        (label or "this setting") + ("" if not row.broken else " (no promise)")
        for label, row in found
    ]
    left.set_yticks(range(len(found)), names)
    left.set_ylim(len(found) - 0.4, -0.6)
    left.set_title("false discovery rate (line: promised)")
    right.set_title("power: true claims adopted")
    for side in (left, right):
        side.set_xlim(0, 1)
        side.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(COLOURS), frameon=False)
    try:
        figure.savefig(path)
    except OSError as error:
        raise UsageError(
            f"the picture could not be written: {error.strerror}; what was printed is complete",
            cure="--plot in a directory that you may write to, with the same --seed",
        ) from None
