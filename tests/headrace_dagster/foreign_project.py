"""A Dagster project of somebody else, with `headrace_dagster.Campaign` in it; `dg` is called in this process."""

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import dagster as dg
from click.testing import CliRunner, Result
from dagster_dg_cli.cli import create_dg_cli

from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
from tests.command_line.builders import run as run_headrace

PRODUCTS = ["kettle", "lamp", "rucksack", "sofa", "tent"]

_FILES = {
    "pyproject.toml": '[tool.dg]\ndirectory_type = "project"\n\n[tool.dg.project]\nroot_module = "shop"\n',
    "products.csv": "\n".join(["product", *PRODUCTS, ""]),
    "dagster_home/dagster.yaml": "telemetry: {enabled: false}\n",
    "shop/__init__.py": "",
    "shop/definitions.py": """
from pathlib import Path

import dagster as dg


@dg.definitions
def defs():
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
""",
    "shop/defs/__init__.py": "",
    # Resources of the names that Headrace's assets have for theirs.
    "shop/defs/shop_window.py": """
import dagster as dg
import polars as pl


class Store(dg.ConfigurableResource):
    street: str


@dg.asset(ins={"rows": dg.AssetIn(["products", "reviewed_content"], metadata={"allow_missing_partitions": True})})
def shop_window(rows: dict[str, pl.DataFrame], store: Store) -> dg.MaterializeResult:
    texts = [text for frame in rows.values() for text in frame["output"]]
    return dg.MaterializeResult(value=texts, metadata={"street": store.street, "num_texts": len(texts)})


@dg.definitions
def own():
    return dg.Definitions(
        assets=[shop_window],
        resources={"store": Store(street="Mill Lane"), "io_manager": dg.InMemoryIOManager()},
        executor=dg.in_process_executor,
    )
""",
}
_UNSET = ("HEADRACE_HOME", "HEADRACE_STORE", "HEADRACE_ENGINE", "HEADRACE_FIRST_DAY", "HEADRACE_TIMEZONE")


class ForeignProject:
    def __init__(self, root: Path) -> None:
        self.root = root
        for name, text in _FILES.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        self.handoffs = HandoffStore(LocalStore(root / ".headrace/store"))

    @property
    def component(self) -> Path:
        return self.root / "shop/defs/products"

    def instance(self) -> dg.DagsterInstance:
        return dg.DagsterInstance.from_config(str(self.root / "dagster_home"))

    def dg(self, *arguments: str) -> Result:
        """What `dg` does and says, called in the project's directory."""
        with self._inside():
            return CliRunner().invoke(create_dg_cli(), arguments)

    def headrace(self, *arguments: str) -> Any:
        with contextlib.chdir(self.root):
            return run_headrace(*arguments, env=dict.fromkeys(_UNSET))

    @contextlib.contextmanager
    def _inside(self) -> Any:
        before = dict(os.environ)
        for name in _UNSET:
            os.environ.pop(name, None)
        os.environ |= {"DAGSTER_HOME": str(self.root / "dagster_home"), "DAGSTER_DISABLE_TELEMETRY": "1"}
        path = list(sys.path)
        try:
            with contextlib.chdir(self.root):
                yield
        finally:
            # The next call finds the project as it is then, as a process of its own would.
            for name in [one for one in sys.modules if one == "shop" or one.startswith("shop.")]:
                del sys.modules[name]
            sys.path[:] = path
            os.environ.clear()
            os.environ.update(before)
