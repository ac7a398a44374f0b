"""The command line with wrong input: exit code 2, one sentence on standard error, nothing left behind."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from splatmend.datasets.artifact import Manifest, building
from splatmend.datasets.clip import ClipWriter
from splatmend.datasets.interruption import PutAway
from splatmend.enhance.decoder.advice import DecoderMemoryError
from splatmend.pipelines import cli
from splatmend.pipelines.cli import VERBS, main, sentence_for
from splatmend.pipelines.commands.fit import print_scene


def write_clip(out: Path, frames: int = 3) -> Path:
    with building(out, manifest := Manifest(kind="clip", config={})) as partial, ClipWriter(partial) as writer:
        for index in range(frames):
            writer.write(np.random.default_rng(index).random((48, 64, 3)))
        manifest.facts = writer.facts
    return out


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip")


def complaint(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """The one sentence of a command that must fail with exit code 2."""
    assert main([str(word) for word in argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith("splatmend: ")
    assert error.count("\n") == 1, error
    assert "Traceback" not in error
    return error


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_scene_says_that_nothing_was_held_out_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, held_out, said in (
        ("a", {}, "held-out frames: none"),
        ("b", {"frames": 3, "psnr": 20.0}, "held-out frames (3): psnr 20.000"),
    ):
        facts = {"gaussians": {"background": 5, "actors": {}}, "held_out": held_out}
        with building(tmp_path / name, Manifest(kind="scene", config={}, facts=facts)):
            pass
        print_scene(tmp_path / name)
        assert said in capsys.readouterr().out.splitlines()[-1]


def test_help_names_every_verb_and_every_verb_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {verb} " in text for verb in VERBS)
    assert main([]) == 2
    assert main(["--version"]) == 0
    capsys.readouterr()
    for verb in VERBS:
        assert main([verb, "--help"]) == 0, verb
        assert "usage" in capsys.readouterr().out.lower()


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    code = "import sys; from splatmend.pipelines.cli import main; main(['--help']); print(*sys.modules)"
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.perf_counter() - started < 5.0  # 0.2 s alone; the machine that runs this may be busy
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & {"torch", "numpy", "cv2", "diffusers", "scipy", "numba"}


def test_checking_an_output_imports_no_writer() -> None:
    code = "import sys, splatmend.pipelines.commands.output; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"plyfile", "numba", "cv2", "splatmend.datasets.collage"}


def test_unknown_verb_and_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean fit?" in complaint(capsys, "fti", "x")
    assert main(["evaluate", "--no-such-flag"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_missing_paths(capsys: pytest.CaptureFixture[str], tmp_path: Path, clip: Path) -> None:
    absent = tmp_path / "absent"
    before = left(tmp_path)
    assert "absent" in complaint(capsys, "log", absent)
    assert "absent" in complaint(capsys, "fit", absent, "--out", tmp_path / "scene")
    assert "absent" in complaint(capsys, "render", absent, "--out", tmp_path / "out")
    assert "absent" in complaint(capsys, "evaluate", clip, "--truth", absent, "--out", tmp_path / "scores")
    assert "absent" in complaint(capsys, "evaluate", absent, "--truth", clip, "--out", tmp_path / "scores")
    assert "absent" in complaint(capsys, "run", "kitti-raw", absent, "--out", tmp_path / "run", "--model", "none")
    assert "absent" in complaint(capsys, "run", "kitti-raw", clip, "--out", tmp_path / "run", "--model", absent)
    assert "needs a log" in complaint(capsys, "run", "waymo", "--out", tmp_path / "run", "--model", "none")
    assert "no finished run" in complaint(capsys, "report", absent, "--out", tmp_path / "page")
    assert "nothing to show" in complaint(capsys, "report", "--out", tmp_path / "page")
    assert "absent" in complaint(capsys, "export", absent, "--out", tmp_path / "x.ply")
    assert left(tmp_path) == before


def test_wrong_kind_unknown_version_and_broken_files(capsys: pytest.CaptureFixture[str], tmp_path: Path, clip: Path) -> None:
    before = left(tmp_path)
    assert "a render is a folder with its cameras" in complaint(capsys, "render", clip, "--out", tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()
    assert "of the kind clip, but scene is needed" in complaint(capsys, "render", clip, "--out", tmp_path / "out")
    manifest = json.loads((clip / "manifest.json").read_text())
    (clip / "manifest.json").write_text(json.dumps(manifest | {"format_version": 99}))
    assert "format version 99" in complaint(capsys, "evaluate", clip, "--truth", clip, "--out", tmp_path / "scores")
    (clip / "manifest.json").write_text("{ not json")
    assert "not valid JSON" in complaint(capsys, "evaluate", clip, "--truth", clip, "--out", tmp_path / "scores")
    (clip / "manifest.json").write_text(json.dumps(manifest))
    (clip / "cameras.jsonl").write_text('{"frame": 0}\n')
    assert "list of cameras" in complaint(capsys, "evaluate", clip, "--truth", clip, "--out", tmp_path / "scores")
    assert left(tmp_path) == before


def test_truncated_frame_in_the_middle_leaves_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path, clip: Path) -> None:
    truth = write_clip(tmp_path / "truth")
    frame = clip / "frames" / "000001.png"
    frame.write_bytes(frame.read_bytes()[:200])
    before = left(tmp_path)
    assert "000001.png" in complaint(capsys, "evaluate", clip, "--truth", truth, "--out", tmp_path / "scores")
    assert left(tmp_path) == before


def test_existing_output_is_kept_unless_overwrite(capsys: pytest.CaptureFixture[str], tmp_path: Path, clip: Path) -> None:
    out = tmp_path / "scores"
    arguments = ["evaluate", str(clip), "--truth", str(clip), "--out", str(out), "--metrics", "psnr"]
    assert main(arguments) == 0
    before = (out / "scores.json").stat().st_mtime_ns
    assert "--overwrite" in complaint(capsys, *arguments)
    assert (out / "scores.json").stat().st_mtime_ns == before
    assert main([*arguments, "--overwrite"]) == 0
    assert (out / "scores.json").stat().st_mtime_ns != before
    for verb in (["fit", "x"], ["render", "x"], ["street"], ["export", "x"]):
        target = out if verb[0] != "export" else write_file(tmp_path / "x.ply")
        assert "--overwrite" in complaint(capsys, *verb, "--out", target)


def write_file(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def test_settings_out_of_range(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "duration" in complaint(capsys, "street", "--out", tmp_path / "street", "--duration-s", "0")
    assert "strength" in complaint(capsys, "run", "demo", "--out", tmp_path / "run", "--strength", "2")
    assert left(tmp_path) == set()


def test_an_output_that_cannot_be_written_is_refused_before_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    for verb in ("fit", "enhance", "export", "evaluate"):
        extra = ["--truth", "y"] if verb == "evaluate" else []
        out = tmp_path / "new" / "x.ply"
        assert f"{out}: {tmp_path} cannot be written to" in complaint(capsys, verb, "absent", *extra, "--out", out)


def test_output_below_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path, clip: Path) -> None:
    blocker = write_file(tmp_path / "file")
    assert "file" in complaint(capsys, "evaluate", clip, "--truth", clip, "--out", blocker / "scores", "--metrics", "psnr")


def test_faults_become_sentences() -> None:
    full = OSError(28, "No space left on device", "/data/x")
    assert "/data/x: the disk is full" in str(sentence_for(full))
    wrapped = RuntimeError("writer failed")
    wrapped.__cause__ = full
    assert "disk is full" in str(sentence_for(wrapped))
    assert "memory is full" in str(sentence_for(MemoryError()))
    import torch

    assert "accelerator's memory" in str(sentence_for(torch.OutOfMemoryError("CUDA out of memory")))
    assert sentence_for(DecoderMemoryError("take memory='small'.")) == "take memory='small'."
    assert sentence_for(ValueError("a bug")) is None
    assert "/ro/x: it lies on a read-only file system" in str(sentence_for(OSError(30, "Read-only file system", "/ro/x")))
    assert "/proc/x: there is no such file or folder" in str(sentence_for(FileNotFoundError(2, "No such file or directory", "/proc/x")))
    assert sentence_for(OSError(13, "Permission denied")) is None  # of a socket, perhaps


@pytest.mark.parametrize("arguments", [["--out", "some/where"], ["--out=some/where"]])
def test_a_full_disk_without_a_name_is_the_output(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(verb: str, arguments: list[str]) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cli, "_run_verb", full)
    assert complaint(capsys, "fit", *arguments).startswith("splatmend: some/where: the disk is full")


def test_a_read_only_target_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def refuse(path: Path, mode: int = 0o777) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr("os.mkdir", refuse)
    for verb in (["street"], ["pairs", "street:1", "--street.width", "64", "--street.height", "48"]):
        assert "read-only file system" in complaint(capsys, *verb, "--out", tmp_path / "x").lower()


def test_bugs_are_not_hidden_and_interrupts_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def bug(verb: str, arguments: list[str]) -> int:
        raise ValueError("a bug")

    def interrupt(verb: str, arguments: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run_verb", bug)
    with pytest.raises(ValueError, match="a bug"):
        main(["fit"])
    monkeypatch.setattr(cli, "_run_verb", interrupt)
    assert main(["fit"]) == 130
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "without a checkpoint of this moment" in said
    assert main(["render"]) == 130
    assert capsys.readouterr().err == "splatmend: interrupted.\n"
    (tmp_path / "made.partial").mkdir()
    assert main(["pairs", "log", "--out", str(tmp_path / "made")]) == 130
    said = capsys.readouterr().err
    assert said == f"splatmend: interrupted; what was made so far lies in {tmp_path / 'made.partial'}, where --resume goes on.\n"

    def put_away(verb: str, arguments: list[str]) -> int:
        raise PutAway(Path("scene.partial") / "checkpoint.pt", "iteration 850")

    monkeypatch.setattr(cli, "_run_verb", put_away)
    assert main(["fit"]) == 130
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "checkpoint.pt holds iteration 850, where --resume goes on" in said


def test_a_missing_package_is_one_sentence_and_a_missing_module_of_ours_a_traceback() -> None:
    """In a process of its own, where nothing has been imported yet."""
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == sys.argv[1]:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from splatmend.pipelines.cli import main\n"
        "sys.exit(main(sys.argv[2:]))\n"
    )

    def run(absent: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code, absent, *arguments], capture_output=True, text=True, check=False)

    for absent in ("tyro", "numpy", "psutil"):
        done = run(absent, "doctor")
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith(f"splatmend: the Python module {absent} is not installed; run 'pip install .'")
        assert done.stderr.count("\n") == 1
    done = run("splatmend.pipelines.commands.doctor", "doctor")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_real_process_has_the_exit_code_and_debug_shows_the_place(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "splatmend.pipelines.cli", "log", str(tmp_path / "absent")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    done = subprocess.run([*command, "--debug"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="the system has no limit on file sizes")
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path, clip: Path) -> None:
    """A limit on the size of files stands in for a full disk: the system refuses the same write with another number."""
    code = (
        "import resource, sys; from splatmend.pipelines.cli import main; from splatmend.pipelines.commands import evaluate; "
        "from splatmend.pipelines.evaluation import metrics, scores, truth; "  # compiled code may still be written by these
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300)); sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["evaluate", str(clip), "--truth", str(clip), "--out", str(tmp_path / "scores"), "--metrics", "psnr"]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2, done.stderr
    assert "the disk is full" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert left(tmp_path) == {"clip"}


def test_output_that_nobody_reads_is_no_success() -> None:
    """Work may be half done where the reader has gone."""
    read, write = os.pipe()
    os.close(read)
    program = (
        "from splatmend.pipelines import cli\n"
        "cli._run_verb = lambda verb, arguments: print('one pair', flush=True) or 0\n"
        "raise SystemExit(cli.main(['pairs']))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert done.returncode == 141
    assert done.stderr == b""
