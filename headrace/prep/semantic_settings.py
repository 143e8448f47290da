"""Which documents are semantic duplicates, and whose vectors say so: the key `semantic_duplicates` of a corpus file."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from headrace.engines.embedding import EmbeddingEngine, EmbeddingModel
from headrace.engines.openai.address import check_address
from headrace.errors import InvalidInput
from headrace.masking import without_credentials
from headrace.user_files.ranges import check_ranges


@dataclass(frozen=True, kw_only=True)
class SemanticDuplicates:
    """Two documents are semantic duplicates if the cosine of their embeddings is at least `cosine`."""

    cosine: Annotated[float, Ge(0.8), Le(0.999)] = 0.99
    """The cosine from which on two documents are semantic duplicates. 0.99 is the default of NeMo Curator's SemDeDup
    (Abbas et al. 2023); it means another thing with each model, so look at what a lower one drops."""
    engine: EmbeddingEngine = "transformers"
    """`transformers`: a model in this process; `openai_http`: a server with POST /embeddings."""
    model: str
    """For transformers: the directory of an embedding model. For openai_http: the server's name for it."""
    base_url: str | None = None
    """For openai_http: the server's URL up to and including /v1."""
    characters_max: Annotated[int, Ge(1)] | None = None
    """For openai_http: longer texts are cut to so many characters. null: whole texts are sent, and a server may refuse
    them. transformers cuts at the model's own maximum of tokens."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.model.strip():
            raise InvalidInput("model must name an embedding model, got an empty text.")
        if self.engine == "openai_http":
            if not self.base_url:
                raise InvalidInput("engine 'openai_http' needs base_url, the server's URL up to and including /v1.")
            check_address(self.base_url)
            return
        if self.base_url is not None:
            shown = without_credentials(self.base_url)
            raise InvalidInput(
                f"base_url is for the engine openai_http, got {shown!r} for 'transformers': leave it out."
            )
        if self.characters_max is not None:
            raise InvalidInput(
                f"characters_max is for the engine openai_http, got {self.characters_max} for 'transformers', which "
                "cuts at the model's own maximum of tokens: leave it out."
            )

    @property
    def embedding_model(self) -> EmbeddingModel:
        """Without what is asked of its vectors."""
        return EmbeddingModel(
            engine=self.engine, model=self.model, base_url=self.base_url, characters_max=self.characters_max
        )
