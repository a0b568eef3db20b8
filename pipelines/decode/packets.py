"""A record of every packet of a track, in columns, because a long file has millions."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.decode.headers import Reader, Shows, starts_slowly

NONE: Final = -(2**63)
"""Marks a value in a column that the file does not state."""
DISCARD: Final = 1
NO_FRAME: Final = 2
NO_START: Final = 4

Ints = NDArray[np.int64]


class Packet(NamedTuple):
    """A packet: when it is shown and decoded in units of the track's time base, its place in the file, its bytes.

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
        """Record a demuxed packet."""
        return cls(packet.pts, packet.is_keyframe, packet.is_discard, packet.dts, packet.pos, packet.size)


class Packets:
    """The packets of a track in file order.

    ``doubts``: positions of packets that may not give a frame, rising. ``reader``: tells this from a packet's bytes;
    ``slow_starts``: bytes of the units' length fields in H.264, whose keyframes may start a gradual refresh.
    """

    def __init__(
        self, packets: list[Packet] | None = None, reader: Reader | None = None, *, slow_starts: int | None = None
    ) -> None:
        self._pts, self._dts, self._pos, self._size = array("q"), array("q"), array("q"), array("q")
        self._key, self._flags = bytearray(), bytearray()
        self._reader, self._slow_starts = reader, slow_starts
        self.new_parameters = False
        self.doubts: list[int] = []
        for packet in packets or []:
            self.add(packet)

    @classmethod
    def of_columns(cls, pts: Ints, dts: Ints, pos: Ints, size: Ints, keys: NDArray[np.bool_], flags: Ints) -> Packets:
        """Make the record of packets that all give a frame, of columns [n]; ``flags``: DISCARD and NO_START."""
        packets = cls()
        columns = ((packets._pts, pts), (packets._dts, dts), (packets._pos, pos), (packets._size, size))
        for column, values in columns:
            column.frombytes(np.ascontiguousarray(values, np.int64).tobytes())
        packets._key += keys.astype(np.uint8).tobytes()
        packets._flags += flags.astype(np.uint8).tobytes()
        return packets

    def __len__(self) -> int:
        return len(self._pts)

    def __getitem__(self, position: int) -> Packet:
        return Packet(
            _known(self._pts[position]),
            bool(self._key[position]),
            bool(self._flags[position] & DISCARD),
            _known(self._dts[position]),
            _known(self._pos[position]),
            self._size[position],
        )

    def add(self, packet: Packet) -> None:
        """Append a packet."""
        self._pts.append(NONE if packet.pts is None else packet.pts)
        self._dts.append(NONE if packet.dts is None else packet.dts)
        self._pos.append(NONE if packet.pos is None else packet.pos)
        self._size.append(packet.size)
        self._key.append(packet.key)
        self._flags.append(DISCARD if packet.discard else 0)

    def note(self, packet: Any) -> None:
        """Append a demuxed packet."""
        pts, dts, pos, key = packet.pts, packet.dts, packet.pos, packet.is_keyframe
        # Side data that changes how later packets are decoded. The decoder already knows the first packet's before it
        # starts, and between keyframes nothing can change.
        if key and self._pts and not self.new_parameters:
            self.new_parameters = packet.has_sidedata("new_extradata") or packet.has_sidedata("param_change")
        self._pts.append(NONE if pts is None else pts)
        self._dts.append(NONE if dts is None else dts)
        self._pos.append(NONE if pos is None else pos)
        self._size.append(packet.size)
        self._key.append(key)
        flags = DISCARD if packet.is_discard else 0
        if self._reader is not None:
            data = bytes(packet)
            shows = self._reader(data)
            if key and self._slow_starts is not None and starts_slowly(data, self._slow_starts):
                flags |= NO_START
            if shows is Shows.NOTHING:
                flags |= NO_FRAME
            elif shows is Shows.DOUBTFUL:
                self.doubts.append(len(self._flags))
        self._flags.append(flags)

    def doubt(self) -> None:
        """Mark the last packet as doubtful, or the first if there is none yet."""
        position = max(0, len(self) - 1)
        if not self.doubts or self.doubts[-1] < position:
            self.doubts.append(position)

    def hide(self, positions: Iterable[int]) -> None:
        """Mark packets that give no frame."""
        for position in positions:
            self._flags[position] |= NO_FRAME

    def holds(self, position: int, packet: Packet) -> bool:
        """Return True if this is the packet recorded there, ignoring dts: demuxers may make it up."""
        return self[position]._replace(dts=None) == packet._replace(dts=None)

    def find(self, packet: Packet, low: int, high: int) -> int | None:
        """Return the first position in [low, high) of this packet; None if its place in the file is unknown."""
        if packet.pos is None:
            return None
        return next((i for i in range(low, high) if self._pos[i] == packet.pos and self.holds(i, packet)), None)

    @property
    def pts(self) -> NDArray[np.int64]:
        """Time at which each packet is shown, int64 [n], NONE if unknown."""
        return np.array(self._pts, np.int64)

    @property
    def places(self) -> NDArray[np.int64]:
        """Place of each packet in the file, int64 [n], NONE if unknown."""
        return np.array(self._pos, np.int64)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Bytes of each packet, int64 [n]."""
        return np.array(self._size, np.int64)

    @property
    def keys(self) -> NDArray[np.int64]:
        """Positions of the keyframes at which decoding can start."""
        flags = np.frombuffer(self._flags, np.uint8)
        return np.flatnonzero(np.frombuffer(self._key, np.uint8) & (flags & NO_START == 0))

    @property
    def shown(self) -> NDArray[np.int64]:
        """Positions of the packets that give a frame and are not hidden by an edit list."""
        return np.flatnonzero(np.frombuffer(self._flags, np.uint8) & (DISCARD | NO_FRAME) == 0)


def _known(value: int) -> int | None:
    return None if value == NONE else value
