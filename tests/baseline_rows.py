"""Shared by the tests of baselines: two rows of a grid, a concept, and a model that listens to its prompts."""

import torch

from evaluation.grids import GridRow
from slider_lightning.backbone import Backbone, SamplerConfig
from slider_lightning.concepts import Concept

AGE = Concept("age", "a person", "a person, very old", "a person, very young")
ROWS = [GridRow("image of a man", "a man", 3), GridRow("a woman", "a woman", 2**40)]
SAMPLER = SamplerConfig(num_inference_steps=2, guidance_scale=4.0, start_timestep=750)


@torch.no_grad()
def attentive(backbone: Backbone) -> Backbone:
    """The backbone with sharper and stronger attention: random weights else hardly hear a word."""
    for name, layer in backbone.unet.named_modules():
        if name.endswith(("attn1", "attn2")):
            layer.to_q.weight *= 4
            layer.to_out[0].weight *= 16
    return backbone
