"""Our own side of every comparison, as a program like the peers'."""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from benchmarks.peers.program import Work, serve
from benchmarks.peers.shapes import DIM_HEAD, FF_MULT, SIZES, VOCABULARY, Shape
from rlhf_core.config import PretrainConfig
from rlhf_core.modules.palm import PaLM
from rlhf_core.modules.token_loss import mean_cross_entropy
from rlhf_core.training.device import keep_freed_memory
from rlhf_core.training.pretrain import make_optimizer, next_token_loss


def make(shape: Shape, vocabulary: int = VOCABULARY) -> PaLM:
    torch.manual_seed(0)
    return PaLM(
        dim=shape.dim,
        num_tokens=vocabulary,
        depth=shape.depth,
        heads=shape.heads,
        dim_head=DIM_HEAD,
        ff_mult=FF_MULT,
        cross_entropy_ignore_index=-100,
    )


def decode(size: str, batch: int, prompt: int, new: int, filter_thres: float) -> Work:
    model = make(SIZES[size]).eval()
    tokens = torch.randint(3, VOCABULARY, (batch, prompt))
    model.generate(prompt + 2, tokens, filter_thres=filter_thres)  # to warm up

    def work() -> dict[str, int]:
        return {"tokens": model.generate(prompt + new, tokens, filter_thres=filter_thres).numel()}

    return work


def lm_step(size: str, batch: int, length: int, steps: int, learning_rate: float) -> Work:
    """Loss and optimiser of pre-training; the gradient is not clipped, since the peers' is not."""
    keep_freed_memory()  # as a run does
    config = PretrainConfig(learning_rate=learning_rate)

    def train(model: PaLM, optimizer: torch.optim.Optimizer, tokens: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        next_token_loss(model, tokens).backward()
        optimizer.step()

    warm = make(Shape(DIM_HEAD, 1)).train()  # loads the libraries, so that memory counts the task alone
    train(warm, make_optimizer(warm, config), torch.zeros(1, 8, dtype=torch.long))
    model = make(SIZES[size]).train()
    optimizer = make_optimizer(model, config)
    tokens = torch.randint(3, VOCABULARY, (batch, length + 1))

    def work() -> dict[str, int]:
        for _ in range(steps):
            train(model, optimizer, tokens)
        return {"tokens": steps * batch * length}

    return work


def log_prob(vocabulary: int, tokens: int, dim: int) -> Work:
    """The mean log-probability of tokens and its gradient, by ``mean_cross_entropy``."""
    return differentiate(mean_cross_entropy, vocabulary, tokens, dim)


def full_logits(vocabulary: int, tokens: int, dim: int) -> Work:
    """The same by the plain formula, over all logits at once."""

    def plain(states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(F.linear(states, weight), targets)

    return differentiate(plain, vocabulary, tokens, dim)


def differentiate(
    loss: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor], vocabulary: int, tokens: int, dim: int
) -> Work:
    torch.manual_seed(0)

    def make_inputs(vocabulary: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        states, weight = torch.randn(tokens, dim, requires_grad=True), torch.randn(vocabulary, dim, requires_grad=True)
        return states, weight, torch.randint(vocabulary, (tokens,))

    def forget(inputs: tuple[torch.Tensor, ...]) -> None:
        for tensor in inputs:
            tensor.grad = None

    loss(*make_inputs(8, 8)).backward()  # loads the libraries, so that memory counts the task alone
    inputs = make_inputs(vocabulary, tokens)

    def work() -> dict[str, int]:
        loss(*inputs).backward()
        forget(inputs)
        return {"tokens": tokens}

    return work


def machine() -> Work:
    """The machine's limits: reading memory that no cache holds, and multiplying large float32 matrices."""
    array, matrix = torch.ones(2**26), torch.ones(2048, 2048)

    def best(work: Callable[[], object]) -> float:
        seconds = []
        for _ in range(5):
            begun = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - begun)
        return min(seconds)

    def work() -> dict[str, float]:
        return {
            "gigabyte_per_second": 4 * array.numel() / best(array.sum) / 1e9,
            "gigaflop_per_second": 2 * len(matrix) ** 3 / best(lambda: matrix @ matrix) / 1e9,
        }

    return work


if __name__ == "__main__":
    serve(
        {
            "decode": decode,
            "lm-step": lm_step,
            "log-prob": log_prob,
            "full-logits": full_logits,
            "machine": machine,
        }
    )
