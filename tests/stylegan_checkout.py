"""A checkout of the official StyleGAN code in miniature, and what it pickles."""

# Module names, call signatures and the way a pickle carries its source are the official ones.
CHECKOUT = {
    "dnnlib/__init__.py": "class EasyDict(dict):\n    __getattr__ = dict.__getitem__\n",
    "torch_utils/__init__.py": "",
    "torch_utils/misc.py": "def check_shape(tensor, shape):\n    assert list(tensor.shape[1:]) == list(shape)\n",
    "torch_utils/persistence.py": """
import inspect, sys, types, uuid
import dnnlib

_sources = {}

def persistent_class(cls):
    source = _sources.get(cls.__module__) or inspect.getsource(sys.modules[cls.__module__])

    class Persistent(cls):
        def __reduce__(self):
            state = dict(source=source, name=cls.__name__, state=self.__getstate__())
            return _reconstruct, (state,)

    Persistent.__name__ = cls.__name__
    return Persistent

def _reconstruct(meta):
    meta = dnnlib.EasyDict(meta)
    found = [name for name, source in _sources.items() if source == meta.source]
    if not found:
        module = types.ModuleType("_carried_" + uuid.uuid4().hex)
        sys.modules[module.__name__] = module
        _sources[module.__name__] = meta.source
        found = [module.__name__]
        exec(meta.source, module.__dict__)
    cls = getattr(sys.modules[found[0]], meta.name)
    made = cls.__new__(cls)
    made.__setstate__(meta.state)
    return made
""",
    "legacy.py": """
import pickle
import dnnlib
from torch_utils import misc

def load_network_pkl(f, force_fp16=False):
    data = pickle.Unpickler(f).load()
    data.setdefault("augment_pipe", None)
    return data
""",
    "training/__init__.py": "",
    "training/networks.py": '''
import torch
from torch_utils import misc, persistence

@persistence.persistent_class
class FullyConnectedLayer(torch.nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(outputs, inputs))
        self.bias = torch.nn.Parameter(torch.ones(outputs))

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight.t() / self.weight.shape[1] ** 0.5)

@persistence.persistent_class
class MappingNetwork(torch.nn.Module):
    def __init__(self, num_ws):
        super().__init__()
        self.num_ws = num_ws
        self.fc0 = FullyConnectedLayer(6, 8)
        self.register_buffer("w_avg", torch.full((8,), 0.5))

    def forward(self, z, c, truncation_psi=1, truncation_cutoff=None):
        misc.check_shape(z, [6])
        w = self.w_avg.lerp(self.fc0(z).tanh(), truncation_psi)
        return w[:, None].repeat(1, self.num_ws, 1)

@persistence.persistent_class
class SynthesisLayer(torch.nn.Module):
    def __init__(self, inputs, outputs, is_torgb=False):
        super().__init__()
        self.affine = FullyConnectedLayer(8, inputs)
        self.weight = torch.nn.Parameter(torch.randn(outputs, inputs, 1, 1))
        self.is_torgb = is_torgb
        self.use_fp16 = is_torgb

    def forward(self, x, w, noise_mode="random"):
        misc.check_shape(w, [8])
        styles = self.affine(w) * (self.weight.shape[1] ** -0.5 if self.is_torgb else 1)
        dtype = torch.float16 if self.use_fp16 else torch.float32
        x = torch.nn.functional.conv2d((x * styles[:, :, None, None]).to(dtype), self.weight.to(dtype))
        return x.float() if self.is_torgb else torch.tanh(x)

@persistence.persistent_class
class SynthesisInput(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.affine = FullyConnectedLayer(8, 4)

    def forward(self, w):
        grid = torch.linspace(-1, 1, 4)
        return torch.sin(self.affine(w)[:, :, None, None] * (grid[:, None] + grid))

@persistence.persistent_class
class Synthesis3(torch.nn.Module):
    """Layers in a row, the first w for the Fourier features, one more w per layer."""
    def __init__(self):
        super().__init__()
        self.input = SynthesisInput()
        self.layer_names = ["L0_4_5", "L1_4_7", "L2_4_3"]
        for name, inputs, outputs in zip(self.layer_names, (4, 5, 7), (5, 7, 3)):
            setattr(self, name, SynthesisLayer(inputs, outputs, is_torgb=outputs == 3))

    def forward(self, ws, **layer_kwargs):
        misc.check_shape(ws, [4, 8])
        x = self.input(ws[:, 0])
        for name, w in zip(self.layer_names, ws.unbind(1)[1:]):
            x = getattr(self, name)(x, w, **layer_kwargs)
        return x

@persistence.persistent_class
class Synthesis2(torch.nn.Module):
    """Blocks with skip connections, whose torgb takes the w of the next block's first convolution."""
    def __init__(self):
        super().__init__()
        self.const = torch.nn.Parameter(torch.randn(1, 6, 4, 4))
        self.b4, self.b8 = torch.nn.Module(), torch.nn.Module()
        self.b4.conv1, self.b4.torgb = SynthesisLayer(6, 6), SynthesisLayer(6, 3, is_torgb=True)
        self.b8.conv0, self.b8.conv1 = SynthesisLayer(6, 5), SynthesisLayer(5, 5)
        self.b8.torgb = SynthesisLayer(5, 3, is_torgb=True)

    def forward(self, ws, **layer_kwargs):
        misc.check_shape(ws, [4, 8])
        x = self.b4.conv1(self.const.repeat(len(ws), 1, 1, 1), ws[:, 0], **layer_kwargs)
        image = self.b4.torgb(x, ws[:, 1]).repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = self.b8.conv0(x.repeat_interleave(2, 2).repeat_interleave(2, 3), ws[:, 1], **layer_kwargs)
        return image + self.b8.torgb(self.b8.conv1(x, ws[:, 2], **layer_kwargs), ws[:, 3])

@persistence.persistent_class
class Generator(torch.nn.Module):
    def __init__(self, synthesis):
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = 6, 0, 8, 4
        self.mapping, self.synthesis = MappingNetwork(4), synthesis
''',
}
MAKE = """
import pickle, sys
import torch
from training import networks
torch.manual_seed(1)
for name, synthesis in (("stylegan2", networks.Synthesis2()), ("stylegan3", networks.Synthesis3())):
    G = networks.Generator(synthesis).requires_grad_(False)
    with open(f"{name}.pkl", "wb") as f:
        pickle.dump(dict(G=None, G_ema=G, training_set_kwargs=None), f)
    ws = G.mapping(torch.ones(1, 6), None)
    torch.save((ws, {n: m(ws[:, 0]) for n, m in G.named_modules() if n.endswith("affine")}), f"{name}.pt")
"""
