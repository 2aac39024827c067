"""Memory is measured, not guessed."""

import numpy as np

from anypo.run.record.memory import peak_gb, resident_gb


def test_the_peak_remembers_what_was_given_back():
    before = resident_gb()
    block = np.ones(3 * 2**26)  # 1.5 GiB, touched
    held = resident_gb()
    del block
    assert held - before > 1.4 and resident_gb() < held - 1.4
    assert peak_gb() > held - 0.05  # the kernel counts pages in batches
