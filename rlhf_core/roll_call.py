"""Who of a run's processes is missing, so that the others can name it: each leaves beats where they met."""

import json
import os
import socket
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.distributed import Store

BEAT_SECONDS = 1.0
SILENT_SECONDS = 3.0  # without a beat, after which a process counts as gone or standing still
STORE_SECONDS = 5.0  # that the store itself may take to answer


class RollCall:
    """Beats of this process, once a second from a thread, and a look at those of the others when one is missed.

    A beat tells how many exchanges the process has begun, so that one that is merely behind is told from one that is
    gone. Whoever leaves with an error may leave a word about it.

    Args:
        store: where the processes met; a connection of its own is made to it.
        rank, size: of this process, from 0, and how many there are.
    """

    def __init__(self, store: "Store", rank: int, size: int) -> None:
        self.store = store.clone()  # type: ignore[attr-defined]
        self.store.set_timeout(timedelta(seconds=STORE_SECONDS))
        self.looking = store.clone()  # type: ignore[attr-defined]  # a connection answers one question at a time
        self.looking.set_timeout(timedelta(seconds=STORE_SECONDS))
        self.rank, self.size = rank, size
        self.exchanges = 0
        self.beat(0)
        threading.Thread(target=self.keep_beating, name="roll-call", daemon=True).start()

    def beat(self, count: int) -> None:
        note = {"beat": count, "exchanges": self.exchanges, "pid": os.getpid(), "host": socket.gethostname()}
        self.store.set(f"beat/{self.rank}", json.dumps(note))

    def keep_beating(self) -> None:
        count = 0
        while True:
            time.sleep(BEAT_SECONDS)
            count += 1
            try:
                self.beat(count)
            except RuntimeError:
                return  # the store has gone with the process that held it: an exchange tells the rest

    def leave_word(self, why: str) -> None:
        """Tell the others why this process leaves; nothing happens where the store is gone."""
        try:
            self.looking.set(f"word/{self.rank}", why)
        except RuntimeError:
            return

    def missing(self) -> str:
        """The others that this process waits for in vain, in words; takes ``SILENT_SECONDS``."""
        try:
            before = self.notes()
            if not any("word" in note for note in before.values()):
                time.sleep(SILENT_SECONDS)
            after = self.notes()
        except RuntimeError:
            return "the process or launcher that holds the meeting place, mostly that of process 1, has ended"
        told = [self.describe(rank, before[rank], note) for rank, note in after.items()]
        return "; ".join(filter(None, told)) or "all of them still run, so it is the connection between them that broke"

    def describe(self, rank: int, before: dict[str, Any], after: dict[str, Any]) -> str:
        """What another process is up to, or nothing where it waits as this one does."""
        named = f"process {rank + 1}"
        if "pid" in after:
            named += f" (pid {after['pid']} on {after['host']})"
        if "word" in after:
            return f"{named} {after['word']}"
        if after.get("beat") == before.get("beat"):
            return f"{named} has ended without a word, as one that the kernel kills for want of memory, or stands still"
        if after["exchanges"] < self.exchanges:
            return f"{named} still runs and is {self.exchanges - after['exchanges']} exchanges behind"
        return ""

    def notes(self) -> dict[int, dict[str, Any]]:
        """The latest beat of each other process and the word that it left, by rank."""
        found: dict[int, dict[str, Any]] = {}
        for rank in range(self.size):
            if rank != self.rank:
                note = json.loads(self.looking.get(f"beat/{rank}")) if self.looking.check([f"beat/{rank}"]) else {}
                if self.looking.check([f"word/{rank}"]):
                    note["word"] = self.looking.get(f"word/{rank}").decode()
                found[rank] = note
        return found
