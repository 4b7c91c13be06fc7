"""How far work has come: a bar on a terminal, lines of the log elsewhere."""

import logging
import time
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)

# Between two lines of the log.
SECONDS_PER_LINE = 60.0


class ProgressReport:
    """Draws a rich bar with the time left; where no terminal is, it logs a line a minute and one at the end.

    Args:
        description: what is being done, e.g. "images".
        unit: word before the count in the log, e.g. "step "; may be empty.
    """

    def __init__(self, description: str, unit: str = "") -> None:
        self._description, self._unit = description, unit
        self._bar: Progress | None = None
        self._began: tuple[float, int] | None = None
        self._logged = 0.0
        self._line: tuple[int, int, str] | None = None

    def update(self, done: int, total: int, figures: str = "") -> None:
        """Show that `done` of `total` are done; the first call sets what the time left is measured from.

        Args:
            done: how many are done, at least 0.
            total: how many there are, at least 1.
            figures: what else to show, e.g. "loss 0.0123".
        """
        if self._began is None:
            self._start(done, total)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, total=total, figures=figures)
        self._line = (done, total, figures)
        if self._bar is None and time.monotonic() - self._logged >= SECONDS_PER_LINE and done < total:
            self._log()
        if done >= total:
            self.stop()

    def stop(self) -> None:
        """Leave the terminal to the next bar, for only one can be live at a time; or log the last line."""
        if self._began is None:
            return
        if self._bar is not None:
            self._bar.stop()
        else:
            self._log()
        self._began = self._bar = None

    def _start(self, done: int, total: int) -> None:
        self._began = (time.monotonic(), done)
        self._logged = time.monotonic()
        if (console := Console()).is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, TextColumn("{task.fields[figures]}"), console=console)
            self._bar.start()
            self._bar.add_task(self._description, total=total, completed=done, figures="")

    def _log(self) -> None:
        assert self._line is not None
        assert self._began is not None
        done, total, figures = self._line
        began, first = self._began
        self._logged = time.monotonic()
        parts = [f"{self._unit}{done} of {total} ({100 * done // max(total, 1)} %)", *([figures] if figures else [])]
        if done > first or done >= total:
            seconds = (self._logged - began) * (total - done) / max(done - first, 1)
            parts.append(f"{timedelta(seconds=round(seconds))} left")
        logger.info("%s: %s.", self._description, ", ".join(parts))
