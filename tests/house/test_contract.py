"""What stands on both sides of a wall agrees: seed names and defaults, task names, run kinds, protocol words."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_core.config import PRESETS, RUN_CONFIGS, settings_from_dict, settings_to_dict

ROOT = Path(__file__).parents[2]
SEED_DEFAULTS = {
    "PaLM": dict(
        causal=True, dim_head=64, heads=8, ff_mult=4, attn_dropout=0.0, ff_dropout=0.0, qk_rmsnorm=False, lora_r=8,
        rotary_xpos_scale_base=512, flash_attn=False, finetune_scopes=(),
    ),
    "RewardModel": dict(
        dropout=0.1, num_binned_output=0.0, use_lora=True, lora_r=8, reward_lora_scope="reward", sample_temperature=1.0
    ),
    "RLHFTrainer": dict(
        actor_lr=1e-4, critic_lr=1e-4, actor_wd=0.0, critic_wd=0.0, actor_lora=True, critic_lora=True, actor_lora_r=8,
        critic_lora_r=8, actor_dropout=0.0, critic_dropout=0.0, betas=(0.9, 0.999), max_norm=None, eps_clip=0.2,
        value_clip=0.4, beta_s=0.01, pad_value=0.0, minibatch_size=16, epochs=1, kl_div_loss_weight=0.1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SEED_DEFAULTS)
def test_the_seeds_arguments_keep_their_names_and_defaults(name):
    import rlhf_core

    parameters = inspect.signature(getattr(rlhf_core, name)).parameters
    found = {argument: parameters[argument].default for argument in SEED_DEFAULTS[name] if argument in parameters}
    assert found == SEED_DEFAULTS[name]


def test_importing_the_library_loads_no_torch():
    code = "import sys, rlhf_core, rlhf_core.config, rlhf_core.errors, rlhf_core.records; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_the_queue_rings_tasks_that_the_workers_know():
    from workers.celery_app import app

    app.loader.import_default_modules()
    rung = set(re.findall(r'"(workers\.\w+)"', (ROOT / "webapp/queue.py").read_text(encoding="utf-8")))
    assert rung
    assert rung <= set(app.tasks)


def test_run_kinds_are_the_same_in_rows_settings_and_command_line():
    from webapp.runs.models import Run

    assert set(Run.Kind.values) <= set(RUN_CONFIGS)
    text = subprocess.run([sys.executable, "-m", "rlhf_core", "--help"], capture_output=True, text=True, check=True)
    for kind in RUN_CONFIGS:
        assert kind in text.stdout


def test_presets_survive_the_way_through_a_row():
    for kind, presets in PRESETS.items():
        for settings in presets.values():
            assert settings_from_dict(RUN_CONFIGS[kind], settings_to_dict(settings)) == settings
