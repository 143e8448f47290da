"""A version set's prompt template around what is asked: the one place where it is applied."""

from collections.abc import Sequence

from headrace.engines.base import Message
from headrace.version_sets.sets import Member


def messages_for(member: Member, given: Sequence[Message]) -> tuple[Message, ...]:
    """`given` as the member's model reads it: every message of the user in the template, so that a conversation looks
    to the model as it did when its earlier turns were answered.

    A set's and a client's system prompts become one message, since many chat templates know one alone.
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
