"""Loss curves as pictures: a large one for MLflow, a tiny one for metadata in the Dagster UI."""

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import pairwise
from math import isfinite
from typing import Any

Row = Mapping[str, Any]

# The UI shows inline metadata below 1,000 characters without a click.
_SPARK_POINTS = 40
_SPARK_WIDTH, _SPARK_HEIGHT = 240, 60


def is_finite(value: float | None) -> bool:
    """False for missing values, and for a skipped step's norm, infinity."""
    return value is not None and isfinite(value)


def curves_png(rows: Sequence[Row], *, title: str) -> bytes:
    """Loss, learning rate, gradient norm and speed by step."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = (
        ("loss", "loss"),
        ("learning_rate", "learning rate"),
        ("gradient_norm", "gradient norm"),
        ("tokens_per_second", "tokens/s"),
    )
    figure = Figure(figsize=(9, 6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for axes, (field, label) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        points = [(row["step"], row[field]) for row in rows if is_finite(row[field])]
        axes.plot([step for step, _ in points], [value for _, value in points], linewidth=1.5, color="#1f6f8b")
        heldout = [(row["step"], row["heldout_loss"]) for row in rows if is_finite(row.get("heldout_loss"))]
        if field == "loss" and heldout:
            axes.plot(*zip(*heldout, strict=True), linewidth=1.5, color="#c05a2b", marker=".", label="held-out")
            axes.legend()
        axes.set_xlabel("step")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def loss_sparkline(rows: Sequence[Row]) -> str:
    """Markdown with the loss curve inline, below 1,000 characters for any number of steps."""
    losses = [row["loss"] for row in rows if is_finite(row["loss"])]
    if not losses:
        return "no finite loss"
    buckets = min(_SPARK_POINTS, len(losses))
    bounds = [round(index * len(losses) / buckets) for index in range(buckets + 1)]
    means = [sum(part) / len(part) for part in (losses[a:b] for a, b in pairwise(bounds))]
    low, high = min(means), max(means)
    spread = (high - low) or 1.0
    points = " ".join(
        f"{round(index * _SPARK_WIDTH / max(1, buckets - 1))},{round(4 + (high - mean) / spread * (_SPARK_HEIGHT - 8))}"
        for index, mean in enumerate(means)
    )
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_SPARK_WIDTH}" height="{_SPARK_HEIGHT}">'
        f'<polyline fill="none" stroke="#1f6f8b" stroke-width="2" points="{points}"/></svg>'
    )
    encoded = base64.b64encode(svg.encode()).decode()
    return f"![loss](data:image/svg+xml;base64,{encoded}) {losses[0]:.3f} → {losses[-1]:.3f}"
