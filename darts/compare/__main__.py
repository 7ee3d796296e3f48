"""Compare searches with random ones: python -m darts.compare [methods=[darts,pc_darts]] [plan=true] ..."""

import logging
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from darts.compare.settings import CompareSettings
from darts.config.command import cli_command
from darts.config.compose import typed_settings
from darts.runtime.files import lock_folder
from darts.runtime.garbage import import_torch
from darts.runtime.signals import deferred_signals

log = logging.getLogger("darts")


@cli_command("compare")
def main(settings: DictConfig) -> float:
    """Say what can be shown, run all trials that the folder lacks, report; returns the least corrected p-value."""
    typed = typed_settings(settings, CompareSettings)
    import_torch()
    from darts.compare import power, run

    if typed.tasks or typed.protocols:
        return compared_several_times(typed)
    planned = run.foretold(typed)
    for line in power.forecast_lines(typed, planned):
        log.info("%s", line)
    if typed.plan:
        return 1.0
    power.refuse_powerless(typed, planned)
    folder = Path(HydraConfig.get().runtime.output_dir).resolve()
    with lock_folder(folder), deferred_signals():
        found, text = run.run(typed, folder, planned)
    log.info("\n%s\nreport: %s, %s", text, folder / "report.html", folder / "report.md")
    return min(claim.p for claim in found.claims)


def compared_several_times(typed: CompareSettings) -> float:
    """The same over several tasks, or under several protocols; returns the least corrected p-value of all."""
    from darts.compare import protocols, several

    name, rule = ("tasks", several) if typed.tasks else ("protocols", protocols)
    folder = Path(HydraConfig.get().runtime.output_dir).resolve()
    planned = rule.foretold(typed, folder)
    if typed.plan:
        return 1.0
    with lock_folder(folder), deferred_signals():
        p, text = rule.run_all(typed, folder, planned)
    log.info("\n%s\nsummary: %s, %s", text, folder / f"{name}.md", folder / f"{name}.json")
    return p


if __name__ == "__main__":
    main()
