"""From rows to the files of a run directory, once; the training process reads nothing else."""

import json
import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings

from rlhf_core.config import RUN_CONFIGS, settings_from_dict
from rlhf_core.durable import sha256, write_atomically
from rlhf_core.errors import DatasetError
from rlhf_core.records import Prompt, feedback_to_line
from rlhf_core.store import checkpoint_path, verify
from rlhf_core.training.run_directory import RunDirectory
from webapp.feedback.services import NewSample
from webapp.projects.selectors import prompts_to_train_on
from webapp.quality import services as quality
from webapp.registry.models import Checkpoint
from webapp.registry.selectors import held_out_prompts
from webapp.runs.models import Run
from webapp.runs.results import DrawnAnswer, EvaluationResult, references_of

PROMPTS_ON_THE_WAY = 256
CHILD = "child.json"  # who trains here, so that a later claim can end a process that an earlier one left behind


def run_folder(run: Run) -> Path:
    """The run's directory; the same for every attempt, so that each goes on where the last one saved."""
    return Path(settings.RUN_DIRECTORIES) / str(run.pk)


def write_run_directory(run: Run) -> RunDirectory:
    """The run's directory, made from its rows at the first attempt.

    Whoever writes it writes the same bytes, and ``run.json`` last: two supervisors, one of them fenced out, do no harm.

    Raises:
        CheckpointError: a checkpoint that the run starts from is missing or altered.
        ConfigError: the stored settings are none of this version's.
    """
    folder = run_folder(run)
    if (folder / "run.json").exists():
        return RunDirectory(folder)
    folder.mkdir(parents=True, exist_ok=True)
    feedback = prompts = demonstrations = None
    if run.dataset is not None and run.kind == Run.Kind.SFT:
        demonstrations = folder / "demonstrations.jsonl"
        write_atomically(demonstrations, b"".join(quality.demonstration_lines(run.dataset)))
    elif run.dataset is not None:
        feedback = folder / "feedback.jsonl"
        write_lines(feedback, (feedback_to_line(record) for record in quality.feedback_records(run.dataset)))
    if run.kind != Run.Kind.REWARD:
        prompts = folder / "prompts.jsonl"
        write_lines(prompts, (prompt_line(prompt) for prompt in prompts_for(run)))
    is_evaluation = run.kind == Run.Kind.EVALUATE
    try:
        return RunDirectory.create(
            folder,
            kind=run.kind,
            config=settings_from_dict(RUN_CONFIGS[run.kind], run.config),
            store=settings.CHECKPOINT_STORE,
            policy=verified(run.policy),
            reward_model=verified(run.reward_model) if run.reward_model is not None else None,
            judge=verified(run.judge) if run.judge is not None else None,
            feedback=feedback,
            prompts=prompts,
            demonstrations=[demonstrations] if demonstrations is not None else (),
            references={part: verified(one) for part, one in references_of(run).items()} if is_evaluation else None,
            meta=describe(run),
        )
    except FileExistsError:
        return RunDirectory(folder)


def prompts_for(run: Run) -> Iterable[Prompt]:
    """The project's prompts to train on, or to evaluate on, as they were when the run was asked for.

    A fine-tuning learns from demonstrations; it gets some prompts to answer on the way.
    """
    rows = held_out_prompts(run.project) if run.kind == Run.Kind.EVALUATE else prompts_to_train_on(run.project)
    rows = rows.filter(created_at__lte=run.created_at)
    asked = rows[:PROMPTS_ON_THE_WAY] if run.kind == Run.Kind.SFT else rows
    return (Prompt(str(row.pk), row.text) for row in asked.iterator())


def prompt_line(prompt: Prompt) -> str:
    return json.dumps({"prompt_id": prompt.prompt_id, "text": prompt.text}, sort_keys=True)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    write_atomically(path, "".join(line + "\n" for line in lines).encode())


def read_evaluation(run: Run, result: Mapping[str, Any]) -> EvaluationResult | None:
    """What an evaluation wrote into its run directory, its samples checked against their hash; None for other kinds.

    Raises:
        DatasetError: the samples are missing or altered.
    """
    if run.kind != Run.Kind.EVALUATE:
        return None
    report = result["report"]
    path = run_folder(run) / report["samples"]["file"]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"the evaluation's samples can not be read: {error}") from error
    if sha256(data) != report["samples"]["sha256"]:
        raise DatasetError(f"{path.name} was altered: its SHA-256 is not the one that the evaluation reported")
    return EvaluationResult(report, [read_answer(line) for line in data.decode().splitlines()])


def read_answer(line: str) -> DrawnAnswer:
    """One line of an evaluation's samples."""
    fields = json.loads(line)
    checkpoint, reward, uncertainty = fields.pop("checkpoint"), fields.pop("reward"), fields.pop("uncertainty", None)
    return DrawnAnswer(checkpoint, NewSample(prompt_id=UUID(fields.pop("prompt_id")), **fields), reward, uncertainty)


def verified(checkpoint: Checkpoint) -> Path:
    """The checkpoint's folder, every byte of it checked."""
    path = checkpoint_path(settings.CHECKPOINT_STORE, checkpoint.sha256)
    verify(path)
    return path


def describe(run: Run) -> dict[str, Any]:
    """What the saved checkpoint tells about its origin; the same for every attempt, so that its id is too."""
    return {
        "project": run.project.slug,
        "run": str(run.pk),
        "run_number": run.number,
        "dataset_sha256": run.dataset.sha256 if run.dataset else None,
        "policy_sha256": run.policy.sha256,
        "reward_model_sha256": run.reward_model.sha256 if run.reward_model else None,
        **({"judge_sha256": run.judge.sha256} if run.judge else {}),
    }


def write_child(folder: Path, *, pid: int, birth: str, fence: int) -> None:
    """Note which process trains in ``folder``."""
    note = {"pid": pid, "birth": birth, "host": socket.gethostname(), "boot": boot_id(), "fence": fence}
    write_atomically(folder / CHILD, json.dumps(note).encode())


def read_child(folder: Path) -> tuple[int, str] | None:
    """Process id and birth of the process noted last, if it was one of this machine since it was started."""
    try:
        note = json.loads((folder / CHILD).read_bytes())
        if (note["host"], note["boot"]) == (socket.gethostname(), boot_id()):
            return int(note["pid"]), str(note["birth"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def boot_id() -> str:
    """A text that changes when the machine starts anew."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return os.uname().nodename
