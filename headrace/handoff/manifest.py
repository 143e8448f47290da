"""What a sealed version says of itself: one small JSON object, made by `create` after all of its parts."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from headrace.errors import HandoffCorrupt
from headrace.store.objects import canonical_json

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Part:
    """One Arrow IPC file. `xxh3_128` is over the file's bytes: integrity, not identity."""

    key: str
    num_rows: int
    num_bytes: int
    xxh3_128: str

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """`content_digest` is over schema and values alone; everything else says where they lie and whence they came."""

    asset: str
    partition: str
    version: int
    num_rows: int
    num_bytes: int
    parts: tuple[Part, ...]
    schema_fingerprint: str
    content_digest: str
    code_version: str
    run_id: str
    input_versions: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)
    created_at: str
    nonce: str
    format_version: int = FORMAT_VERSION

    @property
    def label(self) -> str:
        return f"{self.asset}[{self.partition}] v{self.version}"

    def to_body(self) -> dict[str, Any]:
        """JSON fields, with a digest over all of them: a manifest decides, so it must not rot unseen."""
        fields = asdict(self)
        return {**fields, "manifest_sha256": hashlib.sha256(canonical_json(fields)).hexdigest()}

    @classmethod
    def from_bytes(cls, text: bytes, *, uri: str) -> "Manifest":
        """Raises: HandoffCorrupt: the bytes are not what `to_body` made, or a newer Headrace made them."""
        try:
            fields = json.loads(text)
            stated = fields.pop("manifest_sha256")
            found = hashlib.sha256(canonical_json(fields)).hexdigest()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise HandoffCorrupt(f"Manifest {uri} is damaged ({error}). {_REMEDY}") from error
        if found != stated:
            raise HandoffCorrupt(f"Manifest {uri} has digest {found[:12]}…, it states {stated[:12]}…. {_REMEDY}")
        if fields["format_version"] != FORMAT_VERSION:
            raise HandoffCorrupt(
                f"Manifest {uri} has format {fields['format_version']}, this Headrace reads {FORMAT_VERSION}. "
                "Use the Headrace version that wrote it, or a newer one."
            )
        parts = tuple(Part(**part) for part in fields.pop("parts"))
        return cls(**fields, parts=parts)


_REMEDY = "Materialize the partition again: that seals a new version."
