"""Next-token training of a PaLM on plain text, resumable at every saved step.

The order of the text is a function of seed and step, so the resume state holds weights and optimiser alone. With the
schedule "wsd" the learning rate does not depend on the number of steps until its fall begins, so ``steps`` in
``run.json`` may still be changed, up or down, before resuming.
"""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf_core.checkpoint import save_policy
from rlhf_core.config import ModelConfig, PretrainConfig, SamplingConfig, settings_to_dict
from rlhf_core.distributed import ALONE, Group
from rlhf_core.errors import ConfigError, DatasetError
from rlhf_core.modules.palm import PaLM
from rlhf_core.modules.token_loss import mean_cross_entropy
from rlhf_core.text.corpus import Corpus, Part, TokenFile
from rlhf_core.text.template import encode_prompt
from rlhf_core.text.tokenizer import Tokenizer
from rlhf_core.training.device import use_device
from rlhf_core.training.next_token import Course, make_optimizer, told_while_reading
from rlhf_core.training.run_directory import RunDirectory
from rlhf_core.training.sharding import spread, whole_copy

QUICK_VALIDATION_TOKENS = 16_384
PROMPT_TOKENS = SamplingConfig().max_prompt_tokens
PARTS: tuple[Part, ...] = ("train", "validation")


def train_pretrain(run: RunDirectory) -> None:
    """Train as ``run`` asks and leave a policy checkpoint in its store.

    ``run.model`` is the shape (its vocabulary is trained from the text unless ``inputs["tokenizer"]`` names one), and
    ``inputs["text"]`` lists the files (see ``Corpus``). Two percent of the documents, chosen by their hash, are held
    out. Texts drawn on the way continue the run's prompts, or, where it has none, begin from nothing.

    Raises:
        DatasetError: the text is missing, malformed, or shorter than one batch.
        ConfigError: the tokenizer has more tokens than the model, is none of ours, or finds no room for its bytes.
        TrainingDiverged: loss or gradient is no longer finite; the last saved state stands.
        RunStopped: a stop was asked for; the state is saved.
    """
    config = run.config
    assert isinstance(config, PretrainConfig)
    shape = run.model or ModelConfig()
    group = run.group
    device = use_device(config.threads, run)
    tokenizer, train_tokens, validation_tokens, validation_characters = prepare(run, shape)
    windows = Windows(train_tokens, config.sequence_length, config.batch_size, config.seed)
    prompts = [[tokenizer.begin]]
    if run.prompts_name is not None:
        prompts = [encode_prompt(tokenizer, prompt.text, PROMPT_TOKENS) for prompt in run.read_prompts()]

    torch.manual_seed(config.seed)
    palm = PaLM.from_config(shape).to(device)
    group.take_weights(palm)
    if config.fsdp:
        spread(palm, group)
    course = Course(run, palm, make_optimizer(palm, config), config, steps=config.steps)

    characters_a_token = validation_characters / len(validation_tokens)
    quick = validation_tokens[: QUICK_VALIDATION_TOKENS + 1]
    for step in course:
        batch = windows.batch(step)
        mine = batch[group.share(len(batch))]
        read = (mine if len(mine) else batch[:1]).to(device)  # who has no row reads one that counts for nothing
        course.learn([next_token_loss(palm, read) * (len(mine) / len(batch))], batch[:, 1:].numel())
        if course.is_due:
            whole = whole_copy(palm)
            nats = validation_loss(whole, quick, config.sequence_length, config.sequence_length, group=group)
            bits = nats / math.log(2) / characters_a_token
            course.measured({"validation_loss": nats, "bits_per_character": bits}, bits)
            course.show_samples(whole, prompts, tokenizer)
        course.close()

    run.progress(config.steps, config.steps, "evaluate")
    palm = whole_copy(palm)
    final = evaluate(palm, validation_tokens, validation_characters, config.sequence_length, group)
    meta = {
        **run.meta,
        "pretraining": settings_to_dict(config),
        "tokens_seen": max(course.done, config.steps) * config.batch_size * config.sequence_length,
        "train_tokens": len(train_tokens),
        "curve": course.curve,
        **final,
    }
    outputs = [save_policy(run.store, palm.cpu(), tokenizer, meta)] if group.is_first else []
    run.finish(outputs, final)


def prepare(run: RunDirectory, shape: ModelConfig) -> tuple[Tokenizer, np.ndarray, np.ndarray, int]:
    """Tokenizer, training and validation tokens and the validation's characters; made once, kept in ``data/``."""
    folder = run.path / "data"
    run.group.first(lambda: make_tokens(run, shape, folder))
    tokenizer = load_fitting(folder / "tokenizer.json", shape)
    train, _ = read_token_file(folder / "train.tokens")
    validation, described = read_token_file(folder / "validation.tokens")
    return tokenizer, train, validation, described.characters


def make_tokens(run: RunDirectory, shape: ModelConfig, folder: Path) -> None:
    """Write ``tokenizer.json`` and a token file for each part into ``folder``, unless they are there."""
    folder.mkdir(exist_ok=True)
    tokenizer_path = folder / "tokenizer.json"
    files = {part: folder / f"{part}.tokens" for part in PARTS}
    if not all(TokenFile.describe(path) for path in files.values()):
        tokenizer = load_fitting(run.inputs["tokenizer"], shape) if run.inputs.get("tokenizer") else None
        run.log("reading the text")
        corpus = Corpus(run.inputs.get("text") or [])
        if tokenizer is None:
            run.log(f"training a tokenizer of {shape.num_tokens} tokens")
            tokenizer = Tokenizer.train(corpus.documents("train"), shape.num_tokens)
        tokenizer.save(tokenizer_path)
        for part in PARTS:
            written = TokenFile.write(
                files[part],
                corpus.documents(part),
                tokenizer,
                shuffle_seed=0 if part == "train" else None,
                on_batch=told_while_reading(run, corpus.count(part), f"encode {part}"),
            )
            run.log(f"{part}: {written.documents:,} documents, {written.tokens:,} tokens")


def load_fitting(path: Path | str, shape: ModelConfig) -> Tokenizer:
    """A tokenizer whose tokens all have a place in a model of this shape.

    Raises:
        ConfigError: it is missing, none of ours, or too large.
    """
    if not Path(path).is_file():
        raise ConfigError("tokenizer", str(path), "an existing file")
    tokenizer = Tokenizer.load(path)
    if tokenizer.vocab_size > shape.num_tokens:
        raise ConfigError("num_tokens", shape.num_tokens, f"at least the tokenizer's {tokenizer.vocab_size}")
    return tokenizer


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


def next_token_loss(palm: PaLM, batch: Tensor) -> Tensor:
    """Mean cross-entropy in nats of each token of (batch, length + 1) but the first."""
    states = palm(batch[:, :-1], return_only_embedding=True).flatten(0, 1)
    return mean_cross_entropy(states, palm.token_emb.weight, batch[:, 1:].flatten())


@torch.no_grad()
def validation_loss(
    palm: PaLM, tokens: np.ndarray, window: int, stride: int, rows: int = 16, group: Group = ALONE
) -> float:
    """Mean nats a token over a flat run of tokens, each seen with at least ``window - stride`` tokens before it.

    The processes of ``group`` share the windows.
    """
    was_training = palm.training
    palm.eval()
    total, counted = 0.0, 0
    starts = range(0, max(1, len(tokens) - 1 - (window - stride)), stride)
    spans = [(start, min(start + window, len(tokens) - 1)) for start in starts][group.share(len(starts))]
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
    total, number = group.sums(total, counted)
    return total / number


def evaluate(palm: PaLM, tokens: np.ndarray, characters: int, window: int, group: Group = ALONE) -> dict[str, float]:
    """Loss and bits per character over all of a validation file, half a window of context kept.

    The bits of ``end`` tokens are counted, those characters are not: the figure errs to the high side.
    """
    nats = validation_loss(palm, tokens, window, max(1, window // 2), group=group)
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
