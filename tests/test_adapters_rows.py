"""Rows that use different sliders: what they compute, and that they do no more work than the sliders alone."""

from collections.abc import Sequence

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from experiments.tiny_faces.pipeline import PipelineSize, build_unet
from slider_lightning.adapters import AdapterConfig, DenseConfig, Slider, SliderBank, SliderBase, new_slider
from slider_lightning.backbone import load_backbone

SIZE = PipelineSize(unet_channels=(32, 64), unet_layers=1, text_width=32, text_width_2=32)
LOW_RANK = (
    AdapterConfig(rank=2, alpha=3.0, layers="full"),
    AdapterConfig(rank=3, layers="noxattn"),
    AdapterConfig(rank=1, alpha=2.0, layers="xattn"),
)
MIXED = (AdapterConfig(rank=2, alpha=3.0, layers="full"), DenseConfig("noxattn"), DenseConfig("selfattn"))
# The slider that each row uses; None is a row of zeros.
ORDERS: dict[str, list[int | None]] = {
    "neighbours": [0, 0, 1, 1, 2, 2],
    "interleaved": [2, 0, 1, 1, 0, 2],
    "guided": [0, 1, 2, 0, 1, 2],
    "zeros between": [0, None, 1, None, None, 2],
    "zeros around": [None, 1, 1, 0, 0, None],
    "one in a crowd of zeros": [None, None, 2, None, None, None],
}


@pytest.fixture
def unet() -> UNet2DConditionModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_unet(SIZE).requires_grad_(False).eval()


def trained(unet: nn.Module, config: AdapterConfig | DenseConfig, seed: int) -> SliderBase:
    """A slider that changes something."""
    slider = new_slider(config, unet, seed=seed)
    generator = torch.Generator().manual_seed(100 + seed)
    for name, parameter in slider.named_parameters():
        if "lora_down" not in name:
            nn.init.normal_(parameter, std=0.1 if "lora" in name else 0.01, generator=generator)
    return slider


def predict(unet: UNet2DConditionModel, rows: Sequence[int]) -> Tensor:
    """The UNet's prediction for rows that all differ, a row the same in any batch."""
    samples = [torch.Generator().manual_seed(row) for row in rows]

    def draw(*shape: int) -> Tensor:
        return torch.stack([torch.randn(shape, generator=sample) for sample in samples])

    latents, prompt_embeds = draw(4, 8, 8), draw(5, 64)
    conditions = {"text_embeds": draw(32), "time_ids": draw(6)}
    return unet(latents, 100 * torch.tensor(rows) + 50, prompt_embeds, added_cond_kwargs=conditions).sample


def one_hot(order: Sequence[int | None]) -> Tensor:
    """Row i uses the slider order[i], with a strength of its own."""
    scales = torch.zeros(len(order), 3)
    for row, k in enumerate(order):
        if k is not None:
            scales[row, k] = (-1.0) ** row * (1 + row / 8)
    return scales


def gradients(sliders: Sequence[SliderBase]) -> list[Tensor]:
    return [p.grad.clone() if p.grad is not None else torch.zeros_like(p) for s in sliders for p in s.parameters()]


def alone(unet: UNet2DConditionModel, sliders: Sequence[SliderBase], order: Sequence[int | None]) -> Tensor:
    """Every slider on a bank of its own with its own rows, forward and backward; the rows' outputs."""
    outputs, scales = {}, one_hot(order)
    for k in {*order}:
        rows = [row for row, chosen in enumerate(order) if chosen == k]
        if k is None:
            outputs.update(zip(rows, predict(unet, rows), strict=True))
            continue
        with SliderBank(unet, [sliders[k]]) as bank, bank.scales(scales[rows, k][:, None]):
            output = predict(unet, rows)
        output.square().sum().backward()
        outputs.update(zip(rows, output.detach(), strict=True))
    return torch.stack([outputs[row] for row in range(len(order))])


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("configs", [LOW_RANK, MIXED], ids=["low rank", "mixed"])
def test_rows_compute_and_train_what_their_slider_alone_does(
    unet: UNet2DConditionModel, configs: Sequence[AdapterConfig | DenseConfig], order: list[int | None]
) -> None:
    sliders = [trained(unet, config, seed) for seed, config in enumerate(configs)]
    expected, wanted = alone(unet, sliders, order), gradients(sliders)
    with SliderBank(unet, sliders) as bank:
        bank.zero_grad()
        with bank.scales(one_hot(order)):
            output = predict(unet, range(len(order)))
        output.square().sum().backward()
        with torch.no_grad(), bank.scales(one_hot(order)):
            again = predict(unet, range(len(order)))
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(again, expected, rtol=1e-5, atol=1e-5)
    for gradient, alone_gradient in zip(gradients(sliders), wanted, strict=True):
        torch.testing.assert_close(gradient, alone_gradient, rtol=1e-3, atol=1e-4 * float(alone_gradient.abs().max()))


def test_rows_of_several_sliders_run_by_their_sets(unet: UNet2DConditionModel) -> None:
    sliders = [trained(unet, config, seed) for seed, config in enumerate(LOW_RANK)]
    scales = torch.tensor([[1.0, 0, 0.5], [0, 0, 0], [0, -2.0, 0], [0, 0, 0], [0.5, 0, 1.0], [0, 0, 0]])
    with torch.no_grad(), SliderBank(unet, sliders) as bank:
        with bank.scales(scales):
            together = predict(unet, range(6))
        for row, wanted in enumerate(scales):
            with bank.folded(wanted):
                torch.testing.assert_close(together[[row]], predict(unet, [row]), rtol=1e-5, atol=1e-5)


def test_gradient_checkpointing_and_bf16_keep_the_groups(unet: UNet2DConditionModel) -> None:
    sliders, scales = [trained(unet, config, seed) for seed, config in enumerate(MIXED)], one_hot([2, 0, 1, None, 0, 2])
    with SliderBank(unet, sliders) as bank:
        bank.zero_grad()
        with bank.scales(scales):
            output = predict(unet, range(6))
        output.square().sum().backward()
        wanted = gradients(sliders)
        bank.zero_grad()
        unet.train().enable_gradient_checkpointing()
        with bank.scales(scales):
            recomputed = predict(unet, range(6))
        with bank.scales(torch.ones(6, 3)):
            recomputed.square().sum().backward()
        for gradient, expected in zip(gradients(sliders), wanted, strict=True):
            torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        layer, path = unet.down_blocks[0].resnets[0].conv1.bfloat16(), "down_blocks.0.resnets.0.conv1"
        x = torch.randn(6, 32, 8, 8, generator=torch.Generator().manual_seed(0))
        with bank.scales(scales):
            half = layer(x.bfloat16())
        assert path in bank.sliders[0].layer_paths
        assert half.dtype == torch.bfloat16
        with bank.scales(scales):
            torch.testing.assert_close(half.float(), layer.float()(x), rtol=0.05, atol=0.05)


def flops(unet: UNet2DConditionModel, bank: SliderBank | None, scales: Tensor) -> int:
    """Operations of a forward and its backward with these scales, or of the bare UNet."""
    with FlopCounterMode(display=False) as counter:
        if bank is None:
            predict(unet, range(len(scales)))
        else:
            with bank.scales(scales):
                predict(unet, range(len(scales))).sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("interleaved", [False, True])
def test_groups_of_rows_do_no_more_work_than_the_sliders_alone(unet: UNet2DConditionModel, interleaved: bool) -> None:
    configs = [AdapterConfig(rank=rank, layers="full") for rank in (1, 4, 16)] * 2
    sliders = [trained(unet, config, seed) for seed, config in enumerate(configs)]
    hot = torch.eye(6).repeat(2, 1) if interleaved else torch.eye(6).repeat_interleave(2, dim=0)
    with SliderBank(unet, sliders) as bank:
        together = flops(unet, bank, hot)
        everything = flops(unet, bank, torch.ones(12, 6))
    apart = 0
    for slider in sliders:
        with SliderBank(unet, [slider]) as bank:
            apart += flops(unet, bank, torch.ones(2, 1))
    assert together <= apart < 0.8 * everything


@torch.no_grad()
def test_rows_of_zeros_do_no_work(unet: UNet2DConditionModel) -> None:
    scales = torch.tensor([[0.0], [1.0], [0.0], [0.0]])
    with SliderBank(unet, [trained(unet, AdapterConfig(rank=8, layers="full"), 0)]) as bank:
        bare = flops(unet, None, scales)
        with FlopCounterMode(display=False) as counter, bank.scales(scales):
            output = predict(unet, range(4))
        with FlopCounterMode(display=False) as one, bank.scales(scales[1:2]):
            predict(unet, [1])
        assert counter.get_total_flops() - bare == one.get_total_flops() - flops(unet, None, scales[1:2])
        assert torch.equal(output[[0, 2, 3]], predict(unet, range(4))[[0, 2, 3]])


def test_compiled_forwards_group_their_rows(unet: UNet2DConditionModel) -> None:
    sliders = [trained(unet, config, seed) for seed, config in enumerate(LOW_RANK)]
    conv = unet.down_blocks[0].resnets[0].conv1
    x = torch.randn(6, 32, 8, 8, generator=torch.Generator().manual_seed(0))
    with SliderBank(unet, sliders) as bank, bank.scales(one_hot([0, 1, 2, 2, 1, 0])):
        expected = conv(x)
        compiled = torch.compile(conv, backend="aot_eager", fullgraph=True)(x)
        compiled.sum().backward()
        torch.testing.assert_close(compiled, expected, rtol=1e-5, atol=1e-5)
    assert any(parameter.grad is not None for parameter in bank.parameters())


def test_a_slider_that_diverged_reaches_no_other_row(backbone) -> None:
    large, small = (Slider(backbone.unet, AdapterConfig(rank=rank), seed=rank) for rank in (16, 1))
    for parameter in small.parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    scales = torch.tensor([[1.0, 0.0]] * 8 + [[0.0, 1.0]] * 2)
    latents = torch.randn(10, *backbone.latent_shape, generator=torch.Generator().manual_seed(0))
    with SliderBank(backbone.unet, [large, small]) as bank, bank.scales(scales), torch.no_grad():
        noise_pred = backbone.predict_noise(latents, 500, backbone.encode_prompts(["a person"]).repeat_interleave(10))
    assert noise_pred[:8].isfinite().all()
    assert not noise_pred[8:].isfinite().any()


def test_a_fused_optimizer_is_not_overlooked(pipeline_folder) -> None:
    backbone = load_backbone(str(pipeline_folder), dtype="bfloat16")
    slider = Slider(backbone.unet, AdapterConfig(rank=2), seed=0)
    optimizer = torch.optim.AdamW(slider.parameters(), lr=0.1, fused=True)
    latents = torch.randn(1, *backbone.latent_shape, generator=torch.Generator().manual_seed(0))
    embeds = backbone.encode_prompts(["a person"])
    with SliderBank(backbone.unet, [slider]) as bank:

        def predicted() -> torch.Tensor:
            with bank.scales([[1.0]]), torch.no_grad():
                return backbone.predict_noise(latents, 500, embeds)

        before = predicted()
        for parameter in slider.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        bank.weights_changed()
        assert (predicted() - before).abs().max() > 1e-3
