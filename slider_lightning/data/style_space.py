"""The style space of a StyleGAN: the outputs of its affine layers, one number per channel, and how to move them."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from slider_lightning.errors import InputError

AFFINE = "affine"
# StyleGAN3's first affine turns and shifts the Fourier features; its four numbers scale no channel.
_NO_STYLES = ("synthesis.input",)
_NUM_SEEDS = 2**32
# The standard error of a deviation is 4 % of it.
_DEVIATION_COUNT, _DEVIATION_SEED = 256, 0
_HookOutput = Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor | None]


@dataclass(frozen=True)
class StyleChannel:
    """One number of the style space.

    Args:
        layer: name of a style layer, as `StyleSpace.layers` lists it.
        channel: its channel, from 0.
    """

    layer: str
    channel: int


@dataclass(frozen=True)
class StyleLayer:
    """One affine layer.

    Args:
        name: path of the module that owns it, e.g. "synthesis.b16.conv0" or StyleGAN3's "synthesis.L4_52_1024".
        channels: length of its output.
    """

    name: str
    channels: int


class StyleSpace:
    """A generator whose style channels can be read and moved (Wu et al. 2021, "StyleSpace Analysis").

    Takes any generator with the official interface, `mapping(z, c, truncation_psi=)` and `synthesis(ws, noise_mode=)`
    with images in about [-1, 1], whose style layers are submodules named `affine`, each on one row of `ws`. One probing
    forward finds their order and their rows, so nothing is assumed about the architecture.

    Args:
        generator: is frozen and put in evaluation mode.
        name: what records and messages call it.

    Raises:
        InputError: if the generator is of another kind or needs class labels.
    """

    def __init__(self, generator: nn.Module, name: str) -> None:
        self.generator = generator.eval().requires_grad_(False)
        self.name = name
        self._z_dim: int = self._official("z_dim", int)
        self._mapping: nn.Module = self._official("mapping", nn.Module)
        self._synthesis: nn.Module = self._official("synthesis", nn.Module)
        if classes := int(getattr(generator, "c_dim", 0)):
            raise InputError(
                f"Expected {name} to need no class labels, but it has {classes} classes; choose an unconditional one."
            )
        self._rows, self.layers = self._probe()

    def _official(self, attribute: str, kind: type) -> Any:
        value = getattr(self.generator, attribute, None)
        if not isinstance(value, kind):
            raise InputError(
                f"Expected {self.name} to be a StyleGAN generator with z_dim, mapping and synthesis, but its "
                f"{attribute} is missing or something else; open another file."
            )
        return value

    def layer(self, key: int | str) -> StyleLayer:
        """A style layer by its place in the forward pass, from 0 as the paper counts, or by its name.

        Raises:
            InputError: listing the layers.
        """
        by_name = {layer.name: layer for layer in self.layers}
        place = key if isinstance(key, int) else int(key) if key.isdecimal() else None
        if place is not None and 0 <= place < len(self.layers):
            return self.layers[place]
        if key not in by_name:
            known = ", ".join(f"{i}: {layer.name} ({layer.channels})" for i, layer in enumerate(self.layers))
            raise InputError(
                f"Expected a style layer of {self.name} by number or name, but got {key!r}; "
                f"its layers (and their channels) are {known}."
            )
        return by_name[str(key)]

    def channel(self, layer: int | str, channel: int) -> StyleChannel:
        """A style channel that exists.

        Raises:
            InputError: listing the layers, or naming the layer's range of channels.
        """
        found = self.layer(layer)
        if not 0 <= channel < found.channels:
            raise InputError(
                f"Expected a channel of style layer {found.name} of {self.name} from 0 to {found.channels - 1}, "
                f"but got {channel}; choose one of these or another layer."
            )
        return StyleChannel(found.name, channel)

    @torch.no_grad()
    def latents(self, seeds: Sequence[int], truncation_psi: float = 0.7) -> Float[Tensor, "n num_ws w_dim"]:
        """w of one z per seed; a seed means the same image as in the official scripts.

        Args:
            seeds: from 0 to 2**32 - 1.
            truncation_psi: 1 keeps w, 0 is the mean w.

        Raises:
            InputError: if a seed is out of range or there is none.
        """
        if not seeds or not all(0 <= seed < _NUM_SEEDS for seed in seeds):
            raise InputError(
                f"Expected one or more seeds from 0 to {_NUM_SEEDS - 1}, but got {list(seeds)}; change it."
            )
        z = np.stack([np.random.RandomState(seed).randn(self._z_dim) for seed in seeds])
        return self._mapped(z, truncation_psi)

    def _mapped(self, z: Float[np.ndarray, "n z_dim"], truncation_psi: float) -> Float[Tensor, "n num_ws w_dim"]:
        ws: Tensor = self._mapping(
            torch.from_numpy(z).float().to(self.device), None, truncation_psi=float(truncation_psi)
        )
        return ws

    @property
    def device(self) -> torch.device:
        """Where the generator is."""
        return next(self.generator.parameters()).device

    @torch.no_grad()
    def styles(self, ws: Float[Tensor, "n num_ws w_dim"]) -> dict[str, Float[Tensor, "n channels"]]:
        """The style of every layer, without rendering.

        Args:
            ws: from `latents`.
        """
        affine = {name: self._affine(name) for name in self._rows}
        return {name: affine[name](ws[:, row].to(self.device)) for name, row in self._rows.items()}

    @cached_property
    @torch.no_grad()
    def deviations(self) -> dict[str, Float[Tensor, " channels"]]:
        """Standard deviation of every style channel over 256 random w, not truncated: the unit of moves."""
        z = np.random.RandomState(_DEVIATION_SEED).randn(_DEVIATION_COUNT, self._z_dim)
        styles = self.styles(self._mapped(z, truncation_psi=1.0))
        return {name: style.std(0) for name, style in styles.items()}

    @torch.no_grad()
    def render(
        self, ws: Float[Tensor, "n num_ws w_dim"], moves: Mapping[StyleChannel, float] | None = None
    ) -> Float[Tensor, "n 3 h w"]:
        """Images in [0, 1], on the generator's device, with its stored noise.

        Args:
            ws: from `latents`.
            moves: by how many of its deviations a channel is moved, in every image.

        Raises:
            InputError: if a moved channel does not exist.
        """
        with self._moved(moves or {}):
            images: Tensor = self._synthesis(ws.to(self.device), noise_mode="const")
        return ((images.float() + 1) / 2).clamp(0, 1)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over names, types, shapes and values of all weights and buffers."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.generator.state_dict().items()):
            digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    def _affine(self, name: str) -> nn.Module:
        return self.generator.get_submodule(f"{name}.{AFFINE}")

    @contextmanager
    def _moved(self, moves: Mapping[StyleChannel, float]) -> Iterator[None]:
        shifts: dict[str, Tensor] = {}
        for channel, amount in moves.items():
            known = self.channel(channel.layer, channel.channel)
            deviation = self.deviations[known.layer]
            shift = shifts.setdefault(known.layer, torch.zeros_like(deviation))
            shift[known.channel] += amount * deviation[known.channel]
        with _hooked({self._affine(layer): _adding(shift) for layer, shift in shifts.items()}):
            yield

    @torch.no_grad()
    def _probe(self) -> tuple[dict[str, int], tuple[StyleLayer, ...]]:
        """Which row of ws each style layer takes, in order of the forward pass, and the layers."""
        suffix = f".{AFFINE}"
        names = [name.removesuffix(suffix) for name, _ in self.generator.named_modules() if name.endswith(suffix)]
        shape = self._mapped(np.zeros((1, self._z_dim)), truncation_psi=1.0)
        # Rows that differ, so that the input of an affine tells which one it took.
        ws = torch.randn(shape.shape, generator=torch.Generator().manual_seed(0)).to(shape)
        rows: dict[str, int] = {}
        layers: list[StyleLayer] = []

        def noting(name: str) -> _HookOutput:
            def note(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
                same = [row for row in range(ws.shape[1]) if torch.equal(inputs[0], ws[:, row].to(inputs[0]))]
                if not same or output.ndim != 2:
                    raise InputError(
                        f"Expected the style layer {name} of {self.name} to map one row of w to its channels, but it "
                        f"takes something else; only styles that are functions of w can be moved."
                    )
                if name not in rows:
                    rows[name] = same[0]
                    layers.append(StyleLayer(name, output.shape[1]))

            return note

        with _hooked({self._affine(name): noting(name) for name in names if name not in _NO_STYLES}):
            self._synthesis(ws, noise_mode="const")
        if not layers:
            raise InputError(
                f"Expected {self.name} to have style layers named {AFFINE}, but it has none; open a StyleGAN2 or 3."
            )
        return rows, tuple(layers)


def _adding(shift: Float[Tensor, " channels"]) -> _HookOutput:
    return lambda module, inputs, output: output + shift.to(output.dtype)


@contextmanager
def _hooked(hooks: Mapping[nn.Module, _HookOutput]) -> Iterator[None]:
    """Forward hooks for the time of a block, however it ends."""
    with ExitStack() as stack:
        for module, hook in hooks.items():
            stack.callback(module.register_forward_hook(hook).remove)
        yield
