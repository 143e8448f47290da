"""Columns of recorded calls and of their mirrors; `headrace.handoff.schemas` has every edge by name."""

import pyarrow as pa

from headrace.handoff.columns import STRING, columns, nullable

# A turn of a service's calls, and its answer. Its audio is the items of recorded_audio that `asked_item` and
# `played_item` name.
RECORDED_CALLS = columns(
    row_id=STRING,
    prompt_id=STRING,  # of what was said, whichever set answers it
    event_id=STRING,  # the call's, in the inbox from which the hour was sealed
    event_source=STRING,
    session=STRING,
    call=STRING,  # names it among those of all keys
    epoch=pa.int32(),  # counts the gateways that had the call
    turn=pa.int32(),  # within the epoch, from 1 on
    tenant=STRING,  # the API key's name
    version_set=STRING,
    seed=nullable(pa.int64()),  # of the answer; null: there is none
    ended_at=pa.timestamp("us", tz="UTC"),  # the turn, not its answer
    is_spoken=pa.bool_(),
    said=STRING,  # the transcript, or the text
    noted=STRING,  # JSON: what else came before it, and by whom
    instructions=STRING,
    answer=STRING,  # as far as it was played
    is_cut=pa.bool_(),
    speech_started_ms=nullable(pa.int64()),  # since the call's audio began
    speech_stopped_ms=nullable(pa.int64()),
    transcript_ms=nullable(pa.int64()),  # from the turn's end on
    first_audio_ms=nullable(pa.int64()),  # from the turn's end on
    answer_ms=pa.int64(),
    played_ms=pa.int64(),
    asked_item=nullable(STRING),
    played_item=nullable(STRING),
)

# A recorded turn, asked again of the stable set and of a candidate, next to each other.
MIRRORED_CALLS = columns(
    row_id=STRING,
    prompt_id=STRING,
    reference=STRING,  # what was said, as far as anybody knows
    is_listened=pa.bool_(),  # a person says so; else the set of the call heard it
    num_words=pa.int64(),  # of the reference
    stable_said=STRING,
    candidate_said=STRING,
    stable_word_errors=pa.int64(),
    candidate_word_errors=pa.int64(),
    stable_first_sentence=STRING,
    candidate_first_sentence=STRING,
    stable_first_audio_seconds=nullable(pa.float64()),
    candidate_first_audio_seconds=nullable(pa.float64()),
    candidate_error=nullable(STRING),
)
