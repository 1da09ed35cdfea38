"""Next-token training of a PaLM on plain text, resumable at every saved step.

The order of the text is a function of seed and step, so the resume state holds weights and optimiser alone. The
learning rate rises, stays, and falls at the end (Hu et al. 2024, arXiv 2404.06395): until the fall begins it does not
depend on the number of steps, so ``steps`` in ``run.json`` may still be changed, up or down, before resuming.
"""

import math
import os
import random
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf_core.checkpoint import save_policy
from rlhf_core.config import ModelConfig, PretrainConfig, settings_to_dict
from rlhf_core.errors import ConfigError, DatasetError
from rlhf_core.modules.palm import PaLM
from rlhf_core.modules.token_loss import mean_cross_entropy
from rlhf_core.text.corpus import TokenFile, read_documents, split_documents
from rlhf_core.text.tokenizer import Tokenizer
from rlhf_core.training.descent import descend
from rlhf_core.training.run_directory import RunDirectory
from rlhf_core.training.state import Tensors, optimizer_tensors, restore_optimizer, take_prefix, with_prefix

METRICS_INTERVAL = 10
QUICK_VALIDATION_TOKENS = 16_384
ADAM_EPS = 1e-8  # not RL's 1e-5: gradients of rare tokens' embeddings are smaller than that and would be damped


def train_pretrain(run: RunDirectory) -> None:
    """Train as ``run`` asks and leave a policy checkpoint in its store.

    ``run.model`` is the shape (its vocabulary is trained from the text unless ``inputs["tokenizer"]`` names one), and
    ``inputs["text"]`` lists the files (see ``read_documents``). Two percent of the documents, chosen by their hash, are
    held out.

    Raises:
        DatasetError: the text is missing, malformed, or shorter than one batch.
        ConfigError: the tokenizer has more tokens than the model, is none of ours, or finds no room for its bytes.
        TrainingDiverged: loss or gradient is no longer finite; the last saved state stands.
        RunStopped: a stop was asked for; the state is saved.
    """
    config = run.config
    assert isinstance(config, PretrainConfig)
    shape = run.model or ModelConfig()
    torch.set_num_threads(config.threads or os.cpu_count() or 1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer, train_tokens, validation_tokens, validation_characters = prepare(run, shape)
    windows = Windows(train_tokens, config.sequence_length, config.batch_size, config.seed)

    torch.manual_seed(config.seed)
    palm = PaLM.from_config(shape).to(device)
    optimizer = make_optimizer(palm, config)
    done, curve = 0, []
    if state := run.load_state():
        palm.load_state_dict(take_prefix("model", state.tensors))
        restore_optimizer(optimizer, take_prefix("optimizer", state.tensors), state.values["optimizer"])
        done, curve = state.step, state.values["curve"]

    def capture() -> tuple[Tensors, dict[str, Any]]:
        tensors, values = optimizer_tensors(optimizer)
        saved = {**with_prefix("model", palm.state_dict()), **with_prefix("optimizer", tensors)}
        return saved, {"optimizer": values, "curve": curve}

    characters_a_token = validation_characters / len(validation_tokens)
    quick = validation_tokens[: QUICK_VALIDATION_TOKENS + 1]
    clock, counted = time.perf_counter(), done
    for step in range(done + 1, config.steps + 1):
        batch = windows.batch(step).to(device)
        rate = learning_rate(config, step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = next_token_loss(palm, batch)
        grad_norm = descend(optimizer, loss, palm.parameters(), config.max_grad_norm, f"step {step}")

        is_last = step == config.steps
        metrics = {}
        if step % config.validation_interval == 0 or is_last:
            nats = validation_loss(palm, quick, config.sequence_length, config.sequence_length)
            metrics["validation_loss"] = nats
            metrics["bits_per_character"] = nats / math.log(2) / characters_a_token
            curve.append([step, round(metrics["bits_per_character"], 4)])
        if metrics or step % METRICS_INTERVAL == 0 or step == 1:
            now = time.perf_counter()
            metrics["tokens_per_second"] = (step - counted) * batch[:, 1:].numel() / (now - clock)
            clock, counted = now, step
            metrics |= {"loss": loss.item(), "learning_rate": rate, "grad_norm": grad_norm}
            run.metrics(step, metrics)
            run.progress(step, config.steps, "train")
        run.save_or_stop(step, config.save_interval, capture)

    run.progress(config.steps, config.steps, "evaluate")
    final = evaluate(palm, validation_tokens, validation_characters, config.sequence_length)
    meta = {
        **run.meta,
        "pretraining": settings_to_dict(config),
        "tokens_seen": max(done, config.steps) * config.batch_size * config.sequence_length,
        "train_tokens": len(train_tokens),
        "curve": curve,
        **final,
    }
    run.finish([save_policy(run.store, palm.cpu(), tokenizer, meta)], final)


def prepare(run: RunDirectory, shape: ModelConfig) -> tuple[Tokenizer, np.ndarray, np.ndarray, int]:
    """Tokenizer, training and validation tokens and the validation's characters; made once, kept in ``data/``."""
    folder = run.path / "data"
    folder.mkdir(exist_ok=True)
    tokenizer_path = folder / "tokenizer.json"
    files = {name: folder / f"{name}.tokens" for name in ("train", "validation")}
    if not all(TokenFile.describe(path) for path in files.values()):
        run.log("reading the text")
        train, validation = split_documents(read_documents(run.inputs.get("text") or []))
        random.Random(0).shuffle(train)  # corpora are often sorted, by label or by source
        if given := run.inputs.get("tokenizer"):
            if not Path(given).is_file():
                raise ConfigError("tokenizer", given, "an existing file")
            tokenizer = Tokenizer.load(given)
        else:
            tokenizer = Tokenizer.train(train, shape.num_tokens)
        tokenizer.save(tokenizer_path)
        for name, documents in (("train", train), ("validation", validation)):
            written = TokenFile.write(files[name], documents, tokenizer)
            run.log(f"{name}: {asdict(written)}")
    tokenizer = Tokenizer.load(tokenizer_path)
    if tokenizer.vocab_size > shape.num_tokens:
        raise ConfigError("num_tokens", shape.num_tokens, f"at least the tokenizer's {tokenizer.vocab_size}")
    described = {name: TokenFile.describe(path) for name, path in files.items()}
    train_file, validation_file = described["train"], described["validation"]
    assert train_file is not None
    assert validation_file is not None
    return (
        tokenizer,
        train_file.open(files["train"]),
        validation_file.open(files["validation"]),
        validation_file.characters,
    )


class Windows:
    """Batches of windows of one token more than ``length``, each epoch in an order and from an offset of its own."""

    def __init__(self, tokens: np.ndarray, length: int, batch_size: int, seed: int) -> None:
        self.tokens, self.length, self.batch_size, self.seed = tokens, length, batch_size, seed
        self.count = (len(tokens) - 1) // length - 1  # one is given up for the offset
        self.steps_an_epoch = self.count // batch_size
        if self.steps_an_epoch < 1:
            raise DatasetError(f"{len(tokens)} tokens of text are less than a batch of {batch_size} x {length}")
        self.epoch, self.offset = -1, 0
        self.order = np.empty(0, dtype=np.int64)

    def batch(self, step: int) -> Tensor:
        """(batch, length + 1) tokens of a step, counted from 1; the same for the same seed and step."""
        epoch, place = divmod(step - 1, self.steps_an_epoch)
        if epoch != self.epoch:
            generator = np.random.default_rng([self.seed, epoch])
            self.epoch, self.offset = epoch, int(generator.integers(self.length))
            self.order = generator.permutation(self.count)
        chosen = self.order[place * self.batch_size : (place + 1) * self.batch_size]
        starts = self.offset + chosen * self.length
        return torch.from_numpy(
            np.stack([self.tokens[start : start + self.length + 1] for start in starts]).astype(np.int64)
        )


def learning_rate(config: PretrainConfig, step: int) -> float:
    """Rate of a step, counted from 1: linear rise, plateau, linear fall over the last ``decay_fraction`` of steps."""
    decay_steps = max(1, round(config.decay_fraction * config.steps))
    rise = min(1.0, step / max(1, config.warmup_steps))
    left = min(1.0, (config.steps - step) / decay_steps)
    end = config.final_learning_rate_fraction
    return config.learning_rate * rise * (end + (1 - end) * left)


def make_optimizer(palm: PaLM, config: PretrainConfig) -> torch.optim.AdamW:
    """AdamW that decays matrices only."""
    matrices = [parameter for parameter in palm.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in palm.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, config.beta2), eps=ADAM_EPS, fused=True)


def next_token_loss(palm: PaLM, batch: Tensor) -> Tensor:
    """Mean cross-entropy in nats of each token of (batch, length + 1) but the first."""
    states = palm(batch[:, :-1], return_only_embedding=True).flatten(0, 1)
    return mean_cross_entropy(states, palm.token_emb.weight, batch[:, 1:].flatten())


@torch.no_grad()
def validation_loss(palm: PaLM, tokens: np.ndarray, window: int, stride: int, rows: int = 16) -> float:
    """Mean nats a token over a flat run of tokens, each seen with at least ``window - stride`` tokens before it."""
    was_training = palm.training
    palm.eval()
    total, counted = 0.0, 0
    starts = range(0, max(1, len(tokens) - 1 - (window - stride)), stride)
    spans = [(start, min(start + window, len(tokens) - 1)) for start in starts]
    for first in range(0, len(spans), rows):
        part = spans[first : first + rows]
        longest = max(stop - start for start, stop in part)
        batch = np.zeros((len(part), longest + 1), dtype=np.int64)
        new = np.zeros((len(part), longest), dtype=bool)
        for row, (start, stop) in enumerate(part):
            batch[row, : stop - start + 1] = tokens[start : stop + 1]
            new[row, (window - stride if start else 0) : stop - start] = True
        inputs = torch.from_numpy(batch).to(palm.device)
        nats = F.cross_entropy(palm(inputs[:, :-1]).transpose(1, 2).float(), inputs[:, 1:], reduction="none")
        mask = torch.from_numpy(new).to(palm.device)
        total += float(nats[mask].double().sum())
        counted += int(mask.sum())
    palm.train(was_training)
    return total / counted


def evaluate(palm: PaLM, tokens: np.ndarray, characters: int, window: int) -> dict[str, float]:
    """Loss and bits per character over all of a validation file, half a window of context kept.

    The bits of ``end`` tokens are counted, those characters are not: the figure errs to the high side.
    """
    nats = validation_loss(palm, tokens, window, max(1, window // 2))
    return {
        "validation_loss": nats,
        "bits_per_character": nats * (len(tokens) - 1) / math.log(2) / characters,
        "validation_characters": characters,
    }


def read_token_file(path: Path) -> tuple[np.ndarray, TokenFile]:
    """A token file that ``prepare`` wrote, and its description.

    Raises:
        DatasetError: it was never finished.
    """
    described = TokenFile.describe(path)
    if described is None:
        raise DatasetError(f"{path} was never finished")
    return described.open(path), described
