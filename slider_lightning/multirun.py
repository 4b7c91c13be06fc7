"""The folder of a Hydra sweep: which points it has, where their runs lie, and which of them failed."""

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from slider_lightning.assets import atomic_path, locked
from slider_lightning.config import register_resolvers
from slider_lightning.entry import end
from slider_lightning.errors import InputError
from slider_lightning.grid import axes_of, grid_folder, grid_points
from slider_lightning.runs import is_first_process
from slider_lightning.training.run_folder import read_json_lines

logger = logging.getLogger(__name__)

POINTS_FILE = "points.jsonl"
CONFIG_FILE = "multirun.yaml"
UNFINISHED, FINISHED, FAILED = "unfinished", "finished", "failed"
# The one sweeper that ends at the first failure that it hears of.
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
NAMED_FAILURES = 3


@dataclass(frozen=True)
class SweepPoint:
    """One point of a sweep.

    Args:
        overrides: key of the command line to its value as text.
        run: its run folder, or that of the grid which it trains; empty where its config could not say.
        status: "unfinished", "finished" or "failed".
        error: why it failed.
    """

    overrides: dict[str, str]
    run: str
    status: str
    error: str = ""


# The process of a job unpickles the callback below before it resolves the config of its point.
register_resolvers()


class SweepPoints(Callback):
    """Lists the points of a sweep in its folder, and lets a point that fails fail alone.

    When all points have ended, failures end the command with one sentence and status 2.
    """

    def __init__(self) -> None:
        self.sweeping = False
        self.folder: Path | None = None  # in the first process of a sweep
        self.listed_before = 0
        self.run = ""  # of the point that this process works on

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Makes the folder, with the config that the points share."""
        self.sweeping = True
        if not is_first_process():
            return
        self.folder = Path(config.hydra.sweep.dir).absolute()
        self.listed_before = len(_lines(self.folder)) if (self.folder / POINTS_FILE).exists() else 0
        with atomic_path(self.folder / CONFIG_FILE) as temporary:
            temporary.write_text(OmegaConf.to_yaml(config))

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Lists the point, so that one whose process is killed is not forgotten."""
        if self.folder is not None and is_first_process():
            self.run = run_of(config)
            add_point(self.folder, SweepPoint(overrides_of(config), self.run, UNFINISHED))

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Says how the point ended; a failure is kept from Hydra's own sweeper, which would forget later points."""
        failed, error = job_return.status is JobStatus.FAILED, job_return._return_value
        if self.folder is not None and is_first_process():
            point = SweepPoint(overrides_of(config), self.run, *((FAILED, reason(error)) if failed else (FINISHED,)))
            add_point(self.folder, point)
            if failed:
                bug = None if isinstance(error, InputError) else error
                logger.error("Failed: %s: %s", point_text(point.overrides), point.error, exc_info=bug)
        # In every process of a job, so that they go on to the next point together.
        if failed and self.sweeping and config.hydra.sweeper._target_ == BASIC_SWEEPER:
            job_return.status = JobStatus.COMPLETED
            job_return.return_value = None

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Says where the list lies, and names what failed."""
        if self.folder is None or not (self.folder / POINTS_FILE).exists():
            return
        points = latest(_lines(self.folder)[self.listed_before :])
        if sentence := failure_sentence(points, config.hydra.sweep.dir):
            end(sentence)
        logger.info("All %d points of the sweep: %s", len(points), config.hydra.sweep.dir)


def add_point(folder: Path, point: SweepPoint) -> None:
    """Adds what is known of a point to the list; the last line of a point counts.

    Raises:
        InputError: if the disk refuses.
    """
    with locked(folder, "list of points"), (folder / POINTS_FILE).open("a") as file:
        file.write(json.dumps(asdict(point)) + "\n")


def read_points(folder: Path) -> tuple[SweepPoint, ...]:
    """The points of a sweep, in the order in which they began.

    Raises:
        InputError: if there is no list, or it is damaged.
    """
    return latest(_lines(folder))


def latest(points: Sequence[SweepPoint]) -> tuple[SweepPoint, ...]:
    """The last line of every point."""
    return tuple({tuple(point.overrides.items()): point for point in points}.values())


def _lines(folder: Path) -> list[SweepPoint]:
    path = folder / POINTS_FILE
    try:
        return [SweepPoint(**line) for line in read_json_lines(path)]
    except TypeError as error:
        raise InputError(f"Expected {path} to list the points of a sweep, but a line does not; delete it.") from error


def overrides_of(config: DictConfig) -> dict[str, str]:
    """The overrides of a point, e.g. {"experiment": "age", "adapter.rank": "4"}."""
    parts = (str(override).partition("=") for override in config.hydra.overrides.task)
    return {key: value for key, _, value in parts}


def run_of(config: DictConfig) -> str:
    """The run folder of a point, or that of the grid which it trains; empty where its config cannot say."""
    with suppress(OmegaConfBaseException, HydraException, InputError):
        if axes := axes_of({"grid": OmegaConf.to_container(config.grid, resolve=True)}):
            points = grid_points(axes, config.hydra.overrides.task)
            return str(grid_folder(points, Path(config.paths.outputs)).path)
        return str(config.run)
    return ""


def reason(error: BaseException) -> str:
    """An error as one line; its kind beside it where it was not expected."""
    text = " ".join(str(error).split())
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"


def point_text(overrides: Mapping[str, str]) -> str:
    """Overrides as on a command line."""
    return " ".join(f"{key}={value}" for key, value in overrides.items())


def varying(points: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The keys in which points differ, in order."""
    keys = dict.fromkeys(key for point in points for key in point)
    return tuple(key for key in keys if len({str(point.get(key)) for point in points}) > 1)


def failure_sentence(points: Sequence[SweepPoint], folder: str) -> str:
    """What to tell of the points that did not finish; empty if all did."""
    lost = [point for point in points if point.status != FINISHED]
    if not lost:
        return ""
    axes = varying([point.overrides for point in points])
    named = [
        f"{point_text({key: point.overrides.get(key, '') for key in axes or point.overrides})} "
        f"({point.error or 'its process was killed'})"
        for point in lost[:NAMED_FAILURES]
    ]
    more = [f"{len(lost) - NAMED_FAILURES} more"] if len(lost) > NAMED_FAILURES else []
    return (
        f"Expected all {len(points)} points of the sweep to finish, but {len(lost)} did not: "
        f"{'; '.join([*named, *more])}; the others are kept and listed in {folder}, mend these and start it again."
    )
