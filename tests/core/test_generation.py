"""Generation: the cache tells what the full pass tells, rows are independent, and log-probs are those drawn from."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_core.config import SamplingConfig
from rlhf_core.errors import TrainingDiverged
from rlhf_core.generation.batch import pad_tokens
from rlhf_core.generation.best_of_n import best_of_n
from rlhf_core.generation.drawing import draw_tokens, uniform_table
from rlhf_core.generation.filters import keep_min_p, keep_top_k, keep_top_p, min_p, top_k, top_p
from rlhf_core.generation.log_probs import sequence_log_probs
from rlhf_core.generation.sampler import ContinuousBatch, generate_batch, generate_stream
from rlhf_core.generation.stopping import Stopping
from rlhf_core.modules.palm import PaLM

END = 2
PROMPTS = [[1, 7, 9], [1, 4, 4, 4, 6, 12, 31], [1, 8, 5, 3, 11, 10, 9, 8, 7, 6, 5, 4]]  # of 3, 7 and 12 tokens


def make_palm(vocabulary: int = 50, *, scope: bool = False, sharp: float = 20.0) -> PaLM:
    """A small random model; ``sharp`` scales the tied embedding, so that its choices are not all alike."""
    torch.manual_seed(1)
    palm = PaLM(dim=32, num_tokens=vocabulary, depth=2, dim_head=8, heads=4, qk_rmsnorm=True)
    with torch.no_grad():
        palm.token_emb.weight *= sharp
    if scope:
        palm.add_finetune_params("actor", lora_r=4)
        for adapters in palm.finetune_parameters("actor"):
            torch.nn.init.normal_(adapters, std=0.2)
    return palm.eval()


def greedy(tokens: int) -> SamplingConfig:
    return SamplingConfig(max_new_tokens=tokens, temperature=1e-6)


@pytest.mark.parametrize("scope", [None, "actor"])
def test_cached_decoding_is_the_full_forward_pass_for_64_steps(scope):
    palm = make_palm(scope=scope is not None)
    found = generate_batch(palm, PROMPTS, sampling=greedy(64), end_id=None, seeds=[0, 1, 2], finetune_scope=scope)
    for prompt, generation in zip(PROMPTS, found, strict=True):
        tokens = list(prompt)
        for _ in range(64):
            logits = palm(torch.tensor([tokens]), finetune_scope=scope)[0, -1]
            tokens.append(int(logits.argmax()))
        assert generation.tokens == tokens[len(prompt) :]


def test_log_probs_of_a_row_do_not_depend_on_padding_or_neighbours():
    palm = make_palm()
    responses = [[5, 6, END], [9] * 8, [3]]
    together = sequence_log_probs(palm, PROMPTS, responses)
    for row, (prompt, response) in enumerate(zip(PROMPTS, responses, strict=True)):
        alone = sequence_log_probs(palm, [prompt], [response]).log_probs[0]
        assert (together.log_probs[row, : len(response)] - alone).abs().max() < 1e-5
        full = palm(torch.tensor([[*prompt, *response]]))[0].log_softmax(-1)
        by_hand = [full[len(prompt) - 1 + place, token] for place, token in enumerate(response)]
        torch.testing.assert_close(alone, torch.stack(by_hand), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingConfig(max_new_tokens=24),
        SamplingConfig(max_new_tokens=24, temperature=0.7),
        SamplingConfig(max_new_tokens=24, top_p=0.9),
        SamplingConfig(max_new_tokens=24, top_k=5),
        SamplingConfig(max_new_tokens=24, min_p=0.1),
        SamplingConfig(max_new_tokens=24, temperature=1.3, top_k=20, top_p=0.8, min_p=0.05),
    ],
)
@pytest.mark.parametrize("scope", [None, "actor"])
def test_recorded_log_probs_are_the_trainers_before_any_step(sampling, scope):
    palm = make_palm(scope=scope is not None)
    prompts = PROMPTS * 4
    drawn = generate_batch(palm, prompts, sampling=sampling, end_id=END, seeds=range(12), finetune_scope=scope)
    recomputed = sequence_log_probs(
        palm,
        prompts,
        [generation.tokens for generation in drawn],
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        finetune_scope=scope,
    )
    for row, generation in enumerate(drawn):
        ratios = (recomputed.log_probs[row][recomputed.mask[row]] - torch.tensor(generation.log_probs)).exp()
        assert (ratios - 1).abs().max() < 1e-5
    assert recomputed.mask.sum(dim=1).tolist() == [len(generation.tokens) for generation in drawn]


def test_a_filter_that_training_ignored_would_show_as_the_kept_mass():
    palm = make_palm()
    sampling = SamplingConfig(max_new_tokens=8, top_p=0.5)
    drawn = generate_batch(palm, PROMPTS, sampling=sampling, end_id=None, seeds=[1, 2, 3])
    raw = sequence_log_probs(palm, PROMPTS, [generation.tokens for generation in drawn]).log_probs
    recorded = torch.tensor([generation.log_probs for generation in drawn])
    assert (raw < recorded + 1e-6).all()
    assert (raw - recorded).min() < -0.1


def test_a_row_draws_the_same_tokens_alone_and_in_company():
    palm = make_palm()
    sampling = SamplingConfig(max_new_tokens=40)
    seeds = [11, 2**63, 5]
    together = generate_batch(palm, PROMPTS, sampling=sampling, end_id=END, seeds=seeds)
    for prompt, seed, found in zip(PROMPTS, seeds, together, strict=True):
        alone = generate_batch(palm, [prompt], sampling=sampling, end_id=END, seeds=[seed])[0]
        assert alone.tokens == found.tokens
        assert alone.finish_reason == found.finish_reason
    turned = generate_batch(palm, PROMPTS[::-1], sampling=sampling, end_id=END, seeds=seeds[::-1])
    assert [generation.tokens for generation in turned[::-1]] == [generation.tokens for generation in together]


def test_generation_neither_reads_nor_moves_anyone_elses_random_state():
    palm = make_palm()
    sampling = SamplingConfig(max_new_tokens=8)
    before = torch.get_rng_state()
    first = generate_batch(palm, PROMPTS, sampling=sampling, end_id=END, seeds=[1, 2, 3])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert generate_batch(palm, PROMPTS, sampling=sampling, end_id=END, seeds=[1, 2, 3]) == first
    assert generate_batch(palm, PROMPTS, sampling=sampling, end_id=END, seeds=[4, 5, 6]) != first


def test_a_longer_limit_begins_with_the_same_tokens():
    palm = make_palm()
    short, long = (
        generate_batch(palm, PROMPTS, sampling=SamplingConfig(max_new_tokens=n), end_id=None, seeds=[1, 2, 3])
        for n in (5, 15)
    )
    for a, b in zip(short, long, strict=True):
        assert a.tokens == b.tokens[:5]
        assert a.log_probs == pytest.approx(b.log_probs[:5], abs=1e-5)


def test_nothing_lives_after_the_first_end_token_and_the_mask_counts_it():
    palm = make_palm(vocabulary=8, sharp=5.0)
    prompts = [[1, 3], [1, 4, 5]] * 40
    drawn = generate_batch(palm, prompts, sampling=SamplingConfig(max_new_tokens=12), end_id=END, seeds=range(80))
    reasons = {generation.finish_reason for generation in drawn}
    assert reasons == {"end", "length"}  # the model is made so that both occur
    for generation in drawn:
        ended = generation.finish_reason == "end"
        assert generation.tokens.count(END) == int(ended)
        assert (generation.tokens[-1] == END) is ended
        assert len(generation.tokens) == len(generation.log_probs)
        assert ended or len(generation.tokens) == 12
    found = sequence_log_probs(palm, prompts, [generation.tokens for generation in drawn])
    assert found.mask.sum(dim=1).tolist() == [len(generation.tokens) for generation in drawn]


def test_the_mask_of_a_hand_written_batch():
    palm = make_palm()
    found = sequence_log_probs(palm, [[1, END, 0], [1]], [[5, END], [0, 0, 7, END]])
    assert found.mask.tolist() == [[True, True, False, False], [True, True, True, True]]
    assert found.log_probs[0, 2:].tolist() == [0.0, 0.0]
    assert (found.log_probs[1] < 0).all()  # tokens that equal the padding id count like any other


def test_end_and_padding_tokens_inside_a_prompt_are_only_tokens():
    palm = make_palm()
    sampling = SamplingConfig(max_new_tokens=10)
    prompts = [[1, END, 0, 0, 9], [0, 0, END], [1, 9]]
    drawn = generate_batch(palm, prompts, sampling=sampling, end_id=END, seeds=[3, 4, 5])
    for prompt, seed, generation in zip(prompts, [3, 4, 5], drawn, strict=True):
        assert generation.tokens
        assert (
            generate_batch(palm, [prompt], sampling=sampling, end_id=END, seeds=[seed])[0].tokens == generation.tokens
        )
    other = generate_batch(palm, [[1, 9]], sampling=sampling, end_id=END, seeds=[3])[0]
    assert other.tokens != drawn[0].tokens  # the zeros were read, not stripped


def test_several_samples_of_a_prompt_equal_the_prompt_repeated():
    palm = make_palm()
    sampling = SamplingConfig(max_new_tokens=12)
    shared = generate_batch(palm, PROMPTS, sampling=sampling, end_id=END, seeds=range(12), samples_per_prompt=4)
    repeated = generate_batch(
        palm, [prompt for prompt in PROMPTS for _ in range(4)], sampling=sampling, end_id=END, seeds=range(12)
    )
    assert [generation.tokens for generation in shared] == [generation.tokens for generation in repeated]


def test_steps_are_told_in_order_and_rows_that_ended_are_silent():
    palm = make_palm(vocabulary=8, sharp=5.0)
    heard: dict[int, list[int]] = {}
    drawn = generate_batch(
        palm,
        [[1, 3]] * 12,
        sampling=SamplingConfig(max_new_tokens=12),
        end_id=END,
        seeds=range(12),
        on_step=lambda row, token: heard.setdefault(row, []).append(token),
    )
    assert [heard[row] for row in range(12)] == [generation.tokens for generation in drawn]


def test_generation_leaves_the_mode_of_the_model_and_its_gradients_alone():
    palm = make_palm().train()
    generate_batch(palm, PROMPTS, sampling=SamplingConfig(max_new_tokens=2), end_id=END, seeds=[1, 2, 3])
    assert palm.training
    palm(torch.tensor([[1, 2, 3]]), return_loss=True).backward()


@pytest.mark.parametrize(
    ("prompts", "seeds", "message"),
    [([[]], [1], "row 0 has no tokens"), ([[1], [50]], [1, 2], "token 50"), ([[-1]], [1], "token -1")]
    + [([[1]], [1, 2], "2 seeds for 1 prompts")],
)
def test_bad_prompts_and_seeds_are_refused_by_name(prompts, seeds, message):
    with pytest.raises(ValueError, match=message):
        generate_batch(make_palm(), prompts, sampling=SamplingConfig(), end_id=END, seeds=seeds)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_model_that_diverged_is_not_drawn_from(value):
    palm = make_palm()
    with torch.no_grad():
        palm.norm.gain_offset[0] = value
    with pytest.raises(TrainingDiverged, match="not finite"):
        generate_batch(palm, PROMPTS, sampling=SamplingConfig(), end_id=END, seeds=[1, 2, 3])


def test_no_prompts_give_no_generations():
    assert generate_batch(make_palm(), [], sampling=SamplingConfig(), end_id=END, seeds=[]) == []


# Rows that leave and join


def test_a_thousand_rows_draw_the_same_alone_and_in_company():
    palm = make_palm(vocabulary=64, sharp=4.0)
    sampling = SamplingConfig(max_new_tokens=6)
    prompts = [[1, *range(3, 4 + row % 11)] for row in range(1000)]
    together = generate_batch(palm, prompts, sampling=sampling, end_id=END, seeds=range(1000), rows=48)
    same = 0
    for row, (prompt, found) in enumerate(zip(prompts, together, strict=True)):
        alone = generate_batch(palm, [prompt], sampling=sampling, end_id=END, seeds=[row])[0]
        same += alone.tokens == found.tokens
    assert same >= 990
    assert len({tuple(found.tokens) for found in together}) > 900  # they are not all alike, either


@pytest.mark.parametrize("rows", [1, 2, 5, 40])
@pytest.mark.parametrize("samples", [1, 3])
def test_any_number_of_rows_at_a_time_gives_the_same_responses(rows, samples):
    palm = make_palm(vocabulary=8, sharp=5.0)
    prompts = [[1, 3, 4, 5][: 1 + row % 4] for row in range(12)]
    sampling = SamplingConfig(max_new_tokens=9)
    seeds = range(12 * samples)
    found, expected = (
        generate_batch(
            palm, prompts, sampling=sampling, end_id=END, seeds=seeds, samples_per_prompt=samples, rows=at_once
        )
        for at_once in (rows, None)
    )
    assert [one.tokens for one in found] == [one.tokens for one in expected]
    assert [one.finish_reason for one in found] == [one.finish_reason for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.log_probs == pytest.approx(other.log_probs, abs=1e-5)


def test_responses_come_as_they_end_and_a_waiting_prompt_takes_the_place():
    palm = make_palm(vocabulary=8, sharp=5.0)
    steps: list[int] = []
    stream = generate_stream(
        palm,
        [[1, 3]] * 20,
        sampling=SamplingConfig(max_new_tokens=30),
        end_id=END,
        seeds=range(20),
        rows=4,
        on_step=lambda number, token: steps.append(number),
    )
    number, first = next(stream)
    assert first.finish_reason == "end"
    assert steps.count(number) == len(first.tokens)
    assert max(steps) < 10  # the later ones have not begun
    rest = dict(stream)
    assert {number, *rest} == set(range(20))
    lengths = sum(len(one.tokens) for one in (first, *rest.values()))
    assert len(steps) == lengths  # nothing was drawn for rows that had ended


def test_a_prompt_is_read_once_though_its_samples_wait(monkeypatch):
    palm = make_palm(vocabulary=8, sharp=5.0)
    decoder = palm.decoder()
    read: list[list[int]] = []
    original = type(decoder).read_prompts

    def watch(self, prompts, cache, places):
        read.extend(map(list, prompts))
        return original(self, prompts, cache, places)

    monkeypatch.setattr(type(decoder), "read_prompts", watch)
    generate_batch(
        palm,
        [[1, 3], [1, 4, 5]],
        sampling=SamplingConfig(max_new_tokens=9),
        end_id=END,
        seeds=range(14),
        samples_per_prompt=7,
        rows=3,
    )
    assert read == [[1, 3], [1, 4, 5]]


def test_prompts_may_be_submitted_while_others_are_drawn():
    palm = make_palm()
    sampling = SamplingConfig(max_new_tokens=10)
    batch = ContinuousBatch(palm.decoder(), sampling, rows=2, prompt_room=12, stopping=Stopping([END]))
    assert batch.submit(PROMPTS[0], [1]) == range(1)
    ended = batch.step() + batch.step()
    assert batch.submit(PROMPTS[1], [2]) == range(1, 2)
    found = dict([*ended, *batch.run()])
    assert batch.submit(PROMPTS[2], [3, 4]) == range(2, 4)
    found |= dict(batch.run())
    expected = generate_batch(palm, [*PROMPTS, PROMPTS[2]], sampling=sampling, end_id=END, seeds=[1, 2, 3, 4])
    assert [found[number].tokens for number in range(4)] == [one.tokens for one in expected]
    with pytest.raises(ValueError, match="a prompt of 99 tokens is longer than the 22 "):
        batch.submit([1] * 99, [5])


def test_rows_must_be_one_at_least():
    with pytest.raises(ValueError, match="rows = 0"):
        generate_batch(make_palm(), PROMPTS, sampling=SamplingConfig(), end_id=END, seeds=[1, 2, 3], rows=0)


# Stopping


def letters(tokens) -> str:
    return "".join("abcdefghijklmnopqrstuvwxyz"[token % 26] for token in tokens)


def test_a_stop_string_ends_a_response_where_tokens_complete_it():
    palm = make_palm()
    sampling = SamplingConfig(max_new_tokens=40)
    free = generate_batch(palm, PROMPTS, sampling=sampling, end_id=None, seeds=[1, 2, 3])
    text = letters(free[1].tokens)
    stop = text[7:10]
    stopping = Stopping(strings=[stop, "not to be found"], decode=letters)
    found = generate_batch(palm, PROMPTS, sampling=sampling, end_id=None, seeds=[1, 2, 3], stopping=stopping)[1]
    ends = text.index(stop) + 3
    assert found.tokens == free[1].tokens[:ends]
    assert len(found.log_probs) == ends
    assert found.finish_reason == "end"
    assert stopping.cut(letters(found.tokens)) == text[: ends - 3]
    assert stopping.cut("none here") == "none here"


def test_a_stop_string_is_found_wherever_tokens_cut_its_letters():
    pieces = {5: "ab", 6: "", 7: "xya", 8: "b"}
    stopping = Stopping(strings=["ab"], decode=lambda tokens: "".join(pieces[token] for token in tokens))
    assert stopping.is_end([6, 5])
    assert stopping.is_end([6, 7, 8])
    assert not stopping.is_end([6, 7])
    assert not stopping.is_end([8, 6])


def test_several_end_tokens_may_be_given_beside_the_usual_one():
    palm = make_palm(vocabulary=8, sharp=5.0)
    drawn = generate_batch(
        palm,
        [[1, 3]] * 40,
        sampling=SamplingConfig(max_new_tokens=12),
        end_id=END,
        seeds=range(40),
        stopping=Stopping([5]),
    )
    assert {one.tokens[-1] for one in drawn if one.finish_reason == "end"} == {END, 5}
    assert not any({END, 5} & set(one.tokens[:-1]) for one in drawn)


def test_stop_strings_that_can_not_work_are_refused():
    with pytest.raises(ValueError, match="need decode="):
        Stopping(strings=["x"])
    with pytest.raises(ValueError, match="a stop string is empty"):
        Stopping(strings=[""], decode=letters)


# Best of n


def test_the_best_response_by_any_score_is_chosen():
    palm = make_palm()
    sampling = SamplingConfig(max_new_tokens=6)

    def count_even(prompts, responses):
        assert prompts == [prompt for prompt in PROMPTS for _ in range(4)]
        return torch.tensor([sum(token % 2 == 0 for token in response) for response in responses]).float()

    found = best_of_n(palm, PROMPTS, count_even, samples=4, sampling=sampling, end_id=END, seeds=range(12))
    drawn = generate_batch(palm, PROMPTS, sampling=sampling, end_id=END, seeds=range(12), samples_per_prompt=4)
    for number, best in enumerate(found):
        own = drawn[4 * number : 4 * number + 4]
        scores = [float(sum(token % 2 == 0 for token in one.tokens)) for one in own]
        assert best.scores == scores
        assert best.score == max(scores)
        assert best.generation.tokens == own[scores.index(max(scores))].tokens
    assert best_of_n(palm, [], count_even, samples=4, sampling=sampling, end_id=END, seeds=[]) == []


@pytest.mark.parametrize("scores", [torch.tensor([1.0, math.nan]), torch.zeros(3)])
def test_scores_that_are_no_numbers_choose_nothing(scores):
    with pytest.raises(ValueError, match="2 finite numbers are needed"):
        best_of_n(
            make_palm(),
            PROMPTS[:1],
            lambda prompts, responses: scores,
            samples=2,
            sampling=SamplingConfig(max_new_tokens=2),
            end_id=END,
            seeds=[1, 2],
        )


# Drawing


def test_drawing_inverts_the_cumulative_distribution():
    logits = torch.tensor([0.5, 0.0, 0.3, 0.2]).log().repeat(6, 1)
    uniforms = torch.tensor([0.0, 0.49, 0.51, 0.79, 0.81, 1 - 2**-53], dtype=torch.float64)
    tokens, log_probs = draw_tokens(logits, uniforms, temperature=1.0)
    assert tokens.tolist() == [0, 0, 2, 2, 3, 3]  # borders at 0.5 and 0.8; token 1 has no mass
    assert log_probs.exp().tolist() == pytest.approx([0.5, 0.5, 0.3, 0.3, 0.2, 0.2], abs=1e-6)


def test_log_probs_are_renormalised_over_what_the_filter_kept():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    _, log_prob = draw_tokens(logits, torch.tensor([0.0], dtype=torch.float64), temperature=1.0, top_p=0.9)
    assert math.exp(log_prob.item()) == pytest.approx(0.5 / 0.95, abs=1e-6)
    _, log_prob = draw_tokens(logits, torch.tensor([0.0], dtype=torch.float64), temperature=0.5)
    assert math.exp(log_prob.item()) == pytest.approx(0.25 / (0.25 + 0.09 + 0.0225 + 0.0025), abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 5), st.integers(0, 12), st.floats(0.01, 1))
def test_a_token_without_mass_is_never_drawn(seed, temperature, k, p):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 12, generator=generator) * 8
    logits[:, ::3] = float("-inf")
    uniforms = torch.tensor([0.0, 0.3, 0.999999, 1 - 2**-53], dtype=torch.float64)
    tokens, log_probs = draw_tokens(logits, uniforms, temperature=temperature, top_k=k, top_p=p)
    assert (tokens % 3 != 0).all()
    assert torch.isfinite(log_probs).all()
    assert (log_probs <= 1e-9).all()


def test_drawn_frequencies_are_the_probabilities():
    probabilities = torch.tensor([0.1, 0.2, 0.3, 0.4])
    uniforms = torch.from_numpy(uniform_table(range(4000), 1)[:, 0])
    tokens, _ = draw_tokens(probabilities.log().repeat(4000, 1), uniforms, temperature=1.0)
    shares = tokens.bincount(minlength=4) / 4000
    assert (shares - probabilities).abs().max() < 4 * math.sqrt(0.25 / 4000)  # four standard errors


def test_a_rows_numbers_depend_on_its_seed_and_the_place_alone():
    table = uniform_table([7, 8, 7], 5)
    assert (table[0] == table[2]).all()
    assert (table[0] != table[1]).all()
    assert (uniform_table([7], 9)[0, :5] == table[0]).all()


# Filters


def kept(logits: torch.Tensor) -> list[bool]:
    return torch.isfinite(logits).tolist()


def test_top_p_keeps_the_mass_that_is_asked_for():
    logits = torch.tensor([0.15, 0.5, 0.05, 0.3]).log()
    assert kept(keep_top_p(logits, 0.9)) == [True, True, False, True]  # 0.5 + 0.3 + 0.15 = 0.95
    assert kept(keep_top_p(logits, 0.7)) == [False, True, False, True]
    assert kept(keep_top_p(logits, 0.01)) == [False, True, False, False]  # at least one
    assert kept(keep_top_p(logits, 1.0)) == [True] * 4
    assert kept(top_p(logits, 0.9)) == [True, True, False, True]


def test_top_k_counts_tokens_and_the_seeds_form_a_share():
    logits = torch.arange(10.0)
    assert sum(kept(keep_top_k(logits, 3))) == 3
    assert sum(kept(keep_top_k(logits, 0))) == 10
    assert sum(kept(keep_top_k(logits, 99))) == 10
    assert sum(kept(top_k(logits, 0.75))) == 3  # 2.5, rounded up
    assert sum(kept(top_k(logits, 0.999))) == 1


def test_min_p_is_relative_to_the_likeliest():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert kept(keep_min_p(logits, 0.2)) == [True, True, True, False]  # 0.1 is the border
    assert kept(min_p(logits, 0.7)) == [True, False, False, False]


# Log-probabilities for training


def test_chunks_give_the_same_numbers_and_gradients():
    responses = [[5, 6, END], [9] * 8, [3]]

    def run(logits_at_once: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        palm = make_palm()
        found = sequence_log_probs(
            palm, PROMPTS, responses, temperature=0.7, with_entropies=True, logits_at_once=logits_at_once
        )
        assert found.entropies is not None
        (found.log_probs.sum() + found.entropies.square().sum()).backward()
        assert palm.token_emb.weight.grad is not None
        return found.log_probs.detach(), found.entropies.detach(), palm.token_emb.weight.grad

    for whole, chunked in zip(run(2**23), run(150), strict=True):
        torch.testing.assert_close(chunked, whole, atol=1e-5, rtol=1e-4)


def test_logits_are_never_all_held_at_once():
    palm = PaLM(dim=16, num_tokens=50_000, depth=1, dim_head=8, heads=2)
    sizes: list[int] = []
    held: list[int] = []
    original = palm.to_logits

    def watch(states: torch.Tensor) -> torch.Tensor:
        logits = original(states)
        assert logits.dtype == torch.float32
        sizes.append(logits.numel())
        return logits

    palm.to_logits = watch  # type: ignore[method-assign]
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (held.append(x.numel()), x)[1], lambda x: x):
        found = sequence_log_probs(palm, [[1, 2]] * 2, [[3] * 40] * 2, logits_at_once=500_000)
    assert len(sizes) == 8  # 80 tokens, ten at a time
    assert max(sizes) == 500_000
    weight = palm.token_emb.weight.numel()
    assert all(size in (weight,) or size < 500_000 for size in held)
    found.log_probs.sum().backward()
    assert len(sizes) == 16  # and once more for the gradient


def test_entropy_is_that_of_the_distribution_drawn_from_and_its_gradient_raises_it():
    palm = make_palm(vocabulary=8)
    found = sequence_log_probs(palm, [[1, 3]], [[4, 5]], temperature=0.7, with_entropies=True)
    scores = palm(torch.tensor([[1, 3, 4]]))[0, 1:] / 0.7
    by_hand = torch.distributions.Categorical(logits=scores).entropy()
    assert found.entropies is not None
    torch.testing.assert_close(found.entropies[0], by_hand)
    filtered = sequence_log_probs(palm, [[1, 3]], [[4, 5]], top_k=1, with_entropies=True)
    assert filtered.entropies is not None
    assert torch.isfinite(filtered.entropies).all()
    found.entropies.sum().backward()
    with torch.no_grad():
        for parameter in palm.parameters():
            if parameter.grad is not None:
                parameter += 1e-4 * parameter.grad / parameter.grad.norm().clamp(min=1)
    after = sequence_log_probs(palm, [[1, 3]], [[4, 5]], temperature=0.7, with_entropies=True)
    assert after.entropies is not None
    assert after.entropies.sum() > found.entropies.sum()


def test_states_stand_before_their_tokens():
    palm = make_palm()
    found = sequence_log_probs(palm, [[1, 3], [1]], [[4, 5], [6, 7, END]], with_states=True)
    assert found.states is not None
    hidden = palm(torch.tensor([[1, 3, 4]]), return_only_embedding=True)[0]
    torch.testing.assert_close(found.states[0, :2], hidden[1:], atol=1e-5, rtol=1e-5)
    assert found.states[0, 2].abs().sum() == 0


def test_the_reference_is_the_policy_without_its_adapters():
    palm = make_palm(scope=True)
    base = sequence_log_probs(palm, PROMPTS, [[5, 6]] * 3)
    off = sequence_log_probs(palm, PROMPTS, [[5, 6]] * 3, finetune_scope="actor", disable_lora=True)
    on = sequence_log_probs(palm, PROMPTS, [[5, 6]] * 3, finetune_scope="actor")
    assert torch.equal(base.log_probs, off.log_probs)
    assert not torch.allclose(on.log_probs, off.log_probs)


def test_padding_follows_the_lengths():
    padded, lengths = pad_tokens([[3, 0], [4, 5, 6]])
    assert padded.tolist() == [[3, 0, 0], [4, 5, 6]]
    assert lengths.tolist() == [2, 3]
