"""One of the processes that `python -m darts.benchmark scaling` starts: times the step that they take together."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from darts import config, errors, parallel

config.register()


@hydra.main(version_base="1.3", config_path=config.CONF, config_name="benchmark")
@errors.door
def main(settings: DictConfig) -> None:
    """Print one line of JSON: milliseconds of each repetition, messages and bytes a step."""
    typed = config.typed(settings, config.BenchmarkSettings)
    from darts.benchmark.cases import random_search_data, search_action
    from darts.execution import ready_device
    from darts.search_state import new_state

    with parallel.joined(typed.parallel, typed.device, typed.graphs):
        device = ready_device(typed.device, typed.precision, typed.graphs, typed.deterministic)
        data = random_search_data(typed, device)
        action = search_action(new_state(typed, data, device, Path(HydraConfig.get().runtime.output_dir)))
        action()
        parallel.traffic.clear()
        action()
        sent = dict(parallel.traffic)
        times = []
        speaks = parallel.leading()
        for _ in range(typed.repetitions):
            parallel.barrier()
            start = time.perf_counter()
            action()
            parallel.barrier()
            times.append(1000 * (time.perf_counter() - start))
    if speaks:
        taken = {"median_ms": statistics.median(times), "least_ms": min(times), "most_ms": max(times)}
        print(json.dumps({"batch": typed.search.batch_size, **taken, **sent}))


if __name__ == "__main__":
    parallel.command(main)
