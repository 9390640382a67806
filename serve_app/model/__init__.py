"""The model: loaded weights behind an engine.

OpenMP's threads spin between two kernels before they sleep, for milliseconds unless they are told otherwise; libgomp reads that once, when
torch is first imported. A step is a thousand kernels: without spinning, waking a thread takes longer than many of them; with it, a thread
that has lost its core keeps the others spinning. On two cores, milliseconds of a chunk of 256 prompt tokens and of a decode step of 32
rows, in one run each:

    spin count                    quiet      a neighbour busy a third of the time    one busy always
    none (passive)                152, 89    196, 102                                166, 81
    3,000 (tens of microseconds)   84, 52    150, 72                                 331, 178
    30,000                         86, 46    175, 89                                 688, 415

A serving replica has neighbours of the second kind. An explicit setting of the environment wins.
"""

import os

if "OMP_WAIT_POLICY" not in os.environ and "GOMP_SPINCOUNT" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "passive"  # of other OpenMP libraries
    os.environ["GOMP_SPINCOUNT"] = "3000"
