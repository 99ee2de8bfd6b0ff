"""No test reaches the network: neither here nor in the kernels that run notebooks."""

import os
import socket
import tempfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from platformdirs import user_data_dir
from pytest_socket import SocketConnectBlockedError

FAR = "192.0.2.1"  # set aside for documentation, never routed (RFC 5737)

IN_A_KERNEL = f"""
import os, socket
left = sorted(name for name in globals() if "network" in name)

def attempt(action):
    try:
        action()
    except OSError as error:
        return str(error)
    return "went through"

connected = attempt(lambda: socket.create_connection(({FAR!r}, 80), timeout=2))
looked_up = attempt(lambda: socket.getaddrinfo("example.org", 443))
sent = attempt(lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ({FAR!r}, 53)))
with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as near:
    server.accept()[0].sendall(b"loopback works")
    heard = near.recv(100).decode()
print(connected, looked_up, sent, heard, left, os.environ["RECMTL_PROGRESS_DIR"], sep="\\n")
"""


def test_a_test_cannot_connect_out():
    with pytest.warns(match=FAR), pytest.raises(SocketConnectBlockedError, match=FAR):
        socket.create_connection((FAR, 80), timeout=2)


def test_a_test_can_talk_to_its_own_machine():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
        socket.create_connection(("localhost", server.getsockname()[1])).close()


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no Unix sockets")
def test_unix_sockets_are_open():
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        server.bind(str(Path(folder, "s")))
        server.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(Path(folder, "s")))


def test_a_kernel_cannot_connect_out():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(IN_A_KERNEL)])
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    connected, looked_up, sent, heard, left, progress = notebook.cells[0].outputs[0].text.strip().split("\n")
    assert f"the tests block the network: {FAR}" in connected
    assert "the tests block the network: example.org" in looked_up
    assert f"the tests block the network: {FAR}" in sent
    assert heard == "loopback works"
    assert left == "[]", "the startup file leaves names behind, which would hide a missing import"
    assert progress == os.environ["RECMTL_PROGRESS_DIR"]


def test_progress_of_the_tests_is_not_the_learners():
    folder = Path(os.environ["RECMTL_PROGRESS_DIR"]).resolve()
    assert folder.is_relative_to(Path(tempfile.gettempdir()).resolve())
    assert Path(user_data_dir()).resolve() not in (folder, *folder.parents)
