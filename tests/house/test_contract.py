"""What stands on both sides of a wall agrees: task names, run kinds, protocol words."""

import re
import subprocess
import sys
from pathlib import Path

from rlhf_core.config import PRESETS, RUN_CONFIGS, settings_from_dict, settings_to_dict

ROOT = Path(__file__).parents[2]


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
