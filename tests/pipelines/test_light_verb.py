"""`splatmend light`: what can be refused at once is refused before a scene is looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from splatmend.pipelines.cli import main


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--sun", "10", "95"], "does not shine"),
        (["--sun", "nan", "30"], "does not shine"),
        (["--hdr-scale", "2"], "give --hdr as well"),
        (["--east-deg", "5"], "give --time, --latitude and --longitude"),
        (["--recorded-sun", "10", "0"], "does not shine"),
        (["--recorded-sun", "10", "40", "--hdr", "a.hdr"], "a panorama both say"),
        (
            ["--recorded-sun", "10", "40", "--time", "2011-09-26T13:02:25+02:00", "--latitude", "49", "--longitude", "8"],
            "--recorded-sun and --time both say",
        ),
        (["--time", "2011-09-26T13:02:25+02:00"], "give all three or none"),
    ],
)
def test_contradictions_are_one_sentence(words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["light", str(tmp_path / "scene"), "--out", str(tmp_path / "light"), *words]) == 2
    complaint = capsys.readouterr().err.strip()
    assert says in complaint
    assert len(complaint.splitlines()) == 1
    assert not (tmp_path / "light").exists()
