"""Opens NVIDIA's StyleGAN2-ADA and StyleGAN3 network pickles with the user's own checkout of the official code.

A pickle is a program: these carry the Python source of their networks, which imports the checkout's modules. So nothing
of either is run unless the user says that both are trusted.
"""

import importlib
import logging
import os
import pickle as pickle_module
import pickletools
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from slider_lightning.assets import sha256_file
from slider_lightning.data.style_space import StyleSpace
from slider_lightning.errors import InputError

logger = logging.getLogger(__name__)

# What both official repositories have at their top, and what their pickles import.
CODE_MODULES = ("dnnlib", "legacy", "torch_utils")
# What `legacy` imports besides, to convert the pickles of the TensorFlow releases.
_IMPORTED = (*CODE_MODULES, "training")
NETWORK = "G_ema"
_LISTED = 8
# What unpickling a strange file or importing a strange checkout raises; neither is ours to enumerate further.
_LOADING_ERRORS = (
    pickle_module.UnpicklingError,
    EOFError,
    ImportError,
    SyntaxError,
    NameError,
    AttributeError,
    LookupError,
    AssertionError,
    TypeError,
    ValueError,
    RuntimeError,
    OSError,
)


def open_stylegan(
    pickle: str, code: str, trust_pickle: bool = False, name: str | None = None, device: str = "cpu"
) -> StyleSpace:
    """The averaged generator (`G_ema`) of an official network pickle.

    The official code compiles its own CUDA kernels at the first image on a GPU, which needs the CUDA toolkit and ninja.

    Args:
        pickle: a file such as stylegan3-r-ffhq-1024x1024.pkl.
        code: folder of a checkout of NVlabs/stylegan3 (reads the pickles of StyleGAN2 and 3) or
            NVlabs/stylegan2-ada-pytorch.
        trust_pickle: allows running the code that both hold; without it nothing of them is run.
        name: what records call the generator; the file's name by default.
        device: "auto" for a GPU where there is one, for each process of a training its own; or torch's name of a
            device.

    Raises:
        InputError: if the file or the checkout is not what it should be, or `trust_pickle` is false.
    """
    path, checkout = Path(pickle).expanduser().resolve(), Path(code).expanduser().resolve()
    _check_checkout(checkout)
    runs = _what_runs(path, checkout)
    if not trust_pickle:
        raise InputError(
            f"Expected generator.trust_pickle=true, because opening {path.name} runs code with your rights: {runs}; "
            f"nothing of it was run, set it if you trust both."
        )
    logger.warning("Opening %s runs %s.", path.name, runs)
    generator = _load(path, checkout)
    if device == "auto":
        device = own_device(torch.cuda.device_count() if torch.cuda.is_available() else 0, os.environ)
    if device == "cpu":
        _compute_in_fp32(generator)
    try:
        return StyleSpace(generator.to(device), name or path.stem)
    except (RuntimeError, AssertionError, ImportError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"Expected {path.name} to draw an image on device {device!r}, but got: {reason}; on a GPU the official "
            f"code needs the CUDA toolkit and ninja, device=cpu does not."
        ) from error


def own_device(gpus: int, environment: Mapping[str, str]) -> str:
    """The device of this process, so that the processes of a distributed training do not crowd the first GPU.

    Args:
        gpus: that this process sees.
        environment: launchers tell a process its number on this machine in LOCAL_RANK.

    Example:
        >>> own_device(4, {"LOCAL_RANK": "2"}), own_device(1, {"LOCAL_RANK": "2"}), own_device(2, {}), own_device(0, {})
        ('cuda:2', 'cuda:0', 'cuda', 'cpu')
    """
    rank = environment.get("LOCAL_RANK", "")
    if not gpus:
        return "cpu"
    return f"cuda:{int(rank) % gpus}" if rank.isdecimal() else "cuda"


def pickle_imports(path: Path) -> tuple[str, ...]:
    """What a pickle imports, as "module.name", read from its opcodes without running them.

    A hostile pickle can hide imports from this list: it informs, it does not protect.

    Raises:
        InputError: if the file is no pickle.
    """
    found: set[str] = set()
    strings: list[str | None] = []
    memo: dict[int, str | None] = {}
    try:
        with path.open("rb") as file:
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name in ("GLOBAL", "INST"):
                    found.add(str(argument).replace(" ", "."))
                elif opcode.name == "STACK_GLOBAL":
                    found.add(".".join(text or "?" for text in strings[-2:]))
                elif opcode.name == "MEMOIZE":
                    memo[len(memo)] = strings[-1] if strings else None
                elif opcode.name in ("PUT", "BINPUT", "LONG_BINPUT"):
                    memo[int(str(argument))] = strings[-1] if strings else None
                elif opcode.name in ("GET", "BINGET", "LONG_BINGET"):
                    strings.append(memo.get(int(str(argument))))
                elif opcode.stack_after:
                    strings.append(argument if isinstance(argument, str) else None)
                del strings[:-2]
    except (ValueError, LookupError, OSError) as error:
        raise InputError(
            f"Expected a StyleGAN network pickle at {path}, but it is no pickle ({error}); download it again."
        ) from error
    return tuple(sorted(found))


def _check_checkout(checkout: Path) -> None:
    missing = [name for name in CODE_MODULES if not _is_module(checkout, name)]
    if missing:
        raise InputError(
            f"Expected generator.code to be a checkout of NVlabs/stylegan3 or NVlabs/stylegan2-ada-pytorch, but "
            f"{checkout} has no {', '.join(missing)}; clone one of them and name its folder."
        )


def _is_module(folder: Path, name: str) -> bool:
    return (folder / f"{name}.py").is_file() or (folder / name).is_dir()


def _what_runs(path: Path, checkout: Path) -> str:
    if not path.is_file():
        raise InputError(f"Expected a StyleGAN network pickle at {path}, but there is no such file; download it first.")
    imports = pickle_imports(path)
    more = f" and {len(imports) - _LISTED} more" if len(imports) > _LISTED else ""
    return (
        f"the modules {', '.join(CODE_MODULES)} of {checkout}, and the pickle itself (sha256 "
        f"{sha256_file(path)[:16]}...), which imports {', '.join(imports[:_LISTED]) or 'nothing'}{more} and any source "
        f"code that it carries"
    )


def _load(path: Path, checkout: Path) -> nn.Module:
    try:
        with _importing_from(checkout), path.open("rb") as file:
            content = importlib.import_module("legacy").load_network_pkl(file)
    except _LOADING_ERRORS as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(
            f"Expected {checkout} to open the StyleGAN network pickle {path}, but got {reason}; check that the file is "
            f"a whole network pickle with {NETWORK}, and that the checkout's own requirements are installed."
        ) from error
    network = content.get(NETWORK) if isinstance(content, Mapping) else None
    if not isinstance(network, nn.Module):
        raise InputError(
            f"Expected the pickle {path} to hold a network {NETWORK}, but it does not; open a network-snapshot pickle."
        )
    return network


@contextmanager
def _importing_from(checkout: Path) -> Iterator[None]:
    """Imports find the checkout first; afterwards they find what they found before.

    The checkout's modules have names that others have too (`legacy`, `training`), and two checkouts share all names.
    """
    set_aside = _take_modules()
    search_path = list(sys.path)
    sys.path.insert(0, str(checkout))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = search_path
        _take_modules()
        sys.modules.update(set_aside)


def _take_modules() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.split(".")[0] in _IMPORTED]
    return {name: sys.modules.pop(name) for name in names}


def _compute_in_fp32(generator: nn.Module) -> None:
    """Turns off half precision of the large blocks, which StyleGAN2-ADA would use on a CPU too, where it fails."""
    for module in generator.modules():
        if "use_fp16" in vars(module):
            vars(module)["use_fp16"] = False
