"""The ways to hand a table over that are compared: each writes and opens as its users do, and says what that cost.

Dagster's managers, dagster-polars' and ours run inside a real in-process Dagster run, and the clock runs around
`handle_output` and `load_input` alone. What has no manager (Hugging Face datasets, Lance) is called as its
documentation shows, and compared with the bare HandoffStore. Imports are done before the clock runs.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import pyarrow as pa

from benchmarks.measuring import Cost, Memory, measured
from headrace.handoff.sealed import Verification
from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore

ASSET, PARTITION = "samples", "all"
Use = Callable[[Any, Memory], Any]


@dataclass(frozen=True, kw_only=True)
class Ways:
    """`frame`: what a stage returns and gets. `write(frame, directory)`; `read(directory, use)` gives what `use`
    made of the table, and of the process's memory before there was one."""

    frame: type
    write: Callable[[Any, Path], Cost]
    read: Callable[[Path, Use], tuple[Cost, Any]]


@dataclass(frozen=True, kw_only=True)
class System:
    """`ways` imports all that it needs. `rival`: which of ours a peer is held against, through the same calls;
    `module`: what a peer needs that is not in the project itself."""

    label: str
    ways: Callable[[], Ways]
    rival: str | None = None
    module: str | None = None


def touch_values(table: Any) -> None:
    """One value of each column: from here on the table can be used."""
    for column in range(table.num_columns if isinstance(table, pa.Table) else len(table.columns)):
        table[0, column] if isinstance(table, pl.DataFrame) else table.column(column)[0].as_py()


def as_table(frame: Any) -> pa.Table:
    """Without a copy, to get at the buffers."""
    if isinstance(frame, pl.DataFrame):
        return frame.to_arrow(compat_level=pl.CompatLevel.newest())
    return frame


def handoffs(directory: Path, verification: Verification = "once") -> HandoffStore:
    return HandoffStore(LocalStore(directory), verification=verification)


def publish(frame: Any, directory: Path, partition: str = PARTITION) -> None:
    handoffs(directory).publish(ASSET, partition, frame, code_version="1", run_id="benchmark")


def _called(write: Callable[[pa.Table, Path], object], open_table: Callable[[Path], pa.Table]) -> Ways:
    """As a library's documentation shows."""

    def written(table: pa.Table, directory: Path) -> Cost:
        with measured() as cost:
            write(table, directory)
        return cost

    def read(directory: Path, use: Use) -> tuple[Cost, Any]:
        before = Memory.now()
        with measured() as cost:
            table = open_table(directory)
            touch_values(table)
        return cost, use(table, before)

    return Ways(frame=pa.Table, write=written, read=read)


def _headrace_store() -> Ways:
    return _called(publish, lambda directory: handoffs(directory).open(ASSET, PARTITION).table())


def _datasets() -> Ways:
    datasets: Any = importlib.import_module("datasets")
    datasets.disable_progress_bars()

    def write(table: pa.Table, directory: Path) -> None:
        datasets.Dataset(datasets.table.InMemoryTable(table)).save_to_disk(str(directory / "samples"))

    return _called(write, lambda directory: datasets.load_from_disk(str(directory / "samples")).data.table)


def _lance() -> Ways:
    lance: Any = importlib.import_module("lance")
    return _called(
        lambda table, directory: lance.write_dataset(table, str(directory / "samples.lance")),
        lambda directory: lance.dataset(str(directory / "samples.lance")).to_table(),
    )


def _headrace() -> Callable[[Path], Any]:
    from headrace_dagster.handoff_io import ArrowHandoffIOManager

    kind = _measuring(ArrowHandoffIOManager)
    return lambda directory: kind(url=str(directory))


def _pickled() -> Callable[[Path], Any]:
    from dagster._core.storage.fs_io_manager import PickledObjectFilesystemIOManager

    kind = _measuring(PickledObjectFilesystemIOManager)
    return lambda directory: kind(base_dir=str(directory))


def _parquet() -> Callable[[Path], Any]:
    from dagster_polars import PolarsParquetIOManager  # pyright: ignore[reportMissingImports] (a peer: make bench-setup)

    scan: Any = pl.scan_parquet

    def scan_parquet(*arguments: Any, rechunk: bool = True, retries: int = 0, **options: Any) -> pl.LazyFrame:
        """dagster-polars 0.27 still passes two arguments that polars 2 refuses. Left out, which costs it nothing."""
        return scan(*arguments, **options)

    pl.scan_parquet = scan_parquet
    kind = _measuring(PolarsParquetIOManager)
    return lambda directory: kind(base_dir=str(directory))


class _Measuring:
    """Put before an IO manager's class: the clock runs around its two methods."""

    cost: ClassVar[Cost]
    before: ClassVar[Memory]

    def handle_output(self, context: Any, obj: Any) -> None:
        with measured(_Measuring.cost):
            super().handle_output(context, obj)  # pyright: ignore[reportAttributeAccessIssue]

    def load_input(self, context: Any) -> Any:
        _Measuring.before = Memory.now()
        with measured(_Measuring.cost):
            frame = super().load_input(context)  # pyright: ignore[reportAttributeAccessIssue]
            touch_values(frame)
        return frame


def _measuring(kind: type) -> Any:
    return type(f"Measured{kind.__name__}", (_Measuring, kind), {"__module__": __name__})


def _managed(frame: type, manager: Callable[[], Callable[[Path], Any]]) -> Callable[[], Ways]:
    """As Dagster runs it."""

    def made() -> Ways:
        import dagster as dg

        manager_of = manager()

        def run(assets: list[Any], selection: str, directory: Path) -> Cost:
            _Measuring.cost = Cost()
            resources = {"io_manager": manager_of(directory)}
            with dg.instance_for_test() as instance:
                dg.materialize(assets, selection=selection, resources=resources, instance=instance)
            return _Measuring.cost

        def write(rows: Any, directory: Path) -> Cost:
            @dg.asset(name=ASSET, code_version="1")
            def samples() -> Any:
                return rows

            return run([samples], ASSET, directory)

        def read(directory: Path, use: Use) -> tuple[Cost, Any]:
            made: list[Any] = []

            @dg.asset(name="reader", ins={ASSET: dg.AssetIn(dagster_type=frame)})
            def reader(samples: Any) -> None:
                made.append(use(samples, _Measuring.before))

            return run([dg.AssetSpec(ASSET), reader], "reader", directory), made[0]

        return Ways(frame=frame, write=write, read=read)

    return made


_ARROW, _POLARS = "headrace-arrow", "headrace-polars"
SYSTEMS: dict[str, System] = {
    "headrace-store": System(label="Headrace, HandoffStore", ways=_headrace_store),
    _ARROW: System(label="Headrace, IO manager, pa.Table", ways=_managed(pa.Table, _headrace)),
    _POLARS: System(label="Headrace, IO manager, polars", ways=_managed(pl.DataFrame, _headrace)),
    "pickle-arrow": System(label="Dagster pickle, pa.Table", ways=_managed(pa.Table, _pickled), rival=_ARROW),
    "pickle-polars": System(label="Dagster pickle, polars", ways=_managed(pl.DataFrame, _pickled), rival=_POLARS),
    "parquet": System(
        label="dagster-polars Parquet",
        ways=_managed(pl.DataFrame, _parquet),
        rival=_POLARS,
        module="dagster_polars",
    ),
    "datasets": System(label="Hugging Face datasets", ways=_datasets, rival="headrace-store", module="datasets"),
    "lance": System(label="Lance", ways=_lance, rival="headrace-store", module="lance"),
}
