"""From a file of prompts to rows: ours in a fresh clone, and Data Designer's quick start, against one local server."""

import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from benchmarks.measuring import ChildFailed
from pipelines.setup import DATA_DESIGNER
from simulation.servers.chat import ChatServer, answering, served

CHECKOUT = Path(__file__).parents[2]
PROMPTS = "products.csv"
_PR_SET_CHILD_SUBREAPER = 36
# A command that is not done by then hangs.
_COMMAND_SECONDS_MAX = 600.0
# What a command leaves running ends by itself a little later: Dagster's services, a warm worker.
_REST_SECONDS_MAX = 60.0


@dataclass(frozen=True, kw_only=True)
class Way:
    """What a user did: commands, and the lines of the one file that they wrote or were given.

    CPU seconds are user and system time of all processes, whoever started them; `rows`: text by prompt.
    """

    commands: Sequence[str]
    num_lines: int
    num_files: int
    cpu_seconds: float
    wall_seconds: float
    rows: Mapping[str, str]
    is_reviewed: bool


def write_prompts(directory: Path, num_prompts: int) -> None:
    lines = [f"thing {number}" for number in range(num_prompts)]
    (directory / PROMPTS).write_text("\n".join(["product", *lines]) + "\n")


@contextmanager
def local_server() -> Iterator[str]:
    """An OpenAI-compatible server in this process, whose CPU no way counts; its answers follow from the prompts."""

    async def behave(server: ChatServer, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        content = body["messages"][-1]["content"]
        text = content if isinstance(content, str) else content[0]["text"]
        return await answering(f"{len(text)} reasons for a thing that nobody else has.")(server, request, body)

    with served(behave) as server:
        yield server.url


def ours(directory: Path, engine: Sequence[str], num_prompts: int) -> Way:
    """`headrace init`, `preview` and `run` in a fresh clone of what is committed here, whose set-up is done."""
    clone = directory / "clone"
    subprocess.run(["git", "clone", "--quiet", str(CHECKOUT), str(clone)], check=True)
    # What `make setup` leaves there; the packages are those of this checkout, and the code is the clone's.
    (clone / ".env").write_text(f"DAGSTER_HOME={clone / 'dagster_home'}\n")
    write_prompts(clone, num_prompts)
    environment = {**_bare(directory), "PYTHONPATH": str(clone), "HEADRACE_PORT": str(_free_port())}
    commands = [
        ["headrace", "init", "--prompts", PROMPTS, "--template", "A tagline for {product}.", "--engine", *engine],
        ["headrace", "preview", "products"],
        ["headrace", "run", "products"],
    ]
    with _counted() as cost:
        for command in commands:
            _call([str(Path(sys.executable).with_name(command[0])), *command[1:]], clone, environment)
    file = clone / "resources/campaigns/products.yaml"
    return Way(
        commands=[" ".join(command) for command in commands],
        num_lines=len(file.read_text().splitlines()),
        num_files=1,
        rows=_reviewed(clone / ".headrace/store"),
        is_reviewed=True,
        **cost,
    )


def import_dagster(directory: Path) -> float:
    """CPU seconds of `import dagster`, of which each of our processes has one: what this machine takes for it now."""
    with _counted() as cost:
        _call([sys.executable, "-c", "import dagster"], directory, _bare(directory))
    return cost["cpu_seconds"]


def data_designer(directory: Path, server: str, num_prompts: int) -> Way:
    """Its quick start, as one script that a user writes."""
    import pyarrow.parquet as pq

    script = Path(__file__).with_name("data_designer_quick_start.py")
    directory = directory / "data-designer"
    directory.mkdir()
    write_prompts(directory, num_prompts)
    command = [str(DATA_DESIGNER / "bin/python"), str(script), server, str(num_prompts)]
    with _counted() as cost:
        _call(command, directory, _bare(directory))
    code = script.read_text().partition('"""\n\n')[2].splitlines()
    made = pq.read_table(directory / "taglines.parquet").to_pylist()
    return Way(
        commands=["python quick_start.py"],
        num_lines=sum(bool(line.strip()) for line in code),
        num_files=1,
        rows={f"A tagline for {row['product']}.": row["tagline"] for row in made},
        is_reviewed=False,
        **cost,
    )


def _reviewed(store: Path) -> dict[str, str]:
    """The kept rows of the newest versions."""
    from headrace.handoff.versions import HandoffStore
    from headrace.store.local import LocalStore

    handoffs = HandoffStore(LocalStore(store))
    found = [handoffs.open("reviewed_content", key) for key in handoffs.partitions("reviewed_content")]
    return {row["prompt"]: row["output"] for one in found for row in one.table().to_pylist() if row["kept"]}


def _bare(home: Path) -> dict[str, str]:
    """An environment in which nothing of this machine's user is set."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8"}


def _call(command: Sequence[str], directory: Path, environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_COMMAND_SECONDS_MAX,
        check=False,
    )
    if done.returncode:
        said = f"{done.stdout}\n{done.stderr}"[-4000:]
        raise ChildFailed(f"{' '.join(command)} ended with {done.returncode}:\n{said}")


@contextmanager
def _counted() -> Iterator[dict[str, float]]:
    """CPU and wall seconds of all that the block starts, also of processes that outlive the one that started them.

    This process adopts them, so that the kernel adds their time to its children's once they have ended.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    cost: dict[str, float] = {}
    before, started = _children_seconds(), time.perf_counter()
    yield cost
    cost["wall_seconds"] = time.perf_counter() - started
    _wait_for_the_rest()
    cost["cpu_seconds"] = _children_seconds() - before


def _wait_for_the_rest() -> None:
    """Raises: ChildFailed: a process goes on and on."""
    ends_at = time.monotonic() + _REST_SECONDS_MAX
    while True:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if ended:
            continue
        if time.monotonic() > ends_at:
            left = [int(one) for one in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
            for process in left:
                os.kill(process, signal.SIGKILL)
            raise ChildFailed(f"{len(left)} processes went on for {_REST_SECONDS_MAX:.0f} s after the last command.")
        time.sleep(0.05)


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
