"""How every benchmark reports: tables on the terminal, and one JSON file with all that they were made from."""

import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from slider_lightning.config import ROOT
from slider_lightning.training.run_folder import PACKAGES, git_state, write_json


def machine() -> dict[str, Any]:
    """What figures of time and memory depend on: versions, cores, threads, the GPU; nothing that names the machine."""
    gpu = torch.cuda.is_available()
    properties = torch.cuda.get_device_properties(0) if gpu else None
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(_main_memory() / 2**30, 1),
        "gpu": properties.name if properties else None,
        "gpu_memory_gib": round(properties.total_memory / 2**30, 1) if properties else None,
        "versions": {name: metadata.version(name) for name in PACKAGES if name in _installed()},
    }


def write_report(name: str, outputs: Path, data: Mapping[str, Any], tables: Sequence[Table]) -> Path:
    """Prints the tables and writes outputs/benchmarks/<name>.json: `data`, the machine and the commit.

    Args:
        name: of the benchmark.
        outputs: folder of all results, `paths.outputs` of a config.
        data: what was measured, as JSON values; keys "machine" and "git" are added.
        tables: what is printed of it.

    Returns:
        The JSON file.

    Raises:
        InputError: if the disk refuses.
    """
    path = Path(outputs) / "benchmarks" / f"{name}.json"
    write_json(path, {**data, "machine": machine(), "git": git_state(ROOT)})
    console = Console()
    for table in tables:
        console.print(table)
    console.print(f"All figures: {path}", soft_wrap=True)
    return path


def _installed() -> set[str]:
    return {distribution.name for distribution in metadata.distributions()}


def _main_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
