from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from learning.small import write_study

from smoes_sim.errors import ConfigError
from smoes_sim.learning.study_file import Study, load_study
from smoes_sim.learning.unit_result import folder_of, known_training_seconds, read_result, write_result


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return load_study(str(write_study(tmp_path)))


def stored(study: Study, name: str = "smoes") -> dict[str, object]:
    """What version 0.1 wrote for seed 0."""
    traffic = {"transmission_rate": 0.5, "transmission_rate_vision": 0.25, "transmission_rate_text": None}
    place = {"ranks": 2, "experts": "bins", "tokens": "modality"}
    test = {
        "accuracy": 0.5,
        "tokens": 10,
        "vision_share": 0.5,
        "experts_per_token": 2.0,
        "msi": 0.25,
        "msi_per_layer": [0.25],
    }
    test |= {"expert_imbalance": 1.5, "text_share": [[0.5, None]]}
    test |= {"placements": [{**place, **traffic, "copies_per_token": 0.5, "bytes_remote": 640, "imbalance": 1.0}]}
    head = {"fingerprint": study.measured_fingerprint(name, 0), "seed": 0, "parameters": 99, "train_cpu_seconds": 1.5}
    scores = {"accuracy": 0.5, "language_accuracy": None, "bits_per_byte": 2.0}
    return {**head, **scores, "sets": {"test": test if name != "dense" else {"accuracy": 0.5}}}


def write(out: Path, name: str, content: object) -> Path:
    folder = folder_of(out, name, 0)
    folder.mkdir(parents=True)
    (folder / "result.json").write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
    return folder


@pytest.mark.parametrize("name", ["smoes", "dense"])
def test_a_stored_result_opens_and_is_written_with_the_same_bytes(study: Study, tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, name, stored(study, name))
    before = (folder / "result.json").read_bytes()
    result = read_result(tmp_path, study, name, 0)
    assert result is not None
    assert result.has_router == (name == "smoes")
    if result.has_router:
        assert result.routed().traffic(experts="bins", tokens="modality", ranks=2).bytes_remote == 640
    else:
        with pytest.raises(ConfigError, match=r"seed 0, set test: the model is dense and routes nothing"):
            result.routed()
    write_result(result, folder)
    assert (folder / "result.json").read_bytes() == before


def test_a_result_of_other_settings_only_tells_the_training_time(study: Study, tmp_path: Path) -> None:
    folder = write(tmp_path, "smoes", {"fingerprint": "older", "train_cpu_seconds": 1.5, "unknown": 1})
    assert read_result(tmp_path, study, "smoes", 0) is None
    assert known_training_seconds(folder) == 1.5


def test_a_damaged_result_is_refused_with_its_place(study: Study, tmp_path: Path) -> None:
    damaged = stored(study) | {"accuracy": "high"}
    folder = write(tmp_path, "smoes", damaged)
    with pytest.raises(ConfigError, match=r"smoes-0/result\.json: accuracy: .* Delete the file; it is measured again"):
        read_result(tmp_path, study, "smoes", 0)
    for content in (b"{", b"[]"):
        (folder / "result.json").write_bytes(content)
        with pytest.raises(ConfigError, match=r"smoes-0/result\.json: (cannot be read|is not a JSON object)"):
            read_result(tmp_path, study, "smoes", 0)
