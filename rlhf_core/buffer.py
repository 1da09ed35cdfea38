"""Rollouts, and where they are kept: memory-mapped arrays beside the run's state, each round whole or absent.

Of a response only its tokens and a few numbers a token are kept, never anything as wide as the vocabulary: 16 bytes a
response token, so 32 responses of 512 tokens take 256 KiB.
"""

import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rlhf_core.distributed import ALONE, Group
from rlhf_core.durable import MISSING, UnfinishedFolder, canonical_json, file_digest, remove_unfinished
from rlhf_core.masking import length_mask

TOKEN = np.dtype([("id", "<i4"), ("log_prob", "<f4"), ("reference_log_prob", "<f4"), ("value", "<f4")])
RESPONSE = np.dtype([("prompt_length", "<i4"), ("length", "<i4"), ("score", "<f4"), ("ended", "?")])
PARTS = ("prompts", "tokens", "responses")


@dataclass(frozen=True)
class Rollout:
    """Responses of one round and all that is known of them before learning; tensors are (responses, longest).

    Attributes:
        prompts, responses: token ids.
        mask: True at response tokens, the end token included.
        log_probs: of the drawn tokens as they were drawn.
        reference_log_probs: of the same under the frozen parent.
        values: the critic's, of the state before each token.
        scores: (responses,) of the reward model.
        ended: (responses,) bool, False where the length limit cut the response.
    """

    prompts: list[list[int]]
    responses: list[list[int]]
    mask: Tensor
    log_probs: Tensor
    reference_log_probs: Tensor
    values: Tensor
    scores: Tensor
    ended: Tensor


class RolloutBuffer:
    """The rollouts of the rounds that a resumed run may need again.

    A rollout is a folder ``00000012/`` of three arrays of records, ``prompts.npy`` (token ids, one after the other),
    ``tokens.npy`` (a record a response token) and ``responses.npy`` (a record a response, with the lengths that cut the
    other two), and, written last, ``manifest.json`` with the round, the digest of the run and the SHA-256 of each.

    Losing one does no harm at the start of its round: the same one is drawn again. In the middle of its round, where
    the policy that drew it is gone, the run goes on from the state before (``RunDirectory.load_state``).

    Args:
        path: folder for all of them; made when the first one is written.
        digest: of settings and data, as ``settings_digest`` gives it; rollouts of another one count as absent.
        log: takes a line for people where a disk refuses or a rollout is damaged.
        group: the processes that train; the first one writes, and reads for all.
    """

    def __init__(self, path: Path, digest: str, log: Callable[[str], None], group: Group = ALONE) -> None:
        self.path = path
        self.digest = digest
        self.log = log
        self.group = group

    def write(self, index: int, rollout: Rollout) -> None:
        """Keep the rollout of round ``index``; a disk that refuses is logged and costs nothing but a later drawing."""
        if not self.group.is_first:
            return
        try:
            with UnfinishedFolder(self.path) as unfinished:
                files = {}
                for name, array in zip(PARTS, arrays_of(rollout), strict=True):
                    files[f"{name}.npy"] = unfinished.write(f"{name}.npy", as_npy(array))
                shutil.rmtree(self.folder(index), ignore_errors=True)
                manifest = {"round": index, "digest": self.digest, "files": files}
                unfinished.publish(self.folder(index).name, canonical_json(manifest))
        except OSError as error:
            self.log(f"the rollout of round {index + 1} could not be kept: {error}")

    def read(self, index: int, device: torch.device | str = "cpu") -> Rollout | None:
        """The rollout of round ``index``, or None where there is none of this run; one that fails is logged."""
        try:
            found = self.read_here(index, device) if self.group.is_first else None
        except OSError as error:
            self.log(f"the rollout of round {index + 1} cannot be read now and is passed over: {error}")
            found = None
        if self.group.size == 1:
            return found
        data = self.group.of_first(b"" if found is None else pack_arrays(arrays_of(found)))
        return rollout_of(*unpack_arrays(data), device) if data else None

    def read_here(self, index: int, device: torch.device | str = "cpu") -> Rollout | None:
        """The same, read by this process.

        Raises:
            OSError: it is there and cannot be read.
        """
        folder = self.folder(index)
        if not folder.is_dir():
            return None
        try:
            manifest = json.loads((folder / "manifest.json").read_bytes())
            if (manifest["round"], manifest["digest"]) != (index, self.digest):
                return None
            for name in PARTS:
                if file_digest(folder / f"{name}.npy") != manifest["files"][f"{name}.npy"]["sha256"]:
                    raise ValueError(f"{name}.npy was altered")
            prompts, tokens, responses = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in PARTS)
            return rollout_of(prompts, tokens, responses, device)
        except (*MISSING, ValueError, KeyError, TypeError) as error:
            self.log(f"the rollout of round {index + 1} is damaged and passed over: {error}")
            return None

    def forget(self, before: int) -> None:
        """Remove the rollouts of the rounds before ``before``, and what killed writers left."""
        if self.group.is_first and self.path.is_dir():
            remove_unfinished(self.path, older_than_seconds=0.0)
            for path in self.path.iterdir():
                if path.name.isdigit() and int(path.name) < before:
                    shutil.rmtree(path, ignore_errors=True)

    def folder(self, index: int) -> Path:
        return self.path / f"{index:08d}"


def gather_rollout(part: Rollout | None, group: Group, device: torch.device | str = "cpu") -> Rollout:
    """The rollout of a round from the parts of all processes, in the order of their ranks; None where one had no row.

    Only what a buffer keeps is sent. With one process it is the part itself.

    Raises:
        ProcessLost: another process has ended or does not answer.
    """
    if group.size == 1 and part is not None:
        return part
    sent = group.gather(b"" if part is None else pack_arrays(arrays_of(part)))
    columns = zip(*(unpack_arrays(data) for data in sent if data), strict=True)
    prompts, tokens, responses = (np.concatenate(column) for column in columns)
    return rollout_of(prompts, tokens, responses, device)


def pack_arrays(arrays: Sequence[np.ndarray]) -> bytes:
    """The bytes of several .npy files, one after the other."""
    return b"".join(map(as_npy, arrays))


def unpack_arrays(data: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What ``pack_arrays`` packed ``PARTS`` into."""
    file = io.BytesIO(data)
    prompts, tokens, responses = (np.load(file, allow_pickle=False) for _ in PARTS)
    return prompts, tokens, responses


def as_npy(array: np.ndarray) -> bytes:
    """The bytes of a .npy file."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def arrays_of(rollout: Rollout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A rollout as the arrays ``PARTS``, without padding."""
    prompts = np.array([token for prompt in rollout.prompts for token in prompt], dtype="<i4")
    tokens = np.zeros(sum(map(len, rollout.responses)), TOKEN)
    tokens["id"] = [token for response in rollout.responses for token in response]
    for field, tensor in (
        ("log_prob", rollout.log_probs),
        ("reference_log_prob", rollout.reference_log_probs),
        ("value", rollout.values),
    ):
        tokens[field] = tensor[rollout.mask].cpu().numpy()
    responses = np.zeros(len(rollout.responses), RESPONSE)
    responses["prompt_length"] = [len(prompt) for prompt in rollout.prompts]
    responses["length"] = [len(response) for response in rollout.responses]
    responses["score"] = rollout.scores.cpu().numpy()
    responses["ended"] = rollout.ended.cpu().numpy()
    return prompts, tokens, responses


def rollout_of(
    prompts: np.ndarray, tokens: np.ndarray, responses: np.ndarray, device: torch.device | str = "cpu"
) -> Rollout:
    """What ``arrays_of`` took apart, with zeros for padding.

    Raises:
        ValueError: the arrays are of other types, or their lengths do not go together.
    """
    if (prompts.dtype, tokens.dtype, responses.dtype) != (np.dtype("<i4"), TOKEN, RESPONSE):
        raise ValueError(f"its arrays are of the types {prompts.dtype}, {tokens.dtype} and {responses.dtype}")
    lengths = responses["length"]
    if len(prompts) != responses["prompt_length"].sum() or len(tokens) != lengths.sum():
        raise ValueError("its lengths do not go together")
    mask = length_mask(torch.tensor(lengths.tolist(), device=device), int(lengths.max()))

    def column(records: np.ndarray, field: str) -> Tensor:
        return torch.from_numpy(records[field].copy()).to(device)  # in memory: the file may be gone before the tensor

    def padded(field: str) -> Tensor:
        return torch.zeros(mask.shape, device=device).masked_scatter_(mask, column(tokens, field))

    return Rollout(
        prompts=[part.tolist() for part in np.split(prompts, responses["prompt_length"].cumsum()[:-1])],
        responses=[part.tolist() for part in np.split(tokens["id"], lengths.cumsum()[:-1])],
        mask=mask,
        log_probs=padded("log_prob"),
        reference_log_probs=padded("reference_log_prob"),
        values=padded("value"),
        scores=column(responses, "score"),
        ended=column(responses, "ended"),
    )
