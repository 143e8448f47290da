"""What an engine gets beside its version set: secrets, servers, patience. None of it can change an answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.engines.dispatch.settings import DispatchSettings


@dataclass(frozen=True, kw_only=True)
class Deployment:
    # For servers that ask for one.
    api_key: str | None = None
    # Base URL in a version set → the servers that serve the same model, if there are several.
    replicas: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # How long a turn may take in all, waiting for room included; at one server; and to its first piece.
    turn_seconds_max: float = 120.0
    attempt_seconds_max: float = 120.0
    first_piece_seconds_max: float = 60.0
    dispatch: DispatchSettings = field(default_factory=DispatchSettings)

    @classmethod
    def of_bulk(
        cls,
        *,
        api_key: str | None = None,
        replicas: Mapping[str, tuple[str, ...]] | None = None,
        request_seconds: float = 120.0,
        num_attempts: int = 5,
    ) -> "Deployment":
        """Nobody waits for a single row: a server may be gone for half a minute and busy for two.

        Args: request_seconds: how long one request may take in all, however its answer comes.
        """
        return cls(
            api_key=api_key,
            replicas=replicas or {},
            turn_seconds_max=10 * request_seconds + _BULK_BUSY_SECONDS,
            attempt_seconds_max=request_seconds,
            first_piece_seconds_max=request_seconds,
            dispatch=DispatchSettings(
                num_attempts=num_attempts, dead_seconds_max=_BULK_DEAD_SECONDS, busy_seconds_max=_BULK_BUSY_SECONDS
            ),
        )

    def servers(self, base_url: str) -> tuple[str, ...]:
        """The servers behind a version set's base URL; itself, if no others are named."""
        return self.replicas.get(base_url, (base_url,))


_BULK_DEAD_SECONDS, _BULK_BUSY_SECONDS = 30.0, 120.0
