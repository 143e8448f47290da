"""The keys of users' files and of what commands print with `--json`, from the JSON Schema of their dataclasses."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from headrace.command_line.bodies.kinds import KINDS
from headrace.command_line.schema import shape_of
from headrace.user_files.json_schema import json_schema
from pipelines.reference.markdown import code, page, prose, table

INTRODUCTIONS = {
    "campaign": "A campaign file describes one bulk generation. `HEADRACE_CAMPAIGNS` names the directory of them; "
    "[Your own campaign](../own-campaign.md) explains the form.",
    "corpus": "The corpus file says what training examples are made from. `HEADRACE_CORPUS` names it; "
    "[Your own corpus](../own-corpus.md) explains the form.",
    "images": "The images file says which captioned pictures there are and what is kept of them. `HEADRACE_IMAGES` "
    "names it; [Captioned pictures](../images.md) explains the form.",
    "recipe": "A recipe says how a model is trained. `HEADRACE_RECIPES` names the directory of them; "
    "[Your own model](../own-model.md) explains the form.",
    "service": "A service file describes one live use of models. `HEADRACE_SERVICES` names the directory of them; "
    "[The gateway](../gateway.md) explains the form.",
}
_TYPES = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "`true` or `false`",
    "null": "`null`",
    "object": "mapping",
    "array": "list",
}
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_HEADERS = ("key", "type and range", "default", "")
_OUTPUT_HEADERS = ("field", "type", "")


def yaml_page(kind: str) -> str:
    schema = json_schema(shape_of(kind), f"Headrace {kind}")
    sections = _sections(schema)
    unknown = "Unknown keys are refused, with the nearest known one. `headrace check` tells every fault with its line; "
    editors = f"[the schema](../schemas/{kind}.schema.json) lets editors complete keys."
    article = "an" if kind[0] in "aeiou" else "a"
    return page(f"Keys of {article} {kind} file", INTRODUCTIONS[kind], unknown + editors, *sections)


def json_page() -> str:
    """What programs read of the commands' output."""
    sections = [
        section for kind in KINDS for section in _sections(json_schema(shape_of(kind), kind), root=kind, is_output=True)
    ]
    return page(
        "What commands print with --json",
        "Fields are added, never renamed. `headrace schema trace` prints the schema of one; `docs/schemas` keeps all.",
        *sections,
    )


def _sections(schema: Mapping[str, Any], *, root: str = "", is_output: bool = False) -> list[str]:
    found = sections_of(schema, root)
    abouts = {one.path: re.sub(r"\. .*", ".", one.description) for one in found}
    return [_section_text(section, abouts, is_output=is_output) for section in found]


@dataclass(frozen=True, kw_only=True)
class Section:
    """The mapping at `path` of the file, and at `others`, as one object schema; `""` is the whole file."""

    path: str
    others: tuple[str, ...]
    description: str
    objects: tuple[Mapping[str, Any], ...]


def sections_of(schema: Mapping[str, Any], top: str = "") -> list[Section]:
    """Every mapping that a file may hold, outer ones first; one that several keys hold appears once.

    Args:
        top: the path of the whole.
    """
    definitions = schema.get("$defs", {})
    root = _resolved(schema, definitions)
    paths: dict[str, list[str]] = {}
    waiting: list[tuple[str, Mapping[str, Any]]] = [(top, root)]
    while waiting:
        path, one = waiting.pop(0)
        for child, name in _references(path, one):
            paths.setdefault(name, []).append(child)
            if len(paths[name]) == 1:
                waiting.append((child, definitions[name]))
    found = [Section(path=top, others=(), description=root.get("description", ""), objects=(root,))]
    for name, (path, *others) in paths.items():
        one = definitions[name]
        objects = tuple(one.get("anyOf", [one]))
        found.append(Section(path=path, others=tuple(others), description=one.get("description", ""), objects=objects))
    return [_with_places(section, paths) for section in found]


def _section_text(section: Section, abouts: Mapping[str, str], *, is_output: bool) -> str:
    heading = f"## {code(section.path)}" if section.path else "## The file"
    also = f"Also {', '.join(map(code, section.others))}." if section.others else ""
    return "\n\n".join(
        filter(
            None,
            [
                heading,
                " ".join(filter(None, [prose(section.description), also])),
                *_tables(section, abouts, is_output=is_output),
            ],
        )
    )


def _tables(section: Section, abouts: Mapping[str, str], *, is_output: bool) -> Iterator[str]:
    """One table; where a file chooses between several kinds of mapping (engines), one for each set of keys."""
    by_keys: dict[str, list[Mapping[str, Any]]] = {}
    for one in section.objects:
        rest = {key: value for key, value in one.get("properties", {}).items() if "const" not in value}
        by_keys.setdefault(json.dumps(rest, sort_keys=True), []).append(one)
    for alike in by_keys.values():
        rows = [_row(key, alike, abouts) for key in alike[0].get("properties", {})]
        if is_output and rows:
            yield table(_OUTPUT_HEADERS, [[key, kind, text] for key, kind, _, text in rows])
        elif rows:
            yield table(_HEADERS, rows)


def _row(key: str, owners: list[Mapping[str, Any]], abouts: Mapping[str, str]) -> list[str]:
    """A key without a text has the first sentence of the mapping that it holds."""
    properties = [one["properties"][key] for one in owners]
    about = next((abouts[place] for place in _places(properties[0]) if place in abouts), "")
    return [
        code(key),
        " or ".join(dict.fromkeys(type_text(one) for one in properties)),
        _default_text(key, owners),
        prose(properties[0].get("description") or about),
    ]


def _default_text(key: str, owners: list[Mapping[str, Any]]) -> str:
    """Where the key chooses between the owners, it may be left out for one of them."""
    optional = [one["properties"][key] for one in owners if key not in one.get("required", ())]
    if not optional:
        return "**required**"
    default = optional[0].get("default", optional[0].get("const"))
    if default is not None or "default" in optional[0]:
        return code(json.dumps(default, ensure_ascii=False))
    return "see there" if "place" in optional[0] else "empty"


def type_text(schema: Mapping[str, Any]) -> str:
    """What a value may be, in words."""
    if "place" in schema:
        place = schema["place"]
        return f"[{code(place)}](#{anchor(place)})"
    if "const" in schema:
        return code(str(schema["const"]))
    if "enum" in schema:
        return ", ".join(code(str(one)) for one in schema["enum"])
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(type_text(one) for one in schema[several]))
    kind = schema.get("type", "")
    if kind == "array" and isinstance(schema.get("items"), Mapping):
        return f"list of {type_text(schema['items'])}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return f"mapping of names to {type_text(schema['additionalProperties'])}"
    bounds = [f"{sign} {schema[bound]:,}" for bound, sign in _BOUNDS.items() if bound in schema]
    return " ".join([_TYPES.get(kind, "any value"), ", ".join(bounds)]).strip()


def anchor(heading: str) -> str:
    """As GitHub and the site make it of a heading."""
    kept = "".join(character for character in heading.lower() if character.isalnum() or character in " -_")
    return kept.replace(" ", "-")


def _resolved(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    return definitions[_name(schema["$ref"])] if "$ref" in schema else schema


def _references(path: str, schema: Any) -> Iterator[tuple[str, str]]:
    """The path of each mapping below `path` that a definition describes, and that definition's name."""
    if not isinstance(schema, Mapping):
        return
    if "$ref" in schema:
        yield path, _name(schema["$ref"])
    for several in ("anyOf", "oneOf", "allOf"):
        for one in schema.get(several, ()):
            yield from _references(path, one)
    yield from _references(f"{path}[]", schema.get("items"))
    yield from _references(f"{path}.NAME", schema.get("additionalProperties"))
    for key, one in schema.get("properties", {}).items():
        yield from _references(f"{path}.{key}".removeprefix("."), one)


def _with_places(section: Section, paths: Mapping[str, list[str]]) -> Section:
    """Puts in place of each reference the path of the section that describes it."""

    def placed(part: Any) -> Any:
        if isinstance(part, list):
            return [placed(one) for one in part]
        if not isinstance(part, Mapping):
            return part
        made = {key: placed(value) for key, value in part.items()}
        if isinstance(reference := made.pop("$ref", None), str):
            made["place"] = paths[_name(reference)][0]
        return made

    objects = tuple(placed(one) for one in section.objects)
    return Section(path=section.path, others=section.others, description=section.description, objects=objects)


def _places(part: Any) -> Iterator[str]:
    if isinstance(part, Mapping):
        if isinstance(part.get("place"), str):
            yield part["place"]
        for one in part.values():
            yield from _places(one)
    elif isinstance(part, list):
        for one in part:
            yield from _places(one)


def _name(reference: str) -> str:
    return reference.rpartition("/")[2]
