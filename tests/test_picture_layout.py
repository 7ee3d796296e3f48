"""Pictures read as a person reads them: numbers off the mixture chart, and no text cut off at a picture's edge."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from darts.loop import plotting
from darts.loop.cell_graphs import draw_changes
from darts.loop.mixture_chart import draw_mixtures
from darts.spaces.genotype import called
from darts.spaces.search_space import SearchSpace, Skeleton
from tests.conftest import composed, space_of

pytestmark = pytest.mark.pictures
NAMES = ["sep_conv_3x3", "dil_conv_5x5", "max_pool_3x3", "avg_pool_3x3", "skip_connect"]
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


def boxes_of(figure) -> dict[str, Bbox]:
    """Where each part of a picture is drawn, in inches: charts with their numbers and names, titles, the legend."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = {}
    for number, part in enumerate([*figure.axes, *figure.legends, *figure.texts]):
        box = part.get_tightbbox(renderer).transformed(figure.dpi_scale_trans.inverted())
        boxes[f"{number} {type(part).__name__} {getattr(part, 'get_text', str)()}"] = box
    return boxes


def faults(figure) -> list[str]:
    """The parts of a picture that do not lie within it, and the pairs that lie on each other, by a pixel or more."""
    boxes, (width, height) = boxes_of(figure), figure.get_size_inches()
    pixel = 1 / figure.dpi
    found = []
    for name, box in boxes.items():
        if box.x0 < -pixel or box.y0 < -pixel or box.x1 > width + pixel or box.y1 > height + pixel:
            found.append(f"{name} is cut off")
    for (first, box), (second, other) in itertools.combinations(boxes.items(), 2):
        shared = Bbox.intersection(box, other)
        if shared is not None and shared.width > pixel and shared.height > pixel:
            found.append(f"{first} lies on {second}")
    return found


def test_a_part_that_is_cut_off_or_lies_on_another_is_found():
    figure = plotting.new_figure(4, 4)
    text = figure.text(0.1, 0.5, "short")
    assert not faults(figure)
    figure.text(0.1, 0.51, "near")
    assert [fault.split(" ", 3)[2:] for fault in faults(figure)] == [["short", "lies on 1 Text near"]]
    text.set_text("a text that is wider than its picture, which is four inches wide and no more")
    assert any("is cut off" in fault for fault in faults(figure))


@pytest.mark.parametrize("spread", [0.0, 1e-9, 1e-4])
def test_a_chart_of_one_edge_or_of_weights_that_are_almost_alike_is_readable(spread):
    space = SearchSpace("own", 1, 1, NAMES[:5], Skeleton.nasbench201, None)
    assert len(space.edges()) == 1
    weights = 0.2 + spread * np.random.default_rng(3).normal(size=(4, 1, 5))
    history = [{"epoch": n + 1, "mixture": {"normal": weights[n].tolist()}} for n in range(4)]
    figure = draw_mixtures(history, "normal", space)
    marks = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert not faults(figure) and len(set(marks)) == len(marks) > 1


@pytest.mark.parametrize("size", [1e-9, 1e-5, 1.0, 123456.0])
@pytest.mark.parametrize("epochs", [1, 50])
def test_no_number_is_cut_off_however_long(epochs, size):
    rng = np.random.default_rng(1)
    names = ["train/loss", "valid/loss", "train/perplexity", "valid/perplexity"]
    names += [starts + "normal" if starts[-1] == "/" else starts for starts, _ in plotting.PANELS.values()]
    history = [{"epoch": n + 1, **{name: 1.6 + size * rng.random() for name in names}} for n in range(epochs)]
    curves, diagnostics = plotting.draw_curves(history), plotting.draw_diagnostics(history, 8)
    assert not faults(curves) and not faults(diagnostics)
    assert len(diagnostics.axes) == len(plotting.PANELS)


def test_epochs_and_counts_are_whole_numbers_where_there_is_one():
    line = {"epoch": 2, "train/loss": 1.0, "train/accuracy": 0.5, "skips/normal": 0, "changes/normal": 3}
    curves, diagnostics = plotting.draw_curves([line]), plotting.draw_diagnostics([line], 8)
    for axes in [*curves.axes, *diagnostics.axes]:
        low, high = axes.get_xlim()
        assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [2.0]
    for axes, value in zip(diagnostics.axes, (0, 3), strict=True):
        low, high = axes.get_ylim()
        assert [tick for tick in axes.get_yticks() if low <= tick <= high] == [value]


def pictures_of_search(space: SearchSpace) -> dict[str, Figure]:
    """The pictures of a search of a space, of 30 epochs; alpha thrice, of small and large numbers."""
    kind, edges = space.cell_types[0], space.edges()
    history = random_mixtures(space, 30)[1]
    kept = []
    for place, (source, node) in enumerate(edges):
        kept.append([node, space.candidates[place % len(space.candidates)], source])
    changes = [{"epoch": n + 1, "cells": {kind: kept}} for n in range(30)]
    drawn = {"mixtures": draw_mixtures(history, kind, space), "changes": draw_changes(changes, kind, space)}
    for size in (1e-5, 1.0, 1234.0):
        matrix = size * np.random.default_rng(2).normal(size=(len(edges), len(space.candidates)))
        drawn[f"alpha {size}"] = plotting.draw_alpha(matrix.tolist(), kind, space)
    return drawn


@pytest.mark.parametrize("name", SPACES)
def test_no_name_of_an_edge_or_operation_is_cut_off(name):
    for drawn, figure in pictures_of_search(composed("search", f"space={name}").space).items():
        assert not faults(figure), drawn
        assert figure.get_figwidth() < 13  # inches: what a screen shows side by side with nothing


@pytest.mark.parametrize("nodes", [1, 2, 4])
@pytest.mark.parametrize("count", [1, 5, 8, 9, 16])
@pytest.mark.parametrize("length", [3, 30, 60])
def test_names_of_plug_ins_may_be_long_and_many(length, count, nodes):
    names = [
        f"{number:02}_{'blur_of_five_by_five_pixels_then_batch_norm_and_once_more_m' * 2}"[:length]
        for number in range(count)
    ]
    for drawn, figure in pictures_of_search(space_of("own", nodes, min(2, nodes), names)).items():
        assert not faults(figure), drawn


def test_a_strip_of_nothing_kept_is_empty():
    space = composed("search").space
    figure = draw_changes([{"epoch": 1, "cells": {"normal": []}}], "normal", space)
    assert not faults(figure) and not figure.axes[0].collections


@pytest.mark.parametrize("name", SPACES)
def test_a_legend_names_the_colours_and_the_title_the_cell(name):
    space = composed("search", f"space={name}").space
    drawn = pictures_of_search(space)
    for figure in (drawn["mixtures"], drawn["changes"]):
        (legend,) = figure.legends
        named = {text.get_text() for text in legend.get_texts()}
        assert named == set(space.candidates[: len(space.edges())])
        for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True):
            shown = handle.get_color() if hasattr(handle, "get_color") else handle.get_facecolor()
            assert to_hex(shown) == to_hex(plotting.colour(text.get_text()))
    titles = drawn["mixtures"]._suptitle.get_text(), drawn["changes"].axes[0].get_title()
    assert titles == tuple(f"{what}, {called(space.cell_types[0])}" for what in ("mixture weights", "kept operations"))
    labels = drawn["mixtures"]._supxlabel.get_text(), drawn["mixtures"]._supylabel.get_text()
    assert labels == ("epoch", "weight")


def test_a_picture_is_drawn_once_for_each_form(tmp_path, monkeypatch):
    """What `tight_layout` has laid out matplotlib would else draw once more before each form."""
    figure = plotting.new_figure(2, 2)
    figure.subplots()
    figure.tight_layout()
    drawings = []
    monkeypatch.setattr(figure, "draw", lambda renderer: (drawings.append(1), type(figure).draw(figure, renderer)))
    plotting.save_figure(figure, tmp_path / "picture")
    assert len(drawings) == 2 and sorted(file.suffix for file in tmp_path.iterdir()) == [".png", ".svg"]


def test_pixels_are_those_of_the_file(tmp_path):
    """A picture for TensorBoard has the pixels that matplotlib writes at the picture's own resolution."""
    from PIL import Image

    figure = plotting.draw_curves([{"epoch": 1, "train/loss": 1.0, "train/accuracy": 0.5}])
    pixels = plotting.pixels_of(figure)
    figure.savefig(tmp_path / "picture.png", dpi=figure.dpi)
    with Image.open(tmp_path / "picture.png") as file:
        np.testing.assert_array_equal(pixels, np.asarray(file.convert("RGB")))
