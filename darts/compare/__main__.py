"""Compare searches with random sampling: python -m darts.compare [methods=[darts,evolution]] [random.samples=8] ..."""

import logging
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from darts import commands, config, errors

config.register()


@hydra.main(version_base="1.3", config_path=config.CONF, config_name="compare")
@errors.door
def main(settings: DictConfig) -> float:
    """Run all trials that the folder lacks, report; returns the least corrected p-value."""
    typed = config.typed(settings, commands.CompareSettings)
    from darts.compare import page, plan, report, trials
    from darts.execution import choose_device
    from darts.record import environment

    folder = Path(HydraConfig.get().runtime.output_dir).resolve()
    trials.check(typed)
    failed = trials.run_all(typed, folder)
    outcomes = trials.outcomes(typed, folder)
    found = report.make_report(outcomes, config.identity(typed), trials.search_costs(typed, folder), failed)
    cells = plan.found_cells(typed, folder)
    text = page.write_report(
        found, folder, environment(choose_device(typed.device)), cells, trials.histories(typed, folder)
    )
    logging.getLogger("darts").info("\n%s\nreport: %s, %s", text, folder / "report.html", folder / "report.md")
    return min(verdict.corrected for verdict in found.verdicts)


if __name__ == "__main__":
    main()
