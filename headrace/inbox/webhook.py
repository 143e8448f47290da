"""Signs deliveries as Standard Webhooks does (https://www.standardwebhooks.com): HMAC-SHA256 over id, time and body.

The secret comes from the environment or a file of the gateway's machine, never from a campaign's file, which many read.
Several secrets, one after another, sign each delivery with all of them: a receiver changes from one to the next
whenever it likes.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from pathlib import Path

from headrace.errors import InvalidInput
from headrace.inbox.results import EventResult
from headrace.inbox.rules import Webhook
from headrace.keys import digest_text

_PREFIX = "whsec_"
# As the specification has it.
_SECRET_BYTES_MIN, _SECRET_BYTES_MAX = 24, 64


def secrets_of(webhook: Webhook, environment: Mapping[str, str]) -> tuple[bytes, ...]:
    """The keys that sign. Raises: InvalidInput: there is none, or one is no secret; it is not shown."""
    if webhook.secret_file is not None:
        where = f"The file {webhook.secret_file} (secret_file of the webhook)"
        try:
            text = Path(webhook.secret_file).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"{where} cannot be read: {error}.") from error
    else:
        where = f"The environment variable {webhook.secret_variable} (secret_variable of the webhook)"
        text = environment.get(webhook.secret_variable or "", "")
    words = text.split()
    if not words:
        raise InvalidInput(f"{where} has no secret: set it to whsec_ and the base64 of 24 to 64 random bytes.")
    return tuple(_decoded(word, where) for word in words)


def _decoded(word: str, where: str) -> bytes:
    try:
        secret = base64.b64decode(word.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if not _SECRET_BYTES_MIN <= len(secret) <= _SECRET_BYTES_MAX:
        raise InvalidInput(
            f"{where} must hold secrets of {_SECRET_BYTES_MIN} to {_SECRET_BYTES_MAX} bytes in base64, with or without "
            f"whsec_ before it, got one of {len(word)} characters that is none."
        )
    return secret


def message_id(result: EventResult) -> str:
    """The same whenever the result of this event is sent: receivers know a repeated one by it."""
    return f"msg_{digest_text('result', result.campaign, result.source, result.event)[:32]}"


def signed_headers(secrets: Sequence[bytes], message: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Args: timestamp: of this attempt, seconds since the epoch."""
    content = b"%s.%d.%s" % (message.encode(), timestamp, body)
    signatures = (base64.b64encode(hmac.digest(secret, content, hashlib.sha256)).decode() for secret in secrets)
    return {
        "webhook-id": message,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
