"""Tiny policies for the tasks: made, trained by our own trainer, and read by fresh samples."""

from collections.abc import Sequence
from dataclasses import replace
from math import log
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.learning.harness import Say
from rlhf_core.config import PolicyConfig
from rlhf_core.evaluation import Estimate, estimate
from rlhf_core.generation.batch import pad_tokens
from rlhf_core.generation.best_of_n import Score
from rlhf_core.kl import k1
from rlhf_core.modules.actor_critic import ActorCritic
from rlhf_core.modules.palm import PaLM
from rlhf_core.seeds import derive_generator, derive_seed
from rlhf_core.training.descent import descend
from rlhf_core.training.ppo import PolicyTrainer, Rollout

EMBEDDING_STD = 0.2  # ten times a PaLM's own: so few tokens must be told apart within a few dozen steps
PRETRAINING_BATCH = 64
PRETRAINING_STEPS = 2000  # at most
PRETRAINING_RATE = 3e-3
ROWS = 512  # responses drawn together while evaluating
PLAIN_PPO = PolicyConfig(
    rollout_batch_size=256,
    minibatch_size=64,
    ppo_epochs=2,
    critic_learning_rate=3e-3,
    kl_coefficient=0.0,
    kl_target=None,
    kl_hard_cap=1000.0,
    critic_warmup_updates=0,
    value_clip=10.0,  # returns are of the size of a reward, not of a normalised score
    lora_rank=0,
)
"""What the tasks' settings are made from: a fixed KL coefficient, and caps out of the way."""


def small_palm(tokens: int, *, dim: int, depth: int = 1, embedding_std: float = EMBEDDING_STD) -> PaLM:
    """A PaLM with heads of 16 channels whose tokens are well apart."""
    palm = PaLM(dim=dim, num_tokens=tokens, depth=depth, heads=2, dim_head=16, ff_mult=2)
    torch.nn.init.normal_(palm.token_emb.weight, std=embedding_std)
    return palm


def uniform_palm(tokens: int, *, dim: int) -> PaLM:
    """A PaLM that draws every id alike, exactly: the gain of its last norm is 0, and learns."""
    palm = small_palm(tokens, dim=dim)
    with torch.no_grad():
        palm.norm.gain_offset.fill_(-1.0)
    return palm


def pretrain_uniform(palm: PaLM, prompt: Sequence[int], steps: int, *, limit: float, seed: int, say: Say) -> float:
    """Train on ids drawn alike until responses of ``steps`` tokens are less than ``limit`` nats from uniform.

    Returns the nats. The loss is that of the next token in expectation: the next id is uniform whatever came before,
    so its mean over all ids says in one step what a thousand drawn ones would. The last norm's gain stays as it is:
    with a gain near 0, which would be one way to be uniform, adapters in the blocks could move nothing.

    Raises:
        RuntimeError: the limit is not reached.
    """
    palm.train_only(None)
    palm.norm.gain_offset.requires_grad_(False)
    parameters = [parameter for parameter in palm.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=PRETRAINING_RATE, weight_decay=0.0)
    for step in range(PRETRAINING_STEPS):
        optimizer.param_groups[0]["lr"] = PRETRAINING_RATE * (1 - step / PRETRAINING_STEPS)
        loss = divergence(palm, prompt, steps, PRETRAINING_BATCH, derive_generator(seed, "pretrain", step))
        descend(optimizer, loss, parameters, 1.0, f"step {step + 1} of the pre-training")
        if (step + 1) % 20 == 0:
            with torch.no_grad():
                apart = float(divergence(palm, prompt, steps, 1024, derive_generator(seed, "apart")))
            if apart < limit:
                say(f"pre-trained in {step + 1} steps to {apart:.4f} nats from uniform")
                return apart
    raise RuntimeError(f"{PRETRAINING_STEPS} steps of pre-training lead to {apart:.3f} nats from uniform, not {limit}")


def divergence(palm: PaLM, prompt: Sequence[int], steps: int, rows: int, generator: torch.Generator) -> Tensor:
    """KL of uniform responses from those of ``palm``, in nats a response: over drawn responses, exact in each token."""
    ids = torch.randint(palm.num_tokens, (rows, steps), generator=generator)
    logits = palm(torch.cat((torch.tensor(prompt).expand(rows, -1), ids[:, :-1]), dim=1))[:, len(prompt) - 1 :]
    return (-logits.log_softmax(dim=-1).mean(dim=-1) - log(palm.num_tokens)).sum(dim=1).mean()


def learn_text(palm: PaLM, rows: Sequence[Sequence[int]], steps: int, *, seed: int, rate: float = 3e-3) -> float:
    """Next-token training of all weights on texts of any lengths; returns the last step's loss, in nats a token."""
    palm.train_only(None)
    parameters = palm.palm_parameters()
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        chosen = torch.randint(len(rows), (PRETRAINING_BATCH,), generator=derive_generator(seed, "text", step)).tolist()
        tokens, lengths = pad_tokens([list(rows[row]) for row in chosen], palm.device)
        loss = palm(tokens, return_loss=True, lengths=lengths)
        descend(optimizer, loss, parameters, 1.0, f"step {step + 1} of the pre-training")
    return float(loss.detach())


def improve(trainer: PolicyTrainer, say: Say) -> None:
    """All rounds that the trainer's settings ask for; says ten times how far it is."""
    rounds = trainer.config.updates
    for index in range(rounds):
        found = trainer.update(index)
        if (index + 1) % max(1, rounds // 10) == 0:
            say(f"round {index + 1} of {rounds}: reward {found['score']:.3f}, KL {found['kl']:.3f}")


class Fresh(NamedTuple):
    """Responses that nothing was learned from, drawn at temperature 1 with nothing cut.

    Attributes:
        rollout: the responses, as the trainer's own meter sees them.
        scores: (responses,).
        kls: (responses,) log π - log π_ref of each response.
    """

    rollout: Rollout
    scores: Tensor
    kls: Tensor

    @property
    def reward(self) -> Estimate:
        return estimate(self.scores.tolist())

    @property
    def kl(self) -> Estimate:
        return estimate(self.kls.tolist())

    def objective(self, beta: float) -> Estimate:
        """Reward - β·KL."""
        return estimate((self.scores - beta * self.kls).tolist())


def draw_fresh(
    model: ActorCritic,
    prompts: Sequence[Sequence[int]],
    score: Score,
    config: PolicyConfig,
    end_id: int | None,
    samples: int,
) -> Fresh:
    """``samples`` responses by the policy as it is now; the prompts take turns."""
    settings = replace(
        config,
        rollout_batch_size=samples,
        minibatch_size=min(samples, ROWS),
        temperature=1.0,
        seed=derive_seed(config.seed, "fresh") % 2**32,
    )
    rollout = PolicyTrainer(model, prompts, score, settings, end_id, rollout_rows=ROWS).roll_out(0)
    kls = torch.where(rollout.mask, k1(rollout.log_probs, rollout.reference_log_probs), 0.0).sum(dim=1)
    return Fresh(rollout, rollout.scores.double(), kls.double())
