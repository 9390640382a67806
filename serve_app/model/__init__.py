"""The model: loaded weights behind an engine.

OpenMP's threads spin for milliseconds at the end of every parallel region unless they are told not to, and libgomp reads that once, when
torch is first imported. On two cores with other busy processes, which a serving replica always has beside it, one decode step took 0.74 s
with spinning and 0.08 s without (SmolLM2-135M, fp32, AVX2). An explicit setting of the environment wins.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
