"""Videos that break the process which decodes them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gare.common.errors import RunError
from gare.common.files import file_digest
from gare.config.prepare import LimitsConfig, PrepareConfig
from gare.schema import MANIFEST
from pipelines.dataset.ledger import read_ledger
from pipelines.dataset.opening import open_output
from pipelines.decode import KINDS, DecodeError, decode_video
from pipelines.decode.isolated import process
from pipelines.decode.isolated.decode_worker import data_bytes, memory_within
from pipelines.decode.isolated.decoder import Decoder
from pipelines.prepare.process_unit import process_unit
from tests.videos import make_video

LIMITS = LimitsConfig(cpu_seconds=1.0, wait_seconds=60.0, memory_bytes=256 * 2**20)
RECIPE = PrepareConfig(max_frames=3, short_side=32, crop=32, limits=LIMITS)
CRASHING = "tests.crashing_worker"
OUTCOMES = ("ok", "memory", "other")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def decoder():
    with Decoder(CRASHING) as made:
        yield made


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return make_video(tmp_path_factory.mktemp("good") / "good.mp4", frames=40)


@pytest.fixture
def video(good, tmp_path):
    """Make a good video under a name that asks for something."""
    return lambda name: shutil.copy(good, tmp_path / f"{name}.mp4")


def failure(decoder: Decoder, path: Path, **limits: float) -> DecodeError:
    recipe = RECIPE.model_copy(update={"limits": LIMITS.model_copy(update=limits)})
    with pytest.raises(DecodeError) as caught:
        decoder.decode(str(path), recipe=recipe)
    assert caught.value.kind in KINDS
    return caught.value


def child(decoder: Decoder) -> int:
    return decoder._decoding.pid


def gone(pid: int) -> bool:
    """Whether a process ends soon; a zombie has."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def test_a_child_gives_what_decoding_here_gives(decoder, good):
    there, here = decoder.decode(str(good), recipe=RECIPE), decode_video(good, recipe=RECIPE)
    assert (there.bytes, there.sha256, there.attempts) == (good.stat().st_size, file_digest(good), 1)
    for name, value in vars(here).items():
        if name != "frames":
            assert getattr(there.video, name) == value, name
    for a, b in zip(there.video.frames, here.frames, strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_error_in_the_child_is_the_error_of_decoding_here(decoder, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    for path in (tmp_path / "none.mp4", tmp_path / "text.mp4"):
        with pytest.raises(DecodeError) as here:
            decode_video(path, recipe=RECIPE)
        there = failure(decoder, path)
        assert (there.kind, there.message, there.attempts) == (here.value.kind, here.value.message, 1)


def test_one_child_serves_many_videos(decoder, good):
    decoder.decode(str(good), recipe=RECIPE)
    before = child(decoder)
    decoder.decode(str(good), recipe=RECIPE)
    assert child(decoder) == before


@pytest.mark.parametrize(
    ("act", "kind", "message"),
    [
        ("segfault", "crashed", "SIGSEGV"),
        ("abort", "crashed", "SIGABRT"),
        ("bus", "crashed", "SIGBUS"),
        ("killed", "crashed", "SIGKILL"),
        ("exit", "crashed", "exit status 3"),
        ("allocate", "memory", "268435456 bytes"),
        ("allocate_in_c", "memory", "268435456 bytes"),
    ],
)
def test_a_death_is_tried_again_and_then_recorded(decoder, video, good, act, kind, message):
    error = failure(decoder, video(f"{act}-1"))
    assert (error.kind, error.attempts) == (kind, 2)
    assert message in error.message
    assert decoder.decode(str(good), recipe=RECIPE).attempts == 1


def test_a_hang_in_one_call_is_ended_by_processor_time_and_not_tried_again(decoder, video, good):
    error = failure(decoder, video("spin"))
    assert (error.kind, error.attempts, error.message) == ("timeout", 1, "More than 1 s of processor time.")
    assert decoder.decode(str(good), recipe=RECIPE).attempts == 1


def test_a_hang_that_computes_nothing_is_ended_by_waiting_time(decoder, video, good):
    error = failure(decoder, video("sleep"), wait_seconds=0.3)
    assert (error.kind, error.attempts) == ("timeout", 1)
    assert "0.3 s of waiting" in error.message
    assert decoder.decode(str(good), recipe=RECIPE).attempts == 1


def test_waiting_for_a_processor_is_no_waiting(monkeypatch):
    busy = iter([0.0, 50.0, 70.0, 90.0])
    now = iter([0.0, 100.0, 150.0, 200.0])
    monkeypatch.setattr(process, "_busy_s", lambda _: next(busy))
    monkeypatch.setattr(process.time, "monotonic", lambda: next(now))
    patience = process.Patience(1, 100.0)
    assert patience() == 50.0
    assert patience() == 20.0
    with pytest.raises(process.Stalled):
        patience()


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the system does not tell")
def test_the_system_tells_how_long_a_process_was_busy():
    before, cpu = process._busy_s(os.getpid()), time.thread_time()
    while time.thread_time() - cpu < 0.1:
        pass
    assert process._busy_s(os.getpid()) - before >= 0.08


def test_a_video_that_crashes_once_is_decoded_and_says_so(decoder, video):
    decoded = decoder.decode(str(video("once-segfault")), recipe=RECIPE)
    assert decoded.attempts == 2
    assert len(decoded.video.frames) == 3


def test_an_error_of_python_in_the_child_is_internal_and_the_child_stays(decoder, video, good):
    decoder.decode(str(good), recipe=RECIPE)
    before = child(decoder)
    error = failure(decoder, video("raise"))
    assert (error.kind, error.attempts) == ("internal", 1)
    assert error.message.startswith("ZeroDivisionError")
    decoder.decode(str(good), recipe=RECIPE)
    assert child(decoder) == before


def test_what_libraries_print_is_no_part_of_an_answer(decoder, video):
    assert len(decoder.decode(str(video("chatter")), recipe=RECIPE).video.frames) == 3


def test_an_out_of_memory_kill_is_told_from_other_kills(decoder, video, monkeypatch):
    kills = iter(range(100))
    monkeypatch.setattr(process, "oom_kills", lambda: next(kills))
    error = failure(decoder, video("killed"))
    assert (error.kind, error.attempts) == ("memory", 2)


def outcome_within(room: int, path: Path) -> str:
    """Decode in a fork that may allocate ``room`` bytes more."""
    pid = os.fork()
    if pid:
        return OUTCOMES[os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]
    outcome = "other"
    try:
        with memory_within(data_bytes() + room):
            outcome = "other" if decode_video(path, recipe=RECIPE).notes else "ok"
    except MemoryError:
        outcome = "memory"
    finally:
        os._exit(OUTCOMES.index(outcome))


@pytest.mark.skipif(data_bytes() is None, reason="memory is limited on Linux only")
@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "libx264"), (".flv", "libx264"), (".avi", "mpeg4")])
def test_want_of_memory_is_never_taken_for_damage(tmp_path, good, suffix, codec):
    """FFmpeg's H.264 decoder reports a buffer it could not get as damaged data."""
    path = make_video(tmp_path / f"large{suffix}", frames=4, codec=codec, size=(1280, 720))
    code = (  # in a process that has no memory left over
        "import sys\n"
        "from tests.unit.test_isolated import RECIPE, decode_video, outcome_within\n"
        "decode_video(sys.argv[1], recipe=RECIPE)  # what is imported late is imported now\n"
        "print(*(outcome_within(room, sys.argv[2]) for room in range(200_000, 24_000_000, 500_000)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, good, path], capture_output=True, text=True, cwd=ROOT)
    assert set(done.stdout.split()) == {"memory", "ok"}, done.stdout + done.stderr


# Starting and ending


def test_a_child_that_died_between_two_videos_is_replaced_unnoticed(decoder, good):
    decoder.decode(str(good), recipe=RECIPE)
    before = child(decoder)
    os.kill(before, signal.SIGKILL)
    assert gone(before)
    assert decoder.decode(str(good), recipe=RECIPE).attempts == 1
    assert child(decoder) != before


def test_a_child_that_hangs_up_and_lives_on_is_ended(decoder, video, monkeypatch):
    monkeypatch.setattr(process, "END_S", 0.2)
    error = failure(decoder, video("hang_up"))
    assert (error.kind, error.message) == ("crashed", "The decoder stopped answering.")


def test_closing_leaves_no_process_and_no_open_file(good):
    before = len(list(Path("/proc/self/fd").iterdir()))
    decoder = Decoder()
    decoder.decode(str(good), recipe=RECIPE)
    pid = child(decoder)
    decoder.close()
    assert not Path(f"/proc/{pid}").exists()  # not even a zombie
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("act", ["hold", "sleep", "good"])
def test_the_child_of_a_killed_process_ends_whatever_it_does(video, act):
    code = (
        "import sys, threading, time\n"
        "from tests.unit.test_isolated import RECIPE, CRASHING, Decoder\n"
        "decoder = Decoder(CRASHING)\n"
        "decoder.decode(sys.argv[1], recipe=RECIPE)\n"
        "threading.Thread(target=decoder.decode, args=[sys.argv[2]], kwargs={'recipe': RECIPE}).start()\n"
        "time.sleep(0.2)\n"
        "print(decoder._decoding.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, video("first"), video(act)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    pid = int(parent.stdout.readline())
    assert Path(f"/proc/{pid}").exists()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(pid)


def test_the_thread_that_started_the_child_may_end(good):
    with Decoder() as decoder:
        thread = threading.Thread(target=decoder.decode, args=[str(good)], kwargs={"recipe": RECIPE})
        thread.start()
        thread.join()
        before = child(decoder)
        assert decoder.decode(str(good), recipe=RECIPE).attempts == 1
        assert child(decoder) == before


def test_threads_take_turns(decoder, good):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(decoder.decode(str(good), recipe=RECIPE))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(decoded.video.frames) for decoded in found] == [3] * 4


def test_a_process_without_standard_streams_decodes(good):
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from tests.unit.test_isolated import RECIPE, Decoder\n"
        "out = os.dup(1)\n"
        "for handle in (0, 1, 2): os.close(handle)\n"
        "with Decoder() as decoder:\n"
        "    decoded = decoder.decode(sys.argv[1], recipe=RECIPE)\n"
        "os.write(out, str(len(decoded.video.frames)).encode())\n"
    )
    done = subprocess.run([sys.executable, "-c", code, good], stdout=subprocess.PIPE, cwd=ROOT)
    assert done.stdout == b"3"


def test_a_forked_copy_of_the_process_starts_its_own_child(decoder, good):
    decoder.decode(str(good), recipe=RECIPE)
    before = child(decoder)
    pid = os.fork()
    if pid == 0:
        ok = len(decoder.decode(str(good), recipe=RECIPE).video.frames) == 3 and child(decoder) != before
        decoder.close()
        os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert decoder.decode(str(good), recipe=RECIPE).attempts == 1
    assert child(decoder) == before


@pytest.mark.parametrize("module", ["tests.no_such_module", "tests.videos"])
def test_a_child_that_cannot_start_is_no_videos_fault(good, module, tmp_path):
    table = pa.Table.from_pylist(
        [{"video_id": "a", "uri": str(good), "split": "train", "captions": []}], schema=MANIFEST
    )
    output = open_output(tmp_path / "out", table, RECIPE)
    with Decoder(module) as decoder, pytest.raises(RunError, match="could not be started"):
        process_unit(output, 0, decoder)
    assert read_ledger(output, 0) is None


def test_importing_the_child_loads_no_framework():
    code = (
        "import sys, pipelines.decode.isolated.decode_worker\n"
        "print([m for m in ('ray', 'torch', 'mlflow', 'pyarrow', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


# The unit


def test_neighbours_of_broken_videos_are_stored_as_if_alone(tmp_path, good):
    names = ["a", "segfault-1", "b", "spin", "allocate", "c", "say", "d"]
    for name in names:
        if len(name) == 1:
            make_video(tmp_path / f"{name}.mp4", frames=40 + ord(name) % 7)
        else:
            shutil.copy(good, tmp_path / f"{name}.mp4")

    def manifest(kept):
        rows = [
            {"video_id": n, "uri": str(tmp_path / f"{n}.mp4"), "split": "train", "captions": []}
            for n in names
            if kept(n)
        ]
        return pa.Table.from_pylist(rows, schema=MANIFEST)

    disturbed = open_output(tmp_path / "disturbed", manifest(lambda _: True), RECIPE)
    alone = open_output(tmp_path / "alone", manifest(lambda n: len(n) == 1), RECIPE)
    with Decoder(CRASHING) as decoder:
        assert process_unit(disturbed, 0, decoder).failed == 4
        assert process_unit(alone, 0, decoder).failed == 0
    rows, _ = read_ledger(disturbed, 0)
    assert {row["video_id"]: (row["reason"], row["attempts"]) for row in rows if row["reason"]} == {
        "segfault-1": ("crashed", 2), "spin": ("timeout", 1), "allocate": ("memory", 2),
        "say": ("crashed", 2),
    }  # fmt: skip
    one, other = (pa.ipc.open_file(o.shards / "unit-000000-00.arrow").read_all() for o in (disturbed, alone))
    assert one.equals(other)
