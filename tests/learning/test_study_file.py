from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from learning.small import STUDY, write_study

from smoes_sim.errors import ConfigError
from smoes_sim.learning.study_file import load_study, study_names


def test_every_shipped_study_loads() -> None:
    assert "tiny-vlm" in study_names()
    for name in study_names():
        assert load_study(name).trained()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("trained_as: standard", "trained_as: standart", 'trained_as = "standart" is not trained. Did you mean "standard"?'),
        ("second: standard", "second: standerd", 'claims names the variant "standerd". Did you mean "standard"?'),
        ("ranks: [2, 4]", "ranks: [2, 3]", "model.experts = 8 does not divide by 3"),
        ("hidden: 16", "hidden: 17", "hidden = 17 does not divide over heads = 2"),
        ("score: attention, ", "", "score and divergence_weight go together"),
        ("{layer: dense_active}", "{layer: dense_active, smar_weight: 0.1}", "layer = dense_active has no router"),
        ("skip: modes_like", "skip: modes_like, balance: 0.1", "balance cannot be set beside trained_as"),
        ("steps: 6", "step: 6", 'unknown key "step". Did you mean "steps"?'),
        ("  test:", "  tests:", 'sets has no "test"'),
    ],
)
def test_broken_studies_say_where_and_what(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in STUDY
    path = write_study(tmp_path, STUDY.replace(old, new, 1))
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load_study(str(path))
    assert str(caught.value).startswith(f"{path}:")


def test_an_unknown_study_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r'study "tiny-vml" is neither shipped nor a file\. Did you mean "tiny-vlm"\?'):
        load_study("tiny-vml")


def test_fingerprints_follow_what_weights_and_results_depend_on(tmp_path: Path) -> None:
    path = str(write_study(tmp_path))
    base = load_study(path)
    for change, trains_again, measures_again in (
        ("training.checkpoint_every=3", False, False),
        ("accuracy_questions=5", False, True),
        ("variants.standard.experts=bins", False, True),
        ("training.steps=7", True, True),
        ("variants.standard.balance=0.5", True, True),
        ("variants.smoes.balance=0.5", False, False),
    ):
        other = load_study(path, [change])
        assert (other.fingerprint("standard", 0) != base.fingerprint("standard", 0)) == trains_again, change
        assert (other.measured_fingerprint("standard", 0) != base.measured_fingerprint("standard", 0)) == measures_again, (
            change
        )
    assert base.fingerprint("standard", 0) != base.fingerprint("standard", 1)


def test_judging_and_printing_a_study_needs_no_torch() -> None:
    modules = "cli.app, learning.measures, learning.trained_study, learning.charts"
    imports = "; ".join(f"import smoes_sim.{name.strip()}" for name in modules.split(","))
    check = "import sys; assert not {'torch', 'safetensors'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", f"{imports}; {check}"], check=True)
