import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save
from torch.testing import assert_close

from rlhf_core.config import ModelConfig
from rlhf_core.errors import CheckpointError, ConfigError
from rlhf_core.modules import attention
from rlhf_core.modules.palm import PaLM
from tests.core.adapted_palm import make_palm, random_tokens

LENGTHS = torch.tensor([3, 7, 12])


@pytest.mark.parametrize("scope", [None, "actor"])
@pytest.mark.parametrize("qk_rmsnorm", [False, True])
def test_a_row_answers_the_same_alone_and_padded_beside_others(scope, qk_rmsnorm):
    palm, tokens = make_palm(qk_rmsnorm=qk_rmsnorm), random_tokens(3, 12)
    together = palm(tokens, lengths=LENGTHS, finetune_scope=scope)
    for row, length in enumerate(LENGTHS):
        alone = palm(tokens[row : row + 1, :length], finetune_scope=scope)
        assert (together[row, :length] - alone[0]).abs().max() < 1e-5


def test_without_causality_padding_on_the_right_stays_unseen():
    palm, tokens = make_palm(causal=False), random_tokens(3, 12)
    together = palm(tokens, lengths=LENGTHS)
    by_sign = palm(tokens.masked_fill(torch.arange(12) >= LENGTHS[:, None], -1))
    for row, length in enumerate(LENGTHS):
        alone = palm(tokens[row : row + 1, :length])
        assert (together[row, :length] - alone[0]).abs().max() < 1e-5
        assert (by_sign[row, :length] - alone[0]).abs().max() < 1e-5


def test_the_pad_id_inside_a_row_is_a_token_like_any_other():
    palm = make_palm()
    assert not torch.allclose(palm(torch.tensor([[4, 0, 5]]))[:, -1], palm(torch.tensor([[4, 5]]))[:, -1], atol=1e-3)


def test_causality_is_what_its_flag_says():
    tokens, changed = random_tokens(1, 6), random_tokens(1, 6)
    changed[0, -1] = (tokens[0, -1] + 1) % 50
    causal, free = make_palm(), make_palm(causal=False)
    assert torch.equal(causal(tokens)[:, :-1], causal(changed)[:, :-1])
    assert not torch.allclose(free(tokens)[:, 0], free(changed)[:, 0], atol=1e-6)


def test_xpos_is_on_only_where_attention_is_causal():
    assert make_palm().rotary.xpos_scale_base == 512
    assert make_palm(causal=False).rotary.xpos_scale_base is None


def test_the_loss_is_the_mean_of_the_next_tokens_but_the_ignored_label():
    palm, tokens = make_palm(), torch.tensor([[3, 8, 0, 9]])
    log_probs = palm(tokens).log_softmax(-1)[0]
    every_token = -(log_probs[0, 8] + log_probs[1, 0] + log_probs[2, 9]) / 3
    assert_close(palm(tokens, return_loss=True), every_token)  # index 0 is learned too: fault 19 of the seed library
    palm.cross_entropy_ignore_index = 0
    assert_close(palm(tokens, return_loss=True), -(log_probs[0, 8] + log_probs[2, 9]) / 2)


def test_padding_stays_out_of_the_loss():
    palm = make_palm()
    short, padded = torch.tensor([[3, 8, 4]]), torch.tensor([[3, 8, 4, 7, 7]])
    found = palm(padded, return_loss=True, lengths=torch.tensor([3]))
    assert_close(found, palm(short, return_loss=True))


def test_the_loss_is_worked_out_in_float32():
    palm = make_palm().bfloat16()
    assert palm(random_tokens(2, 5), return_loss=True).dtype == torch.float32


def test_forward_returns_what_its_flags_ask_for():
    palm, tokens = make_palm(), random_tokens(2, 5)
    logits, embedding = palm(tokens, return_logits_with_embedding=True)
    assert logits.shape == (2, 5, 50)
    assert_close(palm(tokens, return_only_embedding=True), embedding)
    assert_close(embedding @ palm.token_emb.weight.T, logits)
    shifted = palm(tokens, extra_embed=torch.linspace(0, 1, 32))
    assert not torch.allclose(shifted, logits, atol=1e-3)


@pytest.mark.parametrize("recompute", [False, True])
def test_what_is_wanted_at_some_places_is_what_stands_there_and_so_is_its_gradient(recompute):
    palm, tokens = make_palm(finetune_scopes=("actor",)), random_tokens(3, 6)
    for parameter in palm.finetune_parameters("actor"):
        torch.nn.init.normal_(parameter, std=0.1)
    palm.recompute_blocks = recompute
    places, rows, columns = torch.tensor([2, 17, 9]), [0, 2, 1], [2, 5, 3]  # 17 = 2 * 6 + 5
    found, weights = [], torch.linspace(-1, 1, 3 * 32).view(3, 32)
    for wanted in (None, places):
        states = palm(tokens, finetune_scope="actor", return_only_embedding=True, places=wanted)
        states = states[rows, columns] if wanted is None else states
        found.append([states, *torch.autograd.grad((states * weights).mean(), list(palm.parameters()))])
    assert found[1][0].shape == (3, 32)
    for now, then in zip(found[1], found[0], strict=True):
        assert_close(now, then, atol=1e-5, rtol=1e-5)


def test_the_last_block_works_out_the_wanted_places_alone(monkeypatch):
    palm, widths = make_palm(), []
    fed = attention.gated_feed_forward
    monkeypatch.setattr(
        attention, "gated_feed_forward", lambda x, *rest: widths.append(tuple(x.shape)) or fed(x, *rest)
    )
    palm(random_tokens(3, 6), places=torch.tensor([1, 4]))
    assert widths == [(3, 6, 32)] * (len(palm.blocks) - 1) + [(2, 32)]


def test_the_loss_knows_no_places():
    with pytest.raises(ValueError, match="places are for embeddings"):
        make_palm()(random_tokens(2, 3), return_loss=True, places=torch.tensor([0]))


def test_the_output_matrix_is_the_embedding_which_starts_small():
    palm = PaLM(dim=64, num_tokens=2000, depth=1)
    assert float(palm.token_emb.weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    assert not any(
        parameter.shape == (2000, 64) for name, parameter in palm.named_parameters() if "token_emb" not in name
    )


def test_the_demo_shape_has_4_85_million_parameters():
    palm = PaLM.from_config(ModelConfig())
    # 4096 x 256, and in each of 4 blocks 256 x (256 + 64 + 64 + 2048) + 256 x 256 + 1024 x 256, gains 256 and 5 x 64;
    # the last norm 256
    assert sum(parameter.numel() for parameter in palm.parameters()) == 1048576 + 4 * (950272 + 256 + 320) + 256


def test_settings_reach_the_model_and_come_back():
    config = ModelConfig(
        num_tokens=300, dim=16, depth=2, heads=3, dim_head=6, ff_mult=2, causal=False, qk_rmsnorm=False
    )
    assert PaLM.from_config(config).config == config
    with pytest.raises(ConfigError, match="dim_head = 7"):
        replace(config, dim_head=7)


def test_dropout_reaches_every_block_and_only_training():
    palm, tokens = make_palm(), random_tokens(1, 9)
    assert_close(palm.train()(tokens), palm.eval()(tokens))  # none by default
    palm.set_dropout(0.5)
    assert torch.equal(palm(tokens), palm(tokens))
    palm.train()
    assert not torch.allclose(palm(tokens), palm(tokens))
    assert {block.attn_dropout for block in palm.each_block()} == {0.5}


def test_generate_returns_the_shapes_of_the_seed_library():
    palm = make_palm()
    assert palm.generate(20).shape == (1, 20)
    assert palm.generate(20, random_tokens(4)).shape == (16,)
    assert palm.generate(20, random_tokens(2, 3, 4)).shape == (2, 3, 16)
    assert palm.generate(9, random_tokens(2, 4), return_seq_without_prompt=False).shape == (2, 9)
    assert palm.generate(3, random_tokens(2, 4)).shape == (2, 1)  # at least one token
    assert palm.generate(6, random_tokens(2, 4), finetune_scope="actor").shape == (2, 2)
    assert make_palm(causal=False).generate(6, random_tokens(2, 4)).shape == (2, 2)


def test_generate_at_temperature_zero_takes_the_likeliest_token():
    palm, prompt = make_palm(), random_tokens(2, 5)
    found = palm.generate(15, prompt, temperature=0)
    whole = torch.cat((prompt, found), dim=1)
    assert torch.equal(palm(whole[:, :-1]).argmax(-1)[:, 4:], found)


def test_generate_follows_its_seed():
    palm, prompt = make_palm(), random_tokens(2, 5)
    runs = []
    for _ in range(2):
        torch.manual_seed(7)
        runs.append(palm.generate(30, prompt))
    assert torch.equal(*runs)


def test_generate_pads_behind_a_drawn_end_token_but_minds_none_in_the_prompt():
    palm = make_palm()
    torch.manual_seed(0)
    found = palm.generate(60, torch.full((8, 4), 9), eos_token=9, filter_thres=0.5, pad_value=3)
    ends = [row.index(9) for row in found.tolist() if 9 in row]
    assert ends
    for row in found.tolist():
        if 9 in row:
            assert set(row[row.index(9) + 1 :]) <= {3}


def test_generate_stops_when_every_row_has_ended():
    palm = make_palm()
    prompt = random_tokens(1, 4)
    first = int(palm.generate(5, prompt, temperature=0))
    assert palm.generate(40, prompt, temperature=0, eos_token=first).shape == (1, 1)


def test_a_saved_palm_comes_back_with_shape_and_scopes(tmp_path):
    palm = make_palm()
    palm.save(tmp_path / "palm.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["palm.safetensors"]
    tokens = random_tokens(2, 6)
    fresh = make_palm(finetune_scopes=())
    fresh.load(tmp_path / "palm.safetensors")
    again = PaLM.from_file(tmp_path / "palm.safetensors").eval()
    for scope in (None, "actor"):
        assert torch.equal(fresh(tokens, finetune_scope=scope), palm(tokens, finetune_scope=scope))
        assert torch.equal(again(tokens, finetune_scope=scope), palm(tokens, finetune_scope=scope))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(dim=0), "dim = 0 .* at least 8"),
        (dict(attn_dropout=1.0), "attn_dropout = 1.0"),
        (dict(ff_dropout=-0.1), "ff_dropout = -0.1"),
        (dict(finetune_scopes="actor"), "names in a tuple or list"),
        (dict(lora_r=0), "lora_r = 0 .* at least 1"),
        (dict(rotary_xpos_scale_base=0), "rotary_xpos_scale_base = 0"),
    ],
)
def test_an_argument_outside_its_range_is_refused_by_name(changes, words):
    with pytest.raises(ConfigError, match=words):
        make_palm(**changes)


@pytest.mark.parametrize(
    ("tokens", "arguments", "words"),
    [
        ([[3, 50]], {}, "tokens 3 to 50, the vocabulary 0 to 49"),
        ([[3, -1]], {}, "tokens -1 to 3"),
        ([3, 4], {}, r"\(batch, seq\) with at least 1 tokens, not \(2,\)"),
        ([[]], {}, r"not \(1, 0\)"),
        ([[3]], dict(return_loss=True), "at least 2 tokens"),
        ([[3, 4]], dict(finetune_scope="critic"), "no LoRA scope 'critic'"),
    ],
)
def test_tokens_that_cannot_be_read_are_refused(tokens, arguments, words):
    with pytest.raises(ValueError, match=words):
        make_palm()(torch.tensor(tokens, dtype=torch.long), **arguments)


def test_generating_that_fails_leaves_the_mode_as_it_was():
    palm = make_palm().train()
    with pytest.raises(ValueError, match="scope"):
        palm.generate(8, torch.tensor([[5, 6]]), finetune_scope="unknown")
    assert palm.training


def test_a_torn_or_foreign_file_is_refused(tmp_path):
    palm = make_palm()
    path = tmp_path / "palm.safetensors"
    with pytest.raises(CheckpointError, match="no readable file of weights"):
        palm.load(path)
    palm.save(path)
    with pytest.raises(CheckpointError, match="another shape"):
        make_palm(heads=2).load(path)
    adapted = make_palm()
    adapted.add_finetune_params("other", lora_r=2)
    with pytest.raises(CheckpointError, match="does not fit .*it lacks lora.other"):
        adapted.load(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-50])
    with pytest.raises(CheckpointError, match="no readable file of weights"):
        palm.load(path)
    path.write_bytes(whole[:-50] + bytes([whole[-50] ^ 1]) + whole[-49:])
    with pytest.raises(CheckpointError, match="altered since it was written"):
        palm.load(path)
    path.write_bytes(save({"weight": torch.ones(2)}))
    with pytest.raises(CheckpointError, match="PaLM.save did not write it"):
        palm.load(path)
    state = palm.state_dict()
    palm.save(path)
    assert all(torch.equal(tensor, state[name]) for name, tensor in palm.state_dict().items())


def test_logits_of_a_new_model_are_near_uniform():
    palm = PaLM(dim=64, num_tokens=512, depth=2)
    loss = palm(torch.randint(0, 512, (4, 64)), return_loss=True)
    assert float(loss) == pytest.approx(math.log(512), rel=0.03)
