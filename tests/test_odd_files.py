"Files as cameras, systems and strangers leave them: each is read rightly, refused by its name, or counted."
import io
import logging
import os
import re
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps, features

from hil.core.errors import DataError
from hil.core.pictures import camera_ranges, is_swapped, measured, picture_kind
from hil.data import check
from hil.data.folder import load_folder
from hil.data.images import cached_images, intensities, read_image, read_images, table_key
from hil.data.layouts import load
from hil.explore.journal import read_labels
from hil.explore.source import from_frame, thumbnail
from hil.synth.stand_ins import write_layout

H, W = 48, 24


def scene(seed=0, low=0, high=255):
    "A smooth picture with a bright bar at the top left, so that a turn is seen; float [H, W]."
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.random((6, 3)).astype(np.float32)).resize((W, H), Image.Resampling.BILINEAR)
    x = np.asarray(coarse, np.float64).copy()
    x[:6, :12] = 1.2
    x = (x - x.min()) / (x.max() - x.min())
    return low + (high - low) * x


GREY = scene().round().astype(np.uint8)
COUNTS = scene(0, 7000, 7800).round().astype(np.uint16)  # 800 of 65,536 steps
EXPECTED = np.asarray(GREY, int)


def colour(mode="RGB"): return Image.merge("RGB", [Image.fromarray(GREY)] * 3).convert(mode)


def with_exif(image, number):
    "(image as a camera's sensor has it, EXIF that turns it upright)"
    turned = {1: image, 2: ImageOps.mirror(image), 3: image.rotate(180), 4: ImageOps.flip(image),
              5: image.transpose(Image.Transpose.TRANSPOSE), 6: image.transpose(Image.Transpose.ROTATE_90),
              7: image.transpose(Image.Transpose.TRANSVERSE), 8: image.transpose(Image.Transpose.ROTATE_270)}[number]
    exif = Image.Exif()
    exif[0x0112] = number
    return turned, exif


def saved(image, **options): return lambda file: image.save(file, **options)
def bytes_(content): return lambda file: file.write_bytes(content)
def oriented(number, **options):
    turned, exif = with_exif(colour(), number)
    return lambda file: turned.save(file, exif=exif, **options)


def pgm16(file): file.write_bytes(b"P5\n%d %d\n65535\n" % (W, H) + COUNTS.byteswap().tobytes())
def frames(*more): return dict(save_all=True, append_images=[Image.new("RGB", (W, H), "red")], **dict(more))
def renamed(suffix, **options):
    def make(file):
        colour().save(file.with_suffix(suffix), **options)
        file.with_suffix(suffix).rename(file)
    return make


def damaged_exif(file): colour().save(file, quality=98, exif=b"Exif\0\0this is no block of EXIF")


# name -> (writes the file, how far a grey level may be off)
READ = {
    "grey.png": (saved(Image.fromarray(GREY)), 0), "colour.png": (saved(colour()), 0),
    "alpha.png": (saved(colour("RGBA")), 0), "palette.png": (saved(colour().quantize(256)), 6),
    "grey-alpha.png": (saved(colour("LA")), 0), "interlaced.PNG": (saved(colour()), 0),
    "colour.bmp": (saved(colour()), 0), "grey.bmp": (saved(Image.fromarray(GREY)), 0),
    "colour.jpg": (saved(colour(), quality=98), 6), "grey.jpeg": (saved(Image.fromarray(GREY), quality=98), 6),
    "progressive.jpg": (saved(colour(), quality=98, progressive=True), 6),
    "cmyk.jpg": (saved(colour("CMYK"), quality=98), 8), "colour.jfif": (saved(colour(), format="JPEG", quality=98), 6),
    "several.jpg": (saved(colour(), format="MPO", quality=98, **frames()), 6),
    "colour.tif": (saved(colour()), 0), "colour.TIFF": (saved(colour(), compression="tiff_lzw"), 0),
    "pages.tif": (saved(colour(), **frames()), 0), "animated.gif": (saved(colour(), **frames()), 6),
    "still.gif": (saved(Image.fromarray(GREY)), 0), "colour.ppm": (saved(colour()), 0),
    "grey.pgm": (saved(Image.fromarray(GREY)), 0), "ünï cødé.png": (saved(colour()), 0),
    "a GIF.jpg": (renamed(".gif"), 6), "a PNG.jpg": (renamed(".png"), 0),
    "a WebP.png": (renamed(".webp", lossless=True), 0),
    "lossless.webp": (saved(colour(), lossless=True), 0), "colour.jp2": (saved(colour()), 0),
    "damaged-exif.jpg": (damaged_exif, 6),
    "counts.png": (saved(Image.fromarray(COUNTS)), 2), "counts.tif": (saved(Image.fromarray(COUNTS)), 2),
    "big-endian.tif": (saved(Image.fromarray(COUNTS.astype(">u2"))), 2), "counts.pgm": (pgm16, 2),
    "exchanged.png": (saved(Image.fromarray(COUNTS.byteswap())), 2),
    "wide.png": (saved(Image.fromarray(GREY.astype(np.uint16) * 257)), 0),
    "kelvin.tif": (saved(Image.fromarray(scene(0, 273, 309).astype(np.float32))), 2),
    "signed.tif": (saved(Image.fromarray(scene(0, -400, 900).round().astype(np.int32))), 2),
    **{f"turned-{n}.png": (oriented(n), 0) for n in range(1, 9)},
    **{f"turned-{n}.jpg": (oriented(n, quality=98), 6) for n in (3, 6, 8)},
    "turned-6.tif": (oriented(6), 0), "turned-8.webp": (oriented(8, lossless=True), 0)}
NEEDS = {".webp": "webp", ".jp2": "jpg_2000"}


@pytest.mark.parametrize("name", READ)
def test_a_picture_is_read_upright_and_in_full(tmp_path, name):
    make, off = READ[name]
    codec = NEEDS.get(Path(name).suffix, "webp" if "WebP" in name else "")
    if codec and not features.check(codec): pytest.skip(f"this Pillow has no {codec}")
    make(tmp_path / name)
    seen = read_image(tmp_path / name, H, W).astype(int)
    assert np.abs(seen - EXPECTED[..., None]).max() <= off
    shown = grey_of(thumbnail(tmp_path / name, H))          # the explorer sees the same picture
    assert np.abs(shown - EXPECTED).mean() < 6


def grey_of(data):
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image: return np.asarray(image.convert("L"), int)


def png_of(width, height):
    "A PNG that claims a size, and holds nothing."
    def number(n): return struct.pack(">I", n)
    def chunk(kind, data): return number(len(data)) + kind + data + number(zlib.crc32(kind + data))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def listening(file):
    with socket.socket(socket.AF_UNIX) as s: s.bind(str(file))


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 48\n%%EndComments\nshowpage\n"
COPY = "Copy this file again"
REFUSED = { # name -> (writes the file, what is said)
    "empty.jpg": (bytes_(b""), "the file is empty"), "text.png": (bytes_(b"hello"), "is not known by its first bytes"),
    "page.jpg": (bytes_(b"<!DOCTYPE html><html>404"), "is not known by its first bytes"),
    "figure.jpg": (bytes_(EPS), "begins as a PostScript file does"), "figure.png": (bytes_(b"8BPS\0\1"), "Photoshop"),
    "phone.jpg": (bytes_(b"\0\0\0\x18ftypheic\0\0\0\0heic"), "begins as a HEIC or AVIF file does"),
    "half.jpg": (lambda file: file.write_bytes(jpeg()[:400]), "of 400 bytes .*[Tt]runcated"),
    "half.png": (lambda file: (colour().save(file), file.write_bytes(file.read_bytes()[:90])), "of 90 bytes"),
    "zeros.png": (bytes_(bytes(500)), "of 500 bytes"),
    "warning.png": (bytes_(png_of(10_000, 10_000)), "claims 100,000,000 pixels.*decompression bomb"),
    "bomb.png": (bytes_(png_of(100_000, 100_000)), "claims 10,000,000,000 pixels.*decompression bomb"),
    "folder.png": (lambda file: file.mkdir(), "it is a folder"), "pipe.jpg": (os.mkfifo, "it is a named pipe"),
    "socket.jpg": (listening, "it is a socket"),
    "nowhere.jpg": (lambda file: file.symlink_to("gone.jpg"), "no such image"),
    "loop.jpg": (lambda file: file.symlink_to(file), "cannot be read as an image")}


def jpeg():
    colour().save(out := io.BytesIO(), "JPEG")
    return out.getvalue()


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_picture_is_refused_by_its_name(tmp_path, monkeypatch, name):
    make, says = REFUSED[name]
    make(tmp_path / name)
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was called"))
    with pytest.raises(DataError, match=f"(?s){re.escape(name)}: .*{says}") as caught: read_image(tmp_path / name, H, W)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    card = grey_of(thumbnail(tmp_path / name, H))            # a grey card with a word
    assert abs(int(np.median(card)) - 128) < 8


# ---- folders ------------------------------------------------------------------------------------------------------

def archive(root):
    "Two branches of six pictures each."
    for m, cam in (("visible", 1), ("infrared", 3)):
        folder = root / m / f"cam{cam}"
        folder.mkdir(parents=True)
        for i in range(6): Image.fromarray(scene(i + 10 * cam).round().astype(np.uint8)).save(folder / f"{i}.png")
    return root


def put(name, content=b"x"): return lambda root: (root / name).write_bytes(content)
def latin(root):
    with open(os.fsencode(root / "visible") + b"/caf\xe9.png", "wb"): pass


LEFT_OUT = { # name -> (adds something to an archive, kind, how it is named)
    "HEIC": (put("visible/a.heic"), "format", "visible/a.heic"),
    "AVIF": (put("visible/a.AVIF"), "format", "visible/a.AVIF"),
    "vector graphics": (put("infrared/a.svg"), "format", "infrared/a.svg"),
    "raw counts of FLIR": (put("infrared/a.fff", b"FFF\0"), "format", "infrared/a.fff"),
    "no suffix": (put("visible/scan", png_of(4, 4)), "format", "visible/scan"),
    "half a download": (put("visible/a.jpg.part", b"\xff\xd8\xff\xe0"), "format", "visible/a.jpg.part"),
    "Latin-1": (latin, "name", r"visible/caf\\xe9.png"),
    "a pipe": (lambda root: os.mkfifo(root / "visible/a.jpg"), "special", "visible/a.jpg"),
    "a link to nowhere": (lambda root: (root / "visible/a.jpg").symlink_to("b"), "special", "visible/a.jpg"),
    "a loop of links": (lambda root: (root / "visible/a.jpg").symlink_to("a.jpg"), "special", "visible/a.jpg"),
    "a link to the root": (lambda root: (root / "visible/up").symlink_to(".."), "again", "visible/up"),
    "a link to itself": (lambda root: (root / "visible/cam1/x").symlink_to("."), "again", "visible/cam1/x"),
    "a link to the disk": (lambda root: (root / "visible/disk").symlink_to("/"), "again", "visible/disk"),
    "beside": (lambda root: ((root / "thermal-2").mkdir(), (root / "thermal-2/a.png").touch()), "elsewhere",
               "thermal-2/a.png"),
    "Windows": (put("visible/Thumbs.db"), "hidden", "visible/Thumbs.db"),
    "macOS": (lambda root: (root / "visible/__MACOSX").mkdir(), "hidden", "visible/__MACOSX"),
    "a twin of macOS": (put("visible/._a.jpg"), "hidden", "visible/._a.jpg"),
    "a hidden folder": (lambda root: (root / "visible/.cache").mkdir(), "hidden", "visible/.cache"),
    "a line feed": (put("visible/a\nb.png"), "control", r"visible/a\\nb.png"),
    "notes": (put("visible/cam1/notes.txt"), "other", "visible/cam1/notes.txt")}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_is_left_out_is_counted_and_named(tmp_path, caplog, name):
    spoil, kind, named = LEFT_OUT[name]
    spoil(archive(tmp_path))
    with caplog.at_level(logging.INFO): table = load_folder(tmp_path)
    assert len(table) == 12 and list(table.attrs["left_out"]) == [kind]
    assert re.fullmatch(rf".*: 1 \({named}\)", table.attrs["left_out"][kind]), table.attrs["left_out"]
    assert f"left out: {table.attrs['left_out'][kind]}" in caplog.text
    assert ("WARNING" in caplog.text) == (kind in ("format", "name", "control", "special"))


def test_check_counts_all_of_it_and_does_not_contradict_itself(tmp_path, caplog):
    archive(tmp_path)
    assert check.check(tmp_path).verdict == "HEALTHY"
    for spoil, kind, _ in LEFT_OUT.values():
        if kind in ("again", "hidden", "other", "elsewhere"): spoil(tmp_path)
    report = check.check(tmp_path)
    assert report.verdict == "HEALTHY" and sum("left out: " in note for note in report.notes) == 4
    put("visible/a.heic")(tmp_path)
    report = check.check(tmp_path)
    assert report.verdict == "1 PROBLEM" and "left out: files in picture formats that are not read" in str(report)
    assert "left out" not in caplog.text                            # the report says it, once


def test_linked_folders_are_entered(tmp_path):
    real, root = archive(tmp_path / "real"), tmp_path / "root"
    for m, cam in (("visible", 1), ("infrared", 3)):
        (root / m).mkdir(parents=True)
        (root / m / f"camera-{cam}").symlink_to(real / m / f"cam{cam}")
    (root / "infrared" / "extra.png").symlink_to(real / "infrared/cam3/0.png")
    table = load_folder(root)
    assert len(table) == 13 and set(table.camid) == {0, 1, 3} and table.attrs["left_out"] == {}
    assert read_images(table.path, H, W, root=root).shape == (13, 3, H, W)


@pytest.mark.parametrize("name", ["sysu", "regdb", "llcm", "folder"])
def test_a_stand_in_leaves_nothing_out_and_an_image_too_many_is_told(tmp_path, name):
    root = write_layout(name, tmp_path / name, people=4)
    table = load(name, root, expect="stand-in")
    assert table.attrs["left_out"] == {} and table.attrs["ranges"] in ({}, folder_ranges(table))
    where = {"sysu": "cam1/9999", "regdb": "Visible/99", "llcm": "vis/9999", "folder": "spare"}[name]
    (root / where).mkdir()
    (root / where / "1.png").touch()
    left = load(name, root, expect="stand-in").attrs["left_out"]
    assert list(left) == ["elsewhere" if name == "folder" else "unlisted"] and f"({where}/1.png)" in str(left)


def folder_ranges(table):
    "Its 16-bit files hold 8 bits, times 257, and are not stretched."
    return {camera: [0., 65535., False] for camera in table.attrs["ranges"]}


@pytest.mark.parametrize("expect, verdict", [("published", "1 PROBLEM"), ("any", "READABLE: 1 count off")])
def test_counts_that_differ_are_no_health(tmp_path, expect, verdict):
    root = write_layout("folder", tmp_path / "folder", people=4)
    next((root / "visible").rglob("*.jpg")).unlink()
    report = check.check(root, expect=expect)
    assert report.verdict.startswith(verdict) and "HEALTHY" not in str(report) and "<-- differs" in str(report)


# ---- thermal cameras ----------------------------------------------------------------------------------------------

def thermal(root, low=7000, high=7800, change=lambda x: x, dtype=np.uint16):
    "An archive whose infrared camera writes counts."
    archive(root)
    for i in range(6):
        x = change(scene(30 + i, low + 20 * i, high + 20 * i).round().astype(dtype))
        Image.fromarray(x).save(root / f"infrared/cam3/{i}.png")
    return root


def test_a_camera_has_one_range_for_all_its_pictures(tmp_path):
    table = load_folder(thermal(tmp_path))
    (camera, (low, high, swapped)), = table.attrs["ranges"].items()
    assert camera == "infrared camera 3" and 6995 < low < 7100 and 7800 < high < 7905 and not swapped
    part = table[table.modality == "infrared"]
    x = read_images(part.path, H, W, root=tmp_path, ranges=intensities(part)).numpy()[:, 0]
    counts = np.stack([np.asarray(Image.open(tmp_path / p)).astype(float) for p in part.path])
    assert np.abs(x - ((counts - low) / (high - low) * 255).clip(0, 255)).max() <= .5
    assert min(len(np.unique(image)) for image in x) > 150
    assert "counts from" in check.check(tmp_path).images["infrared camera 3"]


def test_counts_in_the_wrong_byte_order_are_named_and_read(tmp_path):
    right, wrong = thermal(tmp_path / "a"), thermal(tmp_path / "b", change=lambda x: x.byteswap())
    tables = [load_folder(root) for root in (right, wrong)]
    x, y = (read_images(t.path, H, W, root=t.attrs["root"], ranges=intensities(t)) for t in tables)
    assert np.array_equal(x, y) and [t.attrs["ranges"]["infrared camera 3"][2] for t in tables] == [False, True]
    report = check.check(wrong)
    assert report.verdict == "HEALTHY" and "bytes of each were exchanged" in str(report)
    odd = wrong / "infrared/cam3/0.png"
    odd.write_bytes((right / "infrared/cam3/0.png").read_bytes())
    assert "1 images have their bytes in another order" in str(check.check(wrong))


@pytest.mark.parametrize("low, high", [(0, 255), (100, 900), (6900, 7100), (0, 4095), (0, 16383), (20000, 65535)])
def test_the_byte_order_is_told_from_the_pixels(low, high):
    rng = np.random.default_rng(0)
    x = (scene(1, low, high) + rng.normal(0, (high - low) / 200, (H, W))).clip(low, high).round().astype(np.uint16)
    assert not is_swapped(x)
    assert is_swapped(x.byteswap()) == (high > 255)                  # 8 bits look alike either way
    noise = rng.integers(0, 65536, (H, W)).astype(np.uint16)
    assert not is_swapped(noise) and not is_swapped(np.full((4, 4), 7000, np.uint16))


def test_ranges_are_robust_and_8_bits_have_none(tmp_path):
    hot = COUNTS.copy()
    hot[0, 0], hot[1, 1] = 65535, 0                                   # two dead pixels
    assert measured([hot] * 3)[:2] == pytest.approx(measured([COUNTS] * 3)[:2], abs=30)
    assert measured([np.full((4, 4), np.nan, np.float32)]) == (0, 1, False)
    files = [tmp_path / name for name in ("a.png", "b.jpg", "c.png", "gone.png", "d.tif")]
    for file, x in zip(files[:2], (GREY, GREY)): Image.fromarray(x).save(file)
    files[2].write_bytes(b"no picture")
    Image.fromarray(COUNTS).save(files[4])
    assert list(camera_ranges(files, [1, 1, 1, 1, 2])) == [2]


def test_another_range_or_another_way_of_reading_has_another_cache(tmp_path, monkeypatch):
    table = load_folder(thermal(tmp_path / "a"))
    def caches(): return len(list((tmp_path / "c").iterdir()))
    def make():
        return cached_images(table.path, 8, 4, tmp_path / "a", tmp_path / "c", ranges=intensities(table))
    first, key = make().clone(), table_key(table)
    assert np.array_equal(make(), first) and caches() == 1
    table.attrs["ranges"] = {"infrared camera 3": [7000., 7100., False]}
    assert table_key(table) != key and not np.array_equal(make(), first) and caches() == 2
    monkeypatch.setattr("hil.data.images.READING", 99)
    key = table_key(table)
    assert make() is not None and caches() == 3 and table_key(table) == key


def test_pictures_without_contrast_are_no_health(tmp_path):
    archive(tmp_path)
    one = tmp_path / "infrared/cam3/0.png"
    Image.new("L", (W, H), 27).save(one)
    report = check.check(tmp_path)
    assert report.healthy and "1 of 6 infrared images are nearly constant" in str(report)
    for file in (tmp_path / "infrared").rglob("*.png"):
        Image.fromarray((GREY // 100 + 27 + int(file.stem)).astype(np.uint8)).save(file)
    report = check.check(tmp_path)
    assert report.verdict == "1 PROBLEM" and "6 infrared images are nearly constant" in str(report)


def test_check_says_how_odd_pictures_are_read(tmp_path):
    archive(tmp_path)
    oriented(6, quality=98)(tmp_path / "visible/cam1/turned.jpg")
    damaged_exif(tmp_path / "visible/cam1/damaged.jpg")
    READ["animated.gif"][0](tmp_path / "visible/cam1/animated.gif")
    READ["a GIF.jpg"][0](tmp_path / "visible/cam1/misnamed.jpg")
    flir = tmp_path / "infrared/cam3/flir.jpg"
    Image.fromarray(scene(5).astype(np.uint8)).save(flir)
    data = flir.read_bytes()
    block = b"FLIR\0\x01\0\0FFF\0"
    flir.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:])
    report = str(check.check(tmp_path))
    for says in ("1 of 17 decoded images carry an EXIF orientation and are turned upright: visible/cam1/turned.jpg",
                 "have a damaged EXIF block.*damaged.jpg", "hold several pictures, of which the first.*animated.gif",
                 "radiometric files of a FLIR camera: the picture that the camera drew is used.*flir.jpg",
                 "1 of 17 decoded images hold another format than their name says.*misnamed.jpg"):
        assert re.search(says, report), report
    assert "HEALTHY" in report


# ---- lists and label files ----------------------------------------------------------------------------------------

def test_exchanged_lists_are_refused_under_any_expectation(tmp_path):
    for name, pair in (("regdb", ("idx/train_visible_1.txt", "idx/train_thermal_1.txt")),
                       ("llcm", ("idx/train_vis.txt", "idx/train_nir.txt"))):
        root = write_layout(name, tmp_path / name, people=4)
        a, b = ((root / p).read_bytes() for p in pair)
        (root / pair[0]).write_bytes(b)
        (root / pair[1]).write_bytes(a)
        for expect in ("stand-in", "any"):
            with pytest.raises(DataError, match=f"{pair[0]}, line 1: expected an image in the folder .*exchanged"):
                load(name, root, expect=expect)


def test_lists_with_backslashes_and_dots_are_read_and_ways_out_are_refused(tmp_path):
    root = write_layout("regdb", tmp_path / "regdb", people=4)
    before, file = load("regdb", root, expect="stand-in"), root / "idx/train_visible_1.txt"
    text = file.read_text("utf-8")
    file.write_text("".join(".\\" + line.replace("/", "\\") + "\r\n" for line in text.splitlines()), "utf-8")
    assert load("regdb", root, expect="stand-in").equals(before)
    file.write_text(text.replace("Visible/", "Visible/../../"), "utf-8")
    with pytest.raises(DataError, match="train_visible_1.txt, line 1: .* leads out of the data set"):
        load("regdb", root, expect="any")


IMAGES = ["visible/a.png", "visible/b,c.png", "infrared/d.png"]
WRITTEN = {
    "plain": 'path,label\nvisible/a.png,3\n"visible/b,c.png",-1\ninfrared/d.png,0\n',
    "a comma behind each row": 'path,label\nvisible/a.png,3,\n"visible/b,c.png",-1,\ninfrared/d.png,0,\n',
    "a comma behind all": 'path,label,\nvisible/a.png,3,\n"visible/b,c.png",-1,\ninfrared/d.png,0,\n',
    "dots": 'path,label\n./visible/a.png,3\n"./visible/b,c.png",-1\n././infrared//d.png,0\n',
    "backslashes": 'path,label\r\nvisible\\a.png,3\r\n"visible\\b,c.png",-1\r\ninfrared\\d.png,0\r\n',
    "a mark of Excel, another order": '\ufefflabel, path ,note\n0,infrared/d.png,x\n3.0,visible/a.png,\n',
    "blank lines": 'path,label\n\nvisible/a.png,3\n\n"visible/b,c.png", -1 \ninfrared/d.png,0\n\n'}


@pytest.mark.parametrize("how", WRITTEN)
def test_label_files_as_people_write_them(tmp_path, how):
    (tmp_path / "labels.csv").write_text(WRITTEN[how], "utf-8")
    assert read_labels(tmp_path / "labels.csv", IMAGES).tolist() == [3, -1, 0]


WRONG = {
    "no image of ours": ("path,label\nx/a.png,3\n",
                         "names none of the 3 images. It has x/a.png; the images are visible/a"),
    "infinite": ("path,label\nvisible/a.png,inf\n", r"row 1 \(visible/a.png\): label 'inf'; expected a whole number"),
    "a half": ("path,label\nvisible/a.png,0\ninfrared/d.png,1.7\n", r"row 2 \(infrared/d.png\): label '1.7'"),
    "a formula": ("path,label\nvisible/a.png,=1+1\n", "label '=1[+]1'"),
    "nothing": ("path,label\nvisible/a.png,\n", "label ''"),
    "below -1": ("path,label\nvisible/a.png,-2\n", "label '-2'"),
    "huge": ("path,label\nvisible/a.png,9999999999\n", "label '9"),
    "a comma in a path": ("path,label\nvisible/b,c.png,1\n", "row 1: 3 values below 2 names.*in quotes"),
    "a cell too few": ("path,label,name\nvisible/a.png,1\n", "row 1: 2 values below 3 names"),
    "twice": ("path,label\nvisible/a.png,1\n./visible/a.png,2\n", "visible/a.png is there twice"),
    "no heading": ("visible/a.png,1\n", "no column path, label; found visible/a.png"),
    "empty": ("", "no column path, label"),
    "Latin-1": (b"path,label\nvisible/caf\xe9.png,1\n", "no CSV file in UTF-8")}


@pytest.mark.parametrize("how", WRONG)
def test_label_files_that_cannot_be_meant(tmp_path, how):
    content, says = WRONG[how]
    (tmp_path / "labels.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=rf"labels\.csv(, row [0-9]+.*)?: .*{says}|labels\.csv, {says}"):
        read_labels(tmp_path / "labels.csv", IMAGES)


def test_rows_that_name_no_image_are_told(tmp_path, caplog):
    (tmp_path / "labels.csv").write_text("path,label\nvisible/a.png,3\nold/x.png,1\n", "utf-8")
    assert read_labels(tmp_path / "labels.csv", IMAGES).tolist() == [3, -1, -1]
    assert "1 of 2 rows name no image here: old/x.png" in caplog.text


def test_labels_of_a_table_are_whole_numbers():
    table = pd.DataFrame({"path": ["a", "b"], "camid": 1, "modality": ["visible", "infrared"], "label": [0, np.inf]})
    source = from_frame(table, np.eye(2))
    with pytest.raises(ValueError, match=r"label\[1\] is inf; expected whole numbers"): source.labels(0)


# ---- locales ------------------------------------------------------------------------------------------------------

LOCALE = """
import sys
from pathlib import Path
from hil.cli import main
from hil.data.folder import load_folder
from hil.evaluation.scoring import write_results
from hil.evaluation.tables import published_figures, result_table
from hil.runs.config import Config
from hil.runs.folder import Run
assert sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode
home = Path(sys.argv[1])
write_results(home / "out", result_table({published_figures().setting[0]: {}}), ["a note \\u2192"])
table = load_folder(home / "archive")
assert len(table) == 12, len(table)
run = Run.create(Config(run_dir=str(home / "run"), dataset="folder", data_root=str(home / "archive")), table)
Run(run.path)
main(["check", str(home / "archive"), "--sheet", str(home / "sheet.png")])
"""


def test_a_locale_without_letters_stops_nothing(tmp_path):
    archive(tmp_path / "archive")
    (tmp_path / "archive/visible/cam1/\u00e9.png").write_bytes((tmp_path / "archive/visible/cam1/0.png").read_bytes())
    told = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", LOCALE, str(tmp_path)], env=told, capture_output=True, timeout=300)
    out = done.stdout.decode() + done.stderr.decode()
    assert done.returncode == 1 and "Traceback" not in out and "1 PROBLEM" in out, out
    assert r"names that this locale cannot express (set PYTHONUTF8=1 or LC_ALL=C.UTF-8): 1 (visible/cam1/\xe9" in out
    assert {"\u2020", "\u2192"} <= set((tmp_path / "out/results.md").read_text("utf-8"))


def test_kinds_of_files_by_their_first_bytes():
    kinds = {jpeg(): "JPEG", png_of(1, 1): "PNG", b"BM\x46\0\0\0\0\0\0\0\x36\0": "BMP",
             b"BMW prices 2026": "",
             b"II*\0": "TIFF", b"RIFF\x10\0\0\0WEBPVP8 ": "WebP",
             b"RIFF\x10\0\0\0WAVEfmt ": "", b"P5\n2 2": "PNM", b"": ""}
    assert {data: picture_kind(data[:16]) for data in kinds} == kinds
