"""hil.data.augment: the release's draws, batch operations against one image at a time, seeds and shapes."""
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hil.data.augment import (
    ATTEMPTS,
    CHANNELS,
    Augment,
    channel_adaptive,
    channel_adaptive_gray,
    channel_erase,
    channel_exchange,
    clean,
    copy_channels,
    crop,
    denormalize,
    erase,
    gray,
    hflip,
    jitter,
    normalize,
    resize,
)

with np.load(Path(__file__).parent / "golden/channel_aug.npz") as z:
    G = {k: torch.from_numpy(np.atleast_1d(z[k])) for k in z.files}
PUBLISHED = {"exchange": channel_exchange, "exchange_gray3": lambda x, rng: channel_exchange(x, rng, gray_index=3),
             "adapgray": channel_adaptive_gray,
             "adap": channel_adaptive, "erase": channel_erase}
quick = settings(max_examples=40, deadline=None)


def seeded(seed): return torch.Generator().manual_seed(seed)


def images(B=6, H=40, W=20, seed=0):
    return torch.randint(0, 256, (B, 3, H, W), generator=seeded(seed), dtype=torch.uint8)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_draws(name):
    x, stream = G["input"], random.Random(1234)
    before = x.clone()
    for s in range(12):
        torch.testing.assert_close(PUBLISHED[name](x, random.Random(s)), G[f"{name}_seeded"][s], rtol=0, atol=1e-6)
        torch.testing.assert_close(PUBLISHED[name](x, stream), G[f"{name}_stream1234"][s], rtol=0, atol=1e-6)
    assert x.equal(before)


def test_gray_golden(): torch.testing.assert_close(gray(G["input"]), G["gray_out"], rtol=0, atol=1e-6)


def test_adaptive_gray_counts_golden():
    x, rng, counts = torch.tensor([1., 2., 4.])[:, None, None], random.Random(0), [0] * 5
    for _ in range(20000):
        y = channel_adaptive_gray(x, rng).flatten().tolist()
        counts[{(1, 1, 1): 0, (2, 2, 2): 1, (4, 4, 4): 2, (1, 2, 4): 3}.get(tuple(y), 4)] += 1
    assert counts == G["adapgray_counts_ch0_ch1_ch2_identity_gray"].tolist()


def test_erase_rate_and_area():
    "One at a time and as a batch: the release's rate and mean area."
    x, rng = torch.zeros(3, 288, 144), random.Random(0)
    one = torch.tensor([(channel_erase(x, rng)[0] != 0).float().mean() for _ in range(1500)])
    boxes = [erase(torch.zeros(100, 3, 288, 144), torch.rand(100, 1 + 4 * ATTEMPTS, generator=seeded(s)))
             for s in range(15)]
    many = (torch.cat(boxes)[:, 0] != 0).float().mean((1, 2))
    for area in (one, many):
        assert abs((area > 0).float().mean() - G["erase_rate_288x144"].item()) < .04
        assert abs(area[area > 0].mean() - G["erase_mean_area"].item()) < .015
        assert area[area > 0].min() > .018 and area.max() < .41


@quick
@given(seed=st.integers(0, 10**6), H=st.integers(6, 30), W=st.integers(6, 30))
def test_erased_boxes_are_boxes(seed, H, W):
    y = erase(torch.full((8, 3, H, W), 9.), torch.rand(8, 1 + 4 * ATTEMPTS, generator=seeded(seed)), probability=1.)
    for image in y:
        rows, cols = (image[0] != 9).nonzero(as_tuple=True)
        if not len(rows): continue
        assert len(rows) == (rows.max() - rows.min() + 1) * (cols.max() - cols.min() + 1)
        torch.testing.assert_close(image[:, rows[0], cols[0]], torch.tensor([.4914, .4822, .4465]))


@quick
@given(seed=st.integers(0, 10**6), pad=st.integers(0, 5))
def test_crop_equals_one_at_a_time(seed, pad):
    x, u = torch.rand(5, 3, 9, 7, generator=seeded(seed)), torch.rand(5, 3, generator=seeded(seed + 1))
    for image, (a, b, c), got in zip(x, u.tolist(), crop(x, u, pad)):
        padded = torch.zeros(3, 9 + 2 * pad, 7 + 2 * pad)
        padded[:, pad:pad + 9, pad:pad + 7] = image
        i, j = (int(np.float32(v) * np.float32(2 * pad + 1)) for v in (a, b))
        want = padded[:, i:i + 9, j:j + 7]
        if c < .5: want = want.flip(-1)
        assert got.equal(want)


def test_crop_reaches_every_place():
    x = torch.zeros(4000, 3, 5, 5)
    x[:, :, 2, 2] = 1
    y = crop(x, torch.rand(4000, 3, generator=seeded(0)), pad=2)
    where = y[:, 0].sum(0)
    assert (where > 100).all() and where.sum() == 4000  # 25 places, the pixel never leaves the window


def test_copy_channels_draws_as_published():
    "The choices have the published probabilities, and each choice does what the single-image function does."
    assert {k: [v.count(i) / len(v) for i in range(5)] for k, v in CHANNELS.items()} == {
        "none": [0, 0, 0, 0, 1], "exchange": [1/3, 1/3, 1/3, 0, 0], "exchange_gray": [.25] * 4 + [0],
        "adaptive_gray": [.25, .25, .25, .125, .125]}
    x = torch.rand(5, 3, 4, 2)
    want = [x[0, 0].expand(3, 4, 2), x[1, 1].expand(3, 4, 2), x[2, 2].expand(3, 4, 2), gray(x[3]), x[4]]
    torch.testing.assert_close(copy_channels(x, torch.arange(5)), torch.stack(want))


def test_jitter_by_hand():
    x = torch.tensor([.2, .4, .6])[:, None, None].expand(3, 2, 2)[None]
    torch.testing.assert_close(jitter(x, torch.tensor([[0., .5, .5]])), x * .5)
    # one colour everywhere: contrast is saturation
    torch.testing.assert_close(jitter(x, torch.tensor([[.5, 1., .5]])), gray(x) + (x - gray(x)) * 1.5)
    torch.testing.assert_close(jitter(x, torch.tensor([[.5, .5, 0.]]), strength=1.), gray(x))
    strong = jitter(torch.rand(50, 3, 4, 4), torch.rand(50, 3), 1.)
    assert 0 <= strong.min() and strong.max() <= 1


@pytest.mark.parametrize("channels", CHANNELS)
def test_same_seed_same_views(channels):
    f, x = Augment(32, 16, channels), images()
    a, b, c = f(x, seeded(3)), f(x, seeded(3)), f(x, seeded(4))
    assert a.equal(b) and not a.equal(c)
    assert a.shape == (6, 3, 32, 16) and a.dtype == torch.float32 and a.isfinite().all()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    f(x, seeded(3))
    assert torch.get_rng_state().equal(state)  # nobody else's draws are disturbed


def test_switched_off_it_is_the_clean_view():
    x = images()
    torch.testing.assert_close(Augment(32, 16, jitter=0, pad=0, flip=0, erase=0)(x, seeded(0)), clean(x, 32, 16))
    torch.testing.assert_close(Augment(32, 16, jitter=0, pad=0, flip=1, erase=0)(x, seeded(0)), hflip(clean(x, 32, 16)))


def test_an_image_does_not_depend_on_its_neighbors():
    x = images()
    y = x.clone()
    y[1:] = images(seed=9)[1:]
    assert Augment(32, 16)(x, seeded(0))[0].equal(Augment(32, 16)(y, seeded(0))[0])


def test_floats_equal_bytes():
    x = images()
    torch.testing.assert_close(Augment(32, 16)(x.float() / 255, seeded(0)), Augment(32, 16)(x, seeded(0)))


def test_normalize_and_resize():
    x = torch.rand(2, 3, 8, 4)
    torch.testing.assert_close(denormalize(normalize(x)), x)
    assert abs(normalize(torch.tensor([.485, .456, .406])[:, None, None]).abs().max()) < 1e-6
    assert resize(x, 8, 4).equal(x) and resize(images(), 288, 144).shape == (6, 3, 288, 144)
    torch.testing.assert_close(resize(torch.full((1, 3, 9, 9), .3), 4, 4), torch.full((1, 3, 4, 4), .3))


def test_pad_is_in_proportion():
    assert [Augment(h, h // 2).pad for h in (288, 144, 128)] == [10, 5, 4] and Augment(128, 64, pad=10).pad == 10


def test_bad_input_is_refused():
    for match, call in {"shape": lambda: Augment()(images()[0], seeded(0)),
                        "single-channel": lambda: clean(images()[:, :1]),
                        "channels must be": lambda: Augment(channels="grey"),
                        "erase must": lambda: Augment(erase=2), "jitter must": lambda: Augment(jitter=-1)}.items():
        with pytest.raises(ValueError, match=match): call()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_same_views_on_a_gpu():
    f, x = Augment(32, 16, "adaptive_gray"), images()
    torch.testing.assert_close(f(x.cuda(), seeded(0)).cpu(), f(x, seeded(0)), rtol=1e-4, atol=1e-4)


def test_erased_boxes_reach_every_edge():
    u = torch.rand(3000, 1 + 4 * ATTEMPTS, generator=seeded(0))
    y = erase(torch.zeros(3000, 3, 12, 12), u, probability=1.)[:, 0] != 0
    for edge in (y[:, 0], y[:, -1], y[:, :, 0], y[:, :, -1]): assert edge.any(1).float().mean() > .05
