"""How the first process of a sandbox gets ready, before anything of a candidate is near.

It gives up its user id and every capability, imports all that a candidate may use, and leaves as
little text in memory as it can: to a candidate any text is training data. Runs in the sandbox, so
it imports the standard library, numpy and torch only.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import signal
import struct
import sys
import types
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

UNPRIVILEGED: Final = 64100
"""The user and group id in every sandbox."""
_MODULES: Final = (
    "numpy", "torch", "torch.nn", "torch.nn.functional", "torch.nn.attention", "torch.nn.utils",
    "torch.nn.utils.parametrize", "torch.nn.utils.parametrizations", "torch.optim",
    "torch.optim.lr_scheduler", "torch.optim.swa_utils", "torch.func", "torch.fft",
    "torch.linalg", "torch.utils.checkpoint", "torch.utils.data", "torch.utils.deterministic",
    "abc", "array", "bisect", "collections", "contextlib", "copy", "dataclasses", "enum",
    "functools", "heapq", "itertools", "math", "operator", "random", "re", "string", "time",
    "types", "typing", "warnings",
)  # fmt: skip
_CHOOSING: Final = (
    "acos", "asin", "atan", "cos", "erf", "erfc", "erfinv", "exp", "expm1", "lgamma", "log",
    "log10", "log1p", "log2", "rsqrt", "sigmoid", "sin", "sqrt", "tan", "tanh",
)  # fmt: skip
_OF_CODE: Final = frozenset('(){}[]<>=%|*#$@^&;_+/~`"\\\n\t')
_PROSE: Final = 24
"""Characters of a text that are worth overwriting, where there are blanks between them."""
COMPILED: Final = "/compiled"
"""Programs that were compiled before anybody came, on ``cuda`` (``training.toolchain``)."""
_COMPILER: Final = (
    "torch._dynamo", "torch._inductor.compile_fx", "torch._inductor.codegen.triton", "triton",
)  # fmt: skip


def drop_privileges(bare: bool = False) -> None:
    """Leaves uid 0 for good, with an empty bounding set; raises OSError unless nothing is left.

    An ordinary user has come here with the right id, or (``bare``) keeps the own: that cannot be
    changed without a namespace, nor can the bounding set, which gives nothing to who gets no new
    privileges.
    """
    ids = (UNPRIVILEGED,) * 3
    names = ["CapInh", "CapPrm", "CapEff", "CapAmb"]
    if os.getuid() == 0 or not bare:
        names.append("CapBnd")
    else:
        ids = (os.getuid(),) * 3
    if os.getuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        for capability in range(64):
            if libc.prctl(24, capability, 0, 0, 0) != 0:  # PR_CAPBSET_DROP; fails past the last
                break
        os.setgroups([])
        os.setresgid(*ids)
        os.setresuid(*ids)
        header = struct.pack("<Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
        libc.capset(header, bytes(24))  # the inheritable set survives a change of user id
    if os.getresuid() != ids or (os.getresgid() != ids and "CapBnd" in names):
        raise OSError("the sandbox has the wrong user id")
    with open("/proc/self/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    for name in names:
        if int(fields[name], 16) != 0:
            raise OSError(f"the sandbox still has capabilities ({name})")
    if int(fields["NoNewPrivs"]) != 1 or int(fields["Seccomp"]) != 2:
        raise OSError("the sandbox has no seccomp filter")


def die_with_parent() -> None:
    """From now on the kernel kills this process when the one that made it ends.

    A change of user id lifts this, so it comes after."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


def preload(extra: tuple[str, ...] = (), device: str = "cpu") -> None:
    """Imports all that a candidate may use; on ``cpu`` nothing can be imported from a file later.

    On ``cuda`` that includes the compiler, and the device is woken up: a context and the libraries
    of matrix products take seconds, which are nobody's to pay for. On ``cpu`` torch.compile would
    need a compiler and three more seconds of imports, for which optimisers reach too: there it
    returns its argument, and texts of documentation are not kept in memory, because to a candidate
    any text is training data.
    """
    if device != "cpu":
        gc.disable()  # what is imported stays
        _take_compiled()
        _start_compilers()
        import_compiler()
        _wake()
        _await_compilers()
        gc.freeze()
        gc.enable()
        return
    sys.modules["torch._dynamo"] = _no_dynamo()
    sys.meta_path.insert(0, _NoDocumentation())
    for name in (*_MODULES, *extra):
        with contextlib.suppress(ImportError) if name in extra else contextlib.nullcontext():
            __import__(name)
    sys.meta_path.pop(0)
    import torch

    def compile_nothing(model: Any = None, **_: Any) -> Any:
        return (lambda function: function) if model is None else model

    def deterministic(mode: bool, *, warn_only: bool = False) -> None:
        torch._C._set_deterministic_algorithms(mode, warn_only=warn_only)

    torch.compile = compile_nothing
    torch.use_deterministic_algorithms = deterministic  # the original imports the compiler
    torch.set_num_threads(1)
    torch.backends.cpu.get_cpu_capability()  # looked up in /sys once: later there is no /sys
    choose_kernels()
    blank_texts()
    forget_texts()


def choose_kernels() -> None:
    """Calls, in one thread, what picks its code path for this processor when it is first called.

    MKL does not guard that choice: where two threads of a run made it together, one of 25 runs
    computed its first square roots in another way, and the same seed gave other weights.
    """
    import torch

    for dtype in (torch.float32, torch.float64):
        numbers = torch.linspace(0.1, 0.9, 64, dtype=dtype)
        for name in _CHOOSING:
            getattr(torch, name)(numbers)
        square = numbers.view(8, 8)
        torch.mm(square, square)
        torch.bmm(square[None], square[None])


def _take_compiled() -> None:
    """Copies the programs that were compiled before to where this run's are put: it may write."""
    import shutil

    for folder, folders, files in os.walk(COMPILED):
        inside = "/tmp" + folder.removeprefix(COMPILED)
        for name in folders:
            os.mkdir(f"{inside}/{name}")
        for name in files:
            shutil.copyfile(f"{folder}/{name}", f"{inside}/{name}")


def import_compiler() -> None:
    """Imports torch with its compiler, for real; what this machine's torch lacks is left out."""
    for name in (*_MODULES, *_COMPILER):
        with contextlib.suppress(ImportError) if name in _COMPILER else contextlib.nullcontext():
            importlib.import_module(name)


def _start_compilers() -> None:
    """Starts the processes that torch.compile works with; each imports torch, as this one does
    meanwhile. Where this torch does it otherwise they start when they are needed."""
    with contextlib.suppress(ImportError, AttributeError):
        from torch._inductor.async_compile import AsyncCompile

        AsyncCompile.warm_pool()
        AsyncCompile.wakeup()


def _await_compilers() -> None:
    """Waits until the processes of ``_start_compilers`` have imported torch."""
    with contextlib.suppress(ImportError, AttributeError):
        from torch._inductor.async_compile import AsyncCompile

        AsyncCompile.wait_pool_ready()


def _wake() -> None:
    """A first use of the device: context, allocator, matrix library, pinned memory."""
    import torch

    weight = torch.ones(256, 256, device="cuda", dtype=torch.bfloat16)
    weight @ weight
    torch.ones(1024).pin_memory().to("cuda", non_blocking=True)
    torch.cuda.synchronize()


def forget_texts() -> None:
    """Drops what text can be dropped: cached sources, and manuals that are set by assignment."""
    if "linecache" in sys.modules:
        sys.modules["linecache"].clearcache()
    for thing in (*gc.get_objects(), *sys.modules.values()):
        if isinstance(thing, type | types.FunctionType | types.ModuleType) and thing.__doc__:
            with contextlib.suppress(AttributeError, TypeError):  # types written in C
                thing.__doc__ = None


def _to_be_dropped(held: list[Any]) -> Iterator[object]:
    """What :func:`forget_texts` drops: lines of cached sources, and manuals."""
    for entry in getattr(sys.modules.get("linecache"), "cache", {}).values():
        if len(entry) > 2:
            yield from entry[2]
    for thing in (*held, *sys.modules.values()):
        if isinstance(thing, type | types.FunctionType | types.ModuleType):
            yield thing.__doc__


def blank_texts() -> int:
    """Overwrites the prose that live strings hold, messages of errors above all, where it lies:
    what is dropped would stay in memory that was freed. Returns its characters.

    Plain sentences only, but for what is dropped afterwards: what has the characters of code may be
    a template of code (``dataclasses`` makes its methods of such). Python's own tracebacks keep
    their words. Nothing else that runs later reads such texts: torch's own errors say little in a
    sandbox.
    """
    held = gc.get_objects()
    found = {id(text): text for text in gc.get_referents(*held) if type(text) is str}
    dropped = {id(text): text for text in _to_be_dropped(held) if type(text) is str}
    found |= dropped
    todo = [thing.__code__ for thing in held if isinstance(thing, types.FunctionType)]
    while todo:
        code = todo.pop()
        spared = code.co_filename.endswith("/traceback.py")
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                todo.append(constant)
            elif type(constant) is str and not spared:
                found[id(constant)] = constant
    for name in ("traceback", "training.contract", "training.frames", __name__):
        for text in vars(sys.modules[name]).values() if name in sys.modules else ():
            found.pop(id(text), None)
    total = 0
    for text in found.values():
        size = len(text)
        prose = size >= _PROSE and text.isascii() and text.count(" ") * 14 >= size
        if prose and (id(text) in dropped or _OF_CODE.isdisjoint(text)):
            ctypes.memset(id(text) + sys.getsizeof(text) - size - 1, 32, size)
            total += size
    return total


def exercise() -> None:
    """Uses torch as candidates do, so that a measuring run sees what is imported on first use."""
    import torch
    from torch import nn

    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=8, batch_first=True)
    inputs = torch.randn(2, 3, 8)
    torch.utils.checkpoint.checkpoint(layer, inputs, use_reentrant=False).sum().backward()
    for name in ("SGD", "Adam", "AdamW", "Adagrad", "RMSprop", "NAdam", "Adafactor", "Muon"):
        maker = getattr(torch.optim, name, None)
        if maker is None:
            continue
        optimiser = maker([p for p in layer.parameters() if p.dim() == 2])
        torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 10)
        optimiser.step()
        optimiser.zero_grad()
    nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
    nn.utils.parametrizations.orthogonal(nn.Linear(4, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        nn.functional.linear(inputs, torch.randn(8, 8))
    torch.func.vmap(torch.sin)(inputs)
    torch.einsum("bti,bsi->bts", inputs, inputs)
    nn.LSTM(8, 8, batch_first=True)(inputs)
    repr(layer), repr(inputs)


def quiet() -> None:
    """Standard output and error go nowhere from here on, and no other descriptor is inherited."""
    os.dup2(0, 1)
    os.dup2(0, 2)


def check_locked() -> None:
    """Raises unless files are really out of reach now: the file that runs, the root, /proc."""
    for path in (__file__, "/", "/proc/self/status", "/dev/null", "/tmp"):
        try:
            os.close(os.open(path, os.O_RDONLY))
        except PermissionError:
            continue
        raise OSError("files can still be opened")


def _no_dynamo() -> types.ModuleType:
    module = types.ModuleType("torch._dynamo")

    def graph_break(*_: Any, **__: Any) -> None:
        return None

    def disable(function: Any = None, *_: Any, **__: Any) -> Any:
        return (lambda inner: inner) if function is None else function

    module.__dict__.update(
        graph_break=graph_break,
        disable=disable,
        is_compiling=lambda: False,
        config=_AllOff(),
    )
    return module


class _NoDocumentation:
    """Finds nothing, but is asked first: keeps numpy and torch from attaching their manuals."""

    PLACES: Final = (
        ("torch._C", "_add_docstr"),
        ("numpy._core._multiarray_umath", "add_docstring"),
    )

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Called at every import; the functions are replaced as soon as they exist."""
        for module, function in self.PLACES:
            if hasattr(sys.modules.get(module), function):
                setattr(sys.modules[module], function, lambda thing, *_: thing)


class _AllOff:
    """Stands for torch._dynamo.config: every switch is off."""

    def __getattr__(self, name: str) -> bool:
        if name.startswith("__"):
            raise AttributeError(name)
        return False

    def patch(self, *_: Any, **__: Any) -> contextlib.AbstractContextManager[None]:
        """A context that changes nothing."""
        return contextlib.nullcontext()
