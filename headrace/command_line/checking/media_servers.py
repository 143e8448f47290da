"""What servers of pictures and speech tell about themselves, beside whether they answer: voices, nodes of graphs.

Nothing is drawn or spoken for this: it could take minutes, or cost money.
"""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

from headrace.command_line.checking.report import FileFinding, finding
from headrace.command_line.opening import nearest
from headrace.engines.comfyui.graph import ComfyOptions
from headrace.engines.openai.dialect import has_seed
from headrace.engines.roles import Role
from headrace.masking import without_credentials

# The JSON at an address; None: there is none, or it is not 200.
Asked = Callable[[str], Any]


def voice_finding(server: str, role: Role, asked: Asked) -> FileFinding | None:
    """None: the role names no voice, or the server does not tell its voices."""
    if role.speech is None or not role.speech.voice:
        return None
    found = asked(f"{server.rstrip('/')}/audio/voices?{urlencode({'model': role.engine.options.model})}")
    listed = found.get("voices", found.get("data")) if isinstance(found, dict) else found
    names = [one.get("id", one.get("name")) if isinstance(one, dict) else one for one in listed or ()]
    voices = tuple(name for name in names if isinstance(name, str))
    voice = role.speech.voice
    if not voices or voice in voices:
        return None
    shown = without_credentials(server)
    return finding("engine", "warn", f"{shown} answers, and has no voice {voice!r}.{nearest(voice, voices)}")


def seed_finding(role: Role) -> FileFinding | None:
    """None: the role's server gets each row's seed."""
    if role.engine.name == "comfyui_http":
        is_given = role.engine.options.places.seed is not None
        where = "places names none: all rows are drawn with the graph's own, and those of one text are alike"
    else:
        is_given = has_seed(role.engine.options.request)
        where = "request names none: a row that is made again is another one"
    return None if is_given else finding("engine", "ok", f"the server of {role.model} gets no seed, since {where}.")


def comfy_findings(server: str, options: ComfyOptions, asked: Asked) -> list[FileFinding]:
    """Whether a ComfyUI that answers has the nodes of the graph. Empty: it has."""
    shown = without_credentials(server)
    lacking = []
    for name in options.node_classes():
        found = asked(f"{server.rstrip('/')}/object_info/{quote(name, safe='')}")
        if not isinstance(found, dict):
            return [finding("engine", "warn", f"{shown} answers, and not as ComfyUI does: correct base_url.")]
        if name not in found:
            lacking.append(name)
    if not lacking:
        return []
    names = ", ".join(lacking)
    num_nodes = sum(node["class_type"] in lacking for node in json.loads(options.graph).values())
    return [
        finding(
            "engine",
            "warn",
            f"{shown} lacks {names}, which {num_nodes} of the graph's nodes need: install the custom nodes there.",
        )
    ]
