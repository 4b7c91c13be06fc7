"""Truth tests of the dense slider: alone, among others on one bank, and as a file."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from experiments.tiny_faces.pipeline import PipelineSize, build_unet
from slider_lightning.adapters import (
    AdapterConfig,
    DenseConfig,
    DenseSlider,
    Slider,
    SliderBank,
    SliderBase,
    SliderMetadata,
    adapted_layers,
    load_slider,
    new_slider,
    save_slider,
)
from slider_lightning.errors import InputError

SIZE = PipelineSize(unet_channels=(32, 64), unet_layers=1, text_width=32, text_width_2=32)
WIDER = PipelineSize(unet_channels=(32, 96), unet_layers=1, text_width=32, text_width_2=32)
METADATA = SliderMetadata.of(DenseConfig("full"), objective="text_enhance", eta=1.0)
ROWS = torch.tensor([[1.0, 0.0, -2.0], [0.0, 0.0, 0.0], [-0.5, 1.5, 0.25]])


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


@pytest.fixture
def bank(unet: UNet2DConditionModel) -> SliderBank:
    """Two dense sliders and a low-rank one between them, on different layers."""
    configs = (DenseConfig("full"), AdapterConfig(rank=3, alpha=1.5, layers="noxattn"), DenseConfig("selfattn"))
    return SliderBank(unet, [trained(unet, config, seed) for seed, config in enumerate(configs)])


def predict(unet: UNet2DConditionModel) -> Tensor:
    """The UNet's prediction for three samples that differ."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(3, *shape, generator=generator).to(unet.dtype)

    conditions = {"text_embeds": draw(32), "time_ids": draw(6)}
    return unet(draw(4, 8, 8), torch.tensor([10, 500, 900]), draw(5, 64), added_cond_kwargs=conditions).sample


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def moved(actual: Tensor, base: Tensor) -> bool:
    return bool((actual - base).abs().max() > 1e-2)


def test_a_new_one_is_zero_changes_nothing_and_learns(unet: UNet2DConditionModel) -> None:
    base, slider = predict(unet), DenseSlider(unet, DenseConfig("full"))
    assert slider.layer_paths == tuple(adapted_layers(unet, "full"))
    assert slider.num_parameters() == sum(layer.weight.numel() for layer in adapted_layers(unet, "full").values())
    with SliderBank(unet, [slider]) as bank, bank.scales(torch.ones(3, 1)):
        output = predict(unet)
    assert torch.equal(output, base)
    output.square().sum().backward()
    assert {id(parameter) for parameter in bank.parameters()} == {id(parameter) for parameter in slider.parameters()}
    assert all(diff.grad is not None and diff.grad.abs().max() > 0 for diff in slider.parameters())
    assert all(parameter.grad is None for parameter in unet.parameters())


def test_its_gradient_is_that_of_the_weights(unet: UNet2DConditionModel) -> None:
    slider, theirs = trained(unet, DenseConfig("full"), 0), deepcopy(unet)
    layers = adapted_layers(theirs, "full")
    for path, layer in layers.items():
        layer.weight = nn.Parameter(layer.weight + slider.delta_weight(path).detach())
    predict(theirs).square().sum().backward()
    with SliderBank(unet, [slider]) as bank, bank.scales(torch.ones(3, 1)):
        predict(unet).square().sum().backward()
    for path, layer in layers.items():
        wanted = layer.weight.grad
        torch.testing.assert_close(
            slider.delta_weight(path).grad, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max())
        )


@torch.no_grad()
def test_every_sample_runs_as_if_its_row_were_folded(unet: UNet2DConditionModel, bank: SliderBank) -> None:
    base = predict(unet)
    with bank.scales(ROWS):
        together = predict(unet)
    for i, row in enumerate(ROWS):
        with bank.folded(row):
            close(together[i], predict(unet)[i])
    assert moved(together[0], base[0])
    assert torch.equal(predict(unet), base)
    assert not moved(together[1], base[1])


@torch.no_grad()
def test_each_kind_in_a_mixed_bank_has_its_own_part(unet: UNet2DConditionModel, bank: SliderBank) -> None:
    row = [0.7, -1.2, 2.0]
    with bank.scales([row] * 3):
        mixed = predict(unet)
    bank.detach()
    layers = dict(unet.named_modules())
    for scale, slider in zip(row, bank.sliders, strict=True):
        for path in slider.layer_paths:
            layers[path].weight += scale * slider.delta_weight(path)
    close(predict(unet), mixed)


def test_gradient_checkpointing_gives_the_same_gradients(unet: UNet2DConditionModel, bank: SliderBank) -> None:
    def gradients() -> list[Tensor]:
        bank.zero_grad()
        with bank.scales(ROWS):
            output = predict(unet)
        output.square().sum().backward()
        return [parameter.grad.clone() for parameter in bank.parameters()]

    expected = gradients()
    unet.train().enable_gradient_checkpointing()
    for actual, wanted in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_a_bf16_unet_keeps_fp32_masters(unet: UNet2DConditionModel, bank: SliderBank) -> None:
    with torch.no_grad(), bank.scales(ROWS):
        exact = predict(unet)
    assert all(p.dtype == torch.float32 for p in DenseSlider(unet.to(torch.bfloat16), DenseConfig()).parameters())
    with bank.scales(ROWS):
        output = predict(unet)
    assert output.dtype == torch.bfloat16
    assert (output - exact).abs().mean() < 0.05 * exact.abs().mean()
    output.float().square().mean().backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in bank.parameters())


@torch.no_grad()
def test_kept_stacks_follow_the_master_weights(unet: UNet2DConditionModel, bank: SliderBank) -> None:
    with bank.scales(ROWS):
        before = predict(unet)
        for parameter in bank.sliders[0].parameters():
            parameter.mul_(2)
        after = predict(unet)
    assert moved(after, before)
    with torch.enable_grad(), bank.scales(ROWS):
        close(after, predict(unet))


@pytest.fixture
def saved(tmp_path: Path, unet: UNet2DConditionModel) -> Path:
    path = tmp_path / "slider.safetensors"
    save_slider(path, trained(unet, DenseConfig("full"), 0), METADATA)
    return path


@pytest.mark.parametrize("with_unet", [True, False])
def test_round_trip(saved: Path, unet: UNet2DConditionModel, with_unet: bool) -> None:
    loaded, metadata = load_slider(saved, unet if with_unet else None)
    expected = trained(unet, DenseConfig("full"), 0)
    assert isinstance(loaded, DenseSlider)
    assert (metadata, loaded.config) == (METADATA, expected.config)
    assert (metadata.adapter, metadata.rank, metadata.alpha) == ("dense", None, None)
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in expected.state_dict().items())


def test_the_file_has_the_names_of_full_differences(saved: Path, unet: UNet2DConditionModel) -> None:
    tensors = load_file(saved)
    keys = {"lora_unet_" + path.replace(".", "_") + ".diff" for path in adapted_layers(unet, "full")}
    assert set(tensors) == keys
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    with safe_open(saved, framework="pt") as file:
        assert not [key for key in file.metadata() if key.startswith("ss_network")]


@pytest.mark.parametrize("layers", ["noxattn", "xattn", "selfattn", "full"])
def test_differences_from_elsewhere_are_read(tmp_path: Path, unet: UNet2DConditionModel, layers: str) -> None:
    slider, path = trained(unet, DenseConfig(layers), 0), tmp_path / "theirs.safetensors"
    names = {layer: "lora_unet_" + layer.replace(".", "_") + ".diff" for layer in slider.layer_paths}
    save_file({name: slider.delta_weight(layer).detach().half() for layer, name in names.items()}, path)
    loaded, metadata = load_slider(path, unet)
    assert metadata == SliderMetadata(layers=layers, adapter="dense")
    for layer in slider.layer_paths:
        assert torch.equal(loaded.delta_weight(layer), slider.delta_weight(layer).half().float())


def test_a_slider_of_another_unet_is_refused(saved: Path, unet: UNet2DConditionModel) -> None:
    wider = build_unet(WIDER)
    with pytest.raises(InputError, match="the model it was trained for"):
        load_slider(saved, wider)
    with pytest.raises(InputError, match=r"Expected layer .* of the UNet"):
        SliderBank(wider, [DenseSlider(unet, DenseConfig())])


def mixed_with_a_low_rank_layer(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    name = next(iter(tensors)).removesuffix(".diff")
    rest = {key: tensor for key, tensor in tensors.items() if not key.startswith(f"{name}.")}
    return {**rest, f"{name}.lora_down.weight": torch.ones(2, 4), f"{name}.lora_up.weight": torch.ones(4, 2)}


EDITS: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "two kinds": (mixed_with_a_low_rank_layer, "is dense and others are not"),
    "an alpha": (lambda t: {**t, next(iter(t)).replace(".diff", ".alpha"): torch.ones(1)}, "alpha, diff"),
    "infinite": (lambda t: {name: tensor / 0 for name, tensor in t.items()}, "not finite"),
    "unadapted layer": (lambda t: {"lora_unet_conv_in.diff": torch.ones(32, 4, 3, 3)}, "which no layer set"),
    "flat": (lambda t: {name: tensor.flatten() for name, tensor in t.items()}, "a weight of shape"),
}


@pytest.mark.parametrize("kind", EDITS)
def test_foreign_file_is_refused_in_one_sentence(saved: Path, unet: UNet2DConditionModel, kind: str) -> None:
    edit, words = EDITS[kind]
    path = saved.with_name("foreign.safetensors")
    save_file(edit(load_file(saved)), path)
    with pytest.raises(InputError, match=words):
        load_slider(path, unet)


def test_own_file_must_hold_every_layer_of_its_set(tmp_path: Path, unet: UNet2DConditionModel) -> None:
    slider = trained(unet, DenseConfig("full"), 0)
    weights = {path: slider.delta_weight(path).detach() for path in slider.layer_paths[1:]}
    save_slider(tmp_path / "part.safetensors", DenseSlider.from_weights(weights, slider.config), METADATA)
    with pytest.raises(InputError, match=f"lacks {slider.layer_paths[0]}"):
        load_slider(tmp_path / "part.safetensors", unet)


def test_metadata_and_weights_of_different_kinds_are_refused(saved: Path, unet: UNet2DConditionModel) -> None:
    low_rank = AdapterConfig(rank=2, layers="full")
    with pytest.raises(ValueError, match="DenseConfig"):
        save_slider(saved, Slider(unet, low_rank), METADATA)
    with pytest.raises(ValueError, match="'tucker'"):
        SliderMetadata(layers="full", adapter="tucker")
    tensors = load_file(saved)
    other = saved.with_name("other.safetensors")
    save_slider(other, Slider(unet, low_rank), SliderMetadata.of(low_rank))
    with safe_open(other, framework="pt") as file:
        header = file.metadata()
    del header["slider_lightning_sha256"]
    save_file(tensors, other, metadata=header)
    with pytest.raises(InputError, match="dense weights and says that it is lora"):
        load_slider(other)
