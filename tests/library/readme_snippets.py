"""The snippets of the seed library's README, with only the import, the device, the file paths and the sizes changed.

``python readme_snippets.py FOLDER small 1 2 3`` runs those named and prints the shape of what each ends with; the third
needs the files that the first two leave in FOLDER. ``full`` runs at the README's own sizes.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from rlhf_core import PaLM, RewardModel, RLHFTrainer


@dataclass(frozen=True)
class Sizes:
    dim: int = 64
    depth: int = 2
    palm_length: int = 64
    reward_length: int = 64
    prompts: int = 50
    prompt_length: int = 32
    training: tuple[tuple[str, int], ...] = (("num_episodes", 2), ("max_timesteps", 4), ("max_seq_len", 64))
    answer_length: int = 64


SIZES = {
    "small": Sizes(),
    "full": Sizes(512, 12, 2048, 1024, 50_000, 512, (("num_episodes", 50_000),), 2048),
}


def first(sizes: Sizes, folder: Path) -> torch.Tensor:
    palm = PaLM(
        num_tokens=20000,
        dim=sizes.dim,
        depth=sizes.depth,
        flash_attn=True,  # https://arxiv.org/abs/2205.14135
    )

    seq = torch.randint(0, 20000, (1, sizes.palm_length))

    loss = palm(seq, return_loss=True)
    loss.backward()

    # after much training, you can now generate sequences

    generated = palm.generate(sizes.palm_length)  # (1, 2048)

    palm.save(folder / "palm.pt")
    return generated


def second(sizes: Sizes, folder: Path) -> torch.Tensor:
    palm = PaLM(num_tokens=20000, dim=sizes.dim, depth=sizes.depth, causal=False)

    reward_model = RewardModel(
        palm,
        num_binned_output=5,  # say rating from 1 to 5
    )

    # mock data

    seq = torch.randint(0, 20000, (1, sizes.reward_length))
    prompt_mask = torch.zeros(1, sizes.reward_length).bool()  # which part of the sequence is prompt
    labels = torch.randint(0, 5, (1,))

    # train

    loss = reward_model(seq, prompt_mask=prompt_mask, labels=labels)
    loss.backward()

    # after much training

    reward = reward_model(seq, prompt_mask=prompt_mask)

    reward_model.save(folder / "reward_model.pt")
    return reward


def third(sizes: Sizes, folder: Path) -> torch.Tensor:
    # load your pretrained palm

    palm = PaLM(num_tokens=20000, dim=sizes.dim, depth=sizes.depth)

    palm.load(folder / "palm.pt")

    # load your pretrained reward model

    reward_model = RewardModel(palm, num_binned_output=5)

    reward_model.load(folder / "reward_model.pt")

    # ready your list of prompts for reinforcement learning

    prompts = torch.randint(0, 256, (sizes.prompts, sizes.prompt_length))  # 50k prompts

    # pass it all to the trainer and train

    trainer = RLHFTrainer(palm=palm, reward_model=reward_model, prompt_token_ids=prompts)

    trainer.train(**dict(sizes.training))

    # then, if it succeeded...
    # generate say 10 samples and use the reward model to return the best one

    answer = trainer.generate(sizes.answer_length, prompt=prompts[0], num_samples=10)  # (<= 2048,)
    if not torch.equal(answer[: sizes.prompt_length], prompts[0]):
        raise ValueError("the best answer does not begin with its prompt")
    return answer


def main() -> None:
    folder, size, *numbers = sys.argv[1:]
    for number in numbers:
        found = (first, second, third)[int(number) - 1](SIZES[size], Path(folder))
        print(number, *found.shape)


if __name__ == "__main__":
    main()
