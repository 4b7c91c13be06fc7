"""Files of learned concepts: safetensors whose header says what they are.

`clip_l` and `clip_g` hold the token's vectors for `text_encoder` and `text_encoder_2`, under the names that loaders of
SDXL embeddings know; every other tensor is the change of the UNet's weight at the diffusers path it is named after.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from evaluation.baselines.personal.concept import Kind, LearnedConcept
from evaluation.baselines.personal.deltas import KeyValueDeltas
from evaluation.baselines.personal.tokens import LearnedVectors, Placeholder
from slider_lightning.assets import atomic_path
from slider_lightning.errors import InputError

CONCEPT_FILE = "learned.safetensors"
METADATA_KEY = "personalisation"
DIGEST_KEY = "personalisation_sha256"
_VECTORS = ("clip_l", "clip_g")


@dataclass(frozen=True)
class ConceptMetadata:
    """What a file says about itself.

    Args:
        kind: "textual_inversion" or "custom_diffusion".
        token: the placeholder token, as prompts write it.
        num_vectors: words that it expands to.
        base_model: name or folder of the model it was trained on.
        base_model_hash: that backbone's fingerprint.
        initializer: the word that its vectors began as; None is the mean of the vocabulary.
        templates: the prompts it was trained under.
    """

    kind: Kind
    token: str
    num_vectors: int
    base_model: str
    base_model_hash: str
    initializer: str | None = None
    templates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "templates", tuple(self.templates))  # JSON has no tuples
        if self.kind not in get_args(Kind):
            raise ValueError(f"its kind is {self.kind!r}")


def save_concept(path: Path, concept: LearnedConcept, metadata: ConceptMetadata) -> None:
    """Write a file; it appears whole or not at all.

    Args:
        path: the file; its folder is made when it is missing.
        concept: stored in fp32.
        metadata: must agree with the concept's kind and token.

    Raises:
        InputError: if the disk refuses.
        ValueError: if the metadata describes another concept.
    """
    placeholder = concept.vectors.placeholder
    if (metadata.kind, metadata.token, metadata.num_vectors) != (
        concept.kind,
        placeholder.token,
        placeholder.num_vectors,
    ):
        raise ValueError(f"Expected metadata of a {concept.kind} of {placeholder}, but got {metadata}.")
    tensors = concept.named_tensors()
    header = {METADATA_KEY: json.dumps(asdict(metadata)), DIGEST_KEY: tensors_digest(tensors)}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=header)


def load_concept(source: str | Path) -> tuple[LearnedConcept, ConceptMetadata]:
    """Read a file of `save_concept`, or the one in a run folder.

    Raises:
        InputError: if there is no such file, it is damaged, or it is none of `save_concept`.
    """
    path = Path(source) / CONCEPT_FILE if Path(source).is_dir() else Path(source)
    if not path.is_file():
        raise InputError(f"Expected a learned concept at {path}, but there is none; train it with train_baseline.")
    tensors, header = _read(path)
    if METADATA_KEY not in header:
        raise InputError(
            f"Expected {path} to be a file of train_baseline, but its header does not say so; give another file."
        )
    if header.get(DIGEST_KEY) != tensors_digest(tensors):
        raise _damaged(path, "its values are not the ones that were saved")
    try:
        metadata = ConceptMetadata(**json.loads(header[METADATA_KEY]))
        return _concept(tensors, metadata), metadata
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"its header does not fit ({error})") from error


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and values of fp32 tensors in main memory."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name}\0{tuple(tensors[name].shape)}\0".encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def _concept(tensors: Mapping[str, Tensor], metadata: ConceptMetadata) -> LearnedConcept:
    placeholder = Placeholder(metadata.token, metadata.num_vectors)
    vectors = LearnedVectors(placeholder, *(tensors[name] for name in _VECTORS))
    deltas = {name: tensor for name, tensor in tensors.items() if name not in _VECTORS}
    concept = LearnedConcept(vectors, KeyValueDeltas(deltas) if deltas else None)
    if concept.kind != metadata.kind:
        raise ValueError(f"it says {metadata.kind} and holds a {concept.kind}")
    return concept


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _damaged(path, f"it cannot be read ({error})") from error


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(f"Expected {path} to be a whole file of a learned concept, but {reason}; copy or train it again.")
