"""Draws the suite's results: the cost of each stage, and every comparison as bars."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from train import run_folder

STAGES = ("#4c78a8", "#9ecae9", "#f58518", "#ffbf79", "#54a24b", "#88d27a", "#b79a20")
BAR, BASE, INK, QUIET = "#4c78a8", "#9aa5b1", "#1f2933", "#616e7c"


def check(file: Path) -> None:
    """Raises `InputError` if the file is not PNG or matplotlib is missing."""
    if file.suffix != ".png":
        raise InputError(f"--plot {file}: must end in .png")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InputError("--plot: needs matplotlib; uv sync --group report") from None


@contextmanager
def drawing() -> Iterator[Any]:
    """Yields pyplot in the suite's style, for use without a screen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context({"font.size": 9, "text.color": INK, "axes.labelcolor": INK}):
        yield pyplot


def save(figure: Any, file: Path) -> None:
    """Writes a figure atomically as PNG."""
    from matplotlib import pyplot

    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    pyplot.close(figure)
    run_folder.write(file, png.getvalue())


def draw(result: dict[str, Any], file: Path) -> None:
    """Draws the result of `run_bench`."""
    with drawing() as pyplot:
        comparisons = result["comparisons"]
        chains = [c for c in ("pipeline", "step") if c in result.get("waterfall", {})]
        rows = -(-len(comparisons) // 2)
        heights = [2.2] * bool(chains) + [
            0.8 + 0.28 * max(len(c["sides"]) for c in comparisons[2 * i : 2 * i + 2])
            for i in range(rows)
        ]
        figure = pyplot.figure(figsize=(13, 0.9 + sum(heights) * 1.15), layout="constrained")
        figure.suptitle(_title(result), x=0.01, ha="left", fontsize=10, color=QUIET)
        grid = figure.add_gridspec(len(heights), 2, height_ratios=heights)
        for i, chain in enumerate(chains):
            _waterfall(figure.add_subplot(grid[0, i]), chain, result)
        for i, comparison in enumerate(comparisons):
            _bars(figure.add_subplot(grid[bool(chains) + i // 2, i % 2]), comparison)
        save(figure, file)


def _title(result: dict[str, Any]) -> str:
    device = result["gpu"]["name"] if result["device"] == "cuda" else result["cpu"]
    packages = result["packages"]
    return (
        f"cdp bench    {device}, {result['num_cores']} cores    torch {packages['torch']}, "
        f"DALI {packages['nvidia-dali-cuda120']}    JPEG {result['data']['mean_file_bytes']:.0f} B"
        f"    {result['date'][:10]}"
    )


def _waterfall(axes: Any, chain: str, result: dict[str, Any]) -> None:
    """Draws stages as bars, each starting where the previous one ends."""
    stages = result["waterfall"][chain]
    total = sum(stages.values())
    start = 0.0
    for i, us in enumerate(stages.values()):
        # A stage that overlaps with earlier ones can come out below 0.
        axes.barh(i, us, left=start, color=STAGES[i % len(STAGES)])
        end = max(start, start + us)
        axes.text(end + 0.01 * total, i, f"{us:.3g} µs, {100 * us / total:.0f} %", va="center")
        start += us
    axes.set_yticks(range(len(stages)), list(stages))
    axes.set_xlim(0, 1.3 * total)
    axes.set_xlabel("µs of wall time per image")
    _finish(axes, f"{chain}: {1e6 / total:.0f} images/s ({result['waterfall']['preset']})")


def _bars(axes: Any, comparison: dict[str, Any]) -> None:
    """Draws medians as bars, minimum and maximum as whiskers, with the ratio as text."""
    sides = comparison["sides"]
    longest = max(side["rate"]["max"] for side in sides.values())
    for i, (name, side) in enumerate(sides.items()):
        rate = side["rate"]
        axes.barh(i, rate["median"], color=BASE if name == comparison["base"] else BAR, height=0.7)
        axes.plot([rate["min"], rate["max"]], [i, i], color=INK, linewidth=1)
        label = f"{rate['median']:.0f}   x{side['ratio']['median']:.2f}"
        axes.text(rate["max"] + 0.01 * longest, i, label, va="center")
    axes.set_yticks(range(len(sides)), list(sides))
    axes.set_xlim(0, 1.3 * longest)
    axes.set_xlabel("images/s")
    size = f"{comparison['height_px']}x{comparison['width_px']}"
    _finish(axes, f"{comparison['bench']} ({comparison['preset']}, {size})")


def _finish(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left", fontweight="bold", fontsize=9)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0)
