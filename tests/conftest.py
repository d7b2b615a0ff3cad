"""Makes the shared modules of tests importable, and keeps tests to one thread each, so that they can run side by side."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
