"""Which stream of a broker a campaign's events come from: the section `prompts.inbox.nats` of its file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from headrace.errors import InvalidInput
from headrace.masking import without_credentials

_SCHEMES = ("nats", "tls")
# As NATS has them: a name is part of subjects and of paths.
_NAME = re.compile(r"[^\s.*>/\\]{1,255}")
_SUBJECT = re.compile(r"[^\s]{1,255}")


@dataclass(frozen=True, kw_only=True)
class NatsStream:
    """Reads a stream of NATS JetStream: each of its messages is an event of the campaign."""

    servers: tuple[str, ...]
    """nats:// or tls://, host and port, of one cluster; one that answers is enough."""
    stream: str
    """The stream's name. It must exist."""
    subject: str | None = None
    """Only messages of these subjects, such as orders.>; null: all."""
    consumer: str | None = None
    """Its durable pull consumer, of this campaign alone; made if there is none. null: headrace-CAMPAIGN."""
    begins: Literal["first", "now"] = "first"
    """Where a stream begins that was never read: with its first message, or with the next one."""
    tenant: str = ""
    """Of events that name none."""
    user: str | None = None
    """With password_variable."""
    password_variable: str | None = None
    """The environment variable of the gateway that holds the password of `user`."""
    token_variable: str | None = None
    """Instead, the one that holds a token."""
    credentials_file: str | None = None
    """Instead, a file of credentials (.creds) on the gateway's machine."""
    ca_file: str | None = None
    """Certificates that sign the servers', in PEM; null: those of the machine."""

    def __post_init__(self) -> None:
        if not self.servers:
            raise InvalidInput("servers must name at least one, such as nats://127.0.0.1:4222.")
        for server in self.servers:
            _check_server(server)
        for name, value in (("stream", self.stream), ("consumer", self.consumer)):
            if value is not None and not _NAME.fullmatch(value):
                raise InvalidInput(f"{name} must be a name without blanks, dots, *, >, / and \\, got {value!r:.300}.")
        if self.subject is not None and not _SUBJECT.fullmatch(self.subject):
            raise InvalidInput(f"subject must be one such as orders.>, got {self.subject!r:.300}.")
        ways = [name for name in ("user", "token_variable", "credentials_file") if getattr(self, name) is not None]
        if len(ways) > 1:
            raise InvalidInput(f"one way to log in is enough, got {' and '.join(ways)}.")
        if (self.user is None) != (self.password_variable is None):
            raise InvalidInput("user and password_variable go together, got one of them.")

    def login(self, environment: Mapping[str, str]) -> dict[str, str]:
        """What a connection is opened with, by NATS's own words: user and password, token, or user_credentials.

        Raises: InvalidInput: a variable is not set, or the file is not there.
        """
        if self.credentials_file is not None:
            if not Path(self.credentials_file).is_file():
                raise InvalidInput(f"The file {self.credentials_file} (credentials_file of a stream) is not there.")
            return {"user_credentials": self.credentials_file}
        if self.token_variable is not None:
            return {"token": _secret(environment, self.token_variable, "token_variable")}
        if self.user is not None and self.password_variable is not None:
            password = _secret(environment, self.password_variable, "password_variable")
            return {"user": self.user, "password": password}
        return {}


def _check_server(server: str) -> None:
    shown = without_credentials(server)
    try:
        parts = urlsplit(server)
        is_right = parts.scheme in _SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        raise InvalidInput(f"servers has one that cannot be read, {shown!r}: {error}.") from error
    if not is_right:
        raise InvalidInput(f"servers must be nats:// or tls:// and a host, got {shown!r}.")
    if parts.username is not None:
        raise InvalidInput(
            f"servers must have no user or password, got {shown!r}: many read this file. Use user and "
            "password_variable, token_variable or credentials_file."
        )


def _secret(environment: Mapping[str, str], variable: str, key: str) -> str:
    if not (value := environment.get(variable, "")):
        raise InvalidInput(f"The environment variable {variable} ({key} of a stream) is not set.")
    return value
