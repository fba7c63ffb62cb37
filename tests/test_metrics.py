"""Metrics against closed forms, and the batched sweep against one map, one image, one step at a time."""

import math

import pytest
import torch
from torch import nn

from backend.errors import BadInput, ModelFault, ShapeError
from backend.path_attribution import metrics
from backend.runtime import Chunks

STEPS = 7


class Linear(nn.Module):
    """Two logits: w . x and its negative, plus what was asked of it."""

    def __init__(self, weights: torch.Tensor, bias: float = 0.0) -> None:
        super().__init__()
        self.weights, self.bias, self.seen = weights, bias, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += len(x)
        score = (x * self.weights).flatten(1).sum(1) + self.bias
        return torch.stack([score, -score], 1)


class Curved(nn.Module):
    """A small net with interactions between pixels."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 30, 3))
        self.seen = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += len(x)
        return self.net(x)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def case() -> dict:
    draw = generator(1)
    return {
        "images": torch.rand(3, 2, 5, 6, generator=draw),
        "baselines": torch.zeros(3, 2, 5, 6),
        "targets": torch.tensor([2, 0, 1]),
        "maps": torch.randn(4, 3, 5, 6, generator=draw),
    }


def sweep(model: nn.Module, case: dict, steps: int = STEPS, chunk: int = 1000, seed: int = 0) -> metrics.Sweep:
    return metrics.deletion_insertion(model, **case, steps=steps, generator=generator(seed), chunks=Chunks(chunk))


def test_linear_curves_are_cumulative_sums_of_the_ranked_contributions():
    weights = torch.tensor([[[4.0, -1.0], [2.0, 1.0]]])
    case = {
        "images": torch.ones(1, 1, 2, 2),
        "baselines": torch.zeros(1, 1, 2, 2),
        "targets": torch.tensor([0]),
        "maps": weights[None].clone(),  # exact attributions: w (x - 0)
    }
    result = sweep(Linear(weights), case, steps=4)
    assert result.deletion.logit[0, 0].tolist() == [6.0, 2.0, 0.0, -1.0, 0.0]  # 6 less 4, 2, 1, -1
    assert result.insertion.logit[0, 0].tolist() == [0.0, 4.0, 6.0, 7.0, 6.0]
    assert result.fractions.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    deletion, insertion = result.scores("normalised")
    assert deletion.item() == pytest.approx((6 / 2 + 2 + 0 - 1 + 0) / 4 / 6)
    assert insertion.item() == pytest.approx((0 + 4 + 6 + 7 + 6 / 2) / 4 / 6)
    expected = torch.tensor([6.0, 2.0, 0.0, -1.0, 0.0]).mul(2).sigmoid()  # softmax of (s, -s)
    torch.testing.assert_close(result.deletion.probability[0, 0], expected)


def test_number_of_pixels_changed_is_rounded_from_the_fraction(case):
    result = sweep(Curved(), case)
    assert (result.fractions * 30).round().tolist() == [round(k * 30 / STEPS) for k in range(STEPS + 1)]


def test_batched_sweep_equals_one_at_a_time(case):
    model = Curved()
    result = sweep(model, case)
    rank = metrics.rank_pixels(case["maps"], generator())
    for m in range(4):
        for b in range(3):
            image, baseline, target = case["images"][b], case["baselines"][b], case["targets"][b]
            for k in range(STEPS + 1):
                best = (rank[m, b] < round(k * 30 / STEPS)).view(5, 6)
                for curve, picture in (
                    (result.deletion, torch.where(best, baseline, image)),
                    (result.insertion, torch.where(best, image, baseline)),
                ):
                    logits = model(picture[None])[0]
                    torch.testing.assert_close(curve.logit[m, b, k], logits[target])
                    torch.testing.assert_close(curve.probability[m, b, k], logits.softmax(0)[target])


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_chunks_do_not_change_the_curves(case, chunk):
    one, other = sweep(Curved(), case), sweep(Curved(), case, chunk=chunk)
    for name in ("deletion", "insertion"):
        torch.testing.assert_close(getattr(one, name).logit, getattr(other, name).logit)


def test_a_method_alone_has_the_curves_it_has_beside_others(case):
    together = sweep(Curved(), case)
    alone = sweep(Curved(), {**case, "maps": case["maps"][2:3]})
    torch.testing.assert_close(together.deletion.logit[2:3], alone.deletion.logit)
    torch.testing.assert_close(together.insertion.logit[2:3], alone.insertion.logit)


def test_equal_pictures_run_once(case):
    model = Curved()
    result = sweep(model, case)
    assert model.seen == result.evaluated == 2 * 3 + 2 * 4 * 3 * (STEPS - 1)

    # Half of the pixels are at the baseline already: moving them makes no new picture.
    case["images"][:, :, :, 3:] = 0.0
    case["maps"] = torch.linspace(1, 0, 6).expand(1, 3, 5, 6).contiguous()  # left columns first
    model = Curved()
    result = sweep(model, case, steps=6)  # five pixels, one column, per step
    assert model.seen == 2 * 3 + 2 * 3 * 2  # columns 1 and 2; column 3 ends at the baseline, 4 to 6 change nothing
    torch.testing.assert_close(result.deletion.logit[0, :, 3:], result.baseline_score[:, None].expand(-1, 4))
    torch.testing.assert_close(result.insertion.logit[0, :, 3:], result.score[:, None].expand(-1, 4))


def test_an_image_equal_to_its_baseline_has_flat_curves(case):
    case["baselines"] = case["images"].clone()
    result = sweep(Curved(), case)
    torch.testing.assert_close(result.deletion.logit, result.score[None, :, None].expand(4, 3, STEPS + 1))
    assert result.scores("normalised")[0].isnan().all()


def test_ties_are_random_seeded_and_the_same_for_all_methods():
    flat = torch.zeros(2, 1, 4, 4)
    rank = metrics.rank_pixels(flat, generator(3))
    assert torch.equal(rank[0], rank[1])
    assert torch.equal(rank, metrics.rank_pixels(flat, generator(3)))
    assert not torch.equal(rank, metrics.rank_pixels(flat, generator(4)))
    assert rank[0, 0].sort().values.tolist() == list(range(16))
    assert rank[0, 0].tolist() != list(range(16))


def test_largest_attribution_has_rank_zero():
    maps = torch.tensor([[[[0.5, -2.0], [3.0, 1.0]]]])
    assert metrics.rank_pixels(maps, generator())[0, 0].tolist() == [2, 3, 0, 1]


def test_ratio_is_undefined_with_a_reason_where_the_score_is_not_positive():
    weights = torch.ones(1, 2, 2)
    case = {
        "images": torch.ones(2, 1, 2, 2),
        "baselines": torch.zeros(2, 1, 2, 2),
        "targets": torch.tensor([0, 1]),  # scores 4 and -4
        "maps": torch.rand(1, 2, 2, 2, generator=generator()),
    }
    result = sweep(Linear(weights), case, steps=4)
    deletion, insertion = result.scores("ratio")
    assert deletion[0, 0].item() == insertion[0, 0].item() == pytest.approx(0.5)
    assert deletion[0, 1].isnan() and insertion[0, 1].isnan()
    assert "not positive" in metrics.score_reason("ratio", -4.0, 0.0)
    assert metrics.score_reason("probability", -4.0, 0.0) == ""
    assert "no change" in metrics.score_reason("normalised", 2.0, 2.0)


def test_sweep_reports_progress_and_refuses_what_does_not_fit(case):
    steps = []
    metrics.deletion_insertion(Curved(), **case, steps=2, generator=generator(), chunks=Chunks(4), on_step=steps.append)
    assert steps[-1].done == steps[-1].total and len(steps) > 3
    with pytest.raises(ShapeError, match="maps"):
        sweep(Curved(), {**case, "maps": case["maps"][:, :2]})
    with pytest.raises(ShapeError, match="baselines"):
        sweep(Curved(), {**case, "baselines": case["baselines"][:1]})
    with pytest.raises(BadInput, match="steps is 0"):
        sweep(Curved(), case, steps=0)
    with pytest.raises(ModelFault, match="not numbers"):
        sweep(Curved(), {**case, "maps": case["maps"] * math.nan})


def test_sensitivity_of_exact_attributions_of_a_linear_model_is_one():
    draw = generator(5)
    weights, images = torch.randn(2, 5, 6, generator=draw), torch.rand(3, 2, 5, 6, generator=draw)
    exact = (weights * images).sum(1)
    maps = torch.stack([exact, -exact, 7 * exact + 1, torch.ones_like(exact)])
    model = Linear(weights, bias=0.3)
    result = metrics.sensitivity_n(
        model,
        images,
        torch.zeros_like(images),
        torch.zeros(3, dtype=torch.long),
        maps,
        sizes=(1, 10, 29, 30),
        subsets=20,
        generator=generator(),
        chunks=Chunks(64),
    )
    assert result.shape == (4, 3, 4)
    torch.testing.assert_close(result[0, :, :3], torch.ones(3, 3, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(result[1, :, :3], -torch.ones(3, 3, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(result[2], result[0], atol=1e-5, rtol=0, equal_nan=True)  # a constant does no harm
    assert result[3].isnan().all()  # equal sums predict nothing
    assert result[:, :, 3].isnan().all()  # all pixels: one subset only
    assert model.seen == 3 + 3 * 4 * 20  # once per subset, however many methods


def test_sensitivity_uses_the_same_subsets_for_every_method_and_chunk(case):
    def run(maps, chunk):
        return metrics.sensitivity_n(
            Curved(), **{**case, "maps": maps}, sizes=(3, 12), subsets=9, generator=generator(2), chunks=Chunks(chunk)
        )

    together = run(case["maps"], 100)
    torch.testing.assert_close(together[1:2], run(case["maps"][1:2], 4), atol=1e-4, rtol=0)
    with pytest.raises(BadInput, match="1..30"):
        metrics.sensitivity_n(Curved(), **case, sizes=(31,), subsets=9, generator=generator(), chunks=Chunks(8))


def test_random_subsets_have_their_size_and_reach_every_pixel():
    chosen = metrics.random_subsets(12, 5, 400, generator())
    assert (chosen.sum(1) == 5).all()
    assert ((chosen.double().mean(0) - 5 / 12).abs() < 0.1).all()


def test_gini_of_known_distributions():
    n = 10
    ramp = torch.arange(1.0, n + 1).view(1, n)  # 1, 2, ..., n: (n - 1) / (3 n) exactly
    assert metrics.gini(ramp).item() == pytest.approx((n - 1) / (3 * n), abs=1e-6)
    assert metrics.gini(-ramp).item() == pytest.approx(metrics.gini(ramp).item())
    assert metrics.gini(torch.zeros(2, 2)).isnan()


def test_completeness_variance_and_mask_metrics_keep_leading_axes():
    maps = torch.tensor([[[[1.0, -3.0], [0.0, 2.0]]], [[[0.0, 0.0], [0.0, 0.0]]]])  # (2, 1, 2, 2)
    mask = torch.tensor([[[True, False], [False, True]]])
    assert metrics.completeness_gap(maps, torch.tensor([1.0])).tolist() == [[1.0], [1.0]]
    assert metrics.variance(maps)[0].item() == pytest.approx(3.5)
    assert metrics.mass_in_mask(maps, mask)[0].item() == pytest.approx(0.5)
    assert metrics.mass_in_mask(maps, mask, "positive")[0].item() == pytest.approx(1.0)
    assert metrics.mass_in_mask(maps, mask)[1].isnan()
    assert metrics.pointing_game(maps, mask).flatten().tolist() == [1.0, 0.5]  # a flat map points by chance


def test_summary_is_students_interval_over_what_is_defined():
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, math.nan])
    result = metrics.summarise(values)
    assert (result.n, result.mean) == (4, 2.5)
    assert result.sd == pytest.approx(math.sqrt(5 / 3))
    half = 3.182446 * math.sqrt(5 / 3) / 2  # t(0.975, 3 degrees of freedom)
    assert (result.low, result.high) == (pytest.approx(2.5 - half), pytest.approx(2.5 + half))
    assert metrics.summarise(torch.full((2,), math.nan)).mean is None
    assert metrics.summarise(torch.ones(1)).sd is None


def test_paired_difference_leaves_out_what_one_side_lacks():
    result = metrics.paired_difference(torch.tensor([1.0, 5.0, math.nan]), torch.tensor([0.0, 2.0, 9.0]))
    assert (result.n, result.mean) == (2, 2.0)
    with pytest.raises(ShapeError):
        metrics.paired_difference(torch.zeros(2), torch.zeros(3))
