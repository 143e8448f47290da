"""Finds what the API's schema accepts but a run must not have.

A schema accepts `restartPolicy: Always` in a Job, a GPU request that differs from its limit, and any name; the API
server, the scheduler or the run then fails later, and elsewhere. Pure, over manifests as they are sent.
"""

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from headrace.errors import InvalidInput
from headrace.kube.resources import amount
from headrace.kube.run_pod import QUEUE_NAME

# Job names become labels of their pods: 63 characters, not a subdomain's 253.
_NAME_LENGTH_MAX = 63
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def check_job(manifest: Mapping[str, Any]) -> list[str]:
    """The faults of a run's Job, one sentence each."""
    metadata, spec = manifest.get("metadata") or {}, manifest.get("spec") or {}
    template = spec.get("template") or {}
    faults = [*_name_faults("Job", metadata), *_label_faults("Job", metadata)]
    if spec.get("backoffLimit") != 0:
        faults.append(
            f"backoffLimit must be 0, got {spec.get('backoffLimit', 'none, which means 6')}: Dagster retries runs, and "
            "a second pod of the same run does nothing."
        )
    faults += [
        f"{key} must be 1, got {spec[key]}: a run is one pod."
        for key in ("parallelism", "completions")
        if spec.get(key, 1) != 1
    ]
    if QUEUE_NAME in (metadata.get("labels") or {}) and not spec.get("suspend"):
        faults.append(f"A Job with the label {QUEUE_NAME} must be suspended: Kueue starts it.")
    return [*faults, *_label_faults("Pod", template.get("metadata") or {}), *_spec_faults(template.get("spec") or {})]


def check_pod(manifest: Mapping[str, Any]) -> list[str]:
    """The faults of a run's pod, one sentence each."""
    metadata = manifest.get("metadata") or {}
    return [
        *_name_faults("Pod", metadata),
        *_label_faults("Pod", metadata),
        *_spec_faults(manifest.get("spec") or {}),
    ]


def _name_faults(kind: str, metadata: Mapping[str, Any]) -> Iterable[str]:
    name = str(metadata.get("name", ""))
    if len(name) > _NAME_LENGTH_MAX or not _NAME.fullmatch(name):
        yield (
            f"{kind} name {name!r} must be 1 to {_NAME_LENGTH_MAX} of a-z, 0-9 and -, with a letter or digit at "
            "both ends."
        )


def _label_faults(kind: str, metadata: Mapping[str, Any]) -> Iterable[str]:
    for key, value in (metadata.get("labels") or {}).items():
        if not _is_label_key(key):
            yield f"{kind} label key {key!r} must be a name, or a domain, / and a name."
        if value and (len(value) > _NAME_LENGTH_MAX or not _LABEL_NAME.fullmatch(value)):
            yield (
                f"{kind} label {key}={value!r} must have at most 63 of A-Z, a-z, 0-9, -, _ and ., with a letter or "
                "digit at both ends."
            )
    for key in metadata.get("annotations") or {}:
        if not _is_label_key(key):
            yield f"{kind} annotation key {key!r} must be a name, or a domain, / and a name."


def _is_label_key(key: str) -> bool:
    domain, slash, name = key.rpartition("/")
    if slash and (len(domain) > 253 or not _SUBDOMAIN.fullmatch(domain)):
        return False
    return len(name) <= _NAME_LENGTH_MAX and bool(_LABEL_NAME.fullmatch(name))


def _spec_faults(spec: Mapping[str, Any]) -> Iterable[str]:
    if spec.get("restartPolicy") != "Never":
        yield (
            f"restartPolicy must be Never, got {spec.get('restartPolicy', 'none, which means Always')}: a container "
            "that starts again finds its run started."
        )
    containers = spec.get("containers") or []
    if not containers:
        yield "A pod needs a container."
    names = [container.get("name", "") for container in [*containers, *(spec.get("initContainers") or [])]]
    yield from (f"Two containers are called {name!r}." for name in {name for name in names if names.count(name) > 1})
    for container in [*containers, *(spec.get("initContainers") or [])]:
        name = container.get("name", "")
        if len(name) > _NAME_LENGTH_MAX or not _NAME.fullmatch(name):
            yield f"Container name {name!r} must be 1 to 63 of a-z, 0-9 and -."
        if not container.get("image"):
            yield f"Container {name!r} has no image: set job_image, or deploy the code location with one."
        yield from _resource_faults(name, container.get("resources") or {})
    yield from _affinity_faults(spec)


def _resource_faults(container: str, resources: Mapping[str, Any]) -> Iterable[str]:
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for name in sorted({*limits, *requests}):
        try:
            limit = amount(limits[name]) if name in limits else None
            request = amount(requests[name]) if name in requests else limit
        except InvalidInput as error:
            yield f"Container {container!r}, {name}: {error}"
            continue
        if min(value for value in (limit, request) if value is not None) < 0:
            yield f"Container {container!r}: {name} must not be negative."
        elif _is_extended(name):
            yield from _extended_faults(container, name, limit, request)
        elif limit is not None and request is not None and request > limit:
            yield f"Container {container!r} requests {requests[name]} of {name}, and its limit is {limits[name]}."


def _extended_faults(container: str, name: str, limit: Decimal | None, request: Decimal | None) -> Iterable[str]:
    """Faults in amounts of GPUs and the like: they must be whole, and limit and request must agree."""
    if limit is None:
        yield f"Container {container!r} requests {name} without a limit: Kubernetes needs both, and the same."
    elif limit != request:
        yield f"Container {container!r} requests {request} of {name}, and its limit is {limit}: they must be equal."
    elif limit != int(limit):
        yield f"Container {container!r} asks for {limit} of {name}: only whole units can be had."


def _is_extended(name: str) -> bool:
    domain, slash, _ = name.partition("/")
    return bool(slash) and domain != "kubernetes.io" and not domain.endswith(".kubernetes.io")


def _affinity_faults(spec: Mapping[str, Any]) -> Iterable[str]:
    node = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = node.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    for term in required.get("nodeSelectorTerms") or []:
        for expression in term.get("matchExpressions") or []:
            if expression.get("operator") in ("In", "NotIn") and not expression.get("values"):
                yield f"Node affinity on {expression.get('key')} names no value: nothing matches."
