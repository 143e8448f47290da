"""One request for a picture or a recording, read until its bytes are here.

The bytes come as the body itself, as Base64 in JSON, or behind an address. An address is followed to the server that
was asked, and to hosts that the version set names, never further by a redirect: a server cannot make this process ask
others, and another host never gets the key. What the bytes are is found in them later, by `media_bytes`; here it is
only decided whether they can be any: a page of HTML with status 200 is a failure of the server, not of the row.
"""

import base64
import binascii
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import aiohttp
from aiohttp import hdrs
from yarl import URL

from headrace.engines.openai.attempt import Attempt
from headrace.engines.openai.body import BoundedBody
from headrace.engines.openai.wire import AnswerBroken, Event, body_of, joined_halves, refusal_text
from headrace.masking import Mask, without_credentials

# What the JSON around a picture may have.
_BYTES_BESIDE = 262_144
_REDIRECTS, _NUM_HOPS_MAX = (301, 302, 303, 307, 308), 3
_REVISED_CHARACTERS_MAX = 8192
_SHOWN_BYTES = 65_536
# One item counts for as many tokens as the dispatcher wants to have seen of a replica before it believes its speed.
TOKENS_AN_ITEM = 30


class MediaAttempt(Attempt, ABC):
    """`content`: what was made, when it has ended. `attributes`: what was said beside it."""

    tells_policy = True
    # What is asked for, in messages.
    named = "medium"

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        body: bytes,
        *,
        item_bytes_max: int,
        mask: Mask,
        request_id: str = "",
        allow_url_hosts: Sequence[str] = (),
        prompt: str = "",
    ) -> None:
        """Args:
        item_bytes_max: more is not read.
        allow_url_hosts: `host` or `host:port`, from which an answer's address may be fetched besides the server's own.
        prompt: what was asked, to tell a revised one from it.
        """
        super().__init__(
            session, base_url, body, stream=False, num_tokens_max=TOKENS_AN_ITEM, mask=mask, request_id=request_id
        )
        self._item_bytes_max = item_bytes_max
        # Base64 has four bytes for three.
        self._bytes_max = self._whole_bytes_max = item_bytes_max * 4 // 3 + _BYTES_BESIDE
        self._base_url = URL(base_url)
        self._allow_url_hosts = frozenset(host.lower() for host in allow_url_hosts)
        self._prompt = prompt
        self._keyless: aiohttp.ClientSession | None = None
        self.content = b""
        self.attributes: dict[str, str] = {}

    @property
    def num_output_tokens(self) -> int:
        return TOKENS_AN_ITEM

    def close(self) -> None:
        super().close()
        if self._keyless is not None:
            # The connector is the other session's, which goes on.
            self._keyless.detach()
            self._keyless = None

    async def _is_events(self) -> bool:
        return False

    async def _whole(self) -> list[Event]:
        self._check_length(self._whole_bytes_max)
        return await self._taken_from(await self._all_bytes())

    @abstractmethod
    async def _taken_from(self, raw: bytes) -> list[Event]:
        """The end of the attempt. Raises: AnswerBroken, AttemptFailed."""

    def _ended(self, content: bytes, *notes: str) -> list[Event]:
        if len(content) > self._item_bytes_max:
            raise AnswerBroken(f"its {self.named} has {len(content):,} bytes, more than {self._item_bytes_max:,}")
        self.content, self.has_ended = content, True
        return [Event(notes=list(notes))]

    def _bare(self, raw: bytes) -> bytes:
        """A body that is the medium itself. Raises: AnswerBroken: it is a text."""
        if raw.lstrip()[:1] in (b"", b"<", b"{", b"["):
            raise AnswerBroken(f"no {self.named}: {refusal_text(raw[:_SHOWN_BYTES], self._mask)}")
        return raw

    def _check_length(self, num_bytes_max: int) -> None:
        assert self._response is not None
        length = self._response.content_length
        if length is not None and length > num_bytes_max:
            raise AnswerBroken(f"it has {length:,} bytes, more than the {num_bytes_max:,} that such an answer can have")

    async def _fetched(self, address: str, num_bytes_max: int) -> bytes:
        """What lies at an address of an answer.

        Raises: AnswerBroken: it is elsewhere, is not there, or is too long.
        """
        url = self._allowed(self._base_url, address)
        response = await self._get(url)
        for _ in range(_NUM_HOPS_MAX):
            if response.status not in _REDIRECTS:
                break
            url = self._allowed(url, response.headers.get(hdrs.LOCATION, ""))
            response.close()
            response = await self._get(url)
        if response.status != 200:
            raise AnswerBroken(f"the address in it answers {response.status}")
        return await self._body_of(response, num_bytes_max)

    async def _body_of(self, response: aiohttp.ClientResponse, num_bytes_max: int) -> bytes:
        """The whole body of a further answer. Raises: AnswerBroken: it is too long."""
        self._check_length(num_bytes_max)
        self._bounded = BoundedBody(response.headers.get(hdrs.CONTENT_ENCODING), num_bytes_max)
        parts: list[bytes] = []
        while part := await self._plain():
            parts.append(part)
        return b"".join(parts)

    async def _get(self, url: URL) -> aiohttp.ClientResponse:
        headers = {hdrs.ACCEPT_ENCODING: "identity"}
        if url.origin() == self._base_url.origin():
            self._response = await self._session.get(url, headers=headers, allow_redirects=False)
            return self._response
        try:
            self._response = await self._without_key().get(url, headers=headers, allow_redirects=False)
        except (aiohttp.ClientError, OSError) as error:
            # The replica itself is well.
            raise AnswerBroken(f"the address in it cannot be fetched ({type(error).__name__})") from None
        return self._response

    def _without_key(self) -> aiohttp.ClientSession:
        if self._keyless is None:
            self._keyless = aiohttp.ClientSession(
                connector=self._session.connector,
                connector_owner=False,
                timeout=self._session.timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        return self._keyless

    def _allowed(self, base: URL, address: str) -> URL:
        """The address, relative to `base`, with the server's own user and password if it is the server's.

        Raises: AnswerBroken: it is another's.
        """
        shown = self._mask(without_credentials(address))[:200]
        try:
            # As it was spelt, since others sign addresses; what no address may have is spelt by the rules first.
            is_spelt = all("!" <= character < "\x7f" for character in address)
            url = base.join(URL(address, encoded=is_spelt))
            if url.scheme not in ("http", "https") or not url.host:
                raise ValueError(url.scheme)
            if url.origin() == self._base_url.origin():
                return url.with_user(self._base_url.user).with_password(self._base_url.password)
            host = url.host.lower()
            port = url.port
        except (ValueError, TypeError):
            raise AnswerBroken(f"the address in it cannot be read: {shown!r}") from None
        if not {host, f"{host}:{port}"} & self._allow_url_hosts:
            raise AnswerBroken(
                f"the address in it is on another host, from which nothing is fetched: {shown!r}; hosts that may be "
                "asked are named in engine.allow_url_hosts"
            )
        return url.with_user(None)


class PictureAttempt(MediaAttempt):
    path = "/images/generations"
    named = "picture"

    async def _taken_from(self, raw: bytes) -> list[Event]:
        if raw.lstrip()[:1] != b"{":
            return self._ended(self._bare(raw))
        data = body_of(raw, self.named, self._mask).get("data")
        if not isinstance(data, list) or not data or not isinstance(first := data[0], dict):
            raise AnswerBroken(f"no picture: {refusal_text(raw[:_SHOWN_BYTES], self._mask)}")
        notes = [] if len(data) == 1 else [f"{len(data)} pictures for one asked: the first is taken"]
        self._take_revised(first.get("revised_prompt"))
        inline, address = first.get("b64_json"), first.get("url")
        if isinstance(inline, str) and inline:
            return self._ended(_decoded(inline), *notes)
        if not isinstance(address, str) or not address:
            raise AnswerBroken("no picture: data[0] has neither b64_json nor url")
        if address.startswith("data:"):
            return self._ended(_decoded(address), *notes)
        return self._ended(self._bare(await self._fetched(address, self._item_bytes_max)), *notes)

    def _take_revised(self, said: Any) -> None:
        if not isinstance(said, str) or not said or said == self._prompt:
            return
        try:
            self.attributes["revised_prompt"] = self._written(joined_halves(said))[:_REVISED_CHARACTERS_MAX]
        except AnswerBroken:
            return


class SpeechAttempt(MediaAttempt):
    path = "/audio/speech"
    named = "recording"

    async def _taken_from(self, raw: bytes) -> list[Event]:
        if raw.lstrip()[:1] == b"{":
            # An error in an answer of 200 has a meaning of its own.
            body_of(raw, self.named, self._mask)
        return self._ended(self._bare(raw))


class HearingAttempt(MediaAttempt):
    """Its content is the transcript, in UTF-8."""

    path = "/audio/transcriptions"
    named = "transcript"

    def __init__(
        self, session: aiohttp.ClientSession, base_url: str, body: bytes, *, boundary: str, **how: Any
    ) -> None:
        super().__init__(session, base_url, body, **how)
        self._headers[hdrs.CONTENT_TYPE] = f"multipart/form-data; boundary={boundary}"

    async def _taken_from(self, raw: bytes) -> list[Event]:
        text = body_of(raw, self.named, self._mask).get("text")
        if not isinstance(text, str):
            raise AnswerBroken(f"no transcript: {refusal_text(raw[:_SHOWN_BYTES], self._mask)}")
        return self._ended(self._written(joined_halves(text)).strip().encode())


def _decoded(text: str) -> bytes:
    """Raises: AnswerBroken: it is no Base64."""
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise AnswerBroken("its picture is a data: address without Base64")
    # Some break it into lines.
    text = "".join(text.split()) if any(one.isspace() for one in text[:128]) else text
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise AnswerBroken(f"its picture is no Base64 ({type(error).__name__})") from None
