"""Collects the tokens that a model's files name beside its vocabulary, as transformers does.

`tokenizer_config.json` names them by role (`bos_token`), as further ones (`extra_special_tokens`, formerly
`additional_special_tokens`) and with their flags (`added_tokens_decoder`). `special_tokens_map.json` and
`added_tokens.json` count only if it has no flags. Tokens that the tokenizer lacks are added to it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class _Named:
    """`flagged`: tokens with flags beside their ids."""

    by_name: dict[str, AddedToken] = field(default_factory=dict)
    further: list[AddedToken] = field(default_factory=list)
    flagged: dict[int, AddedToken] = field(default_factory=dict)


def name_special_tokens(backend: Tokenizer, config: Mapping[str, Any], directory: Path) -> dict[str, str]:
    """Adds missing tokens to `backend`; returns the tokens by name, as templates see them."""
    named = _gathered(dict(config), directory)
    present = backend.get_added_tokens_decoder().values()
    as_present = {repr(token) for token in present}
    missing = [token for _, token in sorted(named.flagged.items()) if repr(token) not in as_present]
    contents = {token.content for token in [*present, *missing]}
    for token in [*named.by_name.values(), *named.further]:
        if token.content not in contents:
            contents.add(token.content)
            missing.append(token)
    special = {token.content for token in named.by_name.values()}
    for token in missing:
        token.special = token.special or token.content in special
    if missing:
        backend.add_tokens(missing)
    return {name: token.content for name, token in named.by_name.items()}


def named_in_config(config: Mapping[str, Any]) -> dict[str, str]:
    """What `name_special_tokens` returns where no other file names a token."""
    return {name: token.content for name, token in _gathered(dict(config), None).by_name.items()}


def _gathered(config: dict[str, Any], directory: Path | None) -> _Named:
    flagged = {
        int(token_id): _token(token, special=False)
        for token_id, token in config.get("added_tokens_decoder", {}).items()
    }
    others = None if "added_tokens_decoder" in config else directory
    if others:
        config |= _json(others / "special_tokens_map.json")
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    by_name = {name: config[name] for name in _ROLES if config.get(name)}
    # Tokens of an architecture, such as image_token.
    own = {name: value for name, value in config.items() if name.endswith("_token") and name not in _ROLES}
    own |= extra if isinstance(extra, dict) else {}
    by_name |= {name: value for name, value in own.items() if isinstance(value, (str, dict)) and value}
    if others:
        special = {_token(value).content for value in by_name.values()}
        for content, token_id in _json(others / "added_tokens.json").items():
            flagged[token_id] = AddedToken(content, normalized=content not in special, special=content in special)
    known = {token.content: token for token in flagged.values()}
    return _Named(
        by_name={name: known.get(token.content, token) for name, token in ((n, _token(v)) for n, v in by_name.items())},
        further=[_token(value) for value in extra] if not isinstance(extra, dict) else [],
        flagged=flagged,
    )


def _token(value: str | dict[str, Any], *, special: bool = True) -> AddedToken:
    if isinstance(value, str):
        return AddedToken(value, special=special)
    flags = {key: flag for key, flag in value.items() if key in ("single_word", "lstrip", "rstrip", "normalized")}
    return AddedToken(value["content"], **flags, special=value.get("special", special))


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
