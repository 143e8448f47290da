"""The `openai_http` engine of roles that paint or speak: `POST /images/generations` and `POST /audio/speech`.

One picture or recording a request, through the same dispatcher, replicas, time limits and refusals as text. An answer
comes whole, so a replica's silence says nothing before the longest wait: a replica that hangs is noticed after some
times its usual pause, one that ends the connection at once.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from headrace.engines.deployment import Deployment
from headrace.engines.dispatch.replica import Ticket
from headrace.engines.media import MediaAnswer, MediaEngine, MediaTurn
from headrace.engines.media_bytes import item_bytes_max
from headrace.engines.openai.dialect import check_dialect, picture_body, speech_body
from headrace.engines.openai.media_attempt import TOKENS_AN_ITEM, MediaAttempt, PictureAttempt, SpeechAttempt
from headrace.engines.openai.servers import ServerClient
from headrace.errors import InvalidInput
from headrace.version_sets.sets import Member

# Requests at once for each replica. Most draw one picture after the other: more would wait there until they time out.
_NUM_AT_ONCE = 4
# A whole answer shows nothing before its end, and texts to speak differ in length.
_SILENT_SECONDS_MIN, _SILENT_FACTOR = 10.0, 4.0


class WholeClient(ServerClient):
    """What engines share whose servers answer whole: one attempt a turn, at the replica that the dispatcher chooses."""

    def __init__(self, *, model: str, base_urls: Sequence[str], deployment: Deployment | None) -> None:
        """Does not connect yet. Raises: InvalidInput: as `ServerClient`."""
        deployment = deployment or Deployment()
        patient = replace(
            deployment.dispatch,
            silent_seconds_unheard=max(deployment.dispatch.silent_seconds_unheard, deployment.attempt_seconds_max),
            silent_seconds_min=max(deployment.dispatch.silent_seconds_min, _SILENT_SECONDS_MIN),
            silent_factor=max(deployment.dispatch.silent_factor, _SILENT_FACTOR),
        )
        super().__init__(model=model, base_urls=base_urls, deployment=replace(deployment, dispatch=patient))
        self.num_at_once = _NUM_AT_ONCE * len(self._urls)

    async def _made(self, attempt: Callable[[str], MediaAttempt]) -> tuple[MediaAttempt, str, str]:
        """The attempt that ended well, its server and what was wrong. Args: attempt: makes one, by a base URL."""
        attempts: list[MediaAttempt] = []

        def ask(ticket: Ticket) -> MediaAttempt:
            attempts.append(attempt(self._urls[ticket.replica]))
            return attempts[-1]

        notes: list[str] = []
        made_by = ""
        async with aclosing(self._asked(ask, TOKENS_AN_ITEM, stream=False, give_out=False)) as events:
            async for event, replica in events:
                notes, made_by = event.notes, replica
        return attempts[-1], made_by, "; ".join(notes)


class MediaClient(WholeClient, MediaEngine):
    """What engines that ask servers for media share."""

    def __init__(self, *, member: Member, model: str, base_urls: Sequence[str], deployment: Deployment | None) -> None:
        """Does not connect yet. Raises: InvalidInput: as `ServerClient`."""
        super().__init__(model=model, base_urls=base_urls, deployment=deployment)
        self._member = member
        self._item_bytes_max = item_bytes_max(member)

    async def make(self, turn: MediaTurn) -> MediaAnswer:
        made, replica, note = await self._made(lambda base_url: self._attempt(turn, base_url))
        return MediaAnswer(content=made.content, replica=replica, note=note, attributes=dict(made.attributes))

    @abstractmethod
    def _attempt(self, turn: MediaTurn, base_url: str) -> MediaAttempt:
        """The request for a turn at one replica; nothing is sent yet."""


class OpenAIMediaEngine(MediaClient):
    name = "openai_http"

    def __init__(
        self,
        *,
        member: Member,
        model: str,
        base_urls: Sequence[str],
        deployment: Deployment | None = None,
        request: str = "",
        allow_url_hosts: Sequence[str] = (),
    ) -> None:
        """Args: request, allow_url_hosts: as in the version set.

        Raises: InvalidInput: as `MediaClient`; the dialect does not fit the member.
        """
        check_dialect(request, member.picture or member.speech)
        super().__init__(member=member, model=model, base_urls=base_urls, deployment=deployment)
        self.asked = "picture" if member.picture else "recording"
        self._request, self._allow_url_hosts = request, tuple(allow_url_hosts)

    def _attempt(self, turn: MediaTurn, base_url: str) -> MediaAttempt:
        picture, speech = self._member.picture, self._member.speech
        if picture:
            kind, body = PictureAttempt, picture_body(self._model, picture, turn, self._request)
        elif speech:
            kind, body = SpeechAttempt, speech_body(self._model, speech, turn, self._request)
        else:
            raise InvalidInput(f"{self._member.role!r} writes, and is asked for media.")
        return kind(
            self._open_session(),
            base_url,
            body,
            item_bytes_max=self._item_bytes_max,
            mask=self._mask,
            request_id=turn.unit,
            allow_url_hosts=self._allow_url_hosts,
            prompt=turn.text,
        )
