"""``gare prepare``: from a manifest to Arrow shards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import click

from gare.cli.command import config_options, gare_command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gare.jobs.places import Place
    from pipelines.prepare.job import Job, PrepareReport, Progress


@gare_command("prepare", short_help="Decode and sample videos into Arrow shards.")
@click.argument("manifest")
@click.option("--out", required=True, help="Folder or address (s3://...) of the shards and the ledger.")
@click.option(
    "--config",
    "config_file",
    type=click.Path(),
    help="A YAML file of settings; see prepare.*, runtime.decode_workers and runtime.decode_on.",
)
@click.option("--retry-failed", is_flag=True, help="Decode the videos that failed before once more.")
@click.option(
    "--changed",
    type=click.Choice(["refuse", "redo", "ignore"]),
    default="refuse",
    show_default=True,
    help="Videos whose source was changed since: stop and say so, decode them again, or do not look.",
)
@click.option("--local", is_flag=True, help="Decode on this machine alone, without Ray: for small jobs.")
@config_options
def prepare(
    manifest: str,
    out: str,
    config_file: str | None,
    retry_failed: bool,
    changed: Literal["refuse", "redo", "ignore"],
    local: bool,
    overrides: tuple[str, ...],
) -> dict[str, Any]:
    """Decode and sample the videos of MANIFEST into Arrow shards, with a ledger row for every one.

    The same command goes on where an interrupted one stopped, and adds the rows that are new in MANIFEST. A video that
    cannot be decoded is a row of the ledger (OUT/ledger/*.parquet) with the reason; it never stops the job.

    \b
    Examples:
      gare prepare manifest.parquet --out shards
      gare prepare manifest.parquet --out shards --local
      gare prepare manifest.parquet --out shards --set prepare.max_frames=16 --set prepare.storage=jpeg
      gare prepare manifest.parquet --out s3://bucket/shards --retry-failed
    """
    from contextlib import nullcontext

    from gare.cli.ray_session import ray_session
    from gare.common.console import meter
    from gare.config.tree import load_config
    from pipelines.prepare import job as shards

    config = load_config(config_file, overrides)
    # Before Ray starts: what cannot be used is known at once, and a finished folder needs no Ray.
    opened = shards.open_job(manifest, out, config.prepare, retry_failed=retry_failed, changed=changed)
    with opened as job:
        _say(job)
        with_ray = job.todo and not local
        session = ray_session(config.runtime, places=_places(job, out)) if with_ray else nullcontext()
        with session, meter("videos", job.rows, start=job.rows - job.rows_todo) as progress:

            def show(state: Progress) -> None:
                progress.update(state.done, f"{state.failed} failed")

            own = config.runtime
            report = shards.run_job(
                job, workers=own.decode_workers, decode_on=own.decode_on, on_progress=show, local=local
            )
    _print(report)
    return {
        "out": str(report.out), "totals": report.totals, "splits": report.splits, "videos": report.videos,
        "units_skipped": report.units_skipped, "seconds": report.seconds, "videos_per_s": report.videos_per_s,
    }  # fmt: skip


def _places(job: Job, out: str) -> Iterator[Place]:
    """The output folder, and a few of the videos to decode: the first and last of the first and last unit."""
    from gare.jobs.places import Place

    yield Place("--out", out, "output")
    for unit in dict.fromkeys((job.todo[0].unit, job.todo[-1].unit)):
        uris = job.output.batch(unit)["uri"]
        for uri in (uris[0].as_py(), uris[-1].as_py()):
            yield Place("a video of the manifest", uri, "input")


def _say(job: Job) -> None:
    from gare.common.console import note

    if job.added and job.added < job.rows:
        note(f"{job.added} of {job.rows} videos are new in the manifest; they add shards to those that are there.")
    if job.again:
        note(f"{job.again} videos are decoded again.")


def _print(report: PrepareReport) -> None:
    from gare.common.console import note, print_table

    totals = report.totals
    rows: list[list[object]] = [["ok", totals["ok"]]]
    for status in ("filtered", "failed"):
        rows += [[f"{status} ({reason})", count] for reason, count in totals[status].items()]
    print_table(f"Shards {report.out}", ["outcome", "videos"], rows)
    note(
        f"{report.videos} videos in {report.seconds:.1f} s ({report.videos_per_s:.1f}/s), "
        f"{totals['frames']} frames, {totals['bytes'] / 1e6:.1f} MB"
        + (f"; {report.units_skipped} units were finished before" if report.units_skipped else "")
    )
