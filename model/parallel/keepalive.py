"""Connections that notice a machine which is gone without a word, for lack of power or network.

The system closes the connections of a process that ends, which the others see at once. A machine that is gone closes nothing, and
torch leaves connections without keepalive: whoever waits for that machine would do so for `LONGEST_WAIT`.
"""

import contextlib
import os
import socket
import stat

# The system asks the other side after so many seconds of silence, again in intervals, and gives the connection up after so many
# questions without an answer: after five minutes in all, which a switch may take to restart. A process that is busy or stopped is
# no concern, its system answers.
IDLE_S, INTERVAL_S, QUESTIONS = 60, 30, 8
_LONGEST_SILENCE_S = IDLE_S + INTERVAL_S * QUESTIONS


def keep_connections_alive() -> None:
    """Switch on keepalive for all TCP connections that this process has. Linux only; elsewhere nothing is done."""
    if not os.path.isdir("/proc/self/fd"):
        return
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # one of another thread, closed since
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                with socket.socket(fileno=os.dup(int(name))) as connection:
                    _keep_alive(connection)


def _keep_alive(connection: socket.socket) -> None:
    if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.type != socket.SOCK_STREAM:
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, INTERVAL_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, QUESTIONS)
    # The same for data on the way, which the system would else send again for a quarter of an hour.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * _LONGEST_SILENCE_S)
