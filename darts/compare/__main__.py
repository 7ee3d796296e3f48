"""Compare searches with random sampling: python -m darts.compare [methods=[darts,evolution]] [random.samples=8] ..."""

import logging
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from darts.compare.settings import CompareSettings
from darts.config.command import cli_command
from darts.config.compose import typed_settings
from darts.config.identity import identity
from darts.runtime.files import lock_folder
from darts.runtime.signals import deferred_signals

KIND = "comparison"  # what run.json calls it


@cli_command("compare")
def main(settings: DictConfig) -> float:
    """Run all trials that the folder lacks, report; returns the least corrected p-value."""
    typed = typed_settings(settings, CompareSettings)
    from darts.compare import page, plan, report, trials
    from darts.loop.record import (
        claim_folder,
        data_record,
        environment,
        experiment,
        record_end,
        refuse_other_run,
        warn_of_other_data,
    )
    from darts.runtime.device import choose_device
    from darts.tasks.datasets import open_training

    folder = Path(HydraConfig.get().runtime.output_dir).resolve()
    device = choose_device(typed.device)
    with lock_folder(folder), deferred_signals():
        refuse_other_run(folder, KIND, {})  # comparisons of any settings share a folder, and with it their trials
        trials.check(typed, folder)
        claim_folder(folder, KIND, {}, device)
        plan.fix_given_cells(typed, folder)
        for name, genotype in plan.given_cells(typed, folder):
            warn_of_other_data(name, genotype, typed)
        failed = trials.run_all(typed, folder)
        outcomes = trials.outcomes(typed, folder)
        data = data_record(typed.dataset, open_training(typed.dataset), experiment(typed, tested=True))
        found = report.make_report(outcomes, identity(typed), trials.search_costs(typed, folder), failed, data)
        cells = plan.found_cells(typed, folder)
        text = page.write_report(found, folder, environment(device), cells, trials.histories(typed, folder))
        if not failed:  # the comparison has ended: the next one begins with the cells that are named then
            plan.given_cells_file(typed, folder).unlink(missing_ok=True)
            record_end(folder)
    logging.getLogger("darts").info("\n%s\nreport: %s, %s", text, folder / "report.html", folder / "report.md")
    return min(verdict.corrected for verdict in found.verdicts)


if __name__ == "__main__":
    main()
