"""What W&B keeps on disk of a run, as its own reader tells it."""

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class LoggedRun:
    """One `.wandb` file.

    Args:
        path: the file.
    """

    path: Path

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """All records, in order."""
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(self.path.absolute())]
        # It writes a log of its own where it is started.
        told = subprocess.run(command, cwd=self.path.parent, capture_output=True, text=True, check=True).stdout
        return [json.loads(line) for line in told.splitlines()]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The records of a kind: "run", "history", "summary", "artifact", "exit", ..."""
        return [record[kind] for record in self.records if record["type"] == kind]

    @property
    def run(self) -> dict[str, Any]:
        """What the run is called."""
        return self.of("run")[0]

    @property
    def config(self) -> dict[str, Any]:
        """Its config."""
        return self.run["config"]["update"]

    @property
    def history(self) -> list[dict[str, Any]]:
        """Its logged rows."""
        return [row["item"] for row in self.of("history")]

    @property
    def summary(self) -> dict[str, Any]:
        """The figures of the whole run."""
        return {key: value for each in self.of("summary") for key, value in each["update"].items()}

    @property
    def artifacts(self) -> dict[str, dict[str, Any]]:
        """Type to the artifact of that type."""
        return {each["type"]: each for each in self.of("artifact")}

    @property
    def exit_code(self) -> int:
        """How it ended."""
        return int(self.of("exit")[-1].get("exit_code", 0))

    @property
    def files(self) -> Path:
        """Where its media lie."""
        return self.path.parent / "files"


def logged_runs(folder: Path) -> list[LoggedRun]:
    """All runs below a folder, the earliest first."""
    return [LoggedRun(path) for path in sorted(folder.rglob("run-*.wandb"), key=lambda path: path.stat().st_mtime)]
