"""One of the processes that `python -m darts.benchmark scaling` starts: times the step that they take together."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from darts.benchmark.settings import BenchmarkSettings
from darts.config.command import cli_command
from darts.config.compose import typed_settings
from darts.runtime import distributed
from darts.runtime.garbage import import_torch


@cli_command("benchmark")
def main(settings: DictConfig) -> None:
    """Print one line of JSON: milliseconds of each repetition, messages and bytes a step."""
    typed = typed_settings(settings, BenchmarkSettings)
    import_torch()
    from darts.benchmark.cases import random_search_data, search_action
    from darts.runtime.device import ready_device
    from darts.search.state import new_state

    with distributed.process_group(typed.parallel, typed.device, typed.graphs):
        device = ready_device(typed.device, typed.precision, typed.graphs, typed.deterministic)
        data = random_search_data(typed, device)
        action = search_action(new_state(typed, data, device, Path(HydraConfig.get().runtime.output_dir)))
        action()
        distributed.traffic.clear()
        action()
        sent = dict(distributed.traffic)
        times = []
        speaks = distributed.is_main_process()
        for _ in range(typed.repetitions):
            distributed.barrier()
            start = time.perf_counter()
            action()
            distributed.barrier()
            times.append(1000 * (time.perf_counter() - start))
    if speaks:
        taken = {"median_ms": statistics.median(times), "least_ms": min(times), "most_ms": max(times)}
        print(json.dumps({"batch": typed.search.batch_size, **taken, **sent}))


if __name__ == "__main__":
    distributed.run_entry_point(main)
