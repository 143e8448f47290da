"""The tables from which everybody tells what was made of a partition, by name. Light: it loads no Arrow."""

PROMPTS = "prompts"
# Of a window's events, those that hold no prompt.
REFUSED_EVENTS = "refused_events"
CONTENT = "generated_content"
REVIEWED = "reviewed_content"
