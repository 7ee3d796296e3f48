"""What a search is made of: its data and its supernet, for each task."""

from __future__ import annotations

import torch

from darts.methods.schedule import CandidateMask, Stage
from darts.models.batch_norm import synchronise
from darts.models.building import ImageSupernet, plain_supernet
from darts.models.fused.supernet import FusedSupernet
from darts.models.recurrent import RecurrentMacs, RecurrentSupernet, ScannedSupernet, dropouts_of
from darts.models.settings import Engine
from darts.models.several import SeveralSupernets
from darts.models.supernet import Mixing, Supernet
from darts.runtime.seeding import ambient
from darts.search.settings import SearchSettings, TextSearchSettings
from darts.spaces.search_space import InputShape
from darts.tasks.pieces import TextShape
from darts.tasks.searched import SearchedData, searched_data
from darts.tasks.settings import UnrolledEmbedding
from darts.tasks.several_settings import SeveralDatasets

AnySupernet = ImageSupernet | RecurrentSupernet | SeveralSupernets
SearchedShape = InputShape | TextShape | tuple[InputShape, ...]  # the last of several tasks


def open_data(settings: SearchSettings, device: torch.device) -> SearchedData:
    """Open what a search learns from, in its two splits; the test data stay closed."""
    loop = settings.search
    language = settings.language if isinstance(settings, TextSearchSettings) else None
    return searched_data(settings.dataset, language, loop.train_fraction, loop.batch_size, settings.seed, device)


def build_supernet(settings: SearchSettings, shape: SearchedShape, stage: Stage, active: CandidateMask) -> AnySupernet:
    """The supernet of a stage, with the weights of its seed; the same weights for both engines."""
    with ambient(settings.seed, "weights", *([stage.number] if stage.number else [])):
        if isinstance(settings, TextSearchSettings) and isinstance(shape, TextShape):
            supernet: AnySupernet = language_supernet(settings, shape)
        elif isinstance(shape, InputShape):
            supernet = image_supernet(settings, shape, stage, active)
        elif isinstance(shape, tuple) and isinstance(settings.dataset, SeveralDatasets):
            own = [image_supernet(settings, each, stage, active) for each in shape]
            supernet = SeveralSupernets(own, settings.dataset.shared_cells)
    synchronise(supernet)
    return supernet


def image_supernet(settings: SearchSettings, shape: InputShape, stage: Stage, active: CandidateMask) -> ImageSupernet:
    """The supernet of images; draws its weights from the ambient generator."""
    network, space, method = settings.network, settings.space, settings.method
    mixing = Mixing(
        active=active,
        edge_extras=(*method.edge_extras.operations, *space.always),
        k=method.channels.k_of_stage(stage.number),
        skip_dropout=method.edge_extras.drops_skips,
        path_dropout=method.edge_extras.drops_paths,
    )
    cells = network.cells + stage.more_cells
    supernet = plain_supernet(space, cells, network.channels, network.stem_reductions, shape, mixing)
    whole_edges = not (method.relaxation.sampled or method.edge_extras.drops_paths)  # else there is nothing to fuse
    if settings.engine is Engine.fused and whole_edges and isinstance(supernet, Supernet):
        macs, supernet = supernet.macs, FusedSupernet(supernet)
        supernet.macs = macs
    supernet.activation_checkpointing = settings.memory.activation_checkpointing
    return supernet


def language_supernet(settings: TextSearchSettings, shape: TextShape) -> RecurrentSupernet:
    """The supernet of a text; draws its weights from the ambient generator."""
    language, space = settings.language, settings.space
    kind = ScannedSupernet if settings.engine is Engine.fused else RecurrentSupernet
    supernet = kind(space, shape.vocabulary, language.units, dropouts_of(language))
    if language.unrolled_embedding is UnrolledEmbedding.HELD:
        supernet.fixed_in_unrolled_step = ("embedding",)
    supernet.macs = RecurrentMacs(language.units, shape.vocabulary, len(space.edges()))
    return supernet
