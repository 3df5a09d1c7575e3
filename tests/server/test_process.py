"""The process around the app."""

import socket
from urllib.parse import urlsplit

from demur.server.admission.connection import IDLE_S
from tests.server.live_server import folder_of, policy, serving
from tests.waiting import wait_until


def test_pieces_of_an_answer_are_sent_at_once(tmp_path):
    with serving(folder_of(tmp_path / "policies", policy())) as server:
        place = urlsplit(server.url)
        connections = server.process.server_state.connections
        with socket.create_connection((place.hostname, place.port)):
            wait_until(lambda: connections)
            (connection,) = connections
            line = connection.transport.get_extra_info("socket")
            assert line.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_connections_are_kept_for_longer_than_clients_keep_them(tmp_path):
    with serving(folder_of(tmp_path / "policies", policy())) as server:
        assert IDLE_S > 5.0
        assert server.process.config.timeout_keep_alive > IDLE_S, (
            "our own clock is the one that ends them"
        )
