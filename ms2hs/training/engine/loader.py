"""Batches of a training run, made ahead by other processes where that is wanted."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ms2hs.errors import Ms2hsError
from ms2hs.training.engine.signals import leave_signals_to_parent

Batch = dict[str, Any]
"""Arrays and plain values by name."""


def batches(make: Callable[[int], Batch], steps: range, workers: int) -> Iterator[Batch]:
    """The batches of these steps, in their order.

    Parameters
    ----------
    make : gives the batch of a step; can be pickled.
    workers : processes that make them; 0: this one does, when asked.

    Raises
    ------
    Ms2hsError : what `make` raised.
    """
    loader = DataLoader(
        _Batches(make, packed=workers > 0),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        collate_fn=_unchanged,
        worker_init_fn=leave_signals_to_parent,
    )
    for batch in loader:
        if isinstance(batch, Ms2hsError):
            raise batch
        yield {name: _unpacked(value) for name, value in batch.items()} if workers else batch


@dataclass(frozen=True)
class _Batches(Dataset[Any]):
    """Batches by the number of their step."""

    make: Callable[[int], Batch]
    packed: bool
    """Whether arrays go between processes: as tensors, which are shared and not copied."""

    def __getitem__(self, step: int) -> Batch | Ms2hsError:
        try:
            batch = self.make(step)
        except Ms2hsError as error:  # given back as it is: raised in a worker, it would come with a traceback as text
            return error
        return {name: _packed(value) for name, value in batch.items()} if self.packed else batch


def _packed(value: Any) -> Any:  # noqa: ANN401  whatever is in a batch
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(np.require(value, requirements=["C", "W"]))
    return value


def _unpacked(value: Any) -> Any:  # noqa: ANN401  whatever is in a batch
    return value.numpy() if isinstance(value, Tensor) else value


def _unchanged(batch: Any) -> Any:  # noqa: ANN401  whatever is in a batch
    return batch
