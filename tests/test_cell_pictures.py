"""Pictures of cells by structure: what is drawn, how it is named, and what the text of an SVG says."""

from __future__ import annotations

import json
import math

import pytest

from darts.loop import plotting
from darts.loop.cell_graphs import draw_changes, draw_graph, draw_side_by_side, graph_places
from darts.spaces.published import published
from darts.spaces.search_space import SearchSpace
from tests.conftest import composed, run_command

pytestmark = pytest.mark.pictures
NAMES = ["darts_v1", "darts_v2", "pc_darts", "nasnet", "amoebanet"]


def texts_of(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_has_every_edge_and_node_once(name):
    for kind, cell in published(name).cells.items():
        figure = draw_graph(cell, f"{kind} cell")
        operations = sorted(edge.operation for edges in cell.nodes for edge in edges)
        shown = texts_of(figure)
        assert sorted(text for text in shown if "_" in text) == operations
        assert len([text for text in shown if "_" not in text]) == cell.inputs + len(cell.nodes) + 1
        assert len(figure.axes[0].patches) == len(operations) + len(cell.concat)


@pytest.mark.parametrize("name", NAMES)
def test_nodes_lie_apart_and_right_of_what_they_read(name):
    for cell in published(name).cells.values():
        places = graph_places(cell)
        assert len(set(places)) == len(places) == cell.inputs + len(cell.nodes) + 1
        for node, edges in enumerate(cell.nodes):
            assert all(places[edge.source][0] < places[cell.inputs + node][0] for edge in edges)
        assert places[-1][0] > max(x for x, _ in places[:-1])


def test_two_genotypes_stand_side_by_side():
    first, second = published("darts_v1"), published("darts_v2")
    figure = draw_side_by_side(first, second, ("one", "two"))
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["one, normal cell", "two, normal cell", "one, reduction cell", "two, reduction cell"]
    for axes, (genotype, kind) in zip(
        figure.axes, [(first, "normal"), (second, "normal"), (first, "reduction"), (second, "reduction")], strict=True
    ):
        wanted = [edge.operation for edges in genotype.cells[kind].nodes for edge in edges]
        shown = [text.get_text() for text in axes.texts]
        assert [text for text in shown if "_" in text or "cell" in text] == wanted


def history(space: SearchSpace):
    """Two epochs; in the second one edge carries another operation and another edge is kept."""
    kept = [[[0, "sep_conv_3x3", 0], [0, "skip_connect", 1]], [[0, "max_pool_3x3", 0], [1, "skip_connect", 2]]]
    return [{"epoch": number, "cells": {"normal": edges}} for number, edges in enumerate(kept, 1)]


def test_the_strip_shows_what_was_kept_when():
    space = composed("search").space
    edges = space.edges()
    lines = [{**line, "cells": {"normal": [[node + 2, op, source] for node, op, source in line["cells"]["normal"]]}}
             for line in history(space)]  # fmt: skip
    figure = draw_changes(lines, "normal", space)
    boxes = [path.get_extents() for collection in figure.axes[0].collections for path in collection.get_paths()]
    found = sorted((round(box.x0 + 0.5), edges[round(box.y0 + 0.5)]) for box in boxes)
    assert found == [(1, (0, 2)), (1, (1, 2)), (2, (0, 2)), (2, (2, 3))]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["max_pool_3x3", "sep_conv_3x3", "skip_connect"]


def test_axes_have_names_counts_whole_numbers_and_entropy_its_maximum():
    lines = [{"epoch": n, "entropy/normal": 1.0 + n / 10, "skips/normal": n, "changes/normal": n} for n in (1, 2, 3)]
    figure = plotting.draw_diagnostics(lines, 8)
    named = {axes.get_title(): axes for axes in figure.axes}
    assert all(axes.get_xlabel() == "epoch" and axes.get_ylabel() for axes in figure.axes)
    lines_of_entropy = named["entropy of the mixtures"].lines
    assert (
        lines_of_entropy[-1].get_ydata()[0] == pytest.approx(math.log(8))
        and lines_of_entropy[-1].get_label() == "maximum"
    )
    figure.canvas.draw()
    for title in ("skip connections", "edges changed"):
        assert all(float(tick).is_integer() for tick in named[title].get_yticks())


def test_describe_draws_graphs_and_compares_two_cells(tmp_path):
    given = [
        "genotype=darts_v2",
        "against=darts_v1",
        "style=GRAPH",
        "device=cpu",
        "network.channels=4",
        "network.cells=3",
    ]
    done = run_command(["-m", "darts.describe", *given, "hydra.run.dir=out"], tmp_path)
    assert done.returncode == 0, done.stderr
    files = {file.name for file in (tmp_path / "out").glob("*.*")}
    assert files >= {"normal_graph.svg", "reduction_graph.png", "side_by_side.svg", "side_by_side.png"}
    assert ">sep_conv_3x3</text>" in (tmp_path / "out" / "normal_graph.svg").read_text()
    assert "normal    cell: 5 edges in common, only in the first: sep_conv_3x3 0 to 1, " in done.stdout
    shown = json.loads(run_command(["-m", "darts.describe", *given, "json=true"], tmp_path).stdout)
    assert shown["against"]["genotype"] == published("darts_v1").digest() != shown["genotype"]
