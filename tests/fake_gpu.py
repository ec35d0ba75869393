"""A GPU that computes nothing: torch's FakeTensorMode makes `cuda` tensors on a build without CUDA and refuses to mix
devices; `Waits` notes where the host of a real GPU would have to wait for it."""
import traceback
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
# how many rows or entries come out depends on the numbers: the host must know them to go on
COUNTS = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount", "equal"}
NORMS = {"native_batch_norm", "_native_batch_norm_legit", "_batch_norm_with_update", "cudnn_batch_norm"}
IN_PLACE = {"erfinv_", "mul_", "add_", "clamp_", "uniform_", "normal_", "zero_", "fill_"}
PAIRS = 3  # entries a row that a fake `nonzero` finds


def on_gpu(*values):
    return any(isinstance(x, torch.Tensor) and x.device.type == "cuda" for x in tree_leaves(values))


def is_mask(i): return isinstance(i, torch.Tensor) and i.dtype in (torch.bool, torch.uint8)


class Waits(TorchDispatchMode):
    "Answers what a fake tensor cannot (True, 1, a few entries), and keeps in `seen` every wait and the line it is in."
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, kwargs = getattr(func, "overloadpacket", func).__name__, kwargs or {}
        if why := self.why(name, args, kwargs): self.seen.append(f"{why} in {place()}")
        if name == "_local_scalar_dense": return True if args[0].dtype == torch.bool else 1
        if name == "nonzero": return args[0].new_empty((PAIRS * len(args[0]), args[0].ndim), dtype=torch.long)
        if name in IN_PLACE and not on_gpu(*args[1:]): return args[0]  # weights that are begun, of no numbers
        if name in NORMS: return normed(*args[:5])
        return func(*args, **kwargs)

    def why(self, name, args, kwargs): # -> str, "" where the host goes on
        "What the host waits for."
        if name == "_local_scalar_dense" and on_gpu(args): return "a number that is read"
        if name in COUNTS and on_gpu(args): return name
        if name == "_to_copy":
            ends = {args[0].device.type, torch.device(kwargs.get("device") or args[0].device).type}
            pinned = kwargs.get("non_blocking") and args[0].device.type == "cpu"
            if len(ends) == 2 and "cuda" in ends and not pinned: return "a copy between host and GPU"
        return ""


def normed(x, weight, bias, mean, var):
    "A batch norm's answer; its own code would write the running figures with a driver."
    own = [v.view(1, -1, *[1] * (x.ndim - 2)) for v in (weight, bias, mean, var) if v is not None]
    return sum(own, x), x.new_empty(x.shape[1]), x.new_empty(x.shape[1])


def place(): # -> "losses.py:12 < step.py:30"
    "The lines of hil that a call comes from, innermost first."
    lines = [f for f in traceback.extract_stack() if "/hil/" in f.filename.replace("\\", "/")]
    return " < ".join(f"{f.filename.rpartition('/')[2]}:{f.lineno}" for f in reversed(lines[-3:]))


class Indexing(TorchFunctionMode):
    "`x[...]`, `nonzero`, `to` and `tolist` of fake tensors by operators: Python's own ask for a driver or for numbers."
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.to and isinstance(args[0], FakeTensor): return sent(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in IN_PLACE and on_gpu(args) and not on_gpu(*args[1:]):
            return args[0]  # weights that are begun, of no numbers
        if func is torch.Tensor.copy_ and on_gpu(args[0]):
            args[1].expand(args[0].shape)  # the numbers are nowhere; whether they would fit can be asked
            return args[0]
        if func is torch.Tensor.tolist and isinstance(args[0], FakeTensor) and not on_gpu(args):
            return [True if args[0].dtype == torch.bool else 1] * len(args[0])
        if func is torch.Tensor.__getitem__ and on_gpu(args):
            x, tensors = plain(*args)
            return aten.index.Tensor(x, tensors) if tensors else x
        if func is torch.Tensor.__setitem__ and on_gpu(args):
            x, tensors = plain(*args[:2])
            value = args[2] if isinstance(args[2], torch.Tensor) else x.new_full((), args[2])
            return aten.index_put_.default(x, tensors, value) if tensors else aten.copy_.default(x, value)
        if func in (torch.Tensor.split, torch.split) and on_gpu(args): return parts(*args, **(kwargs or {}))
        if func is torch.Tensor.contiguous and on_gpu(args): return aten.clone.default(args[0])
        if func is torch.Tensor.nonzero and on_gpu(args):
            found = aten.nonzero.default(args[0])
            return found.unbind(1) if kwargs and kwargs.get("as_tuple") else found
        return func(*args, **(kwargs or {}))


def sent(x, *to, device=None, dtype=None, non_blocking=False, **_): # as Tensor.to
    for what in to:
        if isinstance(what, bool): non_blocking = what
        elif isinstance(what, torch.dtype): dtype = what
        elif isinstance(what, torch.Tensor): device, dtype = what.device, what.dtype
        elif what is not None: device = what
    device, dtype = torch.device(device or x.device), dtype or x.dtype
    if device.type == x.device.type and dtype == x.dtype: return x
    return aten._to_copy.default(x, device=device, dtype=dtype, non_blocking=non_blocking)


def parts(x, sizes, dim=0): # as Tensor.split
    if isinstance(sizes, int): return aten.split.Tensor(x, sizes, dim)
    return aten.split_with_sizes.default(x, list(sizes), dim)


def plain(x, index): # -> (view, [Tensor or None for each dimension])
    "Take numbers, slices, None and ... out of an index."
    index, dim, tensors = index if isinstance(index, tuple) else (index,), 0, []
    left = x.ndim - sum(i.ndim if is_mask(i) else 1 for i in index if i is not None and i is not Ellipsis)
    for i in index:
        if i is Ellipsis: tensors, dim = [*tensors, *[None] * left], dim + left
        elif i is None: x, tensors, dim = aten.unsqueeze.default(x, dim), [*tensors, None], dim + 1
        elif isinstance(i, slice):
            x = aten.slice.Tensor(x, dim, i.start, i.stop, i.step or 1)
            tensors, dim = [*tensors, None], dim + 1
        elif isinstance(i, int): x = aten.select.int(x, dim, i)
        elif is_mask(i): tensors, dim = [*tensors, *aten.nonzero.default(i).unbind(1)], dim + i.ndim
        else: tensors, dim = [*tensors, i], dim + 1
    return x, tensors if any(t is not None for t in tensors) else []


@contextmanager
def fake_gpu(): # -> Waits
    "Tensors made in the block are fake; `torch.zeros(3, device=\"cuda\")` is one on a GPU."
    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode())
        waits = stack.enter_context(Waits())
        stack.enter_context(Indexing())
        # it draws until all numbers fit, and there are none
        stack.enter_context(mock.patch.object(torch.nn.init, "trunc_normal_", lambda x, *_, **__: x))
        stack.enter_context(torch.no_grad())  # a graph of fake tensors on a GPU would abort Python: forward only
        yield waits
