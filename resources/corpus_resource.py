"""The corpus of this deployment, the tokenizer that prepares its examples, and the judge that labels it, if any."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import dagster as dg
from pydantic import Field

from headrace.generation.campaign import EngineSettings
from headrace.generation.engines.base import GenerationRequest
from headrace.generation.engines.opening import open_engine
from headrace.keys import digest_text, row_seed
from headrace.prep.chat_tokenizer import ChatTokenizer
from headrace.prep.corpus import Corpus, LabelJudge, load_corpus
from headrace.prep.labels import Judge
from headrace.rollout.version_sets import Decoding, Member
from headrace.store.objects import ObjectStore
from headrace.store.sealed_directory import seal_directory

# Questions that a local model answers side by side; a longer batch pads all of them to its longest.
_JUDGE_BATCH_ROWS = 16


class CorpusResource(dg.ConfigurableResource["CorpusResource"]):
    """What data prep reads: files, rules and templates, and the base model's tokenizer."""

    corpus_file: str = Field(description="YAML file that describes the corpus: an absolute path.")
    home: str = Field(description="Directory at which the corpus file's relative paths start.")
    base_model: str = Field(description="Directory or hub name of the model whose tokenizer prepares examples.")

    def corpus(self) -> Corpus:
        return load_corpus(Path(self.corpus_file))

    def home_directory(self) -> Path:
        return Path(self.home)

    def tokenizer(self) -> ChatTokenizer:
        return ChatTokenizer.load(self.base_model)

    def judge(self, objects: ObjectStore) -> Judge | None:
        """The corpus's judge, not loaded yet; a local model is sealed in the store at its first question."""
        labels = self.corpus().labels
        return EngineJudge(labels.judge, objects) if labels and labels.judge else None


class EngineJudge:
    """A generation engine as judge: greedy decoding, one question a document."""

    def __init__(self, settings: LabelJudge, objects: ObjectStore) -> None:
        self._settings = settings
        self._objects = objects

    def answer(self, questions: Sequence[str]) -> list[str]:
        """Raises: EngineUnavailable: the engine cannot be reached or loaded now."""
        engine = open_engine(self._member, self._spec.spec, self._objects)
        requests = [
            GenerationRequest(row_id=row_id, prompt=question, seed=row_seed(row_id))
            for question in questions
            for row_id in [digest_text("judge", question)]
        ]
        try:
            starts = range(0, len(requests), _JUDGE_BATCH_ROWS)
            batches = [requests[start : start + _JUDGE_BATCH_ROWS] for start in starts]
            return [result.text for batch in batches for result in engine.generate(batch)]
        finally:
            engine.close()

    @property
    def _spec(self) -> EngineSettings:
        return EngineSettings(
            name=self._settings.engine, base_url=self._settings.base_url, model=self._settings.model, dtype="float32"
        )

    @cached_property
    def _member(self) -> Member:
        is_local = self._settings.engine == "transformers"
        weights = seal_directory(self._objects, Path(self._settings.model)) if is_local else None
        return Member(
            role="judge",
            model_name=self._settings.model,
            model_version="",
            weights_digest=weights.digest if weights else "",
            weights_uri=weights.uri if weights else "",
            system_prompt=self._settings.system or "",
            user_template="{text}",
            decoding=Decoding(temperature=0, top_p=1, max_new_tokens=self._settings.answer_tokens_max),
        )
