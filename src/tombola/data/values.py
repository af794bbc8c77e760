"""What users give as samples, made tensors: arrays, lists, dictionaries of them, pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tombola._utils import batch
from tombola._utils.batch import Batch
from tombola._utils.errors import DataError

FILL = "fill them in as in training, or leave those samples out"


def shape_of(samples: Batch) -> str:
    """Dtype and shape of one sample of a batch."""
    if not isinstance(samples, Tensor):
        return str(batch.mapped(shape_of, samples)).replace("'", "")
    return f"{str(samples.dtype).removeprefix('torch.')}{list(samples.shape[1:])}"


def batch_of(x: Any) -> Batch:
    """Inputs as a tensor, or as a tuple or dictionary of such."""
    if isinstance(x, Mapping):
        found: Batch = {name: batch_of(part) for name, part in x.items()}
    elif isinstance(x, tuple):
        found = tuple(map(batch_of, x))
    else:
        return tensor_of("x", x)
    if not found:
        raise DataError(f"x is an empty {type(x).__name__}: name its parts")
    return found


def tensor_of(name: str, values: Any) -> Tensor:
    """Values as a tensor, float64 as torch's default dtype; `DataError` where they are not numbers."""
    if not isinstance(values, Tensor):
        values = torch.as_tensor(_array(name, values))
    elif values.layout != torch.strided or values.is_meta:
        kind = "without values (meta)" if values.is_meta else "sparse"
        raise DataError(f"{name} is a tensor that is {kind}: pass a dense one ({name}.to_dense())")
    if values.is_complex():
        raise DataError(f"{name} is complex: pass torch.view_as_real({name}), which has one axis more")
    found: Tensor = values.detach()
    return found.to(torch.get_default_dtype()) if found.dtype == torch.float64 else found


def _array(name: str, values: Any) -> np.ndarray:
    """Numbers in the byte order of this machine."""
    if values is None:
        raise DataError(f"{name} is None: one value per sample is needed")
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise DataError(
            f"{name} has {int(np.ma.getmaskarray(values).sum())} masked values: fill them in "
            f"({name}.filled(VALUE)), or leave out their samples"
        )
    try:
        array = np.asarray(values, order="C")
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{name} cannot become one tensor; all samples need the same shape: {error}"
        ) from None
    if array.dtype.kind not in "biufc":
        kind = "strings" if array.dtype.kind in "US" else f"{array.dtype} values"
        raise DataError(
            f"{name} holds {kind}, not numbers: put strings into columns={{NAME: values}} "
            "for tombola.partition.by_column, and give y as integers "
            "(numpy.unique(labels, return_inverse=True)[1])"
        )
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def stacked(samples: Sequence[Any], name: str = "x") -> Batch:
    """Samples of one shape each as a batch; pictures of Pillow become uint8 ``[C, H, W]``.

    >>> stacked([{"ids": [1, 2]}, {"ids": [3, 4]}])
    {'ids': tensor([[1, 2],
            [3, 4]])}
    """
    one = samples[0]
    if isinstance(one, Mapping):
        return {key: stacked([sample[key] for sample in samples], f"{name}[{key!r}]") for key in one}
    if isinstance(one, tuple):
        return tuple(stacked([sample[i] for sample in samples], f"{name}[{i}]") for i in range(len(one)))
    tensors = [tensor_of(name, pixels(value)) for value in samples]
    for i, other in enumerate(tensors):
        if other.shape != tensors[0].shape:
            raise DataError(
                f"{name} of sample 0 has shape {tuple(tensors[0].shape)}, of sample {i} "
                f"{tuple(other.shape)}: crop or pad them to one shape, or pass collate="
            )
    return torch.stack(tensors)


def pixels(value: Any) -> Any:
    """A picture of Pillow as an array ``[C, H, W]``; everything else as it is."""
    if not (hasattr(value, "getbands") and hasattr(value, "convert")):
        return value
    array = np.asarray(value if value.mode in ("L", "RGB") else opaque(value).convert("RGB"))
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def opaque(picture: Any) -> Any:
    """A picture of Pillow laid on white, as a page shows it, where it is transparent in places.

    Under what is transparent lies whatever the program that wrote the file has left there.
    """
    if not picture.has_transparency_data:
        return picture
    from PIL import Image

    above = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", above.size, "white"), above).convert("RGB")


def check_finite(
    name: str,
    values: Tensor,
    numbers: Sequence[int] | None = None,
    columns: Sequence[str] | str | None = None,
    remedy: str = "remove or replace them",
) -> None:
    """Raise `DataError` where samples hold NaN or infinite values.

    Args:
        name: of the values.
        values: samples ``[S, ...]``.
        numbers: how samples are counted; by default from 0 on.
        columns: names of the values of a sample, where they have some.
        remedy: what to do about it.

    >>> check_finite("x", torch.tensor([[1.0, 2.0], [3.0, torch.nan]]), columns=["area", "rooms"])
    Traceback (most recent call last):
    tombola._utils.errors.DataError: x holds NaN or infinite values in 1 of 2 samples (the first is number \
1, column 'rooms'): remove or replace them
    """
    if not values.is_floating_point() or bool(torch.isfinite(values).all()):
        return
    bad_SD = ~torch.isfinite(values.reshape(len(values), -1))
    bad = bad_SD.any(1).nonzero()[:, 0].tolist()
    first = bad[0] if numbers is None else numbers[bad[0]]
    at = int(bad_SD[bad[0]].nonzero()[0])
    names = [columns] if isinstance(columns, str) else columns or ()
    where = f", column {names[at]!r}" if len(names) == bad_SD.shape[1] else ""
    if not where and values.ndim > 1:
        place = torch.unravel_index(torch.tensor(at), values.shape[1:])
        where = f", at [{', '.join(str(int(i)) for i in place)}]"
    raise DataError(
        f"{name} holds NaN or infinite values in {len(bad)} of {len(values)} samples (the first is number "
        f"{first}{where}): {remedy}"
    )


def check_batch(
    name: str, x: Batch, features: Any = None, numbers: Sequence[int] | None = None, remedy: str = FILL
) -> None:
    """The same of every tensor of a batch; ``features`` are the columns of one, or those of each part."""
    parts = features if isinstance(features, Mapping) else {}
    columns = {f"[{part!r}]": names for part, names in parts.items()} or {"": features}
    for path, values in batch.tensors(x).items():
        check_finite(name + path, values, numbers, columns.get(path), remedy)
