"""Files: tensors with facts, sealed by a hash; and the ticket file, which is one of them."""

from tombola.storage.files import digest, read, replacing, to_content, write, write_bytes
from tombola.storage.tickets import (
    FORMAT,
    Parts,
    architecture,
    fingerprint,
    masks_of,
    pack,
    read_mask,
    unpack,
)

__all__ = [
    "FORMAT",
    "Parts",
    "architecture",
    "digest",
    "fingerprint",
    "masks_of",
    "pack",
    "read",
    "read_mask",
    "replacing",
    "to_content",
    "unpack",
    "write",
    "write_bytes",
]
