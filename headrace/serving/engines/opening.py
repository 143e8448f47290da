"""Opens the engine that a version set names, for live turns. The one place that knows all serving engines."""

from headrace.errors import InvalidInput
from headrace.masking import without_credentials
from headrace.rollout.version_sets import EngineSpec, Member
from headrace.serving.engines.base import ServingEngine
from headrace.serving.service import Service
from headrace.store.objects import ObjectStore


def open_serving_engine(
    member: Member,
    spec: EngineSpec,
    service: Service,
    objects: ObjectStore,
    *,
    api_key: str | None = None,
) -> ServingEngine:
    """A loaded engine for one member of a version set.

    Blocks while weights are fetched and loaded: call it in a thread.

    Args:
        spec: the member's own engine, or its set's (`VersionSet.engine_of`).
        service: its limits become the engine's time-outs, its `replicas` the servers behind `spec.base_url`.
        api_key: for servers that ask for one; no part of the version set.

    Raises:
        InvalidInput: no engine has this name, or the engine cannot run this member.
        HandoffMissing: the member's weights are not in the store.
        HandoffCorrupt: the weights are damaged.
        EngineUnavailable: the engine cannot be loaded now.
    """
    if spec.name == "echo":
        from headrace.serving.engines.echo import EchoServingEngine

        return EchoServingEngine(member)
    if spec.name == "openai_http":
        from headrace.serving.engines.openai_server import OpenAIServerEngine

        if not spec.base_url or not spec.model:
            shown = spec.base_url and without_credentials(spec.base_url)
            raise InvalidInput(f"openai_http needs base_url and model, got {shown!r} and {spec.model!r}.")
        return OpenAIServerEngine(
            model=spec.model,
            base_urls=service.replicas_of(spec.base_url),
            api_key=api_key,
            limits=service.limits,
            special_tokens=spec.special_tokens,
        )
    if spec.name == "transformers":
        # Imported here: it costs seconds of CPU, which the other engines do not owe.
        from headrace.serving.engines.in_process import InProcessEngine
        from headrace.store.sealed_directory import open_directory

        return InProcessEngine(open_directory(objects, member.weights_digest), member, spec)
    raise InvalidInput(
        f"Version set asks for the engine {spec.name!r}, which this Headrace does not have; "
        "it has transformers, openai_http and echo."
    )
