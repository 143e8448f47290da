"""Opens the store that a URL names. The one place that knows all stores."""

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from headrace.errors import InvalidInput
from headrace.masking import secrets_in, without_credentials
from headrace.store.local import LocalStore
from headrace.store.node_cache import DEFAULT_BYTES_MAX, NodeCache
from headrace.store.objects import ObjectStore


def open_store(
    url: str, *, cache: Path | None = None, cache_bytes: int | None = None, patience_seconds: float = 60.0
) -> ObjectStore:
    """`s3://bucket/prefix`, `file:///directory`, or a directory's path. Nothing is connected to or made yet.

    Where an S3 server is and who asks is obstore's own environment: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY, AWS_REGION, and AWS_ALLOW_HTTP=true for an http:// endpoint.

    Args:
        cache: directory of the node's cache, which remote stores are read through; by default HEADRACE_CACHE, else
            one in the user's cache directory.
        cache_bytes: its limit; by default HEADRACE_CACHE_BYTES, else 20 GB.
        patience_seconds: how long a remote store's trouble is waited out; what serves live traffic cannot wait long.

    Raises:
        InvalidInput: no store has such a URL.
    """
    if "\0" in unquote(url) or any("\ud800" <= character <= "\udfff" for character in url):
        raise InvalidInput(f"A store's URL must be text in UTF-8 without NUL, got {url!r}.")
    parts = urlsplit(url)
    if secrets_in(url):
        # Stores' addresses stand in manifests, records and errors.
        raise InvalidInput(
            f"A store's URL has no room for keys, and this one has some: {without_credentials(url)}. Leave them out, "
            "and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        )
    if parts.scheme == "s3":
        if not parts.netloc or parts.query or parts.fragment:
            raise InvalidInput(f"An S3 store must be s3://BUCKET or s3://BUCKET/PREFIX, got {url!r}.")
        # Imported here: a local store does not owe it.
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
    """What HEADRACE_CACHE_BYTES says; the default where it says nothing.

    Raises:
        InvalidInput: it is no number of bytes.
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
    return NodeCache(directory or Path(env("HEADRACE_CACHE") or user), limit)
