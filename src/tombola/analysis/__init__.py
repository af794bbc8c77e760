"""What masks tell: similarity, and later collapse and semantics."""
