"""An index of toy videos with real files, hostile names and clips of one file, to be served in tests."""

from __future__ import annotations

from gare.api.search import index
from tests import toy
from tests.page import HOSTILE
from tests.videos import make_video

NASTY = HOSTILE.replace("\ud800 ", "")
"""An id, a value and a file name at once; Arrow's texts hold no halves of pairs."""

SECONDS = 4.0
CLIPS = ("long@00000.000-00001.000", "long@00001.000-00002.000", "long@00002.000-end")


def make_served(folder, clip, **how):
    """Index 12 videos below ``folder``: train0 is a playable file, train1 is nasty and gone, train2 an avi, train3 to 5
    are clips of one file, and the others are gone."""
    videos = folder / "videos"
    videos.mkdir(parents=True)
    make_video(videos / "play.mp4", frames=int(15 * SECONDS), options={"pix_fmt": "yuv420p"})
    make_video(videos / "long.mp4", frames=int(15 * SECONDS))
    make_video(videos / "old.avi", frames=15, codec="mpeg4")

    def change(row):
        n = int(row["video_id"].removeprefix("train"))
        row["attributes"] = [*row["attributes"], ("n", str(n % 2))]
        row["source_codec"] = "mpeg4" if n == 2 else "h264"
        if n == 1:
            row["video_id"], row["attributes"] = NASTY, [("colour", NASTY), (NASTY, "yes")]
            row["uri"] = str(videos / f"{NASTY.replace('/', '_')}.mp4".replace("\0", ""))
        elif n in (3, 4, 5):
            row["video_id"], row["uri"] = CLIPS[n - 3], str(videos / "long.mp4")
            row["attributes"].append(("source", "long"))
            row["timestamps_s"] = [float(n - 3) + 0.25 * k for k in range(len(row["frames"]))]
        else:
            row["uri"] = str(videos / {0: "play.mp4", 2: "old.avi"}.get(n, f"gone{n}.mp4"))

    shards = toy.make_shards(folder / "shards", {"train": 12}, change=change)
    toy.make_checkpoint(folder / "checkpoint", clip, shards)
    return index(folder / "checkpoint", shards, "train", out=folder / "index", **how)
