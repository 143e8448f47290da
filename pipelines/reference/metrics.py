"""Prometheus metrics: the gateway's, registered at its start or read when asked, and those of a host's table."""

import ast
import inspect
from typing import Any

from headrace.engines.host.metrics import families
from headrace.engines.host.table_view import Table
from headrace.serving.gateway import assembly
from headrace.serving.gateway.batches import assembly as batches_assembly
from headrace.serving.gateway.metrics import Metrics
from pipelines.reference.markdown import code, page, prose, table

# Prometheus's client leaves these endings to the samples.
_ENDINGS = {"counter": "_total"}


def metrics_page() -> str:
    return page(
        "Metrics",
        "`GET /metrics` of [the gateway](../gateway.md#metrics), in Prometheus's form. A histogram `NAME` has the "
        "series `NAME_bucket`, `NAME_sum` and `NAME_count`. `version_set` is the beginning of a set's id. The usual "
        "`process_…` figures come with them.",
        _table([*_registered(), *_watched()]),
        "## Of an engine host",
        "What [the engine host](../engines.md#see-it-work) of a node holds: `curl --unix-socket FILE "
        "http://host/metrics`, where `headrace model loaded --json` says which file, and beside its own in `GET "
        "/metrics` of a gateway that asks a host. `model` is the model's name, version and engine, `key` the beginning "
        "of its `id` in `headrace model loaded --json`, `place` the memory that it is in: `cpu`, or a GPU's id.",
        _table(_of_a_host()),
    )


_Metric = tuple[str, str, tuple[str, ...], str]


def _table(metrics: list[_Metric]) -> str:
    rows = [[code(name), kind, ", ".join(map(code, labels)), prose(meaning)] for name, kind, labels, meaning in metrics]
    return table(["metric", "kind", "labels", "meaning"], sorted(rows))


def _of_a_host() -> list[_Metric]:
    made: Any = families(Table(accounts=(), data=()))
    return [(one.name + _ENDINGS.get(one.type, ""), one.type, one._labelnames, one.documentation) for one in made]


def _registered() -> list[_Metric]:
    metrics = Metrics()
    collectors: Any = {one for name, one in vars(metrics).items() if hasattr(one, "describe") and name != "registry"}
    found = []
    for collector in collectors:
        [metric] = collector.describe()
        name = metric.name + _ENDINGS.get(metric.type, "")
        found.append((name, metric.type, tuple(collector._labelnames), metric.documentation))
    return found


def _watched() -> list[_Metric]:
    """The calls of `Metrics.watch` where a gateway is put together."""
    found = []
    calls = (call for module in (assembly, batches_assembly) for call in ast.walk(ast.parse(inspect.getsource(module))))
    for call in calls:
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "watch":
            name, meaning = (ast.literal_eval(argument) for argument in call.args[:2])
            found.append((f"headrace_gateway_{name}", "gauge", (), meaning))
    return found
