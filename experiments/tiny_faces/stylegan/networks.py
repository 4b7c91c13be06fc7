"""StyleGAN2 at 64 px: mapping network, modulated convolutions with per-layer affines and noise, skip connections.

Names and calls are those of the official networks (`mapping`, `synthesis`, `b16.conv0.affine`, `noise_mode`), so that
whatever opens those opens these.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_GAIN = math.sqrt(2)
_SLOPE = 0.2


@dataclass(frozen=True)
class GeneratorSize:
    """Sizes of a generator.

    Args:
        z_dim: length of z.
        w_dim: length of w, the mapping network's output.
        mapping_width: width of its hidden layers.
        mapping_layers: its fully connected layers.
        channels: feature maps at 4, 8, 16, ... pixels; the last is the image's side.
    """

    z_dim: int = 36
    w_dim: int = 128
    mapping_width: int = 256
    mapping_layers: int = 5
    channels: Sequence[int] = (128, 128, 96, 64, 32)

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return 4 * 2 ** (len(self.channels) - 1)


class Mapping(nn.Module):
    """z -> w, the same w for every layer, drawn towards the mean w by truncation."""

    w_avg: Tensor

    def __init__(self, size: GeneratorSize, num_ws: int) -> None:
        super().__init__()
        widths = [size.z_dim, *[size.mapping_width] * (size.mapping_layers - 1), size.w_dim]
        layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight, a=_SLOPE)
            nn.init.zeros_(layer.bias)
        self.layers = nn.ModuleList(layers)
        self.num_ws = num_ws
        self.register_buffer("w_avg", torch.zeros(size.w_dim))

    def forward(
        self, z: Float[Tensor, "n z_dim"], c: Tensor | None = None, truncation_psi: float = 1.0
    ) -> Float[Tensor, "n num_ws w_dim"]:
        """Maps z; `c` is taken for the official signature and must be None or empty: there are no classes."""
        if c is not None and c.numel():
            raise ValueError("Expected no class labels, but this generator has no classes.")
        w = z
        for layer in self.layers:
            w = F.leaky_relu(layer(w), _SLOPE) * _GAIN
        w = torch.lerp(self.w_avg, w, truncation_psi)
        return w[:, None].expand(-1, self.num_ws, -1)


class ModulatedConv(nn.Module):
    """A convolution whose input channels are scaled by the style, then optionally demodulated (StyleGAN2, eq. 1-3)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, w_dim: int, demodulate: bool) -> None:
        super().__init__()
        self.affine = nn.Linear(w_dim, in_channels)
        nn.init.normal_(self.affine.weight, std=1 / math.sqrt(w_dim))
        nn.init.ones_(self.affine.bias)
        fan_in = in_channels * kernel**2
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel) / math.sqrt(fan_in))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.demodulate = demodulate

    def modulated(
        self, x: Float[Tensor, "n c h w"], w: Float[Tensor, "n w_dim"], up: bool = False
    ) -> Float[Tensor, "n c2 h2 w2"]:
        """The convolution of `x`, enlarged twofold first where `up` is set, before noise and bias."""
        styles = self.affine(w)
        x = x * styles.to(x.dtype)[:, :, None, None]
        if up:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = F.conv2d(x, self.weight.to(x.dtype), padding=self.weight.shape[-1] // 2)
        if self.demodulate:
            energy = styles.float().square() @ self.weight.float().square().sum((2, 3)).T
            x = x * (energy + 1e-8).rsqrt().to(x.dtype)[:, :, None, None]
        return x


class SynthesisLayer(ModulatedConv):
    """A modulated convolution with noise, bias and leaky ReLU."""

    noise_const: Tensor

    def __init__(self, in_channels: int, out_channels: int, size: int, w_dim: int, up: bool) -> None:
        super().__init__(in_channels, out_channels, 3, w_dim, demodulate=True)
        self.up = up
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise_const", torch.randn(size, size))

    def forward(
        self, x: Float[Tensor, "n c h w"], w: Float[Tensor, "n w_dim"], noise_mode: str
    ) -> Float[Tensor, "n c2 h2 w2"]:
        """`noise_mode`: "const" for the stored noise, "random" for fresh noise, "none" for no noise."""
        x = self.modulated(x, w, self.up)
        if noise_mode == "const":
            x = x + (self.noise_const * self.noise_strength).to(x.dtype)
        elif noise_mode == "random":
            x = x + (torch.randn_like(x[:, :1]) * self.noise_strength).to(x.dtype)
        elif noise_mode != "none":
            raise ValueError(f"Expected noise_mode to be const, random or none, but got {noise_mode!r}.")
        return F.leaky_relu(x + self.bias.to(x.dtype)[:, None, None], _SLOPE) * _GAIN


class ToRgb(ModulatedConv):
    """A 1x1 modulated convolution to colours, without demodulation."""

    def __init__(self, in_channels: int, w_dim: int) -> None:
        super().__init__(in_channels, 3, 1, w_dim, demodulate=False)

    def forward(self, x: Float[Tensor, "n c h w"], w: Float[Tensor, "n w_dim"]) -> Float[Tensor, "n 3 h w"]:
        return self.modulated(x, w) + self.bias.to(x.dtype)[:, None, None]


class SynthesisBlock(nn.Module):
    """The layers of one resolution; the first block begins with a learned constant."""

    def __init__(self, in_channels: int | None, channels: int, size: int, w_dim: int) -> None:
        super().__init__()
        if in_channels is None:
            self.const = nn.Parameter(torch.randn(channels, size, size))
        else:
            self.conv0 = SynthesisLayer(in_channels, channels, size, w_dim, up=True)
        self.conv1 = SynthesisLayer(channels, channels, size, w_dim, up=False)
        self.torgb = ToRgb(channels, w_dim)

    def forward(
        self, x: Tensor | None, image: Tensor | None, w: Float[Tensor, "n w_dim"], noise_mode: str
    ) -> tuple[Tensor, Tensor]:
        """Features and the image so far, both at this block's resolution."""
        x = self.const.expand(len(w), -1, -1, -1) if x is None else self.conv0(x, w, noise_mode)
        x = self.conv1(x, w, noise_mode)
        rgb = self.torgb(x, w)
        if image is not None:
            rgb = rgb + F.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)
        return x, rgb


class Synthesis(nn.Module):
    """w -> image in about [-1, 1]."""

    def __init__(self, size: GeneratorSize) -> None:
        super().__init__()
        before: int | None = None
        self.names = []
        for number, channels in enumerate(size.channels):
            pixels = 4 * 2**number
            self.add_module(f"b{pixels}", SynthesisBlock(before, channels, pixels, size.w_dim))
            self.names.append(f"b{pixels}")
            before = channels

    def forward(self, ws: Float[Tensor, "n num_ws w_dim"], noise_mode: str = "random") -> Float[Tensor, "n 3 h w"]:
        """The images; all layers take their style from the w of their block."""
        x, image = None, None
        for number, name in enumerate(self.names):
            x, image = getattr(self, name)(x, image, ws[:, number], noise_mode)
        assert image is not None
        return image.float()


class Generator(nn.Module):
    """z -> image in about [-1, 1], as the official `G(z, c)`.

    Args:
        size: its sizes.
    """

    def __init__(self, size: GeneratorSize) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim = size.z_dim, 0, size.w_dim
        self.num_ws, self.img_resolution, self.img_channels = len(size.channels), size.image_size, 3
        self.mapping = Mapping(size, self.num_ws)
        self.synthesis = Synthesis(size)

    def forward(
        self,
        z: Float[Tensor, "n z_dim"],
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        noise_mode: str = "random",
    ) -> Float[Tensor, "n 3 h w"]:
        images: Tensor = self.synthesis(self.mapping(z, c, truncation_psi), noise_mode=noise_mode)
        return images


class Discriminator(nn.Module):
    """Image in [-1, 1] -> a number: strided residual blocks, and the batch's own deviation as a last feature map.

    Args:
        channels: feature maps at full, half, quarter, ... resolution.
    """

    def __init__(self, channels: Sequence[int] = (24, 48, 96, 128, 128)) -> None:
        super().__init__()
        self.from_rgb = nn.Conv2d(3, channels[0], 3, padding=1)
        self.blocks = nn.ModuleList(DownBlock(a, b) for a, b in itertools.pairwise(channels))
        self.last = nn.Conv2d(channels[-1] + 1, channels[-1], 3, padding=1)
        self.out = nn.Linear(channels[-1], 1)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
        x = F.leaky_relu(self.from_rgb(images), _SLOPE)
        for block in self.blocks:
            x = block(x)
        # Deviation over the batch, one number for all: a batch without variety gives itself away.
        spread = (x.float().var(0, unbiased=False) + 1e-8).sqrt().mean().to(x.dtype)
        x = F.leaky_relu(self.last(torch.cat([x, spread.expand(len(x), 1, *x.shape[2:])], 1)), _SLOPE)
        score: Tensor = self.out(x.mean((2, 3)))
        return score[:, 0].float()


class DownBlock(nn.Module):
    """Half the resolution, with a skip connection."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(in_channels, in_channels, 3, padding=1)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        y = F.leaky_relu(self.conv0(x), _SLOPE)
        y = F.leaky_relu(self.conv1(F.avg_pool2d(y, 2)), _SLOPE)
        return (y + self.skip(F.avg_pool2d(x, 2))) / _GAIN
