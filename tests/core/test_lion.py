import pytest
import torch
from torch.testing import assert_close

from rlhf_core.errors import ConfigError
from rlhf_core.training.lion import Lion


def test_steps_are_those_of_algorithm_2():
    weight = torch.nn.Parameter(torch.tensor([1.0, 1.0, 1.0]))
    optimizer = Lion([weight], lr=0.1, betas=(0.5, 0.75), weight_decay=0.2)
    weight.grad = torch.tensor([4.0, -8.0, 0.0])
    optimizer.step()  # the average is 0: direction sign(g); decay takes 0.1 * 0.2 of the weight off
    assert_close(weight.detach(), torch.tensor([0.88, 1.08, 0.98]))
    weight.grad = torch.tensor([-0.5, 1.0, 1.0])
    optimizer.step()  # average (1, -2, 0): 0.5 * average + 0.5 * g is (0.25, -0.5, 0.5)
    assert_close(weight.detach(), torch.tensor([0.98 * 0.88 - 0.1, 0.98 * 1.08 + 0.1, 0.98 * 0.98 - 0.1]))
    # 0.75 * average + 0.25 * g
    assert_close(optimizer.state[weight]["average"], torch.tensor([0.625, -1.25, 0.25]))


def test_a_weight_without_gradient_stays():
    weight = torch.nn.Parameter(torch.ones(2))
    Lion([weight], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(weight, torch.ones(2))


def test_betas_outside_their_range_are_refused():
    with pytest.raises(ConfigError, match="betas"):
        Lion([torch.nn.Parameter(torch.ones(2))], betas=(1.0, 0.9))
