"""A process that the trainer started speaks to the agent through the trainer."""

import threading
from pathlib import Path

from cultivar_runner.trainer.channel import Channel
from cultivar_runner.trainer.messages import Epoch, Message, Started
from cultivar_runner.trainer.ultralytics_trainer.relay import Relay


class Agent(Channel):
    """The trainer's own end of the channel, as far as it is asked."""

    def __init__(self) -> None:
        super().__init__(None)
        self.heard: list[Message] = []
        self.checkpoint = threading.Event()

    def send(self, message: Message) -> None:
        self.heard.append(message)

    def take_checkpoint_request(self) -> bool:
        asked = self.checkpoint.is_set()
        self.checkpoint.clear()
        return asked


def until(what: threading.Event, seconds: float = 10) -> None:
    assert what.wait(seconds)


def test_messages_go_up_in_order_and_none_is_lost_when_the_process_ends_at_once() -> None:
    agent = Agent()
    with Relay(agent) as relay:
        child = Channel.connect(relay.path)
        child.send(Started(total_epochs=300))
        for epoch in range(1, 301):
            child.send(Epoch(epoch=epoch, loss=float("nan")))
        child.close()
    assert [type(message) for message in agent.heard] == [Started] + [Epoch] * 300
    assert [message.epoch for message in agent.heard if isinstance(message, Epoch)] == list(range(1, 301))


def test_commands_come_down() -> None:
    agent = Agent()
    with Relay(agent) as relay:
        child = Channel.connect(relay.path)
        agent.checkpoint.set()
        waited = threading.Event()
        for _ in range(200):
            if child.take_checkpoint_request():
                waited.set()
                break
            child.wait_for_stop(0.05)
        until(waited)
        assert not child.stop_requested
        agent.request_stop()
        assert child.wait_for_stop(10)
        child.close()


def test_a_process_that_never_connects_holds_nobody_up() -> None:
    with Relay(Agent()) as relay:
        folder = Path(relay.path).parent
        assert folder.exists()
    assert not folder.exists()


def test_a_process_that_dies_without_a_word_ends_the_relay() -> None:
    agent = Agent()
    with Relay(agent) as relay:
        child = Channel.connect(relay.path)
        child.send(Started(total_epochs=1))
        child.close()
    assert len(agent.heard) == 1
