"""Makes shared modules of tests importable, and keeps each test to one thread, so that they run side by side."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
