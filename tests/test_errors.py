import pickle

import pytest

from drn_cli.errors import DrnError


def test_text_is_the_message_with_the_hint_in_brackets() -> None:
    assert str(DrnError("a.png: no such file")) == "a.png: no such file"
    error = DrnError("a.png: no such file", "look elsewhere")
    assert str(error) == "a.png: no such file (look elsewhere)"
    assert (error.message, error.hint) == ("a.png: no such file", "look elsewhere")


@pytest.mark.parametrize("hint", [None, "look elsewhere"])
def test_error_crosses_processes_whole(hint: str | None) -> None:
    error = pickle.loads(pickle.dumps(DrnError("a.png: no such file", hint)))
    assert type(error) is DrnError
    assert (error.message, error.hint) == ("a.png: no such file", hint)
