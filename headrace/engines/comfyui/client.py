"""The `comfyui_http` engine: ComfyUI's own protocol, for graphs that no server of OpenAI's protocol runs.

Replicas, time limits and retries are those of `openai_http`. A seed is given to the graph, and a server may still give
other bytes for it: the engine is declared not deterministic.
"""

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress

import aiohttp
from yarl import URL

from headrace.engines.comfyui.attempt import ComfyAttempt, ids_in
from headrace.engines.comfyui.graph import ComfyOptions, filled
from headrace.engines.deployment import Deployment
from headrace.engines.media import MediaTurn
from headrace.engines.openai.media_client import MediaClient
from headrace.errors import InvalidInput
from headrace.version_sets.sets import Member

_PARTING_SECONDS_MAX = 2.0
# A queue repeats each of its graphs.
_QUEUE_BYTES_MAX = 16 * 1024 * 1024


class ComfyEngine(MediaClient):
    name = "comfyui_http"
    asked = "picture"

    def __init__(
        self,
        *,
        member: Member,
        base_urls: Sequence[str],
        options: ComfyOptions,
        deployment: Deployment | None = None,
    ) -> None:
        """Does not connect yet. Raises: InvalidInput: as `MediaClient`; the member does not paint."""
        if member.picture is None:
            raise InvalidInput(f"engine 'comfyui_http' paints, and {member.role!r} makes {member.kind}.")
        super().__init__(member=member, model="graph", base_urls=base_urls, deployment=deployment)
        self._options, self._picture = options, member.picture
        self._partings: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        # The turns under way end first, so that what they leave behind is taken out of the queues.
        self._end_turns()
        await asyncio.sleep(0)
        while self._scopes:
            await asyncio.sleep(0.01)
        if self._partings:
            await asyncio.wait(self._partings, timeout=_PARTING_SECONDS_MAX)
        await super().close()

    def _attempt(self, turn: MediaTurn, base_url: str) -> ComfyAttempt:
        return ComfyAttempt(
            self._open_session(),
            base_url,
            filled(self._options.graph, self._options.places, self._picture, turn),
            output=self._options.output,
            item_bytes_max=self._item_bytes_max,
            mask=self._mask,
            request_id=turn.unit,
            give_up=self._give_up,
        )

    def _give_up(self, base_url: str, prompt_id: str) -> None:
        task = asyncio.get_running_loop().create_task(self._part(URL(base_url), prompt_id))
        self._partings.add(task)
        task.add_done_callback(self._partings.discard)

    async def _part(self, root: URL, prompt_id: str) -> None:
        """Takes a graph out of the queue, or interrupts it, and no other: an older ComfyUI interrupts what runs."""
        session = self._open_session()
        limit = aiohttp.ClientTimeout(total=_PARTING_SECONDS_MAX)
        # RuntimeError: the engine was closed meanwhile.
        with suppress(aiohttp.ClientError, OSError, TimeoutError, ValueError, RuntimeError):
            await self._post(session, root / "queue", {"delete": [prompt_id]}, limit)
            raw = b""
            async with session.get(root / "queue", timeout=limit, allow_redirects=False) as response:
                while len(raw) < _QUEUE_BYTES_MAX and (part := await response.content.readany()):
                    raw += part
            queue = json.loads(raw)
            if isinstance(queue, dict) and prompt_id in ids_in(queue, kinds=("queue_running",)):
                await self._post(session, root / "interrupt", {"prompt_id": prompt_id}, limit)

    async def _post(
        self, session: aiohttp.ClientSession, url: URL, body: dict[str, object], limit: aiohttp.ClientTimeout
    ) -> None:
        async with session.post(url, json=body, timeout=limit, allow_redirects=False):
            pass
