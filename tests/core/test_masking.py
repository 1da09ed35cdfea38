import torch
from torch.testing import assert_close

from rlhf_core.masking import length_mask, masked_mean, masked_variance, masked_whiten, mean_of_rows, response_mask

NAN = float("nan")


def test_masks_come_from_lengths_whatever_the_tokens_are():
    found = response_mask(torch.tensor([1, 2]), torch.tensor([3, 4]), 4)  # rule 3: no token id is looked at
    assert found.tolist() == [[False, True, True, False], [False, False, True, True]]
    assert length_mask(torch.tensor([0, 2]), 3).tolist() == [[False, False, False], [True, True, False]]


def test_means_ignore_what_the_mask_leaves_out_even_nan():
    x, mask = torch.tensor([[1.0, 3.0, NAN]]), torch.tensor([[True, True, False]])
    assert_close(masked_mean(x, mask), torch.tensor(2.0))
    assert_close(masked_mean(x, mask, dim=1), torch.tensor([2.0]))
    assert_close(masked_variance(x, mask), torch.tensor(1.0))  # ((1-2)^2 + (3-2)^2) / 2: biased
    assert masked_mean(x, torch.zeros_like(mask)) == 0.0


def test_the_mean_of_a_row_is_that_of_its_own_tokens():
    mask = torch.tensor([[False, True, True], [False, False, False], [True, False, False]])
    found = mean_of_rows(torch.tensor([[1.0, 4.0], [3.0, 8.0], [5.0, 6.0]]), mask)
    assert_close(found, torch.tensor([[2.0, 6.0], [0.0, 0.0], [5.0, 6.0]]))


def test_whitened_values_have_mean_0_and_biased_variance_1_and_ignore_padding_rule_20():
    x = torch.tensor([[1.0, 3.0, 5.0], [7.0, NAN, NAN]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    found = masked_whiten(x, mask)
    # mean 4, squares 9 + 1 + 1 + 9 = 20, biased variance 5
    root = 5.0**0.5
    assert_close(found, torch.tensor([[-3 / root, -1 / root, 1 / root], [3 / root, 0.0, 0.0]]))
    wider = masked_whiten(torch.cat([x, torch.full((2, 4), 99.0)], 1), torch.cat([mask, torch.zeros(2, 4).bool()], 1))
    assert torch.equal(wider[:, :3], found)


def test_whitened_rewards_keep_their_mean_rule_21():
    x, mask = torch.tensor([[1.0, 3.0, 50.0]]), torch.tensor([[True, True, False]])
    found = masked_whiten(x * 10, mask, center=False)
    assert_close(found, torch.tensor([[19.0, 21.0, 0.0]]))  # mean 20, standard deviation 10
    assert_close(masked_mean(found, mask), torch.tensor(20.0))


def test_equal_values_whiten_to_zero_and_not_to_nan():
    found = masked_whiten(torch.full((2, 2), 3.0), torch.ones(2, 2).bool())
    assert_close(found, torch.zeros(2, 2))
