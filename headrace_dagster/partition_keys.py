"""Registers keys of dynamic partitions with an instance; what is there stays."""

from collections.abc import Iterable, Mapping

import dagster as dg
from sqlalchemy.exc import IntegrityError

# Databases limit the values of a statement: SQLite to 32,766 unless it was built otherwise.
_KEYS_AT_ONCE = 10_000


def register_keys(instance: dg.DagsterInstance, wanted: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Adds what is new, and returns it.

    Args:
        wanted: name of a dynamic partitions definition → keys.
    """
    new = unknown_keys(instance, wanted)
    try:
        _add(instance, new)
    except IntegrityError:
        # Another process added some of them since we looked.
        _add(instance, unknown_keys(instance, new))
    return new


def unknown_keys(instance: dg.DagsterInstance, wanted: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Those that the instance does not have; a definition that lacks none is left out."""
    new: dict[str, list[str]] = {}
    for name, keys in wanted.items():
        known = set(instance.get_dynamic_partitions(name))
        if missing := [key for key in dict.fromkeys(keys) if key not in known]:
            new[name] = missing
    return new


def _add(instance: dg.DagsterInstance, new: Mapping[str, list[str]]) -> None:
    for name, keys in new.items():
        for start in range(0, len(keys), _KEYS_AT_ONCE):
            instance.add_dynamic_partitions(name, keys[start : start + _KEYS_AT_ONCE])
