"""The rules of the tree that a reviewer should not have to remember."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
PACKAGES = ("headrace", "headrace_dagster", "resources", "assets", "pipelines", "simulation", "benchmarks")
# Named after what is in them, or not at all.
EMPTY_NAMES = {"utils", "util", "helpers", "common", "manager", "core", "misc", "base_classes"}
READS_ITS_ENVIRONMENT = {
    "headrace/training",  # torchrun tells a rank who it is through the environment, and nothing else can
    "headrace/store/s3_requests.py",  # the AWS_* variables are every S3 client's own interface
    "headrace/store/opening.py",  # a store is opened by its URL in any process: the node's cache is the node's setting
    "headrace/registry/mlflow_connection.py",  # MLFLOW_TRACKING_* are MLflow's own: errors repeat them
    "headrace/command_line",  # an edge of its own
    "headrace_dagster/coordinator/run_coordinator.py",  # HEADRACE_GPUS simulates, for daemon and commands
}
LINES_MAX = 550
BODY_LINES_MAX = 30


def modules(*packages: str) -> Iterator[Path]:
    for package in packages:
        yield from sorted((CHECKOUT / package).rglob("*.py"))


def inside(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


def test_every_room_keeps_its_contracts() -> None:
    linted = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_no_file_is_too_long_to_be_read_in_one_sitting() -> None:
    lengths = {inside(path): len(path.read_text().splitlines()) for path in modules(*PACKAGES, "tests")}
    assert {path: length for path, length in lengths.items() if length > LINES_MAX} == {}


def test_every_name_says_what_is_inside() -> None:
    names = {inside(path): path.stem for path in modules(*PACKAGES)}
    assert [path for path, name in names.items() if name in EMPTY_NAMES] == []


def test_no_module_hides_one_of_the_standard_library() -> None:
    """`headrace/x/queue.py` would be imported instead of the real one by whatever is started from its directory."""
    names = {inside(path): path.stem for path in modules(*PACKAGES)}
    assert [path for path, name in names.items() if name in sys.stdlib_module_names] == []


def test_every_directory_of_modules_is_a_package_without_code_in_its_init() -> None:
    directories = {path.parent for path in modules(*PACKAGES) if "__pycache__" not in path.parts}
    assert [inside(directory) for directory in directories if not (directory / "__init__.py").exists()] == []
    # headrace_dagster's names the classes that other projects use.
    inits = [directory / "__init__.py" for directory in directories if directory.name != "headrace_dagster"]
    assert [inside(path) for path in inits if path.read_text().strip()] == []


@pytest.mark.parametrize("package", ["headrace", "headrace_dagster", "assets"])
def test_only_the_edge_reads_environment_variables(package: str) -> None:
    """Settings come in as arguments: `resources/settings.py` reads them, once."""
    reads = [
        f"{inside(path)}:{node.lineno}"
        for path in modules(package)
        if not any(inside(path).startswith(room) for room in READS_ITS_ENVIRONMENT)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.expr) and reads_a_variable(node)
    ]
    assert reads == []


def reads_a_variable(node: ast.expr) -> bool:
    """`os.environ["X"]`, `os.environ.get("X")`, `os.getenv("X")`; neither setting one nor passing all of them on."""
    match node:
        case ast.Subscript(value=ast.Attribute(attr="environ"), ctx=ast.Load()):
            return True
        case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="environ"), attr="get")):
            return True
        case ast.Call(func=ast.Attribute(attr="getenv")):
            return True
    return False


def test_an_assets_body_is_short() -> None:
    """It reads inputs, calls the library once and returns figures; what decides something is tested in the library."""
    lengths = {
        f"{inside(path)}:{function.name}": function.body[-1].end_lineno - first_statement(function).lineno + 1
        for path in modules("assets")
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef) and function.decorator_list and function.body[-1].end_lineno
    }
    assert lengths
    assert {name: length for name, length in lengths.items() if length > BODY_LINES_MAX} == {}


def first_statement(function: ast.FunctionDef) -> ast.stmt:
    has_docstring = ast.get_docstring(function) is not None
    return function.body[1 if has_docstring and len(function.body) > 1 else 0]
