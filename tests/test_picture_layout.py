"""Pictures read as a person reads them: numbers off the mixture chart, and no text cut off at a picture's edge."""

from __future__ import annotations

import math

import numpy as np
import pytest

from darts.loop import plotting
from darts.loop.cell_graphs import draw_changes
from darts.loop.mixture_chart import draw_mixtures
from darts.spaces.search_space import SearchSpace
from tests.conftest import composed, space_of

pytestmark = pytest.mark.pictures
SPACES = ["darts", "nasbench201", "mobile", "recurrent"]


def random_mixtures(space: SearchSpace, epochs: int):
    """Softmaxes of random numbers, by epoch, edge and candidate, and a history of them."""
    draws = np.exp(np.random.default_rng(0).normal(size=(epochs, len(space.edges()), len(space.candidates))))
    weights = draws / draws.sum(-1, keepdims=True)
    history = [{"epoch": n + 1, "mixture": {space.cell_types[0]: weights[n].tolist()}} for n in range(epochs)]
    return weights, history


def read_off(marks, places):
    """The values at places of an axis, by the numbers that stand beside it: `marks` are pairs (place, number)."""
    slope, offset = np.polyfit(*zip(*marks, strict=True), 1)
    return slope * np.asarray(places) + offset


@pytest.mark.parametrize("epochs", [2, 50])
@pytest.mark.parametrize("name", SPACES)
def test_a_reader_finds_the_history_by_the_frames_and_the_numbers_beside_them(name, epochs):
    space = composed("search", f"space={name}").space
    weights, history = random_mixtures(space, epochs)
    axes = draw_mixtures(history, space.cell_types[0], space).axes[0]
    frames = [path.get_extents() for path in axes.collections[1].get_paths()]
    heights = [(y, float(label.get_text())) for y, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)]
    below = [(text.get_position()[0], float(text.get_text())) for text in axes.texts if text.get_va() == "top"]
    assert len(frames) == len(space.edges()) and len(axes.lines) == len(space.candidates)
    for column, line in enumerate(axes.lines):
        assert (line.get_label(), line.get_color()) == (space.candidates[column], plotting.colour(line.get_label()))
        x, y = line.get_data()
        for number, frame in enumerate(frames):
            own = (x >= frame.x0) & (x <= frame.x1) & (y >= frame.y0) & (y <= frame.y1)
            beside = [mark for mark in heights if frame.y0 <= mark[0] <= frame.y1]
            np.testing.assert_allclose(read_off(beside, y[own]), weights[:, number, column], atol=1e-6)
            under = [mark for mark in below if frame.x0 <= mark[0] <= frame.x1]
            np.testing.assert_allclose(read_off(under, x[own]), range(1, epochs + 1), atol=1e-6)


@pytest.mark.parametrize("name", SPACES)
def test_the_nearest_title_above_a_frame_is_its_edge_and_one_epoch_is_a_dot(name):
    space = composed("search", f"space={name}").space
    axes = draw_mixtures(random_mixtures(space, 1)[1], space.cell_types[0], space).axes[0]
    titles = [text for text in axes.texts if text.get_va() == "bottom"]
    for edge, path in zip(space.edges(), axes.collections[1].get_paths(), strict=True):
        frame = path.get_extents()
        top = (frame.x0 + frame.x1) / 2, frame.y1
        nearest = min(titles, key=lambda text: math.dist(text.get_position(), top))
        assert nearest.get_text() == plotting.edge_name(edge, space) and nearest.get_position()[1] > frame.y1
    assert {line.get_marker() for line in axes.lines} == {"."}
    assert {text.get_text() for text in axes.texts if text.get_va() == "top"} == {"1"}


def is_cut_off(figure) -> bool:
    """Whether anything that is drawn does not lie within a picture, by a pixel or more, by matplotlib's own measure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    box = figure.get_tightbbox(FigureCanvasAgg(figure).get_renderer()).padded(-1 / figure.dpi)  # inches
    width, height = figure.get_size_inches()
    return box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height


def test_a_text_that_is_cut_off_is_found():
    figure = plotting.new_figure(1, 1)
    text = figure.text(0.5, 0.5, "wider than the picture")
    assert is_cut_off(figure)
    text.set_text("w")
    assert not is_cut_off(figure)


@pytest.mark.parametrize("size", [1e-5, 1.0, 123456.0])
@pytest.mark.parametrize("epochs", [1, 50])
def test_no_number_is_cut_off_however_long(epochs, size):
    rng = np.random.default_rng(1)
    names = ("train/loss", "valid/loss", "train/perplexity", "valid/perplexity", "entropy/normal", "skips/normal")
    history = [{"epoch": n + 1, **{name: size * rng.random() for name in names}} for n in range(epochs)]
    assert not is_cut_off(plotting.draw_curves(history))
    assert not is_cut_off(plotting.draw_diagnostics(history, 8))


@pytest.mark.parametrize("spread", [0.0, 1e-9, 1e-4])
def test_a_chart_of_one_edge_or_of_weights_that_are_almost_alike_is_readable(spread):
    space = space_of("own", 1, 1, ["sep_conv_3x3", "dil_conv_5x5", "max_pool_3x3", "avg_pool_3x3", "skip_connect"])
    edges = len(space.edges())
    weights = 0.2 + spread * np.random.default_rng(3).normal(size=(4, edges, 5))
    history = [{"epoch": n + 1, "mixture": {"normal": weights[n].tolist()}} for n in range(4)]
    figure = draw_mixtures(history, "normal", space)
    marks = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert not is_cut_off(figure) and len(set(marks)) == len(marks) > 1


@pytest.mark.parametrize("name", SPACES)
def test_no_name_of_an_edge_or_operation_is_cut_off(name):
    space = composed("search", f"space={name}").space
    kind, edges = space.cell_types[0], space.edges()
    _, history = random_mixtures(space, 30)
    kept = [
        [node, space.candidates[place % len(space.candidates)], source] for place, (source, node) in enumerate(edges)
    ]
    assert not is_cut_off(draw_mixtures(history, kind, space))
    assert not is_cut_off(draw_changes([{**line, "cells": {kind: kept}} for line in history], kind, space))
    for size in (1e-5, 1.0, 1234.0):
        matrix = size * np.random.default_rng(2).normal(size=(len(edges), len(space.candidates)))
        assert not is_cut_off(plotting.draw_alpha(matrix.tolist(), kind, space))


def test_pixels_are_those_of_the_file(tmp_path):
    """A picture for TensorBoard has the pixels that matplotlib writes at the picture's own resolution."""
    from PIL import Image

    figure = plotting.draw_curves([{"epoch": 1, "train/loss": 1.0, "train/accuracy": 0.5}])
    pixels = plotting.pixels_of(figure)
    figure.savefig(tmp_path / "picture.png", dpi=figure.dpi)
    with Image.open(tmp_path / "picture.png") as file:
        np.testing.assert_array_equal(pixels, np.asarray(file.convert("RGB")))
