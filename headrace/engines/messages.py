"""Applies a version set's prompt template; nothing else does."""

from collections.abc import Sequence

from headrace.engines.base import Message
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
