"""Applies a version set's templates, those of roles that write and of roles that paint or speak; nothing else does."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from headrace.engines.base import Message
from headrace.errors import InvalidInput
from headrace.version_sets.sets import Member


def messages_for(member: Member, given: Sequence[Message]) -> tuple[Message, ...]:
    """`given` as the member's model reads it. The template wraps every user message, so the model sees earlier turns of
    a conversation as it saw them when it answered them.

    The set's and the client's system prompts are merged, since many chat templates accept only one.
    """
    system = [member.system_prompt] if member.system_prompt else []
    system += [message.content for message in given if message.role == "system"]
    template = member.user_template
    turns = [
        message
        if template == "{text}" or message.role != "user"
        else Message(role="user", content=template.format(text=message.content))
        for message in given
        if message.role != "system"
    ]
    if system:
        turns.insert(0, Message(role="system", content="\n\n".join(system)))
    return tuple(turns)


def places_of(writers: Iterable[str], carried: Iterable[str], *, has_term: bool) -> set[str]:
    """What the template of a role that paints or speaks may name."""
    last = tuple(writers)[-1:]
    return {"text", "prompt", *last, *carried, *(["term"] if has_term else [])}


def asked_of(template: str, *, text: str, prompt: Mapping[str, Any], writers: tuple[str, ...]) -> str:
    """What a role that paints or speaks is asked for one row.

    Args:
        text: what the writers wrote, or the prompt.
        prompt: the prompt's `text`, with the columns that its row carries.

    Raises:
        InvalidInput: the prompt has no value for a place of the template.
    """
    known = {**prompt, "prompt": prompt["text"], "text": text, **({writers[-1]: text} if writers else {})}
    known = {name: value for name, value in known.items() if value is not None}
    try:
        asked = template.format_map(known)
        # A number as a sign (`{n:c}`) may be half of one, which nothing can send or store.
        asked.encode()
        return asked
    except KeyError as error:
        raise InvalidInput(f"the prompt has no {error.args[0]}, which the template {template!r} names") from error
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInput(f"the template {template!r} cannot be filled: {error}") from error
