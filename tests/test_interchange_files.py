"""Slider files in every layout: round trips that lose nothing, files from elsewhere, and what is refused."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from slider_lightning.adapters import (
    AdapterConfig,
    DenseConfig,
    DenseSlider,
    Slider,
    SliderMetadata,
    load_slider,
    save_slider,
)
from slider_lightning.adapters.layouts import LAYOUTS, SUFFIXES
from slider_lightning.adapters.reading import read_slider_file
from slider_lightning.errors import InputError
from tests.test_adapters_files import METADATA, assert_same, slider, unet  # noqa: F401


def header_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def deltas(of: Slider) -> dict[str, Tensor]:
    return {path: of.delta_weight(path).detach() for path in of.layer_paths}


def assert_close_deltas(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Equal up to the rounding of fp32: of the factors and of the product of two small matrices."""
    assert found.keys() == expected.keys()
    for path, delta in expected.items():
        torch.testing.assert_close(found[path], delta, rtol=1e-5, atol=1e-7, msg=path)


@pytest.mark.parametrize("layers", ["noxattn", "xattn", "full"])
def test_round_trip_through_all_layouts_loses_nothing(
    tmp_path: Path,
    unet: UNet2DConditionModel,  # noqa: F811
    layers: str,
) -> None:
    config = AdapterConfig(rank=3, alpha=0.3, layers=layers)
    first = Slider(unet, config, seed=4)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(5))
    told = {name: value for name, value in asdict(METADATA).items() if name not in ("rank", "alpha", "layers")}
    metadata = SliderMetadata(**told, rank=3, alpha=0.3, layers=layers)
    loaded, found = first, metadata
    for number, layout in enumerate(("native", "kohya", "peft", "native", "peft", "kohya", "native")):
        path = tmp_path / f"{number}.safetensors"
        save_slider(path, loaded, found, layout=layout)
        file = read_slider_file(path)
        assert (file.layout, file.dtype, file.verified) == (layout, "fp32", True)
        loaded, found = load_slider(path, unet if number % 2 else None)
        assert found == metadata
        assert_same(loaded, first)
    assert header_of(tmp_path / "0.safetensors") == header_of(path)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_precision_rounds_each_weight_once_and_says_so(
    tmp_path: Path,
    slider: Slider,  # noqa: F811
    layout: str,
    dtype: str,
) -> None:
    path, full = tmp_path / f"half{SUFFIXES[layout]}", tmp_path / f"full{SUFFIXES[layout]}"
    save_slider(path, slider, METADATA, layout=layout, dtype=dtype)
    save_slider(full, slider, METADATA, layout=layout)
    assert path.stat().st_size < 0.7 * full.stat().st_size
    file, kind = read_slider_file(path), {"fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    assert (file.dtype, file.layout, file.slider.config) == (dtype, layout, slider.config)
    for name, weight in slider.state_dict().items():
        assert torch.equal(file.slider.state_dict()[name], weight.to(kind).float())
    if layout != "released":
        assert header_of(path)["slider_lightning_dtype"] == dtype


def test_weights_beyond_half_precision_are_refused(tmp_path: Path, slider: Slider) -> None:  # noqa: F811
    with torch.no_grad():
        slider.adapter(slider.layer_paths[0]).lora_up.fill_(1e5)
    with pytest.raises(InputError, match="too large"):
        save_slider(tmp_path / "a.safetensors", slider, METADATA, dtype="fp16")
    save_slider(tmp_path / "a.safetensors", slider, METADATA, dtype="bf16")
    with pytest.raises(InputError, match="fp32, fp16, bf16"):
        save_slider(tmp_path / "a.safetensors", slider, METADATA, dtype="fp8")


def test_released_layout_has_the_released_keys_and_says_the_form_alone(tmp_path: Path, slider: Slider) -> None:  # noqa: F811
    path = tmp_path / "age.pt"
    save_slider(path, slider, METADATA, layout="released", dtype="bf16")
    tensors = torch.load(path, weights_only=True)
    layer = slider.layer_paths[0].replace(".", "_")
    kinds = {"lora_down.weight", "lora_up.weight", "alpha"}
    assert {f"lora_unet_{layer}.{kind}" for kind in kinds} < tensors.keys()
    assert len(tensors) == 3 * len(slider.layer_paths)
    assert read_slider_file(path).metadata == SliderMetadata(rank=3, alpha=1.5, layers="full")


def test_layouts_and_names_that_do_not_go_together_are_refused(tmp_path: Path, slider: Slider) -> None:  # noqa: F811
    for layout, name in (("peft", "a.pt"), ("kohya", "a.pt"), ("released", "a.safetensors")):
        with pytest.raises(InputError, match="file name ending in"):
            save_slider(tmp_path / name, slider, METADATA, layout=layout)
    with pytest.raises(InputError, match="native, kohya, peft, released"):
        save_slider(tmp_path / "a.safetensors", slider, METADATA, layout="a1111")


@pytest.mark.parametrize("layout", ["native", "kohya"])
def test_dense_sliders_round_trip_where_a_layout_holds_them(
    tmp_path: Path,
    unet: UNet2DConditionModel,  # noqa: F811
    layout: str,
) -> None:
    dense = DenseSlider(unet, DenseConfig("noxattn"))
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(6))
    metadata = SliderMetadata.of(dense.config, eta=2.0)
    save_slider(tmp_path / "dense.safetensors", dense, metadata, layout=layout)
    assert all(name.endswith(".diff") for name in load_file(tmp_path / "dense.safetensors"))
    loaded, found = load_slider(tmp_path / "dense.safetensors")
    assert found == metadata
    assert_same(loaded, dense)
    for other in ("peft", "released"):
        with pytest.raises(InputError, match="this one is dense"):
            save_slider(tmp_path / f"dense{SUFFIXES[other]}", dense, metadata, layout=other)


def stripped(path: Path, slider: Slider, layout: str) -> dict[str, Tensor]:  # noqa: F811
    """The tensors of a slider in a layout, as a stranger's file holds them: without any header."""
    save_slider(path, slider, METADATA, layout=layout)
    return load_file(path)


@pytest.mark.parametrize("prefix", ["unet.", "base_model.model.", "base_model.model.unet.", ""])
def test_peft_files_with_any_prefix_are_read(tmp_path: Path, slider: Slider, prefix: str) -> None:  # noqa: F811
    tensors = stripped(tmp_path / "a.safetensors", slider, "peft")
    renamed = {prefix + name.removeprefix("unet."): tensor for name, tensor in tensors.items()}
    save_file(renamed, tmp_path / "b.safetensors")
    loaded, metadata = load_slider(tmp_path / "b.safetensors")
    assert metadata == SliderMetadata(rank=3, alpha=3.0, layers="full"), "no alpha: the product as it stands"
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in slider.state_dict().items())


def test_a_file_of_peft_itself_has_the_strength_it_has_there(tmp_path: Path, unet: UNet2DConditionModel) -> None:  # noqa: F811
    layers = ["resnets.0.conv1", "attn1.to_q", "attn1.to_out.0", "downsamplers.0.conv"]
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=layers,
        rank_pattern={"attn1.to_q": 2},
        alpha_pattern={"attn1.to_q": 5, "down_blocks.0.downsamplers.0.conv": 1},
        init_lora_weights=False,
    )
    unet.add_adapter(config)
    expected = {
        path: layer.get_delta_weight("default").detach()
        for path, layer in unet.named_modules()
        if isinstance(layer, LoraLayer)
    }
    state = get_peft_model_state_dict(unet)
    save_file({f"base_model.model.{name}": t.contiguous() for name, t in state.items()}, tmp_path / "a.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config.to_dict(), default=list))
    loaded, metadata = load_slider(tmp_path / "a.safetensors")
    assert metadata.rank == 4
    assert_close_deltas(deltas(loaded), {path: expected[path] for path in loaded.layer_paths})
    assert len(loaded.layer_paths) == len(expected)


def test_a_file_of_diffusers_itself_is_read_as_saved(tmp_path: Path, unet: UNet2DConditionModel) -> None:  # noqa: F811
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["conv1", "attn1.to_k"], use_rslora=True)
    unet.add_adapter(LoraConfig(**{**config.to_dict(), "init_lora_weights": False}))
    unet.save_lora_adapter(tmp_path, weight_name="a.safetensors")
    expected = {
        path: layer.get_delta_weight("default").detach()
        for path, layer in unet.named_modules()
        if isinstance(layer, LoraLayer)
    }
    loaded, metadata = load_slider(tmp_path / "a.safetensors")
    assert metadata.alpha == pytest.approx(6 * math.sqrt(4)), "rank-stabilised: alpha / sqrt(rank)"
    assert_close_deltas(deltas(loaded), {path: expected[path] for path in loaded.layer_paths})
    assert len(loaded.layer_paths) == len(expected)


def widen(tensors: Mapping[str, Tensor], layer: str) -> dict[str, Tensor]:
    """The same file with more rank in a layer: two more rows of lora_down and columns of lora_up, drawn."""
    generator, wide = torch.Generator().manual_seed(7), dict(tensors)
    for name, tensor in tensors.items():
        if layer in name and "alpha" not in name:
            shape, dim = list(tensor.shape), int("lora_up" in name)
            shape[dim] = 2
            wide[name] = torch.cat([tensor, torch.randn(shape, generator=generator)], dim)
    return wide


@pytest.mark.parametrize("layout", ["native", "kohya"])
def test_ranks_and_alphas_of_single_layers_become_one(
    tmp_path: Path,
    slider: Slider,  # noqa: F811
    unet: UNet2DConditionModel,  # noqa: F811
    layout: str,
) -> None:
    tensors, key = stripped(tmp_path / "a.safetensors", slider, layout), "middle_block_1"
    key = key if layout == "kohya" else "mid_block_attentions_0"
    tensors = {name: t * (3 if "attn1_to_v.alpha" in name else 1) for name, t in widen(tensors, key).items()}
    save_file(tensors, tmp_path / "b.safetensors")
    loaded, metadata = load_slider(tmp_path / "b.safetensors", unet)
    assert (metadata.rank, metadata.layers) == (5, "full")
    expected = {}
    for path in slider.layer_paths:
        pair = slider.adapter(path)
        down, up = pair.lora_down, pair.lora_up
        if path.startswith("mid_block.attentions"):
            original = path.replace("mid_block.attentions.0", "middle_block.1") if layout == "kohya" else path
            name = f"lora_unet_{original.replace('.', '_')}"
            down, up = tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"]
        alpha = 4.5 if path.endswith("attn1.to_v") else 1.5
        expected[path] = (alpha / len(down) * up.flatten(1) @ down.flatten(1)).reshape(len(up), *down.shape[1:])
    assert_close_deltas(deltas(loaded), {path: delta.detach() for path, delta in expected.items()})
    same = "down_blocks.0.resnets.0.conv1"
    assert torch.equal(loaded.adapter(same).lora_down[:3], slider.adapter(same).lora_down)
    assert not loaded.adapter(same).lora_down[3:].any()


def test_original_names_are_taken_for_sdxls_without_a_unet_and_for_its_own_with_one(
    tmp_path: Path,
    slider: Slider,  # noqa: F811
    unet: UNet2DConditionModel,  # noqa: F811
) -> None:
    tensors = stripped(tmp_path / "a.safetensors", slider, "kohya")
    save_file({name: tensor.half() for name, tensor in tensors.items()}, tmp_path / "b.safetensors")
    loaded, metadata = load_slider(tmp_path / "b.safetensors", unet)
    assert (metadata.rank, metadata.alpha, metadata.layers) == (3, 1.5, "full")
    assert set(loaded.layer_paths) == set(slider.layer_paths)
    for name, weight in slider.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight.half().float())
    with pytest.raises(InputError, match="where no UNet is given"):
        load_slider(tmp_path / "b.safetensors")


Edit = Callable[[dict[str, Tensor]], dict[str, Tensor]]
OTHER_FILES: dict[str, tuple[str, Edit]] = {
    "text encoder": ("text encoder", lambda t: t | {"lora_te1_text_model_layers_0_mlp_fc1.alpha": torch.ones(())}),
    "diffusers' text encoder": (
        "text encoder",
        lambda t: t | {"text_encoder.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(1, 2)},
    ),
    "DoRA": ("DoRA", lambda t: {name.replace("alpha", "dora_scale"): value for name, value in t.items()}),
    "LoHa": ("LoHa", lambda t: {name.replace("lora_up.weight", "hada_w1_a"): value for name, value in t.items()}),
    "LoKr": ("LoKr", lambda t: {name.replace("lora_up.weight", "lokr_w1"): value for name, value in t.items()}),
    "Tucker": ("Tucker", lambda t: t | {f"{next(iter(t)).split('.')[0]}.lora_mid.weight": torch.ones(3, 3, 3, 3)}),
    "bias": ("biases", lambda t: t | {f"{next(iter(t)).split('.')[0]}.diff_b": torch.ones(3)}),
    "feed-forward": (
        "no layer set",
        lambda t: (
            t
            | {
                f"lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_2.{name}.weight": torch.ones(shape)
                for name, shape in (("lora_down", (3, 256)), ("lora_up", (64, 3)))
            }
        ),
    ),
    "two layouts": ("mixes", lambda t: t | {"unet.mid_block.resnets.0.conv1.lora_A.weight": torch.ones(3, 4)}),
    "no strength": ("above 0", lambda t: {name: t[name] * (not name.endswith("alpha")) for name in t}),
    "two alphas in one": (
        "more than one alpha",
        lambda t: {n: v.repeat(2) if "alpha" in n else v for n, v in t.items()},
    ),
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_what_is_no_slider_is_refused_in_one_sentence(tmp_path: Path, slider: Slider, kind: str) -> None:  # noqa: F811
    words, edit = OTHER_FILES[kind]
    path = tmp_path / "b.safetensors"
    save_file(edit(stripped(tmp_path / "a.safetensors", slider, "native")), path)
    with pytest.raises(InputError, match=words) as told:
        load_slider(path)
    assert str(path) in str(told.value)
    assert str(told.value).count(". ") == 0


HEADERS = {
    "no JSON": ("cannot be read", "{"),
    "a list": ("no JSON object", "[1]"),
    "DoRA": ("DoRA", json.dumps({"unet.lora_alpha": 1, "unet.use_dora": True})),
    "patterns": ("regular expressions", json.dumps({"unet.lora_alpha": 1, "unet.alpha_pattern": {".*": 2}})),
    "words": ("no numbers", json.dumps({"unet.lora_alpha": "strong"})),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_peft_header_that_cannot_be_followed_is_refused(tmp_path: Path, slider: Slider, kind: str) -> None:  # noqa: F811
    words, header = HEADERS[kind]
    tensors = stripped(tmp_path / "a.safetensors", slider, "peft")
    save_file(tensors, tmp_path / "b.safetensors", metadata={"lora_adapter_metadata": header})
    with pytest.raises(InputError, match=words):
        load_slider(tmp_path / "b.safetensors")


def test_own_file_whose_header_was_changed_is_refused(tmp_path: Path, slider: Slider) -> None:  # noqa: F811
    tensors, path = stripped(tmp_path / "a.safetensors", slider, "kohya"), tmp_path / "b.safetensors"
    header = header_of(tmp_path / "a.safetensors")
    other = json.dumps({**json.loads(header["slider_lightning"]), "alpha": 2.0})
    for change in ({"slider_lightning": other}, {"slider_lightning_blocks": "[]"}, {"slider_lightning": "{"}):
        save_file(tensors, path, metadata={**header, **change})
        with pytest.raises(InputError, match=str(path)):
            load_slider(path)
