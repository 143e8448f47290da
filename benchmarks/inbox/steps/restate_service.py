"""`python -m benchmarks.inbox.steps.restate_service TASK`: units of five steps as a service of Restate's, by its SDK.

Serves on a loopback port, which it prints, until its input ends.
"""

import asyncio
import socket
import sys

import hypercorn  # pyright: ignore[reportMissingImports]
import hypercorn.asyncio  # pyright: ignore[reportMissingImports]
import restate  # pyright: ignore[reportMissingImports]

from benchmarks.inbox.steps.pace import NUM_STEPS, step_result

units = restate.Service("units")


async def step(name: str, number: int) -> str:
    return step_result(name, number)


@units.handler()
async def run(context: restate.Context, name: str) -> int:
    made = 0
    for number in range(1, NUM_STEPS + 1):
        made += len(await context.run_typed(f"step {number}", step, name=name, number=number))
    return made


async def serve() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(512)
        config = hypercorn.Config()
        config.bind = [f"fd://{listener.fileno()}"]
        config.loglevel = "ERROR"
        # Restate keeps one connection with many streams.
        config.h2_max_concurrent_streams = 1_000
        print(listener.getsockname()[1], flush=True)
        print("ready", flush=True)
        over = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

        async def until_over() -> None:
            await over

        await hypercorn.asyncio.serve(restate.app(services=[units]), config, shutdown_trigger=until_over)  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    asyncio.run(serve())
    print("{}")
