"""What a decoding process may say, and what is believed of it."""

from __future__ import annotations

import json
import socket

import pytest

from pipelines.decode.isolated.decoder import Decoder, _checked_video
from pipelines.decode.isolated.messages import LENGTHS, DecodeRequest, Garbled, answer_of, receive_bytes, receive_header
from tests.unit.test_isolated import CRASHING, LIMITS, RECIPE, failure
from tests.videos import make_video


@pytest.fixture
def saying(tmp_path):
    """Make a file that has the process say its bytes."""

    def write(said: bytes):
        (tmp_path / "say.mp4").write_bytes(said)
        return tmp_path / "say.mp4"

    return write


def message(header: bytes, payload: bytes = b"", *, payload_bytes: int | None = None) -> bytes:
    return LENGTHS.pack(len(header), len(payload) if payload_bytes is None else payload_bytes) + header + payload


VIDEO = {
    "shape": [1, 32, 32], "timestamps_s": [0.0], "codec": "h264", "width": 96, "height": 64, "fps": 15.0,
    "duration_s": 1.0, "notes": [], "bytes": 100, "sha256": "0" * 64,
}  # fmt: skip


def answer(number: int = 1, payload: int = 32 * 32 * 3, **changes: object) -> bytes:
    header = json.dumps({"id": number, "result": {**VIDEO, **changes}}).encode()
    return message(header, bytes(payload))


WRONG = {
    "no_message": b"\xff" * 64,
    "no_json": message(b"{" * 10),
    "deep_json": message(b"[" * 60000),
    "not_utf8": message(b'{"id":1,"message":"\xff\xfe"}'),
    "long_header": LENGTHS.pack(2**31, 0),
    "unknown_key": message(b'{"id":1,"more":2}'),
    "unknown_kind": message(b'{"id":1,"kind":"hungry","message":"x"}'),
    "failure_with_frames": message(b'{"id":1,"kind":"corrupt","message":"x"}', bytes(10)),
    "another_request": answer(7),
    "huge_payload": message(b'{"id":1}', payload_bytes=2**60),
    "huge_frames": message(
        json.dumps({"id": 1, "result": {**VIDEO, "shape": [1, 2**20, 2**20]}}).encode(), payload_bytes=3 * 2**40
    ),
    "other_size": answer(shape=[1, 64, 16]),
    "more_frames_than_asked": answer(shape=[9, 32, 32], timestamps_s=[0.0] * 9, payload=9 * 32 * 32 * 3),
    "no_frames": answer(shape=[0, 32, 32], timestamps_s=[], payload=0),
    "negative_shape": answer(shape=[-1, -32, 32]),
    "fewer_bytes_than_frames": answer(payload=100),
    "fewer_times_than_frames": answer(timestamps_s=[]),
    "nan": answer(timestamps_s=[float("nan")]),
    "infinite": answer(fps=float("inf")),
    "text_for_number": answer(width="96"),
    "width_beyond_the_column": answer(width=2**31),
    "control_characters": answer(codec="h264\x1b[2J"),
    "surrogate": answer(codec="\ud800"),
    "unknown_note": answer(notes=["hungry"]),
    "no_digest": answer(sha256=None),
    "digest_that_is_none": answer(sha256="x" * 64),
}  # fmt: skip


REQUEST = DecodeRequest(id=1, limits=LIMITS, path="x", recipe=RECIPE, clips=[(None, None)], digest=True)


def believed(said: bytes, request: DecodeRequest = REQUEST):
    """Read an answer as a process does."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(said)
        theirs.close()
        header, payload = receive_header(ours)
        given = answer_of(header, payload, 1)
        assert given.failure() is None
        found = _checked_video(request, given.result, payload)
        return found.video(receive_bytes(ours, payload))


def test_the_answers_above_are_wrong_in_one_thing_only():
    assert believed(answer()).frames[0].shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("height", "width", "fits"), [(32, 320, True), (320, 32, True), (32, 321, False), (31, 40, False)]
)
def test_uncropped_frames_are_as_wide_as_the_settings_allow(height, width, fits):
    request = REQUEST.model_copy(update={"recipe": RECIPE.model_copy(update={"crop": None})})
    said = answer(shape=[1, height, width], payload=height * width * 3)
    if fits:
        assert believed(said, request).frames[0].shape == (height, width, 3)
    else:
        with pytest.raises(Garbled):
            believed(said, request)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_answer_is_not_believed(wrong):
    with pytest.raises((Garbled, ValueError)):
        believed(WRONG[wrong])


@pytest.mark.parametrize("wrong", ["no_message", "another_request"])
def test_a_wrong_answer_is_a_crash_and_its_child_is_not_asked_again(saying, tmp_path, wrong):
    path, good = saying(WRONG[wrong]), make_video(tmp_path / "good.mp4")
    with Decoder(CRASHING) as decoder:
        error = failure(decoder, path)
        assert (error.kind, error.attempts) == ("crashed", 2)
        assert error.message.startswith("The decoder gave no valid answer: ")
        assert decoder.decode(str(good), recipe=RECIPE).attempts == 1


def test_a_message_is_made_fit_for_a_terminal(saying):
    header = json.dumps({"id": 1, "kind": "corrupt", "message": "red \x1b[31m " + "x" * 1000}).encode()
    path = saying(message(header))
    with Decoder(CRASHING) as decoder:
        error = failure(decoder, path)
    assert error.kind == "corrupt"
    assert error.message.startswith("red  [31m xxx")
    assert (len(error.message), error.message.isprintable()) == (500, True)


def test_half_an_answer_is_waited_for_and_no_longer(saying):
    path = saying(answer()[:-1])
    with Decoder(CRASHING) as decoder:
        assert failure(decoder, path, wait_seconds=0.3).kind == "timeout"
