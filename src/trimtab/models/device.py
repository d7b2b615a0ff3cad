"""Small tensors made of Python numbers, sent to a device without waiting for what it still has to do.

`torch.tensor(values, device="cuda")` waits until the device is idle, which it then is until the next launch reaches it.

    >>> on_device([3, 5], torch.device("cpu"))
    tensor([3, 5])
"""

from collections.abc import Sequence

import numpy as np
import torch


def on_device(values: Sequence[int] | Sequence[Sequence[int]] | np.ndarray, device: torch.device) -> torch.Tensor:
    """The numbers as a tensor on the device, integers as int64, an array as it is; a range is made right there."""
    if isinstance(values, range):
        return torch.arange(values.start, values.stop, values.step, device=device)
    own = torch.from_numpy(values) if isinstance(values, np.ndarray) else torch.tensor(values, dtype=torch.long)
    return own.to(device, non_blocking=True)  # pageable memory is staged before this returns: it may go then
