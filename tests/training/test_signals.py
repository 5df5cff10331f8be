import signal

import pytest

from drn_cli.training.signals import interruptible


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_is_a_wish(number, caplog):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    before = signal.getsignal(number)
    with caplog.at_level("INFO"), interruptible(aloud=True) as interrupt:
        assert not interrupt.number
        signal.raise_signal(number)
        assert interrupt.number == number
    assert signal.getsignal(number) is before
    assert [record.message for record in caplog.records] == [
        f"{number.name}: stopping after this step"
    ]


def test_second_ctrl_c_is_heeded_at_once():
    with pytest.raises(KeyboardInterrupt), interruptible(aloud=False) as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.number
        signal.raise_signal(signal.SIGINT)


def test_the_first_of_several_counts(caplog):
    with caplog.at_level("INFO"), interruptible(aloud=True) as interrupt:
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)
    assert interrupt.number == signal.SIGUSR1
    assert len(caplog.records) == 1
