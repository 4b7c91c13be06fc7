"""One training step of a text slider by the project's own module, apart from the loop around it."""

from collections.abc import Sequence

import torch

from slider_lightning.adapters import AdapterConfig, SliderBank, new_slider
from slider_lightning.backbone import Backbone
from slider_lightning.concepts import Concept
from slider_lightning.data import ConceptEmbeds, TeacherBatch, TeacherStates
from slider_lightning.objectives import TextObjective
from slider_lightning.training import OptimizerConfig, SliderModule, TextTask

GRADIENT_CLIP = 1.0


class SliderStep:
    """One slider in training: eq. 4 at both poles, gradient clipping, AdamW (fused on a GPU) at its highest lr.

    Args:
        backbone: the frozen model.
        concept: the prompts.
        adapter: form of the slider.
    """

    def __init__(self, backbone: Backbone, concept: Concept, adapter: AdapterConfig) -> None:
        self.backbone = backbone
        self.embeds = ConceptEmbeds.encode(backbone, concept)
        self.bank = SliderBank(backbone.unet, [new_slider(adapter, backbone.unet, seed=0)])
        config = OptimizerConfig()
        task = TextTask(backbone, self.embeds.target, TextObjective(), config)
        task.move()
        self.module = SliderModule(backbone, self.bank, [task])
        fused = backbone.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(
            self.bank.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=fused
        )

    def run(self, batch: TeacherBatch) -> torch.Tensor:
        """One optimizer step; the loss stays on the device."""
        loss = self.loss(batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.module.configure_gradient_clipping(self.optimizer, GRADIENT_CLIP)
        self.optimizer.step()
        return loss.detach()

    def loss(self, batch: TeacherBatch) -> torch.Tensor:
        """The loss of a batch, every state at both poles in one forward."""
        return self.module.losses((batch,)).sum()

    def batch(self, states: TeacherStates, rows: Sequence[int]) -> TeacherBatch:
        """Some states as a batch at scale 1, on the backbone's device."""
        chosen = states[torch.tensor(rows, device=states.latents.device)]
        return TeacherBatch(**chosen.tensors(), scale=torch.ones(len(rows))).to(self.backbone.device)

    def empty_states(self, count: int) -> TeacherStates:
        """States of the right shapes without a teacher: for counting operations."""
        preserved = len(self.embeds.positive)
        device, shape = self.backbone.device, self.backbone.latent_shape
        latents = torch.zeros(count, *shape, device=device)
        scores = torch.zeros(count, preserved, *shape, device=device)
        none = torch.zeros(count, 0, *shape, device=device)
        timestep = torch.zeros(count, dtype=torch.long, device=device)
        return TeacherStates(latents, timestep, latents, scores, scores, none, none)
