"""A moment of silence is borne, a long one is an error."""

import pytest

from footplate_cluster.dashboard import SilentError
from footplate_cluster.patience import SECONDS_OF_SILENCE, Patience


def test_silence_is_an_error_only_where_it_lasts() -> None:
    now = [0.0]
    patience = Patience(lambda: now[0])

    def silent() -> str:
        raise SilentError("nobody answers")

    for passed in (0.0, SECONDS_OF_SILENCE - 1):
        now[0] = passed
        assert patience.ask(silent, "as before") == "as before"
    assert patience.ask(lambda: "news", "as before") == "news"
    now[0] = SECONDS_OF_SILENCE + 1  # counted anew
    assert patience.ask(silent, "as before") == "as before"
    now[0] *= 2
    with pytest.raises(SilentError):
        patience.ask(silent, "as before")
