"""Room for work that takes a machine whole: models that nobody uses leave memory before it begins."""

from collections.abc import Callable, Mapping

from headrace.engines.host.address import host_address
from headrace.engines.host.wanted import CPU
from headrace.errors import EngineUnavailable
from headrace.store.objects import ObjectStore

# Whoever is not told in time goes on beside the models, as without this.
_SECONDS_MAX = 5.0


def empty_memory(word: str, objects: ObjectStore, environment: Mapping[str, str], say: Callable[[str], None]) -> None:
    """Has the models leave that this node's host holds without a GPU, and that wait for work; a live service's stay.

    They would do so by themselves two minutes after their last use. A GPU's models are the coordinator's affair.

    Args:
        word: what `HEADRACE_ENGINE_HOST` says.
        environment: of the process whose work needs the room.
        say: told what leaves.
    """
    address = host_address(word, objects, environment)
    if address is None or address.device != CPU:
        return
    # Imported here: it imports aiohttp, which a training does without.
    from headrace.engines.host.connection import empty_place

    try:
        table = empty_place(address.socket_file, CPU, seconds_max=_SECONDS_MAX)
    except EngineUnavailable as error:
        say(f"The engine host keeps its models beside this: {error}")
        return
    leaving = [row for row in table.data if row.place == CPU and row.state == "leaving"] if table else []
    if leaving:
        say(
            f"{sum(row.mib for row in leaving):,} MiB of models leave the engine host's memory: "
            f"{', '.join(row.model for row in leaving)}."
        )
