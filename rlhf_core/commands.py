"""What the command line takes: the commands, what each reads, and every option with its help; loads no torch."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_core.config import PRESETS, RUN_CONFIGS, ModelConfig, SamplingConfig
from rlhf_core.options import Parser, add_settings_options, option_name
from rlhf_core.progress import MODES
from rlhf_core.trackers import TRACKERS

SMALLEST_VOCABULARY = 256 + 3  # every byte, and the special tokens (rlhf_core.text.tokenizer)
VOCABULARY_HELP = f"tokens of the model [default that of --tokenizer, or 4096; from {SMALLEST_VOCABULARY}]"
STORE_HELP = "folder for the checkpoint [default checkpoints]"
NOT_SHAPE = ("num_tokens", "causal")  # the vocabulary has an option of its own, and only causal models can write
SUMMARIES = {
    "pretrain": "train a policy from nothing on plain text",
    "sft": "fine-tune a policy on demonstrations, the loss on responses alone",
    "reward": "train a reward model on ratings and comparisons",
    "policy": "improve a policy by PPO, RLOO or GRPO against a reward model or a function",
    "evaluate": "compare a policy with those before it on held-out prompts",
    "sample": "draw responses from a policy",
}
EXAMPLES = {
    "pretrain": """\
  python -m rlhf_core pretrain --text reviews.txt more.jsonl --steps 2000 --dim 128
  python -m rlhf_core pretrain --config pretrain.yaml --schedule cosine --learning-rate 1e-3
  python -m rlhf_core pretrain --run-dir runs/pretrain-20260101-120000        resume

Text files have blank lines between documents; in .jsonl each line is {"text": "…"}.""",
    "sft": """\
  python -m rlhf_core sft --policy checkpoints/ID --demonstrations dialogues.jsonl
  python -m rlhf_core sft --policy checkpoints/ID --demonstrations a.jsonl b.jsonl --lora-rank 8

Each line of the demonstrations is {"prompt": "…", "response": "…"}.""",
    "reward": """\
  python -m rlhf_core reward --policy checkpoints/ID --feedback feedback.jsonl
  python -m rlhf_core reward --preset GPU --config reward.yaml --epochs 1 --track tensorboard""",
    "policy": """\
  python -m rlhf_core policy --policy checkpoints/ID --reward-model checkpoints/RM --prompts prompts.jsonl
  python -m rlhf_core policy --policy checkpoints/ID --reward my_reward:length --prompts prompts.jsonl
  python -m rlhf_core policy --config ppo.yaml --kl-target none --updates 100
  python -m rlhf_core policy --print-config > ppo.yaml                        every setting, to be edited

Each line of the prompts is {"prompt_id": "…", "text": "…"}. my_reward.py stands in the current folder or in PYTHONPATH,
and length(prompt, response) takes two texts and gives a number.""",
    "evaluate": """\
  python -m rlhf_core evaluate --policy checkpoints/NEW --parent checkpoints/OLD --held-out prompts.jsonl
  python -m rlhf_core evaluate --policy NEW --parent OLD --held-out prompts.jsonl --reward-model RM --prompts 0""",
    "sample": """\
  python -m rlhf_core sample --policy checkpoints/ID --prompt "It was a film" --samples 4 --temperature 0.7
  python -m rlhf_core sample --policy checkpoints/ID --prompts prompts.jsonl --json > responses.jsonl""",
}
OVERVIEW = """\
the commands, in the order of a project:
{commands}

  python -m rlhf_core COMMAND --help          shows every option, its default and its range
  python -m rlhf_core COMMAND --print-config  prints all settings as a YAML file for --config

from text to a better policy:
  python -m rlhf_core pretrain --text reviews.txt
  python -m rlhf_core sft --policy checkpoints/ID --demonstrations demonstrations.jsonl
  python -m rlhf_core reward --policy checkpoints/ID --feedback feedback.jsonl
  python -m rlhf_core policy --policy checkpoints/ID --reward-model checkpoints/RM --prompts prompts.jsonl
  python -m rlhf_core evaluate --policy checkpoints/NEW --parent checkpoints/ID --held-out held_out.jsonl
  python -m rlhf_core sample --policy checkpoints/NEW --prompt "It was"

Each run has a folder, runs/KIND-TIME: settings in run.json, metrics as JSON lines in events.jsonl. Its result goes to
stdout as JSON, all else to stderr. Ctrl-C saves and stops; the same command with --run-dir FOLDER goes on, exactly.

exit codes: 0 done, 1 another process trains in the folder, 2 refused, 3 diverged, 4 out of memory,
75 stopped and can go on
"""


@dataclass(frozen=True)
class Source:
    """A file or checkpoint that a command reads.

    Attributes:
        kinds: the commands that take it, True where it is required.
        checkpoint: the kind of checkpoint whose folder it is; None for a file.
        is_list: whether it may be several.
        is_function: whether it is no file but a function, as module:function.
    """

    name: str
    kinds: dict[str, bool]
    help: str
    checkpoint: str | None = None
    is_list: bool = False
    is_function: bool = False


SOURCES = (
    Source("text", {"pretrain": True}, "plain text to learn from, UTF-8", is_list=True),
    Source("tokenizer", {"pretrain": False}, "a tokenizer.json; without it one is trained on the text"),
    Source(
        "policy",
        {"sft": True, "reward": True, "policy": True, "evaluate": True},
        "folder of the policy's checkpoint",
        "policy",
    ),
    Source("demonstrations", {"sft": True}, "prompts with the responses wanted, JSON lines", is_list=True),
    Source("feedback", {"reward": True}, "ratings and comparisons, JSON lines"),
    Source(
        "reward_model",
        {"policy": False, "evaluate": False},
        "folder of the reward model's checkpoint; its score counts",
        "reward_model",
    ),
    Source(
        "reward",
        {"policy": False, "evaluate": False},
        "a function of (prompt, response) in a module of yours, whose number counts; with --reward-model, the sum",
        is_function=True,
    ),
    Source("judge", {"policy": False}, "folder of a reward model that watches for over-optimisation", "reward_model"),
    Source("prompts", {"policy": True}, "prompts to practise on, JSON lines"),
    Source("prompts", {"pretrain": False, "sft": False}, "prompts of the samples drawn while it trains, JSON lines"),
    Source("parent", {"evaluate": True}, "the policy that this one was improved from", "policy"),
    Source("base", {"evaluate": False}, "the first policy of its lineage; without it the parent", "policy"),
    Source("held_out", {"evaluate": True}, "prompts that nothing was trained on, JSON lines"),
)


def sources_of(kind: str) -> dict[str, Source]:
    """What a command reads, by name."""
    return {source.name: source for source in SOURCES if kind in source.kinds}


def make_parser() -> Parser:
    """The parser of all commands; each setting is an option, described by its own metadata."""
    width = max(map(len, SUMMARIES))
    overview = OVERVIEW.format(commands="\n".join(f"  {kind:<{width}}  {words}" for kind, words in SUMMARIES.items()))
    parser = Parser(
        prog="python -m rlhf_core",
        usage="python -m rlhf_core COMMAND [options]",
        description="Train language models from human feedback, and sample them, on files alone.",
        epilog=overview,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", help=argparse.SUPPRESS)
    for kind, summary in SUMMARIES.items():
        command = commands.add_parser(
            kind,
            prog=f"python -m rlhf_core {kind}",
            usage=f"python -m rlhf_core {kind} [options]",
            description=summary[0].upper() + summary[1:] + ".",
            epilog="examples:\n" + EXAMPLES[kind],
            add_help=False,
        )
        parser.commands[kind] = command
        if kind == "sample":
            add_sample_options(command)
            continue
        add_run_options(command, kind)
        if kind == "pretrain":
            add_settings_options(command, ModelConfig, skip=NOT_SHAPE)
        add_settings_options(command, RUN_CONFIGS[kind])
        add_start_options(command)
    return parser


def add_run_options(command: Parser, kind: str) -> None:
    """Options that are no settings: what a run reads, and where it writes."""
    group = command.add_argument_group("what it reads")
    for source in sources_of(kind).values():
        needed = "required" if source.kinds[kind] else "optional"
        group.add_argument(
            option_name(source.name),
            type=str if source.is_function else Path,
            nargs="+" if source.is_list else None,
            metavar="MODULE:FUNCTION" if source.is_function else "CKPT" if source.checkpoint else "FILE",
            help=f"{source.help} [{needed}]",
        )
    if kind == "pretrain":
        group.add_argument("--vocab-size", metavar="INTEGER", help=VOCABULARY_HELP)
    group = command.add_argument_group("the run")
    group.add_argument(
        "--run-dir",
        type=Path,
        metavar="DIR",
        help="folder of the run; one that holds a run is resumed and takes no settings [default runs/KIND-TIME]",
    )
    group.add_argument("--store", type=Path, metavar="DIR", help=STORE_HELP)
    add_config_option(group)
    if kind in PRESETS:
        group.add_argument("--preset", choices=sorted(PRESETS[kind]), help="settings to begin from, under --config")
    group.add_argument("--print-config", action="store_true", default=None, help="print all settings as YAML and leave")


def add_start_options(command: Parser) -> None:
    """Options of one start of a run, which may differ when it is resumed."""
    group = command.add_argument_group("this start")
    group.add_argument(
        "--progress",
        choices=MODES,
        help="a bar, lines, or nothing on stderr [default auto: a bar on a terminal, lines elsewhere, nothing with "
        "--control-fd]",
    )
    group.add_argument(
        "--track", nargs="+", metavar="TRACKER", help=f"also log to {' and '.join(TRACKERS)}, through accelerate"
    )
    group.add_argument("--track-project", metavar="NAME", default="steersman", help="project there [default steersman]")
    group.add_argument(
        "--answer-seconds",
        metavar="NUMBER",
        help="of several processes: how long each waits for the others inside a step [default 600; 1 to 86,400]",
    )
    group.add_argument(
        "--control-fd", type=int, metavar="N", help="stop when the other end of this pipe closes; for supervisors"
    )
    add_help_option(group)


def add_config_option(group: Any) -> None:
    group.add_argument("--config", type=Path, metavar="FILE", help="settings as YAML or JSON; options win over it")


def add_help_option(group: Any) -> None:
    group.add_argument("-h", "--help", action="help", help="show this and leave")


def add_sample_options(command: Parser) -> None:
    group = command.add_argument_group("what it reads")
    group.add_argument("--policy", type=Path, metavar="CKPT", help="folder of the policy's checkpoint [required]")
    group.add_argument("--prompt", metavar="TEXT", help="one prompt")
    group.add_argument("--prompts", type=Path, metavar="FILE", help="prompts, JSON lines")
    add_config_option(group)
    group = command.add_argument_group("what it writes")
    group.add_argument("--samples", metavar="INTEGER", help="responses to each prompt [default 1; 1 to 100,000]")
    group.add_argument(
        "--seed", metavar="INTEGER", help="seed of the first response, one more for each next [default 0]"
    )
    group.add_argument("--json", action="store_true", default=None, help="one JSON line a response")
    group.add_argument("--threads", metavar="INTEGER", help="CPU threads; 0 takes the machine's cores [default 0]")
    add_help_option(group)
    add_settings_options(command, SamplingConfig)
