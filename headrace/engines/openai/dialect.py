"""The bodies of requests for pictures and recordings, in the dialect of one server.

Servers agree on little: some have no seed; steps and guidance go by several names; some refuse `response_format`, some
need it. So a server's dialect is data: the option `request`, a mapping that is laid over our own keys and is part of
the version set. A text in it may name places, such as `"{seed31}"` or `"{prompt}|{negative_prompt}"`; one place alone
keeps its type, and is left out with its key where there is nothing to say. `null` leaves a key of ours out. A setting
of the version set that no place brings to the server is refused when a file is loaded.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from headrace.engines.media import MediaTurn
from headrace.engines.openai.wire import SEED_MASK
from headrace.errors import InvalidInput
from headrace.version_sets.media_settings import Picture, Speech

_PLACE = re.compile(r"\{([A-Za-z_]\w*)\}")
_OF_BOTH = ("seed", "seed31")
_OF_PICTURES = ("width", "height", "size", "num_inference_steps", "guidance_scale", "negative_prompt", "scheduler")
_OF_SPEECH = ("voice", "speed", "sample_rate")
# Settings that reach a server only by a place; width and height are compared with the answer.
_NEED_A_PLACE = ("num_inference_steps", "guidance_scale", "negative_prompt", "scheduler")
# Keys that mean something to us: what may stand there besides null.
_FIXED: dict[str, tuple[object, ...]] = {"n": (1,), "stream": (False,), "stream_format": ("audio",)}
_SECRETS = ("api_key", "authorization")
_ABSENT = object()


def request_text(value: Any) -> str:
    """The option as canonical JSON; empty: there is none.

    Args: value: a mapping of a file, or what this returned before.

    Raises: ValueError, in a file's report: it is no mapping of values of JSON.
    """
    if isinstance(value, str) and value:
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(f"must be a mapping of keys to values, got {value[:80]!r}") from None
    if value in (None, "", {}):
        return ""
    if not isinstance(value, Mapping):
        raise ValueError(f"must be a mapping of keys to values, got {value!r}")
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"must hold what JSON has: texts, finite numbers, true, false, null ({error})") from None


def check_dialect(request: str, made: Picture | Speech | None) -> None:
    """Args: made: what the role makes; None: it writes.

    Raises: InvalidInput: the server would be asked for something else than the version set says.
    """
    entries: dict[str, Any] = json.loads(request) if request else {}
    if made is None:
        if entries:
            raise InvalidInput(
                f"request is for roles that paint or speak, got {', '.join(map(repr, entries))} for one that writes: "
                "all servers take the same keys for text. Take it out."
            )
        return
    asked = "prompt" if isinstance(made, Picture) else "input"
    known = (asked, *_OF_BOTH, *(_OF_PICTURES if isinstance(made, Picture) else _OF_SPEECH))
    # Entry by entry: {size: null} as a whole leaves a key out, and is no place without quotes.
    named = set().union(*(_places(value, known, f"request: {key}") for key, value in entries.items()))
    for key, value in entries.items():
        if key.lower() in _SECRETS:
            raise InvalidInput(f"request: {key} must not stand in a file: set HEADRACE_ENGINE_KEY in the environment.")
        allowed = ("wav",) if (key, asked) == ("response_format", "input") else _FIXED.get(key)
        if allowed and value is not None and not any(value == one and type(value) is type(one) for one in allowed):
            raise InvalidInput(f"request: {key} must be null or {json.dumps(allowed[0])}, got {value!r}.")
    if entries.get("model") is not None:
        raise InvalidInput(f"request: model must be null, got {entries['model']!r}: name it in engine.model.")
    if asked in entries and asked not in named:
        raise InvalidInput(f'request: {asked} must name "{{{asked}}}", got {entries[asked]!r}: rows would be alike.')
    _check_reach(entries, named, made)


def has_seed(request: str) -> bool:
    """Whether the server gets a row's seed."""
    return any(name in _OF_BOTH for name in _PLACE.findall(request))


def picture_body(model: str, picture: Picture, turn: MediaTurn, request: str) -> bytes:
    """The body of `POST /images/generations`: one picture, since the seeds of several are anybody's guess."""
    size = f"{picture.width}x{picture.height}"
    places: dict[str, Any] = {name: getattr(picture, name) for name in _OF_PICTURES if name != "size"}
    ours = {"model": model, "prompt": turn.text, "n": 1, "size": size, "response_format": "b64_json"}
    return _body(ours, request, {"prompt": turn.text, "size": size, **_seeds(turn), **places})


def speech_body(model: str, speech: Speech, turn: MediaTurn, request: str) -> bytes:
    """The body of `POST /audio/speech`: a WAV, which only OpenAI must be asked for."""
    speed = speech.speed if turn.speed is None else turn.speed
    ours: dict[str, Any] = {"model": model, "input": turn.text, "response_format": "wav"}
    if speech.voice:
        ours["voice"] = speech.voice
    if speed != 1:
        # Some servers need another library for any speed, and all of them speak at 1 by themselves.
        ours["speed"] = speed
    places = {"voice": speech.voice, "speed": speed, "sample_rate": speech.sample_rate}
    return _body(ours, request, {"input": turn.text, **_seeds(turn), **places})


def _seeds(turn: MediaTurn) -> dict[str, int]:
    return {"seed": turn.seed, "seed31": turn.seed & SEED_MASK}


def _check_reach(entries: Mapping[str, Any], named: set[str], made: Picture | Speech) -> None:
    if isinstance(made, Picture):
        kind, lost = "picture", [name for name in _NEED_A_PLACE if getattr(made, name) not in (None, "")]
    else:
        # Sent by themselves, unless the dialect takes their keys for something else.
        usual = {"voice": "", "speed": 1.0}
        kind, lost = "speech", [name for name in usual if getattr(made, name) != usual[name] and name in entries]
    for name in lost:
        if name not in named:
            raise InvalidInput(
                f'request must say where {kind}.{name} goes in this server\'s dialect, such as {name}: "{{{name}}}", '
                f"got {kind}.{name}={getattr(made, name)!r} and no such place: the server would never learn it."
            )


def _places(value: Any, known: tuple[str, ...], where: str) -> set[str]:
    """Raises: InvalidInput: a place that nothing fills."""
    if isinstance(value, str):
        found = set(_PLACE.findall(value))
        if unknown := sorted(found - {*known}):
            there = ", ".join(f"{{{name}}}" for name in known)
            raise InvalidInput(f"{where} may name {there}, got {{{unknown[0]}}} in {value!r}.")
        return found
    if isinstance(value, dict):
        if len(value) == 1 and [*value.values()] == [None] and (name := next(iter(value))) in known:
            raise InvalidInput(f'{where} has {{{name}}} as a mapping of YAML: write it in quotes, "{{{name}}}".')
        return set().union(*(_places(inner, known, f"{where}: {key}") for key, inner in value.items()))
    if isinstance(value, list):
        return set().union(*(_places(inner, known, where) for inner in value))
    return set()


def _body(ours: dict[str, Any], request: str, places: Mapping[str, Any]) -> bytes:
    body = ours
    if request:
        laid = {key: _filled(value, places) for key, value in json.loads(request).items()}
        body = {key: value for key, value in (ours | laid).items() if value is not _ABSENT and value is not None}
    return json.dumps(body).encode()


def _filled(value: Any, places: Mapping[str, Any]) -> Any:
    if isinstance(value, str):
        if whole := _PLACE.fullmatch(value):
            found = places[whole[1]]
            return _ABSENT if found in (None, "") else found
        # In one pass: what a prompt says in braces is the prompt's.
        return _PLACE.sub(lambda place: "" if places[place[1]] is None else str(places[place[1]]), value)
    if isinstance(value, dict):
        made = {key: _filled(inner, places) for key, inner in value.items()}
        return {key: inner for key, inner in made.items() if inner is not _ABSENT}
    if isinstance(value, list):
        return [inner for one in value if (inner := _filled(one, places)) is not _ABSENT]
    return value
