"""Our own side of the comparisons of feedback's training: the reward model's step and one iteration of PPO."""

import torch

from benchmarks.peers.ours import make
from benchmarks.peers.program import Work, serve
from benchmarks.peers.shapes import DIM_HEAD, SIZES, VOCABULARY, Shape
from rlhf_core.config import PolicyConfig, RewardConfig
from rlhf_core.modules.actor_critic import ActorCritic
from rlhf_core.modules.reward_model import RewardModel
from rlhf_core.records import Comparison
from rlhf_core.rewards import reward_of
from rlhf_core.training.device import keep_freed_memory
from rlhf_core.training.ppo import PolicyTrainer
from rlhf_core.training.reward import feedback_loss, make_optimizer


def reward_step(size: str, batch: int, length: int, steps: int, learning_rate: float, lora: bool) -> Work:
    """The loss of our reward runs over ``batch`` / 2 comparisons, and their optimiser; ``length`` // 4 of prompt."""
    keep_freed_memory()  # as a run does
    torch.manual_seed(0)
    config = RewardConfig(learning_rate=learning_rate, lora_rank=8 if lora else 0)
    prompt = length // 4

    def prepare(shape: Shape) -> tuple[RewardModel, torch.optim.Optimizer]:
        model = RewardModel(make(shape), dropout=0.0, num_binned_output=5, use_lora=lora, lora_r=8).train()
        return model, make_optimizer(model, config)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, VOCABULARY, (count,)).tolist())

    comparisons = [
        Comparison(
            prompt_id=str(number),
            prompt_tokens=draw(prompt),
            chosen_tokens=draw(length - prompt),
            rejected_tokens=draw(length - prompt),
            strength=1,
        )
        for number in range(batch // 2)
    ]

    def train(model: RewardModel, optimizer: torch.optim.Optimizer) -> int:
        optimizer.zero_grad(set_to_none=True)
        found = feedback_loss(model, comparisons)
        found.loss.backward()
        optimizer.step()
        return found.tokens

    train(*prepare(Shape(DIM_HEAD, 1)))  # loads the libraries, so that memory counts the task alone
    model, optimizer = prepare(SIZES[size])
    return lambda: {"tokens": sum(train(model, optimizer) for _ in range(steps))}


def ppo(
    size: str,
    samples: int,
    prompt: int,
    new: int,
    minibatch: int,
    learning_rate: float,
    learns: str,
    micro_batch: int = 0,
    vocabulary: int = VOCABULARY,
) -> Work:
    """A whole iteration by ``PolicyTrainer``; no end token, so that every response has ``new`` tokens.

    Args:
        learns: "lora": adapters of the policy, which learn from both losses, and a value head on its states, over one
            trunk, whose bare weights are the reference. "lora-critic": the critic has adapters of its own on that trunk
            instead. "all": all weights of a policy and of a value model of its own, beside a frozen reference.
        micro_batch: responses run through the networks at once; 0 takes the minibatch whole.
    """
    keep_freed_memory()  # as a run does
    torch.manual_seed(0)
    config = PolicyConfig(
        updates=1_000_000,  # so that the learning rates stand still
        rollout_batch_size=samples,
        minibatch_size=minibatch,
        micro_batch_size=micro_batch,
        ppo_epochs=1,
        learning_rate=learning_rate,
        critic_learning_rate=learning_rate,
        critic_warmup_updates=0,
        max_new_tokens=new,
        max_prompt_tokens=prompt,
        critic_trunk="policy" if learns == "lora" else "shared",
        value_loss_coefficient=0.5 if learns == "lora" else 0.0,
    )

    def prepare(shape: Shape) -> PolicyTrainer:
        palm = make(shape, vocabulary)
        reward_model = RewardModel(palm, dropout=0.0, use_lora=False)
        model = ActorCritic(
            palm,
            actor_lora=learns != "all",
            critic_lora=learns == "lora-critic",
            critic_dim_out=1,
            values_from_policy=learns == "lora",
        )
        prompts = torch.randint(3, vocabulary, (samples, prompt)).tolist()
        return PolicyTrainer(model, prompts, reward_of(reward_model, None), config, None)

    prepare(Shape(DIM_HEAD, 1)).update(0)  # loads the libraries, so that memory counts the task alone
    trainer, rounds = prepare(SIZES[size]), iter(range(1_000_000))

    def work() -> dict[str, int]:
        trainer.update(next(rounds))
        return {"tokens": samples * new, "samples": samples}

    return work


if __name__ == "__main__":
    serve({"ppo": ppo, "reward-step": reward_step})
