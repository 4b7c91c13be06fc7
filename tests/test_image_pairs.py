"""Image-pair sliders: eq. 6 and its options, the batches, the training step, and what ends a training loudly."""

from dataclasses import replace

import pytest
import torch

from slider_lightning.adapters import AdapterConfig, Slider, SliderBank
from slider_lightning.backbone import Backbone, ddim_scheduler, load_backbone
from slider_lightning.concepts import Concept
from slider_lightning.data import ConceptEmbeds, PairsConfig, Share
from slider_lightning.data.pairs import LatentTwins, Twins, encode_twins, twins_digest
from slider_lightning.data.pairs.batches import PairBatch, PairLoader, level_pairs
from slider_lightning.errors import InputError
from slider_lightning.objectives import (
    DifferenceMask,
    ImagePairObjective,
    Projection,
    TextGuidance,
    TextObjective,
    difference_weights,
    odd_targets,
    weighted_loss,
)
from slider_lightning.training import OptimizerConfig, PairEmbeds, PairTask, RunFolder, SliderModule
from tests.short_training import drawn_twins, train

SHAPE = (4, 16, 16)
PLAIN = ImagePairObjective()


def latent_twins(name: str = "a", scales: tuple[float, ...] = (-1.0, 1.0), shape=SHAPE, seed: int = 0) -> LatentTwins:
    generator = torch.Generator().manual_seed(seed)
    mean, std = (torch.randn(len(scales), *shape, generator=generator) for _ in range(2))
    return LatentTwins(name, torch.tensor(scales), mean, std.abs(), torch.tensor([64.0, 64, 0, 0, 64, 64]))


def loader(backbone: Backbone, twins=None, **changes) -> PairLoader:
    settings = {"config": PairsConfig(), "mask": None, "num_steps": 40, "share": Share(4), "seed": 3} | changes
    twins = twins or [latent_twins(str(i), seed=i) for i in range(3)]
    return PairLoader(twins, ddim_scheduler(backbone.scheduler), **settings)


def pair_module(backbone: Backbone, objective: ImagePairObjective = PLAIN, text=None, moved: float = 0.1):
    slider = Slider(backbone.unet, AdapterConfig(rank=2, alpha=2.0), seed=0)
    for name, parameter in slider.named_parameters():
        if "lora_up" in name and moved:
            torch.nn.init.normal_(parameter, std=moved, generator=torch.Generator().manual_seed(1))
    embeds = PairEmbeds(backbone.encode_negative_prompt(None), text)
    task = PairTask(backbone, embeds, objective, OptimizerConfig())
    return SliderModule(backbone, SliderBank(backbone.unet, [slider]), [task])


# The objective


def test_odd_targets_are_the_twins_noise_when_what_they_miss_differs_by_sign_alone() -> None:
    """With opposite misses at -1 and +1 all of what eq. 6 asks is odd, so its targets are the noise itself."""
    noise, miss = torch.randn(2, 5, *SHAPE)
    scale = torch.ones(5)
    low, high = odd_targets(noise + miss, noise - miss, noise, noise, -scale, scale)
    torch.testing.assert_close(low, noise)
    torch.testing.assert_close(high, noise)


def test_odd_targets_ask_nothing_where_both_twins_are_missed_alike_and_nothing_at_scale_zero() -> None:
    noise, miss, pred = torch.randn(3, 5, *SHAPE)
    low, high = odd_targets(noise - miss, noise - miss, noise, noise, -torch.ones(5), torch.full((5,), 2.0))
    torch.testing.assert_close(low, noise - miss)
    torch.testing.assert_close(high, noise - miss)
    low, _ = odd_targets(pred, noise, noise, noise, torch.zeros(5), torch.ones(5))
    torch.testing.assert_close(low, pred)


def test_odd_targets_are_a_line_through_the_frozen_model() -> None:
    """At uneven scales: what they add is proportional to the scale, and its difference is that of eq. 6."""
    pred_low, pred_high, target_low, target_high = torch.randn(4, 5, *SHAPE)
    s_low, s_high = torch.full((5,), 0.5), torch.full((5,), 2.0)
    low, high = odd_targets(pred_low, pred_high, target_low, target_high, s_low, s_high)
    torch.testing.assert_close((low - pred_low) / 0.5, (high - pred_high) / 2.0)
    torch.testing.assert_close(
        (high - pred_high) - (low - pred_low), (target_high - pred_high) - (target_low - pred_low), atol=1e-5, rtol=1e-5
    )


def test_difference_weights_mark_what_differs_and_keep_the_mean() -> None:
    low = torch.randn(2, *SHAPE)
    high = low.clone()
    high[:, :, 4:6, 9:12] += 1.0
    sharp = difference_weights(low, high, floor=0.25, blur=0)
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[4:6, 9:12] = True
    torch.testing.assert_close(sharp.mean((1, 2, 3)), torch.ones(2))
    torch.testing.assert_close(sharp[0, 0][inside] / sharp[0, 0][~inside].mean(), torch.full((6,), 4.0))
    spread = difference_weights(low, high, floor=0.25, blur=1.5)
    torch.testing.assert_close(spread.mean((1, 2, 3)), torch.ones(2))
    assert spread[0, 0, 7, 10] > spread[0, 0, 15, 0]
    torch.testing.assert_close(difference_weights(low, low, floor=0.25, blur=1.0), torch.ones(2, 1, 16, 16))


def test_the_loss_is_the_mean_of_both_sides_squared_errors() -> None:
    noise_pred, target = torch.randn(2, 6, *SHAPE)
    sides = [(part - wanted).square().mean() for part, wanted in zip(noise_pred.chunk(2), target.chunk(2), strict=True)]
    torch.testing.assert_close(weighted_loss(noise_pred, target, None), sum(sides) / 2)
    weights = torch.zeros(6, 1, 16, 16)
    weights[2] = 1.0
    torch.testing.assert_close(
        weighted_loss(noise_pred, target, weights), (noise_pred[2] - target[2]).square().mean() / 6
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: DifferenceMask(floor=0.0),
        lambda: DifferenceMask(blur=-1.0),
        lambda: TextGuidance(weight=0.0),
        lambda: TextGuidance(objective=TextObjective(project=Projection((("a man", "a woman"),)))),
        lambda: PairsConfig(first_timestep=700, last_timestep=600),
        lambda: PairsConfig(last_timestep=1001),
        lambda: PairsConfig(first_timestep=1000, last_timestep=1000),
    ],
)
def test_settings_out_of_range_are_refused(make) -> None:
    with pytest.raises(InputError):
        make()


# The batches


@pytest.mark.parametrize(
    ("scales", "expected"),
    [
        ((-1.0, 1.0), ((0, 1),)),
        ((-2.0, -1.0, 1.0, 2.0), ((0, 2), (0, 3), (1, 2), (1, 3))),
        ((0.0, 0.5, 1.0), ((0, 1), (0, 2), (1, 2))),
        ((-1.0, 0.0, 1.0), ((0, 2),)),
    ],
)
def test_levels_on_two_sides_of_zero_are_trained_together(scales, expected) -> None:
    assert level_pairs(scales) == expected


def test_twins_share_noise_and_timestep_and_carry_both_signs(backbone) -> None:
    twins = [latent_twins(str(i), seed=i) for i in range(3)]
    batches = loader(backbone, twins)
    alphas = ddim_scheduler(backbone.scheduler).alphas_cumprod
    by_mean = {float(t.mean[side].sum()): (t, side) for t in twins for side in (0, 1)}
    for step in (0, 7):
        batch = batches.batch(step)
        assert batch.scale.tolist() == [-1.0] * 4 + [1.0] * 4
        for rows in (batch.target, batch.timestep):
            assert torch.equal(rows[:4], rows[4:])
        assert len({float(noise.sum()) for noise in batch.target[:4]}) == 4
        alpha = alphas[batch.timestep].view(-1, 1, 1, 1)
        clean = (batch.latents - (1 - alpha).sqrt() * batch.target) / alpha.sqrt()
        for low, high in zip(clean[:4], clean[4:], strict=True):
            found = [by_mean[min(by_mean, key=lambda key: abs(key - float(row.sum())))] for row in (low, high)]
            assert found[0][0] is found[1][0]
            assert [side for _, side in found] == [0, 1]
            torch.testing.assert_close(low, found[0][0].mean[0], atol=1e-3, rtol=1e-3)


def test_a_checkpoint_that_predicts_velocity_is_trained_on_velocity(backbone) -> None:
    scheduler = ddim_scheduler(backbone.scheduler)
    scheduler.register_to_config(prediction_type="v_prediction")
    twins = [latent_twins()]
    settings = {"config": PairsConfig(), "mask": None, "num_steps": 2, "share": Share(2), "seed": 0}
    batch = PairLoader(twins, scheduler, **settings).batch(0)
    alpha = scheduler.alphas_cumprod[batch.timestep].view(-1, 1, 1, 1)
    clean = torch.cat([twins[0].mean[[0, 0]], twins[0].mean[[1, 1]]])
    noise = (batch.latents - alpha.sqrt() * clean) / (1 - alpha).sqrt()
    torch.testing.assert_close(batch.target, alpha.sqrt() * noise - (1 - alpha).sqrt() * clean, atol=1e-4, rtol=1e-4)


def test_processes_share_a_step_and_every_pair_is_used_once_before_any_is_used_again(backbone) -> None:
    whole, parts = loader(backbone, share=Share(6)), [loader(backbone, share=Share(2, rank, 3)) for rank in range(3)]
    batch, pieces = whole.batch(5), [part.batch(5) for part in parts]
    for name in ("latents", "target", "timestep"):
        low, high = ([getattr(piece, name).chunk(2)[side] for piece in pieces] for side in (0, 1))
        assert torch.equal(torch.cat([*low, *high]), getattr(batch, name))
    timesteps = whole.batch(0).timestep[:6].sort().values
    assert all(lower <= t < lower + 126 for lower, t in zip(range(0, 751, 125), timesteps.tolist(), strict=False))


def test_sizes_take_turns_and_a_batch_holds_one(backbone) -> None:
    twins = [latent_twins("wide", shape=(4, 12, 20)), *(latent_twins(str(i), seed=i) for i in range(3))]
    batches = loader(backbone, twins, num_steps=200)
    shapes = [tuple(batches.batch(step).latents.shape[1:]) for step in range(200)]
    assert 0.15 < shapes.count((4, 12, 20)) / 200 < 0.35
    assert set(shapes) == {(4, 12, 20), SHAPE}


def test_drawn_latents_move_by_the_posteriors_deviation_and_alike_for_twins(backbone) -> None:
    fixed, drawn = (loader(backbone, config=PairsConfig(sample_latents=on)).batch(1) for on in (False, True))
    assert torch.equal(fixed.target, drawn.target)
    alpha = ddim_scheduler(backbone.scheduler).alphas_cumprod[fixed.timestep].view(-1, 1, 1, 1)
    move = (drawn.latents - fixed.latents) / alpha.sqrt()
    assert float(move.abs().mean()) > 0.1
    twins = [latent_twins("a", scales=(-1.0, 1.0))]
    twins[0].std[1] = twins[0].std[0]
    fixed, drawn = (loader(backbone, twins, config=PairsConfig(sample_latents=on)).batch(1) for on in (False, True))
    move = drawn.latents - fixed.latents
    torch.testing.assert_close(move[:4], move[4:], atol=1e-5, rtol=1e-4)


def test_a_slider_that_is_always_on_is_trained_at_every_timestep(backbone) -> None:
    timesteps = torch.cat(
        [loader(backbone, config=PairsConfig(last_timestep=1000)).batch(step).timestep for step in range(40)]
    )
    assert 975 < int(timesteps.max()) <= 999


def test_a_checkpoint_that_predicts_the_image_is_refused(backbone) -> None:
    scheduler = ddim_scheduler(backbone.scheduler)
    scheduler.register_to_config(prediction_type="sample")
    with pytest.raises(InputError, match="'sample'"):
        PairLoader([latent_twins()], scheduler, config=PairsConfig(), mask=None, num_steps=1, share=Share(1), seed=0)


def test_a_level_at_zero_is_not_trained(backbone) -> None:
    batch = loader(backbone, [latent_twins(scales=(0.0, 1.0))]).batch(0)
    rows = batch.active()
    assert (len(batch), len(rows)) == (8, 4)
    assert rows.scale.tolist() == [1.0] * 4
    assert torch.equal(rows.latents, batch.latents[4:])


# The training step


def batch_of(backbone: Backbone, **changes) -> PairBatch:
    return loader(backbone, **changes).batch(0)


def test_a_step_costs_two_sample_forwards_per_pair_and_is_eq_6(backbone) -> None:
    module, batch = pair_module(backbone), batch_of(backbone)
    before = backbone.sample_forwards
    loss = module.losses((batch,)).sum()
    assert backbone.sample_forwards - before == 2 * 4
    with module.bank.scales(batch.scale[:, None]):
        pred = backbone.predict_noise(batch.latents, batch.timestep, module.tasks[0].embeds.prompt.repeat_interleave(8))
    by_hand = ((pred[:4] - batch.target[:4]).square().mean() + (pred[4:] - batch.target[:4]).square().mean()) / 2
    torch.testing.assert_close(loss, by_hand)
    loss.backward()
    assert all(parameter.grad is not None for parameter in module.bank.parameters())


def test_the_anchor_costs_the_frozen_rows_and_is_zero_for_a_slider_that_changes_nothing_on_equal_twins(
    backbone,
) -> None:
    twins = latent_twins()
    twins.mean[1] = twins.mean[0]
    module = pair_module(backbone, ImagePairObjective(anchor=True), moved=0.0)
    batch = batch_of(backbone, twins=[twins])
    before = backbone.sample_forwards
    loss = module.losses((batch,)).sum()
    assert backbone.sample_forwards - before == 2 * 4 + 2 * 4
    torch.testing.assert_close(loss, torch.zeros(()), atol=1e-10, rtol=0)
    assert float(module.losses((batch_of(backbone),)).sum().detach()) > 1e-6


def test_text_guidance_adds_eq_4_at_the_twins_states(backbone) -> None:
    concept = Concept("age", "a person", "an old person", "a young person", ("man", "woman"))
    text = ConceptEmbeds.encode(backbone, concept)
    guidance = TextGuidance(weight=0.5, objective=TextObjective(eta=3.0, reduction="mean"))
    both, plain = pair_module(backbone, ImagePairObjective(text=guidance), text), pair_module(backbone)
    batch = batch_of(backbone, share=Share(1))
    before = backbone.sample_forwards
    loss = both.losses((batch,)).sum()
    assert backbone.sample_forwards - before == 2 + 2 * (2 + 2 * 2)

    def eps(row: int, prompt: str, scale: float = 0.0) -> torch.Tensor:
        with both.bank.scales(torch.tensor([[scale]])):
            return backbone.predict_noise(
                batch.latents[row, None], batch.timestep[row, None], backbone.encode_prompts([prompt])
            )

    by_hand = []
    for row, scale in enumerate((-1.0, 1.0)):
        moves = [eps(row, f"an old person, {p}") - eps(row, f"a young person, {p}") for p in ("man", "woman")]
        wanted = eps(row, "a person") + scale * 3.0 * (moves[0] + moves[1]) / 2
        by_hand.append((eps(row, "a person", scale) - wanted).square().mean())
    extra = (loss - plain.losses((batch,)).sum()) / 0.5
    torch.testing.assert_close(extra, sum(by_hand) / 2, atol=1e-4, rtol=1e-3)


def test_size_conditioning_reaches_the_unet(backbone) -> None:
    module, batch = pair_module(backbone), batch_of(backbone)
    other = replace(batch, time_ids=batch.time_ids + torch.tensor([0.0, 0, 16, 8, 0, 0]))
    assert float((module.losses((batch,)).sum() - module.losses((other,)).sum()).detach().abs()) > 1e-7
    whole = module.backbone.predict_noise(
        batch.latents, batch.timestep, module.tasks[0].embeds.prompt.repeat_interleave(8)
    )
    stated = module.backbone.predict_noise(
        batch.latents, batch.timestep, module.tasks[0].embeds.prompt.repeat_interleave(8), batch.time_ids
    )
    assert torch.equal(whole, stated)


def test_true_sizes_are_not_rounded_in_half_precision(pipeline_folder) -> None:
    """1085 is 1088 in bf16: the sizes must reach the UNet's sinusoids as they are."""
    half = load_backbone(str(pipeline_folder), dtype="bfloat16")
    seen: list[torch.Tensor] = []
    half.unet.add_time_proj.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    latents, embeds = torch.zeros(1, *half.latent_shape), half.encode_prompts(["a person"])
    half.predict_noise(latents, 10, embeds, torch.tensor([[1085.0, 513, 0, 7, 1024, 512]]))
    assert seen[0].tolist() == [1085.0, 513, 0, 7, 1024, 512]


def test_other_pictures_at_the_same_place_are_other_pairs(tmp_path) -> None:
    twins = drawn_twins(tmp_path)
    before = twins_digest(twins)
    assert twins_digest(drawn_twins(tmp_path)) == before
    stronger = tuple(Twins(each.name, tuple((2 * scale, path) for scale, path in each.images)) for each in twins)
    assert twins_digest(stronger) != before
    path = twins[0].images[0][1]
    path.write_bytes(twins[1].images[0][1].read_bytes())
    assert twins_digest(twins) != before


def test_a_pair_training_lowers_its_loss_and_resumes(pipeline_folder, tmp_path) -> None:
    run = RunFolder(tmp_path / "run")
    whole = train(pipeline_folder, run, data="pairs", max_steps=7)
    assert whole.cost.cost.sample_forwards == 7 * 2 * 2
    train(pipeline_folder, RunFolder(tmp_path / "cut"), data="pairs", max_steps=7, stop_at=3)
    resumed = train(pipeline_folder, RunFolder(tmp_path / "cut"), data="pairs", max_steps=7, resume=True)
    for name, weights in whole.weights().items():
        assert torch.equal(weights, resumed.weights()[name])
    assert run.slider.is_file()


def test_pictures_become_latents_that_train(backbone, tmp_path) -> None:
    """From files to a batch through the real VAE: brighter twins have other latents, at the model's own size."""
    encoded = encode_twins(backbone, drawn_twins(tmp_path / "images"), tmp_path / "cache")
    batch = loader(backbone, encoded).batch(0)
    assert batch.latents.shape == (8, *backbone.latent_shape)
    assert batch.time_ids[0].tolist() == [64, 64, 0, 0, 64, 64]
