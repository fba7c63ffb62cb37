"""Cascading randomisation: order, copy, seeds, and what the correlations say on known cases."""

import copy

import pytest
import torch
from torch import nn

from backend.errors import BadInput
from backend.path_attribution import randomisation as checks


class Net(nn.Module):
    """Registered in another order than used, with a free parameter, attention and batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(8, 3)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.BatchNorm1d(4)
        self.first = nn.Linear(5, 8)
        self.position = nn.Parameter(torch.randn(4, 8))
        self.idle = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.first(x) + self.position)
        x = x + self.attention(x, x, x)[0]
        return self.out(self.idle(x).mean(1))


@pytest.fixture
def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net().eval().requires_grad_(False)


X = torch.rand(1, 4, 5, generator=torch.Generator().manual_seed(0))


def gradient_map(module: nn.Module) -> torch.Tensor:
    x = X.clone().requires_grad_(True)
    return torch.autograd.grad(module(x)[0, 0], x)[0][0]


def test_layers_run_from_the_output_to_the_input(net):
    _, stages = checks.cascading_randomisation(net, gradient_map, max_layers=20)
    assert [name for stage in stages for name in stage.layers] == [
        "out",
        "attention.out_proj",
        "attention",
        "norm",
        "first",
        "",  # the net's own position parameter, in use from the start
    ]


def test_the_live_model_and_the_global_generator_stay_as_they_are(net):
    before = copy.deepcopy(net.state_dict())
    state = torch.random.get_rng_state()
    checks.cascading_randomisation(net, gradient_map)
    assert torch.equal(state, torch.random.get_rng_state())
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not any(m._forward_pre_hooks for m in net.modules())
    assert not any(p.requires_grad for p in net.parameters()) and not net.training


def test_a_failure_leaves_the_live_model_as_it_was(net):
    def fail(_: nn.Module) -> torch.Tensor:
        raise RuntimeError("no map")

    with pytest.raises(RuntimeError, match="no map"):
        checks.cascading_randomisation(net, fail)
    assert not any(m._forward_pre_hooks for m in net.modules())


def test_randomisation_is_cumulative_and_complete(net):
    seen = []

    def explain(module: nn.Module) -> torch.Tensor:
        seen.append({name: p.clone() for name, p in module.named_parameters()})
        return gradient_map(module)

    _, stages = checks.cascading_randomisation(net, explain, max_layers=3)
    assert len(stages) == 3 and len(seen) == 4
    assert [n for n in seen[0] if not torch.equal(seen[0][n], seen[1][n])] == ["out.weight", "out.bias"]
    assert torch.equal(seen[1]["out.weight"], seen[3]["out.weight"])  # randomised once
    left = [n for n in seen[0] if torch.equal(seen[0][n], seen[3][n])]
    # What starts as a constant comes back to it: gains of one, biases of zero.
    assert set(left) <= {"norm.weight", "norm.bias", "attention.in_proj_bias", "attention.out_proj.bias"}


def test_equal_seeds_give_equal_stages(net):
    def maps(seed):
        return [stage.map for stage in checks.cascading_randomisation(net, gradient_map, seed)[1]]

    assert all(torch.equal(a, b) for a, b in zip(maps(1), maps(1), strict=True))
    assert not torch.equal(maps(1)[0], maps(2)[0])


def test_a_map_that_ignores_the_model_fails_the_check_and_one_that_uses_it_does_not(net):
    _, blind = checks.cascading_randomisation(net, lambda _: X[0])
    assert all(stage.spearman == stage.spearman_absolute == 1.0 for stage in blind)
    original, stages = checks.cascading_randomisation(net, gradient_map)
    assert torch.equal(original, gradient_map(net))
    assert abs(stages[-1].spearman) < 0.9


def test_constant_maps_have_no_correlation():
    flat, ramp = torch.ones(2, 2), torch.arange(4.0).view(2, 2)
    assert checks.spearman(flat, ramp) is None
    assert checks.spearman(ramp, ramp * torch.nan) is None
    assert checks.spearman(ramp, -ramp) == -1.0
    assert checks.spearman(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.0, 1.0, 1.0]])) == pytest.approx(0.5)


def test_progress_and_refusals(net):
    steps = []
    checks.cascading_randomisation(net, gradient_map, max_layers=2, on_step=steps.append)
    assert [(s.done, s.total) for s in steps] == [(0, 2), (1, 2), (2, 2)]
    with pytest.raises(BadInput, match="max_layers is 0"):
        checks.cascading_randomisation(net, gradient_map, max_layers=0)
    with pytest.raises(BadInput, match="no parameters"):
        checks.cascading_randomisation(nn.ReLU(), lambda _: X[0])
