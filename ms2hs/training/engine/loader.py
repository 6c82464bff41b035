"""Loading of batches, in the training process or ahead of time in worker processes."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Semaphore
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ms2hs.errors import Ms2hsError
from ms2hs.training.engine.signals import leave_signals_to_parent

Batch = dict[str, Any]
"""Arrays and plain values by name."""


def batches(load: Callable[[int], Batch], steps: range, workers: int) -> Iterator[Batch]:
    """The batches of these steps, in order.

    Parameters
    ----------
    load : the batch of a step; picklable.
    workers : processes that load batches; 0: this process.

    Raises
    ------
    Ms2hsError : raised by `load`.
    """
    end = multiprocessing.Semaphore(0)  # one release ends one worker
    loader = DataLoader(
        _Batches(load, packed=workers > 0),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        collate_fn=_unchanged,
        worker_init_fn=partial(_prepare_worker, end),
    )
    iterator = iter(loader)
    try:
        for batch in iterator:
            if isinstance(batch, Ms2hsError):
                raise batch
            yield {name: _unpacked(value) for name, value in batch.items()} if workers else batch
    finally:
        for _ in range(workers):  # before `iterator` ends: it would wait for the batches that are being loaded
            end.release()
        del iterator


def _prepare_worker(end: Semaphore, _worker: int) -> None:
    """Leave signals to the training process, and exit at once when it releases `end`."""
    leave_signals_to_parent()
    threading.Thread(target=lambda: end.acquire() and os._exit(0), daemon=True).start()


@dataclass(frozen=True)
class _Batches(Dataset[Any]):
    """Batches by step."""

    load: Callable[[int], Batch]
    packed: bool
    """Whether arrays become tensors, which processes share without a copy."""

    def __getitem__(self, step: int) -> Batch | Ms2hsError:
        try:
            batch = self.load(step)
        except Ms2hsError as error:  # returned, since an error raised in a worker arrives with its traceback as text
            return error
        return {name: _packed(value) for name, value in batch.items()} if self.packed else batch


def _packed(value: Any) -> Any:  # noqa: ANN401  any value of a batch
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(np.require(value, requirements=["C", "W"]))
    return value


def _unpacked(value: Any) -> Any:  # noqa: ANN401  any value of a batch
    return value.numpy() if isinstance(value, Tensor) else value


def _unchanged(batch: Any) -> Any:  # noqa: ANN401  any value of a batch
    return batch
