"""What the tests of teacher states share: a concept, its cache, exact comparison, and the frozen model at one state."""

from pathlib import Path
from typing import Any

import torch

from slider_lightning.backbone import Backbone
from slider_lightning.concepts import Concept
from slider_lightning.data import ConceptEmbeds, RolloutConfig, TeacherCache, TeacherConfig, TeacherStates

CONCEPT = Concept("age", "a person", "an old person", "a young person", ("man", "woman"))
STEPS, PRESERVED = 5, 2
CONTRASTS = (("a man", "a woman"), ("a face", "no face"), ("glasses", "no glasses"))
ROLLOUT = RolloutConfig(num_inference_steps=STEPS, guidance_scale=3.0, rows_per_forward=7, seed=3)
# A state costs c_t, the unconditional half and both poles of every preserved phrase; nothing follows the last one.
FORWARDS = STEPS * (2 + 2 * PRESERVED) - 1


def cache_of(
    root: Path,
    backbone: Backbone,
    num_rollouts: int = 3,
    *,
    concept: Concept = CONCEPT,
    contrasts: tuple[tuple[str, str], ...] = (),
    **settings: Any,
) -> TeacherCache:
    """A cache of two rollouts per shard."""
    config = TeacherConfig(num_rollouts, **{"rollout": ROLLOUT, "rollouts_per_shard": 2, **settings})
    return TeacherCache(root, backbone, ConceptEmbeds.encode(backbone, concept, contrasts), config)


def shard_files(cache: TeacherCache, series: str = "") -> list[Path]:
    """Its shards, or those of a series: rollouts, noised or scores."""
    return sorted((cache.folder / series).rglob("*.safetensors"))


def assert_equal(states: TeacherStates, expected: TeacherStates) -> None:
    for name, tensor in expected.tensors().items():
        assert torch.equal(getattr(states, name), tensor), name


def predict(backbone: Backbone, latents: torch.Tensor, timestep: int, prompt: str) -> torch.Tensor:
    with torch.no_grad():
        return backbone.predict_noise(latents[None], timestep, backbone.encode_prompts([prompt]))[0]
