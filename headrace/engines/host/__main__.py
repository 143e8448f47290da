"""`python -m headrace.engines.host --socket FILE`: holds models for several runs. See docs/engines.md."""

import asyncio
import logging
import os
import resource
import signal
import socket
import time
from pathlib import Path
from typing import Annotated

import typer
from aiohttp import web

from headrace.cycles import look_for_cycles_rarely
from headrace.engines.host.address import HOST_IDLE_SECONDS, HOST_MIB, PATH_BYTES_MAX, SILENT_SECONDS
from headrace.engines.host.child_process import remove_leftovers
from headrace.engines.host.edge import LEAVE_SECONDS
from headrace.engines.host.gpu_memory import GpuMemory
from headrace.engines.host.remembered import Remembered
from headrace.engines.host.residents import Residents
from headrace.engines.host.supervisor import Supervisor
from headrace.engines.host.wanted import CPU
from headrace.errors import HeadraceError, InvalidInput
from headrace.text.terminal import say
from headrace.this_machine import available_mib_here, memory_mib_here
from headrace.unix_sockets import identity, leave_file, listen_on_file

# Of the machine's memory. The rest is for runs, Dagster and the page cache.
_SHARE = 0.8
_LOOK_SECONDS = 0.2
# A client's connection that rests is its word that it is still there.
_KEEPALIVE_SECONDS = 86_400.0


def main(
    socket_file: Annotated[Path, typer.Option("--socket", help="The Unix socket to listen on.")],
    memory_mib: Annotated[
        int | None,
        typer.Option(
            min=1,
            envvar=HOST_MIB,
            help="Memory for all models on the CPU, in MiB; default: 80% of the machine's, or of its container's.",
        ),
    ] = None,
    idle_seconds: Annotated[
        float,
        typer.Option(
            min=0,
            envvar=HOST_IDLE_SECONDS,
            help="A model that nobody asks for so long falls asleep, leaves after as long again, and the host ends so "
            "long after its last client, with what it holds.",
        ),
    ] = 120.0,
    silent_seconds: Annotated[
        float,
        typer.Option(min=0, help="A model's process that was stopped, and not let go on for so long, is ended."),
    ] = SILENT_SECONDS,
) -> None:
    """Hold models for several runs, each in a process of its own."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        listener = _listening(socket_file)
    except HeadraceError as error:
        say(str(error), error=True)
        raise SystemExit(2) from None
    look_for_cycles_rarely()
    socket_file.chmod(0o600)
    gpus, remembered = GpuMemory(), Remembered(socket_file)
    table = Residents(
        time.monotonic,
        {CPU: memory_mib or int(memory_mib_here() * _SHARE), **gpus.accounts()},
        idle_seconds=idle_seconds,
        available_mib=lambda place: available_mib_here() if place == CPU else gpus.free_mib(place),
        remembered=remembered.read(),
        home=CPU,
    )
    supervisor = Supervisor(
        table,
        socket_file,
        gpus,
        remember=lambda: remembered.write(table.remembered()),
        silent_seconds=silent_seconds,
    )
    asyncio.run(run_host(supervisor, listener, socket_file, idle_seconds=idle_seconds))


def _listening(socket_file: Path) -> socket.socket:
    """Raises: InvalidInput: there can be no socket."""
    if (num_bytes := len(os.fsencode(socket_file))) > PATH_BYTES_MAX:
        raise InvalidInput(
            f"--socket must be a path of at most {PATH_BYTES_MAX} bytes, since its models' are longer, got one of "
            f"{num_bytes}."
        )
    try:
        return listen_on_file(socket_file, "The engine host")
    except OSError as error:
        raise InvalidInput(
            f"The engine host cannot listen on {socket_file}: {error.strerror or error}. Name a file in a directory "
            "that is there, and that you may write to."
        ) from error


async def run_host(supervisor: Supervisor, listener: socket.socket, socket_file: Path, *, idle_seconds: float) -> None:
    """Serves until a signal, or until there has been no client for so long."""
    made = identity(socket_file)
    remove_leftovers(socket_file)
    runner = web.AppRunner(
        supervisor.app(),
        access_log=None,
        handler_cancellation=True,
        keepalive_timeout=_KEEPALIVE_SECONDS,
        shutdown_timeout=LEAVE_SECONDS,
    )
    await runner.setup()
    await web.SockSite(runner, listener).start()
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    looking = asyncio.create_task(supervisor.keep_looking())
    logging.info("listening on %s, %s MiB for models", socket_file, sum(supervisor.table.accounts.values()))
    try:
        await _until_idle(supervisor, runner, told, idle_seconds)
    finally:
        # First the file: who comes now starts another host, or finds one.
        leave_file(socket_file, made)
        looking.cancel()
        await supervisor.close()
        await runner.cleanup()
        own, models = (resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        logging.info("ended; %.1f CPU seconds, its models %.1f", _cpu_seconds(own), _cpu_seconds(models))


def _cpu_seconds(used: resource.struct_rusage) -> float:
    return used.ru_utime + used.ru_stime


async def _until_idle(supervisor: Supervisor, runner: web.AppRunner, told: asyncio.Event, seconds: float) -> None:
    idle_since, num_requests = time.monotonic(), 0
    while not told.is_set():
        is_used = supervisor.num_requests > num_requests or (runner.server and runner.server.connections)
        num_requests = supervisor.num_requests
        if is_used:
            idle_since = time.monotonic()
        elif time.monotonic() - idle_since >= seconds:
            return
        try:
            await asyncio.wait_for(told.wait(), _LOOK_SECONDS)
        except TimeoutError:
            continue


if __name__ == "__main__":
    # A refusal ends in the host's log, and in the warning of who started it: no box is drawn around it.
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(main)
    app()
