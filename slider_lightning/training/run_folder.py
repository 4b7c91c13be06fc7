"""A run is a folder: what was asked, what came out, and how. Whatever reads a run reads this folder."""

import json
import math
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import slider_lightning
from slider_lightning.assets import atomic_path
from slider_lightning.config.base import Settings
from slider_lightning.errors import InputError
from slider_lightning.training.checkpoints import check_checkpoint, last_checkpoint_path

# The ones whose version changes numbers.
PACKAGES = (
    "slider_lightning",
    "torch",
    "lightning",
    "diffusers",
    "transformers",
    "safetensors",
    "open_clip_torch",
    "torchmetrics",
)


@dataclass(frozen=True)
class RunFolder:
    """The files of one run.

    Args:
        path: the folder.
    """

    path: Path

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """A run that exists.

        Raises:
            InputError: if the folder is missing or holds no config.yaml.
        """
        run = cls(Path(path))
        if not run.config.is_file():
            problem = "holds no config.yaml" if run.path.is_dir() else "does not exist"
            advice = "give the folder that training printed"
            raise InputError(f"Expected {path} to be the folder of a run, but it {problem}; {advice}.")
        return run

    @classmethod
    def slider_of(cls, place: str | Path) -> Path:
        """The slider file of a run folder, or the file itself.

        Raises:
            InputError: if a folder is no run.
        """
        return cls.open(place).slider if Path(place).is_dir() else Path(place)

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / "config.yaml"

    @property
    def slider(self) -> Path:
        """The trained slider."""
        return self.path / "slider.safetensors"

    @property
    def checkpoints(self) -> Path:
        """Folder of what a killed run goes on from."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """What was logged, one JSON object per logged step."""
        return self.path / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        """Figures of the whole run under flat keys."""
        return self.path / "summary.json"

    @property
    def strip(self) -> Path:
        """Image: rows are seeds, columns are scales."""
        return self.path / "strip.png"

    @property
    def manifest(self) -> Path:
        """How the run was made."""
        return self.path / "manifest.json"

    def write_config(self, text: str) -> None:
        """Writes config.yaml.

        Raises:
            InputError: if the disk refuses.
        """
        with atomic_path(self.config) as temporary:
            temporary.write_text(text)

    def resume_checkpoint(self) -> Path | None:
        """The checkpoint to go on from; None where the run was killed before its first.

        Raises:
            InputError: if the checkpoint is damaged.
        """
        checkpoint = last_checkpoint_path(self.checkpoints)
        if not checkpoint.exists():
            return None
        check_checkpoint(checkpoint)
        return checkpoint

    def read_summary(self) -> dict[str, Any]:
        """The figures so far.

        Raises:
            InputError: if summary.json is missing or damaged.
        """
        return _read_json(self.summary)

    def read_manifest(self) -> dict[str, Any]:
        """How the run was made.

        Raises:
            InputError: if manifest.json is missing or damaged.
        """
        return _read_json(self.manifest)

    def read_metrics(self) -> list[dict[str, Any]]:
        """The logged steps in order.

        Raises:
            InputError: if metrics.jsonl is missing or damaged.
        """
        return read_json_lines(self.metrics)

    def update_summary(self, values: Mapping[str, Any], replace: str | None = None) -> None:
        """Merges flat keys such as `cost/seconds/train` into summary.json; a key given again takes the new value.

        Args:
            values: flat keys and their values.
            replace: keys that begin so are dropped first, so that two evaluations never mix.
        """
        known = self.read_summary() if self.summary.exists() else {}
        kept = {key: value for key, value in known.items() if replace is None or not key.startswith(replace)}
        write_json(self.summary, {**kept, **values})

    def write_manifest(
        self, *, seeds: Mapping[str, int], assets: Mapping[str, str], seconds: float, device: str
    ) -> None:
        """Writes manifest.json.

        Args:
            seeds: every seed of the run by what it draws.
            assets: hash of every model and data set used, by name.
            seconds: wall time of the run.
            device: what it ran on, in words.
        """
        manifest = {
            "git": git_state(Path(slider_lightning.__file__).parent),
            "versions": {"python": platform.python_version(), **_versions()},
            "platform": platform.platform(),
            "device": device,
            "seeds": dict(seeds),
            "assets": dict(assets),
            "seconds": seconds,
        }
        write_json(self.manifest, manifest)


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the checkout around a folder and whether it has changes; None where there is no git or no commit."""
    outputs = []
    for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            result = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        outputs.append(result.stdout.strip())
    return {"commit": outputs[0], "changed": bool(outputs[1])}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes indented JSON atomically; numbers that are not finite become null, which JSON can hold.

    Raises:
        InputError: if the disk refuses.
    """
    text = json.dumps(json_ready(content), indent=2, allow_nan=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """One object per line; a last line cut short by a kill is left out.

    Raises:
        InputError: if the file is missing, or a line is no JSON object.
    """
    *lines, _unfinished = _read_text(path).split("\n")
    return [_parse_json(line, path) for line in lines]


def json_ready(value: Any) -> Any:
    """The same nested value with settings as mappings, and null for numbers that are not finite."""
    if isinstance(value, Settings):
        value = value.plain()
    if isinstance(value, Mapping):
        return {key: json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _versions() -> dict[str, str]:
    installed = {distribution.name: distribution.version for distribution in metadata.distributions()}
    return {name: installed[name] for name in PACKAGES if name in installed}


def _read_json(path: Path) -> dict[str, Any]:
    return _parse_json(_read_text(path), path)


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"Expected {path}, but there is no such file; give the folder of a run that got that far.")
    return path.read_text()


def _parse_json(text: str, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise InputError(f"Expected {path} to hold JSON, but it does not ({error}); make the run again.") from error
    if not isinstance(content, dict):
        raise InputError(
            f"Expected {path} to hold a JSON object, but it holds {type(content).__name__}; make the run again."
        )
    return content
