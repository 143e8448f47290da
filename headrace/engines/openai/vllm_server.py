"""The `vllm` engine: `vllm serve` of a version set's weights on this machine, begun and ended with the engine.

It is asked as any server of OpenAI's protocol. An engine host has it sleep by the server's own calls (level 1: weights
go to host memory, the cache is dropped), which vLLM has on CUDA and ROCm alone.
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import aiohttp

from headrace.engines.base import EngineFailed
from headrace.engines.openai.client import OpenAIEngine
from headrace.errors import EngineUnavailable, InvalidInput
from headrace.version_sets.sets import Member

_COMMAND = "vllm"
_SERVED = "model"
# A large model takes minutes to load and to compile.
_START_SECONDS_MAX = 1800.0
_LOOK_SECONDS, _LOOK_SECONDS_MAX = 0.1, 2.0
_LEAVE_SECONDS = 10.0
# Weights of hundreds of GB to host memory and back.
_SLEEP_SECONDS_MAX = 600.0


class VllmEngine(OpenAIEngine):
    name = "vllm"
    computes_on_cpu = False

    def __init__(self, directory: Path, member: Member, *, dtype: str, max_model_len: int | None) -> None:
        """Blocks until the server answers; minutes.

        Raises:
            InvalidInput: the command vllm is not installed.
            EngineUnavailable: the server ended, or did not answer in time.
        """
        self._named = f"{member.model_name} {member.model_version}"
        port = _free_port()
        self._address = f"http://127.0.0.1:{port}"
        command = [_command(), "serve", str(directory), "--host", "127.0.0.1", "--port", str(port)]
        command += ["--served-model-name", _SERVED, "--dtype", dtype, "--enable-sleep-mode"]
        if max_model_len is not None:
            command += ["--max-model-len", str(max_model_len)]
        self._process = subprocess.Popen(
            # In the group of who opens it, and gone with it, however that ends.
            [sys.executable, "-m", "headrace.parent_death", str(os.getpid()), *command],
            # The calls for sleep are the server's only in its development mode; it listens on loopback alone.
            env={**os.environ, "VLLM_SERVER_DEV_MODE": "1", "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
        )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self._end()
            raise
        super().__init__(model=_SERVED, base_urls=[f"{self._address}/v1"])

    async def sleep(self) -> bool:
        await self._told("/sleep?level=1")
        return True

    async def wake(self) -> None:
        await self._told("/wake_up")

    async def close(self) -> None:
        """Fails the turns under way, and ends the server."""
        await super().close()
        await asyncio.to_thread(self._end)

    async def _told(self, word: str) -> None:
        """Raises: EngineFailed: the server does not do it."""
        limit = aiohttp.ClientTimeout(total=_SLEEP_SECONDS_MAX)
        try:
            async with aiohttp.ClientSession(timeout=limit) as session, session.post(self._address + word) as answer:
                status = answer.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise EngineFailed(f"vllm serve of {self._named} was told {word}: {error}", may_be_the_turn=False) from None
        if status != 200:
            raise EngineFailed(f"vllm serve of {self._named} was told {word}: HTTP {status}.", may_be_the_turn=False)

    def _wait_until_it_answers(self) -> None:
        ends, pause = time.monotonic() + _START_SECONDS_MAX, _LOOK_SECONDS
        while time.monotonic() < ends:
            if (code := self._process.poll()) is not None:
                raise EngineUnavailable(
                    f"vllm serve of {self._named} ended with {code} while it loaded; its own lines are in this "
                    "process's log."
                )
            health = f"{self._address}/health"
            # An answer of another status is raised, too.
            with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(health, timeout=_LEAVE_SECONDS):
                return
            time.sleep(pause)
            pause = min(_LOOK_SECONDS_MAX, 1.5 * pause)
        raise EngineUnavailable(f"vllm serve of {self._named} did not answer in {_START_SECONDS_MAX:.0f} s.")

    def _end(self) -> None:
        if self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _command() -> str:
    """Raises: InvalidInput: it is not installed."""
    beside = Path(sys.executable).with_name(_COMMAND)
    if (found := shutil.which(_COMMAND) or (str(beside) if beside.exists() else None)) is None:
        raise InvalidInput(
            "The engine 'vllm' needs the command vllm, which is not on PATH. Install vLLM in an environment of its "
            "own, and put its bin directory on PATH; or start the server yourself, and name the engine openai_http."
        )
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
