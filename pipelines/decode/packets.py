"""What is noted of every packet of a track: columns, because a long file has millions."""

from __future__ import annotations

from array import array
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

NONE: Final = -(2**63)
"""In a column: the file does not say."""


class Packet(NamedTuple):
    """A packet: when it is shown and decoded in units of the track's time base, where it lies and its size in bytes.

    ``key``: decoding can start here; ``discard``: an edit list hides its frame.
    """

    pts: int | None
    key: bool
    discard: bool
    dts: int | None = None
    pos: int | None = None
    size: int = 0

    @classmethod
    def of(cls, packet: Any) -> Packet:
        """Note a demuxed packet."""
        return cls(packet.pts, packet.is_keyframe, packet.is_discard, packet.dts, packet.pos, packet.size)


class Packets:
    """The packets of a track in file order."""

    def __init__(self, packets: list[Packet] | None = None) -> None:
        self._pts, self._dts, self._pos, self._size = array("q"), array("q"), array("q"), array("q")
        self._key, self._discard = bytearray(), bytearray()
        self.new_parameters = False
        for packet in packets or []:
            self.add(packet)

    def __len__(self) -> int:
        return len(self._pts)

    def __getitem__(self, position: int) -> Packet:
        return Packet(
            _known(self._pts[position]),
            bool(self._key[position]),
            bool(self._discard[position]),
            _known(self._dts[position]),
            _known(self._pos[position]),
            self._size[position],
        )

    def add(self, packet: Packet) -> None:
        """Append one."""
        self._pts.append(NONE if packet.pts is None else packet.pts)
        self._dts.append(NONE if packet.dts is None else packet.dts)
        self._pos.append(NONE if packet.pos is None else packet.pos)
        self._size.append(packet.size)
        self._key.append(packet.key)
        self._discard.append(packet.discard)

    def note(self, packet: Any) -> None:
        """Append a demuxed packet."""
        pts, dts, pos, key = packet.pts, packet.dts, packet.pos, packet.is_keyframe
        # Side data that changes how the packets behind it are decoded; that of the first packet the decoder knows
        # before it starts, and between keyframes nothing can change.
        if key and self._pts and not self.new_parameters:
            self.new_parameters = packet.has_sidedata("new_extradata") or packet.has_sidedata("param_change")
        self._pts.append(NONE if pts is None else pts)
        self._dts.append(NONE if dts is None else dts)
        self._pos.append(NONE if pos is None else pos)
        self._size.append(packet.size)
        self._key.append(key)
        self._discard.append(packet.is_discard)

    def holds(self, position: int, packet: Packet) -> bool:
        """Whether this is the packet noted there. The dts does not count: demuxers that make it up need a start."""
        return self[position]._replace(dts=None) == packet._replace(dts=None)

    def find(self, packet: Packet, low: int, high: int) -> int | None:
        """Find the first position in [low, high) that holds this packet; None without a place in the file."""
        if packet.pos is None:
            return None
        return next((i for i in range(low, high) if self._pos[i] == packet.pos and self.holds(i, packet)), None)

    @property
    def pts(self) -> NDArray[np.int64]:
        """When each is shown, int64 [n], NONE where that is not known."""
        return np.array(self._pts, np.int64)

    @property
    def keys(self) -> NDArray[np.int64]:
        """Positions of the keyframes."""
        return np.flatnonzero(np.frombuffer(self._key, np.uint8))

    @property
    def shown(self) -> NDArray[np.int64]:
        """Positions of the packets that no edit list hides."""
        return np.flatnonzero(np.frombuffer(self._discard, np.uint8) == 0)


def _known(value: int) -> int | None:
    return None if value == NONE else value
