"""NAS-Bench-201: strings, structures, the skeleton's counts, and the facts that its table must show."""

from __future__ import annotations

import gzip
import math
import os
import random
import time

import pytest
import torch

from darts.models.cost import count_parameters
from darts.models.network import build_network
from darts.runtime.errors import UserError
from darts.search import loop as search
from darts.spaces import nasbench201
from darts.spaces.genotype import from_json, to_json
from darts.spaces.membership import check_membership
from darts.spaces.search_space import InputShape
from darts.spaces.table import read_table
from tests.conftest import ROOT, TINY, composed

DATA = ROOT.parent / "shared" / "data" / "nasbench201" / "cifar10.csv.gz"
BEST = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|"


@pytest.fixture(scope="module")
def table():
    if not DATA.exists():
        pytest.skip(f"the table is not at hand ({DATA})")
    return read_table(DATA)


def test_all_strings_round_trip_and_are_all_genotypes_of_the_space():
    space = composed("search", "space=nasbench201").space
    strings = list(nasbench201.all_strings())
    assert len(set(strings)) == space.count() == 15625
    for text in strings:
        genotype = nasbench201.from_string(text)
        assert nasbench201.to_string(genotype) == text
    check_membership(genotype, space, "the last")
    assert from_json(to_json(genotype)) == genotype
    drawn = {nasbench201.to_string(space.sample(random.Random(seed))) for seed in range(50)}
    assert len(drawn) > 45 and drawn <= set(strings)


def test_cells_have_one_structure_exactly_if_they_compute_the_same_function():
    draws = random.Random(0)
    functions = {name: (draws.uniform(0.5, 2), draws.uniform(0.5, 2)) for name in nasbench201.CANDIDATES[2:]}
    values_by_structure: dict[str, set[str]] = {}
    for text in nasbench201.all_strings():
        genotype, states = nasbench201.from_string(text), [0.7]
        for edges in genotype.cells["normal"].nodes:
            inputs = [(name, states[source]) for name, source in edges if name != "none"]
            terms = [x if name == "skip_connect" or x == 0 else _applied(functions[name], x) for name, x in inputs]
            states.append(math.fsum(terms))
        values_by_structure.setdefault(nasbench201.structure(genotype), set()).add(f"{states[-1]:.9f}")
    assert all(len(values) == 1 for values in values_by_structure.values())
    assert len(set.union(*values_by_structure.values())) == len(values_by_structure)


def _applied(function: tuple[float, float], x: float) -> float:
    return function[0] * math.sin(function[1] * x) + 0.1 * x * x


@pytest.mark.parametrize("text", ["", "|skip~0|", BEST[:-1], BEST + "+|none~0|", BEST.replace("~1", "~2"), "x" * 10**5])
def test_other_strings_are_refused(text):
    with pytest.raises(UserError):
        nasbench201.from_string(text)


def test_the_table_shows_its_facts(table):
    column = table.columns["cifar10_test_200"]
    assert column.max() == pytest.approx(94.373, abs=5e-4) and column.mean() == pytest.approx(87.063, abs=5e-4)
    best = nasbench201.from_string(BEST)
    assert table.accuracy(best, "cifar10_test_200") == pytest.approx(94.373, abs=5e-4)
    assert table.rank(best, "cifar10_test_200") == 1
    assert column[table.columns["cifar10_valid_12"].argmax()] == column.max()
    skips = "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|"
    assert table.accuracy(nasbench201.from_string(skips), "cifar10_test_200") == pytest.approx(54.297, abs=5e-4)
    from scipy.stats import spearmanr

    correlation = spearmanr(table.columns["cifar10_valid_12"], column).statistic
    assert correlation == pytest.approx(0.772, abs=5e-4)


def test_loading_and_looking_up_is_fast(table):
    loaded = min(_seconds(lambda: read_table(DATA)) for _ in range(5))
    genotype = nasbench201.from_string(BEST)
    looked_up = min(
        _seconds(lambda: [table.accuracy(genotype, "cifar10_test_200") for _ in range(1000)]) for _ in range(5)
    )
    assert loaded < 3 and looked_up < 0.1  # 0.1 and 0.01 on two cores; seconds if every look-up read all rows


def _seconds(action) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def test_a_cell_or_a_column_that_the_table_lacks_is_refused(tmp_path):
    file = tmp_path / "small.csv.gz"
    file.write_bytes(gzip.compress(f"index,arch,accuracy\n0,{BEST},94.0\n".encode()))
    small = read_table(file)
    assert small.accuracy(nasbench201.from_string(BEST), "accuracy") == 94.0
    with pytest.raises(UserError, match="no entry for"):
        small.accuracy(nasbench201.from_string(BEST.replace("skip_connect", "none")), "accuracy")
    with pytest.raises(UserError, match="no column 'speed'; there are: accuracy"):
        small.accuracy(nasbench201.from_string(BEST), "speed")
    for text in (b"", b"a,b\n1,2\n", b"arch,x\nfoo,bar\n"):
        file.write_bytes(gzip.compress(text))
        with pytest.raises(UserError, match="not a table"):
            read_table(file)


def test_the_skeletons_parameters_are_those_counted_by_hand():
    all_3x3 = nasbench201.from_string(
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"
    )
    network = build_network(all_3x3, 17, 16, 0, InputShape(3, 32, 10))
    network.auxiliary = None
    cells = sum(5 * 6 * (9 * c * c + 2 * c) for c in (16, 32, 64))
    # two convolutions with batch norm, and the shortcut's, from c to 2 c channels
    blocks = sum((9 * c * 2 * c + 4 * c) + (9 * 4 * c * c + 4 * c) + 2 * c * c for c in (16, 32))
    stem, tail = 27 * 16 + 2 * 16, 2 * 64 + 64 * 10 + 10
    assert count_parameters(network) == cells + blocks + stem + tail
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_a_search_logs_the_truth_and_never_looks_at_it(table, tmp_path):
    overrides = [*TINY, "search.epochs=2", "search.batch_size=16", "space=nasbench201"]
    with_table = search.run(composed("search", *overrides, f"benchmark.table={DATA}"), tmp_path / "a")
    without = search.run(composed("search", *overrides), tmp_path / "b")
    assert with_table == without
    assert with_table.provenance["table_accuracy"] == table.accuracy(with_table, "cifar10_test_200")
    assert '"table/rank"' in (tmp_path / "a" / "history.jsonl").read_text()


def test_a_table_of_another_space_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"benchmark\.table is 'x\.csv'; it must be null with space=darts: nasb"):
        search.run(composed("search", *TINY, "benchmark.table=x.csv", "search.batch_size=16"), tmp_path)


@pytest.mark.parametrize("name", ["NAS-Bench-201-v1_1.pth", "NATS-tss-v1_0-simple"])
def test_official_files_are_opened_only_if_trusted(name, tmp_path):
    """They are pickles; where the packages that read them are missing, trust leads to their names."""
    place = tmp_path / name
    if name.endswith(".pth"):
        place.write_bytes(b"pickle")
    else:
        place.mkdir()
    with pytest.raises(UserError, match=r"benchmark\.trust_pickle is False; it must be true to open .* pickles"):
        read_table(place)
    with pytest.raises(UserError, match=r"needs the package '(nats_bench|nas_201_api)'"):
        read_table(place, trust_pickle=True)


def test_a_table_that_changes_is_read_again(tmp_path):
    """A process reads a file once; another content is another table, whatever its length."""
    file, text = tmp_path / "table.csv", next(nasbench201.all_strings())
    for second, value in enumerate(("10.5", "20.5", "10.5")):
        file.write_text(f"arch,accuracy\n{text},{value}\n")
        os.utime(file, (second, second))  # clocks of file systems are coarse
        assert read_table(file).values("accuracy").tolist() == [float(value)]
        assert read_table(file) is read_table(file)
