"""Members of version sets, for models of a benchmark's own."""

from typing import Any

from headrace.version_sets.sets import Member


def member_of(name: str, **made_by: Any) -> Member:
    """Args: made_by: `decoding` or `picture`."""
    return Member(
        role=name,
        model_name=name,
        model_version="1",
        weights_digest=name,
        weights_uri="",
        system_prompt="",
        user_template="{text}",
        **made_by,
    )
