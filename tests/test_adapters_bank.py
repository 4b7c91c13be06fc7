"""Truth tests of the bank: what K sliders on one UNet compute, train and leave alone."""

from collections.abc import Iterator

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from experiments.tiny_faces.pipeline import PipelineSize, build_unet
from slider_lightning.adapters import AdapterConfig, Slider, SliderBank
from slider_lightning.errors import InputError

SIZE = PipelineSize(unet_channels=(32, 64), unet_layers=1, text_width=32, text_width_2=32)
CONFIGS = (
    AdapterConfig(rank=2, alpha=3.0, layers="full"),
    AdapterConfig(rank=3, alpha=1.0, layers="noxattn"),
    AdapterConfig(rank=1, alpha=2.0, layers="xattn"),
)
ROWS = torch.tensor([[1.0, 0.0, -2.0], [0.0, 0.0, 0.0], [-0.5, 1.5, 0.25]])


@pytest.fixture
def unet() -> UNet2DConditionModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_unet(SIZE).requires_grad_(False).eval()


@pytest.fixture
def bank(unet: UNet2DConditionModel) -> Iterator[SliderBank]:
    """Three trained-looking sliders of different ranks and layer sets."""
    with SliderBank(unet, [trained(unet, config, seed) for seed, config in enumerate(CONFIGS)]) as bank:
        yield bank


def trained(unet: nn.Module, config: AdapterConfig, seed: int) -> Slider:
    slider = Slider(unet, config, seed=seed)
    generator = torch.Generator().manual_seed(100 + seed)
    with torch.no_grad():
        for path in slider.layer_paths:
            slider.adapter(path).lora_up.normal_(std=0.1, generator=generator)
    return slider


def predict(unet: UNet2DConditionModel, batch: int = 3) -> Tensor:
    """The UNet's prediction for samples that all differ, sample i the same for any batch."""
    samples = [torch.Generator().manual_seed(i) for i in range(batch)]

    def draw(*shape: int) -> Tensor:
        return torch.stack([torch.randn(shape, generator=sample) for sample in samples]).to(unet.dtype)

    latents, prompt_embeds, pooled_prompt_embeds = draw(4, 8, 8), draw(5, 64), draw(32)
    conditions = {"text_embeds": pooled_prompt_embeds, "time_ids": draw(6)}
    timesteps = 300 * torch.arange(batch) + 100
    return unet(latents, timesteps, prompt_embeds, added_cond_kwargs=conditions).sample


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def moved(actual: Tensor, base: Tensor) -> bool:
    return bool((actual - base).abs().max() > 1e-2)


def test_new_slider_changes_nothing_yet_learns(unet: UNet2DConditionModel) -> None:
    base = predict(unet)
    slider = Slider(unet, AdapterConfig(layers="full"))
    bank = SliderBank(unet, [slider])
    with bank.scales(torch.ones(3, 1)):
        output = predict(unet)
    assert torch.equal(output, base)
    output.square().sum().backward()
    ups = [slider.adapter(path).lora_up for path in slider.layer_paths]
    assert all(up.grad is not None and up.grad.abs().max() > 0 for up in ups)
    with torch.no_grad():
        for up in ups:
            up -= 1e-2 * up.grad.sign()
    with torch.no_grad(), bank.scales(torch.ones(3, 1)):
        assert moved(predict(unet), base)


@torch.no_grad()
def test_scale_zero_and_no_context_are_the_bare_unet(unet: UNet2DConditionModel, bank: SliderBank) -> None:
    outside = predict(unet)
    with bank.scales(torch.zeros(3, 3)):
        at_zero = predict(unet)
    bank.detach()
    assert torch.equal(outside, predict(unet))
    assert torch.equal(at_zero, outside)


def test_exactly_the_adapters_train(unet: UNet2DConditionModel, bank: SliderBank) -> None:
    with bank.scales(ROWS):
        predict(unet).square().mean().backward()
    masters = {id(parameter) for slider in bank.sliders for parameter in slider.parameters()}
    assert {id(parameter) for parameter in bank.parameters()} == masters
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in bank.parameters())
    assert all(parameter.grad is None for parameter in unet.parameters())


@torch.no_grad()
def test_every_sample_runs_with_its_own_row(unet: UNet2DConditionModel, bank: SliderBank) -> None:
    with bank.scales(ROWS):
        together = predict(unet)
    for i, row in enumerate(ROWS):
        with bank.scales(row.repeat(3, 1)):
            close(together[i], predict(unet)[i])
    assert moved(together[0], together[1])
    assert not moved(together[1], predict(unet)[1])


@torch.no_grad()
def test_stacked_sliders_equal_the_sum_of_merged_ones(unet: UNet2DConditionModel, bank: SliderBank) -> None:
    row = [0.7, -1.2, 2.0]
    with bank.scales([row] * 3):
        stacked = predict(unet)
    with bank.folded(row):
        close(predict(unet), stacked)
    layers = dict(unet.named_modules())
    for scale, slider in zip(row, bank.sliders, strict=True):
        for path in slider.layer_paths:
            layers[path].weight += scale * slider.delta_weight(path)
    close(predict(unet), stacked)


@torch.no_grad()
def test_delta_weight_is_linear_in_the_scale(unet: UNet2DConditionModel, bank: SliderBank) -> None:
    slider = bank.sliders[0]
    layers = {path: layer for path, layer in unet.named_modules() if path in slider.layer_paths}
    before = {path: layer.weight.clone() for path, layer in layers.items()}
    change: dict[float, dict[str, Tensor]] = {}
    for scale in (1.0, -2.0):
        with bank.folded([scale, 0.0, 0.0]):
            change[scale] = {path: layer.weight - before[path] for path, layer in layers.items()}
    for path in layers:
        down, up = slider.adapter(path).lora_down, slider.adapter(path).lora_up
        expected = 3.0 / 2 * torch.einsum("or...,ri...->oi...", up.expand(-1, -1, *down.shape[2:]), down)
        close(change[1.0][path], expected, 1e-6)
        close(change[-2.0][path], -2 * expected, 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_unfold_restores_every_bit(unet: UNet2DConditionModel, bank: SliderBank, dtype: torch.dtype) -> None:
    unet.to(dtype)
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    with bank.folded([1.0, -3.0, 0.5]):
        changed = [name for name, value in unet.state_dict().items() if not torch.equal(value, before[name])]
    assert {name.removesuffix(".weight") for name in changed} == set(bank.sliders[0].layer_paths)
    with pytest.raises(KeyboardInterrupt), bank.folded([1.0, -3.0, 0.5]):
        raise KeyboardInterrupt
    bits = {name: value.view(torch.uint8) for name, value in before.items()}
    assert all(torch.equal(value.view(torch.uint8), bits[name]) for name, value in unet.state_dict().items())


@torch.no_grad()
def test_failure_while_folding_restores_every_bit(
    unet: UNet2DConditionModel, bank: SliderBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    slider, calls = bank.sliders[1], iter(range(5))
    real = slider.adapter
    monkeypatch.setattr(slider, "adapter", lambda path: (next(calls), real(path))[1])
    with pytest.raises(RuntimeError), bank.folded([0.0, 1.0, 0.0]):
        pass
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())


def test_unet_keeps_its_names_and_values(unet: UNet2DConditionModel) -> None:
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    modules = [name for name, _ in unet.named_modules()]
    bank = SliderBank(unet, [trained(unet, config, 0) for config in CONFIGS])
    with bank.scales(ROWS):
        predict(unet).sum().backward()
    after = unet.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert [name for name, _ in unet.named_modules()] == modules
    bank.detach()
    assert not any(module._forward_hooks for module in unet.modules())


def test_bf16_backbone_keeps_fp32_masters(unet: UNet2DConditionModel, bank: SliderBank) -> None:
    with torch.no_grad(), bank.scales(ROWS):
        exact = predict(unet)
    unet.to(torch.bfloat16)
    with bank.scales(ROWS):
        output = predict(unet)
    assert output.dtype == torch.bfloat16
    assert (output - exact).abs().mean() < 0.05 * exact.abs().mean()
    output.float().square().mean().backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in bank.parameters())


def test_gradient_checkpointing_gives_the_same_gradients(unet: UNet2DConditionModel, bank: SliderBank) -> None:
    def gradients() -> list[Tensor]:
        bank.zero_grad()
        with bank.scales(ROWS):
            first = predict(unet)
        with bank.scales(-ROWS):
            second = predict(unet)
        (first.square().sum() - 2 * second.square().sum()).backward()
        return [parameter.grad.clone() for parameter in bank.parameters()]

    expected = gradients()
    unet.train().enable_gradient_checkpointing()
    blocks = [m for m in unet.modules() if getattr(m, "gradient_checkpointing", False)]
    functions = [block._gradient_checkpointing_func for block in blocks]
    runs = []
    handle = unet.down_blocks[0].resnets[0].register_forward_pre_hook(lambda *_: runs.append(1))
    for actual, wanted in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    handle.remove()
    assert len(runs) == 4, "two forwards and their two recomputations"
    assert [block._gradient_checkpointing_func for block in blocks] == functions


@torch.no_grad()
def test_kept_stacks_follow_the_master_weights(unet: UNet2DConditionModel, bank: SliderBank) -> None:
    with bank.scales(ROWS):
        before = predict(unet)
        for parameter in bank.sliders[0].parameters():
            parameter.mul_(2)
        after = predict(unet)
    with torch.enable_grad(), bank.scales(ROWS):
        close(after, predict(unet))
    assert moved(after, before)


@torch.no_grad()
def test_zero_columns_compute_nothing(
    unet: UNet2DConditionModel, bank: SliderBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    stacked: list[tuple[Slider, ...]] = []
    real = Slider.stack
    monkeypatch.setattr(Slider, "stack", lambda sliders, *args: (stacked.append(sliders), real(sliders, *args))[1])
    with bank.scales(torch.zeros(3, 3)):
        predict(unet)
    assert stacked == []
    with bank.scales([[0, 2, 0]] * 3):
        predict(unet)
        predict(unet)
    assert stacked == [(bank.sliders[1],)] * len(bank.sliders[1].layer_paths), "once per layer, then kept"


@torch.no_grad()
def test_inner_scales_end_and_the_outer_ones_hold_again(unet: UNet2DConditionModel, bank: SliderBank) -> None:
    with bank.scales(ROWS):
        outer = predict(unet)
        with bank.scales(torch.zeros(3, 3)):
            assert moved(outer, predict(unet))
        assert torch.equal(predict(unet), outer)


@pytest.mark.parametrize(
    "scales", [torch.ones(3, 2), torch.ones(3), [[1.0, 2.0]], [["a", "b", "c"]], [[1.0], [1.0, 2.0]]]
)
def test_scales_of_the_wrong_shape_are_refused(bank: SliderBank, scales: object) -> None:
    with pytest.raises(InputError, match="batch x sliders"), bank.scales(scales):  # type: ignore[arg-type]
        pass


def test_infinite_scales_are_refused(bank: SliderBank) -> None:
    with pytest.raises(InputError, match="finite"), bank.scales([[float("nan"), 0.0, 0.0]]):
        pass
    with pytest.raises(InputError, match="finite"), bank.folded([float("inf"), 0.0, 0.0]):
        pass


@torch.no_grad()
def test_batch_without_a_row_per_sample_is_refused(unet: UNet2DConditionModel, bank: SliderBank) -> None:
    with pytest.raises(InputError, match=r"3 samples and the scales 2 rows"), bank.scales(torch.ones(2, 3)):
        predict(unet)
    base = predict(unet)
    bank.detach()
    assert torch.equal(base, predict(unet)), "the refused scales must not stay"


def test_row_of_the_wrong_length_is_refused(bank: SliderBank) -> None:
    with pytest.raises(InputError, match="3 sliders"), bank.folded([1.0]):
        pass


def test_detached_bank_refuses_scales(bank: SliderBank) -> None:
    bank.detach()
    with pytest.raises(RuntimeError, match="attach"), bank.scales(ROWS):
        pass


def test_slider_of_another_unet_is_refused(unet: UNet2DConditionModel) -> None:
    wider = build_unet(PipelineSize(unet_channels=(32, 96), unet_layers=1, text_width=32, text_width_2=32))
    with pytest.raises(InputError, match=r"Expected layer .* of the UNet"):
        SliderBank(unet, [Slider(wider, AdapterConfig())])
