"""What a search sees of its data, whatever they are: a training and a validation split, never the test data."""

from __future__ import annotations

import torch

from darts.runtime.errors import UserError
from darts.tasks.batches import SearchData, search_data
from darts.tasks.pieces import TextSearchData, text_search_data
from darts.tasks.settings import AnyDataset, LanguageSettings, TextDataset, require_labelled
from darts.tasks.several import SeveralSearchData, several_search_data
from darts.tasks.several_settings import SeveralDatasets

SearchedData = SearchData | TextSearchData | SeveralSearchData


def searched_data(
    dataset: AnyDataset,
    language: LanguageSettings | None,
    train_fraction: float,
    batch_size: int,
    seed: int,
    device: torch.device,
) -> SearchedData:
    """Open the two splits; `train_fraction` divides images, and a text comes divided (`language`: how it is read)."""
    if isinstance(dataset, TextDataset):
        if language is None:
            raise UserError(f"dataset is {dataset.name}, a text; this command takes a set of images")
        return text_search_data(dataset, language, batch_size, seed, device)
    if isinstance(dataset, SeveralDatasets):
        return several_search_data(dataset, train_fraction, batch_size, seed, device)
    return search_data(require_labelled(dataset), train_fraction, batch_size, seed, device)
