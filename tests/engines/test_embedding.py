"""Vectors from servers on loopback that answer as told, and from a tiny encoder compared with plain torch."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from headrace.engines.base import EngineFailed
from headrace.engines.deployment import Deployment
from headrace.engines.dispatch.settings import DispatchSettings
from headrace.engines.embedding import NoVector, of_length_1
from headrace.engines.local.embedder import LocalEmbedder
from headrace.engines.openai.embedder import EmbeddingClient, ServerEmbedder
from headrace.errors import InvalidInput
from headrace.prep.embeddings import embed_shard
from headrace.prep.rule_sets import QualityRules
from headrace.prep.verdicts import CorpusShard
from simulation.servers.chat import Behaviour, ChatServer, served
from tests.prep.builders import make_corpus, make_raw
from tests.prep.word_vectors import BY_WORDS

KEY = "sk-planted-0123456789abcdef"


def embedder(url: str, **options: Any) -> ServerEmbedder:
    patience = DispatchSettings(num_attempts=2, dead_seconds_max=1.0, busy_seconds_max=1.0)
    deployment = replace(Deployment.of_bulk(api_key=KEY, request_seconds=60.0), dispatch=patience)
    return ServerEmbedder("key", EmbeddingClient(model="e5", base_urls=[url], deployment=deployment), **options)


def vector(text: str) -> list[float]:
    return [float(len(text)), 1.0, -2.0]


def good(texts: list[str]) -> dict[str, Any]:
    data = [{"object": "embedding", "index": at, "embedding": vector(text)} for at, text in enumerate(texts)]
    return {"object": "list", "data": data, "model": "e5", "usage": {"prompt_tokens": 1, "total_tokens": 1}}


def answering(answer: Callable[[list[str]], Any], *, status: int = 200) -> Behaviour:
    async def behave(server: ChatServer, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        made = answer(body["input"])
        text = made if isinstance(made, str) else json.dumps(made)
        return web.Response(text=text, status=status, content_type="application/json")

    return behave


def embedded(behave: Behaviour, texts: list[str], **options: Any) -> tuple[Any, ChatServer]:
    with served(behave) as server:
        client = embedder(server.url, **options)
        try:
            return client.embed(texts), server
        finally:
            client.close()


def test_vectors_come_in_the_order_of_texts_and_of_length_1_whatever_the_order_of_the_answer() -> None:
    texts = ["a" * (1 + number % 9) for number in range(70)]

    def reversed_answer(asked: list[str]) -> dict[str, Any]:
        found = good(asked)
        return found | {"data": found["data"][::-1]}

    made, server = embedded(answering(reversed_answer), texts, characters_max=8)

    wanted = np.array([vector(text[:8]) for text in texts])
    assert np.allclose(made.vectors, wanted / np.linalg.norm(wanted, axis=1, keepdims=True))
    assert made.is_cut.tolist() == [len(text) > 8 for text in texts]
    assert sorted(len(body["input"]) for body in server.bodies) == [6, 32, 32]
    assert {(body["model"], body["encoding_format"]) for body in server.bodies} == {("e5", "float")}
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}


def test_any_vector_with_a_direction_is_brought_to_length_1_and_another_is_refused() -> None:
    """Squares of the first overflow, and of the next are lost."""
    drawn = [[1e200, 1e200, 1.0], [1e308, -1e308, 1e308], [1e-161, 3e-161, 2e-161], [5e-324, 0, 0], [-0.0, 0, 3.0]]
    vectors = of_length_1(np.array(drawn), model="m")
    for exact, found in zip(drawn, vectors, strict=True):
        length = math.hypot(*(one / max(map(abs, exact)) for one in exact))
        assert found == pytest.approx([one / max(map(abs, exact)) / length for one in exact], abs=1e-7)
    ordinary = np.random.default_rng(1).standard_normal((200, 32))
    plain = (ordinary / np.linalg.norm(ordinary, axis=1, keepdims=True)).astype(np.float32)
    assert np.array_equal(of_length_1(ordinary, model="m"), plain)
    made, _ = embedded(answering(lambda texts: good(texts) | {"data": [{"index": 0, "embedding": drawn[2]}]}), ["a"])
    assert made.vectors[0] == pytest.approx(vectors[2])
    for number in (0.0, math.nan, math.inf):
        with pytest.raises(
            InvalidInput, match=rf"^Model m gives text 2 of 2 a vector whose largest number is {number:g}, which has"
        ):
            of_length_1(np.array([[1.0, 0.0], [number, 0.0]]), model="m")


def changed(**fields: Any) -> Callable[[list[str]], Any]:
    """The last vector's entry with other fields."""

    def answer(texts: list[str]) -> Any:
        found = good(texts)
        found["data"][-1] |= fields
        return found

    return answer


HOSTILE: dict[str, tuple[Callable[[list[str]], Any], str]] = {
    "one vector too few": (lambda texts: good(texts[1:]), "it has 1 vectors for 2 texts"),
    "one vector too many": (lambda texts: good([*texts, "x"]), "it has 3 vectors for 2 texts"),
    "an index twice": (changed(index=0), "the indices of its vectors are not 0 to 1, each once"),
    "an index beyond all": (changed(index=2), "the indices of its vectors are not 0 to 1, each once"),
    "an index that is true": (changed(index=True), "the indices of its vectors are not 0 to 1, each once"),
    "no index": (changed(index=None), "the indices of its vectors are not 0 to 1, each once"),
    "another dimension": (changed(embedding=[1.0]), "its vectors have 1 and 3 numbers, where all must have as many"),
    "no numbers": (changed(embedding=[]), "must be a list of 1 to 16384 numbers, got 0 entries"),
    "base64": (changed(embedding="AACAPw=="), "must be a list of 1 to 16384 numbers, got something of type str"),
    "a word": (changed(embedding=[1.0, "2", 3.0]), "the embedding of text 1 has an entry that is no number"),
    "NaN": (changed(embedding=[1.0, float("nan"), 3.0]), "a vector has a number that is not finite"),
    "infinity": (changed(embedding=[1.0, float("inf"), 3.0]), "a vector has a number that is not finite"),
    "a number of many digits": (changed(embedding=[1.0, 10**400, 3.0]), "has a number that is too large"),
    "a zero vector": (changed(embedding=[0.0, 0, 0.0]), "a vector is zero, so it has no direction"),
    "a chat": (lambda texts: {"choices": []}, "it has no list `data` of objects"),
    "a list": (lambda texts: [], "no embeddings"),
    "no JSON": (lambda texts: "<html>", "no embeddings"),
    "deep nesting": (lambda texts: "[" * 100_000, "no embeddings"),
    "an error in a body of 200": (lambda texts: {"error": {"message": "no room", "code": 500}}, "no room"),
}


@pytest.mark.parametrize("phrase", HOSTILE)
def test_an_answer_that_is_none_ends_in_one_sentence_that_says_what_is_wrong_with_it(phrase: str) -> None:
    answer, message = HOSTILE[phrase]
    with pytest.raises(
        EngineFailed, match=r"^The batch of texts failed at every attempt; the last: http://127"
    ) as told:
        embedded(answering(answer), ["a", "bb"])
    assert message in str(told.value)
    assert "\n" not in str(told.value)


def test_a_failed_request_is_sent_again_and_a_refused_one_says_what_helps() -> None:
    failing = answering(good, status=503)

    async def at_first(server: ChatServer, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await (failing if len(server.bodies) == 1 else answering(good))(server, request, body)

    made, server = embedded(at_first, ["a"])
    assert (made.vectors.shape, len(server.bodies)) == ((1, 3), 2)
    message = (
        r"The engine refuses this batch of texts: http://127.* answered 400: too long\. If texts are too long for the"
    )
    with pytest.raises(InvalidInput, match=message):
        embedded(answering(lambda texts: {"error": {"message": "too long"}}, status=400), ["a"])


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers that knows a few words and reads 12 tokens."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    directory = tmp_path_factory.mktemp("encoder")
    known = ["a", "the", "river", "mill", "wheel", "water", "turns", "runs", "of", "to", "in"]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *known]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(directory)
    torch.manual_seed(1)
    sizes: dict[str, Any] = {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=12, **sizes)).save_pretrained(directory)
    return directory


def by_torch(encoder: Path, text: str, *, pooling: str) -> np.ndarray:
    """One text at a time: without padding, and with the whole model asked again."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(encoder)
    with torch.inference_mode():
        states = AutoModel.from_pretrained(encoder)(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
    pooled = (states.mean(0) if pooling == "mean" else states[0]).double().numpy()
    return pooled / np.linalg.norm(pooled)


TEXTS = ["the river", "a mill wheel turns in the water of the river", "water", "the wheel of a mill"]


def with_files(encoder: Path, tmp_path: Path, **files: Any) -> Path:
    for source in encoder.iterdir():
        (tmp_path / source.name).symlink_to(source)
    names = {"pooling": "1_Pooling/config.json", "modules": "modules.json"}
    for name, content in files.items():
        path = tmp_path / names.get(name, f"{name}.json")
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_local_models_vectors_are_what_plain_torch_computes_of_each_text_alone(
    pooling: str, encoder: Path, tmp_path: Path
) -> None:
    modes = {"pooling_mode_mean_tokens": pooling == "mean", "pooling_mode_cls_token": pooling == "cls"}
    directory = with_files(encoder, tmp_path, pooling=modes) if pooling == "cls" else encoder
    made = LocalEmbedder("key", directory, named="m").embed(TEXTS)

    for text, found in zip(TEXTS, made.vectors, strict=True):
        assert np.allclose(found, by_torch(encoder, text, pooling=pooling), atol=1e-5)
    assert not made.is_cut.any()


def test_of_a_text_beyond_the_models_maximum_the_beginning_counts_and_it_is_told(encoder: Path) -> None:
    made = LocalEmbedder("key", encoder, named="m").embed(
        ["the river runs " * 9, "the river runs the river runs the river runs the"]
    )
    assert made.is_cut.sum() == 1
    assert np.allclose(made.vectors[0], made.vectors[1], atol=1e-5)


FORMS: dict[str, tuple[dict[str, Any], str]] = {
    "another pooling": (
        {"pooling": {"pooling_mode_max_tokens": True}},
        "pools its tokens by max_tokens, where the mean",
    ),
    "two poolings": (
        {"pooling": {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}},
        "pools its tokens by cls_token and mean_tokens, where",
    ),
    "a further layer": ({"modules": [{"type": "sentence_transformers.models.Dense", "path": "2"}]}, "a module 'Dense'"),
    "two modules of a kind": (
        {"modules": [{"type": "a.Pooling", "path": "1"}, {"type": "b.Pooling", "path": "2"}]},
        "has two modules 'Pooling', where one of a kind is understood",
    ),
    "a module without a type": (
        {"modules": [{"idx": 0}]},
        r"modules.json of the embedding model: \[0\].type must be the name of a class, got null. Take",
    ),
    "modules that are no list": ({"modules": {"a": 1}}, r'the whole must be a list of modules, got {"a": 1}. Take'),
    "a module that is no object": ({"modules": [7]}, r"\[0\] must be an object with type and path, got 7. Take"),
    "a module elsewhere": (
        {"modules": [{"type": "a.Pooling", "path": "1/../../etc"}]},
        r'\[0\].path must be a path within the model\'s directory, got "1/../../etc". Take',
    ),
    "a pooling that is no object": ({"pooling": [1]}, r"config.json of the .*: the whole must be an object, got \[1\]"),
    "a pooling's key of another type": (
        {"pooling": {"pooling_mode_mean_tokens": "yes"}},
        'pooling_mode_mean_tokens must be true or false, got "yes"',
    ),
    "a pooling's mode of another type": ({"pooling": {"pooling_mode": 3}}, "pooling_mode must be the name of a mode"),
    "settings that are no object": ({"config_sentence_transformers": [1]}, r"the whole must be an object, got \[1\]"),
    "a maximum that is no number": (
        {"sentence_bert_config": {"max_seq_length": "many"}},
        'sentence_bert_config.json of .*: max_seq_length must be a whole number above 0, or null, got "many". Take',
    ),
    "a maximum of nothing": ({"sentence_bert_config": {"max_seq_length": 0}}, "max_seq_length must be a whole number"),
    "a prompt": (
        {"config_sentence_transformers": {"default_prompt_name": "query"}},
        "puts its prompt 'query' before each text",
    ),
}


@pytest.mark.parametrize("phrase", FORMS)
def test_what_a_models_files_ask_for_and_is_not_done_is_refused(phrase: str, encoder: Path, tmp_path: Path) -> None:
    files, message = FORMS[phrase]
    with pytest.raises(InvalidInput, match=message):
        LocalEmbedder("key", with_files(encoder, tmp_path, **files), named="m")


def test_a_text_without_tokens_is_told_with_its_document(encoder: Path, tmp_path: Path) -> None:
    """A tokenizer that adds none of its own makes none of a text that its normalizer empties."""
    tokenizer = json.loads((encoder / "tokenizer.json").read_text())
    for source in encoder.iterdir():
        (tmp_path / source.name).symlink_to(source)
    (tmp_path / "tokenizer.json").unlink()
    emptied = {"type": "Replace", "pattern": {"Regex": "[^a-z ]"}, "content": ""}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer | {"post_processor": None, "normalizer": emptied}))
    local = LocalEmbedder("key", tmp_path, named="m")
    with pytest.raises(NoVector, match=r"^The tokenizer of the embedding model m makes no token of text 2 of 2, so"):
        local.embed(["water", "12"])

    corpus = make_corpus(rules=QualityRules.of("none"), semantic_duplicates=BY_WORDS)
    shard = CorpusShard(key="shard-00", raw=make_raw("the river", "the river", "12", "water"), labels={})
    with pytest.raises(
        InvalidInput, match=r"^Document d3 \(files/a.jsonl, line 3\) cannot be embedded: The tokenizer of .* m makes no"
    ):
        embed_shard(corpus, shard, local, None)
