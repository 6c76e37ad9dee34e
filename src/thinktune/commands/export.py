"""The verb export: what was made, how large it is, and how it answered, as lines."""

from collections.abc import Iterator
from math import isfinite
from pathlib import Path

from thinktune.checkpoint import model_warning
from thinktune.export import find_source
from thinktune.export.export import Exported, export_model
from thinktune.export.targets import find_targets
from thinktune.export.verification import Verification
from thinktune.progress import Say
from thinktune.run.environment import shell_command

SHOWN_FILES = 4  # the largest
DIGEST_CHARACTERS = 16


def export_run(run: Path, names: list[str], to: Path | None, say: Say, warn: Say) -> None:
    """Export the model of a run or a model folder, and print what was made; `warn` is told what a reader must know."""
    source = find_source(run)
    targets = find_targets(source, names)
    if warning := model_warning(run):
        warn(warning)
    for exported in export_model(source, targets, to, say):
        for line in describe_export(exported):
            say(line)
    if any(target.name == "hf" for target in targets) and source.run is not None and to is None:
        say(f"next:   {shell_command('chat', source.run.exports / 'hf')}")


def describe_export(exported: Exported) -> Iterator[str]:
    """Yield the lines about one export."""
    facts, seconds = exported.facts, exported.facts["seconds"]
    yield f"{exported.target.name}: {exported.folder} ({_size(facts['bytes'])})"
    largest = sorted(facts["files"].items(), key=lambda each: -int(each[1]["bytes"]))
    for name, entry in largest[:SHOWN_FILES]:
        yield f"  {name}  {_size(entry['bytes'])}  sha256 {entry['sha256'][:DIGEST_CHARACTERS]}…"
    if len(largest) > SHOWN_FILES:
        yield f"  and {len(largest) - SHOWN_FILES} smaller files; all digests are in export.json"
    if exported.check:
        yield from _describe_check(exported.check, exported.target.engine)
        yield f"  written in {seconds['writing']:.0f} s, checked in {seconds['checking']:.0f} s"
    else:
        yield f"  NOT CHECKED: {exported.target.unchecked}"
        yield f"  written in {seconds['writing']:.0f} s"
    if exported.finished:
        yield f"  {exported.finished}"
    for note in exported.target.notes:
        yield f"  note: {note}"


def _describe_check(check: Verification, engine: str) -> Iterator[str]:
    bundled = check.questions - check.held_out
    kinds = [f"{count} {kind}" for count, kind in ((check.held_out, "held-out"), (bundled, "bundled")) if count]
    yield (
        f"  asked in {engine}: {check.equal} of {check.questions} greedy replies equal to the model's "
        f"({' and '.join(kinds)} questions); mean KL {check.kl:.1g} nats a token, of which rounding explains "
        f"{check.kl_limit:.1g}"
    )
    if check.first:
        apart = f", where the model's two best are {check.first.gap:.2g} apart" if isfinite(check.first.gap) else ""
        yield f"  first difference: {check.first.question!r} at token {check.first.position}{apart}"
        yield f"    the model {check.first.ours!r}, here {check.first.theirs!r}"
    other = f"the prompts of {check.other_mode} in the other mode are equal too" if check.other_mode else ""
    ends = (
        f"it stops where the model stops ({check.ends} times)"
        if check.ends
        else "no reply ended, so stops were not tested"
    )
    yield f"  {'; '.join(filter(None, [other, ends]))}"


def _size(size_bytes: int) -> str:
    value, unit = float(size_bytes), "bytes"
    for larger in ("KiB", "MiB", "GiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.1f} {unit}" if unit != "bytes" else f"{size_bytes} bytes"
