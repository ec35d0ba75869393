"""The release's ViT once more, as slow plain functions: float64, written from golden/vit_state_keys.json and the recipe
in golden/README.md alone.

Weights and images come from a formula, so that nothing has to be stored: `weights(keys)` and `image(name, n)`.
Nothing of hil is imported.
"""
import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parent / "golden"
KEYS = json.loads((GOLDEN / "vit_state_keys.json").read_text())
ORDER = json.loads((GOLDEN / "vit_param_order.json").read_text())


# --- the recipe: numbers from a name --------------------------------------------------------------------------------

def noise(key, shape):
    "Uniform in -1..1 from the name alone, float64."
    v = (np.arange(1, math.prod(shape) + 1, dtype=np.uint64) * 2654435761 + zlib.crc32(key.encode())) & 0xFFFFFFFF
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        v = ((v ^ (v >> np.uint64(shift))) * np.uint64(factor)) & np.uint64(0xFFFFFFFF)
    return (v / 2.**31 - 1).reshape(shape)


def value(key, shape):
    "One state entry; float32 numbers."
    last, u = key.rsplit(".", 1)[-1], noise(key, shape)
    if last == "num_batches_tracked": return np.zeros(shape, np.int64)
    if last == "running_mean" or last == "bias": u = .1 * u
    elif last == "running_var": u = 1 + .5 * u
    elif last in ("cls_token", "pos_embed"): u = .5 * u
    elif len(shape) == 1: u = 1 + .2 * u
    else: u = u * math.sqrt(3 / math.prod(shape[1:]))
    return u.astype(np.float32)


def weights(shapes): return {k: torch.from_numpy(np.asarray(value(k, tuple(s)))) for k, s in shapes.items()}


def image(name, n, height=288, width=144):
    "n images, float32, as fed to the release."
    b, c, y, x = np.ogrid[:n, :3, :height, :width]
    wave = 1.2 * np.sin(.07 * (c + 1) * y - .11 * x + .9 * b)
    return torch.from_numpy((wave + .8 * noise(f"image_{name}", (n, 3, height, width))).astype(np.float32))


# --- the network: float64, a function for each part -----------------------------------------------------------------

def conv(x, w, b=None, stride=1, pad=0):
    "Windows cut out and multiplied; no library convolution."
    size = w.shape[-1]
    x = torch.nn.functional.pad(x, (pad,) * 4)
    out_h, out_w = (x.shape[2] - size) // stride + 1, (x.shape[3] - size) // stride + 1
    y = 0
    for i in range(size):
        for j in range(size):
            window = x[:, :, i:i + stride * (out_h - 1) + 1:stride, j:j + stride * (out_w - 1) + 1:stride]
            y = y + torch.einsum("bchw,dc->bdhw", window, w[:, :, i, j])
    return y if b is None else y + b[:, None, None]


def normalise(x, dims, eps):
    mean = x.mean(dims, keepdim=True)
    return (x - mean) / ((x - mean) ** 2).mean(dims, keepdim=True).add(eps).sqrt()


class Net:
    "Functional twin: `w` holds weights and running statistics; `train` uses the batch's and moves the running ones."
    def __init__(self, state, heads=12, train=False):
        self.w = {k: v.double() for k, v in state.items()}
        self.heads, self.train = heads, train

    def batch_norm(self, x, at):
        dims, shape = (0, 2, 3) if x.ndim == 4 else (0,), (1, -1) + (1,) * (x.ndim - 2)
        mean, var = self.w[at + ".running_mean"], self.w[at + ".running_var"]
        if self.train:
            n, mean, var = x.numel() / x.shape[1], x.mean(dims), x.var(dims, unbiased=False)
            with torch.no_grad():
                self.w[at + ".running_mean"] = .9 * self.w[at + ".running_mean"] + .1 * mean
                self.w[at + ".running_var"] = .9 * self.w[at + ".running_var"] + .1 * var * n / (n - 1)
                self.w[at + ".num_batches_tracked"] = self.w[at + ".num_batches_tracked"] + 1
        x = (x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt()
        return x * self.w[at + ".weight"].view(shape) + self.w[at + ".bias"].view(shape)

    def half_norm(self, x, at):
        h = x.shape[1] // 2
        weight, bias = (self.w[f"{at}.IN.{name}"].view(1, -1, 1, 1) for name in ("weight", "bias"))
        a = normalise(x[:, :h], (2, 3), 1e-5) * weight + bias
        return torch.cat([a, self.batch_norm(x[:, h:], at + ".BN")], 1)

    def stem(self, x, at):
        x = self.half_norm(conv(x, self.w[at + ".conv.0.weight"], stride=2, pad=3), at + ".conv.1").clamp(min=0)
        x = self.half_norm(conv(x, self.w[at + ".conv.3.weight"], pad=1), at + ".conv.4").clamp(min=0)
        return self.batch_norm(conv(x, self.w[at + ".conv.6.weight"], pad=1), at + ".conv.7").clamp(min=0)

    def patches(self, x, at):
        x = conv(self.stem(x, at), self.w[at + ".proj.weight"], self.w[at + ".proj.bias"], stride=8)
        return torch.stack([x[:, :, r, c] for r in range(x.shape[2]) for c in range(x.shape[3])], 1)

    def linear(self, x, at): return x @ self.w[at + ".weight"].T + self.w[at + ".bias"]
    def layer_norm(self, x, at): return normalise(x, (-1,), 1e-6) * self.w[at + ".weight"] + self.w[at + ".bias"]

    def block(self, x, at):
        d = x.shape[2] // self.heads
        q, k, v = self.linear(self.layer_norm(x, at + ".norm1"), at + ".attn.qkv").split(x.shape[2], 2)
        parts = []
        for h in range(self.heads):
            a, b, c = (t[:, :, h * d:(h + 1) * d] for t in (q, k, v))
            scores = (a @ b.transpose(1, 2) / math.sqrt(d)).exp()
            parts.append(scores / scores.sum(2, keepdim=True) @ c)
        x = x + self.linear(torch.cat(parts, 2), at + ".attn.proj")
        h = self.linear(self.layer_norm(x, at + ".norm2"), at + ".mlp.fc1")
        return x + self.linear(h * (1 + torch.erf(h / math.sqrt(2))) / 2, at + ".mlp.fc2")

    def __call__(self, visible=None, infrared=None):
        "-> {'deep': [B, D], 'shallow': [B, D]}, visible rows before infrared ones."
        stems = {"base.patch_embed": visible, "base.patch_embed2": infrared}
        tokens = torch.cat([self.patches(x.double(), at) for at, x in stems.items() if x is not None])
        x = torch.cat([self.w["base.cls_token"].expand(len(tokens), 1, -1), tokens], 1) + self.w["base.pos_embed"]
        early = x[:, 1:]
        depth = 1 + max(int(k.split(".")[2]) for k in self.w if k.startswith("base.blocks."))
        for i in range(depth - 1): x = self.block(x, f"base.blocks.{i}")
        deep = self.layer_norm(self.block(x, "b1.0"), "b1.1")[:, 0]
        shallow = self.layer_norm(self.block(torch.cat([x[:, :1], early], 1), "b2.0"), "b2.1")[:, 0]
        return {"deep": self.batch_norm(deep, "bottleneck"), "shallow": self.batch_norm(shallow, "bottlenecks")}
