"""What the judges read off generated faces whose style channels were moved, kept in files."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import safetensors.torch
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn

from evaluation.attributes import schema_labels, schema_to_json
from evaluation.judges.panel import Judges
from evaluation.measuring import weights_hash
from slider_lightning.assets import atomic_path, locked
from slider_lightning.data.style_space import StyleChannel, StyleSpace
from slider_lightning.errors import InputError

logger = logging.getLogger(__name__)

# Part of the key, so that files of another layout are never taken for these.
LAYOUT_VERSION = 1
EYE_AREA = "eye_area"
CLIP = "clip"
SIDES = (-1.0, 1.0)


@dataclass(frozen=True)
class FaceReader:
    """The judges' readings of an image as one row of numbers.

    Args:
        judges: who measures.
        texts: what CLIP compares the images with, see `clip_texts`; none asks nothing of it.
    """

    judges: Judges
    texts: tuple[str, ...] = ()

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The labels of the classifier, then "eye_area" where there is a parser and "clip" where there are texts."""
        more = [EYE_AREA] if self.judges.parser is not None else []
        return (*schema_labels(self.judges.classifier.schema), *more, *([CLIP] if self.texts else []))

    @torch.no_grad()
    def read(self, images: Float[Tensor, "n 3 h w"], boxes: Float[Tensor, "n 4"] | None) -> Float[Tensor, "n columns"]:
        """The columns of images in [0, 1], double precision in main memory.

        Args:
            images: of faces.
            boxes: where the faces are in the unmoved images, as the parser gives them.
        """
        readings = self.judges.classifier(images)
        parts = [readings[a.name].reshape(len(images), -1) for a in self.judges.classifier.schema]
        if self.judges.parser is not None:
            parts.append(self.judges.parser.eye_area(images, boxes)[:, None])
        if self.texts:
            scores = [self.judges.clip.score(images, [text])[:, None] for text in self.texts]
            parts.append(scores[0] - scores[1] if len(scores) == 2 else scores[0])
        return torch.cat([part.double().cpu() for part in parts], dim=1)

    def identity(self) -> dict[str, object]:
        """All that the readings of an image depend on, as JSON."""
        read = {"classifier": self.judges.classifier, "parser": self.judges.parser}
        judges = read | ({"clip": self.judges.clip} if self.texts else {})
        return {
            "names": {role: judge.name for role, judge in judges.items() if judge is not None},
            "weights": {role: weights_hash(judge) for role, judge in judges.items() if isinstance(judge, nn.Module)},
            "schema": schema_to_json(self.judges.classifier.schema),
            "texts": list(self.texts),
        }


@dataclass(frozen=True)
class FaceMoves:
    """Which faces are moved, and how far.

    Args:
        first_seed: of the faces; each has the seed after the one before.
        count: number of faces.
        strength: deviations of its channel that a face is moved to either side.
        truncation_psi: how near the faces are drawn to the mean one.
    """

    first_seed: int
    count: int
    strength: float
    truncation_psi: float

    @property
    def seeds(self) -> range:
        """The seeds of the faces."""
        return range(self.first_seed, self.first_seed + self.count)


class MovedFaces:
    """Readings of faces as they are, and with one channel moved to either side: from files, or made now.

    The folder's name is a hash of all that the readings depend on, so every search with the same generator, judges and
    moves finds them; each group of channels is a file of its own, whole or absent, so that a killed search goes on.

    Args:
        root: folder of all readings.
        space: the generator.
        reader: the judges.
        moves: faces and strength.
        batch_size: images per call of the generator.
    """

    def __init__(self, root: Path, space: StyleSpace, reader: FaceReader, moves: FaceMoves, batch_size: int) -> None:
        self.space, self.reader, self.moves, self.batch_size = space, reader, moves, batch_size
        identity = {
            "layout": LAYOUT_VERSION,
            "generator": space.fingerprint,
            "judges": reader.identity(),
            "moves": asdict(moves),
        }
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]
        self.folder = root / key
        self.identity = identity

    @cached_property
    def base(self) -> Float[Tensor, "faces columns"]:
        """The readings of the faces as they are."""
        shape = (self.moves.count, len(self.reader.columns))
        return self._kept("base", shape, lambda: torch.cat([self._read(ws, boxes) for ws, boxes in self._batches]))

    def moved(
        self, name: str, channels: Sequence[StyleChannel], on_channel: Callable[[int], None] | None = None
    ) -> Float[Tensor, "channels 2 faces columns"]:
        """The readings of all faces with each channel moved by -strength and +strength deviations.

        Args:
            name: of the file that keeps them; it stands for these channels.
            channels: one after the other.
            on_channel: called with the number of channels that are done since the last call.

        Raises:
            InputError: if the folder cannot be written.
        """
        shape = (len(channels), len(SIDES), self.moves.count, len(self.reader.columns))
        made = 0

        def make() -> Tensor:
            nonlocal made
            rows = []
            for channel in channels:
                rows.append(self._moved(channel))
                made += 1
                if on_channel is not None:
                    on_channel(1)
            return torch.stack(rows)

        readings = self._kept(name, shape, make)
        if on_channel is not None and made < len(channels):
            on_channel(len(channels) - made)
        return readings

    @cached_property
    def _batches(self) -> list[tuple[Tensor, Tensor | None]]:
        """The faces' latents in batches, and where the parser finds each face before it is moved."""
        ws = self.space.latents(self.moves.seeds, self.moves.truncation_psi)
        parser = self.reader.judges.parser
        return [
            (some, None if parser is None else parser.face_boxes(self.space.render(some)))
            for some in ws.split(self.batch_size)
        ]

    def _moved(self, channel: StyleChannel) -> Float[Tensor, "2 faces columns"]:
        sides = [
            [self._read(ws, boxes, {channel: side * self.moves.strength}) for ws, boxes in self._batches]
            for side in SIDES
        ]
        return torch.stack([torch.cat(side) for side in sides])

    def _read(
        self, ws: Tensor, boxes: Tensor | None, moves: dict[StyleChannel, float] | None = None
    ) -> Float[Tensor, "n columns"]:
        return self.reader.read(self.space.render(ws, moves), boxes)

    def _kept(self, name: str, shape: tuple[int, ...], make: Callable[[], Tensor]) -> Tensor:
        with locked(self.folder, "readings of style channels"):
            path = self.folder / f"{name}.safetensors"
            if (found := _stored(path, shape)) is not None:
                return found
            if not (index := self.folder / "made_from.json").is_file():
                with atomic_path(index) as temporary:
                    temporary.write_text(json.dumps(self.identity, indent=2) + "\n")
            made = make().contiguous()
            content = safetensors.torch.save({"readings": made}, {"sha256": _digest(made)})
            with atomic_path(path) as temporary:
                temporary.write_bytes(content)
            return made


def _stored(path: Path, shape: tuple[int, ...]) -> Tensor | None:
    """The readings of a file, None where it is absent; one that is damaged is told and taken for absent."""
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, "pt") as file:
            readings: Tensor = file.get_tensor("readings")
            digest = (file.metadata() or {}).get("sha256")
    except (SafetensorError, OSError) as error:
        logger.warning("The readings %s are damaged (%s); they are made again.", path, error)
        return None
    if tuple(readings.shape) != shape or digest != _digest(readings):
        logger.warning("The readings %s are damaged; they are made again.", path)
        return None
    return readings


def _digest(readings: Tensor) -> str:
    return hashlib.sha256(readings.numpy().tobytes()).hexdigest()


def clip_texts(target: str) -> tuple[str, ...]:
    """The texts of a target "clip: TEXT" or "clip: TEXT | OPPOSITE"; none for any other target.

    With an opposite it is the difference of the two scores that counts: the cosines with all texts rise and fall
    together, and what they share says nothing of any of them.

    Raises:
        InputError: if a text is blank or there are more than two.

    Example:
        >>> clip_texts("clip: a smiling face | a frowning face"), clip_texts("eye_area")
        (('a smiling face', 'a frowning face'), ())
    """
    kind, colon, words = target.partition(":")
    if kind.strip() != CLIP or not colon:
        return ()
    texts = tuple(text.strip() for text in words.split("|"))
    if not all(texts) or len(texts) > 2:
        raise InputError(f"Expected the target to be '{CLIP}: TEXT' or '{CLIP}: TEXT | OPPOSITE', but got {target!r}.")
    return texts
