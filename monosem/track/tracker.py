"""Where metrics go while a run trains: W&B, or nowhere. One writer per run, never in the way of it."""

import os
import sys
from typing import Protocol

from monosem.config.job import TrackConfig

INIT_TIMEOUT_S = 30
"""How long a W&B server may take to answer before a run goes on offline."""


class Tracker(Protocol):
    def log(self, metrics: dict[str, float], step: int) -> None: ...
    def table(self, name: str, columns: list[str], rows: list[list]) -> None: ...
    def finish(self, summary: dict[str, float], failed: bool = False) -> None: ...


class NoTracker:
    """The do-nothing twin."""

    def log(self, metrics: dict[str, float], step: int) -> None:
        pass

    def table(self, name: str, columns: list[str], rows: list[list]) -> None:
        pass

    def finish(self, summary: dict[str, float], failed: bool = False) -> None:
        pass


class WandbTracker:
    """One W&B run; the id is fixed by sweep and run, so that a resumed run goes on in its own plot."""

    def __init__(self, config: TrackConfig, mode: str, run_id: str, name: str, settings: dict, directory: str):
        import wandb  # heavy; only needed here

        os.makedirs(directory, exist_ok=True)
        self.run = wandb.init(
            project=config.project,
            group=config.group,
            name=name,
            id=run_id,
            resume="allow" if mode == "online" else None,
            mode=mode,
            dir=directory,
            config=settings,
            reinit="create_new",
            settings=wandb.Settings(
                console="off",
                x_disable_stats=True,
                silent=True,
                init_timeout=INIT_TIMEOUT_S,
                finish_timeout=30,
                disable_git=True,
                save_code=False,
                x_disable_meta=True,
            ),
        )

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.run.log(metrics, step=step)

    def table(self, name: str, columns: list[str], rows: list[list]) -> None:
        """A table in the run, and the same as an artifact of it."""
        import wandb

        table = wandb.Table(columns=columns, data=rows)
        artifact = wandb.Artifact(f"{name}-{self.run.id}", type=name)
        artifact.add(table, name)
        self.run.log({name: table})
        self.run.log_artifact(artifact)

    def finish(self, summary: dict[str, float], failed: bool = False) -> None:
        self.run.summary.update(summary)
        self.run.finish(exit_code=1 if failed else 0)


def wandb_mode(config: TrackConfig) -> str:
    """online, offline or disabled; "auto" follows the presence of WANDB_API_KEY."""
    if config.wandb != "auto":
        return config.wandb
    return "online" if os.environ.get("WANDB_API_KEY") else "offline"


def open_tracker(config: TrackConfig, run_id: str, name: str, settings: dict, directory: str) -> Tracker:
    """The run's tracker. W&B out of reach costs a run its live plot, not its training: that goes on, and says so."""
    mode = wandb_mode(config)
    if mode == "disabled":
        return NoTracker()
    try:
        return WandbTracker(config, mode, run_id, name, settings, directory)
    except Exception as error:  # wandb raises many kinds; none may end a run
        where = "offline" if mode == "online" else "without W&B"
        sys.stderr.write(f"run {name}: W&B {mode} failed ({type(error).__name__}: {error}); going on {where}\n")
        if mode == "online":
            return open_tracker(_offline(config), run_id, name, settings, directory)
        return NoTracker()


def _offline(config: TrackConfig) -> TrackConfig:
    return TrackConfig(wandb="offline", project=config.project, group=config.group)
