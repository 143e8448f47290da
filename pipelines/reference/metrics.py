"""The gateway's Prometheus metrics: those that are registered at its start, and those that are read when asked."""

import ast
import inspect
from typing import Any

from headrace.serving.gateway import assembly
from headrace.serving.gateway.metrics import Metrics
from pipelines.reference.markdown import code, page, prose, table

# Prometheus's client leaves these endings to the samples.
_ENDINGS = {"counter": "_total"}


def metrics_page() -> str:
    rows = [
        [code(name), kind, ", ".join(map(code, labels)), prose(meaning)]
        for name, kind, labels, meaning in [*_registered(), *_watched()]
    ]
    return page(
        "Metrics",
        "`GET /metrics` of [the gateway](../gateway.md#metrics), in Prometheus's form. A histogram `NAME` has the "
        "series `NAME_bucket`, `NAME_sum` and `NAME_count`. `version_set` is the beginning of a set's id. The usual "
        "`process_…` figures come with them.",
        table(["metric", "kind", "labels", "meaning"], sorted(rows)),
    )


def _registered() -> list[tuple[str, str, tuple[str, ...], str]]:
    metrics = Metrics()
    collectors: Any = {one for name, one in vars(metrics).items() if hasattr(one, "describe") and name != "registry"}
    found = []
    for collector in collectors:
        [metric] = collector.describe()
        name = metric.name + _ENDINGS.get(metric.type, "")
        found.append((name, metric.type, tuple(collector._labelnames), metric.documentation))
    return found


def _watched() -> list[tuple[str, str, tuple[str, ...], str]]:
    """The calls of `Metrics.watch` where a gateway is put together."""
    found = []
    for call in ast.walk(ast.parse(inspect.getsource(assembly))):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "watch":
            name, meaning = (ast.literal_eval(argument) for argument in call.args[:2])
            found.append((f"headrace_gateway_{name}", "gauge", (), meaning))
    return found
