"""Compare searched cells with random ones: python -m darts.compare [searched=[latest]] [random.samples=8] ..."""

import logging
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from darts import config, errors

config.register()


@hydra.main(version_base="1.3", config_path=config.CONF, config_name="compare")
@errors.door
def main(settings: DictConfig) -> float:
    """Train all trials that the folder lacks, report; returns the p-value."""
    typed = config.typed(settings, config.CompareSettings)
    from darts.compare import protocol, report

    folder = Path(HydraConfig.get().runtime.output_dir)
    outcomes = protocol.run_trials(typed, folder)
    found = report.make_report(outcomes, config.identity(typed))
    logging.getLogger("darts").info("\n%s\nreport: %s", report.write_report(found, folder), folder / "report.md")
    return found.test.p


if __name__ == "__main__":
    main()
