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
        self.steps = []

    @staticmethod
    def _wall_ahead():
        # Of three looks the quickest: one that was preempted half-way would read like a step.
        looks = ((time.monotonic(), time.time(), time.monotonic()) for _ in range(3))
        before, wall, after = min(looks, key=lambda look: look[2] - look[0])
        return wall - (before + after) / 2

    def now(self):
        return time.monotonic() + self.start

    def look(self):
        """Return by how much the wall clock has stepped since the last look; 0 for what is no step."""
        ahead = self._wall_ahead()
        step = ahead - self.ahead
        if abs(step) < CLOCK_STEP_S:
            step = 0
        else:
            self.steps.append((self.looked, self.ahead))
        self.ahead, self.looked = ahead, time.monotonic()
        return step

    def of(self, wall):
        """Return the reference time of a wall time in the past, on whichever side of a step it was taken.

        Within the time between two looks, which each packet takes, a smaller step than that cannot be placed.
        """
        now = time.monotonic() + CLOCK_STEP_S
        found = wall - self.ahead
        for looked, ahead in reversed(self.steps):
            if looked <= found <= now:
                break
            found = wall - ahead
        return found + self.start


def received(sock, family, peer):
    """Yield kind, wall time, sequence number, identifier of each echo packet of the peer, and the packets dropped."""
    while True:
        try:
            packet, control, _, address = sock.recvmsg(256, 256)
        except BlockingIOError:
            return
        if socket.inet_pton(family, address[0].split("%")[0]) != peer:
            continue
        wall, dropped = time.time(), 0
        for level, kind, data in control:
            if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
                seconds, nanoseconds = struct.unpack("ll", data[: struct.calcsize("ll")])
                wall = seconds + nanoseconds / 1e9
            elif level == socket.SOL_SOCKET and kind == SO_RXQ_OVFL:
                (dropped,) = struct.unpack("=I", data[:4])
        icmp = packet[(packet[0] & 15) * 4 :] if family == socket.AF_INET else packet
        if len(icmp) >= 8 and icmp[0] in KINDS[family]:
            ident, seq = struct.unpack("!HH", icmp[4:8])
            yield KINDS[family][icmp[0]], wall, seq, ident, dropped


def observe(peer, log, wake):
    """Note what arrives from the peer until `wake` becomes readable, and what is queued then."""
    family = socket.AF_INET6 if ":" in peer else socket.AF_INET
    sock = open_socket(family)
    sock.setblocking(False)
    clock, lost = Clock(), 0
    log.write("stuntime-observer 1 %s\n" % peer)
    log.flush()
    ended = False
    while not ended:
        readable, _, _ = select.select([sock, wake], [], [], LOOK_AT_CLOCK_S)
        ended = wake in readable
        step = clock.look()
        if step:
            log.write("clock %.6f %.6f\n" % (clock.now(), step))
        for kind, wall, seq, ident, dropped in received(sock, family, socket.inet_pton(family, peer)):
            lost = max(lost, dropped)
            log.write("%s %.6f %d %d\n" % (kind, clock.of(wall), seq, ident))
        log.flush()
    log.write("end %.6f %d\n" % (clock.now(), lost))
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
