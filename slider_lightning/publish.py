"""A run as a model repository: `python -m slider_lightning.publish run=RUN repo=USER/NAME` or `folder=DIR`."""

import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from slider_lightning.adapters import load_slider, save_slider
from slider_lightning.adapters.containers import DTYPES
from slider_lightning.assets import atomic_path, inside
from slider_lightning.config import build, portable_path
from slider_lightning.entry import entry_point
from slider_lightning.errors import InputError
from slider_lightning.model_card import CONFIG_FILE, PEFT_FILE, STRIP_FILE, CardFacts, model_card
from slider_lightning.training import RunFolder

logger = logging.getLogger(__name__)

# The settings that decide what a slider is; the others say where things lie on the machine that trained it.
_SETTINGS = ("model", "concept", "adapter", "objective", "data", "pairs", "optimizer", "trainer", "sampler", "seed")


@dataclass(frozen=True)
class PublishConfig:
    """What is published, where, and what is said of it that the run does not know.

    Args:
        run: a run folder.
        repo: USER/NAME on the hub; None uploads nothing.
        folder: keeps what is published; None keeps nothing.
        licence: of the slider; None states none.
        base_model: the base model's id on the hub, or a folder; None takes what the slider file says.
        base_licence: of the base model; None states none.
        dtype: of the stored weights, one of `DTYPES`.
        private: whether a new repository is.

    Raises:
        InputError: if there is neither repo nor folder, or a value is not of its kind.
    """

    run: str
    repo: str | None = None
    folder: str | None = None
    licence: str | None = None
    base_model: str | None = None
    base_licence: str | None = None
    dtype: str = "fp32"
    private: bool = False

    def __post_init__(self) -> None:
        if self.repo is None and self.folder is None:
            raise InputError("Expected repo=USER/NAME to publish to or folder=DIR to write, but got neither; give one.")
        if self.dtype not in DTYPES:
            raise InputError(f"Expected dtype among {', '.join(DTYPES)}, but got {self.dtype!r}.")
        if self.repo is not None:
            try:
                validate_repo_id(self.repo)
            except HFValidationError as error:
                raise InputError(f"Expected repo to be USER/NAME, but got {self.repo!r}; {error}") from error


def publish(asked: PublishConfig, api: HfApi) -> str:
    """Write the repository's files, upload them where that is asked, and return where they are.

    Args:
        asked: what is published.
        api: the hub, with the user's token.

    Raises:
        InputError: if the run holds no slider, a file cannot be written, or the hub refuses or is away.
    """
    kept = asked.folder
    place: AbstractContextManager[str] = tempfile.TemporaryDirectory() if kept is None else nullcontext(kept)
    with place as folder:
        names = write_repository(asked, Path(folder))
        return folder if asked.repo is None else upload(api, asked.repo, Path(folder), names, private=asked.private)


def write_repository(asked: PublishConfig, folder: Path) -> list[str]:
    """Write card, slider, strip and settings of a run, and return their names.

    Raises:
        InputError: if the run holds no slider, or a file cannot be written.
    """
    run = RunFolder.open(asked.run)
    for path in (run.config, run.slider, run.summary, run.strip):
        inside(run.path, path.name)  # a link may lead to what is nobody else's
    config = yaml.safe_load(run.config.read_text())
    slider, metadata = load_slider(run.slider)
    summary = run.read_summary() if run.summary.is_file() else {}
    told = {name: getattr(asked, name) for name in ("repo", "base_model", "licence", "base_licence")}
    facts = CardFacts(metadata, config, summary, run.strip.is_file(), **told)
    if asked.base_model is None and Path(facts.base).is_absolute():
        raise InputError(
            f"Expected a base model that others can find, but {run.path} was trained on {facts.base}; "
            "give base_model=ID."
        )
    layouts = {facts.kohya_file: "kohya", **({PEFT_FILE: "peft"} if facts.low_rank else {})}
    for name, layout in layouts.items():
        save_slider(folder / name, slider, metadata, layout=layout, dtype=asked.dtype)
    settings = without_places({name: config[name] for name in _SETTINGS if config.get(name) is not None})
    texts = {CONFIG_FILE: yaml.safe_dump(settings, sort_keys=False), "README.md": model_card(facts)}
    for name, text in texts.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text)
    if facts.has_strip:
        with atomic_path(folder / STRIP_FILE) as temporary:
            shutil.copyfile(run.strip, temporary)
    return [*layouts, *texts, *([STRIP_FILE] if facts.has_strip else [])]


def without_places(value: Any) -> Any:
    """Settings with paths that say nothing of the machine: inside the installation relative to it, else a bare name."""
    if isinstance(value, Mapping):
        return {key: without_places(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_places(item) for item in value]
    if isinstance(value, str) and Path(value).is_absolute():
        inside = portable_path(value)
        return Path(value).name if Path(inside).is_absolute() else inside
    return value


def upload(api: HfApi, repo: str, folder: Path, names: Sequence[str], *, private: bool) -> str:
    """Upload these files of a folder in one commit, and return the repository's address.

    Args:
        api: the hub.
        repo: USER/NAME; it is created where it is missing.
        folder: where the files lie; whatever else lies there stays there.
        names: of the files.
        private: whether a new repository is.

    Raises:
        InputError: if the hub refuses or is away.
    """
    try:
        url = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo, folder_path=folder, allow_patterns=list(names), commit_message="Publish the slider"
        )
    except (OSError, ValueError, HTTPError) as error:
        told = " ".join(str(error).split())
        raise InputError(
            f"Expected the hub to take {repo}, but got: {told}; see `hf auth login` and try again."
        ) from error
    return str(url)


@entry_point("publish")
def main(config: dict[str, Any]) -> None:
    """Publish from the command line."""
    wanted = {field.name: config[field.name] for field in fields(PublishConfig)}
    asked: PublishConfig = build({"_target_": "slider_lightning.publish.PublishConfig", **wanted})
    logger.info("Published in %s", publish(asked, HfApi()))


if __name__ == "__main__":
    main()
