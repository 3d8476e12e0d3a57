"""Sequence to sequence on Footplate: text -> tokens -> batches -> model -> loss, and search."""
