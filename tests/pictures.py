"What the tests of hil.plots.curves and hil.plots.sheets share: small seeded data, and what every picture has to hold."
import io
import warnings

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

R = np.random.default_rng(0)
N = 90
FEATURES = R.normal(size=(9, 16))[np.arange(N) % 9] + 0.3 * R.normal(size=(N, 16))
PID, CAM = np.arange(N) % 9, 1 + np.arange(N) % 4
MODALITY = np.where(CAM == 3, "infrared", "visible")
XY = R.normal(size=(N, 2))
# blocks: white noise does not compress
IMAGES = R.integers(0, 256, (N, 3, 4, 2), dtype=np.uint8).repeat(8, 2).repeat(8, 3)


def png(fig):
    "The PNG of a figure; a missing glyph, or any other complaint while drawing, is an error."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        buffer = io.BytesIO()
        fig.savefig(buffer, format="png", bbox_inches="tight")
    image = Image.open(buffer)
    assert min(image.size) > 50 and image.mode == "P" and image.convert("RGB").getpixel((1, 1)) == (255, 255, 255)
    return buffer.getvalue()


def said(fig): return (fig.get_suptitle() + " ".join(t.get_text() for t in fig.texts)).replace("\n", " ")
def axes_titles(fig): return [ax.get_title(loc="left").replace("\n", " ") for ax in fig.axes]


def check_drawing(draw):
    "`draw` gives a figure with a title, free of leaks and of missing values spelled out, that weighs little."
    before, figures = dict(plt.rcParams), plt.get_fignums()
    fig = draw()
    assert dict(plt.rcParams) == before and plt.get_fignums() == figures
    assert len(said(fig)) > 5
    assert not any(bad in said(fig) + " ".join(axes_titles(fig)) for bad in ("nan", "NaN", "None", "inf %"))
    assert len(png(fig)) < 150_000
