"""Opens the store that a URL names. Only this module knows all kinds of stores."""

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from headrace.errors import InvalidInput
from headrace.masking import secrets_in, without_credentials
from headrace.store.local import LocalStore
from headrace.store.node_cache import DEFAULT_BYTES_MAX, NodeCache
from headrace.store.objects import ObjectStore

NEIGHBOURS_VARIABLE = "HEADRACE_NEIGHBOURS"
"""This node's address, `HOST` or `HOST:PORT`, at which its processes offer indexed weights to other nodes; they ask
theirs before the store. Not set: neither. Who reaches it may read weights whose digest they know."""


def open_store(
    url: str, *, cache: Path | None = None, cache_bytes: int | None = None, patience_seconds: float = 60.0
) -> ObjectStore:
    """`s3://bucket/prefix`, `file:///directory`, or a directory's path. Connects to nothing and creates nothing yet.

    obstore's environment names an S3 server and its user: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
    AWS_REGION, and AWS_ALLOW_HTTP=true for an http:// endpoint.

    Args:
        cache: directory of the node's cache, for remote stores; by default HEADRACE_CACHE, else one in the user's cache
            directory.
        cache_bytes: its limit; by default HEADRACE_CACHE_BYTES, else 20 GB.
        patience_seconds: how long to wait out a remote store's trouble; live traffic cannot wait long.

    Raises:
        InvalidInput: no store has such a URL.
    """
    if "\0" in unquote(url) or any("\ud800" <= character <= "\udfff" for character in url):
        raise InvalidInput(f"A store's URL must be text in UTF-8 without NUL, got {url!r}.")
    parts = urlsplit(url)
    if secrets_in(url):
        # Manifests, records and errors contain the store's address.
        raise InvalidInput(
            f"A store's URL has no room for keys, and this one has some: {without_credentials(url)}. Leave them out, "
            "and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        )
    if parts.scheme == "s3":
        if not parts.netloc or parts.query or parts.fragment:
            raise InvalidInput(f"An S3 store must be s3://BUCKET or s3://BUCKET/PREFIX, got {url!r}.")
        # Imported here: a local store does not need it.
        from headrace.store.s3 import S3Store

        return S3Store(
            parts.netloc,
            unquote(parts.path),
            cache=_open_cache(cache, cache_bytes),
            patience_seconds=patience_seconds,
        )
    if parts.scheme == "file":
        if parts.netloc not in {"", "localhost"}:
            raise InvalidInput(f"A directory's URL must be file:///DIRECTORY, got {url!r}.")
        return LocalStore(Path(unquote(parts.path)))
    if "://" in url or not url:
        raise InvalidInput(f"A store must be s3://BUCKET/PREFIX, file:///DIRECTORY or a directory, got {url!r}.")
    return LocalStore(Path(url))


def cache_bytes_of(text: str | None) -> int:
    """The limit that HEADRACE_CACHE_BYTES states, or the default.

    Raises:
        InvalidInput: it is not a number of bytes.
    """
    if not text:
        return DEFAULT_BYTES_MAX
    if not re.fullmatch(r"[0-9]{1,18}", text) or not int(text):
        raise InvalidInput(f"HEADRACE_CACHE_BYTES must be a positive whole number of bytes, got {text!r}.")
    return int(text)


def _open_cache(directory: Path | None, num_bytes_max: int | None) -> NodeCache:
    env = os.environ.get
    user = Path(env("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace"
    limit = num_bytes_max or cache_bytes_of(env("HEADRACE_CACHE_BYTES"))
    offered_at = env(NEIGHBOURS_VARIABLE) or None
    if offered_at and not re.fullmatch(r"[0-9A-Za-z.-]+(:[0-9]{1,5})?", offered_at):
        raise InvalidInput(f"{NEIGHBOURS_VARIABLE} must be HOST or HOST:PORT of this node, got {offered_at!r}.")
    return NodeCache(directory or Path(env("HEADRACE_CACHE") or user), limit, offered_at=offered_at)
