"""What every entry point shares: compose the config, run the task, end bad input with one sentence and status 2."""

import ctypes
import errno
import logging
import os
import sys
import textwrap
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

import diffusers
import hydra
import transformers
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from slider_lightning.assets import LOCK_FILE
from slider_lightning.config import CONF, check, plain_config, register_resolvers
from slider_lightning.errors import InputError

Task = Callable[[dict[str, Any]], object]
# Packages whose errors mean that the process of a job is gone; they need not be installed.
LAUNCHERS = ("submitit.", "joblib.")
# By mallopt's numbers: M_TRIM_THRESHOLD, free bytes that the heap keeps; M_MMAP_THRESHOLD, bytes of a block from which
# on it is mapped by itself and goes back when freed, as whole networks should.
_KEEP_FREED = {-1: 1 << 30, -3: 1 << 28}


def entry_point(config_name: str) -> Callable[[Task], Callable[[], None]]:
    """Make a command out of a function of the plain, checked config; what it returns is what a sweeper optimizes.

    Args:
        config_name: file in conf/ that the command composes.
    """
    register_resolvers()

    def decorate(task: Task) -> Callable[[], None]:
        @wraps(task)
        def checked_task(config: DictConfig) -> object:
            try:
                register_resolvers()  # the job of a sweep may run in a process of its own
                quiet_libraries()
                keep_freed_memory()
                plain = plain_config(config)
                check(plain)
                return task(plain)
            except InputError:
                run_dir = Path(HydraConfig.get().runtime.output_dir)
                if run_dir != Path.cwd():
                    with suppress(OSError):  # a folder that the task filled stays
                        if [path.name for path in run_dir.iterdir()] == [LOCK_FILE]:
                            (run_dir / LOCK_FILE).unlink()
                        run_dir.rmdir()
                raise

        @wraps(task)
        def main() -> None:
            # Hydra then raises its errors instead of printing them, so that all bad input reads alike.
            os.environ["HYDRA_FULL_ERROR"] = "1"
            try:
                hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(checked_task)()
            except InputError as error:
                end(str(error))
            except (HydraException, OmegaConfBaseException) as error:
                end(one_sentence(error))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                end(f"Expected room on the disk for {error.filename or 'the results'}, but it is full; free some.")
            except RuntimeError as error:
                if not type(error).__module__.startswith(LAUNCHERS):
                    raise
                told = textwrap.shorten(" ".join(str(error).split()), 300)
                end(
                    f"Expected every job of the sweep to start and come back, but {type(error).__name__} says: {told}; "
                    "start the same command again, which takes finished points as they are."
                )

        return main

    return decorate


def quiet_libraries() -> None:
    """Switch off the bars that loading a checkpoint draws, and Lightning's hints: both hide what the user asked for."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    for name in ("lightning.pytorch", "fontTools"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # open_clip tells its progress on the root logger itself; what named loggers say passes by this filter.
    logging.getLogger().addFilter(lambda record: record.levelno >= logging.WARNING)
    warnings.filterwarnings("ignore", module=r"lightning\.pytorch\.utilities\._pytree")


def keep_freed_memory() -> None:
    """Let the C library keep what tensors on the CPU free for the next ones: up to 1 GiB at the end of its heap.

    As it comes, glibc hands large blocks back to the system and asks for them again at the next forward. Every page is
    then faulted in anew, and how many are depends on what else lies in memory. Other C libraries are left as they are.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            for setting, limit in _KEEP_FREED.items():
                mallopt(setting, limit)


def one_sentence(error: BaseException) -> str:
    """The first lines of Hydra's explanation, without its advice on stack traces."""
    cause = error.__cause__ if isinstance(error.__cause__, HydraException | OmegaConfBaseException) else None
    text = " ".join([str(error), *([str(cause)] if cause else [])])
    kept = [
        line.strip()
        for line in text.splitlines()
        if line.strip() and not line.strip().startswith(("full_key", "object_type"))
    ]
    return textwrap.shorten("; ".join(kept), 600)


def sweeping() -> bool:
    """Whether this is a point of a sweep (`-m`)."""
    return HydraConfig.initialized() and not OmegaConf.is_missing(HydraConfig.get().job, "num")


def end(message: str) -> NoReturn:
    """End the process with one sentence on stderr and status 2."""
    sys.stderr.write(f"error: {message}\n")
    raise SystemExit(2)
