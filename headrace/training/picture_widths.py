"""How large the picture model of a recipe is, and its widths, by arithmetic: no torch, and no library of models.

Tests compare with the model that diffusers builds.
"""

from headrace.training.flow_matching_settings import FlowMatching
from headrace.training.model_widths import ModelWidths
from headrace.training.picture_examples import PictureShape
from headrace.training.zero import ModelShape

_COLOURS = 3
# Of the embedding of a sample's share of noise.
_TIME_WIDTH = 256


def patches_of(settings: FlowMatching, shape: PictureShape) -> int:
    return (shape.side // settings.patch_pixels) ** 2


def painter_shape(settings: FlowMatching, shape: PictureShape) -> ModelShape:
    """Of the transformer; the captions' encoder is not trained, and not there while it is."""
    hidden, inner, head = settings.hidden_size, _inner(settings), settings.hidden_size // settings.heads
    patch = _COLOURS * settings.patch_pixels**2
    # Queries, keys and values of patches, keys and values of captions, the output; what modulates; three norms.
    block = 6 * hidden**2 + 3 * hidden * inner + 6 * hidden * (hidden + 1) + 3 * head
    ends = (patch + 1) * hidden + (shape.width + 1) * hidden + (hidden + 1) * patch
    time = (_TIME_WIDTH + 1) * hidden + (hidden + 1) * hidden + 2 * hidden * (hidden + 1)
    num = settings.depth * block + ends + time
    return ModelShape(num_params=num, num_params_trained=num, positions_max=None)


def painter_widths(settings: FlowMatching) -> ModelWidths:
    hidden = settings.hidden_size
    return ModelWidths(
        hidden=hidden,
        layers=settings.depth,
        heads=settings.heads,
        query=hidden,
        key_value=hidden,
        inner=_inner(settings),
        vocabulary=0,
        layers_trained=settings.depth,
        largest=6 * hidden * hidden,
        has_head_norms=True,
        has_gated_residuals=True,
        is_tied=False,
    )


def _inner(settings: FlowMatching) -> int:
    return int(settings.hidden_size * settings.mlp_ratio)
