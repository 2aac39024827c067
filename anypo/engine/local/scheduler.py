"""Who runs next: admission, memory, and eviction. Knows nothing of models or sampling.

First come, first served. Waiting handles with the same prompt form a group: one of them runs the prompt, the others join when
it is done. Memory that runs short is taken first from the prefix tree, then from handles that are not running, then from the
handle admitted last, which waits and is computed again; so the oldest always proceeds.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from anypo.engine.local.backend import Backend, Work
from anypo.engine.local.handle import DONE, PAUSED, RUNNING, WAITING, Handle


class Scheduler:
    """Keeps the handles of one engine."""

    def __init__(self, backend: Backend, max_running: int, max_rows: int) -> None:
        self.backend = backend
        self.max_running, self.max_rows = max_running, max_rows
        self.epoch = 0
        self.evictions = self.reused = 0
        self.running: list[Handle] = []
        self._groups: OrderedDict[object, list[Handle]] = OrderedDict()
        self._idle: OrderedDict[int, Handle] = OrderedDict()  # not running, but holding memory
        self.parked: dict[int, Handle] = {}  # paused

    def __bool__(self) -> bool:
        """Whether there is something to run."""
        return bool(self.running or self._groups)

    def add(self, handle: Handle, front: bool = False) -> None:
        """Queue a handle; a fresh one joins the group of its prompt."""
        handle.state = WAITING
        fresh = handle._memory is None and not len(handle) and not handle._forced
        key: object = handle._tokens[: handle._length].tobytes() if fresh else id(handle)
        self._groups.setdefault(key, []).append(handle)
        if front:
            self._groups.move_to_end(key, last=False)
        if handle._memory is not None:
            self._idle[id(handle)] = handle

    def remove(self, handle: Handle) -> None:
        """Take a handle out of wherever it is; its memory stays its own."""
        if handle.state == RUNNING:
            home = next((leader._twins for leader in self.running if handle in leader._twins), self.running)
            home.remove(handle)
        self._idle.pop(id(handle), None)
        self.parked.pop(id(handle), None)
        if handle.state == WAITING:
            for key, group in self._groups.items():
                if handle in group:
                    group.remove(handle)
                    if not group:
                        del self._groups[key]
                    break
        for twin in reversed(handle._twins):
            self.add(twin, front=True)
        handle._twins = []

    def park(self, handle: Handle) -> None:
        """Take a handle out until it is queued again, keeping its memory as long as nobody needs it."""
        self.remove(handle)
        handle.state = PAUSED
        self.parked[id(handle)] = handle
        if handle._memory is not None:
            self._idle[id(handle)] = handle

    def end(self, handle: Handle) -> None:
        """Take a handle out for good."""
        self.remove(handle)
        self.forfeit(handle)
        handle.state = DONE

    def forfeit(self, handle: Handle) -> None:
        """Give up a handle's memory, leaving what it computed to those who come after."""
        if handle._memory is not None:
            self.publish(handle, whole=False)
            self.backend.drop(handle)
        self._idle.pop(id(handle), None)

    def publish(self, handle: Handle, whole: bool) -> None:
        """Offer what `handle` has computed to others, if it is all of the current weights: `whole` cells only while it writes on."""
        if handle._epoch == self.epoch and handle._memory is not None:
            self.backend.publish(handle, whole)

    def new_weights(self) -> None:
        """What is cached for reuse is void; handles keep what they have."""
        self.epoch += 1
        self.backend.forget()

    def next(self) -> list[Work]:
        """Admit what fits, and say what to run."""
        self._admit()
        work: list[Work] = []
        budget = self.max_rows
        for handle in list(self.running):
            if budget <= 0 or handle.state != RUNNING:
                continue
            item = self._work(handle, budget)
            if self._make_room(handle, handle._cached + len(item.tokens)):
                work.append(item)
                budget -= len(item.tokens)
        return [item for item in work if item.handle.state == RUNNING]

    def _work(self, handle: Handle, budget: int) -> Work:
        handle._cached = min(handle._cached, handle._length - 1)
        todo = handle._tokens[handle._cached : handle._length]
        most = self.backend.chunk(handle, budget)
        if len(todo) > most:
            return Work(handle, todo[:most], 0)
        ahead = handle._forced[: max(0, min(most - len(todo) + 1, handle.limit - handle._length))]
        if len(ahead) > 1:
            todo = np.concatenate([todo, np.array(ahead[:-1], dtype=np.int64)])
        return Work(handle, todo, max(1, len(ahead)))

    def _admit(self) -> None:
        while self._groups:
            places = self.max_running - sum(1 + len(handle._twins) for handle in self.running)
            if places < 1:
                return
            key, group = next(iter(self._groups.items()))
            leader, twins = group[0], group[1:places]
            found = leader._memory is None
            if found:
                self.backend.find(leader)
                leader._epoch = self.epoch
            size = self.backend.size
            tails = len(twins) if size > 1 else len(twins) * leader._length
            need = -(-(leader._length + 1 - leader._cached) // size) + 1 + tails
            if self.running and need + len(self.running) > self.backend.spare():
                if not leader._cached:
                    self.backend.drop(leader)
                elif id(leader) not in self._idle:
                    self._idle[id(leader)] = leader
                return
            del group[: 1 + len(twins)]
            if not group:
                del self._groups[key]
            self._idle.pop(id(leader), None)
            self.reused += found * leader._cached + len(twins) * leader._length
            leader._twins = list(twins)
            for handle in (leader, *twins):
                handle.state = RUNNING
            self.running.append(leader)

    def join(self, leader: Handle) -> list[Handle]:
        """The prompt of `leader` is computed: its twins share it and run by themselves. Returns them."""
        twins, leader._twins = leader._twins, []
        for twin in twins:
            twin._epoch = leader._epoch
            self.backend.fork(leader, twin, leader._cached)
            self.running.append(twin)
        return twins

    def _make_room(self, handle: Handle, length: int) -> bool:
        while not self.backend.grow(handle, length):
            if self._idle:
                _, other = self._idle.popitem()
                self.backend.drop(other)
                self.evictions += 1
                continue
            last = self.running[-1]
            self.remove(last)
            self.backend.drop(last)
            self.evictions += 1
            self.add(last, front=True)
            if last is handle:
                return False
        return True
