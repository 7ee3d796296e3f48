"""What a newcomer types: own pictures, and then each command as the one before has printed it, word for word."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from darts.config import invocation
from darts.config.invocation import as_started
from darts.export import ASK, resized_sides
from darts.spaces.search_space import InputShape, size_of
from darts.tasks.pictures import Decoder
from tests.conftest import PROGRAMS, ROOT
from tests.test_use import draw_pictures

HERE = Path(sys.executable).parent


def typed(line: str, folder: Path) -> str:
    """What a line typed into a shell prints; it must succeed, and nothing but the search path is set up for it."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PATH": PROGRAMS, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (line, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout


def after(word: str, told: str) -> str:
    """The command behind a word at the beginning of a line."""
    (line,) = [line for line in told.splitlines() if line.startswith(word)]
    return line.removeprefix(word).strip()


@pytest.mark.slow(60)
def test_the_printed_commands_lead_from_pictures_to_an_answer_of_onnx_runtime(tmp_path):
    """Five commands: search, retrain, predict, export, ONNX Runtime; only the first is not printed by another."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed (requirements-export.txt)")
    draw_pictures(tmp_path / "my pictures", training=30)
    small = "dataset.image_size=16 search.epochs=1 search.batch_size=16 device=cpu logger=none"
    search = f'python {ROOT}/train_search.py dataset=image_folder "dataset.root=my pictures" {small}'
    told = typed(search, tmp_path)
    told = typed(after("next:", told), tmp_path)
    told = typed(after("use it:", told), tmp_path)
    assert "accuracy " in told and " of 12 pictures" in told
    told = typed(after("next:", told), tmp_path)
    assert len(told.splitlines()) == 3, told  # of the exporter's own hundreds of lines nothing is left
    name, probability = typed(after("next:", told), tmp_path).split()
    first, *_ = (tmp_path / "runs" / "predict").glob("*/predictions.csv")
    header, row, *_ = (line.split(",") for line in first.read_text().splitlines())
    assert name == row[1] and float(probability) == pytest.approx(float(row[2]), abs=0.01)  # resized by Pillow alone
    assert set(header[3:]) == {"blue", "green", "red"}
    (result,) = (tmp_path / "runs" / "final").glob("*/result.json")
    assert json.loads(result.read_text())["test_accuracy"] >= 0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size, resize", [(24, None), (24, 40), ([20, 30], None)])
def test_the_printed_code_prepares_pictures_as_predictions_do(tmp_path, size, resize, channels):
    """Of noise larger than the network's pictures, turned by EXIF and partly transparent; within two of 255 levels."""
    numbers = np.random.default_rng(1)
    Image.fromarray(numbers.integers(0, 256, (91, 130, 4), dtype=np.uint8)).save(tmp_path / "clear.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(numbers.integers(0, 256, (140, 67, 3), dtype=np.uint8)).save(tmp_path / "turned.png", exif=exif)
    shape = InputShape(channels, size_of(size), 3)
    network = SimpleNamespace(shape=shape, described={"resize": resize}, features_of_sound=None)
    for name in ("clear.png", "turned.png"):
        height, width = shape.sides
        mode = '"RGB"' if channels == 3 else '"L"'
        places = {"file": '"x"', "picture": f'"{tmp_path / name}"', "mode": mode, "sides": resized_sides(network)}
        lines = ASK.format(height=height, width=width, **places).split("; ")
        wanted = [line for line in lines if "session" not in line and "onnxruntime" not in line]
        found = {}
        exec("import numpy\n" + "\n".join(wanted), found)  # noqa: S102  what the command prints
        expected = Decoder(shape.size, channels, resize)(str(tmp_path / name)).numpy()
        difference = np.abs(found["pixels"][0].astype(int) - expected.astype(int))
        assert difference.max() <= 2, name


SEARCH, PREDICT = "python train_search.py", "python -m darts.predict"


@pytest.mark.parametrize(
    "started, command, expected",
    [
        ("train_search.py", "python train_final.py", "python train_final.py"),
        ("../code/train_search.py", "python train_final.py", "python ../code/train_final.py"),
        ("my code/train_final.py", SEARCH, "python 'my code/train_search.py'"),
        (str(ROOT / "darts/search/__main__.py"), "python train_final.py", f"PYTHONPATH={ROOT} python -m darts.train"),
        ("train_final.py", PREDICT, f"PYTHONPATH={ROOT} python -m darts.predict"),
        (f"{HERE}/darts-search", "python train_final.py", f"{HERE}/darts-train"),
        ("/bin dir/darts-train", PREDICT, "'/bin dir/darts-predict'"),
        ("train_search.py", "python", "python"),
    ],
)
def test_the_next_command_is_typed_as_this_one_was(tmp_path, monkeypatch, started, command, expected):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", PROGRAMS)
    monkeypatch.setattr(sys, "argv", [started])
    monkeypatch.setattr(sys, "path", [str(tmp_path), "/usr/lib/python3"])
    assert as_started(command) == expected


@pytest.mark.parametrize("place", ["site-packages", "the checkout"])
def test_a_package_that_is_found_needs_no_path(tmp_path, monkeypatch, place):
    monkeypatch.setenv("PATH", PROGRAMS)
    monkeypatch.setattr(sys, "argv", ["darts/predict.py"])
    monkeypatch.setattr(sys, "path", [""])
    if place == "site-packages":
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("PYTHONPATH", raising=False)
        monkeypatch.setattr(sys, "path", ["", str(ROOT)])
        assert as_started("python train_final.py") == "python -m darts.train"
    else:
        monkeypatch.chdir(ROOT)
        assert as_started("python train_final.py") == "python train_final.py"
    assert as_started(PREDICT) == PREDICT


def test_an_interpreter_that_no_name_calls_is_called_by_its_path(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert as_started("python") == sys.executable
    (tmp_path / "python3").write_text("")
    (tmp_path / "python3").chmod(0o755)
    monkeypatch.setattr(invocation.sys, "executable", str(tmp_path / "python3.11"))
    assert as_started("python") == "python3"


def test_an_installed_command_on_the_path_is_called_by_its_name(monkeypatch, tmp_path):
    (tmp_path / "darts-train").write_text("")
    (tmp_path / "darts-train").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "darts-search")])
    assert as_started("python train_final.py") == "darts-train"
