"""Several processes that train one run together, over torch.distributed (docs/algorithms/several-processes.md).

``accelerate launch``, ``torchrun`` and ``mpirun`` start the same command several times and tell each process its rank
in the environment. Each then takes its share of the rows of every minibatch, divides its losses by what the whole
minibatch counts, and the gradients are summed: the step is that of one process, to rounding, however many there are.
torch loads where there is more than one process, and only then.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rlhf_core.errors import ConfigError, ProcessLost
from rlhf_core.memory import ran_out_of_memory
from rlhf_core.roll_call import RollCall

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.distributed import Store

MEETING_FD = "STEERSMAN_MEETING_FD"  # in the environment: an open socket on which the first process lets others meet
ANSWER_SECONDS = 600  # that a process waits for the others in the middle of a step, unless it is told otherwise
PATIENCE_SECONDS = 24 * 3600.0  # that it waits for the first, which reads the data before the first step
NUMBERS_AT_ONCE = 2**24  # of the gradients that are summed together, so that their copy stays small
BYTES_AT_ONCE = 2**28
RANKS = (  # what launchers call the rank, the number of processes, and both on this machine
    ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)


class Group:
    """The processes of a run. This class itself is the group of one process, in which nothing is sent.

    Attributes:
        rank: of this process, from 0.
        size: how many there are.
        local_rank, local_size: the same among those on this machine.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0, local_size: int = 1) -> None:
        self.rank, self.size, self.local_rank, self.local_size = rank, size, local_rank, local_size

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Which of ``count`` rows are this process's: as many as others have, or one more; there may be none."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def sum_gradients(self, parameters: "Iterable[nn.Parameter]", loss: float) -> float:
        """Give each parameter the sum of its gradients in all processes; returns the sum of ``loss``.

        Those that are spread over the processes have it already. One without a gradient anywhere stays so. If a loss is
        not finite, neither is the sum, in every process, and the gradients are not to be used.
        """
        return loss

    def sums(self, *values: float) -> list[float]:
        """Each number summed over the processes, in float64; all processes get the same bits."""
        return list(values)

    def any(self, *flags: bool) -> list[bool]:
        """For each flag whether it is up in any process."""
        return list(flags)

    def gather(self, data: bytes) -> list[bytes]:
        """The bytes of all processes, in the order of their ranks."""
        return [data]

    def gather_rows(self, rows: Sequence[Any]) -> list[Any]:
        """The rows (JSON) of all processes, in order: what the processes made of their shares becomes the whole."""
        return [row for part in self.gather(json.dumps(list(rows)).encode()) for row in json.loads(part)]

    def of_first(self, data: bytes) -> bytes:
        """The bytes of the first process; waits patiently, since it may have to read the data."""
        return data

    def first(self, work: Callable[[], Any]) -> Any:
        """What ``work`` (JSON) gives in the first process; the others don't do it and wait.

        Raises:
            ProcessLost: it raised in the first process, which leaves with its error.
        """
        return json.loads(self.of_first(json.dumps(work() if self.is_first else None).encode()))

    def wait(self) -> None:
        """Go on when all processes are here."""
        self.first(lambda: None)
        self.sums(0.0)

    def take_weights(self, module: "nn.Module") -> None:
        """Begin from the first process's weights, which another build of torch may have drawn otherwise."""

    def leave_word(self, why: str) -> None:
        """Tell the other processes why this one leaves with an error, so that they can say so."""

    def leave(self, code: int) -> None:
        """End this process with ``code``, once all is written; alone it ends by itself."""


ALONE = Group()


class Processes(Group):
    """Several processes; what a person waits for goes over gloo, gradients on GPUs over NCCL.

    Whatever it sends raises ProcessLost where another process has ended, or does not answer for ``answer_seconds``; the
    message names the one that is missing.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        local_rank: int,
        local_size: int,
        *,
        backend: str,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        import torch.distributed as dist

        super().__init__(rank, size, local_rank, local_size)
        self.dist = dist
        self.answer_seconds = answer_seconds
        self.roll_call: RollCall | None = None
        with self.told_when_lost():
            store = meeting_place(rank, size, answer_seconds)
            self.roll_call = RollCall(store, rank, size)
            timeout = timedelta(seconds=answer_seconds)
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
            self.patient = dist.new_group(backend="gloo", timeout=timedelta(seconds=PATIENCE_SECONDS))

    @contextmanager
    def told_when_lost(self) -> Iterator[None]:
        if self.roll_call is not None:
            self.roll_call.exchanges += 1
        try:
            yield
        except RuntimeError as error:
            if ran_out_of_memory(error):
                raise  # it is this process that fails, and no other
            missing = "it does not come to where they meet" if self.roll_call is None else self.roll_call.missing()
            raise ProcessLost(
                f"process {self.rank + 1} of {self.size} has lost another one, which ended or did not answer for "
                f"{self.answer_seconds:g} s: {missing} ({str(error).splitlines()[0]})"
            ) from error

    def sum_gradients(self, parameters: "Iterable[nn.Parameter]", loss: float) -> float:
        import torch

        learning = [one for one in parameters if one.requires_grad and not hasattr(one, "full_tensor")]
        *there, total = self.sums(*(float(parameter.grad is not None) for parameter in learning), loss)
        bucket: list[Tensor] = []
        for parameter, somewhere in zip(learning, there, strict=True):
            if not somewhere:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if bucket and (
                bucket[0].dtype != parameter.dtype
                or sum(map(torch.numel, bucket)) + parameter.numel() > NUMBERS_AT_ONCE
            ):
                self.sum_in_place(bucket)
                bucket = []
            bucket.append(parameter.grad)
        if bucket:
            self.sum_in_place(bucket)
        return total

    def sum_in_place(self, tensors: "list[Tensor]") -> None:
        import torch

        flat = torch.cat([tensor.flatten() for tensor in tensors])
        with self.told_when_lost():
            self.dist.all_reduce(flat)
        for tensor, summed in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(summed.view_as(tensor))

    def sums(self, *values: float) -> list[float]:
        import torch

        numbers = torch.tensor(values, dtype=torch.float64)
        with self.told_when_lost():
            self.dist.all_reduce(numbers)
        return numbers.tolist()

    def any(self, *flags: bool) -> list[bool]:
        return [number > 0 for number in self.sums(*map(float, flags))]

    def gather(self, data: bytes) -> list[bytes]:
        return [self.broadcast(data, source) for source in range(self.size)]

    def of_first(self, data: bytes) -> bytes:
        return self.broadcast(data, 0, self.patient)

    def broadcast(self, data: bytes, source: int, group: Any = None) -> bytes:
        """The bytes of the process ``source``."""
        import torch

        size = torch.tensor(len(data))
        with self.told_when_lost():
            self.dist.broadcast(size, source, group)
            sent = torch.empty(int(size), dtype=torch.uint8)
            if self.rank == source and len(data):
                sent = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            for part in sent.split(BYTES_AT_ONCE) if len(sent) else ():
                self.dist.broadcast(part, source, group)
        return sent.numpy().tobytes()

    def take_weights(self, module: "nn.Module") -> None:
        with self.told_when_lost():
            for parameter in module.parameters():
                self.dist.broadcast(parameter.detach(), 0)

    def leave_word(self, why: str) -> None:
        if self.roll_call is not None:
            self.roll_call.leave_word(why)

    def leave(self, code: int) -> None:
        # At once: the threads of the connections may outlive the interpreter, which then aborts the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def meeting_place(rank: int, size: int, seconds: float) -> "Store":
    """The store at MASTER_ADDR and MASTER_PORT in which the processes find each other."""
    from torch.distributed import TCPStore
    from torch.distributed.rendezvous import rendezvous

    timeout = timedelta(seconds=seconds)
    if rank == 0 and MEETING_FD in os.environ:
        place = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), size)
        return TCPStore(*place, is_master=True, timeout=timeout, master_listen_fd=int(os.environ[MEETING_FD]))
    store: Store = next(rendezvous("env://", rank, size, timeout=timeout))[0]
    return store


def open_group(answer_seconds: float = ANSWER_SECONDS) -> Group:
    """The group that a launcher has put this process into; ``ALONE`` where there is none.

    Args:
        answer_seconds: how long a process may leave the others waiting in the middle of a step.

    Raises:
        ConfigError: there are more processes on this machine than GPUs, the launcher has not said where they meet, or
            accelerate has started one process where several were asked for.
        ProcessLost: the others cannot be reached.
    """
    found = names_of_rank()
    if found is None:
        check_accelerate()
        return ALONE
    rank, size, local_rank, local_size = (
        int(os.environ.get(name, one)) for name, one in zip(found, "0101", strict=True)
    )
    if size == 1:
        return ALONE
    import torch

    backend = "gloo"
    if uses_cuda():
        gpus = torch.cuda.device_count()
        if local_size > gpus:
            permitted = f"at most {gpus} on this machine, one for each GPU; CUDA_VISIBLE_DEVICES= trains on the CPU"
            raise ConfigError("processes, or the launcher's number", local_size, permitted)
        torch.cuda.set_device(local_rank)
        backend = "cpu:gloo,cuda:nccl"
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise ConfigError(name, None, f"set in the environment: it is where the {size} processes meet")
    return Processes(rank, size, local_rank, local_size, backend=backend, answer_seconds=answer_seconds)


def names_of_rank() -> tuple[str, str, str, str] | None:
    """What the launcher that started this process calls its rank, as in ``RANKS``; None where there was none."""
    return next((names for names in RANKS if all(name in os.environ for name in names[:2])), None)


def uses_cuda() -> bool:
    """Whether to train on CUDA: where there is any, unless ``accelerate launch --cpu`` said otherwise."""
    import torch

    return torch.cuda.is_available() and not accelerate_wants_cpu()


def accelerate_wants_cpu() -> bool:
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1")


def check_accelerate() -> None:
    """Refuse to train alone where ``accelerate launch --cpu`` was asked for several processes.

    On CPUs it starts them through mpirun alone, and without a file of hosts starts one and says nothing.
    """
    if accelerate_wants_cpu() and "MASTER_PORT" in os.environ:
        permitted = (
            "with --cpu only together with --mpirun_hostfile, since accelerate starts one process otherwise; "
            "give --multi_gpu in place of --cpu, which without a GPU trains on the CPU, or use torchrun"
        )
        raise ConfigError("num_processes", "more than 1", permitted)
