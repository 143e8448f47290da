"""How often Python looks for garbage in cycles, in processes that import large libraries."""

import gc

# Young objects before a look. With the default of 700, importing torch and transformers has the collector walk through
# the growing heap again and again: half of those imports' CPU seconds, and one request in ten waits for it.
_YOUNG_OBJECTS = 50_000


def look_for_cycles_rarely() -> None:
    """At a process's start, before its imports; reference counting frees what is in no cycle at once, as ever."""
    gc.set_threshold(_YOUNG_OBJECTS, 20, 50)
