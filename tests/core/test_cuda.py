"""What only a GPU can show; ``make test-gpu`` runs it with all others. Elsewhere it is skipped, and so not seen."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from rlhf_core.training import device
from rlhf_core.training.run_directory import RunDirectory
from tests.core.several_processes import gradients_of_a_run
from tests.core.small_runs import CONFIGS, make_inputs, make_small_run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="not seen: there is no GPU here")


@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind != "evaluate"])
def test_each_loop_takes_the_same_first_step_on_the_gpu_as_on_the_cpu(tmp_path, monkeypatch, kind):
    inputs = make_inputs(tmp_path)
    seen = {}
    for where in ("cuda", "cpu"):
        monkeypatch.setattr(device, "uses_cuda", lambda where=where: where == "cuda")
        folder: Path = make_small_run(inputs, f"{kind}-{where}")
        code, gradients = gradients_of_a_run(kind, folder)
        assert code == 0
        assert {gradient.device.type for gradient in gradients.values()} == {where}
        seen[where] = {name: gradient.cpu() for name, gradient in gradients.items() if name.startswith("001.")}
        assert len(RunDirectory(folder).result["outputs"]) == 1
    if kind in ("pretrain", "sft"):  # what a policy draws, and a reward model's dropout, depend on the device
        assert_close(seen["cuda"], seen["cpu"], atol=1e-4, rtol=1e-3)
