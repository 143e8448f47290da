"""How each stage is divided into units of work. Mappings between them are beside the assets that use them."""

import dagster as dg

from headrace.errors import InvalidInput
from headrace.handoff.versions import Handoff
from headrace.keys import CALL_HOURS, CAMPAIGN_SHARDS, CAMPAIGNS, MODEL_RECIPES
from headrace.prep.corpus import bucket_keys_in, shard_keys_in
from headrace.prep.embeddings import semantic_duplicates_in
from headrace.prep.images.corpus import image_shard_keys_in, makes_examples_in
from resources.settings import settings_from_environment

_settings = settings_from_environment()

# A broken file must not take the code location, and all other subjects, with it.
_corpus_shards, _corpus_faults = shard_keys_in(_settings.corpus)
corpus_shards = dg.StaticPartitionsDefinition(_corpus_shards)
_bucket_keys = bucket_keys_in(_settings.corpus)
# Whether copies in two shards are looked for, by assets of their own.
COMPARES_SHARDS = bool(_bucket_keys)
# Whose vectors tell semantic duplicates; None: nobody's, and no asset makes any.
SEMANTIC_DUPLICATES = semantic_duplicates_in(_settings.corpus)
# A further input of assets that find copies, which they take as keywords.
EMBEDDED = {"document_embeddings": dg.AssetIn(dagster_type=Handoff)} if SEMANTIC_DUPLICATES else {}
EMBEDDED_OF_ALL = {name: dg.AssetIn(dagster_type=dict[str, Handoff]) for name in EMBEDDED}
duplicate_bucket_keys = dg.StaticPartitionsDefinition(_bucket_keys or ("bucket-00",))
_image_shards, _image_faults = image_shard_keys_in(_settings.images)
image_shards = dg.StaticPartitionsDefinition(_image_shards)
# Whether a picture model can be trained on them: somebody has said what reads their captions.
MAKES_PICTURE_EXAMPLES = makes_examples_in(_settings.images)
# Users' files define the keys, and `resources.partition_keys` registers them with the instance: a new file needs no
# reload of the code location.
model_recipes = dg.DynamicPartitionsDefinition(name=MODEL_RECIPES)
campaigns = dg.DynamicPartitionsDefinition(name=CAMPAIGNS)
campaign_shards = dg.DynamicPartitionsDefinition(name=CAMPAIGN_SHARDS)

days = dg.DailyPartitionsDefinition(
    start_date=_settings.first_day,
    timezone=_settings.timezone,
    # Days end today: tonight's run makes today's partition, not yesterday's.
    end_offset=1,
)
content = dg.MultiPartitionsDefinition({"day": days, "shard": campaign_shards})
# The hours of all services that record their calls: the sensor that asks for them registers their keys, at most 24 a
# service, and those of late parts.
call_hours = dg.DynamicPartitionsDefinition(name=CALL_HOURS)
calls = dg.MultiPartitionsDefinition({"day": days, "hour": call_hours})


def refuse_unknown_shards() -> None:
    """For assets that read all corpus shards: of a broken corpus file some shards may be missing here.

    Raises:
        InvalidInput: the corpus file was broken when these definitions were loaded.
    """
    if _corpus_faults:
        raise InvalidInput(f"How many shards the corpus has is not known: {_corpus_faults}")


def refuse_unknown_image_shards() -> None:
    """As above, for assets that read all shards of pictures."""
    if _image_faults:
        raise InvalidInput(f"How many shards the pictures have is not known: {_image_faults}")
