"""palm-rlhf-pytorch's PaLM; runs in the environment ``.venv-peers/palm``."""

import torch
from palm_rlhf_pytorch import PaLM

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


if __name__ == "__main__":
    serve({"decode": decode, "lm-step": lm_step})
