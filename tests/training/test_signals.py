import signal

import pytest

from drn_cli.training.signals import stop_on_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_requests_a_stop(number, caplog):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    before = signal.getsignal(number)
    with caplog.at_level("INFO"), stop_on_signals(verbose=True) as interrupt:
        assert not interrupt.number
        signal.raise_signal(number)
        assert interrupt.number == number
    assert signal.getsignal(number) is before
    assert [record.message for record in caplog.records] == [
        f"{number.name}: stopping after this step"
    ]


def test_a_second_ctrl_c_raises_keyboard_interrupt():
    with pytest.raises(KeyboardInterrupt), stop_on_signals(verbose=False) as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.number
        signal.raise_signal(signal.SIGINT)


def test_the_first_of_several_signals_counts(caplog):
    with caplog.at_level("INFO"), stop_on_signals(verbose=True) as interrupt:
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)
    assert interrupt.number == signal.SIGUSR1
    assert len(caplog.records) == 1
