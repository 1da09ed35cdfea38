import pytest
import torch
from safetensors.torch import load, save
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from rlhf_core.modules.lora import BlockLoRA, LoRA
from rlhf_core.modules.palm import PaLM

TOKENS = torch.tensor([[1, 5, 9, 3, 7, 2]])


def make_palm(**changes) -> PaLM:
    torch.manual_seed(0)
    return PaLM(**{"dim": 16, "num_tokens": 11, "depth": 2, "dim_head": 4, "heads": 3, "qk_rmsnorm": True, **changes})


def train_a_little(palm: PaLM, scope: str) -> None:
    """Give every adapter of a scope some weight."""
    with torch.no_grad():
        for parameter in palm.finetune_parameters(scope):
            parameter.normal_(std=0.3)


def test_an_adapter_adds_x_a_b_times_alpha_over_rank():
    lora = LoRA(2, 2, rank=1, alpha=3.0)
    with torch.no_grad():
        lora.A.copy_(torch.tensor([[1.0], [2.0]]))
        lora.B.copy_(torch.tensor([[10.0, 100.0]]))
    # (1 * 1 + 1 * 2) = 3, times (10, 100), times 3 / 1
    assert_close(lora(torch.tensor([1.0, 1.0])), torch.tensor([90.0, 900.0]))
    assert_close(lora.weight_change() @ torch.tensor([1.0, 1.0]), torch.tensor([90.0, 900.0]))


def test_a_starts_with_the_scale_of_its_input_and_b_with_zero():
    torch.manual_seed(0)
    lora = LoRA(1024, 16, rank=64)
    assert float(lora.A.detach().std()) == pytest.approx(1024**-0.5, rel=0.02)
    assert float(lora.B.detach().abs().max()) == 0.0
    assert lora.alpha == 64


def test_the_product_of_a_and_b_is_never_made():  # fault 26 of the seed library
    class Sizes(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            found = function(*args, **(kwargs or {}))
            self.largest = max(self.largest, found.numel() if isinstance(found, torch.Tensor) else 0)
            return found

    lora = LoRA(100, 90, rank=2)
    with Sizes() as sizes:
        lora(torch.ones(3, 100)).sum().backward()
    assert 0 < sizes.largest <= 300 < 100 * 90


def test_adapters_side_by_side_change_what_each_changes_alone():
    torch.manual_seed(0)
    block = BlockLoRA(dim=6, heads=2, dim_head=4, rank=3, alpha=1.5)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(5, 6)
    apart = torch.cat((block.q(x), block.k(x), block.v(x)), dim=-1)
    wanted = torch.autograd.grad(apart.square().sum(), block.q.B)
    down, up = block.side_by_side()
    assert (down.shape, up.shape) == ((6, 9), (9, 16))
    together = x @ down @ up
    assert_close(together, apart)
    assert_close(torch.autograd.grad(together.square().sum(), block.q.B), wanted)


def test_a_new_scope_changes_nothing_at_all():
    palm = make_palm()
    before = palm(TOKENS)
    palm.add_finetune_params("actor")
    assert torch.equal(palm(TOKENS, finetune_scope="actor"), before)


def test_adapters_are_off_unless_asked_for():
    palm = make_palm()
    before = palm(TOKENS)
    palm.add_finetune_params("actor")
    train_a_little(palm, "actor")
    assert torch.equal(palm(TOKENS), before)
    assert torch.equal(palm(TOKENS, finetune_scope="actor", disable_lora=True), before)
    assert not torch.allclose(palm(TOKENS, finetune_scope="actor"), before, atol=1e-3)


@pytest.mark.parametrize("alpha", [None, 3.0])
def test_merged_weights_answer_as_the_adapters_did(alpha):
    palm = make_palm()
    palm.add_finetune_params("actor", lora_r=4, lora_alpha=alpha)
    train_a_little(palm, "actor")
    before = palm(TOKENS, finetune_scope="actor")
    palm.merge_finetune_params("actor")
    assert (palm(TOKENS) - before).abs().max() < 1e-5
    assert "actor" not in palm.lora


def test_every_projection_has_its_adapter():
    palm = make_palm()
    palm.add_finetune_params("actor")
    for name, parameter in palm.lora.named_parameters():
        if name.endswith(".B"):
            before = palm(TOKENS, finetune_scope="actor")
            with torch.no_grad():
                parameter.normal_()
            assert not torch.allclose(palm(TOKENS, finetune_scope="actor"), before), name
            with torch.no_grad():
                parameter.zero_()


def test_training_a_scope_leaves_the_base_without_gradient_and_untouched():
    palm = make_palm(finetune_scopes=("actor", "critic"))
    palm.train_only("actor")
    base = [parameter.clone() for parameter in palm.palm_parameters()]
    optimizer = torch.optim.AdamW([parameter for parameter in palm.parameters() if parameter.requires_grad], lr=0.1)
    for _ in range(3):
        palm(TOKENS, return_loss=True, finetune_scope="actor").backward()
        assert all(parameter.grad is None for parameter in palm.palm_parameters())
        assert all(parameter.grad is None for parameter in palm.finetune_parameters("critic"))
        assert all(parameter.grad is not None for parameter in palm.finetune_parameters("actor"))
        optimizer.step()
    assert all(torch.equal(old, new) for old, new in zip(base, palm.palm_parameters(), strict=True))
    palm.train_only(None)
    assert all(parameter.requires_grad for parameter in palm.palm_parameters())
    assert not any(parameter.requires_grad for parameter in palm.finetune_parameters("actor"))


def test_base_and_scopes_share_out_the_parameters():
    palm = make_palm(finetune_scopes=("actor", "critic"))
    parts = [palm.palm_parameters(), palm.finetune_parameters("actor"), palm.finetune_parameters("critic")]
    ids = [id(parameter) for part in parts for parameter in part]
    assert sorted(ids) == sorted(map(id, palm.parameters()))
    assert len(parts[1]) == 2 * 4 * 2  # blocks, projections, A and B


def test_a_state_with_a_scope_loads_into_a_fresh_palm():  # fault 27 of the seed library
    palm = make_palm()
    palm.add_finetune_params("actor", lora_r=3, lora_alpha=6.0)
    train_a_little(palm, "actor")
    fresh = make_palm()
    fresh.load_state_dict(load(save(palm.state_dict())))
    assert torch.equal(fresh(TOKENS, finetune_scope="actor"), palm(TOKENS, finetune_scope="actor"))
    assert fresh.scope_adapters("actor")[0].q.alpha == 6.0


def test_a_state_with_a_scope_loads_where_the_palm_is_a_part():
    palm = make_palm(finetune_scopes=("actor",))
    train_a_little(palm, "actor")
    whole = torch.nn.ModuleDict({"palm": palm, "head": torch.nn.Linear(2, 2)})
    fresh = torch.nn.ModuleDict({"palm": make_palm(), "head": torch.nn.Linear(2, 2)})
    fresh.load_state_dict(whole.state_dict())
    assert torch.equal(fresh["palm"](TOKENS, finetune_scope="actor"), palm(TOKENS, finetune_scope="actor"))


@pytest.mark.parametrize("scope", ["", "a.b", "taken"])
def test_a_scope_needs_a_new_plain_name(scope):
    palm = make_palm(finetune_scopes=("taken",))
    with pytest.raises(ValueError, match="not permitted"):
        palm.add_finetune_params(scope)


def test_an_unknown_scope_is_refused_by_name():
    palm = make_palm(finetune_scopes=("actor",))
    with pytest.raises(ValueError, match="no LoRA scope 'critic'; there are \\['actor'\\]"):
        palm(TOKENS, finetune_scope="critic")
    palm.remove_finetune_params("actor")
    with pytest.raises(ValueError, match="no LoRA scope 'actor'"):
        palm.finetune_parameters("actor")
