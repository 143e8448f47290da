"""Whether the engines of a file's roles are there: a server answers, a library is installed."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from headrace.command_line.checking.media_servers import comfy_findings, seed_finding, voice_finding
from headrace.command_line.checking.report import FileFinding, finding
from headrace.command_line.opening import nearest
from headrace.engines.roles import Role
from headrace.errors import EngineUnavailable, InvalidInput
from headrace.generation.campaign import Campaign
from headrace.masking import without_credentials

# A server that takes longer for its list of models is busy or away; a person waits.
_REQUEST_SECONDS = 3.0
_ANSWER_BYTES_MAX = 8 * 1024 * 1024
# Engines whose options name a server.
_ASKING = ("openai_http", "comfyui_http")
_NO_CONNECTION = "takes no connection: start the server, or correct the address."


def engine_findings(
    roles: Mapping[str, Role], replicas: Mapping[str, Sequence[str]], *, in_roles: bool, offline: bool
) -> list[FileFinding]:
    """One finding for each different engine. `in_roles`: the file has a section `roles`, and not one writer."""
    found: dict[str, FileFinding] = {}
    for name, role in roles.items():
        options, kind = role.engine.options, role.engine.kind
        if servers := _servers(role, replicas):
            key = f"roles.{name}.engine" if in_roles else "engine"
            for server in servers:
                for number, said in enumerate(_of_server(server, role, offline=offline)):
                    model = getattr(options, "model", options)
                    found.setdefault(f"{server} {model} {number}", replace(said, key=f"{key}.base_url"))
            if role.kind != "text" and (said := seed_finding(role)):
                found[f"{name} seed"] = replace(said, key=key)
        elif "not installed" in kind.build:
            found[kind.name] = finding("engine", "warn", f"{kind.name} needs packages that are not here: {kind.build}.")
        elif refusal := _refusal(name, role):
            found[f"{name} {kind.name}"] = finding(
                "engine", "fail", refusal, key=f"roles.{name}.engine" if in_roles else "engine"
            )
        else:
            found[kind.name] = finding("engine", "ok", f"{kind.name} is installed.")
    asked = {getattr(role.engine.options, "base_url", None) for role in roles.values()}
    for base_url in replicas:
        if base_url not in asked:
            shown = without_credentials(base_url)
            found[base_url] = finding("engine", "warn", f"replicas has {shown}, which is no role's base_url.")
    return list(found.values())


def _refusal(name: str, role: Role) -> str | None:
    """Why the role's engine would not open a model that is not in the store; None: it would, as far as it can tell."""
    if role.registered:
        return None
    try:
        role.engine.kind.check_member(role.member(name, None, engine=None), None)
    except InvalidInput as error:
        return str(error)
    return None


def require_servers(campaign: Campaign) -> None:
    """Asks each server of a campaign once, for who cannot go on without.

    Raises:
        EngineUnavailable: none of a role's servers takes a connection. One that is slow, or busy, may still answer.
    """
    for role, part in campaign.parts.items():
        servers = _servers(part, campaign.replicas)
        if servers and all(_models_of(server)[1].startswith(_NO_CONNECTION) for server in servers):
            place = f"roles.{role}.engine" if campaign.roles else "engine"
            shown = ", ".join(map(without_credentials, servers))
            raise EngineUnavailable(
                f"Campaign {campaign.name!r}: {place}.base_url {shown} {_NO_CONNECTION} `--engine echo` shows the "
                "prompts without it."
            )


def _servers(role: Role, replicas: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """Empty: its engine asks none. Echo keeps the options of the engine that it stands for."""
    base_url = getattr(role.engine.options, "base_url", None)
    return replicas.get(base_url, (base_url,)) if role.engine.name in _ASKING and base_url else ()


def _of_server(server: str, role: Role, *, offline: bool) -> list[FileFinding]:
    """The first says whether it answers."""
    if role.engine.name == "comfyui_http":
        shown = without_credentials(server)
        if offline:
            return [finding("engine", "ok", f"{shown} was not asked (--offline).")]
        _, trouble = _models_of(server, is_openai=False)
        if trouble:
            return [finding("engine", "warn", f"{shown} {trouble}")]
        options: Any = role.engine.options
        well = finding("engine", "ok", f"{shown} answers, and has the graph's nodes.")
        return comfy_findings(server, options, _json_at) or [well]
    said = _server(server, str(role.engine.options.model), offline=offline)
    voice = voice_finding(server, role, _json_at) if said.level == "ok" and not offline else None
    return [said, voice] if voice else [said]


def _server(server: str, model: str, *, offline: bool) -> FileFinding:
    shown = without_credentials(server)
    if offline:
        return finding("engine", "ok", f"{shown} was not asked (--offline).")
    models, trouble = _models_of(server)
    if trouble:
        return finding("engine", "warn", f"{shown} {trouble}")
    if models and model not in models:
        return finding("engine", "warn", f"{shown} answers, and has no model {model!r}.{nearest(model, models)}")
    return finding(
        "engine", "ok", f"{shown} answers." if not models else f"{shown} answers, and has the model {model!r}."
    )


@cache
def _json_at(url: str) -> Any:
    import httpx2

    try:
        status, raw = _got(url)
        return json.loads(raw) if status == 200 else None
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, RecursionError):
        return None


def _got(url: str) -> tuple[int, bytes]:
    """The status and the beginning of the body: what is longer, or drips, is no list of models."""
    import httpx2

    ends_at, raw = time.monotonic() + _REQUEST_SECONDS, b""
    with httpx2.stream("GET", url, timeout=_REQUEST_SECONDS) as answer:
        for part in answer.iter_bytes():
            raw += part
            if len(raw) > _ANSWER_BYTES_MAX or time.monotonic() > ends_at:
                break
        return answer.status_code, raw


@cache
def _models_of(server: str, *, is_openai: bool = True) -> tuple[tuple[str, ...], str]:
    """A server's models, none if it does not tell; and what is wrong with it, as the end of a sentence."""
    import logging

    import httpx2

    # It would log each request's address.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    try:
        status, raw = _got(f"{server.rstrip('/')}/models")
    except httpx2.ConnectError:
        return (), _NO_CONNECTION
    except httpx2.TimeoutException:
        return (), f"did not answer within {_REQUEST_SECONDS:.0f} s: it is busy, or base_url names another machine."
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
        return (), f"does not answer ({type(error).__name__}): start it, or correct base_url."
    if status in (401, 403):
        return (), f"answers {status}: it wants a key, which this command does not have."
    if status == 404 and is_openai and not server.rstrip("/").endswith("/v1"):
        return (), "answers 404 at /models: most addresses end in /v1; correct base_url if yours does."
    if status >= 500:
        return (), f"answers {status}: look at its log."
    try:
        listed = json.loads(raw)["data"]
        return tuple(str(one["id"]) for one in listed), ""
    except (ValueError, LookupError, TypeError, RecursionError):
        # Some servers have no list; they may still answer turns.
        return (), ""
