"""Compare searches with random sampling: python -m darts.compare [methods=[darts,evolution]] [random.samples=8] ..."""

import logging
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from darts.compare.settings import CompareSettings
from darts.config.command import cli_command
from darts.config.compose import typed_settings
from darts.config.identity import identity


@cli_command("compare")
def main(settings: DictConfig) -> float:
    """Run all trials that the folder lacks, report; returns the least corrected p-value."""
    typed = typed_settings(settings, CompareSettings)
    from darts.compare import page, plan, report, trials
    from darts.loop.record import environment
    from darts.runtime.device import choose_device

    folder = Path(HydraConfig.get().runtime.output_dir).resolve()
    trials.check(typed)
    failed = trials.run_all(typed, folder)
    outcomes = trials.outcomes(typed, folder)
    found = report.make_report(outcomes, identity(typed), trials.search_costs(typed, folder), failed)
    cells = plan.found_cells(typed, folder)
    text = page.write_report(
        found, folder, environment(choose_device(typed.device)), cells, trials.histories(typed, folder)
    )
    logging.getLogger("darts").info("\n%s\nreport: %s, %s", text, folder / "report.html", folder / "report.md")
    return min(verdict.corrected for verdict in found.verdicts)


if __name__ == "__main__":
    main()
