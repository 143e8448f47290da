"""An engine of another package, which does as it loads, and for each turn, what a test writes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from headrace.engines.base import Answer, Engine, Turn
from headrace.engines.host.client import HostedEngine, hosted
from headrace.engines.registry import EngineKind, Opening
from headrace.store.local import LocalStore
from tests.engines.host.hosts import RunningHost, running_host
from tests.generation.builders import make_member

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, kw_only=True)
class Options:
    as_it_loads: str = ""
    for_a_turn: str = ""


class Scripted(Engine):
    deterministic = True

    def __init__(self, options: Options) -> None:
        self._for_a_turn = options.for_a_turn
        exec(options.as_it_loads, {})

    async def answer(self, turn: Turn) -> Answer:
        exec(self._for_a_turn, {})
        return Answer(text="done", finish_reason="stop", num_output_tokens=1)


KIND = EngineKind(
    name="scripted",
    options=Options,
    deterministic=True,
    can_be_hosted=True,
    open=lambda opening: Scripted(opening.options),
)


def opened(host: RunningHost, **options: str) -> HostedEngine:
    """Blocks until its model is there. `host`: of `host_with_it`."""
    given = Options(**options)
    member = make_member(weights_digest="", weights_uri="")
    objects = LocalStore(host.socket_file.parent / "no-store")
    opening = Opening(
        member=member, spec=KIND.spec(given), options=given, deployment=host.deployment(objects), objects=objects
    )
    engine = hosted(KIND, opening)
    assert isinstance(engine, HostedEngine)
    engine.name = KIND.name
    return engine


def pid_of(host: RunningHost) -> int:
    [pid] = [row.pid for row in host.table.data if row.pid]
    return pid


@contextmanager
def host_with_it(directory: Path, *arguments: str) -> Iterator[RunningHost]:
    """Args: directory: an empty one, for what an installer makes of this package."""
    info = directory / "scripted-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: scripted\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[headrace.engines]\nscripted = {__name__}:KIND\n")
    with running_host(*arguments, python_path=(directory, ROOT)) as host:
        yield host
