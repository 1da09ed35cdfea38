"""The decoder says what the full pass says, whatever form its weights have; the cache's rows come and go."""

import copy

import pytest
import torch
from torch.testing import assert_close

from rlhf_core.generation import packing
from rlhf_core.generation.cache import EXTENT_STEP, KeyValueCache
from rlhf_core.generation.packing import PackedMatrix, PlainMatrix, can_pack, matrix_of, packing_works
from rlhf_core.modules.palm import PaLM
from tests.core.adapted_palm import make_palm, random_tokens

PROMPTS = (3, 7, 12)  # tokens of each row's prompt
needs_packing = pytest.mark.skipif(not packing_works(), reason="this build of PyTorch cannot pack weights")


def prompts_of(tokens: torch.Tensor) -> list[list[int]]:
    return [row[:length].tolist() for row, length in zip(tokens, PROMPTS, strict=True)]


@pytest.fixture(params=["packed", "copied", "own"])
def form(request, monkeypatch):
    """The three forms that weights may have: in oneDNN's order, copied in PyTorch's, and the model's own."""
    if request.param == "packed":
        if not packing_works():
            pytest.skip("this build of PyTorch cannot pack weights")
        monkeypatch.setattr(packing, "packing_pays", lambda threads: True)  # right, whether it is faster here or not
        monkeypatch.setattr(packing, "PACK_FROM", 1)
    elif request.param == "own":
        monkeypatch.setattr("rlhf_core.generation.decoder.can_pack", lambda weight: False)
    return request.param


@pytest.mark.parametrize("scope", [None, "actor"])
@pytest.mark.parametrize("qk_rmsnorm", [False, True])
def test_64_steps_of_ragged_rows_equal_the_full_forward(form, scope, qk_rmsnorm):
    palm, tokens = make_palm(qk_rmsnorm=qk_rmsnorm), random_tokens(3, 80)
    with torch.no_grad():
        expected = palm(tokens, finetune_scope=scope)
    decoder = palm.decoder(scope)
    cache = decoder.new_cache(3, 80)
    lengths, rows = torch.tensor(PROMPTS), torch.arange(3)
    logits = decoder.read_prompts(prompts_of(tokens), cache, range(3))
    for _ in range(64):
        wanted = expected[rows, lengths - 1]
        assert (logits - wanted).abs().max() < 1e-5
        assert torch.equal(logits.argmax(-1), wanted.argmax(-1))
        logits = decoder.step(tokens[rows, lengths], cache)
        lengths += 1
    assert cache.lengths == lengths.tolist()


def test_rows_go_on_unchanged_when_others_leave_and_join(form):
    palm, tokens = make_palm(), random_tokens(4, 30)
    expected = palm(tokens)
    decoder = palm.decoder()
    cache = decoder.new_cache(3, 40)
    decoder.read_prompts([row[:5].tolist() for row in tokens[:3]], cache, range(3))
    cache.remove(0)  # row 2 takes its place
    found = decoder.step(tokens[[2, 1], 5], cache)
    assert_close(found, expected[[2, 1], 5], atol=1e-5, rtol=1e-5)
    joined = decoder.read_prompts([tokens[3, :20].tolist()], cache, [2])
    assert_close(joined[0], expected[3, 19], atol=1e-5, rtol=1e-5)
    found = decoder.step(torch.stack((tokens[2, 6], tokens[1, 6], tokens[3, 20])), cache)
    assert_close(found, torch.stack((expected[2, 6], expected[1, 6], expected[3, 20])), atol=1e-5, rtol=1e-5)


@needs_packing
def test_packed_rows_are_the_same_to_the_last_bit_alone_and_in_company(monkeypatch):
    monkeypatch.setattr(packing, "packing_pays", lambda threads: True)
    monkeypatch.setattr(packing, "PACK_FROM", 1)
    palm = make_palm(dim=264, dim_head=32, depth=1)  # wider than where oneDNN splits the sum of a single row
    tokens = random_tokens(9, 40)
    decoder = palm.decoder("actor")

    def run(rows: list[int]) -> torch.Tensor:
        cache = decoder.new_cache(len(rows), 40)
        found = [decoder.read_prompts([tokens[row, : row + 1].tolist() for row in rows], cache, range(len(rows)))]
        for step in range(20):
            found.append(decoder.step(torch.tensor([tokens[row, row + 1 + step] for row in rows]), cache))
        return torch.stack(found, dim=1)

    together = run(list(range(9)))
    for row in range(9):
        assert torch.equal(run([row])[0], together[row])


@pytest.mark.parametrize("kind", [PackedMatrix, PlainMatrix])
@pytest.mark.parametrize("rows", [1, 2, 7, 33])
@pytest.mark.parametrize("width", [24, 1040])
def test_a_matrix_multiplies_and_adds(kind, rows, width):
    weight, x, residual = torch.randn(40, width), torch.randn(rows, width), torch.randn(rows, 40)
    kept = residual.clone()
    with torch.inference_mode():
        matrix = kind(weight)
        assert_close(matrix(x), x @ weight.T, atol=1e-4, rtol=1e-4)
        assert_close(matrix.add_to(residual, x), residual + x @ weight.T, atol=1e-4, rtol=1e-4)
    assert torch.equal(residual, kept)


def test_only_large_float32_weights_on_a_cpu_are_packed(monkeypatch):
    monkeypatch.setattr(packing, "packing_pays", lambda threads: True)
    assert isinstance(matrix_of(torch.zeros(256, 256)), PackedMatrix)
    assert isinstance(matrix_of(torch.zeros(255, 256)), PlainMatrix)
    assert can_pack(torch.zeros(4, 4))
    assert not can_pack(torch.zeros(4, 4, dtype=torch.bfloat16))
    assert not can_pack(torch.zeros(4, 4, device="meta"))
    monkeypatch.setattr(packing, "packing_pays", lambda threads: False)
    assert not can_pack(torch.zeros(4, 4))


# What is copied for decoding follows the weights


def first_logits(palm: PaLM, scope: str | None = None) -> torch.Tensor:
    decoder = palm.decoder(scope)
    return decoder.read_prompts([[1, 2, 3]], decoder.new_cache(1, 8), [0])


def change_in_place(palm: PaLM) -> None:
    with torch.no_grad():
        palm.each_block()[0].project_in.weight[0] += 1.0


def change_behind_the_counts(palm: PaLM) -> None:
    palm.each_block()[1].feed_forward_out.weight.data.mul_(1.5)


def change_by_an_optimiser(palm: PaLM) -> None:
    palm(random_tokens(2, 6), return_loss=True).backward()
    torch.optim.AdamW(palm.parameters(), lr=0.1, fused=True).step()


def change_a_gain(palm: PaLM) -> None:
    palm.norm.gain_offset.data.add_(0.5)


def change_the_storage(palm: PaLM) -> None:
    palm.half().float()


def change_the_parameter(palm: PaLM) -> None:
    palm.token_emb.weight = torch.nn.Parameter(palm.token_emb.weight.detach() * 2)


def load_another(palm: PaLM) -> None:
    palm.load_state_dict(make_palm(rotary_xpos_scale_base=512).state_dict())
    with torch.no_grad():
        palm.token_emb.weight.copy_(torch.randn_like(palm.token_emb.weight))


@pytest.mark.parametrize(
    "change",
    [
        change_in_place,
        change_behind_the_counts,
        change_by_an_optimiser,
        change_a_gain,
        change_the_storage,
        change_the_parameter,
        load_another,
    ],
)
def test_changed_weights_are_decoded_with(change):
    palm = make_palm()
    before = first_logits(palm)
    assert palm.decoder() is palm.decoder() or not can_pack(palm.token_emb.weight)
    change(palm)
    after = first_logits(palm)
    assert not torch.equal(after, before)
    assert_close(after[0], palm(torch.tensor([[1, 2, 3]]))[0, -1], atol=1e-5, rtol=1e-5)


def test_a_scope_its_strength_and_none_are_told_apart():
    palm = make_palm()
    tokens = torch.tensor([[1, 2, 3]])
    for scope in ("actor", None, "actor"):
        assert_close(first_logits(palm, scope)[0], palm(tokens, finetune_scope=scope)[0, -1], atol=1e-5, rtol=1e-5)
    off = palm.decoder("actor", disable_lora=True)
    assert_close(off.read_prompts([[1, 2, 3]], off.new_cache(1, 8), [0]), first_logits(palm))
    palm.scope_adapters("actor")[0].q.alpha *= 3
    found = first_logits(palm, "actor")[0]
    assert_close(found, palm(tokens, finetune_scope="actor")[0, -1], atol=1e-5, rtol=1e-5)


def test_copies_of_a_model_take_no_packed_weights_along():
    palm = make_palm()
    first_logits(palm)
    copied = copy.deepcopy(palm)
    assert copied._decoder is None
    change_in_place(copied)
    assert_close(first_logits(copied)[0], copied(torch.tensor([[1, 2, 3]]))[0, -1], atol=1e-5, rtol=1e-5)


def test_decoding_is_refused_without_causality_or_scope():
    with pytest.raises(ValueError, match="causal"):
        make_palm(causal=False).decoder()
    with pytest.raises(ValueError, match="no LoRA scope 'unknown'"):
        make_palm().decoder("unknown")


def test_one_token_is_decoded_with_few_calls():
    palm = make_palm(finetune_scopes=())
    decoder = palm.decoder()
    cache = decoder.new_cache(1, 40)
    decoder.read_prompts([[1, 2, 3]], cache, [0])
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        decoder.step(torch.tensor([5]), cache)
    top_level = [event for event in profile.events() if event.cpu_parent is None]
    assert len(top_level) <= 30 + 30 * 3, len(top_level)  # once a pass, and a block


# The cache


def filled_cache(lengths: list[int], rows: int = 4, capacity: int = 6) -> KeyValueCache:
    cache = KeyValueCache(rows, capacity, depth=2, dim_head=1)
    cache.occupy(range(len(lengths)), lengths)
    for place, length in enumerate(lengths):
        slots = cache.starts[place] + torch.arange(length)
        for block in range(2):
            content = torch.full((length, 1), float(place + 1))
            cache.write(block, slots, content, -content)
    return cache


def test_a_row_shows_what_it_holds_and_its_next_token():
    cache = filled_cache([1, 3])
    assert cache.capacity == cache.extent == EXTENT_STEP
    assert (cache.mask[:2, 0] == 0).sum(dim=1).tolist() == [1, 3]
    assert cache.positions[:2].tolist() == [1, 3]
    assert cache.slots[:2].tolist() == [1, EXTENT_STEP + 3]
    cache.show_next()
    cache.advance()
    assert cache.lengths == [2, 4]
    assert (cache.mask[:2, 0, :5] == 0).tolist() == [[True] * 2 + [False] * 3, [True] * 4 + [False]]
    assert cache.slots[:2].tolist() == [2, EXTENT_STEP + 4]


def test_the_last_row_takes_the_place_of_one_that_leaves():
    cache = filled_cache([2, 1, 3])
    held = cache.keys[0].data_ptr()
    cache.remove(0)
    assert cache.lengths == [3, 1]
    assert cache.keys[1][0, :3, 0].tolist() == [3.0] * 3
    assert cache.values[0][1, 0, 0] == -2
    assert (cache.mask[0, 0] == 0).sum() == 3
    cache.remove(1)
    assert cache.lengths == [3]
    assert cache.keys[0].data_ptr() == held


def test_a_row_is_copied_taken_out_and_put_back():
    cache = filled_cache([2, 1])
    cache.copy(0, 2)
    kept = cache.take(0)
    cache.remove(0)
    assert cache.lengths == [2, 1]
    cache.put(1, kept)
    assert cache.lengths == [2, 2]
    assert cache.keys[1][:2, :2, 0].tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_a_cache_refuses_what_does_not_fit():
    cache = filled_cache([1])
    with pytest.raises(ValueError, match="row 4 with 1 tokens does not fit 4 rows"):
        cache.occupy([4], [1])
    with pytest.raises(ValueError, match="with 17 tokens does not fit"):
        cache.occupy([0], [17])
    cache.occupy([0], [16])
    with pytest.raises(ValueError, match="a row of 16 tokens is full"):
        cache.show_next()
