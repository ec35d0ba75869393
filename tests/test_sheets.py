"Every sheet of photographs on ordinary, tiny and degenerate input: titles computed, camera rule kept, nothing leaks."
import numpy as np
import pytest
from pictures import CAM, IMAGES, MODALITY, PID, R, check_drawing, said
from PIL import Image

from hil.plots import sheets

WHO = (PID[:6], PID[:20], CAM[:6], CAM[:20])
DISTANCE = R.random((6, 20))

CASES = {
    "contact": lambda: sheets.contact_sheet([[IMAGES[0], None], [IMAGES[1]]], ["a", "b"], ["cam 1", "cam 3"],
                                            ["visible", "infrared"]),
    "contact array": lambda: sheets.contact_sheet(IMAGES[:6].reshape(2, 3, 3, 32, 16)),
    "contact empty": lambda: sheets.contact_sheet([]),
    "sub-clusters": lambda: sheets.subcluster_sheet(IMAGES, PID, MODALITY, CAM, PID, CAM % 2, title="Cluster 3"),
    "one image": lambda: sheets.subcluster_sheet(IMAGES[:1], [0], ["visible"], [1]),
    "sub-clusters empty": lambda: sheets.subcluster_sheet(IMAGES[:0], [], [], []),
    "retrieval": lambda: sheets.retrieval_sheet(IMAGES[:6], IMAGES[:20], DISTANCE.argsort(1), *WHO),
    "retrieval no truth": lambda: sheets.retrieval_sheet(IMAGES[:6], IMAGES[:20], DISTANCE.argsort(1), None, None,
                                                         *WHO[2:]),
    "retrieval no query": lambda: sheets.retrieval_sheet(IMAGES[:0], IMAGES[:20], DISTANCE[:0], *(w[:0] for w in WHO)),
    "hardest": lambda: sheets.hardest_mistakes(IMAGES[:6], IMAGES[:20], DISTANCE, *WHO),
    "hardest none": lambda: sheets.hardest_mistakes(IMAGES[:6], IMAGES[:20], (WHO[0][:, None] != WHO[1]) * 1.0, *WHO),
    "hardest no match": lambda: sheets.hardest_mistakes(IMAGES[:6], IMAGES[:20], DISTANCE, WHO[0] + 99, *WHO[1:]),
}


@pytest.mark.parametrize("name", CASES)
def test_draws_with_a_title_and_leaks_nothing(name): check_drawing(CASES[name])


def test_titles_follow_the_data():
    one, other = (said(sheets.contact_sheet([[IMAGES[0], second]])) for second in (None, IMAGES[1]))
    assert one != other and one == said(sheets.contact_sheet([[IMAGES[0], None]]))


def test_titles_tell_figures_one_can_check():
    assert "1 image (1 visible) in 1 sub-cluster;" in said(CASES["one image"]())
    mixed = sheets.subcluster_sheet(IMAGES[:4], [0, 0, 1, 1], ["visible"] * 4, [1, 1, 2, 2], [5, 5, 5, 6])
    assert "2 people, MIXED" in said(mixed) and "camera in 100 % (guess 50 %)" in said(mixed)


def test_sysu_rule_in_sheet_and_mistakes():
    "A camera-3 query never shows camera 2; its right answer there does not count as found."
    q, g = IMAGES[:1], IMAGES[:3]
    who = np.array([1]), np.array([1, 2, 1]), np.array([3]), np.array([2, 1, 1])
    distance = np.array([[0.1, 0.2, 0.3]])
    sheet = sheets.retrieval_sheet(q, g, distance.argsort(1), *who)
    assert "cam 2" not in str([t.get_text() for ax in sheet.axes for t in ax.texts])
    assert "rank 2" in said(sheets.hardest_mistakes(q, g, distance, *who))
    assert "ranked perfectly" not in said(sheets.hardest_mistakes(q, g, distance, *who, never=()))
    assert "rank 1 " in said(sheets.hardest_mistakes(q, g, distance, *who, never=()))
    only_there = np.array([1, 2, 2])                         # the one right picture is the forbidden one
    assert "no query has a match" in said(sheets.hardest_mistakes(q, g, distance, who[0], only_there, *who[2:]))


@pytest.mark.parametrize("image", [np.zeros((3, 8, 4), np.uint8), np.zeros((8, 4, 3)), np.zeros((8, 4)),
                                   R.normal(size=(3, 8, 4)), np.zeros((1, 8, 4), np.uint8), Image.new("L", (4, 8))])
def test_to_display(image):
    assert (sheets.to_display(image).shape, sheets.to_display(image).dtype) == ((8, 4, 3), np.uint8)


def test_to_display_refuses_a_batch():
    with pytest.raises(ValueError, match="one image at a time"): sheets.to_display(IMAGES)
