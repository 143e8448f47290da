"""A graph of ComfyUI as data of the version set, and the places in it where a row's prompt, seed and size go.

The graph is what ComfyUI's "Export (API)" writes: nodes by id, each with its class and inputs. A campaign's file names
the file; the version set keeps what was in it, so another graph is another set, and a lost file changes nothing. A
setting of the version set without a place in the graph is refused, since the graph would go on with its own.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from headrace.engines.media import MediaTurn
from headrace.engines.openai.address import check_address
from headrace.errors import InvalidInput, reason_of
from headrace.user_files.finding import nearest_existing
from headrace.user_files.shapes import Before, beside
from headrace.version_sets.media_settings import Hearing, Picture, Speech

_GRAPH_BYTES_MAX = 1024 * 1024
_NEED_A_PLACE = ("num_inference_steps", "guidance_scale", "negative_prompt", "scheduler")


@dataclass(frozen=True, kw_only=True)
class Places:
    """Inputs of a graph's nodes, each as `NODE.inputs.NAME`; null: the graph's own value stays."""

    prompt: str
    """Where the prompt goes, such as `6.inputs.text`."""
    seed: str | None = None
    """null: every row gets the graph's seed, and rows of one prompt are alike."""
    width: str | None = None
    """Of the empty latent, such as `5.inputs.width`."""
    height: str | None = None
    """As `width`."""
    num_inference_steps: str | None = None
    """Such as `3.inputs.steps`."""
    guidance_scale: str | None = None
    """Such as `3.inputs.cfg`."""
    negative_prompt: str | None = None
    """Such as `7.inputs.text`."""
    scheduler: str | None = None
    """Such as `3.inputs.scheduler`; by ComfyUI's own names."""

    def given(self) -> dict[str, str]:
        return {one.name: place for one in fields(self) if (place := getattr(self, one.name)) is not None}


def graph_text(value: Any) -> str:
    """A graph as canonical JSON.

    Args: value: the name of its file, relative to the file that names it, or the graph itself.

    Raises: ValueError, in a file's report: there is no such file, or it is no graph.
    """
    shown = "a mapping"
    if isinstance(value, str):
        shown = value if not value.lstrip().startswith("{") else "a text"
        value = _parsed(_read(value) if shown == value else value, shown)
    if not isinstance(value, Mapping) or not value:
        raise ValueError(f"must be a graph of ComfyUI, a mapping of nodes, got {shown}")
    if "nodes" in value and "links" in value:
        raise ValueError(
            f"must be a graph as ComfyUI's API takes it, got {shown}, which its editor saved: use Export (API) there"
        )
    for name, node in value.items():
        if not isinstance(node, Mapping) or not isinstance(node.get("class_type"), str):
            raise ValueError(f"must be a graph of ComfyUI, whose nodes have a class_type, got {name!r} in {shown}")
        if not isinstance(node.get("inputs", {}), Mapping):
            raise ValueError(f"must be a graph of ComfyUI, whose nodes have inputs by name, got {name!r} in {shown}")
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    if len(text) > _GRAPH_BYTES_MAX:
        raise ValueError(f"must be a graph of at most {_GRAPH_BYTES_MAX:,} characters, got {len(text):,} in {shown}")
    return text


def _read(name: str) -> str:
    path = beside(Path(name).expanduser())
    try:
        if path.stat().st_size > 4 * _GRAPH_BYTES_MAX:
            raise ValueError(f"must be a graph of ComfyUI, got {name}, which has {path.stat().st_size:,} bytes")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(
            f"must name a file with a graph of ComfyUI, got {name}, and there is no {path}. "
            f"{nearest_existing(str(path), path.parent)}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"must name a file with a graph of ComfyUI, got {name}: {reason_of(error)}") from None


def _parsed(text: str, shown: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"must be a graph of ComfyUI as JSON, got {shown}: {error}") from None


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


@dataclass(frozen=True, kw_only=True)
class ComfyOptions:
    base_url: str
    """ComfyUI's address, such as http://127.0.0.1:8188."""
    graph: Annotated[str, Before(graph_text, accepts=dict[str, Any])]
    """The file of a graph that ComfyUI exported for its API, relative to this file; or the graph itself."""
    places: Places
    """Where a row's prompt, seed and size go in it."""
    output: str | None = None
    """The id of the node whose picture is taken; null: the first one, by their numbers, that has one."""

    def __post_init__(self) -> None:
        check_address(self.base_url)
        if not isinstance(self.graph, str):
            # Built in Python, and not from a file.
            object.__setattr__(self, "graph", graph_text(self.graph))
        graph = json.loads(self.graph)
        for name, place in self.places.given().items():
            node, key = _split(place)
            if node not in graph or key not in graph[node].get("inputs", {}):
                raise InvalidInput(
                    f"places: {name} must name an input of the graph, {_near(graph, node)}, got {place!r}."
                )
        if self.output is not None and self.output not in graph:
            raise InvalidInput(f"output must be a node of the graph, {_near(graph, '')}, got {self.output!r}.")

    def node_classes(self) -> list[str]:
        return sorted({node["class_type"] for node in json.loads(self.graph).values()})


def check_comfy_role(options: ComfyOptions, made: Picture | Speech | Hearing | None) -> None:
    """Raises: InvalidInput: a setting of the picture has no place in the graph."""
    for name in _NEED_A_PLACE:
        if getattr(made, name, None) not in (None, "") and getattr(options.places, name) is None:
            raise InvalidInput(
                f"places must say where picture.{name} goes in the graph, such as {name}: 3.inputs.{name}, got "
                f"picture.{name}={getattr(made, name)!r} and no such place: the graph's own would stay."
            )


def filled(graph: str, places: Places, picture: Picture, turn: MediaTurn) -> dict[str, Any]:
    """The graph of one row. What the version set leaves to the engine stays as the graph has it."""
    made = json.loads(graph)
    values = {name: getattr(picture, name) for name in ("width", "height", *_NEED_A_PLACE)}
    values |= {"prompt": turn.text, "seed": turn.seed}
    for name, place in places.given().items():
        if values[name] in (None, "") and name != "prompt":
            continue
        node, key = _split(place)
        made[node]["inputs"][key] = values[name]
    return made


def _split(place: str) -> tuple[str, str]:
    """`6.inputs.text` → its node and input. Raises: InvalidInput."""
    node, inputs, key = (*place.split(".", 2), "", "")[:3]
    if inputs != "inputs" or not node or not key:
        raise InvalidInput(f"places must be such as 6.inputs.text, got {place!r}.")
    return node, key


def _near(graph: Mapping[str, Any], node: str) -> str:
    if node in graph:
        return (
            f"whose node {node} ({graph[node]['class_type']}) has {', '.join(graph[node].get('inputs', {})) or 'none'}"
        )
    nodes = [f"{name} ({one['class_type']})" for name, one in graph.items()]
    return f"which has the nodes {', '.join(nodes[:20])}{', …' if len(nodes) > 20 else ''}"
