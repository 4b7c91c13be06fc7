"""A slider in another layout: `python -m slider_lightning.export slider=RUN_OR_FILE layout=kohya`."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slider_lightning.adapters import load_slider, save_slider
from slider_lightning.adapters.containers import DTYPES
from slider_lightning.adapters.layouts import LAYOUTS, SUFFIXES
from slider_lightning.config import build
from slider_lightning.entry import entry_point
from slider_lightning.errors import InputError
from slider_lightning.training import RunFolder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportConfig:
    """What is exported and how.

    Args:
        slider: a run folder or a slider file.
        layout: one of `LAYOUTS`.
        dtype: of the stored weights, one of `DTYPES`.
        out: the file to write; None names it after the slider.

    Raises:
        InputError: if layout or dtype is unknown.
    """

    slider: str
    layout: str
    dtype: str = "fp32"
    out: str | None = None

    def __post_init__(self) -> None:
        for name, known in (("layout", LAYOUTS), ("dtype", tuple(DTYPES))):
            if getattr(self, name) not in known:
                raise InputError(f"Expected {name} among {', '.join(known)}, but got {getattr(self, name)!r}.")

    @property
    def source(self) -> Path:
        """The slider file."""
        return RunFolder.slider_of(self.slider)

    @property
    def target(self) -> Path:
        """The file to write."""
        if self.out is not None:
            return Path(self.out)
        parts = [self.source.stem, self.layout, *([] if self.dtype == "fp32" else [self.dtype])]
        return self.source.with_name("-".join(parts) + SUFFIXES[self.layout])


def export(asked: ExportConfig) -> Path:
    """Write the slider in its new layout, and return the file's path.

    Raises:
        InputError: if the slider cannot be read, the layout cannot hold it, or the file cannot be written.
    """
    source, target = asked.source, asked.target
    if target.resolve() == source.resolve():
        raise InputError(f"Expected another file than the slider itself, but got {target}; choose another out.")
    slider, metadata = load_slider(source)
    save_slider(target, slider, metadata, layout=asked.layout, dtype=asked.dtype)
    return target


@entry_point("export")
def main(config: dict[str, Any]) -> None:
    """Export from the command line."""
    wanted = {name: config[name] for name in ("slider", "layout", "dtype", "out")}
    logger.info("Wrote %s", export(build({"_target_": "slider_lightning.export.ExportConfig", **wanted})))


if __name__ == "__main__":
    main()
