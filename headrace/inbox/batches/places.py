"""Where a store has the files and batches of a service's clients, and the names of both.

`batch_api/SERVICE/tenants/TENANT/…` is one client's; nothing of another client is ever listed for it. A name begins
with the moment at which it was made, so a sorted listing is in the order of making, and a page goes on after a name
whether that is still there or not.

| below the tenant | |
|---|---|
| `files/ID.json` | a file: what it is, and which part has its bytes |
| `parts/ID-NONCE` | its bytes |
| `states/ID/00000001.json` … | a batch: its states, a chain |
| `lines/ID/00000001.json` … | what became of some of its lines; deleted once they are in its files |

`batch_api/SERVICE/open/TENANT/ID` marks a batch that has not ended.
"""

import re

from headrace.keys import digest_text, partition_from_path, partition_path
from headrace.store.objects import ObjectStore, new_nonce

# Not `batches`: there lie the micro-batches of campaigns.
ROOT = "batch_api"
FILE, BATCH = "file-", "batch_"
_MOMENT_DIGITS, _NONCE_DIGITS = 12, 20
_REST = re.compile(rf"[0-9a-f]{{{_MOMENT_DIGITS + _NONCE_DIGITS}}}")


def services_with_batches(store: ObjectStore) -> list[str]:
    return sorted(map(partition_from_path, store.children(ROOT)))


def open_prefix(service: str) -> str:
    return f"{ROOT}/{partition_path(service)}/open"


def tenants_prefix(service: str) -> str:
    return f"{ROOT}/{partition_path(service)}/tenants"


def tenant_prefix(service: str, tenant: str) -> str:
    return f"{tenants_prefix(service)}/{partition_path(tenant)}"


def new_name(kind: str, now: float) -> str:
    """A name that nobody else gives. `kind`: FILE or BATCH. `now`: seconds since the epoch."""
    return _name(kind, now, new_nonce())


def name_of(kind: str, now: float, *parts: str) -> str:
    """The name that follows from these parts: whoever makes it again makes the same."""
    return _name(kind, now, digest_text(kind, *parts))


def follows_from(name: str, kind: str, *parts: str) -> bool:
    """Whether `name_of` has made the name of these parts, at whatever moment."""
    return is_name(kind, name) and name.endswith(digest_text(kind, *parts)[:_NONCE_DIGITS])


def is_name(kind: str, text: str) -> bool:
    """Whether it may be one of ours: others must never reach a key of the store."""
    rest = text.removeprefix(kind)
    return (
        text.startswith(kind) and len(rest) == _MOMENT_DIGITS + _NONCE_DIGITS and set(rest) <= set("0123456789abcdef")
    )


def made_at(kind: str, name: str) -> float:
    """Seconds since the epoch."""
    return int(name[len(kind) : len(kind) + _MOMENT_DIGITS], 16) / 1000


def _name(kind: str, now: float, rest: str) -> str:
    return f"{kind}{int(now * 1000):0{_MOMENT_DIGITS}x}{rest[:_NONCE_DIGITS]}"
