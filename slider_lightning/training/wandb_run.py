"""A run of Weights & Biases that nothing depends on: where the service is away, what is logged stays on disk."""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from slider_lightning.errors import InputError
from slider_lightning.training.run_folder import RunFolder, write_json
from slider_lightning.training.wandb_config import RunCard, WandbConfig

logger = logging.getLogger(__name__)

WANDB_FILE = "wandb.json"
STEP = "global_step"
FINISHED, FAILED = 0, 1
# Of requests beside those for curves, which are repeated for as long as finish_timeout lets them.
TRIES, REQUEST_TIMEOUT = 1, 5.0
EVALUATED = "evaluated"
SWEEP_ID = "WANDB_SWEEP_ID"  # set by the agent of a sweep


class WandbRun:
    """One run of Weights & Biases, online while the service answers, else offline.

    Args:
        config: where and how.
        run: its run folder; what is not uploaded lies in its `wandb/`, its id in wandb.json.
        card: what it is called.
        resume: go on in the run of that id; else one of an earlier training is replaced.
        offline: keep all on disk, whatever the config says.
        beside: other runs are open.
    """

    def __init__(
        self,
        config: WandbConfig,
        run: RunFolder,
        card: RunCard,
        *,
        resume: bool,
        offline: bool = False,
        beside: bool = False,
    ) -> None:
        self.config = config
        self.folder = run
        self.card = card
        self.exit_code = FINISHED
        self.lost = ""
        """Why the service was given up; empty while all is well."""
        self.refused = False
        """Whether something could not be logged."""
        self.local_id = card.id
        """What its files on this disk are called."""
        self.inner = self._begin(resume, offline or config.offline, beside)
        self._remember()

    @property
    def log_folder(self) -> Path:
        """Where it keeps what it logs on this disk; what `wandb sync` takes."""
        return Path(self.inner.dir).parent

    @property
    def sync_command(self) -> str:
        """What uploads it from this disk; a run that was online only when told so."""
        online = [] if self.inner.offline else ["--include-online"]
        renamed = ["--id", self.card.id] if self.local_id != self.card.id else []
        return shlex.join(["wandb", "sync", *online, *renamed, str(self.log_folder)])

    @property
    def unreachable(self) -> bool:
        """Whether the service was away when it should have begun."""
        return bool(self.lost) and bool(self.inner.offline)

    def tell(self, say: Callable[[Any], object]) -> None:
        """Let `say` log something on the run of wandb; what fails is told once and never ends the program."""
        if self.inner.disabled:  # by WANDB_MODE
            return
        try:
            say(self.inner)
        except Exception as error:  # noqa: BLE001 (its client raises what its transports do, of many kinds)
            if not self.refused:
                logger.warning("W&B did not take all that was logged (%s); the run goes on.", reason(error))
            self.refused = True

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Log values, at an optimizer step where they belong to one."""
        row = dict(values) if step is None else {**values, STEP: step}
        self.tell(lambda inner: inner.log(row))

    def summarize(self, values: Mapping[str, Any]) -> None:
        """Set figures of the whole run."""
        self.tell(lambda inner: inner.summary.update(dict(values)))

    def finish(self) -> None:
        """End the run as finished or failed, wait for its uploads, and say what is left to upload."""
        try:
            self.inner.finish(exit_code=self.exit_code)
        except Exception as error:  # noqa: BLE001 (as above)
            self._give_up(error)
        if self.inner.disabled:
            return
        if self.inner.offline:
            logger.info("W&B run kept offline; upload it with: %s", self.sync_command)
        elif self.lost:
            logger.warning(
                "W&B could not be reached to the end (%s); what was logged is kept, upload the rest with: %s",
                self.lost,
                self.sync_command,
            )

    def _give_up(self, error: Exception) -> None:
        self.lost = self.lost or reason(error)

    def _begin(self, resume: bool, offline: bool, beside: bool) -> Any:
        """A run of wandb, offline where the service cannot be used."""
        if offline:
            return self._opened(resume, offline=True)
        before = set(_log_folders(self.folder))
        try:
            return self._opened(resume, offline=False)
        except Exception as error:  # noqa: BLE001 (as above)
            self._give_up(error)
        for attempt in set(_log_folders(self.folder)) - before:
            shutil.rmtree(attempt, ignore_errors=True)
        self._free_id(beside)
        self.inner = self._opened(resume, offline=True)
        logger.warning(
            "W&B could not be reached (%s), so the run goes on without it and is kept offline; upload it with: %s",
            self.lost,
            self.sync_command,
        )
        return self.inner

    def _free_id(self, beside: bool) -> None:
        """Lets go of the id that a failed beginning holds in the process of wandb, which other runs may need."""
        import wandb

        if beside:
            self.local_id = f"{self.card.id}-offline"
        else:
            wandb.teardown()

    def _opened(self, resume: bool, *, offline: bool) -> Any:
        # Else its own reports of its failures are waited for at exit, where it is away for as long as that takes.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb  # here, since it takes a second and few trainings need it

        wandb.setup(wandb.Settings(silent=True))
        # The agent of a sweep names project and run itself.
        named = {} if os.environ.get(SWEEP_ID) else {"id": self.local_id, **self._place()}
        run = wandb.init(
            **named,
            name=self.card.name,
            group=self.card.group,
            job_type="train",
            tags=list(self.card.tags),
            config=self.card.config,
            dir=str(self.folder.path),
            mode="offline" if offline else None,
            resume="allow" if resume else None,
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                init_timeout=self.config.init_timeout,
                finish_timeout=self.config.finish_timeout,
                finish_timeout_raises=True,
                # Uploads of artifacts outlive finish_timeout by as long as they are tried again.
                x_graphql_timeout_seconds=REQUEST_TIMEOUT,
                x_graphql_retry_max=TRIES,
                x_graphql_retry_wait_max_seconds=1,
                x_file_transfer_retry_max=TRIES,
                x_file_transfer_retry_wait_max_seconds=1,
            ),
        )
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP)
        if not run.offline and run.url:
            logger.info("W&B run: %s", run.url)
        return run

    def _place(self) -> dict[str, Any]:
        return {"project": self.config.project, "entity": self.config.entity}

    def _remember(self) -> None:
        """Writes wandb.json, from which `open_again` finds the run: under the names that a sweep's agent gave it."""
        settings = self.inner.settings
        place = {"project": settings.project or self.config.project, "entity": settings.entity}
        card = replace(self.card, id=settings.run_id if os.environ.get(SWEEP_ID) else self.card.id)
        write_json(self.folder.path / WANDB_FILE, {"logger": {**asdict(self.config), **place}, "card": asdict(card)})


@contextmanager
def open_runs(
    config: WandbConfig, runs: Sequence[tuple[RunFolder, RunCard]], *, resume: bool
) -> Iterator[list[WandbRun]]:
    """Runs of wandb side by side, which end with the context: as failed if that ends with an error.

    Once the service was found away, no further run waits for it.

    Args:
        config: where and how.
        runs: run folder and card of each.
        resume: go on in the runs of these ids.
    """
    opened: list[WandbRun] = []
    try:
        for run, card in runs:
            away = any(each.unreachable for each in opened)
            opened.append(WandbRun(config, run, card, resume=resume, offline=away, beside=bool(opened)))
        yield opened
    except BaseException:
        for each in opened:
            each.exit_code = FAILED
        raise
    finally:
        # Side by side, since each may wait for its timeout.
        with ThreadPoolExecutor(max(1, len(opened))) as pool:
            list(pool.map(WandbRun.finish, opened))


@contextmanager
def open_again(run: RunFolder) -> Iterator[WandbRun | None]:
    """The run of wandb that a training was logged to, to log more; None if it was not logged there.

    Raises:
        InputError: if wandb.json is damaged.
    """
    path = run.path / WANDB_FILE
    if not path.is_file():
        yield None
        return
    try:
        told = json.loads(path.read_text())
        config, card = WandbConfig(**told["logger"]), RunCard(**told["card"])
        card = replace(card, tags=tuple(dict.fromkeys((*card.tags, EVALUATED))))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"Expected {path} to name a run of W&B, but it is damaged; delete it.") from error
    with open_runs(config, [(run, card)], resume=True) as opened:
        yield opened[0]


def reason(error: Exception) -> str:
    """An error as the inside of a sentence."""
    text = " ".join(str(error).split()) or type(error).__name__
    return textwrap.shorten(text, 160, placeholder=" ...").rstrip(".")


def _log_folders(run: RunFolder) -> list[Path]:
    return list((run.path / "wandb").glob("run-*"))
