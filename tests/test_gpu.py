"""A GPU's results are the processor's, within the tolerances of gpu_compare.py. Where there is no GPU the same
comparisons run with the processor on both sides, so that they are known to work."""
import gpu_compare
import pytest
import torch

DEVICES = ["cpu", pytest.param("cuda", marks=[
    pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")])]


def hold(rows):
    "Assert that every deviation is within its tolerance -> how many were."
    rows = list(rows)
    far = [f"{what}: {deviation:.1e}, at most {most:.0e}" for what, deviation, most in rows if not deviation <= most]
    assert not far, far
    return len(rows)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name,count", [("neighbours", 2), ("labels", 1), ("losses", 6), ("memories", 4)])
def test_the_method(device, name, count): assert hold(getattr(gpu_compare, name)(device)) == count


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", gpu_compare.NETWORKS)
def test_networks_forward_and_backward(device, name): assert hold(gpu_compare.networks(device, [name])) >= 2


@pytest.mark.parametrize("device", DEVICES)
def test_a_short_training(device, small, tmp_path):
    assert hold(gpu_compare.training(device, small(stage1_epochs=1, stage2_epochs=1, iterations=3), tmp_path)) == 3
    for file in tmp_path.rglob("*.pt"): file.unlink()


def test_a_difference_is_seen(monkeypatch):
    "A wrong neighbour, a wrong gradient, a number that is none: each is named."
    knn, calls = gpu_compare.knn, []
    def second_call_wrong(*args, **options):
        calls.append(1)
        return knn(*args, **options)[::1 if len(calls) == 1 else -1]
    monkeypatch.setattr(gpu_compare, "knn", second_call_wrong)
    with pytest.raises(AssertionError, match="do not begin with themselves.*largest difference of a cosine"):
        hold(gpu_compare.neighbours("cpu"))
    with pytest.raises(AssertionError, match="nan"): hold([("loss", float("nan"), 1e-4)])
    assert gpu_compare.relative(torch.tensor([1., 2.2]), torch.tensor([1., 2.])) == pytest.approx(.2 / 5**.5)
