"""hil.core.ids and everything that counts people: one rule for identities, cameras and labels, and texts that give the
figures of numbers."""
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hil.core.ids import checked_ids, checked_labels, common_codes
from hil.core.names import MODALITIES
from hil.data.samplers import draw_batch, one_turn
from hil.evaluation.metrics import cosine_distance, evaluate_llcm, evaluate_regdb, evaluate_sysu, rank_gallery
from hil.method.cluster import centroids, cluster_advice, cluster_quality, majority_pids
from hil.method.labels import Transfer, compact, true_labels
from hil.method.match import brst, transfer_quality
from hil.plots import sheets

RIGHT = {"list": [3, 1, -1], "tuple": (3, 1, -1), "array": np.array([3, 1, -1], np.int8), "floats": [3., 1., -1.],
         "tensor": torch.tensor([3, 1, -1]), "bfloat16": torch.tensor([3., 1., -1.], dtype=torch.bfloat16),
         "column": pd.Series([3, 1, -1], index=[7, 8, 9]), "nullable": pd.Series([3, 1, -1], dtype="Int64")}
TEXTS = {"list": ["c", "a", ""], "array": np.array(["c", "a", "-1"]), "column": pd.Series(["c", "a", ""]),
         "objects": np.array(["c", "a", ""], object), "categories": pd.Categorical(["c", "a", ""])}
# three entries, so that nothing is wrong but the kind
WRONG = {"1.7": ([1, 1.7, 2], r"\[1\] is 1.7"), "NaN": ([1, np.nan, 2], r"\[1\] is nan"),
         "inf": ([np.inf, 1, 2], r"\[0\] is inf"), "bools": (np.array([True, False, True]), "type bool"),
         "a bool": ([True, 1, 2], "types bool, int"), "mixed": ([1, "2", 3], "types int, str"),
         "None": ([1, None, 2], "array of objects"), "objects": (np.array([1, "b", 2.5], object), "array of objects"),
         "gap": (pd.Series(["a", None, "b"]), "array of objects"), "-2": ([1, -2, 3], r"\[1\] is -2"),
         "large": ([1, 2**70, 3], "array of objects"),
         "unsigned": (np.array([1, 2**63, 2], np.uint64), "expected whole"),
         "two dimensions": ([[1], [2], [3]], r"must have shape \[3\]"),
         "ragged": ([[1], [2, 3], [4]], "differ in length"),
         "scalar": (3, "is a int"), "complex": ([1j, 2, 3], "complex"), "bytes": (np.array([b"a", b"b", b"c"]), "type"),
         "dates": (pd.date_range("2026", periods=3), "datetime"), "nothing": (None, "NoneType")}


@pytest.mark.parametrize("values", RIGHT.values(), ids=RIGHT)
def test_numbers_of_any_make(values):
    found = checked_ids("pids", values, 3)
    assert found.dtype == np.int64 and found.tolist() == [3, 1, -1]


@pytest.mark.parametrize("values", TEXTS.values(), ids=TEXTS)
def test_texts_of_any_make(values):
    codes, names = common_codes(pids=checked_ids("pids", values, 3))
    assert codes["pids"].tolist() == [1, 0, -1] and names.tolist() == ["a", "c"]


@pytest.mark.parametrize("values,says", WRONG.values(), ids=WRONG)
def test_anything_else_is_refused(values, says):
    with pytest.raises(ValueError, match="^pids.*" + says) as error: checked_ids("pids", values, 3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("n", [2, 4])
def test_a_wrong_number_is_refused(n):
    with pytest.raises(ValueError, match=rf"must have shape \[{n}\], one per row, got \[3\]"):
        checked_ids("pids", [1, 2, 3], n, where=", one per row")


# ---- wherever ids go in ----------------------------------------------------------------------------------------------

D, X = np.array([[.1, .2, .3]] * 3), np.eye(3, dtype=np.float32)
TEXT_IDS = ["a", "b", "c"]
ENTRIES = {  # name -> (call with three ids in one place, whether texts will do there)
    "rank_gallery": (lambda v: rank_gallery(D, [1, 2, 3], v), False),
    "sysu, queries": (lambda v: evaluate_sysu(D, v, [1, 2, 3], [6] * 3, [1] * 3), False),
    "sysu, cameras": (lambda v: evaluate_sysu(D, [1, 2, 3], [1, 2, 3], [6] * 3, v), False),
    "llcm, gallery": (lambda v: evaluate_llcm(D, [1, 2, 3], v, [8] * 3, [9] * 3), False),
    "llcm, cameras": (lambda v: evaluate_llcm(D, [1, 2, 3], [1, 2, 3], v, [9] * 3), False),
    "regdb": (lambda v: evaluate_regdb(D, v, [1, 2, 3]), False),
    "majority_pids, labels": (lambda v: majority_pids(v, [1, 2, 3]), False),
    "majority_pids, pids": (lambda v: majority_pids([0, 0, 1], v), True),
    "cluster_quality, labels": (lambda v: cluster_quality(v, [1, 2, 3]), False),
    "cluster_quality, pids": (lambda v: cluster_quality([0, 0, 1], v), True),
    "centroids": (lambda v: centroids(X, v), False),
    "brst": (lambda v: brst(X, v, X), False),
    "transfer_quality, labels": (lambda v: transfer_quality(v, [1, 2, 3], [1, 2, 3]), False),
    "transfer_quality, pids": (lambda v: transfer_quality([0, 1, 2], v, [1, 2, 3]), False),
    "transfer_quality, clusters": (lambda v: transfer_quality([0, 1, 2], [1, 2, 3], v), False),
    "compact": (compact, False),
    "Transfer": (lambda v: Transfer(dict.fromkeys(MODALITIES, X), {"visible": [0, 1, 2], "infrared": v}), False),
    "Transfer, pids": (lambda v: Transfer(dict.fromkeys(MODALITIES, X), dict.fromkeys(MODALITIES, [0, 1, 2]),
                                          pids={"visible": [1, 2, 3], "infrared": v}), False),
    "true_labels": (lambda v: true_labels({"visible": v, "infrared": v}), True),
    "draw_batch": (lambda v: draw_batch({"visible": v, "infrared": v}, 2, 1, False, np.random.default_rng(0)), False),
    "one_turn": (lambda v: one_turn(v, 1), False),
    "one_turn, cams": (lambda v: one_turn([0, 0, 1], 2, v), True),
    "mistakes": (lambda v: sheets.hardest_mistakes(*np.zeros((2, 3, 3, 8, 4), np.uint8), D, v,
                                                   [1, 2, 3], [6] * 3, [1] * 3), False)}
EVERYWHERE = ["1.7", "NaN", "inf", "bools", "mixed", "objects", "-2"]


@pytest.mark.parametrize("wrong", EVERYWHERE)
@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_refuses_in_one_sentence(entry, wrong):
    values, says = WRONG[wrong]
    with pytest.raises(ValueError, match=says) as error: ENTRIES[entry][0](values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("entry", ENTRIES)
def test_texts_alone_are_read_and_texts_beside_numbers_refused(entry):
    call, reads_texts = ENTRIES[entry]
    if reads_texts: call(TEXT_IDS)
    else:
        with pytest.raises(ValueError, match="holds? texts"): call(TEXT_IDS)


@pytest.mark.parametrize("entry", [e for e in ENTRIES if not e.startswith(("compact", "true", "one_turn", "draw"))])
def test_a_wrong_number_is_refused_everywhere(entry):
    with pytest.raises(ValueError, match=r"must have shape \[|expected \(3,\)|but prototype_pids names 2"):
        ENTRIES[entry][0]([0, 1])


# ---- texts give the figures of numbers ------------------------------------------------------------------------------

@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), q=st.integers(1, 8), g=st.integers(2, 20), people=st.integers(1, 5))
def test_texts_give_the_figures_of_numbers(seed, q, g, people):
    rng = np.random.default_rng(seed)
    q_pids, g_pids = rng.integers(0, people, q), rng.integers(0, people, g)
    g_pids[0], q_cams, g_cams = q_pids[0], rng.integers(1, 4, q), rng.integers(4, 7, g)
    distance, names = rng.random((q, g)), np.array([f"person {n}" for n in rng.permutation(people)])
    cams = np.array([f"cam{c}" for c in range(7)])
    def same(a, b):
        assert a.cmc.tolist() == b.cmc.tolist() and a[1:] == b[1:]
    same(evaluate_regdb(distance, names[q_pids], list(names[g_pids])), evaluate_regdb(distance, q_pids, g_pids))
    same(evaluate_llcm(distance, names[q_pids], pd.Series(names[g_pids]), cams[q_cams], cams[g_cams]),
         evaluate_llcm(distance, q_pids, g_pids, q_cams, g_cams))
    same(evaluate_sysu(distance, names[q_pids], names[g_pids], q_cams, g_cams),
         evaluate_sysu(distance, q_pids, g_pids, q_cams, g_cams))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 30), people=st.integers(1, 5), clusters=st.integers(1, 5))
def test_clusters_and_transfers_of_texts(seed, n, people, clusters):
    rng = np.random.default_rng(seed)
    pids, labels = rng.integers(0, people, n), compact(rng.integers(-1, clusters, n))[0]
    names = np.array([f"{k:03d}" for k in range(people)])     # in the order of the numbers, which decides ties
    assert str(cluster_quality(labels, names[pids])) == str(cluster_quality(labels, pids))
    majority = majority_pids(labels, pids)
    assert majority_pids(labels, names[pids]).tolist() == names[majority].tolist()
    new = rng.integers(-1, len(majority), n)
    assert str(transfer_quality(new, names[pids], names[majority], labels)) == str(
        transfer_quality(new, pids, majority, labels))


def test_wrong_figures_of_old():
    "Texts used to give Rank-1 100 % where 0 is right, and purity .18 where 1 is right."
    assert evaluate_regdb([[.1, .2]], ["a"], ["b", "a"]).rank(1) == 0
    labels = np.repeat(np.arange(20), 3)
    assert cluster_quality(labels, [f"person {n}" for n in labels])["purity"] == 1
    assert transfer_quality([0, 1], ["a", "b"], majority_pids([0, 0, 1], ["a", "a", "b"]))["precision"] == 1


# ---- -1 is nobody ---------------------------------------------------------------------------------------------------

def test_the_unknown_are_nobody():
    assert majority_pids([0, 0, 0, 1], [5, -1, -1, -1]).tolist() == [5, -1]
    quality = cluster_quality([0, 0, 1, 1, -1], [5, 5, 6, -1, -1])
    assert quality == dict(ari=1., ami=1., purity=1., n_clusters=2, n_outliers=1)
    nobody = cluster_quality([0, 0, 1], [-1] * 3)
    assert nobody["n_clusters"] == 2 and all(np.isnan(nobody[k]) for k in ("ari", "ami", "purity"))
    assert transfer_quality([0, 1, 0], [5, 5, -1], [5, -1]) == dict(precision=1., coverage=1.)
    both = true_labels({"visible": [5, -1], "infrared": [-1, 5]})
    assert [y.tolist() for y in both.final.values()] == [[0, -1], [-1, 0]]
    for sides in (([-1], [1, 2]), ([1], [1, -1]), (["a"], ["a", ""])):
        with pytest.raises(ValueError, match="which means unknown; leave those images out"):
            evaluate_regdb([[.1, .2]], *sides)


def test_cluster_numbers_far_above_the_images():
    for call in (lambda y: majority_pids(y, [1, 2, 3]), lambda y: centroids(X, y)):
        with pytest.raises(ValueError, match="cluster 2 has no image, and cluster 1000000000 has one; number"):
            call([0, 1, 10**9])
    assert cluster_quality([5, 5, 10**9], [1, 1, 2]) == dict(ari=1., ami=1., purity=1., n_clusters=2, n_outliers=0)
    with pytest.raises(ValueError, match="cluster 3, but prototype_pids names 2 clusters"):
        transfer_quality([3], [1], [1, 2])


# ---- messages name the true cause ------------------------------------------------------------------------------------

@pytest.mark.parametrize("call,says", [
    (lambda: evaluate_llcm([[.1, .2]], [1], [1, 2], [4], [4, 4]),
     "1 pair of a query and an image of its person were there, "
     r"but queries ignore images of their own person by their own camera .LLCM's rule.. Look at the cameras: q_camids"),
    (lambda: evaluate_sysu([[.1, .2]], [1], [1, 1], [3], [2, 2]),
     "2 pairs.* queries of camera 3 ignore the gallery of camera 2"),
    (lambda: evaluate_sysu([[.1, .2]], [1], [2, 3], [3], [2, 2]),
     r"in the same way\? q_pids holds 1; g_pids holds 2, 3"),
    (lambda: evaluate_regdb([[.1, .2]], ["1"], ["01", "02"]), r"in the same way\? q_pids holds 1; g_pids holds 01, 02"),
    (lambda: evaluate_sysu([[.1, .2]], [1], [1, 2], ["cam3"], ["cam1", "cam2"]),
     "texts such as 'cam1'; SYSU-MM01's rule asks"),
    (lambda: evaluate_regdb([[.1, .2]], [1], [1, 2], max_rank=0), "max_rank = 0: expected a whole number"),
    (lambda: evaluate_regdb([[1j, .2]], [1], [1, 2]), "distance holds values of type complex128"),
    (lambda: rank_gallery([[.1, .2]], [1], [1, 2], [[0, 1]]), "removed must be a bool array"),
    (lambda: cosine_distance(X, X[:, :2]), "must have features of one length"),
    (lambda: cosine_distance(X[0], X), r"queries must have shape \[N, D\]"),
    (lambda: sheets.retrieval_sheet([0], [0], [[0]], [1], [1], ["a"], ["b"]), "the cameras are named otherwise")])
def test_the_true_cause(call, says):
    with pytest.raises(ValueError, match=says): call()


def test_half_precision_is_read_and_not_computed_in():
    rng = np.random.default_rng(0)
    x = (1 + .02 * rng.standard_normal((40, 256))).astype(np.float16)   # cosines that 16 bits cannot tell apart
    right = cosine_distance(x[:8].astype(np.float32), x.astype(np.float32))
    assert (cosine_distance(x[:8], x) == right).all()
    for kind in (torch.float16, torch.bfloat16):
        half = torch.from_numpy(x.astype(np.float32)).to(kind)
        assert torch.equal(cosine_distance(half[:8], half), cosine_distance(half[:8].float(), half.float()))
    assert cosine_distance(x[:8].astype(np.float64), x).dtype == np.float64


@pytest.mark.parametrize("n,outliers,min_samples,k1,says", [
    (100, 0, 4, 60, "k1 = 60 makes most of 100 images"),
    (6, 6, 4, 30, "two clusters of min_samples = 4 images need 8, there are 6: add images, or lower min_samples to"),
    (6, 0, 3, 30, "k1 = 30 makes most of 6 images"), (6, 6, 3, 30, "k1 = 30 makes most of 6 images"),
    (100, 92, 4, 30, "raise eps"), (100, 0, 4, 30, "lower eps")])
def test_advice_about_too_few_clusters_follows_the_cause(n, outliers, min_samples, k1, says):
    labels = np.where(np.arange(n) < outliers, -1, 0)
    assert cluster_advice(labels, min_samples, k1).startswith(says)
    if not outliers: assert cluster_advice(labels, min_samples, k1, eps=.99) == "lower eps" or n < 2 * min_samples


def test_labels_hold_outliers_and_no_texts():
    assert checked_labels("labels", [0., -1.]).tolist() == [0, -1]
    with pytest.raises(ValueError, match="labels holds texts such as 'a'; expected whole numbers from 0 .-1 = out"):
        checked_labels("labels", ["a"])
