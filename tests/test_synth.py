"The embedded benchmark: same seed same bytes, layout, truth, pictures; and the ray-caster against a slow reference."
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hil.core.errors import DataError
from hil.synth import scenes
from hil.synth.materials import EYE, material
from hil.synth.painting import paint
from hil.synth.people import GARMENTS, PIECE, SLOT, body, draw_person
from hil.synth.raster import ALONG, DEPTH, NX, NZ, PART, PX, PY, PZ, cast, cone, expose, shade, turn
from hil.synth.render import FORMAT, PRESETS, Preset, default_root, load_truth, plan, render, write, write_folder
from hil.synth.scenes import CAMERAS
from hil.synth.shots import TAPE, Difficulty, Shot, draw_shot, frame_person, picture, put_in, surfaces

TIES = (0.7, 0.68)


@pytest.fixture(autouse=True)
def micro(monkeypatch): monkeypatch.setitem(PRESETS, "micro", Preset(6, 2, 2, 2))


def files(root): return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "One micro rendering by one worker."
    PRESETS["micro"] = Preset(6, 2, 2, 2)
    root = render("micro", 5, root=tmp_path_factory.mktemp("synth") / "whole", workers=1, progress=False)
    del PRESETS["micro"]
    return root


@pytest.fixture(scope="module")
def pixels(whole): return {path: np.asarray(Image.open(whole / path)) for path in load_truth(whole).path}


# same seed, same bytes

@pytest.mark.parametrize("workers", [2, 5])
def test_bytes_do_not_depend_on_workers(whole, tmp_path, workers):
    assert files(render("micro", 5, root=tmp_path / "r", workers=workers, progress=False)) == files(whole)


def test_continues_after_folders_and_manifest_are_gone(whole, tmp_path):
    root = shutil.copytree(whole, tmp_path / "r")
    (root / "synth.json").unlink(), (root / "truth.csv").unlink()
    for name in ("cam1/0001", "cam3/0004", "cam6"): shutil.rmtree(root / name)
    kept = (root / "cam2/0002/0001.jpg").stat().st_mtime_ns
    assert files(render("micro", 5, root=root, progress=False)) == files(whole)
    assert (root / "cam2/0002/0001.jpg").stat().st_mtime_ns == kept, "what was there was rendered again"


def test_killed_rendering_continues_to_the_same_bytes(tmp_path):
    code = ("import sys; from hil.synth.render import render; "
            "render('tiny', 7, root=sys.argv[1], workers=2, progress=False)")
    root = tmp_path / "killed"
    child = subprocess.Popen([sys.executable, "-c", code, str(root)], env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.time() + 60
    while len(list(root.glob("cam*/*"))) < 20:
        assert child.poll() is None and time.time() < deadline, "ended before it could be killed"
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL), child.wait()
    begun = {p.relative_to(root) for p in root.glob("cam*/*")}
    assert not (root / "synth.json").exists() and 20 <= len(begun) < 240
    assert all(len(list((root / p).iterdir())) == 2 for p in begun), "a folder appeared before it was whole"
    render("tiny", 7, root=root, progress=False)
    assert files(root) == files(render("tiny", 7, root=tmp_path / "unhurt", progress=False))
    assert not list(root.glob(".part-*"))


def test_two_processes_on_one_root_leave_one_whole_rendering(whole, tmp_path):
    code = ("import sys; from hil.synth.render import PRESETS, Preset, render; PRESETS['micro'] = Preset(6, 2, 2, 2); "
            "render('micro', 5, root=sys.argv[1], progress=False)")
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "r")]) for _ in range(2)]
    assert [p.wait(60) for p in both] == [0, 0]
    assert files(tmp_path / "r") == files(whole)


def test_a_lost_race_is_no_failure_and_a_full_disk_is_one(tmp_path, monkeypatch):
    "A rename that fails is fine where another process has put the same there, whatever the file system calls it."
    image, name = np.zeros((8, 4, 3), np.uint8), tmp_path / "cam1/0001"
    def another_was_faster(part, target):
        shutil.copytree(part, target)
        raise OSError(39, "Directory not empty")
    def no_space(*where): raise OSError(28, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr("os.rename", no_space)
        with pytest.raises(OSError, match="No space"): write_folder(tmp_path, name, {"0001.jpg": image})
        patch.setattr("os.rename", another_was_faster)
        write_folder(tmp_path, name, {"0001.jpg": image})
    assert [p.name for p in name.iterdir()] == ["0001.jpg"]
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", no_space)
        with pytest.raises(DataError, match="No space"): write(tmp_path / "a.txt", "text")
        (tmp_path / "a.txt").write_text("text")             # as where a file that is open cannot be replaced
        write(tmp_path / "a.txt", "text")
        with pytest.raises(DataError, match="No space"): write(tmp_path / "a.txt", "other")
    assert sorted(p.name for p in tmp_path.glob("*.txt")) == ["a.txt"] and not list(tmp_path.glob(".*a.txt"))


def test_complete_rendering_is_returned_untouched(whole):
    before = {p: p.stat().st_mtime_ns for p in whole.rglob("*")}
    assert render("micro", 5, root=whole) == whole
    assert {p: p.stat().st_mtime_ns for p in whole.rglob("*")} == before


def test_another_seed_gives_other_people_and_pictures(whole, tmp_path):
    other = files(render("micro", 6, root=tmp_path / "r", progress=False))
    mine = files(whole)
    assert all(mine[p] != other[p] for p in mine if p.endswith(".jpg"))


# the folder

def test_layout_counts_and_splits(whole):
    manifest = json.loads((whole / "synth.json").read_text())
    ids = {s: [int(x) for x in (whole / f"exp/{s}_id.txt").read_text().strip().split(",")]
           for s in ("train", "val", "test", "available")}
    assert [len(ids[s]) for s in ("train", "val", "test")] == [6, 2, 2]
    assert sorted(ids["train"] + ids["val"] + ids["test"]) == ids["available"] == list(range(1, 11))
    assert manifest["ids"] == {s: ids[s] for s in ("train", "val", "test")}
    for c in CAMERAS:
        found = sorted(p.relative_to(whole).as_posix() for p in whole.glob(f"cam{c}/*/*"))
        assert found == [f"cam{c}/{p:04d}/{k:04d}.jpg" for p in range(1, 11) for k in (1, 2)]
        assert manifest["images_per_camera"][str(c)] == len(found)


@pytest.mark.parametrize("name", ["tiny", "small", "default", "large"])
@pytest.mark.parametrize("overlap", [1.0, 0.7, 0.0])
def test_plan_keeps_its_promises_at_every_size(name, overlap):
    m, size = plan(name, 0, overlap), PRESETS[name]
    assert [len(m["ids"][s]) for s in ("train", "val", "test")] == [size.train, size.val, size.test]
    assert len(set(sum(m["ids"].values(), []))) == size.train + size.val + size.test
    only = m["only_in"]
    assert sum(map(len, only.values())) == size.train - round(overlap * size.train)
    assert abs(len(only["visible"]) - len(only["infrared"])) <= 1
    assert set(sum(only.values(), [])) <= set(m["ids"]["train"])
    assert json.loads(json.dumps(m)) == m
    if (name, overlap) == ("default", 1.0): assert sum(m["images_per_camera"].values()) == 13_200


def test_every_part_holds_its_share_of_every_garment():
    "Dealt at even steps along the wardrobe: counts of upper garments differ from their share by less than 2 people."
    for seed in range(3):
        ids = plan("default", seed, 1.0)["ids"]
        worn = {s: Counter(draw_person(np.random.default_rng([seed, i]), TIES).upper for i in part)
                for s, part in ids.items()}
        everyone = sum(worn.values(), Counter())
        for part in ("val", "test"):
            for garment, n in everyone.items():
                assert abs(worn[part][garment] - n * 60 / 440) < 2, (seed, part, garment)


def test_overlap_leaves_people_in_one_modality_and_their_pictures_as_they_were(whole, tmp_path):
    root = render("micro", 5, overlap=0.5, root=tmp_path / "r", progress=False)
    truth = load_truth(root)
    kinds = truth.groupby("pid").modality.agg(lambda m: "/".join(sorted(set(m))))
    split = truth.drop_duplicates("pid").set_index("pid").split
    assert Counter(kinds[split == "train"]) == {"infrared/visible": 3, "visible": 2, "infrared": 1}
    assert set(kinds[split != "train"]) == {"infrared/visible"}
    some, everything = files(root), files(whole)
    jpgs = {p for p in some if p.endswith(".jpg")}
    assert set(truth.path) == jpgs and all(some[p] == everything[p] for p in jpgs)


def test_two_looks_change_garments_of_the_back_and_nothing_else(whole, tmp_path):
    "The other wardrobe is drawn last: body, clothes and front are those of the person with one look."
    plain, two, half = (draw_person(np.random.default_rng(7), TIES, looks) for looks in (0.0, 1.0, 0.5))
    assert plain.behind is plain.materials and np.array_equal(two.materials, plain.materials)
    same = {k for k, v in vars(plain).items() if k not in ("materials", "behind") and v == vars(two)[k]}
    assert same == vars(plain).keys() - {"materials", "behind"}
    moved = {slot for slot, k in SLOT.items() if not np.array_equal(two.behind[k], two.materials[k])}
    assert moved == set(GARMENTS)
    np.testing.assert_allclose(half.behind, (plain.materials + two.behind) / 2, rtol=1e-6)
    root = render("micro", 5, root=tmp_path / "r", progress=False, looks=1.0)
    assert load_truth(root).equals(load_truth(whole)), "only colours differ"
    with pytest.raises(ValueError, match="looks is 1.0, not None"): render("micro", 5, root=root)


@pytest.mark.parametrize("azimuth,seen", [(0, "materials"), (180, "behind")])
def test_front_and_back_show_their_own_look(azimuth, seen):
    "Straight from the front nothing of the back is seen, and the other way round, apart from what curls round."
    person = draw_person(np.random.default_rng(7), TIES, 1.0)
    shapes = body(person, 0.0, 0.0)
    ids, hits = cast(shapes, turn(azimuth, 0), np.array([0.0, 0.5, 0.6, 1.2]), 128, 64)
    parts = shapes[:, PART].astype(np.uint8)[ids[ids >= 0]]
    slots = paint(person, parts, hits)
    upper = slots == SLOT["upper"]
    own = (surfaces(person, parts, hits)[upper] == vars(person)[seen][SLOT["upper"]]).all(1)
    assert upper.sum() > 100 and own.mean() > 0.9


def test_truth_agrees_with_the_files(whole, pixels):
    truth = load_truth(whole)
    assert sorted(truth.path) == sorted(p.relative_to(whole).as_posix() for p in whole.rglob("*.jpg"))
    assert truth.notna().all(axis=None)
    for row in truth.itertuples():
        assert row.path.startswith(f"cam{row.camid}/{row.pid:04d}/")
        assert row.modality == ("infrared" if row.camid in (3, 6) else "visible")
        assert pixels[row.path].shape == (128, 64, 3)
        assert row.occluded == (row.occluder != "none") and 0 <= row.azimuth <= 360 and 0 <= row.gait_phase < 6.2832
    assert (truth.groupby("pid")[["upper", "lower", "bag", "hat", "split"]].nunique() == 1).all(axis=None)
    manifest = json.loads((whole / "synth.json").read_text())
    assert all(row.pid in manifest["ids"][row.split] for row in truth.itertuples())


def test_default_root_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HIL_HOME", str(tmp_path))
    assert default_root() == tmp_path / f"synth-{FORMAT}-default-seed0"
    assert default_root("tiny", 3, 0.7) == tmp_path / f"synth-{FORMAT}-tiny-seed3-overlap0.7"
    assert default_root("tiny", 3, looks=0.5) == tmp_path / f"synth-{FORMAT}-tiny-seed3-looks0.5"
    assert render("micro", 1, progress=False) == tmp_path / f"synth-{FORMAT}-micro-seed1"


# bad input

@pytest.mark.parametrize("change, word", [
    (dict(seed=6), "seed is 5, not 6"), (dict(overlap=0.5), "overlap"), (dict(looks=0.5), "looks"),
    (dict(difficulty=Difficulty(occluded=0.5)), "difficulty"), (dict(preset="tiny"), "preset")])
def test_a_folder_with_another_rendering_is_refused(whole, change, word):
    with pytest.raises(ValueError, match=word): render(**(dict(preset="micro", seed=5, root=whole) | change))


def test_another_format_is_refused_even_half_way(whole, tmp_path, monkeypatch):
    root = shutil.copytree(whole, tmp_path / "r")
    (root / "synth.json").unlink()
    monkeypatch.setattr("hil.synth.render.FORMAT", 99)
    with pytest.raises(ValueError, match="format"): render("micro", 5, root=root)


def test_a_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "cam1").mkdir()
    (tmp_path / "cam1/mine.jpg").write_bytes(b"precious")
    with pytest.raises(ValueError, match="not made by hil.synth.render"): render("micro", 5, root=tmp_path)
    assert files(tmp_path) == {"cam1/mine.jpg": b"precious"}


@pytest.mark.parametrize("bad, word", [
    (dict(preset="huge"), "choose one of"), (dict(overlap=1.5), "from 0 to 1"),
    (dict(overlap=float("nan")), "from 0 to 1"), (dict(looks=-0.1), "looks is -0.1"), (dict(looks=2), "from 0 to 1"),
    (dict(seed=-1), "whole number"), (dict(seed=1.5), "whole number")])
def test_settings_out_of_range_are_named(tmp_path, bad, word):
    with pytest.raises(ValueError, match=word): render(root=tmp_path / "r", **bad)
    assert not (tmp_path / "r").exists()


# the pictures

def test_infrared_has_three_equal_channels_and_visible_has_colour(pixels):
    for path, image in pixels.items():
        spread = np.ptp(image.astype(int), axis=2)
        assert spread.max() == 0 if path[3] in "36" else spread.mean() > 4, path


def test_pictures_are_neither_blank_nor_blown(pixels):
    means = np.array([i.mean() for i in pixels.values()])
    night = np.array([p[3] in "36" for p in pixels])
    assert all(i.std() > 15 for i in pixels.values())
    assert 100 < means[~night].mean() < 155 and 60 < means[night].mean() < 115
    assert np.mean([(i == 255).mean() for i in pixels.values()]) < 0.01


@pytest.mark.parametrize("camid", CAMERAS)
def test_person_fills_a_sensible_share_of_the_box(camid):
    shares, loose = [], Difficulty(infrared_zoom=1.2, infrared_shift=0.03, framing=0.5, vigour=0.7, track_spread=20.0,
                                   heading_spread=10.0)
    for pid in range(40):
        shot, rng = draw_shot(1, pid, camid, 1, loose)
        shapes = body(draw_person(np.random.default_rng([1, pid]), TIES), shot.phase, shot.vigour)
        rotation = turn(shot.azimuth, CAMERAS[camid].pitch)
        ids, _ = cast(shapes, rotation, frame_person(shapes, rotation, CAMERAS[camid], rng, loose), 128, 64)
        shares.append((ids >= 0).mean())
        rows = np.flatnonzero((ids >= 0).any(1))
        assert rows[0] < 32 and rows[-1] > 100   # head near the top, feet near the bottom
    assert 0.1 < min(shares) and max(shares) < 0.6
    assert (np.mean(shares) < 0.25) == CAMERAS[camid].infrared   # infrared boxes are looser


@given(st.floats(0, 359.99))
def test_viewpoint_is_the_side_that_the_camera_sees(azimuth):
    shot = Shot(1, 1, 1, azimuth, 0.0, True, 1.0, "none")
    # facing +z with y up, one's own left is +x
    sides = {"front": (0, 0, 1), "back": (0, 0, -1), "left": (1, 0, 0), "right": (-1, 0, 0)}
    facing = {k: (turn(azimuth, 0) @ v)[2] for k, v in sides.items()}
    assert facing[shot.viewpoint] >= max(facing.values()) - 1e-6


def test_difficulty_moves_the_pictures(tmp_path):
    still, rng = draw_shot(1, 1, 3, 1, Difficulty(standing=1.0, occluded=1.0))
    assert not still.walking and still.occluder != "none"
    assert all(draw_shot(1, p, 1, 1, Difficulty(standing=0.0, occluded=0.0))[0].occluder == "none" for p in range(30))
    share = np.mean([draw_shot(1, p, c, k, Difficulty(occluded=0.06))[0].occluder != "none" for p in range(200)
                     for c in CAMERAS for k in (1, 2)])
    assert 0.045 < share < 0.075


@pytest.mark.parametrize("occluder", scenes.OCCLUDERS)
def test_every_occluder_hides_some_but_not_all(occluder):
    backs = {(c, v): scenes.backdrop(c, v) for c in (1, 3) for v in range(scenes.VARIANTS)}
    hidden = []
    for pid in range(12):
        person = draw_person(np.random.default_rng([1, pid]), TIES)
        for c in (1, 3):
            pair = []
            for kind in ("none", occluder):
                shot, _ = draw_shot(1, pid, c, 1)
                shot = Shot(**{**shot.__dict__, "occluder": kind})
                pair.append(picture(person, shot, np.random.default_rng(pid), backs,
                                    Difficulty(visible_noise=0, infrared_noise=0, exposure=0)).astype(int))
            hidden.append((np.abs(pair[0] - pair[1]).max(2) > 12).mean())
    assert 0.01 < np.mean(hidden) < 0.35 and max(hidden) < 0.6


# materials

def test_ties_that_leave_nothing_to_the_fibre_are_refused():
    Difficulty(luminance_tie=0.6, dye_tie=0.8)
    with pytest.raises(ValueError, match="squares must sum to at most 1"): Difficulty(luminance_tie=0.7, dye_tie=0.8)


def test_luminance_and_night_are_tied_as_told():
    for lum, dye in (TIES, (0.9, 0.1), (0.0, 0.0)):
        rng = np.random.default_rng(0)
        m = np.array([material(rng, (lum, dye)) for _ in range(3000)])
        ranks = np.argsort(np.argsort(np.c_[m[:, :3] @ EYE, m[:, 3]], axis=0), axis=0)
        assert abs(np.corrcoef(ranks.T)[0, 1] - lum) < 0.1   # bright saturated colours clip, hence not exactly
        assert m[:, :4].min() >= 0.02 and m[:, :4].max() <= 0.97 and m[:, 3].std() > 0.2


def test_leather_is_dark_and_polyester_bright_at_night():
    night = {f: np.mean([material(np.random.default_rng(k), TIES, fibre=f)[3] for k in range(400)])
             for f in ("leather", "cotton", "polyester")}
    assert night["leather"] + 0.1 < night["cotton"] + 0.05 < night["polyester"] + 0.02


def test_tape_outshines_everything_at_night():
    ball = np.array([cone(0, (0, 0.5, 0), (0, 0.5, 0), 0.2, 0.2)])
    canvas = np.zeros((64, 32, 1), np.float32)
    def light(nir):
        "The darkest pixel of the ball's middle row, and the brightest of all."
        def materials(parts, hits): return np.tile(np.float32([0.5, 0.5, 0.5, nir, 0]), (len(parts), 1))
        put_in(canvas, ball, np.eye(3), np.array([0, 0.5, 0.5, 1.0]), materials, CAMERAS[3], CAMERAS[3].light)
        return canvas[32, 8:24, 0].min(), canvas.max()
    (_, brightest), (darkest, _) = light(0.92), light(TAPE)
    assert darkest > brightest   # bright even where the surface turns away


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_everybody_has_shoes_and_a_head_and_no_bare_pelvis(seed):
    p = draw_person(np.random.default_rng(seed), TIES)
    shapes = body(p, seed * 0.7, 0.7)
    ids, hits = cast(shapes, turn(seed * 37.0, 10), np.array([0.0, 0.5, 0.6, 1.2]), 128, 64)
    parts = shapes[ids[ids >= 0], PART].astype(int)
    slots = paint(p, parts, hits)
    assert np.isfinite(hits).all() and np.isfinite(shapes).all() and slots.max() < len(SLOT)
    behind = np.cos(np.radians(seed * 37.0)) < 0                     # a wide hem hides the heels
    assert PIECE["shoe"] in parts or p.lower == "wide" or behind
    assert {SLOT[s] for s in ("skin", "hair", "hat")} & set(slots.tolist())
    assert not (slots[parts == PIECE["pelvis"]] == SLOT["skin"]).any(), "a bare pelvis"
    assert not ((parts == PIECE["thigh"]) & (hits[:, PY] > p.hip - 0.05) & (slots == SLOT["skin"])).any(), "a bare hip"
    assert shapes[:, [1, 4]].min() > -0.05 and shapes[:, [1, 4]].max() < 1.05


# the ray-caster against a slow reference

def slow_cast(shapes, rotation, window, height, width, balls=600):
    "Depth map of solid rounded cones as many balls each: no closed form for the side."
    depth = np.full((height, width), np.inf)
    x = window[0] + window[2] * ((np.arange(width) + 0.5) / width - 0.5)
    y = window[1] - window[3] * ((np.arange(height) + 0.5) / height - 0.5)
    for s in shapes:
        a, b = rotation @ s[0:3], rotation @ s[3:6]
        for t in np.linspace(0, 1, balls):
            c, r = a + t * (b - a), s[6] + t * (s[7] - s[6])
            h = r * r - (x[None] - c[0]) ** 2 - (y[:, None] - c[1]) ** 2
            depth = np.where(h > 0, np.minimum(depth, -c[2] - np.sqrt(np.maximum(h, 0))), depth)
    return depth


number = st.floats(-0.4, 0.4)
solid = st.builds(lambda a, b, ra, rb: cone(0, a, b, ra, rb), st.tuples(number, number, number),
                  st.tuples(number, number, number), st.floats(0.05, 0.25), st.floats(0.05, 0.25))


@given(st.lists(solid, min_size=1, max_size=3), st.floats(0, 360), st.floats(-30, 30))
@settings(max_examples=25, deadline=None)
def test_cast_agrees_with_many_balls(shapes, azimuth, pitch):
    shapes, window, size = np.array(shapes), np.array([0.05, -0.02, 1.5, 1.5]), 40
    ids, hits = cast(shapes, turn(azimuth, pitch), window, size, size)
    want = slow_cast(shapes, turn(azimuth, pitch), window, size, size)
    assert ((ids >= 0) != np.isfinite(want)).sum() <= 3, "the outlines differ"
    both = (ids >= 0) & np.isfinite(want)
    got = np.full(ids.shape, np.nan)
    got[ids >= 0] = -hits[:, DEPTH]
    off = np.abs(got - want)[both]
    assert np.quantile(off, 0.98) < 4e-3 if len(off) else True
    np.testing.assert_allclose((hits[:, NX : NZ + 1] ** 2).sum(1), 1, atol=1e-4)
    assert (hits[:, NZ] > -1e-4).all(), "a visible point faces away from the camera"


def test_points_are_told_in_body_coordinates_whichever_way_the_body_turns():
    one = np.array([cone(0, (0, 0.2, 0), (0, 0.8, 0), 0.1, 0.1)])
    for azimuth in (0, 77, 180, 300):
        _, hits = cast(one, turn(azimuth, 15), np.array([0, 0.5, 0.6, 1.2]), 128, 64)
        side = (hits[:, ALONG] > 0.05) & (hits[:, ALONG] < 0.95)
        np.testing.assert_allclose(np.hypot(hits[side, PX], hits[side, PZ]), 0.1, atol=1e-4)
        np.testing.assert_allclose(hits[side, PY], 0.2 + 0.6 * hits[side, ALONG], atol=1e-4)


def test_expose_agrees_with_plain_numpy():
    rng = np.random.default_rng(0)
    canvas, gain = rng.random((24, 16, 3)).astype(np.float32), np.array([0.9, 1.0, 1.1])
    noise = rng.normal(0, 0.02, (12, 8, 3)).astype(np.float32)
    small = canvas.reshape(12, 2, 8, 2, 3).mean((1, 3)) * gain
    taps = np.exp(-np.arange(-2, 3) ** 2 / (2 * 0.7**2))
    taps /= taps.sum()
    pad = np.pad(small, ((2, 2), (2, 2), (0, 0)), mode="edge")
    blurred = sum(taps[i] * taps[j] * pad[i : i + 12, j : j + 8] for i in range(5) for j in range(5))
    want = 255 * np.clip(blurred + noise, 0, 1) ** (1 / 1.35)
    assert np.abs(expose(canvas, gain, 0.7, noise, 1.35) - want).max() < 1.0


def test_lamp_falls_off_with_the_square_of_the_distance():
    hits = np.zeros((3, 9), np.float32)
    hits[:, NZ], hits[:, DEPTH] = 1, (0, -2.4, 1.2)
    light = shade(hits, (0, 0, 1), 0.3, lamp=2.4)
    np.testing.assert_allclose(light / light[0], [1, 0.25, 4], rtol=1e-5)
