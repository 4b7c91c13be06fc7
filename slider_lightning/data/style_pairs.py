"""Twins that a StyleGAN draws: the same face with style channels moved to several strengths (REFERENCE.md, 7)."""

import hashlib
import itertools
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from slider_lightning.assets import atomic_path, locked, sha256_file
from slider_lightning.data.pairs.sources import Twins
from slider_lightning.data.style_space import StyleChannel, StyleSpace
from slider_lightning.errors import InputError

logger = logging.getLogger(__name__)

MANIFEST_FILE = "manifest.json"
# Part of the folder's name, so that images of another layout are never taken for these.
LAYOUT_VERSION = 1
DEFAULT_STRENGTHS: Mapping[float, float] = {-2.0: -6.0, -1.0: -3.0, 1.0: 3.0, 2.0: 6.0}

WeightedChannel = tuple[StyleChannel, float]


class ChannelChoice(Protocol):
    """Which style channels carry a concept."""

    def channels(self, space: StyleSpace) -> tuple[WeightedChannel, ...]:
        """The channels, each with its weight; a negative weight turns a channel's direction round.

        Args:
            space: the generator.

        Raises:
            InputError: if the generator has no such channel.
        """
        ...


@dataclass(frozen=True)
class NamedChannels:
    """Channels that somebody names.

    Args:
        layers: style layer, by number or name -> its channels, or its channels with weights. The paper's inter-ocular
            distance is `{4: [847]}`; `{4: {847: 1, 77: -0.5}}` moves a second one half as far the other way.
    """

    layers: Mapping[int | str, tuple[int, ...] | Mapping[int, float]]

    def channels(self, space: StyleSpace) -> tuple[WeightedChannel, ...]:
        """See `ChannelChoice`."""
        return tuple(
            (space.channel(layer, channel), float(weight))
            for layer, chosen in self.layers.items()
            for channel, weight in (chosen if isinstance(chosen, Mapping) else dict.fromkeys(chosen, 1.0)).items()
        )


@dataclass(frozen=True)
class StyleGanPairs:
    """A pair source that renders a StyleGAN's images with some style channels moved.

    The images of a choice lie in a folder named after a hash of all that decides them; how many there are is not
    among it, so a larger `count` adds to them. Whole ones are used again, missing and damaged ones rendered.

    Args:
        generator: the StyleGAN.
        channels: what is moved.
        strengths: slider scale -> move in standard deviations of the channel, times the channel's weight; they ascend
            together. At scale 0 nothing is trained, see `Twins`. None means `DEFAULT_STRENGTHS`.
        count: images, from seed `seed` on.
        seed: the first one's seed.
        truncation_psi: see `StyleSpace.latents`.

    Raises:
        InputError: if a value cannot be used.
    """

    generator: StyleSpace
    channels: ChannelChoice
    strengths: Mapping[float, float] | None = None
    count: int = 16
    seed: int = 0
    truncation_psi: float = 0.7

    def __post_init__(self) -> None:
        strength_levels(self.strengths)
        if self.count < 1 or self.seed < 0:
            raise InputError(
                f"Expected pairs.count of 1 or more and pairs.seed of 0 or more, but got {self.count} and {self.seed}; "
                f"raise them."
            )

    @property
    def levels(self) -> tuple[tuple[float, float], ...]:
        """Slider scale and strength of every level, ascending."""
        return strength_levels(self.strengths)

    def twins(self, work_dir: Path) -> tuple[Twins, ...]:
        """Renders what is not there yet.

        Args:
            work_dir: the images lie in `<hash>/<scale>/<seed>.png` below it, with a manifest that tells how.

        Raises:
            InputError: if a channel does not exist or is chosen twice, or the folder cannot be written.
        """
        moved = self._moved_channels()
        depends_on = self._depends_on(moved)
        digest = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:20]
        folder = Path(work_dir) / digest
        seeds, levels = range(self.seed, self.seed + self.count), self.levels
        with locked(folder, "StyleGAN pairs"):
            done = _read_manifest(folder)
            missing = [s for s in seeds if not all(_is_whole(folder, _file(scale, s), done) for scale, _ in levels)]
            if missing:
                # A large generator takes minutes for them on a CPU.
                logger.info(
                    "Rendering %d images of %s on %s.",
                    len(missing) * len(levels),
                    self.generator.name,
                    self.generator.device,
                )
            for seed in missing:
                for scale, strength in levels:
                    ws = self.generator.latents([seed], self.truncation_psi)
                    image = self.generator.render(ws, {channel: strength * weight for channel, weight in moved})
                    done[_file(scale, seed)] = _save(image[0], folder / _file(scale, seed))
                _write_manifest(folder, {"generator": self.generator.name, **depends_on}, done)
        return tuple(
            Twins(f"{seed:06d}", tuple((float(scale), folder / _file(scale, seed)) for scale, _ in levels))
            for seed in seeds
        )

    def _moved_channels(self) -> tuple[WeightedChannel, ...]:
        moved = self.channels.channels(self.generator)
        names = [f"{channel.layer}:{channel.channel}" for channel, _ in moved]
        if not moved or len(set(names)) < len(names) or any(weight == 0 for _, weight in moved):
            raise InputError(
                f"Expected one or more style channels, each once and with a weight other than 0, but got "
                f"{', '.join(names) or 'none'}; change pairs.channels."
            )
        return moved

    def _depends_on(self, moved: tuple[WeightedChannel, ...]) -> dict[str, Any]:
        return {
            "layout": LAYOUT_VERSION,
            "fingerprint": self.generator.fingerprint,
            "channels": sorted([channel.layer, channel.channel, float(weight)] for channel, weight in moved),
            "strengths": [list(level) for level in self.levels],
            "truncation_psi": float(self.truncation_psi),
        }


def strength_levels(strengths: Mapping[float, float] | None) -> tuple[tuple[float, float], ...]:
    """Slider scale and strength of every level, ascending.

    Args:
        strengths: as `StyleGanPairs` takes them.

    Raises:
        InputError: if they are no numbers, fewer than 2, or they do not ascend with the scales.
    """
    chosen = DEFAULT_STRENGTHS if strengths is None else strengths
    levels = tuple(sorted((float(scale), float(strength)) for scale, strength in chosen.items()))
    if not all(math.isfinite(number) for level in levels for number in level):
        raise InputError(f"Expected pairs.strengths to be numbers, but got {dict(chosen)}; change them.")
    if len(levels) < 2:
        raise InputError(
            f"Expected pairs.strengths at 2 or more slider scales, but got {dict(chosen)}; name more of them."
        )
    for (low, lower), (high, higher) in itertools.pairwise(levels):
        if not lower < higher:
            raise InputError(
                f"Expected pairs.strengths to ascend with the slider scales, but got {lower:g} at scale {low:g} and "
                f"{higher:g} at scale {high:g}; give the channel a negative weight to turn it round."
            )
    return levels


def _file(scale: float, seed: int) -> str:
    return f"{float(scale):+}/{seed:06d}.png"


def _save(image: Float[Tensor, "3 h w"], path: Path) -> str:
    """Writes a PNG and returns its SHA-256."""
    pixels = (image * 255).round().permute(1, 2, 0).cpu().numpy().astype(np.uint8)
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary)
    return sha256_file(path)


def _is_whole(folder: Path, file: str, done: Mapping[str, str]) -> bool:
    if file not in done:
        return False
    path = folder / file
    if not path.is_file() or sha256_file(path) != done[file]:
        logger.warning(
            "The rendered image %s is %s; it is rendered again.", path, "damaged" if path.is_file() else "gone"
        )
        return False
    return True


def _read_manifest(folder: Path) -> dict[str, str]:
    """File -> SHA-256 of what was rendered; leftovers of a killed job are removed."""
    for leftover in (*folder.glob("*/.*.png"), *folder.glob(".manifest-*.json")):
        leftover.unlink()
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return {}
    try:
        return {str(name): str(digest) for name, digest in json.loads(path.read_text())["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        logger.warning("The manifest %s is damaged; its images are rendered again.", path)
        return {}


def _write_manifest(folder: Path, made_by: dict[str, Any], done: Mapping[str, str]) -> None:
    with atomic_path(folder / MANIFEST_FILE) as temporary:
        temporary.write_text(json.dumps({**made_by, "files": dict(sorted(done.items()))}, indent=2) + "\n")
