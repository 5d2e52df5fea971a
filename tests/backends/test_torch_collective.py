import gloo
import programs
import torch

import vissl_swav
from vissl_swav.core.collective import LOCAL


def test_without_a_process_group_it_is_local():
    assert vissl_swav.collective() is LOCAL
    tensor = torch.arange(3.0)
    gathered = LOCAL.all_gather(tensor)
    assert gathered.shape == (1, 3) and gathered.data_ptr() != tensor.data_ptr()
    assert torch.equal(LOCAL.all_reduce_sum(tensor), tensor)
    assert LOCAL.all_reduce_sum(tensor).data_ptr() != tensor.data_ptr()


def test_three_processes():
    for gathered, total in gloo.run(programs.uneven_gather, 3):
        assert gathered.tolist() == [[1, 1], [2, 2], [3, 3]]
        assert total.tolist() == [6, 6]
