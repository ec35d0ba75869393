"""The search on a device, run on the processor and on torch's fake GPU, and the product by either library."""
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from hil.core import products
from hil.core.vectors import unit_rows
from hil.method import fast_neighbors
from hil.method.device_neighbors import block_top, blocks_on, top, top_of_equals
from hil.method.labels import Rules, apart_labels, epoch_labels
from hil.method.neighbors import knn, knn_recall
from hil.method.rerank import jaccard_distance


@pytest.fixture
def as_if_gpu(monkeypatch):
    "Every search takes the way of a GPU, on the processor -> the devices that were asked for."
    asked = []
    def on_cpu(device, *args, **options):
        asked.append(device)
        return blocks_on("cpu", *args, **options)
    monkeypatch.setattr(fast_neighbors, "blocks_on", on_cpu)
    return asked


def sorted_whole(products, k): return np.argsort(-products, axis=1, kind="stable")[:, :k]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 80), st.integers(1, 12), st.sampled_from([1, 50, 700, 10**6]), st.data())
def test_a_device_orders_equals_by_number(seed, n, d, room, data):
    "Small whole numbers: exact products full of ties, in one block or many; the compiled search says the same."
    x, k = np.random.default_rng(seed).integers(-2, 3, size=(n, d)).astype(np.float32), data.draw(st.integers(1, n))
    whole = x @ x.T
    np.fill_diagonal(whole, np.inf)
    parts = list(blocks_on("cpu", x, k, room=room))
    found = np.concatenate([number for _, number in parts])
    assert found.dtype == np.int32 and (found == sorted_whole(whole, k)).all()
    assert (found == np.concatenate(list(fast_neighbors._half_product(x, k, 16)))).all()
    assert (np.concatenate([value for value, _ in parts]) == np.take_along_axis(whole, found, 1)).all()
    assert max(len(number) for _, number in parts) <= max(room // n, 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 90, 10**6]), st.data())
def test_other_rows_on_a_device(seed, n, m, room, data):
    rng, k = np.random.default_rng(seed), data.draw(st.integers(1, n))
    x, rows = (rng.integers(-2, 3, size=(size, 4)).astype(np.float32) for size in (n, m))
    value, found = (np.concatenate(part) for part in zip(*blocks_on("cpu", x, k, rows, room)))
    theirs = fast_neighbors.nearest_among(x, rows, k)
    assert (found == sorted_whole(rows @ x.T, k)).all() and (found == theirs[1]).all() and (value == theirs[0]).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0., -0., .5, -.5, 1., -1., 1e-40, -1e-40, float("inf")]), min_size=1, max_size=20),
       st.data())
def test_equals_as_whole_numbers(values, data):
    "Zeros of both signs are equal; numbers too small to be normal, and an image's own place, are in order."
    row, k = torch.tensor([values]), data.draw(st.integers(1, len(values)))
    wanted = sorted_whole(row.numpy(), k)
    assert (top_of_equals(row, k).numpy() == wanted).all()
    _, number, crowded = top(row, k)
    last = np.sort(row.numpy()[0])[-k]
    assert crowded.tolist() == [(row.numpy() >= last).sum() > k] and (crowded.any() or (number.numpy() == wanted).all())


def test_a_device_finds_what_the_processor_finds(as_if_gpu):
    "Directions, where only rounding may differ; and what is built on them is the same."
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 32)).repeat(25, 0) + .5 * rng.normal(size=(1000, 32))
    assert (knn(x, 30, device="cuda:1") == knn(x, 30)).mean() > .999
    everybody = knn(x, 2000, device="cuda")
    assert everybody.shape == (1000, 1000) and (everybody[:, 0] == np.arange(1000)).all()
    far, near = jaccard_distance(x, 20, device="cuda"), jaccard_distance(x, 20)
    assert abs(far - near).max() < 1e-5
    assert as_if_gpu[0] == "cuda:1" and len(as_if_gpu) == 3
    lists = knn(x, 20, "ivf", device="cuda")
    assert knn_recall(x, lists) > .95 and len(as_if_gpu) > 5 and set(as_if_gpu[3:]) == {"cuda"}


def test_copies_on_a_device_are_their_own_first_neighbours(as_if_gpu):
    for x in (np.ones((50, 3)), np.eye(4).repeat(20, 0)):
        found = knn(x, 5, device="cuda")
        assert (found[:, 0] == np.arange(len(x))).all() and all(len(set(row)) == 5 for row in found.tolist())
        assert (found == knn(x, 5)).all()


def test_labels_pass_the_device_on(as_if_gpu):
    rng = np.random.default_rng(0)
    x = {m: rng.normal(size=(8, 16)).repeat(12, 0) + .2 * rng.normal(size=(96, 16)) for m in ("visible", "infrared")}
    rules = Rules(k1=10, k2=4)
    wanted = apart_labels(x, rules)
    assert not as_if_gpu
    for m, y in apart_labels(x, rules, "cuda").items(): assert (y == wanted[m]).all()
    found = epoch_labels(x, rules, "visible_to_infrared", device="cuda").final
    assert as_if_gpu == ["cuda"] * 4 and found["visible"].max() > 3


class Sizes(TorchDispatchMode):
    "The largest tensors that are made."
    def __init__(self):
        super().__init__()
        self.bytes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for x in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(x, torch.Tensor): self.bytes.append(x.numel() * x.element_size())
        return made


@pytest.mark.parametrize("copies", [False, True])
def test_the_room_bounds_what_a_device_holds(copies):
    "No tensor is larger than the room or the features, whatever the number of ties."
    x = np.ones((900, 8)) if copies else np.random.default_rng(0).normal(size=(900, 8))
    room = 40 * 900
    with Sizes() as sizes: list(blocks_on("cpu", unit_rows(x), 10, room=room))
    assert max(sizes.bytes) == 4 * room


@pytest.mark.parametrize("own", [None, 4])
def test_a_block_stays_on_a_fake_gpu(own):
    "Fake tensors know a device and a shape: what lies elsewhere, or is asked back, is an error."
    with FakeTensorMode():
        x, rows, out = (torch.empty(shape, device="cuda") for shape in ((50, 8), (6, 8), (6, 50)))
        value, number, crowded, table = block_top(x, rows, 7, own, out)
        assert {t.device.type for t in (value, number, crowded, table)} == {"cuda"}
        assert value.shape == number.shape == (6, 7) and table.dtype == value.dtype == torch.float32
        again = top_of_equals(table, 7)
        assert again.device.type == "cuda" and again.shape == (6, 7) and again.dtype == torch.int64
        with pytest.raises(RuntimeError, match="device"): block_top(x, torch.empty(6, 8), 7, own)


# products by either library

@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(1, 30), st.integers(1, 9), st.booleans())
def test_both_libraries_multiply_alike(seed, n, m, d, given_out):
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(-3, 4, size=(rows, d)).astype(np.float32) for rows in (n, m))
    for by_library in (*products.LIBRARIES.values(), products.product):
        out = np.full((n, m), np.nan, np.float32) if given_out else None
        found = by_library(a, b, out)
        assert found.dtype == np.float32 and (found == a @ b.T).all() and (found is out or not given_out)


def test_rows_that_torch_cannot_look_at_are_multiplied_too():
    "A memory map that is read only, and rows backwards."
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    locked = a.copy()
    locked.flags.writeable = False
    for rows in (locked, a[:, ::-1], a[::-1]):
        for by_library in products.LIBRARIES.values(): assert (by_library(rows, rows, None) == rows @ rows.T).all()


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_neighbours_do_not_depend_on_the_library(library, monkeypatch):
    "Whole numbers in rows long enough for the choice to be asked; rounding is all that may differ elsewhere."
    monkeypatch.setattr(products, "faster", lambda: library)
    x = np.random.default_rng(0).integers(-2, 3, size=(700, 64)).astype(np.float32)
    whole = x @ x.T
    np.fill_diagonal(whole, np.inf)
    assert x.size * len(x) > 2**24
    assert (np.concatenate(list(fast_neighbors._half_product(x, 30, 2048))) == sorted_whole(whole, 30)).all()
    assert (fast_neighbors.nearest_among(x, x, 30)[1] == sorted_whole(x @ x.T, 30)).all()


def test_the_faster_library_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("HIL_HOME", str(tmp_path))
    def ask(numpy, torch):
        raced = []
        monkeypatch.setattr(products, "library_race", lambda: raced.append(1) or dict(numpy=numpy, torch=torch))
        products.faster.cache_clear()
        return products.faster(), products.faster(), len(raced)
    assert ask(2., 1.) == ("torch", "torch", 1)
    assert ask(1., 2.) == ("torch", "torch", 0)                          # kept in the folder
    file, = (tmp_path / "products").iterdir()
    file.write_text("abacus")
    assert ask(1., .95) == ("numpy", "numpy", 1) and file.read_text() == "numpy\n"      # nearly equal: numpy
    file.unlink()
    file.parent.rmdir()
    file.parent.write_text("a file where a folder should be")
    assert ask(2., 1.) == ("torch", "torch", 1)                          # nowhere to keep it: for this process
    products.faster.cache_clear()


def test_the_race_leaves_the_threads_as_they_were():
    threads, kept = torch.get_num_threads(), partial(torch.set_num_threads, torch.get_num_threads())
    try:
        torch.set_num_threads(2)
        times = products.library_race((8, 8, 8), rounds=1)
        assert torch.get_num_threads() == 2 and set(times) == {"numpy", "torch"} and min(times.values()) > 0
    finally: kept()
    assert torch.get_num_threads() == threads


def test_a_race_that_fails_gives_the_threads_back():
    threads = torch.get_num_threads()
    seen = []
    with pytest.raises(ZeroDivisionError):
        products.race({"counts": lambda: seen.append(torch.get_num_threads()), "fails": lambda: 1 / 0})
    assert torch.get_num_threads() == threads and seen == [1]


@pytest.mark.parametrize("ours, theirs, told", [(1, 12.3, "12 times faster than"), (1, 9.97, "10 times faster than"),
                                                (1, 9.9, "9.9 times faster than"), (1, 1.09, "as fast as"),
                                                (1.09, 1, "as fast as"), (3, 2, "1.5 times slower than")])
def test_speed_in_words(ours, theirs, told): assert products.speed_in_words(ours, theirs) == told
