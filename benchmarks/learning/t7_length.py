"""T7: how much of a gained reward is mere length.

Texts of 1 to 15 ids and an end. The true reward is how liked the ids are on average, whatever their number; the raters
who compare two texts also like the longer one, by so much a token. One reward model learns from such pairs as they
come, one from as many pairs of equal length, in which that liking decides nothing. PPO improves the same policy with
each. The share of the gained reward that length explains is what is left of the gain when only responses of equal
length are compared before and after: 1 less that over the whole gain (Singhal et al. 2023, arXiv 2310.03716). Equal
lengths must at least halve it.
"""

import argparse
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.learning.harness import Say, Task
from benchmarks.learning.policies import PLAIN_PPO, draw_fresh, improve, learn_text, small_palm
from benchmarks.learning.reward_models import STRENGTH, train_reward_model
from benchmarks.learning.t1_reward_model import DIM, DROPOUT, TRUNK_STD, settings
from rlhf_core.config import PolicyConfig
from rlhf_core.errors import ConfigError
from rlhf_core.generation.best_of_n import Score
from rlhf_core.masking import join_sequences
from rlhf_core.modules.actor_critic import ActorCritic
from rlhf_core.records import Comparison
from rlhf_core.rewards import reward_of
from rlhf_core.seeds import derive_generator, derive_seed
from rlhf_core.training.ppo import PolicyTrainer

TOKENS, END, START = 32, 30, 31
LIKED, DISLIKED = range(4), range(4, 8)
WORDS = 30  # ids that a text is made of: all but end and start
LONGEST = 16  # tokens, the end included
WORTH = 6.0  # true reward of a text of liked ids alone
POLICY_DIM = 32
TEXTS, PRETRAINING_STEPS = 4000, 400
FEWEST = 5  # responses of a length, before and after, for that length to count

Text = list[int]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--labels", type=int, default=800, help="comparisons of each reward model (800)")
    parser.add_argument("--bias", type=float, default=1.0, help="true reward that raters mistake a token for (1)")
    parser.add_argument("--beta", type=float, default=0.1, help="KL coefficient; rewards have deviation 1 (0.1)")
    parser.add_argument("--updates", type=int, default=60, help="rounds of PPO, 256 responses each (60)")
    parser.add_argument("--samples", type=int, default=4096, help="fresh responses before and after (4096)")


def measure(options: argparse.Namespace, seed: int, say: Say) -> dict[str, Any]:
    for name, least in (("labels", 2), ("samples", 100)):
        if getattr(options, name) < least:
            raise ConfigError(name, getattr(options, name), f"at least {least}")
    config = replace(
        PLAIN_PPO,
        updates=options.updates,
        max_new_tokens=LONGEST,
        learning_rate=3e-3,
        kl_coefficient=options.beta,
        seed=seed,
    )
    texts = draw_texts(TEXTS, derive_generator(seed, "texts"))
    found: dict[str, Any] = {}
    for name, equal_lengths in (("confounded", False), ("debiased", True)):
        labels = draw_comparisons(options.labels, options.bias, equal_lengths, derive_generator(seed, name))
        torch.manual_seed(derive_seed(seed, "trunk"))
        trunk = small_palm(TOKENS, dim=DIM, embedding_std=TRUNK_STD)
        rewarder = train_reward_model(trunk, labels, settings(len(labels), seed), dropout=DROPOUT)
        rewarder.normalise(join_sequences([[START]] * 1000, texts[:1000]))
        score = reward_of(rewarder, END)

        torch.manual_seed(derive_seed(seed, "policy"))
        palm = small_palm(TOKENS, dim=POLICY_DIM)
        learn_text(palm, [[START, *text] for text in texts], PRETRAINING_STEPS, seed=seed)
        model = ActorCritic(palm, actor_lora=False, critic_lora=False, critic_dim_out=1)
        before = look(model, score, config, options.samples)
        improve(PolicyTrainer(model, [[START]], score, config, END), say)
        after = look(model, score, config, options.samples)
        gain, share = share_by_length(*before[:2], *after[:2])
        found |= {
            f"{name}_gain": gain,
            f"{name}_length_share": share,
            f"{name}_length_before": float(before[1].double().mean()),
            f"{name}_length_after": float(after[1].double().mean()),
            f"{name}_true_before": before[2],
            f"{name}_true_after": after[2],
            f"{name}_kl": after[3],
        }
        say(f"{name}: reward + {gain:.2f}, of which length explains {share:.0%}")
    found["length_share_left"] = found["debiased_length_share"] / found["confounded_length_share"]
    return found


def draw_texts(count: int, generator: torch.Generator) -> list[Text]:
    """Texts of every length alike, of uniform ids."""
    return [draw_text(int(torch.randint(1, LONGEST, (), generator=generator)), generator) for _ in range(count)]


def draw_text(words: int, generator: torch.Generator) -> Text:
    return [*torch.randint(WORDS, (words,), generator=generator).tolist(), END]


def true_reward(text: Text) -> float:
    """How liked the ids are on average, the end left out; 0 for a text without ids."""
    words = [token for token in text if token != END]
    return WORTH * sum((token in LIKED) - (token in DISLIKED) for token in words) / max(1, len(words))


def draw_comparisons(count: int, bias: float, equal_lengths: bool, generator: torch.Generator) -> list[Comparison]:
    """Labels by Bradley-Terry on the true reward and ``bias`` for each token that a text is longer."""
    found = []
    for _ in range(count):
        (first,) = draw_texts(1, generator)
        second = draw_text(len(first) - 1, generator) if equal_lengths else draw_texts(1, generator)[0]
        margin = true_reward(first) - true_reward(second) + bias * (len(first) - len(second))
        first_is_better = float(torch.rand((), generator=generator)) < float(torch.tensor(margin).sigmoid())
        chosen, rejected = (first, second) if first_is_better else (second, first)
        found.append(Comparison("", (START,), tuple(chosen), tuple(rejected), strength=STRENGTH))
    return found


def look(model: ActorCritic, score: Score, config: PolicyConfig, samples: int) -> tuple[Tensor, Tensor, float, float]:
    """Scores and lengths of fresh responses, their mean true reward, and nats from the reference."""
    fresh = draw_fresh(model, [[START]], score, config, END, samples)
    true = [true_reward(response) for response in fresh.rollout.responses]
    return fresh.scores, fresh.rollout.mask.sum(dim=1), sum(true) / len(true), fresh.kl.value


def share_by_length(
    scores_before: Tensor, lengths_before: Tensor, scores_after: Tensor, lengths_after: Tensor
) -> tuple[float, float]:
    """The gain in score, and the share of it that is not there between responses of the same length.

    Lengths weigh by how many responses have them after; those that are rare before or after are left out of the gain at
    equal length.
    """
    gain = float(scores_after.mean() - scores_before.mean())
    total = weight = 0.0
    for length in lengths_after.unique().tolist():
        before, after = scores_before[lengths_before == length], scores_after[lengths_after == length]
        if min(len(before), len(after)) >= FEWEST:
            total += len(after) * float(after.mean() - before.mean())
            weight += len(after)
    return gain, 1 - total / weight / gain if weight and gain else 1.0


TASK = Task(
    name="T7",
    words="how much of the gained reward is mere length, with a length-biased reward model and a debiased one",
    add_options=add_options,
    measure=measure,
    columns=(
        "confounded_length_share",
        "debiased_length_share",
        "confounded_length_after",
        "debiased_length_after",
        "confounded_true_after",
        "debiased_true_after",
    ),
)
