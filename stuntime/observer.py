"""The observer: runs in the static VM and notes when each echo request or reply of its peer arrives.

It is copied into the guest as it is and needs nothing but Python 3.6 there. Usage: observer.py PEER LOG

The log is text, a line each, times in epoch seconds of the reference clock: the VM's monotonic clock, set to its wall
clock once, at the start.

    stuntime-observer 1 PEER
    request TIME SEQ IDENT      an echo request (or reply) of the peer arrived; the kernel's receive time
    clock TIME STEP             the wall clock has stepped by STEP seconds since it was last looked at
    end TIME DROPPED            it was asked to end; packets the kernel had no room for
"""

import os
import select
import signal
import socket
import struct
import sys
import time

# Python names neither of them: the values are Linux' asm-generic/socket.h, linux/icmp.h and linux/icmpv6.h.
SO_TIMESTAMPNS, SO_RXQ_OVFL, ICMP_FILTER, ICMPV6_FILTER, SOL_RAW = 35, 40, 1, 1, 255
KINDS = {socket.AF_INET: {8: "request", 0: "reply"}, socket.AF_INET6: {128: "request", 129: "reply"}}
LOOK_AT_CLOCK_S = 0.5
CLOCK_STEP_S = 0.001


def open_socket(family):
    """Return a raw socket that receives echo requests and replies with the kernel's time stamps."""
    protocol = socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6
    sock = socket.socket(family, socket.SOCK_RAW, protocol)
    passed = KINDS[family]
    if family == socket.AF_INET:
        sock.setsockopt(SOL_RAW, ICMP_FILTER, struct.pack("=I", 0xFFFFFFFF & ~sum(1 << kind for kind in passed)))
    else:
        words = [0xFFFFFFFF] * 8
        for kind in passed:
            words[kind // 32] &= ~(1 << kind % 32)
        sock.setsockopt(protocol, ICMPV6_FILTER, struct.pack("=8I", *words))
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    sock.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    return sock


class Clock:
    """The monotonic clock, set to the wall clock once."""

    def __init__(self):
        self.start = self.ahead = self._wall_ahead()
        self.looked = time.monotonic()

    @staticmethod
    def _wall_ahead():
        # Of three looks the quickest: one that was preempted half-way would read like a step.
        looks = ((time.monotonic(), time.time(), time.monotonic()) for _ in range(3))
        before, wall, after = min(looks, key=lambda look: look[2] - look[0])
        return wall - (before + after) / 2

    def now(self):
        return time.monotonic() + self.start

    def step(self):
        """Return by how much the wall clock has stepped since the last call."""
        ahead = self._wall_ahead()
        step, self.ahead, self.looked = ahead - self.ahead, ahead, time.monotonic()
        return step

    def of(self, wall, ahead_before, looked_before):
        """Return the reference time of a wall time taken since `looked_before`, wherever a step fell in between."""
        now = time.monotonic()
        for ahead in (self.ahead, ahead_before):
            if looked_before - CLOCK_STEP_S <= wall - ahead <= now + CLOCK_STEP_S:
                return wall - ahead + self.start
        return now + self.start


def observe(peer, log, wake):
    """Note what arrives from the peer until `wake` becomes readable."""
    family = socket.AF_INET6 if ":" in peer else socket.AF_INET
    sock = open_socket(family)
    peer_bytes = socket.inet_pton(family, peer)
    clock, dropped = Clock(), 0
    log.write("stuntime-observer 1 %s\n" % peer)
    log.flush()
    ended = False
    while not ended:
        readable, _, _ = select.select([sock, wake], [], [], LOOK_AT_CLOCK_S)
        ended = wake in readable
        ahead, looked = clock.ahead, clock.looked
        step = clock.step()
        if abs(step) >= CLOCK_STEP_S:
            log.write("clock %.6f %.6f\n" % (clock.now(), step))
        if sock in readable:
            packet, control, _, address = sock.recvmsg(256, 256)
            if socket.inet_pton(family, address[0].split("%")[0]) != peer_bytes:
                continue
            wall = time.time()
            for level, kind, data in control:
                if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
                    seconds, nanoseconds = struct.unpack("ll", data[: struct.calcsize("ll")])
                    wall = seconds + nanoseconds / 1e9
                elif level == socket.SOL_SOCKET and kind == SO_RXQ_OVFL:
                    (dropped,) = struct.unpack("=I", data[:4])
            icmp = packet[(packet[0] & 15) * 4 :] if family == socket.AF_INET else packet
            if len(icmp) < 8 or icmp[0] not in KINDS[family]:
                continue
            ident, seq = struct.unpack("!HH", icmp[4:8])
            log.write("%s %.6f %d %d\n" % (KINDS[family][icmp[0]], clock.of(wall, ahead, looked), seq, ident))
        log.flush()
    log.write("end %.6f %d\n" % (clock.now(), dropped))
    log.flush()


def main():
    """Observe until SIGINT or SIGTERM."""
    peer, path = sys.argv[1:]
    woken, waker = os.pipe()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: os.write(waker, b"."))
    with open(path, "w") as log:
        observe(peer, log, woken)


if __name__ == "__main__":
    main()
