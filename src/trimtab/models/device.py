"""Small tensors made of Python numbers, sent to a device without waiting for its earlier work.

`torch.tensor(values, device="cuda")` waits until the device is idle, and idle it stays until the next launch.
"""

from collections.abc import Sequence

import numpy as np
import torch


def on_device(values: Sequence[int] | Sequence[Sequence[int]] | np.ndarray, device: torch.device) -> torch.Tensor:
    """The numbers as a tensor on the device: integers as int64, an array in its own type; a range is made there."""
    if isinstance(values, range):
        return torch.arange(values.start, values.stop, values.step, device=device)
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else torch.tensor(values, dtype=torch.long)
    return tensor.to(device, non_blocking=True)  # pageable memory is staged before this returns, so it may be freed
