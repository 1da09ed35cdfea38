"""The supervisor of one training run: claims its row, trains it in a process of its own, and writes down what happens.

``supervise`` is called by the Celery task and by ``manage.py run_trainer``. Only the supervisor touches the database;
the training process reads and writes its run directory. Whatever the supervisor publishes goes through the fence of its
claim, so one that was paused or cut off, and replaced meanwhile, can write nothing more. It loads no torch.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar
from uuid import UUID

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection, transaction

from rlhf_core.config import Settings
from rlhf_core.errors import SteersmanError
from rlhf_core.memory import memory_cure
from rlhf_core.store import verify
from rlhf_core.training.run_directory import (
    EXIT_DIVERGED,
    EXIT_DONE,
    EXIT_OUT_OF_MEMORY,
    EXIT_REFUSED,
    EXIT_STOPPED,
    RunDirectory,
    read_events,
)
from webapp.errors import FenceLost
from webapp.local.process import birth_of, end_process, is_running
from webapp.runs import leases, progress, results
from webapp.runs.models import Run
from workers.run_files import read_child, read_evaluation, run_folder, write_child, write_run_directory

log = logging.getLogger(__name__)

# A training process has no use for these.
SECRETS = (
    *("DATABASE_URL", "BROKER_URL", "SECRET_KEY", "STEERSMAN_ROLE"),
    *("DATABASE_URL_FILE", "BROKER_URL_FILE", "SECRET_KEY_FILE"),
)
LAST_LINES = 15
DATABASE_ERRORS = (OperationalError, InterfaceError)
Reason = Literal["cancel", "drain", "stall", "database"]
Value = TypeVar("Value")


class DatabaseAway(Exception):
    """The database did not answer for RUN_DATABASE_SECONDS; the run's state is saved, its lease runs out by itself."""


def supervise(run_id: UUID, *, should_stop: Callable[[], bool] = lambda: False) -> bool:
    """Train one run to its end, or as far as possible; says whether it could be claimed.

    A run that somebody else holds, or that is finished, is left alone: so a message delivered twice does no harm.

    Args:
        should_stop: asked twice a second; true lets the training process save its state, and puts the run back into
            the queue without spending an attempt.
    """
    claim = leases.claim(run_id, f"{socket.gethostname()}:{os.getpid()}")
    if claim is None:
        log.info("run %s is not free: nothing to do", run_id)
        return False
    log.info("%s of %s is claimed with fence %d", claim.run, claim.run.project.slug, claim.fence)
    try:
        Supervision(claim, should_stop).run_to_end()
    except FenceLost as lost:
        log.warning("%s", lost)
    except DatabaseAway as away:
        log.error("%s: %s", claim.run, away)
    return True


class Supervision:
    """One claim of one run, from its run directory to its end."""

    def __init__(self, claim: leases.Claim, should_stop: Callable[[], bool]) -> None:
        self.claim = claim
        self.run: Run = claim.run
        self.should_stop = should_stop
        self.folder = run_folder(self.run)
        self.offset = self.read_to = self.run.events_offset
        self.saved = (self.run.saved_step, 0)
        self.is_cancelled = self.run.cancel_requested_at is not None
        self.renewed_at = time.monotonic()
        self.heard_at = time.monotonic()
        self.has_begun = False
        self.away_since: float | None = None

    def run_to_end(self) -> None:
        """Train until the run succeeds, fails, is cancelled, or goes back into the queue.

        Raises:
            FenceLost: somebody else has the run; our process is gone.
            DatabaseAway: the database stayed away; our process is gone.
        """
        try:
            with self.lease_kept():
                directory = self.insist(lambda: write_run_directory(self.run))
        except (SteersmanError, OSError) as error:
            message = f"The run could not begin: {error}"
            self.insist(lambda: results.fail(self.claim, error=message))
            return
        self.end_predecessor()
        self.saved = max(self.saved, directory.saved_place)
        crashes = 0
        while True:
            self.insist(self.renew)
            if self.is_cancelled:
                self.insist(lambda: results.finish_cancelled(self.claim))
                return
            if self.should_stop():
                self.insist(lambda: leases.requeue(self.claim, spend_attempt=False, reason="the worker stops"))
                return
            saved_before = self.saved
            code, reason = self.train(directory)
            if self.settle(directory, code, reason):
                return
            crashes = 1 if self.saved > saved_before else crashes + 1
            told = self.describe_crash(code, reason, directory.config)
            log.warning("%s: %s", self.run, told)
            if crashes >= settings.RUN_MAX_ATTEMPTS:
                message = f"{told} That was attempt {crashes} without progress that was saved, so the run is given up."
                self.insist(partial(results.fail, self.claim, message))
                return
            self.insist(partial(progress.record_log, self.claim, f"{told} It is started again."))
            self.pause(min(2.0 ** (crashes - 1), 10.0))

    def settle(self, directory: RunDirectory, code: int, reason: Reason | None) -> bool:
        """Write down how the training process ended; False where it is to be started again."""
        if reason != "database":
            self.insist(self.record_new)  # what it wrote last, where the database was away just then
        if self.is_cancelled:
            self.insist(lambda: results.finish_cancelled(self.claim))
        elif code == EXIT_DONE and directory.result is not None:
            self.succeed(directory.result)
        elif code in (EXIT_REFUSED, EXIT_DIVERGED):
            self.insist(lambda: results.fail(self.claim, error=self.stated_error()))
        elif reason == "drain":
            self.insist(lambda: leases.requeue(self.claim, spend_attempt=False, reason="the worker stops"))
        elif reason == "database":
            raise DatabaseAway(f"the database has not answered for {settings.RUN_DATABASE_SECONDS} s")
        else:
            return False
        words = {EXIT_DONE: "done", EXIT_REFUSED: "refused", EXIT_DIVERGED: "diverged"}
        log.info("%s ends: %s", self.run, "cancelled" if self.is_cancelled else words.get(code, "back in the queue"))
        return True

    def succeed(self, result: dict) -> None:
        """Record the checkpoints and what an evaluation found, once every byte of them is checked."""
        try:
            with self.lease_kept():
                for output in result["outputs"]:
                    stored = verify(output["path"])
                    if stored["id"] != output["id"] or stored["kind"] != output["kind"]:
                        raise SteersmanError(f"{output['path']} is not the {output['kind']} that the run reported")
                found = read_evaluation(self.run, result)
        except SteersmanError as error:
            what = "samples are" if self.run.kind == Run.Kind.EVALUATE else "checkpoint is"
            message = f"The run ended well, but its {what} damaged: {error}"
            self.insist(lambda: results.fail(self.claim, error=message))
            return
        report = result.get("report") if found is None else None
        self.insist(
            lambda: results.succeed(
                self.claim, outputs=result["outputs"], result=result["metrics"], evaluation=found, report=report
            )
        )

    # --- The training process ---------------------------------------------------------------------------------------

    def train(self, directory: RunDirectory) -> tuple[int, Reason | None]:
        """Start the training process and watch it to its end; returns its exit code and why we stopped it, if we did.

        However this is left, the process and its group are gone.
        """
        child = TrainingProcess(directory.kind, self.folder, threads=int(self.run.config.get("threads") or 0))
        write_child(self.folder, pid=child.pid, birth=birth_of(child.pid), fence=self.claim.fence)
        log.info("%s trains in process %d", self.run, child.pid)
        self.heard_at, self.has_begun = time.monotonic(), False
        asked: Reason | None = None
        asked_at = 0.0
        try:
            while True:
                code = child.poll()  # first, so that what it wrote last is read below
                self.publish()
                if code is not None:
                    return code, asked
                if asked is None and (asked := self.reason_to_stop()) is not None:
                    log.info("%s: the training process is asked to stop (%s)", self.run, asked)
                    asked_at = time.monotonic()
                    child.send(signal.SIGTERM)
                if asked is not None and time.monotonic() - asked_at > settings.RUN_STOP_SECONDS:
                    log.warning("%s: the training process does not stop and is killed", self.run)
                    child.kill()
                child.wait(settings.RUN_POLL_SECONDS)
        finally:
            child.close()

    def reason_to_stop(self) -> Reason | None:
        now = time.monotonic()
        if self.is_cancelled:
            return "cancel"
        if self.should_stop():
            return "drain"
        if self.away_since is not None and now - self.away_since > settings.RUN_DATABASE_SECONDS:
            return "database"
        patience = settings.RUN_STALL_SECONDS if self.has_begun else settings.RUN_START_SECONDS
        return "stall" if now - self.heard_at > patience else None

    def end_predecessor(self) -> None:
        """End the training process that an earlier claim left in this directory, if it still runs.

        We hold the run's fence, so it works for nobody. One whose supervisor died ends by itself within seconds; one
        whose supervisor is merely stopped does not.
        """
        found = read_child(self.folder)
        if found is not None and is_running(found[0]) and birth_of(found[0]) == found[1]:
            log.warning("%s: process %d of an earlier attempt still runs and is killed", self.run, found[0])
            end_process(found[0], (signal.SIGKILL, 5.0), group=True)

    # --- What is published ------------------------------------------------------------------------------------------

    def publish(self) -> None:
        """Record new events and renew the lease; while the database is away, nothing is lost and nothing written.

        Raises:
            FenceLost: the run is somebody else's.
        """
        events, offset = self.read_new()
        if offset > self.read_to:
            self.read_to, self.heard_at, self.has_begun = offset, time.monotonic(), True
        is_due = time.monotonic() - self.renewed_at >= settings.RUN_RENEW_SECONDS
        try:
            if events:
                self.record(events, offset)
            if is_due:
                self.renew()
        except DATABASE_ERRORS as error:
            if self.away_since is None:
                log.warning("%s: the database does not answer, training goes on: %s", self.run, error)
                self.away_since = time.monotonic()
            connection.close()
        else:
            if events or is_due:
                self.away_since = None

    def read_new(self) -> tuple[list[dict], int]:
        """Events that are not recorded yet, and how far the file is read with them."""
        return read_events(self.folder / "events.jsonl", self.offset)

    def record_new(self) -> None:
        """Record what is not recorded yet."""
        events, offset = self.read_new()
        if events:
            self.record(events, offset)

    def renew(self) -> None:
        """Hold the lease a while longer and learn whether the run is to be cancelled.

        Raises:
            FenceLost: the run is somebody else's.
        """
        found = leases.renew(self.claim)
        if not found.alive:
            raise FenceLost(run=self.run, fence=self.claim.fence)
        self.renewed_at = time.monotonic()
        self.is_cancelled = self.is_cancelled or found.cancel_requested

    @contextmanager
    def lease_kept(self) -> Iterator[None]:
        """Renew the lease from a thread while files are written or read, which may take longer than it lasts.

        Whether the claim still holds, the next write tells.
        """
        is_over = threading.Event()

        def keep() -> None:
            while not is_over.wait(settings.RUN_RENEW_SECONDS):
                try:
                    leases.renew(self.claim)
                except DATABASE_ERRORS as error:
                    log.warning("%s: the lease could not be renewed: %s", self.run, error)
                finally:
                    connection.close()  # this thread's own

        keeper = threading.Thread(target=keep, name="keep-lease", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            is_over.set()
            keeper.join()

    def record(self, events: list[dict], offset: int) -> None:
        """Write events and how far the file is recorded in one transaction: none is lost and none comes twice."""
        metrics = {int(event["step"]): event["metrics"] for event in events if event["kind"] == "metrics"}
        saved = [(int(event["step"]), int(event.get("part", 0))) for event in events if event["kind"] == "saved"]
        steps = [event for event in events if event["kind"] == "progress"]
        texts = [event for event in events if event["kind"] == "sample"]
        with transaction.atomic():
            if metrics:
                progress.record_metrics(self.claim, rows=list(metrics.items()))
            for event in events:
                if event["kind"] == "log":
                    progress.record_log(self.claim, message=str(event["message"]))
            if texts:
                progress.record_texts(self.claim, texts)
            if saved:
                progress.record_saved(self.claim, step=saved[-1][0], is_further=max(saved) > self.saved)
            if steps:
                last = steps[-1]
                progress.record_progress(
                    self.claim, step=int(last["step"]), total_steps=int(last["total_steps"]), phase=last["phase"]
                )
            progress.record_read(self.claim, offset)
        self.offset = offset
        self.saved = max([self.saved, *saved])

    def insist(self, write: Callable[[], Value]) -> Value:
        """Do a last write, again and again while the database is away.

        Raises:
            FenceLost: the run is somebody else's.
            DatabaseAway: it stayed away for RUN_DATABASE_SECONDS.
        """
        began = time.monotonic()
        while True:
            try:
                return write()
            except DATABASE_ERRORS as error:
                connection.close()
                if time.monotonic() - began > settings.RUN_DATABASE_SECONDS:
                    raise DatabaseAway(f"no answer for {settings.RUN_DATABASE_SECONDS} s") from error
                time.sleep(settings.RUN_POLL_SECONDS)

    def pause(self, seconds: float) -> None:
        """Wait before the next start, with the lease renewed."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.is_cancelled and not self.should_stop():
            time.sleep(min(settings.RUN_POLL_SECONDS, seconds))
            self.publish()

    # --- Words ------------------------------------------------------------------------------------------------------

    def stated_error(self) -> str:
        """Why the training process refused or gave up, in its own words."""
        try:
            told = json.loads((self.folder / "error.json").read_bytes())
            return str(told["message"])
        except (OSError, ValueError, KeyError, TypeError):
            return f"The training process gave no reason. Its last words:\n{last_words(self.folder)}"

    def describe_crash(self, code: int, reason: Reason | None, config: Settings) -> str:
        """What happened to the training process, for the run's log."""
        if reason == "stall":
            seconds = settings.RUN_STALL_SECONDS if self.has_begun else settings.RUN_START_SECONDS
            return f"The training process made no step for {seconds} s and was stopped."
        if code == EXIT_STOPPED:
            return "The training process was asked to stop by somebody else."
        if code == EXIT_OUT_OF_MEMORY:
            return f"The training process has no memory left: {self.stated_error()}."
        if code == -signal.SIGKILL:
            cure = memory_cure(config)
            return f"The training process was killed (SIGKILL), most likely by the kernel for want of memory. {cure}."
        if code < 0:
            return f"The training process was ended by {signal.Signals(-code).name}."
        return f"The training process ended with code {code}. Its last words:\n{last_words(self.folder)}"


class TrainingProcess:
    """``python -m rlhf_core KIND`` in a session of its own, with a pipe whose closing tells it that we are gone."""

    def __init__(self, kind: str, folder: Path, *, threads: int) -> None:
        reading, self.control = os.pipe()
        environment = {name: value for name, value in os.environ.items() if name not in SECRETS}
        environment |= {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
        # Spinning threads halve the speed wherever another process wants a core, as the sampler does.
        environment.setdefault("OMP_WAIT_POLICY", "passive")
        if threads:
            environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        command = [sys.executable, "-m", "rlhf_core", kind, "--run-dir", str(folder), "--control-fd", str(reading)]
        try:
            with (folder / "output.log").open("ab") as output:
                self.process = subprocess.Popen(
                    command,
                    cwd=settings.BASE_DIR,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=[reading],
                    start_new_session=True,
                )
        finally:
            os.close(reading)
        self.pid = self.process.pid

    def poll(self) -> int | None:
        """The exit code, negative for a signal, or None while it runs. Whatever it left in its group is killed.

        It is looked at before it is reaped: until then its group's number can be nobody else's.
        """
        if self.process.returncode is None:
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return None
            self.kill()
        return self.process.wait()

    def wait(self, seconds: float) -> None:
        """Sleep until it ends, ``seconds`` at most; does not reap it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return
            time.sleep(min(0.05, seconds))

    def send(self, number: int) -> None:
        """Send a signal to the process alone; that it has just ended is no error.

        Not by ``Popen.send_signal``, which reaps a process that has ended: ``poll`` must find it.
        """
        if self.process.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the whole group."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Make sure that it is gone, and close the pipe."""
        if self.process.returncode is None:
            self.kill()
            self.process.wait()
        os.close(self.control)


def last_words(folder: Path) -> str:
    """The end of what the training process printed."""
    try:
        lines = (folder / "output.log").read_text(errors="replace").splitlines()
    except OSError:
        return "(nothing)"
    return "\n".join(lines[-LAST_LINES:]) or "(nothing)"
