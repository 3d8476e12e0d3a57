"""The four ids that every vocabulary begins with."""

PAD = 0
UNKNOWN = 1
BOS = 2
EOS = 3
