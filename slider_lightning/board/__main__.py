"""A board of sliders in the browser: `python -m slider_lightning.board sliders=[RUN_OR_FILE,...] [model=sdxl]`."""

import logging
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from hydra.core.hydra_config import HydraConfig

from slider_lightning.backbone import Backbone, SamplerConfig
from slider_lightning.board.desk import BoardConfig, Desk
from slider_lightning.board.serving import served
from slider_lightning.config import build
from slider_lightning.entry import entry_point
from slider_lightning.generate import load_sliders

logger = logging.getLogger(__name__)


def make_desk(config: dict[str, Any], started: Sequence[str] = ()) -> Desk:
    """What stands behind the board that a checked config describes.

    Args:
        config: the plain, checked config of conf/board.yaml.
        started: the overrides that it was composed with, which the board's commands take over.

    Raises:
        InputError: for sliders or a model that cannot work together, or a value out of range.
    """
    wanted = {field.name: config[field.name] for field in fields(BoardConfig)}
    board: BoardConfig = build({"_target_": "slider_lightning.board.desk.BoardConfig", **wanted})
    sampler: SamplerConfig = build(config["sampler"], "sampler.")
    backbone: Backbone = build(config["model"], "model.")
    loaded = load_sliders(board.sliders, backbone)
    return Desk(backbone, loaded, board, sampler, started, config["paths"]["outputs"])


@entry_point("board")
def main(config: dict[str, Any]) -> None:
    """Serve the board until it is interrupted."""
    logging.getLogger("httpx").setLevel(logging.WARNING)  # Gradio asks its own server whether it is up
    with served(make_desk(config, HydraConfig.get().overrides.task)) as blocks:
        logger.info("The board is at %s; end it with Ctrl+C.", blocks.local_url)
        blocks.block_thread()


if __name__ == "__main__":
    main()
