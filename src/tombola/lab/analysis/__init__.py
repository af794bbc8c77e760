"""What masks tell: similarity, collapse and semantics."""
