"""One picture of a ComfyUI: the graph is queued, its history asked for until it is there, the picture fetched.

ComfyUI has no answer that ends with the work, so the history is polled, ever less often, at most once a second: a
picture is noticed up to a second late. Who gives up takes the graph out of the queue, or interrupts it where it runs,
so that nobody draws for nobody. A graph that neither the queue nor the history knows is lost: its server began anew.
"""

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
from yarl import URL

from headrace.engines.openai.attempt import AttemptFailed
from headrace.engines.openai.media_attempt import MediaAttempt
from headrace.engines.openai.wire import AnswerBroken, Event, body_of, refusal_text
from headrace.masking import Mask

_POLL_SECONDS_MIN, _POLL_SECONDS_MAX, _POLL_FACTOR = 0.05, 1.0, 1.4
# Polls without a word of the graph after which the queue is asked whether it still has it.
_NUM_QUIET_POLLS = 8
# A history repeats the graph, which has at most a megabyte, and what its nodes say.
_JSON_BYTES_MAX = 8 * 1024 * 1024
_PROMPT_ID = re.compile(r"[\w.-]{1,128}")
_NUM_ERRORS_SHOWN = 3


class ComfyAttempt(MediaAttempt):
    path = "/prompt"
    named = "picture"

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        graph: Mapping[str, Any],
        *,
        output: str | None,
        item_bytes_max: int,
        mask: Mask,
        request_id: str,
        give_up: Callable[[str, str], None],
    ) -> None:
        """Args:
        output: the node whose picture is taken; None: the first that has one.
        give_up: called with the base URL and the id of a graph that nobody waits for any more.
        """
        body = json.dumps({"prompt": graph, "client_id": "headrace"}).encode()
        super().__init__(session, base_url, body, item_bytes_max=item_bytes_max, mask=mask, request_id=request_id)
        self._bytes_max = self._whole_bytes_max = _JSON_BYTES_MAX
        self._root = URL(base_url)
        self._output, self._give_up = output, give_up
        # Of a graph that the server still has to draw.
        self._prompt_id = ""

    def close(self) -> None:
        super().close()
        if self._prompt_id:
            self._give_up(str(self._root), self._prompt_id)
            self._prompt_id = ""

    def _refusal_text(self, raw: bytes) -> str:
        try:
            errors = json.loads(raw).get("node_errors")
        except (ValueError, RecursionError, AttributeError):
            errors = None
        told = _of_nodes(errors)
        text = refusal_text(raw, self._mask)
        return f"{text} ({self._mask(told)})" if told else text

    async def _taken_from(self, raw: bytes) -> list[Event]:
        body = body_of(raw, "answer of ComfyUI", self._mask)
        prompt_id = body.get("prompt_id")
        if not isinstance(prompt_id, str) or not _PROMPT_ID.fullmatch(prompt_id):
            raise AnswerBroken(f"no answer of ComfyUI: {refusal_text(raw[:4096], self._mask)}")
        self._prompt_id = prompt_id
        if told := _of_nodes(body.get("node_errors")):
            raise AnswerBroken(f"a part of the graph cannot run: {self._mask(told)}")
        entry = await self._until_done(prompt_id)
        self._prompt_id = ""
        return await self._picture_of(entry)

    async def _until_done(self, prompt_id: str) -> dict[str, Any]:
        """The graph's entry in the history. Raises: AttemptFailed: the server has lost it."""
        delay, num_quiet = _POLL_SECONDS_MIN, 0
        while True:
            await asyncio.sleep(delay)
            entry = (await self._json(self._root / "history" / prompt_id)).get(prompt_id)
            if isinstance(entry, dict):
                return entry
            delay = min(delay * _POLL_FACTOR, _POLL_SECONDS_MAX)
            num_quiet += 1
            if num_quiet >= _NUM_QUIET_POLLS:
                num_quiet = 0
                if not await self._is_queued(prompt_id):
                    # It may have ended between the two questions.
                    entry = (await self._json(self._root / "history" / prompt_id)).get(prompt_id)
                    if isinstance(entry, dict):
                        return entry
                    self._prompt_id = ""
                    raise AttemptFailed("broken", "has lost the picture: neither its queue nor its history has it")

    async def _is_queued(self, prompt_id: str) -> bool:
        return prompt_id in ids_in(await self._json(self._root / "queue"))

    async def _picture_of(self, entry: dict[str, Any]) -> list[Event]:
        if why := _failure_of(entry):
            raise AnswerBroken(f"the graph failed: {self._mask(why)}")
        outputs = entry.get("outputs")
        found = _pictures_in(outputs if isinstance(outputs, dict) else {}, self._output)
        if not found:
            whose = f"node {self._output}" if self._output else "any node"
            raise AnswerBroken(f"the graph ended without a picture of {whose}: it needs one that saves pictures")
        query = {
            name: text for name in ("filename", "subfolder", "type") if isinstance(text := found[0].get(name), str)
        }
        response = await self._get((self._root / "view").with_query(query))
        if response.status != 200:
            raise AnswerBroken(f"/view answers {response.status}")
        content = await self._body_of(response, self._item_bytes_max)
        notes = [f"{len(found)} pictures for one asked: the first is taken"] if len(found) > 1 else []
        return self._ended(self._bare(content), *notes)

    async def _json(self, url: URL) -> dict[str, Any]:
        """Raises: AnswerBroken, AttemptFailed: the server does not answer so."""
        response = await self._get(url)
        if response.status != 200:
            raise AttemptFailed("failing", f"answered {response.status} at {url.path}", status=response.status)
        return body_of(await self._body_of(response, _JSON_BYTES_MAX), "answer of ComfyUI", self._mask)


def ids_in(queue: Mapping[str, Any], *, kinds: tuple[str, ...] = ("queue_running", "queue_pending")) -> set[str]:
    """The ids of the graphs that a queue names: each entry is a list of a number, an id and more."""
    entries = [one for kind in kinds if isinstance(listed := queue.get(kind), list) for one in listed]
    return {one[1] for one in entries if isinstance(one, list) and len(one) > 1 and isinstance(one[1], str)}


def _of_nodes(errors: Any) -> str:
    """What is wrong with nodes, as a part of a sentence; empty: nothing is said."""
    if not isinstance(errors, dict):
        return ""
    told = []
    for name, node in errors.items():
        listed = node.get("errors") if isinstance(node, dict) else None
        kind = node.get("class_type", "") if isinstance(node, dict) else ""
        for one in listed if isinstance(listed, list) else []:
            if isinstance(one, dict):
                details = one.get("details")
                told.append(f"node {name} {kind}: {one.get('message', 'an error')}{f', {details}' if details else ''}")
    return " ".join("; ".join(told[:_NUM_ERRORS_SHOWN]).split())[:300]


def _failure_of(entry: Mapping[str, Any]) -> str:
    """Why a graph failed; empty: it did not."""
    status = entry.get("status")
    if not isinstance(status, dict) or status.get("status_str") != "error":
        return ""
    messages = status.get("messages")
    for message in messages if isinstance(messages, list) else []:
        kind, said = message if isinstance(message, list) and len(message) == 2 else ("", None)
        if kind == "execution_error" and isinstance(said, dict):
            node = f"node {said.get('node_id')} {said.get('node_type', '')}"
            text = f"{node}: {said.get('exception_type', '')} {said.get('exception_message', '')}"
            return " ".join(text.split())[:300]
        if kind == "execution_interrupted":
            return "it was interrupted"
    return "it does not say why"


def _pictures_in(outputs: Mapping[str, Any], wanted: str | None) -> list[dict[str, Any]]:
    """The saved pictures of a node; previews, which are of type temp, only where nothing was saved."""
    order = sorted(outputs, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))
    listed = [
        one
        for name in order
        if wanted in (None, name) and isinstance(node := outputs[name], dict)
        for one in (node["images"] if isinstance(node.get("images"), list) else [])
        if isinstance(one, dict) and isinstance(one.get("filename"), str)
    ]
    return [one for one in listed if one.get("type") == "output"] or listed
