"""What a sweep says when all its runs have ended: Hydra's callback of train_search.py and train_final.py."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class SweepTable(Callback):
    """Print a table of a sweep's runs, and the command that chooses among its searches."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Called once, in the process that was started, whatever launcher ran the jobs."""
        from darts.loop.listing import sweep_lines

        HydraConfig.instance().set_config(config)
        folder = Path(config.hydra.sweep.dir).resolve()
        width = shutil.get_terminal_size((120, 24)).columns
        print("\n".join(sweep_lines(folder, width)), flush=True)
