"""What a server's address and its key must be before anything is sent: found when a file is loaded, not by a run."""

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from headrace.errors import InvalidInput
from headrace.masking import without_credentials


def check_address(base_url: str, api_key: str | None = None) -> None:
    """Raises: InvalidInput: nothing can be sent there, or not with this key; neither password nor key is shown."""
    try:
        parts = urlsplit(base_url)
        # An @ further on ends a password with a / or # in it, which was taken for the path.
        is_address = (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0
            and "@" not in parts.path
            # Paths are added to it: behind a query they would be part of that.
            and not (parts.query or parts.fragment)
        )
    except ValueError:  # a port that is none, half of an IPv6 address
        is_address = False
    if not is_address or not all("!" <= character != "\x7f" for character in base_url):
        shown = without_credentials(base_url)[:200]
        shown = "a password in the wrong place" if "@" in shown else repr(shown)
        raise InvalidInput(
            "base_url must be an address such as http://host:8000/v1, without a query, with %2F for a / in a password, "
            f"got {shown}."
        )
    if not api_key:
        return
    if "@" in base_url:
        raise InvalidInput(
            f"{without_credentials(base_url)} has a user of its own, and an API key is given too; leave one out."
        )
    # Also half of a surrogate pair, which is what a byte of a variable becomes that is no UTF-8.
    if any(character <= " " or character == "\x7f" or "\ud800" <= character <= "\udfff" for character in api_key):
        raise InvalidInput(
            f"The API key for {without_credentials(base_url)} has a blank, a line end or another character that no "
            "HTTP header takes: often the line end of the file that it came from. Take it out."
        )


def check_replicas(replicas: Mapping[str, Sequence[str]]) -> None:
    """Args: replicas: base URL in a version set → the servers that serve the same model.

    Raises: InvalidInput: one of them is no address, there is none, or one stands there twice.
    """
    for base_url, servers in replicas.items():
        for server in (base_url, *servers):
            check_address(server)
        if not servers or len(set(servers)) != len(servers):
            shown = [without_credentials(server) for server in servers]
            raise InvalidInput(
                f"replicas of {without_credentials(base_url)} must be different servers, at least one, got {shown!r}."
            )
