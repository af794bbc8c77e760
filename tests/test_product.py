"""The product of mask and weights: what must not be read."""

import pytest
import torch

from tombola._utils.errors import MaskError
from tombola.masks.apply import SMALLEST, masked_parts, masked_weights
from tombola.masks.bits import packed
from tombola.masks.layout import Layout


def test_a_mask_of_another_size_is_never_read_past_its_end():
    layout = Layout(("w",), ((SMALLEST,),))
    with pytest.raises(RuntimeError):
        masked_weights(layout, torch.ones(SMALLEST), torch.ones(100, dtype=torch.bool))
    with pytest.raises(MaskError, match="other sizes"):
        masked_parts(
            layout, [torch.ones(SMALLEST - 1)], packed(torch.ones(SMALLEST) > 0), torch.empty(SMALLEST)
        )
    with pytest.raises(MaskError, match="no packed mask"):
        masked_parts(layout, [torch.ones(SMALLEST)], packed(torch.ones(100) > 0), torch.empty(SMALLEST))
