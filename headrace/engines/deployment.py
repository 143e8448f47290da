"""Settings of an engine outside its version set: secrets, servers, patience. They cannot change an answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from headrace.engines.asker import Asker
from headrace.engines.dispatch.settings import DispatchSettings
from headrace.engines.host.address import HostAddress


@dataclass(frozen=True, kw_only=True)
class Deployment:
    # For servers that require a key.
    api_key: str | None = None
    # Base URL in a version set → the servers that serve the same model, if there are several.
    replicas: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # Limits of a turn in all, waiting included; of one attempt at one server; and until the first piece.
    turn_seconds_max: float = 120.0
    attempt_seconds_max: float = 120.0
    first_piece_seconds_max: float = 60.0
    dispatch: DispatchSettings = field(default_factory=DispatchSettings)
    # Digest → the directory of weights that the store does not have yet, for a trial before they are sealed.
    unsealed: Mapping[str, Path] = field(default_factory=dict)
    # Where models are asked for that would else be loaded in this process; None: they are.
    host: HostAddress | None = None
    # For whom its engines are asked where nobody says so; it decides who goes first.
    asker: Asker = field(default_factory=Asker)

    @classmethod
    def of_bulk(
        cls,
        *,
        api_key: str | None = None,
        replicas: Mapping[str, tuple[str, ...]] | None = None,
        request_seconds: float = 120.0,
        num_attempts: int = 5,
        unsealed: Mapping[str, Path] | None = None,
        host: HostAddress | None = None,
        asker: Asker | None = None,
    ) -> "Deployment":
        """For bulk, where no person waits for a single row: a server may be gone for half a minute and busy for two.

        Args: request_seconds: total limit of one request, streamed or not.
        """
        return cls(
            api_key=api_key,
            replicas=replicas or {},
            unsealed=unsealed or {},
            host=host,
            asker=asker or Asker(),
            turn_seconds_max=10 * request_seconds + _BULK_BUSY_SECONDS,
            attempt_seconds_max=request_seconds,
            first_piece_seconds_max=request_seconds,
            dispatch=DispatchSettings(
                num_attempts=num_attempts, dead_seconds_max=_BULK_DEAD_SECONDS, busy_seconds_max=_BULK_BUSY_SECONDS
            ),
        )

    @classmethod
    def of_preview(
        cls,
        *,
        api_key: str | None = None,
        replicas: Mapping[str, tuple[str, ...]] | None = None,
        unsealed: Mapping[str, Path] | None = None,
    ) -> "Deployment":
        """For a few rows at a terminal, where a person waits: a server that is gone is told within seconds."""
        return cls(
            api_key=api_key,
            replicas=replicas or {},
            unsealed=unsealed or {},
            first_piece_seconds_max=120.0,
            dispatch=DispatchSettings(dead_seconds_max=_PREVIEW_DEAD_SECONDS, busy_seconds_max=_PREVIEW_BUSY_SECONDS),
        )

    def servers(self, base_url: str) -> tuple[str, ...]:
        """The servers behind a version set's base URL; the URL itself if no others are given."""
        return self.replicas.get(base_url, (base_url,))


_BULK_DEAD_SECONDS, _BULK_BUSY_SECONDS = 30.0, 120.0
# Busy for longer: a small server answers the rows one after the other.
_PREVIEW_DEAD_SECONDS, _PREVIEW_BUSY_SECONDS = 3.0, 60.0
