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


@dataclass(frozen=True, kw_only=True)
class System:
    """`frame`: what a stage returns and gets. `write(frame, directory)`; `read(directory, use)` gives what `use`
    made of the table, and of the process's memory before there was one.

    `rival`: which of ours a peer is held against.
    """

    label: str
    frame: type
    write: Callable[[Any, Path], Cost]
    read: Callable[[Path, Callable[[Any, Memory], Any]], tuple[Cost, Any]]
    rival: str | None = None


def system(name: str) -> System:
    """Imports all that it needs. Raises: ModuleNotFoundError: the peer is not installed."""
    return _SYSTEMS[name]()


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


def publish(frame: Any, directory: Path, partition: str = PARTITION) -> Cost:
    with measured() as cost:
        handoffs(directory).publish(ASSET, partition, frame, code_version="1", run_id="benchmark")
    return cost


def _headrace_store() -> System:
    def read(directory: Path, use: Callable[[Any, Memory], Any]) -> tuple[Cost, Any]:
        before = Memory.now()
        with measured() as cost:
            table = handoffs(directory).open(ASSET, PARTITION).table()
            touch_values(table)
        return cost, use(table, before)

    return System(label="Headrace, HandoffStore", frame=pa.Table, write=publish, read=read)


def _headrace(frame: type, label: str) -> Callable[[], System]:
    def made() -> System:
        from headrace_dagster.handoff_io import ArrowHandoffIOManager

        kind = _measuring(ArrowHandoffIOManager)
        return _managed(label, frame, lambda directory: kind(url=str(directory)))

    return made


def _pickled(frame: type, label: str, rival: str) -> Callable[[], System]:
    def made() -> System:
        from dagster._core.storage.fs_io_manager import PickledObjectFilesystemIOManager

        kind = _measuring(PickledObjectFilesystemIOManager)
        return _managed(label, frame, lambda directory: kind(base_dir=str(directory)), rival)

    return made


def _parquet() -> System:
    from dagster_polars import PolarsParquetIOManager  # pyright: ignore[reportMissingImports] (a peer: make bench-setup)

    scan: Any = pl.scan_parquet

    def scan_parquet(*arguments: Any, rechunk: bool = True, retries: int = 0, **options: Any) -> pl.LazyFrame:
        """dagster-polars 0.27 still passes two arguments that polars 2 refuses. Left out, which costs it nothing."""
        return scan(*arguments, **options)

    pl.scan_parquet = scan_parquet

    kind = _measuring(PolarsParquetIOManager)
    return _managed(
        "dagster-polars Parquet", pl.DataFrame, lambda directory: kind(base_dir=str(directory)), "headrace-polars"
    )


def _datasets() -> System:
    datasets: Any = importlib.import_module("datasets")
    datasets.disable_progress_bars()

    def write(table: pa.Table, directory: Path) -> Cost:
        rows = datasets.Dataset(datasets.table.InMemoryTable(table))
        with measured() as cost:
            rows.save_to_disk(str(directory / "samples"))
        return cost

    def read(directory: Path, use: Callable[[Any, Memory], Any]) -> tuple[Cost, Any]:
        before = Memory.now()
        with measured() as cost:
            table = datasets.load_from_disk(str(directory / "samples")).data.table
            touch_values(table)
        return cost, use(table, before)

    return System(label="Hugging Face datasets", frame=pa.Table, write=write, read=read, rival="headrace-store")


def _lance() -> System:
    lance: Any = importlib.import_module("lance")

    def write(table: pa.Table, directory: Path) -> Cost:
        with measured() as cost:
            lance.write_dataset(table, str(directory / "samples.lance"))
        return cost

    def read(directory: Path, use: Callable[[Any, Memory], Any]) -> tuple[Cost, Any]:
        before = Memory.now()
        with measured() as cost:
            table = lance.dataset(str(directory / "samples.lance")).to_table()
            touch_values(table)
        return cost, use(table, before)

    return System(label="Lance", frame=pa.Table, write=write, read=read, rival="headrace-store")


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


def _managed(label: str, frame: type, manager: Callable[[Path], Any], rival: str | None = None) -> System:
    import dagster as dg

    def run(assets: list[Any], selection: str, directory: Path) -> Cost:
        _Measuring.cost = Cost()
        with dg.instance_for_test() as instance:
            dg.materialize(assets, selection=selection, resources={"io_manager": manager(directory)}, instance=instance)
        return _Measuring.cost

    def write(rows: Any, directory: Path) -> Cost:
        @dg.asset(name=ASSET, code_version="1")
        def samples() -> Any:
            return rows

        return run([samples], ASSET, directory)

    def read(directory: Path, use: Callable[[Any, Memory], Any]) -> tuple[Cost, Any]:
        made: list[Any] = []

        @dg.asset(name="reader", ins={ASSET: dg.AssetIn(dagster_type=frame)})
        def reader(samples: Any) -> None:
            made.append(use(samples, _Measuring.before))

        return run([dg.AssetSpec(ASSET), reader], "reader", directory), made[0]

    return System(label=label, frame=frame, write=write, read=read, rival=rival)


_SYSTEMS: dict[str, Callable[[], System]] = {
    "headrace-store": _headrace_store,
    "headrace-arrow": _headrace(pa.Table, "Headrace, IO manager, pa.Table"),
    "headrace-polars": _headrace(pl.DataFrame, "Headrace, IO manager, polars"),
    "pickle-arrow": _pickled(pa.Table, "Dagster pickle, pa.Table", "headrace-arrow"),
    "pickle-polars": _pickled(pl.DataFrame, "Dagster pickle, polars", "headrace-polars"),
    "parquet": _parquet,
    "datasets": _datasets,
    "lance": _lance,
}
