"""Opens the engine that a version set names. The one place that knows all engines."""

from headrace.errors import InvalidInput
from headrace.generation.engines.base import TextEngine
from headrace.rollout.version_sets import EngineSpec, Member
from headrace.store.objects import ObjectStore
from headrace.store.sealed_directory import open_directory


def open_engine(
    member: Member,
    spec: EngineSpec,
    objects: ObjectStore,
    *,
    api_key: str | None = None,
    request_seconds: float = 120.0,
) -> TextEngine:
    """A loaded engine for one member of a version set.

    Args:
        api_key: for servers that ask for one; no part of the version set.
        request_seconds: how long one request to a server may take.

    Raises:
        InvalidInput: no engine has this name, or the engine cannot run this member.
        HandoffMissing: the member's weights are not in the store.
        HandoffCorrupt: the weights are damaged.
        EngineUnavailable: the engine cannot be loaded now.
    """
    if spec.name == "transformers":
        # Imported here: it costs seconds of CPU, which the other engines and the code location do not owe.
        from headrace.generation.engines.transformers import TransformersEngine

        return TransformersEngine(open_directory(objects, member.weights_digest), member, spec)
    if spec.name == "openai_http":
        from headrace.generation.engines.openai_http import OpenAIHttpEngine

        return OpenAIHttpEngine(member, spec, api_key=api_key, request_seconds=request_seconds)
    if spec.name == "echo":
        from headrace.generation.engines.echo import EchoEngine

        return EchoEngine(member)
    raise InvalidInput(
        f"Version set asks for the engine {spec.name!r}, which this Headrace does not have; "
        "it has transformers, openai_http and echo."
    )
