"""The command line: finds the verb, turns arguments into its options, and faults into one sentence and an exit code.

A verb's module (and the package of readers, numpy and torch that comes with it) is imported only when it is called, so that
`splatmend --help` answers at once.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from splatmend.pipelines.missing_modules import INSTALL, missing_module

VERBS = {
    "demo": "The whole chain on a procedural street: scene, lane shift, enhancement, scores, report.",
    "log": "Say what a driving log holds and check it.",
    "street": "Make a procedural street with its drive, LiDAR and labels as a log folder.",
    "collage": "Make a scene of cut-out photos standing in space, with its pictures and poses, as a log folder.",
    "fit": "Fit a scene of Gaussians to a log.",
    "refine": "Improve a scene off its path with its own enhanced renders.",
    "light": "Say what lights a scene: its sun, and the environment around it.",
    "render": "Render a scene along a trajectory into a clip.",
    "insert": "Remove, move, swap, copy and insert actors as a file says, and render the scene.",
    "pairs": "Make pairs of degraded and true clips for training.",
    "train": "Train an enhancer (or its autoencoder) on pairs.",
    "enhance": "Remove artefacts from a rendered clip.",
    "evaluate": "Score clips against the truth.",
    "locality": "Measure how far back in time a decoder's gradients must reach.",
    "report": "Put a run's pictures, scores and times into one HTML file.",
    "export": "Write a scene's Gaussians to a PLY file.",
    "import": "Make a scene of a PLY file of Gaussians.",
    "assets": "Keep a library of vehicles: harvest them from scenes, import meshes, list, export.",
    "run": "Run a recipe: demo, kitti-raw, kitti-odometry, photos, waymo.",
    "doctor": "Say what works on this machine and what to do about the rest.",
}
_MODULES = {"import": "import_ply"}
SHARED_VERBS = ("fit", "train", "doctor")
"""Verbs that processes launched together do together, or may do side by side."""
RESUMED_VERBS = ("fit", "refine", "pairs", "train", "run")
"""Verbs that go on where they were interrupted."""
USER_FAULT = 2
INTERRUPTED = 130
UNHEARD = 141
"""As shells count a process that writes into a pipe which nobody reads: its work may be half done."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 a fault that the user can mend, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [word for word in arguments if word != "--debug"]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else USER_FAULT
    if arguments[0] == "--version":
        from splatmend import __version__

        print(f"splatmend {__version__}")
        return 0
    try:
        return _run_verb(arguments[0], arguments[1:])
    except SystemExit as end:  # tyro ends the process itself after --help and after wrong arguments
        return end.code if isinstance(end.code, int) else USER_FAULT
    except KeyboardInterrupt as stop:
        if debug:
            raise
        _complain(_interruption(arguments, stop))
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (head, less) has gone: say nothing, and keep the interpreter from flushing into it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNHEARD
    except Exception as fault:
        sentence = sentence_for(fault, _output_of(arguments))
        if debug or sentence is None:
            raise
        _complain(sentence)
        return USER_FAULT


def _interruption(arguments: Sequence[str], stop: KeyboardInterrupt) -> str:
    from splatmend.datasets.artifact import partial_folder
    from splatmend.datasets.interruption import PutAway

    verb = arguments[0]
    if isinstance(stop, PutAway):
        return f"interrupted; {stop}, where --resume goes on (run does so by itself)."
    if verb not in RESUMED_VERBS:
        return "interrupted."
    partial = partial_folder(Path(_output_of(arguments)))
    if verb == "pairs" and partial.is_dir():
        return f"interrupted; what was made so far lies in {partial}, where --resume goes on."
    return (
        "interrupted without a checkpoint of this moment; from an earlier one, if there is any, --resume goes on (run does so by itself)."
    )


def _run_verb(verb: str, arguments: list[str]) -> int:
    from splatmend.datasets.errors import UserError

    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the verbs are {', '.join(VERBS)}."
        raise UserError(f"{verb}: there is no such verb; {hint}")
    refuse_company(verb)
    import tyro

    module = importlib.import_module(f"splatmend.pipelines.commands.{_MODULES.get(verb, verb)}")
    if hasattr(module, "parse"):
        return int(module.run(module.parse(arguments)) or 0)
    options = tyro.cli(module.Options, prog=f"splatmend {verb}", description=VERBS[verb], args=arguments)
    return int(module.run(options) or 0)


def refuse_company(verb: str) -> None:
    """`UserError` where several processes were launched for a verb that they would do several times over, into the same files."""
    from splatmend.datasets.errors import UserError
    from splatmend.datasets.launch import launched_count

    if launched_count() > 1 and verb not in SHARED_VERBS:
        raise UserError(
            f"{verb}: it is the work of one process, but {launched_count()} were launched together; start it without torchrun or "
            "accelerate launch."
        )


def usage() -> str:
    """The text of `splatmend --help`."""
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {what}" for verb, what in VERBS.items()]
    return "\n".join(
        [
            "usage: splatmend VERB [options]      (splatmend VERB --help says more)",
            "",
            "Driving log to Gaussian splats to new trajectories, mended by a one-step video model.",
            "",
            *lines,
            "",
            "  --version  the version; --debug after any verb shows where a fault came from",
        ]
    )


def sentence_for(fault: BaseException, output: str = "the output") -> str | None:
    """The one sentence for a fault that the user can mend; None for any other. Libraries wrap what the system said, so causes count.

    `output` is named where the system does not say which file it could not write.
    """
    if (module := missing_module(fault)) is not None:
        # First, for what follows imports numpy and more.
        return f"the Python module {module} is not installed; {INSTALL}."
    from splatmend.datasets.disk_faults import disk_sentence
    from splatmend.datasets.errors import UserError

    cause: BaseException | None = fault
    while cause is not None:
        if isinstance(cause, UserError):
            return " ".join(str(cause).split())
        about_disk = disk_sentence(cause, output)
        if about_disk is not None:
            return about_disk
        kinds = [kind.__name__ for kind in type(cause).__mro__]
        if "DecoderMemoryError" in kinds:
            return str(cause)
        if "OutOfMemoryError" in kinds:
            return "the accelerator's memory is full; use smaller pictures, fewer Gaussians or a shorter window."
        if isinstance(cause, MemoryError):
            return "the memory is full; use smaller pictures, fewer Gaussians or a shorter window."
        cause = cause.__cause__ or cause.__context__
    return None


def _output_of(arguments: Sequence[str]) -> str:
    """What a command was to write, by its words."""
    for word, following in zip(arguments, [*arguments[1:], ""]):
        if word.startswith("--out="):
            return word.removeprefix("--out=")
        if word == "--out" and following:
            return following
    return "the output"


def _complain(sentence: str) -> None:
    print(f"splatmend: {sentence}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
