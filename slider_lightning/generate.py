"""Images from sliders: `python -m slider_lightning.generate sliders=[RUN_OR_FILE] prompt="image of a person"`."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slider_lightning.adapters import SliderBank, SliderMetadata, load_slider
from slider_lightning.adapters.base import SliderBase
from slider_lightning.backbone import Backbone
from slider_lightning.config import build, typed
from slider_lightning.entry import entry_point
from slider_lightning.errors import InputError
from slider_lightning.generation import StripConfig, make_strip, save_image
from slider_lightning.training import RunFolder

logger = logging.getLogger(__name__)


def load_sliders(places: Sequence[str], backbone: Backbone) -> list[tuple[SliderBase, SliderMetadata]]:
    """The sliders of run folders and slider files; one trained on another model is used with a warning.

    Raises:
        InputError: if a place is neither, or a slider does not fit the backbone.
    """
    loaded = []
    for place in places:
        path = RunFolder.open(place).slider if Path(place).is_dir() else Path(place)
        slider, metadata = load_slider(path, backbone.unet)
        if metadata.base_model_hash not in (None, backbone.fingerprint):
            logger.warning(
                "%s was trained on %s, not on %s: check its effect.", path, metadata.base_model, backbone.name
            )
        loaded.append((slider, metadata))
    return loaded


def generate(config: dict[str, Any]) -> Path:
    """Write the strip that a checked config describes, and return its path.

    Args:
        config: the plain, checked config of conf/generate.yaml.

    Raises:
        InputError: for sliders, prompt, scales or a model that cannot work together.
    """
    fields = {name: config[name] for name in ("prompt", "seeds", "scales", "batch_size")}
    strip: StripConfig = build({"_target_": "slider_lightning.generation.StripConfig", **fields})
    places = typed(config["sliders"], list[str], "sliders")
    if not places:
        raise InputError("Expected at least one run folder or slider file in sliders, but the list is empty.")
    backbone: Backbone = build(config["model"], "model.")
    loaded = load_sliders(places, backbone)
    bank = SliderBank(backbone.unet, [slider for slider, _ in loaded])
    names = [
        (metadata.concept or {}).get("name", Path(place).stem)
        for (_, metadata), place in zip(loaded, places, strict=True)
    ]
    image = make_strip(backbone, bank, " + ".join(names), strip, build(config["sampler"], "sampler."))
    return save_image(image, config["out"])


@entry_point("generate")
def main(config: dict[str, Any]) -> None:
    """Generate from the command line."""
    logger.info("Wrote %s", generate(config))


if __name__ == "__main__":
    main()
