"""Where the kernels of the GPU are tested: on one where there is one, else on the CPU in Triton's
interpreter.

To be imported before anything that loads Triton.
"""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
