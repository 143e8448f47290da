"""What the sentence-transformers files of a directory say of its vectors, or a refusal in one sentence.

Reads modules.json, config_sentence_transformers.json, and the settings of the modules Transformer and Pooling, within
the directory alone: its digest says nothing of files elsewhere.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from headrace.errors import InvalidInput

_KINDS = ("Transformer", "Pooling", "Normalize")
_POOLINGS = {"mean": "mean", "mean_tokens": "mean", "cls": "first", "cls_token": "first"}
_ELSEWHERE = "Serve it by a server, with engine: openai_http."


@dataclass(frozen=True, kw_only=True)
class SentenceForm:
    """As for a model without such files."""

    pooling: Literal["mean", "first"] = "mean"
    num_tokens_max: int | None = None
    is_lower_cased: bool = False


def sentence_form(directory: Path) -> SentenceForm:
    """Raises: InvalidInput: the files are broken, or say what this engine does not do."""
    places = _modules(directory)
    settings = _object(directory, "config_sentence_transformers.json")
    if prompt := settings.get("default_prompt_name"):
        raise InvalidInput(
            f"The embedding model in {directory} puts its prompt {prompt!r} before each text, which is not done here. "
            f"{_ELSEWHERE}"
        )
    name = str(Path(places.get("Transformer", "")) / "sentence_bert_config.json")
    transformer = _object(directory, name)
    num_tokens_max, is_lower_cased = transformer.get("max_seq_length"), transformer.get("do_lower_case")
    if num_tokens_max is not None and not (type(num_tokens_max) is int and num_tokens_max > 0):
        raise _wrong(directory / name, "max_seq_length", num_tokens_max, "a whole number above 0, or null")
    if is_lower_cased not in (None, True, False):
        raise _wrong(directory / name, "do_lower_case", is_lower_cased, "true or false")
    return SentenceForm(
        pooling=_pooling(directory, str(Path(places.get("Pooling", "1_Pooling")) / "config.json")),
        num_tokens_max=num_tokens_max,
        is_lower_cased=bool(is_lower_cased),
    )


def _modules(directory: Path) -> dict[str, str]:
    """Kind → where its files lie, within the directory."""
    file, places = directory / "modules.json", dict[str, str]()
    modules = _json(file, [])
    if not isinstance(modules, list):
        raise _wrong(file, "the whole", modules, "a list of modules")
    for number, module in enumerate(modules):
        if not isinstance(module, dict):
            raise _wrong(file, f"[{number}]", module, "an object with type and path")
        kind, path = module.get("type"), module.get("path", "")
        if not isinstance(kind, str):
            raise _wrong(file, f"[{number}].type", kind, "the name of a class")
        kind = kind.rpartition(".")[2]
        if kind not in _KINDS:
            raise InvalidInput(
                f"The embedding model in {directory} has a module {kind!r}, where only Transformer, Pooling and "
                f"Normalize are understood. {_ELSEWHERE}"
            )
        if kind in places:
            raise InvalidInput(
                f"The embedding model in {directory} has two modules {kind!r}, where one of a kind is understood. "
                f"{_ELSEWHERE}"
            )
        if not isinstance(path, str) or Path(path).is_absolute() or ".." in Path(path).parts:
            raise _wrong(file, f"[{number}].path", path, "a path within the model's directory")
        places[kind] = path
    return places


def _pooling(directory: Path, name: str) -> Literal["mean", "first"]:
    settings = _object(directory, name)
    if not settings:
        return "mean"
    if settings.get("include_prompt") not in (None, True, False):
        raise _wrong(directory / name, "include_prompt", settings["include_prompt"], "true or false")
    named = settings.get("pooling_mode")
    if named is not None and not (isinstance(named, str) or _is_texts(named)):
        raise _wrong(directory / name, "pooling_mode", named, "the name of a mode, or a list of names")
    modes = [named] if isinstance(named, str) else list(named or ())
    for key, is_on in settings.items():
        if not key.startswith("pooling_mode_"):
            continue
        if not isinstance(is_on, bool):
            raise _wrong(directory / name, key, is_on, "true or false")
        modes += [key.removeprefix("pooling_mode_")] if is_on else []
    found = {_POOLINGS.get(mode) for mode in modes}
    if found == {"mean"}:
        return "mean"
    if found == {"first"}:
        return "first"
    raise InvalidInput(
        f"The embedding model in {directory} pools its tokens by {' and '.join(sorted(modes)) or 'nothing'}, "
        f"where the mean of all or the first token are understood. {_ELSEWHERE}"
    )


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _object(directory: Path, name: str) -> dict[str, Any]:
    """Empty: there is no such file."""
    found = _json(directory / name, {})
    if not isinstance(found, dict):
        raise _wrong(directory / name, "the whole", found, "an object")
    return found


def _json(path: Path, absent: Any) -> Any:
    if not path.is_file():
        return absent
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path} of the embedding model is no JSON: {error}.") from error


def _wrong(path: Path, key: str, got: Any, wanted: str) -> InvalidInput:
    return InvalidInput(
        f"{path} of the embedding model: {key} must be {wanted}, got {json.dumps(got)[:80]}. Take the model's files as "
        "its makers published them."
    )
