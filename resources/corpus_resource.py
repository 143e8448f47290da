"""This deployment's corpus, the tokenizer that prepares its examples, and the judge that labels it, if any."""

from collections.abc import Sequence
from pathlib import Path

import dagster as dg
from pydantic import Field

from headrace.chat.tokenizer import ChatTokenizer
from headrace.engines.embedding import Embedder
from headrace.engines.rows import ChainRows, GenerationRequest
from headrace.errors import InvalidInput
from headrace.keys import digest_text, row_seed
from headrace.prep.corpus import Corpus, load_corpus, shard_keys_in
from headrace.prep.example_kinds import tokenizer_for
from headrace.prep.label_settings import LabelJudge
from headrace.prep.labels import Judge
from headrace.store.objects import ObjectStore
from headrace.store.sealed_directory import seal_directory
from headrace.version_sets.sets import Decoding, Member
from headrace_dagster.resources.engines import EnginesResource

# How many questions a local model answers side by side; longer batches pad more of them to the longest.
_BATCH_ROWS = 16


class CorpusResource(dg.ConfigurableResource["CorpusResource"]):
    """The inputs of data prep: files, rules and templates, and the base model's tokenizer."""

    corpus_file: str = Field(description="YAML file that describes the corpus: an absolute path.")
    home: str = Field(description="Directory at which the corpus file's relative paths start.")
    base_model: str = Field(description="Directory or hub name of the model whose tokenizer prepares examples.")

    def corpus(self) -> Corpus:
        return load_corpus(Path(self.corpus_file))

    def problems(self) -> tuple[str, ...]:
        """What a person has to mend in the corpus file; nothing if it can be read."""
        _, faults = shard_keys_in(Path(self.corpus_file))
        return (faults,) if faults else ()

    def home_directory(self) -> Path:
        return Path(self.home)

    def tokenizer(self) -> ChatTokenizer:
        return tokenizer_for(self.corpus(), self.base_model)

    def embedder(self, engines: EnginesResource, objects: ObjectStore) -> Embedder:
        """The embedding model of a corpus that looks for semantic duplicates.

        Raises: InvalidInput: it looks for none any more, or its model cannot be used.
        """
        corpus = self.corpus()
        if (settings := corpus.semantic_duplicates) is None:
            raise InvalidInput(
                f"{corpus.name} has no semantic_duplicates any more, and is embedded for nothing. Reload the code "
                "location: document_embeddings is gone then."
            )
        return engines.open_embedder(settings.embedding_model, self.home_directory(), objects)

    def judge(self, engines: EnginesResource, objects: ObjectStore) -> Judge | None:
        """The corpus's judge, if it has one; loads nothing before the first question."""
        labels = self.corpus().labels
        return EngineJudge(labels.judge, engines, objects) if labels and labels.judge else None


class EngineJudge:
    """An engine as judge: greedy decoding, one question for each document."""

    def __init__(self, settings: LabelJudge, engines: EnginesResource, objects: ObjectStore) -> None:
        self._settings = settings
        self._engines = engines
        self._objects = objects

    def answer(self, questions: Sequence[str]) -> list[str]:
        """Raises: EngineUnavailable: the engine cannot be reached or loaded now."""
        member, spec = self._member(), self._settings.settings.spec
        engine = self._engines.open(member, spec, self._objects)
        rows = ChainRows.of(member, engine)
        try:
            requests = [_request(question) for question in questions]
            starts = range(0, len(requests), _BATCH_ROWS)
            results = [rows.generate(requests[start : start + _BATCH_ROWS]) for start in starts]
            return [result.text for batch in results for result in batch]
        finally:
            rows.close()

    def _member(self) -> Member:
        settings = self._settings
        # A local model is sealed like any other, so that its digest can be looked up and its bytes are checked.
        local = settings.settings.kind.needs_weights
        weights = seal_directory(self._objects, Path(settings.model)) if local else None
        return Member(
            role="judge",
            model_name=settings.model,
            model_version="",
            weights_digest=weights.digest if weights else "",
            weights_uri=weights.uri if weights else "",
            system_prompt=settings.system or "",
            user_template="{text}",
            decoding=Decoding(temperature=0, top_p=1, max_new_tokens=settings.answer_tokens_max),
        )


def _request(question: str) -> GenerationRequest:
    row_id = digest_text("judge", question)
    return GenerationRequest(row_id=row_id, prompt=question, seed=row_seed(row_id))
