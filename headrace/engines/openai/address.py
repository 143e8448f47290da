"""Checks a server's address and key when a file is loaded, not during a run."""

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from headrace.errors import InvalidInput
from headrace.masking import without_credentials


def check_address(base_url: str, api_key: str | None = None) -> None:
    """Raises: InvalidInput: the address or the key cannot be used; the message shows neither password nor key."""
    try:
        parts = urlsplit(base_url)
        # A later @ ends a password with / or # in it, which was parsed as the path.
        is_address = (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0
            and "@" not in parts.path
            # Paths are appended to it; after a query they would be part of the query.
            and not (parts.query or parts.fragment)
        )
    except ValueError:  # an invalid port, half of an IPv6 address
        is_address = False
    if not is_address or not all("!" <= character != "\x7f" for character in base_url):
        shown = without_credentials(base_url)[:200]
        shown = "a password in the wrong place" if "@" in shown else repr(shown)
        raise InvalidInput(
            "base_url must be an address such as http://host:8000/v1, without a query, with %2F for a / in a password, "
            f"got {shown}."
        )
    # Paths of the protocol, which are appended: the whole address of a request is what vendors' pages show.
    for path in ("/chat/completions", "/completions", "/embeddings", "/models", "/images/generations", "/audio/speech"):
        if base_url.rstrip("/").endswith(path):
            shown = without_credentials(base_url)
            raise InvalidInput(
                f"base_url must end before {path}, which is added to it (most end in /v1), got {shown!r}."
            )
    if not api_key:
        return
    if "@" in base_url:
        raise InvalidInput(
            f"{without_credentials(base_url)} has a user of its own, and an API key is given too; leave one out."
        )
    # Also lone surrogates, which a variable's bytes become if they are not UTF-8.
    if any(character <= " " or character == "\x7f" or "\ud800" <= character <= "\udfff" for character in api_key):
        raise InvalidInput(
            f"The API key for {without_credentials(base_url)} has a blank, a line end or another character that no "
            "HTTP header takes: often the line end of the file that it came from. Take it out."
        )


def check_url_hosts(hosts: Sequence[str]) -> None:
    """Raises: InvalidInput: one is neither `host` nor `host:port`."""
    for host in hosts:
        try:
            parts = urlsplit(f"//{host}")
            is_host = parts.netloc == host and bool(parts.hostname) and parts.port != 0 and "@" not in host
        except ValueError:
            is_host = False
        if not is_host or host != host.strip() or "*" in host:
            raise InvalidInput(
                "allow_url_hosts must list hosts such as pictures.example or 10.0.0.1:9000, without http://, got "
                f"{host!r}."
            )


def check_replicas(replicas: Mapping[str, Sequence[str]]) -> None:
    """Args: replicas: base URL in a version set → the servers of the same model.

    Raises: InvalidInput: a list is empty, or holds an invalid address or a duplicate.
    """
    for base_url, servers in replicas.items():
        for server in (base_url, *servers):
            try:
                check_address(server)
            except InvalidInput as error:
                raise InvalidInput(f"replicas: {error}") from error
        if not servers or len(set(servers)) != len(servers):
            shown = [without_credentials(server) for server in servers]
            raise InvalidInput(
                f"replicas of {without_credentials(base_url)} must be different servers, at least one, got {shown!r}."
            )
