"""A batch shared out among processes, so that loss, gradient and log are those of one process with the whole batch.

Processes average their gradients with equal weights. So each weighs its part of the loss by its share
of what the loss is a mean over: pairs, or tokens of chosen responses.

    >>> [share([0, 1, 2, 3, 4], index, 2) for index in range(2)]
    [[0, 1], [2, 3, 4]]
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from datasets import Dataset, concatenate_datasets
from torch.distributed.tensor import DTensor
from torch.utils.data import BatchSampler, Sampler

from trimtab.store.distributed import Launched

METRIC_TOKENS = {
    "entropy": "responses", "logits/chosen": "chosen", "mean_token_accuracy": "chosen", "logits/rejected": "rejected",
}  # fmt: skip
"""Figures that are means over tokens; all others are means over pairs."""


def share(batch: Sequence[int], index: int, count: int) -> list[int]:
    """The rows of process `index` of `count`: as many as the others', or one more or less; maybe none."""
    return list(batch[len(batch) * index // count : len(batch) * (index + 1) // count])


class BatchShare(BatchSampler):
    """The rows of one process in each batch of `batch_size` rows, in the order of `sampler`.

    Where a last, smaller batch has none for it, it gets the row `idle`, which counts for nothing: no process may skip a
    step.
    """

    def __init__(self, sampler: Sampler[int] | Iterable[int], batch_size: int, process: Launched, idle: int) -> None:
        super().__init__(sampler, batch_size, drop_last=False)
        self.process, self.idle = process, idle

    def __iter__(self) -> Iterator[list[int]]:
        for batch in super().__iter__():
            yield share(batch, self.process.index, self.process.count) or [self.idle]


def with_idle_row(rows: Dataset) -> Dataset:
    """The rows, and after them one like the first but with empty responses: its loss has no gradient."""
    nothing = {"chosen_ids": [], "rejected_ids": [], "ref_chosen_logps": 0.0, "ref_rejected_logps": 0.0}
    idle = {name: nothing.get(name, value) for name, value in rows[0].items()}
    return concatenate_datasets([rows, Dataset.from_list([idle], features=rows.features)])


@dataclass(frozen=True)
class SingleProcess:
    """Stands in for the accelerator while TRL computes one batch, as if this process were the only one.

    TRL gathers each figure over the processes as if all had the same number of rows.
    """

    device: torch.device

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def gather_for_metrics(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor


class BatchCounts:
    """How many pairs and tokens of a batch this process has (`local`), and all processes together (`total`)."""

    def __init__(self, batch: Mapping[str, torch.Tensor], accelerator: Accelerator) -> None:
        responses = batch["completion_mask"].sum(1)
        chosen, rejected = responses.chunk(2)
        counts = {
            "pairs": (chosen > 0).sum(),
            "chosen": chosen.sum(),
            "rejected": rejected.sum(),
            "responses": responses.sum(),
            "attended": batch["attention_mask"][responses > 0].sum(),
        }
        self.local = {name: int(count) for name, count in counts.items()}
        self._accelerator = accelerator
        summed = self._sum(list(self.local.values()))
        self.total = {name: round(count) for name, count in zip(self.local, summed, strict=True)}

    def weighed(self, weight: float, base: str) -> float:
        """The weight of this process's mean over its pairs or tokens; the mean over processes is then the batch's."""
        return weight * self._accelerator.num_processes * self.local[base] / self.total[base]

    def over_processes(self, loss: float, figures: Mapping[str, float]) -> tuple[float, dict[str, float]]:
        """The loss and the figures of the whole batch, from those of this process's part of it."""
        bases = [METRIC_TOKENS.get(name, "pairs") for name in figures]
        weighted = [figure * self.local[base] for base, figure in zip(bases, figures.values(), strict=True)]
        loss, *sums = self._sum([loss, *weighted])
        means = [total / self.total[base] for base, total in zip(bases, sums, strict=True)]
        return loss / self._accelerator.num_processes, dict(zip(figures, means, strict=True))

    def _sum(self, values: Sequence[float]) -> list[float]:
        tensor = torch.tensor(values, dtype=torch.float64, device=self._accelerator.device)
        sums: list[float] = self._accelerator.reduce(tensor, "sum").tolist()
        return sums


@torch.no_grad()
def make_whole(model: torch.nn.Module) -> None:
    """Replace weights that FSDP has sharded by whole ones; all processes must call it."""
    whole: dict[int, torch.nn.Parameter] = {}  # tied weights stay tied
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if isinstance(weight, DTensor):
                if id(weight) not in whole:
                    whole[id(weight)] = torch.nn.Parameter(weight.full_tensor(), weight.requires_grad)
                module.register_parameter(name, whole[id(weight)])
