"""Makes shared modules of tests importable, and keeps each test and what it starts to one thread, so that they run
side by side."""

import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)
