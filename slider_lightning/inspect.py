"""What slider files hold: `python -m slider_lightning.inspect RUN_OR_FILE [RUN_OR_FILE ...]`."""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from slider_lightning.adapters import SliderBase, SliderMetadata
from slider_lightning.adapters.layers import layer_kind
from slider_lightning.adapters.reading import SliderFile, read_slider_file
from slider_lightning.errors import InputError
from slider_lightning.training import RunFolder

_LARGEST = 5


class _Parser(argparse.ArgumentParser):
    """Wrong arguments are bad input as any other."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"Expected run folders or slider files, but {message}; see --help.")


def describe(path: Path, file: SliderFile) -> list[tuple[str, str]]:
    """What a slider file holds, as pairs of a name and words.

    Args:
        path: of the file.
        file: what was read from it.
    """
    slider, metadata = file.slider, file.metadata
    digest = "matches the weights" if file.verified else "none: not written by slider_lightning, or torch-saved"
    return [
        ("layout", file.layout),
        ("size", f"{decimal(path.stat().st_size)}, {slider.num_parameters():,} numbers in {file.dtype}"),
        ("digest", digest),
        ("adapter", metadata.adapter),
        *([("rank, alpha", f"{metadata.rank}, {metadata.alpha:g}")] if metadata.alpha is not None else []),
        ("layers", f"{len(slider.layer_paths)} ({metadata.layers}): {_counts(slider)}"),
        *_training(metadata),
        *_use(metadata),
        ("norm of the deltas", _norms(slider)),
    ]


def _training(metadata: SliderMetadata) -> list[tuple[str, str]]:
    """What is known of how the slider was trained."""
    concept = metadata.concept or {}
    rows = [(f"concept: {name}", _words(value)) for name, value in concept.items() if value not in (None, [])]
    rows += [("objective", metadata.objective or "not known")]
    rows += [("eta", f"{metadata.eta:g}")] if metadata.eta is not None else []
    rows += [("project", _words(metadata.project))] if metadata.project is not None else []
    base = metadata.base_model or "not known"
    base_hash = f" (fingerprint {metadata.base_model_hash[:12]})" if metadata.base_model_hash else ""
    return [*rows, ("base model", f"{base}{base_hash}")]


def _use(metadata: SliderMetadata) -> list[tuple[str, str]]:
    """What is known of how the slider is to be used."""
    rows = []
    if metadata.useful_scales is not None:
        lowest, highest = metadata.useful_scales
        rows.append(("useful scales", f"{lowest:+g} to {highest:+g}"))
    if metadata.start_timestep is not None:
        rows.append(("start_timestep", str(metadata.start_timestep)))
    if metadata.calibration is not None:
        calibration = metadata.calibration
        effects = zip(calibration.scales, calibration.effects, strict=True)
        told = ", ".join(f"{scale:+g}: {effect:+.2f}" for scale, effect in effects if scale)
        rows.append(("calibration", f"{calibration.target} in {calibration.unit}; {told}"))
    return rows


def _counts(slider: SliderBase) -> str:
    kinds = Counter(layer_kind(path) for path in slider.layer_paths)
    shapes = Counter("conv" if len(slider.weight_shape(path)) == 4 else "linear" for path in slider.layer_paths)
    return ", ".join(
        f"{count} {kind}" for counter in (kinds, shapes) for kind, count in sorted(counter.items(), key=str)
    )


@torch.no_grad()
def delta_norms(slider: SliderBase) -> dict[str, float]:
    """Frobenius norm of what slider_scale 1 adds to each layer's weight, by diffusers path, largest first."""
    norms = {path: float(slider.delta_weight(path).norm()) for path in slider.layer_paths}
    return dict(sorted(norms.items(), key=lambda item: -item[1]))


def _norms(slider: SliderBase) -> str:
    norms = delta_norms(slider)
    total = sum(norm**2 for norm in norms.values()) ** 0.5
    largest = [f"{norm:.4g}  {path}" for path, norm in list(norms.items())[:_LARGEST]]
    return "\n".join([f"{total:.4g} in all; the largest:", *largest])


def _words(value: object) -> str:
    """A JSON value in words."""
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_words(item)}" for name, item in value.items())
    return "; ".join(map(_words, value)) if isinstance(value, list) else str(value)


def show(path: Path, file: SliderFile, console: Console) -> None:
    """Print a table of what a slider file holds."""
    table = Table(title=str(path), show_header=False, title_justify="left", min_width=60)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, words in describe(path, file):
        table.add_row(name, words)
    console.print(table)


def run(arguments: Sequence[str], console: Console) -> int:
    """Show every file; one that cannot be read keeps no other from being shown.

    Args:
        arguments: run folders and slider files; `slider=PLACE` is the same as PLACE.
        console: prints.

    Returns:
        The exit status: 2 if a file could not be read, else 0.

    Raises:
        InputError: for wrong arguments.
    """
    parser = _Parser(prog="python -m slider_lightning.inspect", description=__doc__)
    parser.add_argument("places", nargs="+", metavar="RUN_OR_FILE", help="a run folder or a slider file")
    status = 0
    for place in parser.parse_args(arguments).places:
        try:
            path = RunFolder.slider_of(place.removeprefix("slider="))
            show(path, read_slider_file(path), console)
        except InputError as error:
            console.print(f"error: {error}", soft_wrap=True, markup=False, highlight=False)
            status = 2
    return status


def main() -> None:
    """Inspect from the command line."""
    try:
        status = run(sys.argv[1:], Console())
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        status = 2
    raise SystemExit(status)


if __name__ == "__main__":
    main()
