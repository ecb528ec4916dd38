import numpy as np

from benchmarks.memory import in_own_process, peak_rss


def test_a_new_process_knows_nothing_of_its_parents_memory():
    mine = np.ones(300 << 17)  # 300 MiB
    assert peak_rss() > 300 << 20
    assert in_own_process(peak_rss) < 200 << 20
    assert mine[0] == 1
