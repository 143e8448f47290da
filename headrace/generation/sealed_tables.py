"""The tables of bulk generation in a store, by name. Light: readers of rows load no engine and no campaign."""

import re
from typing import TYPE_CHECKING

from headrace.errors import HandoffMissing
from headrace.handoff.row_tables import CONTENT
from headrace.version_sets.media_settings import MemberKind

if TYPE_CHECKING:
    from headrace.handoff.versions import Handoff

# Of each prompt, where in the prompt files it stood.
PROMPT_PLACES = "prompt_places"
EXECUTION = "execution"
# A rolled-back set's rows, kept if the plan says `on_abort: finish_unpublished`. No asset reads them.
UNPUBLISHED = "unpublished_content"
# A mirror's rows, and the record of their making.
MIRRORED = "mirrored_content"
MIRROR_EXECUTION = "mirror_execution"
# Pictures and recordings of rows, and the record of their making.
IMAGES, SPEECH = "generated_images", "generated_speech"
MEDIA_EXECUTION = "media_execution"
# Films of a row's picture and recording.
CLIPS = "clips"
MIRRORED_IMAGES, MIRRORED_SPEECH = "mirrored_images", "mirrored_speech"
MIRROR_MEDIA_EXECUTION = "mirror_media_execution"

UNPUBLISHED_IMAGES, UNPUBLISHED_SPEECH = "unpublished_images", "unpublished_speech"
UNPUBLISHED_MEDIA_EXECUTION = "unpublished_media_execution"

# The tables of rows and of their making, by the claim's kind.
TABLES_OF = {"content": (CONTENT, EXECUTION), "mirror": (MIRRORED, MIRROR_EXECUTION)}
# The same of pictures and recordings: by the claim's kind the tables by a member's kind, and of their making; and those
# of rows that are kept unpublished.
MEDIA_OF: dict[str, tuple[dict[MemberKind, str], str]] = {
    "content": ({"image": IMAGES, "speech": SPEECH}, MEDIA_EXECUTION),
    "mirror": ({"image": MIRRORED_IMAGES, "speech": MIRRORED_SPEECH}, MIRROR_MEDIA_EXECUTION),
    "unpublished": ({"image": UNPUBLISHED_IMAGES, "speech": UNPUBLISHED_SPEECH}, UNPUBLISHED_MEDIA_EXECUTION),
}


def version_read(made: "Handoff", asset: str) -> int:
    """The version of `asset`, in the same partition, from which a sealed version was made.

    Raises:
        HandoffMissing: its manifest does not name one.
    """
    stated = made.manifest.input_versions.get(f"{asset}[{made.partition}]", "")
    if not (match := re.match(r"v(\d+)", stated)):
        raise HandoffMissing(
            f"{made.manifest.label} does not say which version of its {asset} it was made from.", handoff=made.label
        )
    return int(match[1])
