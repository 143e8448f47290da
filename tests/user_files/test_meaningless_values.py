"""Values that mean nothing, in files that are otherwise right: each is refused when the file is loaded.

Told are the file, line and column, the key, what stands there, and what was wanted. Beside `mistaken_files.yaml`, which
has the mistakes of form: keys, types, ranges, YAML.
"""

from pathlib import Path

import pytest

from headrace.errors import InvalidInput
from headrace.generation.campaign import load_campaign
from headrace.prep.corpus import load_corpus
from headrace.serving.service import load_service
from headrace.training.recipe import load_recipe

_LOAD = {"campaign": load_campaign, "service": load_service, "corpus": load_corpus, "recipe": load_recipe}
_FILES = {
    "campaign": """\
name: tales
model: tiny
num_shards: 4
prompts: {files: prompts.jsonl, template: "Tell of {thing}.", per_shard: 3}
prompt_template: {user: "{text}"}
decoding: {temperature: 0.7, top_p: 0.9, max_new_tokens: 12}
engine: {name: echo}
review: {words_min: 2, words_max: 60}
rollout:
  steps: [0.25, 0.5]
  gate: {min_rows: 10, horizon_rows: 100}
""",
    "service": """\
name: desk
chain: [writer, editor]
roles:
  writer: {model: vendor, version: "1", registered: false, engine: {name: echo},
    decoding: &d {temperature: 0, top_p: 1, max_new_tokens: 8}}
  editor: {model: careful, version: "2", registered: false, engine: {name: echo}, decoding: *d}
limits: {num_units_max: 8}
prices: {vendor: {prompt: 1}, "careful:2": {output: 2}}
rollout:
  steps: [{weight: 0.1, cap: 100}, 0.5]
""",
    "corpus": """\
name: notes
files: [notes/*.jsonl]
encoding: utf-8
columns: {term: title, text: body}
prompt: {user: "Explain {term}."}
completion: "{text}"
rules: {words_min: 2, words_max: 60, drop_matching: {links: "https?://"}}
sequence_length: 256
labels:
  judge: {model: m, engine: echo, question: "Is {text} good?", answers: [good, bad]}
  drop: [bad]
""",
    "recipe": """\
name: define
model: tiny
steps: 10
batch: 4
learning_rate: 1.0e-3
warmup_steps: 2
freeze: [model.embed_tokens.]
ranks: 2
""",
}
# Kind → what stands in the file, what stands there instead, line and column of the fault, and parts of its sentence.
_CASES = {
    "campaign": [
        ("name: tales", "name: Tales of Old", "1:7", "name must be lower-case letters … got 'Tales of Old'"),
        ("model: tiny", "model: ../up", "2:8", "model must be lower-case letters … got '../up'"),
        ("model: tiny", "model: ''", "1:1", "lacks the key 'model' … who writes"),
        ("num_shards: 4", "num_shards: 0", "3:13", "num_shards must be from 1 to 100,000 … got 0"),
        ("num_shards: 4", "num_shards: -2", "3:13", "num_shards must be from 1 to 100,000 … got -2"),
        ("files: prompts.jsonl", "files: ' '", "4:18", "prompts: files must be a glob … got an empty text"),
        ("{thing}", "{{thing}}", "4:", "use one pair of braces, {thing} … got 'Tell of {{thing}}.'"),
        ("{thing}", "{{ thing }}", "4:", "use one pair of braces, {thing} … got 'Tell of {{ thing }}.'"),
        ("of {thing}", "a tale", "4:", "prompts: template must name a column … got 'Tell a tale.'"),
        ("{thing}", "{thing", "4:", "template is not a template … got 'Tell of {thing.'"),
        ("{thing}", "{}", "4:", "template may use column names … got {}"),
        ("{thing}", "{thing.__class__}", "4:", "template may use column names … got {thing.__class__}"),
        ("{thing}", "{thing:>99999}", "4:", "template may pad to 9,999 characters … got"),
        ("per_shard: 3", "per_shard: -3", "4:", "prompts: per_shard must be null or at least 1 … got -3"),
        ('user: "{text}"', 'user: "{{text}}"', "5:25", "use one pair of braces, {text} … got '{{text}}'"),
        ('user: "{text}"', 'user: "Say it."', "5:25", "user must hold {text} … got 'Say it.'"),
        ("temperature: 0.7", "temperature: 70", "6:25", "temperature must be between 0 and 2 … got 70"),
        ("temperature: 0.7", "temperature: 2.1", "6:25", "temperature must be between 0 and 2 … servers refuse"),
        ("temperature: 0.7", "temperature: -1", "6:25", "temperature must be at least 0 … got -1"),
        ("top_p: 0.9", "top_p: 0", "6:37", "top_p must be above 0 and at most 1 … got 0"),
        ("top_p: 0.9", "top_p: 9", "6:37", "top_p must be above 0 and at most 1 … got 9"),
        ("tokens: 12", "tokens: 1000000000", "6:", "max_new_tokens must be between 1 and 1,000,000 … 1,000,000,000"),
        ("tokens: 12", "tokens: 0", "6:", "max_new_tokens must be at least 1 … got 0"),
        ("{name: echo}", "{name: ecko}", "7:16", "No engine 'ecko' is installed … there are echo"),
        (
            "{name: echo}",
            "{name: openai_http, model: m, base_url: host/v1}",
            "7:",
            "base_url must be an address … 'host/v1'",
        ),
        ("words_min: 2", "words_min: -2", "8:21", "review: words_min must be null or at least 0 … got -2"),
        ("words_min: 2", "words_min: 61", "8:", "review: words_min must not exceed words_max … 61 and 60"),
        ("words_max: 60", "repeated_share_max: 30", "8:", "repeated_share_max must be null or between 0 and 1 … 30"),
        ("[0.25, 0.5]", "[0.5, 0.25]", "10:10", "rollout: steps must rise from each to the next … [0.5, 0.25]"),
        ("[0.25, 0.5]", "[25, 50]", "10:11", "steps[0]: weight must be between 0 and 1 … got 25"),
        ("[0.25, 0.5]", "[]", "10:10", "steps must be one or more weights above 0 … got []"),
        ("horizon_rows: 100", "horizon_rows: 5", "11:", "horizon_rows must be at least min_rows=10 … got 5"),
        ("min_rows: 10", "pass_rate_margin: 10", "11:28", "pass_rate_margin must be null or above 0 … got 10"),
        ("rollout:\n", "budget: {}\nrollout:\n", "9:9", "budget must state tokens, seconds or money … none of them"),
        ("rollout:\n", "budget: {money: 5}\nrollout:\n", "9:", "money needs prices of 'tiny' … got none: add them"),
        ("rollout:\n", "budget: {tokens: -1}\nrollout:\n", "9:18", "tokens must be null or above 0 … got -1"),
        ("min_rows: 10", "margins: {speed: 1}", "11:", "margins may name … got 'speed'"),
    ],
    "service": [
        ("chain: [writer, editor]", "chain: [writer, editr]", "2:8", "chain must name roles of this file … 'editr'"),
        ("chain: [writer, editor]", "chain: [writer]", "4:3", "roles has editor, which chain never asks … take it out"),
        ("chain: [writer, editor]", "chain: []", "2:8", "chain must name roles of this file … got []"),
        ("temperature: 0", "temperature: 3", "5:32", "temperature must be between 0 and 2 … got 3"),
        ('version: "1"', "version: newest", "4:", "a model that is not registered needs a version … 'newest'"),
        ("prices: {vendor:", "prices: {vendr:", "8:9", "prices must name models of this file's roles … 'vendr'"),
        ("careful:2", "other:2", "8:9", "prices must name models of this file's roles (careful, vendor) … 'other:2'"),
        ("prompt: 1", "prompt: -1", "8:27", "prices.vendor: prompt must be at least 0 … got -1"),
        ("num_units_max: 8", "num_units_max: 2000", "7:", "num_connections_max must be at least … got 1024"),
        ("limits:", "shadow_share: 2\nlimits:", "7:15", "shadow_share must be between 0 and 1 … got 2"),
        ("limits:", "judge: {role: critic}\nlimits:", "7:8", "judge must name a role of this file … 'critic'"),
        ("limits:", "replicas: {http://a/v1: []}\nlimits:", "7:11", "must be different servers … got []"),
        ("cap: 100}, 0.5", "cap: 100}, {weight: 0.5, cap: 10}", "10:3", "they must not fall … [100, 10]"),
        (
            "rollout:\n",
            "rollout:\n  gate: {margins: {cost: 0.1}, method: best}\n",
            "10:",
            "method must be one of … 'best'",
        ),
    ],
    "corpus": [
        ("[notes/*.jsonl]", "['']", "2:8", "files must list at least one glob, and no empty one … got ['']"),
        ("[notes/*.jsonl]", "[]", "2:8", "files must list at least one glob … got an empty list"),
        ("encoding: utf-8", "encoding: base64", "3:11", "encoding must be a text encoding … got 'base64'"),
        ("encoding: utf-8", "encoding: utf8mb4", "3:11", "encoding must be a text encoding … got 'utf8mb4'"),
        ("encoding: utf-8", "encoding: ''", "3:11", "encoding must be a text encoding … got ''"),
        ("term: title", "heading: title", "4:10", "columns must map document_id … got 'heading'"),
        ("term: title, ", "", "5:9", "prompt or completion uses {term} … columns does not map"),
        ("{term}", "{{term}}", "5:16", "use one pair of braces, {term} … got 'Explain {{term}}.'"),
        ("{term}", "{text}", "5:16", "user may use {term}, {category} … got {text}"),
        ('completion: "{text}"', 'completion: "{{text}}"', "6:13", "use one pair of braces, {text} … '{{text}}'"),
        ('completion: "{text}"', "completion: yes it is", "6:13", "completion must hold {text} … got 'yes it is'"),
        ("words_min: 2", "words_min: -2", "7:20", "rules: words_min must be null or at least 0 … got -2"),
        ("words_max: 60", "words_max: 1", "7:", "words_min must not exceed words_max … got 2 and 1"),
        ("words_max: 60", "mean_word_length_max: 0", "7:", "mean_word_length_max must be null or above 0 … got 0"),
        ("https?://", "http(", "7:", "drop_matching.links is not a regular expression … got 'http('"),
        ("https?://", "x*", "7:", "drop_matching.links matches every text … got 'x*'"),
        ("sequence_length: 256", "sequence_length: 0", "8:18", "sequence_length must be between 1 … got 0"),
        ("length: 256", "length: 1000000000", "8:18", "no model reads more … got 1000000000"),
        ("sequence_length:", "dropped_share_max: 90\nsequence_length:", "8:20", "between 0 and 1 … got 90"),
        ("sequence_length:", "duplicate_columns: [text, category]\nsequence_length:", "8:20", "'category' … columns"),
        ("Is {text} good?", "Is it good?", "10:", "question must hold {text} … got 'Is it good?'"),
        ("answers: [good, bad]", "answers: [good, Good]", "10:", "at least two different labels … 'Good'"),
        ("drop: [bad]", "drop: [poor]", "11:9", "drop has 'poor', which the judge never answers … 'bad'"),
        ("drop: [bad]", "kappa_min: 60", "11:14", "labels: kappa_min must be between -1 and 1 … got 60"),
    ],
    "recipe": [
        ("learning_rate: 1.0e-3", "learning_rate: 3", "5:16", "learning_rate must be above 0 and at most 1 … got 3"),
        ("learning_rate: 1.0e-3", "learning_rate: 0", "5:16", "learning_rate must be above 0 … got 0"),
        ("warmup_steps: 2", "warmup_steps: 20", "6:15", "warmup_steps must not be above steps=10 … =20"),
        ("warmup_steps: 2", "beta2: 1", "6:8", "beta2 must be at least 0 and below 1 … got 1"),
        ("[model.embed_tokens.]", "['']", "7:9", "freeze must list prefixes … got ['']"),
        ("model: tiny", "model: a--b", "2:8", "model must be lower-case letters … got 'a--b'"),
        ("ranks: 2", "memory_mib_per_rank: -1", "8:22", "must be null or at least 1 … got -1"),
    ],
}


@pytest.mark.parametrize(
    ("kind", "old", "new", "place", "told"), [(kind, *case) for kind, cases in _CASES.items() for case in cases]
)
def test_a_value_that_means_nothing_is_refused_with_its_place(
    tmp_path: Path, kind: str, old: str, new: str, place: str, told: str
) -> None:
    text = _FILES[kind]
    assert text.count(old) == 1
    file = tmp_path / "some.yaml"
    file.write_text(text.replace(old, new))
    with pytest.raises(InvalidInput) as refused:
        _LOAD[kind](file)
    said = str(refused.value)
    assert [part for part in (f"{file}:{place}", *told.split(" … ")) if part not in said] == [], said


@pytest.mark.parametrize("kind", _FILES)
def test_the_same_file_without_it_is_read(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "some.yaml"
    file.write_text(_FILES[kind])
    assert _LOAD[kind](file).name


def test_braces_that_are_meant_are_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "some.yaml"
    template = """Answer as {{"name": "{thing}"}}, and leave {{{{slot}}}} as it is."""
    file.write_text(_FILES["campaign"].replace('"Tell of {thing}."', f"'{template}'"))
    assert load_campaign(file).prompts.template == template
