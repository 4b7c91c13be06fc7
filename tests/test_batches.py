"""On-policy states, and which states and scales a training step gets."""

import dataclasses

import numpy as np
import pytest
import torch

from slider_lightning.adapters import AdapterConfig, Slider, SliderBank
from slider_lightning.backbone import Backbone
from slider_lightning.concepts import Concept
from slider_lightning.data import ConceptEmbeds, OnPolicyConfig, RolloutConfig, ScaleRange, TeacherStates
from slider_lightning.data.batches import CachedStates, StateLoader
from slider_lightning.data.draws import draw_rows
from slider_lightning.data.rollout import OnPolicyStates, rollout_scales
from slider_lightning.data.states import SliderPolicy, rollout_noise, rollout_states
from slider_lightning.data.steps import Share
from tests.teacher_states import assert_equal, predict

CONCEPT = Concept("age", "a person", "an old person", "a young person", ("man", "woman"))
STEPS, PRESERVED = 5, 2
ROLLOUT = RolloutConfig(num_inference_steps=STEPS, guidance_scale=3.0, rows_per_forward=7, seed=3)


@pytest.fixture
def embeds(backbone: Backbone) -> ConceptEmbeds:
    return ConceptEmbeds.encode(backbone, CONCEPT)


@pytest.fixture
def bank(backbone: Backbone) -> SliderBank:
    """A slider that changes something."""
    slider = Slider(backbone.unet, AdapterConfig(rank=2, alpha=2.0), seed=0)
    for name, parameter in slider.named_parameters():
        if "lora_up" in name:
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
    return SliderBank(backbone.unet, [slider])


def test_a_policy_moves_the_states_and_leaves_the_scores_frozen(backbone, embeds, bank) -> None:
    noise = rollout_noise(backbone, 3, [0])
    frozen = rollout_states(backbone, embeds, noise, ROLLOUT)
    off = rollout_states(backbone, embeds, noise, ROLLOUT, SliderPolicy(bank, torch.zeros(1)))
    torch.testing.assert_close(off.latents, frozen.latents, atol=1e-3, rtol=1e-3)
    before = backbone.sample_forwards
    states = rollout_states(backbone, embeds, noise, ROLLOUT, SliderPolicy(bank, torch.tensor([2.0])))
    assert backbone.sample_forwards - before == STEPS * (3 + 2 * PRESERVED) - 2
    assert torch.equal(states.latents[0], frozen.latents[0])
    assert (states.latents[-1] - frozen.latents[-1]).abs().mean() > 0.01
    last = predict(backbone, states.latents[-1], int(states.timestep[-1]), "a person")
    torch.testing.assert_close(states.eps_target[-1], last, atol=1e-4, rtol=1e-3)


def test_contrasts_under_a_policy_are_the_frozen_models(backbone, bank) -> None:
    embeds = ConceptEmbeds.encode(backbone, CONCEPT, (("a man", "a woman"),))
    source = OnPolicyStates(backbone, embeds, bank, OnPolicyConfig(1, ROLLOUT), ScaleRange(1.0, 2.0))
    states = source.rows(0, torch.tensor([STEPS - 1]))
    assert backbone.sample_forwards == STEPS * (3 + 2 * PRESERVED + 2) - 2
    for scores, prompt in ((states.eps_contrast_positive, "a man"), (states.eps_contrast_negative, "a woman")):
        expected = predict(backbone, states.latents[0], int(states.timestep[0]), prompt)
        torch.testing.assert_close(scores[0, 0], expected, atol=1e-4, rtol=1e-3)


def test_a_rollout_under_the_slider_follows_the_folded_model(backbone, embeds, bank) -> None:
    noise = rollout_noise(backbone, 3, [0])
    states = rollout_states(backbone, embeds, noise, ROLLOUT, SliderPolicy(bank, torch.tensor([-1.5])))
    with bank.folded(torch.tensor([-1.5])):
        folded = rollout_states(backbone, embeds, noise, ROLLOUT)
    torch.testing.assert_close(states.latents, folded.latents, atol=1e-3, rtol=1e-3)


def test_on_policy_buffers_hold_new_rollouts_drawn_by_seed_and_number(backbone, embeds, bank) -> None:
    source = OnPolicyStates(backbone, embeds, bank, OnPolicyConfig(2, ROLLOUT), ScaleRange(1.0, 2.0))
    every = torch.arange(source.num_states)
    first, second = source.rows(0, every), source.rows(1, every)
    forwards = backbone.sample_forwards
    assert not torch.equal(first.latents, second.latents)
    assert torch.equal(second.latents[[0, STEPS]], rollout_noise(backbone, 3, [2, 3]))
    assert_equal(source.rows(1, every[3:6]), second[3:6])
    assert backbone.sample_forwards == forwards
    assert_equal(source.rows(0, every), first)


def test_rollout_scales_take_both_signs_within_the_range() -> None:
    scales = rollout_scales(0, range(0, 200), ScaleRange(0.5, 2.0))
    assert (scales[0::2] > 0).all()
    assert (scales[1::2] < 0).all()
    assert scales.abs().min() >= 0.5
    assert scales.abs().max() <= 2.0
    assert scales.abs().std() > 0.3
    assert torch.equal(rollout_scales(0, range(50, 60), ScaleRange(0.5, 2.0)), scales[50:60])


def test_rows_of_all_processes_are_the_rows_of_one() -> None:
    settings = {"seed": 5, "num_states": 30, "scale_range": ScaleRange(0.0, 2.0)}
    for step in (0, 2, 7):
        whole = draw_rows(step, share=Share(12), **settings)
        parts = [draw_rows(step, share=Share(4, rank, 3), **settings) for rank in range(3)]
        for field in ("epoch", "index", "scale"):
            np.testing.assert_array_equal(
                np.concatenate([getattr(part, field) for part in parts]), getattr(whole, field)
            )


def test_every_state_is_used_once_before_any_is_used_again() -> None:
    draws = [draw_rows(step, seed=5, num_states=30, share=Share(8), scale_range=ScaleRange()) for step in range(15)]
    order = np.concatenate([draw.index for draw in draws])
    for epoch in range(4):
        assert sorted(order[epoch * 30 : (epoch + 1) * 30]) == list(range(30))
    assert list(order[:30]) != list(order[30:60])


def test_scales_fill_their_range_and_differ_between_steps_and_seeds() -> None:
    def scales(seed: int) -> np.ndarray:
        settings = {"seed": seed, "num_states": 30, "share": Share(8), "scale_range": ScaleRange(0.5, 2.0)}
        return np.concatenate([draw_rows(step, **settings).scale for step in range(100)])

    drawn = scales(0)
    assert 0.5 <= drawn.min() < 0.52
    assert 1.98 < drawn.max() <= 2.0
    assert drawn.mean() == pytest.approx(1.25, abs=0.05)
    assert len(np.unique(drawn)) == 800
    assert not np.array_equal(drawn, scales(1))


def test_a_loader_goes_on_where_its_state_was_taken() -> None:
    pair = (1, 4, 2, 2)
    states = TeacherStates(*(torch.randn(10, *shape) for shape in ((4, 2, 2), (), (4, 2, 2), pair, pair, pair, pair)))

    def loader() -> StateLoader:
        return StateLoader(CachedStates(states), num_steps=9, share=Share(4), scale_range=ScaleRange(), seed=0)

    whole = list(loader())
    stopped, resumed = loader(), loader()
    iterator = iter(stopped)
    for _ in range(4):
        next(iterator)
    resumed.load_state_dict(stopped.state_dict())
    rest = list(resumed)
    assert (len(whole), len(rest), len(resumed)) == (9, 5, 9)
    for batch, expected in zip(rest, whole[4:], strict=True):
        for field in dataclasses.fields(expected):
            assert torch.equal(getattr(batch, field.name), getattr(expected, field.name))
