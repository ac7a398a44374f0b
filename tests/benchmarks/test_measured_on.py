"""What a benchmark says it was measured on."""

from __future__ import annotations

import importlib

import pytest

from splatmend.pipelines.code_state import CodeState


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (CodeState(version="1"), "unknown"),
        (CodeState(version="1", commit="0123456789abcdef"), "0123456789ab"),
        (CodeState(version="1", commit="0123456789abcdef", changed=True), "0123456789ab+"),
    ],
)
def test_the_commit_is_that_of_the_checkout_unless_given(state: CodeState, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    measured_on = importlib.import_module("measured_on")
    monkeypatch.setattr(measured_on, "code_state", lambda: state)
    facts = measured_on.environment(("torch", "no-such-package"), cuda=False)
    assert facts["commit"] == said
    assert facts["torch"] is not None
    assert facts["no-such-package"] is None
    assert measured_on.environment((), cuda=False, commit="abc")["commit"] == "abc"
