"""What the tests of teacher states share: exact comparison, and the frozen model's prediction at one state."""

import torch

from slider_lightning.backbone import Backbone
from slider_lightning.data import TeacherStates


def assert_equal(states: TeacherStates, expected: TeacherStates) -> None:
    for name, tensor in expected.tensors().items():
        assert torch.equal(getattr(states, name), tensor), name


def predict(backbone: Backbone, latents: torch.Tensor, timestep: int, prompt: str) -> torch.Tensor:
    with torch.no_grad():
        return backbone.predict_noise(latents[None], timestep, backbone.encode_prompts([prompt]))[0]
