"""metrics.jsonl: what Lightning logs, one JSON object per logged step."""

import json
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from slider_lightning.assets import atomic_path
from slider_lightning.training.run_folder import json_ready, read_json_lines


class JsonLinesLogger(Logger):
    """Lightning logger that appends {"step", "seconds", metric: value, ...} to a file.

    `seconds` counts from the making of the logger. A run that starts again, from a checkpoint or from the beginning,
    first drops the lines of the steps it is about to log again, so a step stands in the file once.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._started = time.monotonic()
        self._opened = False

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.path.stem

    @property
    def version(self) -> int:
        """One file has one version."""
        return 0

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Appends one line; Lightning calls it every `log_every_n_steps` steps."""
        if not self._opened:
            self._drop_from(step or 0)
            self._opened = True
        row = {"step": step, "seconds": round(time.monotonic() - self._started, 3), **metrics}
        with self.path.open("a") as file:
            file.write(json.dumps(json_ready(row), allow_nan=False) + "\n")

    def _drop_from(self, step: int) -> None:
        rows = read_json_lines(self.path) if self.path.exists() else []
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows if row["step"] < step))


class SliderLogger(JsonLinesLogger):
    """The lines that one of several sliders trained together would have logged alone.

    Args:
        path: the file.
        key: under which its loss is logged.
    """

    def __init__(self, path: Path, key: str) -> None:
        super().__init__(path)
        self.key = key

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Appends its own loss."""
        if self.key in metrics:
            super().log_metrics({"train/loss": metrics[self.key], "epoch": metrics["epoch"]}, step)
