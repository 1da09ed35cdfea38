"""transformers' Llama, of our model's size; runs in the environment ``.venv-peers/transformers``."""

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from benchmarks.peers.program import Work, serve
from benchmarks.peers.shapes import DIM_HEAD, FF_MULT, SIZES, VOCABULARY, Shape


def configure(shape: Shape) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape.dim,
        intermediate_size=FF_MULT * shape.dim,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads,
        num_key_value_heads=1,
        head_dim=DIM_HEAD,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
        bos_token_id=None,
        eos_token_id=None,
    )


def make(shape: Shape) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(configure(shape))


def decode(size: str, batch: int, prompt: int, new: int, **_: float) -> Work:
    """Draw from the whole vocabulary, as TRL does; the default (dynamic) cache."""
    model = make(SIZES[size]).eval()
    tokens = torch.randint(3, VOCABULARY, (batch, prompt))

    def draw(count: int) -> torch.Tensor:
        settings = GenerationConfig(
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            pad_token_id=0,
        )
        return model.generate(tokens, attention_mask=torch.ones_like(tokens), generation_config=settings)[:, prompt:]

    draw(2)  # to warm up
    return lambda: {"tokens": draw(new).numel()}


def lm_step(size: str, batch: int, length: int, steps: int, learning_rate: float) -> Work:
    """Forward pass, backward pass and AdamW; the loss is the model's own."""

    def train(model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, tokens: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        optimizer.step()

    warm = make(Shape(DIM_HEAD, 1)).train()  # loads the libraries, so that memory counts the task alone
    train(warm, torch.optim.AdamW(warm.parameters(), lr=learning_rate, fused=True), torch.zeros(1, 8, dtype=torch.long))
    model = make(SIZES[size]).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, fused=True)
    tokens = torch.randint(3, VOCABULARY, (batch, length))

    def work() -> dict[str, int]:
        for _ in range(steps):
            train(model, optimizer, tokens)
        return {"tokens": steps * tokens.numel()}

    return work


if __name__ == "__main__":
    serve({"decode": decode, "lm-step": lm_step})
