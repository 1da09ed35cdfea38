"""palm-rlhf-pytorch's PaLM; runs in the environment ``.venv-peers/palm``."""

import torch
from palm_rlhf_pytorch import PaLM, RewardModel, RLHFTrainer

from benchmarks.peers.program import Work, serve
from benchmarks.peers.shapes import DIM_HEAD, FF_MULT, SIZES, VOCABULARY, Shape


def make(shape: Shape) -> PaLM:
    torch.manual_seed(0)
    return PaLM(
        dim=shape.dim,
        num_tokens=VOCABULARY,
        depth=shape.depth,
        heads=shape.heads,
        dim_head=DIM_HEAD,
        ff_mult=FF_MULT,
        cross_entropy_ignore_index=-100,
    )


def decode(size: str, batch: int, prompt: int, new: int, **_: float) -> Work:
    """``PaLM.generate`` with its defaults, the filter among them."""
    model = make(SIZES[size]).eval()
    tokens = torch.randint(3, VOCABULARY, (batch, prompt))
    model.generate(prompt + 2, tokens)  # to warm up

    def work() -> dict[str, int]:
        return {"tokens": model.generate(prompt + new, tokens).numel()}

    return work


def lm_step(size: str, batch: int, length: int, steps: int, learning_rate: float) -> Work:
    """Forward pass, backward pass and AdamW; the loss is the model's own."""

    def train(model: PaLM, optimizer: torch.optim.Optimizer, tokens: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        model(tokens, return_loss=True).backward()
        optimizer.step()

    warm = make(Shape(DIM_HEAD, 1)).train()  # loads the libraries, so that memory counts the task alone
    train(warm, torch.optim.AdamW(warm.parameters(), lr=learning_rate, fused=True), torch.zeros(1, 8, dtype=torch.long))
    model = make(SIZES[size]).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, fused=True)
    tokens = torch.randint(3, VOCABULARY, (batch, length + 1))

    def work() -> dict[str, int]:
        for _ in range(steps):
            train(model, optimizer, tokens)
        return {"tokens": steps * batch * length}

    return work


def reward_step(size: str, batch: int, length: int, steps: int, learning_rate: float, **_: bool) -> Work:
    """One label of five a sequence, as it has no trainer for pairs; adapters of rank 8, its default."""

    def train(model: RewardModel, optimizer: torch.optim.Optimizer, tokens: torch.Tensor, labels: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        model(tokens, prompt_lengths=torch.full((len(tokens),), tokens.shape[1] // 4), labels=labels).backward()
        optimizer.step()

    def prepare(shape: Shape) -> tuple[RewardModel, torch.optim.Optimizer]:
        model = RewardModel(make(shape), num_binned_output=5).train()
        return model, torch.optim.AdamW(model.finetune_parameters(), lr=learning_rate, fused=True)

    tokens, labels = torch.randint(3, VOCABULARY, (batch, length)), torch.randint(5, (batch,))
    train(*prepare(Shape(DIM_HEAD, 1)), tokens, labels)  # loads the libraries, so that memory counts the task alone
    model, optimizer = prepare(SIZES[size])

    def work() -> dict[str, int]:
        for _ in range(steps):
            train(model, optimizer, tokens, labels)
        return {"tokens": steps * tokens.numel()}

    return work


def ppo(size: str, samples: int, prompt: int, new: int, minibatch: int, learning_rate: float, **_: str) -> Work:
    """A whole iteration with its defaults: adapters of rank 8, a copy of the policy as critic, one prompt at a time."""

    def prepare(shape: Shape) -> RLHFTrainer:
        palm = make(shape)
        return RLHFTrainer(
            palm=palm,
            reward_model=RewardModel(palm, num_binned_output=5),
            prompt_token_ids=torch.randint(3, VOCABULARY, (samples, prompt)),
            actor_lr=learning_rate,
            critic_lr=learning_rate,
            minibatch_size=minibatch,
            epochs=1,
        )

    def iterate(trainer: RLHFTrainer, samples: int, new: int) -> None:
        trainer.train(num_episodes=1, max_timesteps=samples, update_timesteps=samples, max_seq_len=prompt + new)

    iterate(prepare(Shape(DIM_HEAD, 1)), 2, 2)  # loads the libraries, so that memory counts the task alone
    trainer = prepare(SIZES[size])

    def work() -> dict[str, int]:
        iterate(trainer, samples, new)
        return {"tokens": samples * new, "samples": samples}

    return work


if __name__ == "__main__":
    serve({"decode": decode, "lm-step": lm_step, "ppo": ppo, "reward-step": reward_step})
