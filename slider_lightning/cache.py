"""What the caches hold: `python -m slider_lightning.cache list|verify|prune [--cache DIR]`."""

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from slider_lightning.data.stored import StoredCache, stored_caches
from slider_lightning.errors import InputError

DEFAULT_CACHE = Path(".cache/slider_lightning")
_DAY, _GIGABYTE = 86400.0, 1e9


class _Parser(argparse.ArgumentParser):
    """Wrong arguments are bad input as any other."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"Expected {self.usage_line()}, but {message}; see --help.")

    def usage_line(self) -> str:
        """How the command is called."""
        return " ".join(self.format_usage().removeprefix("usage: ").split())


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = _Parser(prog="python -m slider_lightning.cache", description=__doc__)
    tasks = command.add_subparsers(dest="task", required=True, metavar="list|verify|prune")
    for name, text in (("list", "a row per cache"), ("verify", "read all and compare hashes"), ("prune", "free room")):
        task = tasks.add_parser(name, help=text, description=text)
        task.add_argument("--cache", type=Path, default=DEFAULT_CACHE, metavar="DIR", help="folder of all caches")
        task.add_argument("--model", default="", metavar="HEX", help="only of models whose fingerprint begins so")
        if name == "verify":
            task.add_argument("--repair", action="store_true", help="delete what is damaged; the next job rebuilds it")
        if name == "prune":
            task.add_argument("--older-than", type=_amount, metavar="DAYS", help="what was not used for so long")
            task.add_argument("--to-size", type=_amount, metavar="GB", help="the longest unused, until so much is left")
            task.add_argument("--dry-run", action="store_true", help="delete nothing, say what would be deleted")
    return command


def list_caches(caches: Sequence[StoredCache], console: Console) -> None:
    """Print a row per cache and what they take together."""
    table = Table(title="caches", caption=f"{len(caches)} caches, {decimal(sum(cache.size for cache in caches))}")
    for name in ("cache", "model", "target"):
        table.add_column(name, overflow="fold")
    for name in ("states", "prompts", "rollouts", "size", "last use"):
        table.add_column(name, justify="right")
    for cache in caches:
        last_use = datetime.fromtimestamp(cache.last_use).strftime("%Y-%m-%d %H:%M")
        states = f"{cache.num_states} {cache.states}"
        counts = (str(count) if count else "-" for count in (cache.prompts, cache.num_rollouts))
        table.add_row(cache.name, cache.model[:12], cache.target, states, *counts, decimal(cache.size), last_use)
    console.print(table)


def verify(caches: Sequence[StoredCache], console: Console, *, repair: bool) -> bool:
    """Read every file and compare its hash; name the damaged ones, and delete them where they are to be repaired.

    What a running job is building is left out and named.

    Returns:
        Whether all that was read is intact.
    """
    damaged: list[Path] = []
    busy: list[StoredCache] = []
    read = 0
    columns = (TextColumn("reading"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("reading", total=sum(cache.size for cache in caches))
        for cache in caches:
            with cache.held() as held:
                if held is None:
                    busy.append(cache)
                    continue
                found = list(held.broken)
                for file in held.files:
                    found += [] if file.is_intact() else [file.path]
                    read += 1
                    progress.advance(bar, file.size)
                if repair:
                    for path in found:
                        path.unlink(missing_ok=True)
                damaged += found
    for cache in busy:
        console.print(f"not read, a job is building it: {cache.path}", soft_wrap=True)
    for path in damaged:
        console.print(
            f"{'deleted, the next job rebuilds it' if repair else 'damaged or missing'}: {path}", soft_wrap=True
        )
    console.print(f"{read} files read, {len(damaged)} damaged")
    return not damaged


def prune(
    caches: Sequence[StoredCache],
    console: Console,
    *,
    older_than: float | None,
    to_size: float | None,
    dry_run: bool,
    now: float,
) -> None:
    """Delete caches and print what that freed. What a running job is building stays.

    Args:
        caches: among which; without a condition all of them go.
        console: prints.
        older_than: days since the last use.
        to_size: gigabytes (10^9) that may stay; the longest unused go first.
        dry_run: delete nothing.
        now: seconds since the epoch.
    """
    left, freed = sum(cache.size for cache in caches), 0
    for cache in sorted(caches, key=lambda cache: cache.last_use):
        old = older_than is not None and now - cache.last_use > older_than * _DAY
        too_much = to_size is not None and left - freed > to_size * _GIGABYTE
        if not (old or too_much or (older_than is None and to_size is None)):
            continue
        with cache.held() as held:
            if held is None or held.last_use > cache.last_use:
                console.print(f"kept, a job is using it: {cache.path}", soft_wrap=True)
                continue
            freed += held.size
            if not dry_run:
                held.remove()
            told = f"{cache.states}, model {cache.model[:12]}{f', {cache.target!r}' if cache.target else ''}"
            verb = "would free" if dry_run else "freed"
            console.print(f"{verb} {decimal(cache.size)}: {cache.path} ({told})", soft_wrap=True)
    console.print(f"{'would free' if dry_run else 'freed'} {decimal(freed)} in all")


def run(arguments: Sequence[str], console: Console) -> int:
    """Do what a command line says.

    Returns:
        The exit status: 1 if `verify` found damage, else 0.

    Raises:
        InputError: for arguments or folders that it cannot work with.
    """
    options = parser().parse_args(arguments)
    caches = [cache for cache in stored_caches(options.cache) if cache.model.startswith(options.model)]
    if options.model and not caches:
        raise InputError(
            f"Expected caches of a model {options.model!r} in {options.cache}, but there are none; see list."
        )
    if options.task == "list":
        list_caches(caches, console)
    elif options.task == "verify":
        return 0 if verify(caches, console, repair=options.repair) else 1
    else:
        if options.older_than is None and options.to_size is None and not options.model:
            raise InputError("Expected --older-than, --to-size or --model for prune, but got none; name one.")
        conditions = {name: getattr(options, name) for name in ("older_than", "to_size", "dry_run")}
        prune(caches, console, **conditions, now=time.time())
    return 0


def main() -> None:
    """Manage the caches from the command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        status = run(sys.argv[1:], Console())
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        status = 2
    raise SystemExit(status)


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 0 or more")
    return value


if __name__ == "__main__":
    main()
