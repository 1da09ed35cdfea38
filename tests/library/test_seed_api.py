"""Every name, argument and default of palm-rlhf-pytorch 0.8, and the early aliases of 0.0.68."""

import inspect
from typing import Any

import pytest
import torch
from torch.testing import assert_close

import rlhf_core
from rlhf_core import ActorCritic, PaLM, RewardModel, RLHFTrainer
from rlhf_core.generation.filters import top_k, top_p
from rlhf_core.modules.palm import NOT_A_TOKEN

NEEDED = inspect.Parameter.empty
SIGNATURES: dict[str, dict] = {
    "PaLM": dict(
        dim=NEEDED, num_tokens=NEEDED, depth=NEEDED, causal=True, dim_head=64, heads=8, ff_mult=4, attn_dropout=0.0,
        ff_dropout=0.0, qk_rmsnorm=False, lora_r=8, rotary_xpos_scale_base=512, flash_attn=False, finetune_scopes=(),
        cross_entropy_ignore_index=0,
    ),
    "PaLM.forward": dict(
        x=NEEDED, return_loss=False, disable_lora=False, finetune_scope=None, extra_embed=None,
        return_only_embedding=False, return_logits_with_embedding=False,
    ),
    "PaLM.generate": dict(
        seq_len=NEEDED, prompt=None, temperature=1.0, filter_logits_fn=top_k, filter_thres=0.9, pad_value=0.0,
        eos_token=None, return_seq_without_prompt=True, use_tqdm=False,
    ),
    "PaLM.load": dict(path=NEEDED),
    "PaLM.save": dict(path=NEEDED),
    "PaLM.set_dropout": dict(dropout=NEEDED),
    "PaLM.add_finetune_params": dict(scope=NEEDED, lora_r=None),
    "PaLM.remove_finetune_params": dict(scope=NEEDED),
    "PaLM.merge_finetune_params": dict(scope=NEEDED),
    "PaLM.palm_parameters": dict(),
    "PaLM.finetune_parameters": dict(scope="default"),
    "RewardModel": dict(
        palm=NEEDED, dropout=0.1, num_binned_output=0.0, use_lora=True, lora_r=8, reward_lora_scope="reward",
        sample_from_bins=None, sample_temperature=1.0,
    ),
    "RewardModel.forward": dict(
        x=NEEDED, mask=None, prompt_mask=None, prompt_lengths=None, labels=None, disable_lora=False
    ),
    "RewardModel.load": dict(path=NEEDED),
    "RewardModel.finetune_parameters": dict(),
    "ActorCritic": dict(
        palm=NEEDED, critic=None, pooled_values=False, actor_lora=True, critic_lora=True, actor_lora_r=8,
        critic_lora_r=8, actor_lora_scope="actor", critic_lora_scope="critic", actor_dropout=0.0, critic_dropout=0.0,
        critic_dim_out=6,
    ),
    "ActorCritic.forward": dict(x=NEEDED, mask=None, return_values=True),
    "ActorCritic.generate": dict(state=NEEDED, max_seq_len=NEEDED, eos_token=None, return_values=False),
    "ActorCritic.actor_parameters": dict(),
    "ActorCritic.critic_parameters": dict(),
    "RLHFTrainer": dict(
        prompts=None, prompts_path=None, prompt_token_ids=None, tokenizer=None, palm=NEEDED, reward_model=NEEDED,
        critic=None, actor_critic=None, actor_lr=1e-4, critic_lr=1e-4, actor_wd=0.0, critic_wd=0.0, actor_lora=True,
        critic_lora=True, actor_lora_r=8, critic_lora_r=8, critic_pooled_values=True, actor_dropout=0.0,
        critic_dropout=0.0, betas=(0.9, 0.999), max_norm=None, eps_clip=0.2, value_clip=0.4, beta_s=0.01, pad_value=0.0,
        minibatch_size=16, epochs=1, kl_div_loss_weight=0.1, accelerate_kwargs={}, critic_num_pred_bins=6,
        hl_gauss_loss_kwargs=dict(
            min_value=0.0, max_value=5.0, min_max_value_on_bin_center=True, clamp_to_range=True, sigma_to_bin_ratio=1.0
        ),
    ),
    "RLHFTrainer.train": dict(
        num_episodes=50000, max_timesteps=500, update_timesteps=5000, max_batch_size=16, max_seq_len=2048,
        eos_token=None, temperature=1.0,
    ),
    "RLHFTrainer.generate": dict(max_seq_len=NEEDED, prompt=NEEDED, num_samples=4),
    "RLHFTrainer.save": dict(filepath="./checkpoint.pt"),
    "RLHFTrainer.load": dict(filepath="./checkpoint.pt"),
}  # fmt: skip
EARLY: dict[str, dict] = {  # of 0.0.68, gone in 0.8
    "RewardModel.forward": dict(sample=False, sample_temperature=1.0),
    "RLHFTrainer": dict(critic_palm=None, actor_adam_eps=1e-7, critic_adam_eps=1e-7, use_lion=False),
}
OURS = {  # what our default is where the seed library's is itself a fault, or rule 30 of a correct trainer says another
    ("PaLM", "cross_entropy_ignore_index"): NOT_A_TOKEN,  # fault 19: index 0 was never learned
    ("PaLM.generate", "filter_logits_fn"): None,  # fault 15: drawn from another distribution than the log-probs are of
    ("PaLM.generate", "filter_thres"): None,
    ("RLHFTrainer", "critic_pooled_values"): False,  # faults 2 and 3
    ("RLHFTrainer", "reward_model"): None,  # ours takes any other reward in its place
    ("RLHFTrainer", "actor_adam_eps"): 1e-5,  # rule 30
    ("RLHFTrainer", "critic_adam_eps"): 1e-5,
    ("RewardModel.forward", "sample"): None,  # the model's own setting, which is not to draw
    ("RewardModel.forward", "sample_temperature"): None,
}
KEYWORDS_ONLY = {"PaLM", "RLHFTrainer"}
ARGUMENTS = [
    (function, name, default)
    for table in (SIGNATURES, EARLY)
    for function, defaults in table.items()
    for name, default in defaults.items()
]


def parameters_of(function: str):
    found: Any = rlhf_core
    for part in function.split("."):
        found = getattr(found, part)
    return inspect.signature(found).parameters


@pytest.mark.parametrize(("function", "name", "default"), ARGUMENTS, ids=lambda it: it if isinstance(it, str) else "")
def test_an_argument_has_its_name_and_default(function, name, default):
    parameter = parameters_of(function)[name]
    assert parameter.default == OURS.get((function, name), default)
    assert (parameter.kind is inspect.Parameter.KEYWORD_ONLY) is (
        function in KEYWORDS_ONLY
        or (function, name) in {("RLHFTrainer.generate", "prompt"), ("RLHFTrainer.generate", "num_samples")}
    )


@pytest.mark.parametrize("function", [name for name in SIGNATURES if name not in KEYWORDS_ONLY])
def test_arguments_by_position_stand_in_the_seed_librarys_order(function):
    found = [name for name in parameters_of(function) if name != "self"]
    assert found[: len(SIGNATURES[function])] == list(SIGNATURES[function])


@pytest.mark.parametrize("function", SIGNATURES)
def test_what_is_ours_alone_may_be_left_out(function):
    ours = {
        name: one
        for name, one in parameters_of(function).items()
        if name not in {"self", "forward_kwargs"} | SIGNATURES[function].keys() | EARLY.get(function, {}).keys()
    }
    assert all(one.default is not NEEDED for one in ours.values())


TOKENS = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(0))


def make_palm(**changes) -> PaLM:
    torch.manual_seed(0)
    return PaLM(**{"dim": 16, "num_tokens": 50, "depth": 2, "dim_head": 8, "heads": 2, **changes}).eval()


@pytest.mark.parametrize(
    ("argument", "value", "holds"),
    [
        ("dim", 24, lambda palm: palm.token_emb.weight.shape == (50, 24)),
        ("num_tokens", 70, lambda palm: palm(TOKENS).shape == (2, 9, 70)),
        ("depth", 3, lambda palm: len(palm.blocks) == 3),
        ("causal", False, lambda palm: palm.rotary.xpos_scale_base is None),
        ("dim_head", 12, lambda palm: palm.blocks[0].attention_out.weight.shape == (16, 24)),
        ("heads", 3, lambda palm: palm.blocks[0].attention_out.weight.shape == (16, 24)),
        ("ff_mult", 3, lambda palm: palm.blocks[0].feed_forward_out.weight.shape == (16, 48)),
        ("attn_dropout", 0.5, lambda palm: not torch.equal(palm.train()(TOKENS), palm.eval()(TOKENS))),
        ("ff_dropout", 0.5, lambda palm: not torch.equal(palm.train()(TOKENS), palm.eval()(TOKENS))),
        ("qk_rmsnorm", True, lambda palm: palm.blocks[1].qk_gain.shape == (24,)),
        ("lora_r", 3, lambda palm: (palm.add_finetune_params("a"), palm.lora["a"][0].q.A.shape == (16, 3))[1]),
        ("rotary_xpos_scale_base", 7, lambda palm: palm.rotary.xpos_scale_base == 7),
        ("flash_attn", True, lambda palm: torch.equal(palm(TOKENS), make_palm()(TOKENS))),
        ("finetune_scopes", ("a", "b"), lambda palm: list(palm.lora) == ["a", "b"]),
        ("cross_entropy_ignore_index", 7, lambda palm: palm.cross_entropy_ignore_index == 7),
    ],
)
def test_each_argument_of_palm_does_what_it_says(argument, value, holds):
    assert holds(make_palm(**{argument: value}))


@pytest.mark.parametrize(
    ("argument", "value", "holds"),
    [
        ("dropout", 0.3, lambda model: model.palm.blocks[0].ff_dropout == model.palm.blocks[1].attn_dropout == 0.3),
        ("num_binned_output", 5, lambda model: model.head.weight.shape == (5, 16)),
        ("use_lora", False, lambda model: not model.palm.lora and model.palm.token_emb.weight.requires_grad),
        ("lora_r", 3, lambda model: model.palm.lora["reward"][0].q.A.shape == (16, 3)),
        ("reward_lora_scope", "judge", lambda model: list(model.palm.lora) == ["judge"]),
    ],
)
def test_each_argument_of_the_reward_model_does_what_it_says(argument, value, holds):
    assert holds(RewardModel(make_palm(), **{argument: value}))


def test_a_reward_model_draws_bins_only_when_told_to():
    many = TOKENS[:1].expand(300, -1)
    model = RewardModel(make_palm(), num_binned_output=5, sample_from_bins=True, sample_temperature=2.0).eval()
    assert len(set(model(many).tolist())) > 1
    assert len(set(model(many, sample=False).tolist())) == 1
    cold = RewardModel(make_palm(), num_binned_output=5, sample_from_bins=True, sample_temperature=1e-4).eval()
    assert len(set(cold(many).tolist())) == 1
    assert len(set(cold(many, sample_temperature=3.0).tolist())) > 1
    default = RewardModel(make_palm(), num_binned_output=5).eval()
    assert len(set(default(many).tolist())) == 1  # fault 9


def test_a_reward_model_returns_one_number_a_row_or_one_loss():
    for arguments, labels in ((dict(num_binned_output=5), torch.tensor([0, 4])), (dict(), torch.tensor([0.5, -1.0]))):
        model = RewardModel(make_palm(), **arguments)
        prompt_mask = torch.arange(9).expand(2, -1) < 3
        for given in (dict(prompt_mask=prompt_mask), dict(prompt_lengths=torch.tensor([3, 3])), dict()):
            assert model(TOKENS, **given).shape == (2,)
            assert model(TOKENS, labels=labels, **given).shape == ()
        plain = model.eval()(TOKENS, prompt_mask=prompt_mask, disable_lora=True)
        torch.nn.init.normal_(model.palm.lora["reward"][0].q.B)
        assert_close(model(TOKENS, prompt_mask=prompt_mask, disable_lora=True), plain)
        mask = torch.arange(9).expand(2, -1) < 7
        assert_close(model(TOKENS, mask, prompt_mask), model(TOKENS[:, :7], None, prompt_mask[:, :7]))


def dropouts(model: ActorCritic) -> tuple[float, float]:
    policy, critic = (trunk.each_block()[0].ff_dropout for trunk in (model.palm, model.critic_trunk))
    return policy, critic


@pytest.mark.parametrize(
    ("arguments", "holds"),
    [
        (dict(), lambda it: it.critic_trunk is it.palm and list(it.palm.lora) == ["actor", "critic"]),
        (dict(critic=make_palm()), lambda it: list(it.critic_palm.lora) == ["critic"]),
        (dict(pooled_values=True), lambda it: it.pooled_values),
        (dict(actor_lora=False), lambda it: list(it.palm.lora) == [] and it.palm.token_emb.weight.requires_grad),
        (dict(critic_lora=False), lambda it: list(it.critic_palm.lora) == []),
        (dict(actor_lora_r=2), lambda it: it.palm.lora["actor"][0].q.A.shape == (16, 2)),
        (dict(critic_lora_r=3), lambda it: it.palm.lora["critic"][0].q.A.shape == (16, 3)),
        (dict(actor_lora_scope="a", critic_lora_scope="b"), lambda it: list(it.palm.lora) == ["a", "b"]),
        (dict(actor_dropout=0.2), lambda it: dropouts(it) == (0.2, 0.0)),
        (dict(critic_dropout=0.2), lambda it: dropouts(it) == (0.0, 0.2)),
        (dict(critic_dim_out=9), lambda it: it.value_head.weight.shape == (9, 16) and not it.value_head.bias.any()),
    ],
)  # fmt: skip
def test_each_argument_of_the_actor_critic_does_what_it_says(arguments, holds):
    palm = make_palm()
    found = ActorCritic(palm, **arguments)
    assert found.palm is palm  # the passed object, not a copy
    assert holds(found)


def test_the_actor_critic_returns_the_six_parts_of_a_generation():
    model = ActorCritic(make_palm())
    state = TOKENS[:, :4]
    found = model.generate(state, 12, eos_token=None, return_values=True)
    assert found._fields == ("actions", "sequence", "mask", "prompt_mask", "action_logits", "values")
    assert found.actions.shape == (2, 8)
    assert torch.equal(found.sequence, torch.cat((state, found.actions), dim=1))
    assert found.mask.all()
    assert found.prompt_mask.sum(dim=1).tolist() == [4, 4]
    assert found.action_logits.shape == (2, 12, 50)
    assert found.values.shape == (2, 8)
    assert model.generate(state, 12).values is None
    logits, values = model(found.sequence)
    assert_close(logits, found.action_logits)
    assert values.shape == (2, 11)
    assert model(found.sequence, return_values=False)[1] is None
    assert model.generate(state[:, :1], 3).actions.shape == (2, 2)  # a prompt of one token is a prompt


def test_methods_of_palm_return_what_they_did():
    palm = make_palm(finetune_scopes=("default",))
    assert palm.device == torch.device("cpu")
    assert palm.set_dropout(0.1) is palm
    assert len(list(palm.finetune_parameters())) == 2 * 4 * 2
    assert {id(one) for one in palm.palm_parameters()}.isdisjoint(id(one) for one in palm.finetune_parameters())
    assert isinstance(palm.remove_finetune_params("default"), torch.nn.ModuleList)
    assert palm.add_finetune_params("default", 4) is None
    assert palm.merge_finetune_params("default") is None
    assert not palm.lora


def test_generate_filters_when_asked_to_and_only_then():
    palm, prompt = make_palm(), TOKENS[:1, :3].expand(400, -1)
    likeliest = palm(prompt[:1]).softmax(-1)[0, -1].argsort(descending=True)

    def drawn(**given) -> set[int]:
        torch.manual_seed(0)
        return set(palm.generate(4, prompt, **given).flatten().tolist())

    assert len(drawn()) > 40  # of 50: nothing is filtered, since nothing is where log-probabilities are learned
    assert drawn(filter_thres=0.9) == drawn(filter_logits_fn=top_k) == set(likeliest[:5].tolist())
    assert drawn(filter_logits_fn=top_p, filter_thres=1e-6) == set(likeliest[:1].tolist())
    assert drawn(filter_logits_fn=lambda logits, thres: logits.masked_fill(logits < logits.max(), -1e9)) == drawn(
        temperature=0
    )


def test_the_early_sample_argument_draws_bins():
    model = RewardModel(make_palm(), num_binned_output=5).eval()
    drawn = model(TOKENS[:1].expand(300, -1), sample=True, sample_temperature=2.0)
    assert drawn.dtype == torch.long
    assert len(drawn.unique()) > 1
    with pytest.raises(ValueError, match="no bins to draw from"):
        RewardModel(make_palm())(TOKENS, sample=True)


def test_the_early_trainers_arguments_work():
    reward_model = RewardModel(make_palm(), num_binned_output=5)
    trainer = RLHFTrainer(
        palm=make_palm(),
        reward_model=reward_model,
        prompt_token_ids=TOKENS,
        critic_palm=make_palm(),
        actor_adam_eps=1e-7,
        critic_adam_eps=1e-7,
        use_lion=False,
    )
    trainer.train(num_episodes=1, max_timesteps=2, max_seq_len=12)
    trainer.generate(12, prompt=TOKENS[0])
    assert len(trainer.history) == 1
